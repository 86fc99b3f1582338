// The column left of the song: its name, and the tracks' heads with mute and solo. A click on a head marks the track,
// and a drag takes it out of the page.

function makeHeads() {
  const heads = find(".mr-heads");
  heads.replaceChildren();
  if (!model.song) return;
  const song = document.createElement("div");
  song.className = "mr-song";
  song.textContent = model.song.name;
  song.title = `${model.song.name}; drag it into a DAW or a folder for the song as a MIDI file`;
  dragsOut(song, songPart);
  heads.append(song);
  heads.append(...model.song.tracks.map(makeHead));
  placeHeads();
}

function makeHead(track, t) {
  const head = document.createElement("div");
  head.className = "mr-head";
  const whole = document.createElement("button");
  whole.type = "button";
  whole.className = "mr-whole";
  whole.title = `Mark the whole of ${track.name}; with shift, beside what is marked; drag it out for the track as a MIDI file`;
  whole.onclick = (event) => markTrack(t, event.shiftKey);
  const name = document.createElement("b");
  name.textContent = `${t + 1} ${track.name}`;
  const kind = document.createElement("small");
  kind.textContent = track.instrument;
  whole.append(name, kind);
  const buttons = document.createElement("span");
  buttons.className = "mr-ms";
  for (const [letter, set, what] of [["M", sounding.muted, "Mute"], ["S", sounding.solo, "Solo"]]) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = letter;
    button.title = `${what} ${track.name}`;
    button.setAttribute("aria-pressed", "false");
    button.onclick = () => {
      if (!set.delete(t)) set.add(t);
      button.setAttribute("aria-pressed", String(set.has(t)));
      soundChanged();
      redraw();
    };
    buttons.append(button);
  }
  head.append(whole, buttons);
  dragsOut(head, () => [`${t + 1} ${track.name}`, `?track=${t}`]);
  return head;
}

function markTrack(t, add) {
  const last = model.song.ownBars - 1;
  const isWhole = model.song.bars.slice(0, last + 1).every((_, b) => isMarked(t, b));
  markSpan([t, t, 0, last], add, add && isWhole);
}

function placeHeads() {
  root.querySelectorAll(".mr-head").forEach((head, t) => {
    head.style.top = `${RULER + t * view.lane - scroller.scrollTop}px`;
    head.style.height = `${view.lane}px`;
  });
}
