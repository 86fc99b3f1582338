// Everything around the song: buttons, page-wide keys, messages, dropped files, and whether the server answers.

const MESSAGE = 12_000; // ms that an error is shown
const HEARTBEAT = 3_000; // ms
const BUTTONS = ["infill", "cancel", "keep", "alike", "star", "throw", "undo", "redo"]; // Gradio's, by their ids
const serverSide = { away: null, id: null }; // away: the line that says so
let forgetting = 0;

const isShown = () => root.isConnected && root.offsetParent !== null;
const pageButton = (name) => document.getElementById(`mr-${name}`);

// Disables buttons that cannot act. A disabled button that had the focus passes it to the song, where the keys work.
function enableButtons() {
  const here = !serverSide.away, song = !!model.song, marked = song && model.cells.size > 0;
  const candidate = here && !model.running && model.chosen >= 0;
  enable({
    infill: here && marked, cancel: here && model.running, keep: candidate, alike: candidate, star: candidate, throw: candidate,
    undo: here && !model.running && model.undo, redo: here && !model.running && model.redo,
  }, pageButton);
  enable({
    play: song, loop: marked || player.loop, save: here && song, clear: marked && !model.running, tall: song, out: song, in: song,
    fit: song, mark: song,
  }, (name) => find(`[data-do="${name}"]`));
  for (const [name, what] of [["undo", model.undo], ["redo", model.redo]]) {
    const button = pageButton(name);
    if (button) button.title = `${what || "nothing"} (Ctrl+${name === "undo" ? "Z" : "Y"})`;
  }
  const liked = model.candidates[model.chosen]?.liked || 0;
  for (const [name, on] of [["star", liked > 0], ["throw", liked < 0]]) {
    const button = pageButton(name);
    if (!button) continue;
    button.title = on ? "Take that back" : "";
    button.setAttribute("aria-pressed", String(on));
  }
  placeStop(find(".mr-bar"));
}

function enable(can, button) {
  for (const [name, yes] of Object.entries(can)) {
    const one = button(name);
    if (!one || one.disabled === !yes) continue;
    if (!yes && one === document.activeElement) stage.focus({ preventScroll: true });
    one.disabled = !yes;
  }
}

// A group of buttons is one Tab stop; the arrow keys move inside it.
function moveInside(event, then = () => {}) {
  const buttons = [...event.currentTarget.querySelectorAll("button")].filter((b) => !b.disabled && b.offsetParent);
  const last = buttons.length - 1, at = buttons.indexOf(document.activeElement);
  if (at < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
  const steps = { ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: last };
  if (!(event.key in steps)) return;
  event.preventDefault();
  const next = buttons[(steps[event.key] + last + 1) % (last + 1)];
  next.focus();
  then(next);
}

function placeStop(bar, wanted = document.activeElement) {
  const buttons = [...bar.querySelectorAll("button")];
  const usable = buttons.filter((b) => !b.disabled);
  const stop = usable.find((b) => b === wanted) || usable.find((b) => b.tabIndex === 0) || usable[0];
  for (const button of buttons) button.tabIndex = button === stop ? 0 : -1;
}

find(".mr-bar").addEventListener("keydown", (event) => moveInside(event));
find(".mr-bar").addEventListener("focusin", (event) => placeStop(event.currentTarget, event.target));

// Ctrl (or Cmd) with A, Z, Y works wherever the focus is, except in a text field.
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest?.("input:not([type=range], [type=checkbox], [type=radio]), textarea, [contenteditable=true]");
  if (!isShown() || !model.song || typing || event.altKey || !(event.ctrlKey || event.metaKey)) return;
  const letter = /^[a-z]$/i.test(event.key) ? event.key.toLowerCase() : event.code.slice(3).toLowerCase(); // not every layout has them
  if (letter === "a") markAll();
  else if (letter === "z") pageButton(event.shiftKey ? "redo" : "undo").click();
  else if (letter === "y") pageButton("redo").click();
  else return;
  event.preventDefault();
});

function say(text) {
  clearTimeout(forgetting);
  find(".mr-status").textContent = text;
  find(".mr-status").classList.remove("mr-error");
}

// An error appears below the song, covers nothing, and disappears by itself.
function complain(text) {
  say(text);
  find(".mr-status").classList.add("mr-error");
  forgetting = setTimeout(() => say(model.status ? model.status.text : ""), MESSAGE);
}

// Gradio's messages cover the page's buttons, so while the song is visible their text is shown below it instead. A new
// message may reuse the box of one that is disappearing, so a shown message is recognised by its text, not its box.
// While the server is away, its own line says so.
const told = new WeakMap();
new MutationObserver(() => {
  const fresh = [...document.querySelectorAll('[data-testid="toast-text"]')].filter((note) => told.get(note) !== note.textContent);
  if (!fresh.length || !isShown()) return;
  lookForServer();
  for (const note of fresh) told.set(note, note.textContent);
  if (!serverSide.away) complain([...new Set(fresh.map((note) => note.textContent.trim()))].join(" "));
  for (const toast of document.querySelectorAll('[data-testid="toast-body"]')) {
    toast.hidden = true;
    toast.style.display = "none";
    toast.querySelector('[data-testid="toast-close"]').click();
  }
}).observe(document.body, { childList: true, subtree: true });

// Checks whether the server answers. If not, one line says so until it does; a restarted server gets a new page.
async function lookForServer() {
  let id = null;
  try {
    const answer = await fetch(new URL("gradio_api/app_id", document.baseURI), { cache: "no-store" });
    id = answer.ok ? (await answer.json()).app_id : answer.status === 401 ? "" : serverSide.id; // 401: it asks for the password again
  } catch {
    tellAway();
    return;
  }
  if (serverSide.id && id !== serverSide.id) location.reload();
  serverSide.id = id;
  if (!serverSide.away) return;
  serverSide.away.remove();
  serverSide.away = null;
  say(model.status ? model.status.text : "");
  enableButtons();
}

function tellAway() {
  if (serverSide.away) return;
  serverSide.away = document.createElement("div");
  serverSide.away.id = "mr-away";
  serverSide.away.setAttribute("role", "alert");
  serverSide.away.textContent = "The app's server does not answer. Start it again (midi-rwkv app): your song is saved, and the page goes on by itself.";
  document.body.prepend(serverSide.away);
  say("");
  enableButtons();
}

(function keepLooking() {
  if (!root.isConnected && serverSide.id) return;
  const next = () => setTimeout(keepLooking, serverSide.away ? HEARTBEAT / 3 : HEARTBEAT);
  if (document.hidden) next();
  else lookForServer().then(next);
})();

// A file that is dropped anywhere on the page is handled like one that was chosen with the button.
function takeDrop(event) {
  const input = document.querySelector('input[data-testid^="Open MIDI"]');
  if (!isShown() || !input || ![...event.dataTransfer.types].includes("Files")) return;
  event.preventDefault();
  if (event.type === "drop" && event.dataTransfer.files.length) {
    const one = new DataTransfer();
    one.items.add(event.dataTransfer.files[0]);
    input.files = one.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  }
}
document.addEventListener("dragover", takeDrop);
document.addEventListener("drop", takeDrop);
stage.addEventListener("dragstart", (event) => event.preventDefault());
