// Puts the parts together.

const ACTIONS = {
  play: togglePlay,
  loop: toggleLoop,
  save,
  clear: () => model.song && mark(new Set()),
  tall: taller,
  in: () => zoom(1.4),
  out: () => zoom(1 / 1.4),
  fit: () => model.song && layOut(fitScale()),
};
for (const button of root.querySelectorAll("[data-do]")) button.onclick = ACTIONS[button.dataset.do];

async function save() {
  const file = await server.midi({});
  if (file.error) {
    say(file.error);
    return;
  }
  const link = document.createElement("a");
  link.href = `data:audio/midi;base64,${file.data}`;
  link.download = file.name;
  link.click();
}

function update() {
  const before = model.song;
  const wasRunning = model.running;
  try {
    readValue(props.value);
  } catch (error) {
    say(`This song cannot be shown: ${error.message}`);
    return;
  }
  if (model.song !== before) {
    const same = before && model.song && before.name === model.song.name;
    if (!same) {
      stop();
      sounding.muted.clear();
      sounding.solo.clear();
      player.position = 0;
      view.playhead = view.cursor = null;
      view.scale = 0;
      find(".mr-at").textContent = "";
    }
    makeHeads();
    layOut(same ? 0 : Math.max(fitScaleOrZero(), 0));
    soundChanged();
  }
  if (wasRunning && !model.running) soundChanged();
  const { text, done, total } = model.status || { text: "", done: 0, total: 0 };
  say(text);
  find(".mr-progress").hidden = !model.running;
  find(".mr-done").style.width = total ? `${(100 * done) / total}%` : "0";
  root.dataset.running = model.running ? "yes" : "no";
  tellMarked();
  showCards();
  redraw();
}

function fitScaleOrZero() {
  return model.song && view.width ? fitScale() : 0;
}

// A file dropped anywhere on the page goes the way of one that was chosen with the button.
function takeDrop(event) {
  const input = document.querySelector('input[data-testid^="Open MIDI"]');
  if (!root.isConnected || !root.offsetParent || !input || ![...event.dataTransfer.types].includes("Files")) return;
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

readColours();
layOut(0);
new ResizeObserver(() => layOut(view.scale)).observe(stage);
new MutationObserver(() => {
  readColours();
  showCards();
  redraw();
}).observe(document.body, { attributes: true, attributeFilter: ["class"] });
root.roll = { model, view, player }; // for the browser's console and the tests
watch("value", update);
update();
