// Connects the parts.

const ACTIONS = {
  play: togglePlay,
  loop: toggleLoop,
  save,
  clear: () => model.song && mark(new Set()),
  tall: taller,
  in: () => zoom(1.4),
  out: () => zoom(1 / 1.4),
  mark: toggleMarking,
  fit: () => model.song && layOut(fitScale()),
};
for (const button of root.querySelectorAll("[data-do]")) button.onclick = ACTIONS[button.dataset.do];

async function save() {
  const file = await server.midi({ tab: window.midiRwkvTab }).catch((error) => ({ error: error.message }));
  if (file.error) {
    complain(file.error);
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
    complain(`This song cannot be shown: ${error.message}`);
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
    if (view.cursor && view.cursor.track >= model.song.tracks.length) view.cursor = null; // on a track that was taken back
    makeHeads();
    layOut(same ? 0 : Math.max(fitScaleOrZero(), 0));
    if (same) showNewTrack(before);
    soundChanged();
  }
  if (wasRunning && !model.running) soundChanged();
  const { text, done, total } = model.status || { text: "", done: 0, total: 0 };
  say(text);
  find(".mr-status").setAttribute("aria-live", model.running ? "off" : "polite"); // a line a bar is too much to hear
  find(".mr-progress").hidden = !model.running;
  find(".mr-done").style.width = total ? `${(100 * done) / total}%` : "0";
  root.dataset.running = model.running ? "yes" : "no";
  tellMarked();
  showCards();
  enableButtons();
  redraw();
}

// An added track is below the others and may be out of sight.
function showNewTrack(before) {
  const track = model.song.tracks.length - 1;
  if (track < before.tracks.length || model.song.tracks[track].notes.length) return;
  view.cursor = { track, bar: view.cursor ? view.cursor.bar : barAt(scroller.scrollLeft / view.scale) };
  reveal(view.cursor);
}

// Gradio's buttons may appear after the song.
function awaitButtons() {
  enableButtons();
  if (!BUTTONS.every(pageButton)) requestAnimationFrame(awaitButtons);
}

function fitScaleOrZero() {
  return model.song && view.width ? fitScale() : 0;
}

dragsOut(find('[data-do="save"]'), songPart);
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
awaitButtons();
