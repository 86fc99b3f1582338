// Handles mouse, touch and keyboard in the song.

const REACH = 6; // px from a note at which a click is meant for it
const stage = find(".mr-view");

function place(event) {
  const box = stage.getBoundingClientRect();
  const x = event.clientX - box.left, y = event.clientY - box.top;
  const tick = Math.max(0, (x + scroller.scrollLeft) / view.scale);
  const track = Math.floor((y - RULER + scroller.scrollTop) / view.lane);
  return { x, y, tick, bar: Math.min(barAt(tick), barCount() - 1), track, onRuler: y < RULER };
}

// The tracks (all of them, on the ruler) and the first and last bar of a drag.
function dragSpan({ from, to }) {
  const bars = [Math.min(from.bar, to.bar), Math.max(from.bar, to.bar)];
  if (from.onRuler) return [0, model.song.tracks.length - 1, ...bars];
  return [Math.min(from.track, to.track), Math.max(from.track, to.track), ...bars];
}

function mark(cells) {
  if (model.running) return;
  model.cells = cells;
  tellMarked();
  announce(regionText());
  enableButtons();
  redraw();
  trigger("mark", { cells: [...cells].map((key) => key.split(",").map(Number)) });
}

function markSpan([t1, t2, b1, b2], add, remove) {
  const cells = new Set(add ? model.cells : []);
  for (let t = t1; t <= t2; t++) {
    for (let b = b1; b <= b2; b++) {
      if (remove) cells.delete(cellKey(t, b));
      else cells.add(cellKey(t, b));
    }
  }
  mark(cells);
}

function markAll() {
  markSpan([0, model.song.tracks.length - 1, 0, model.song.ownBars - 1], false, false);
}

function tellMarked() {
  find(".mr-marked").textContent = find(".mr-marked").title = model.song ? regionText() : "";
}

// Text for screen readers, which is not visible.
function announce(text) {
  find(".mr-live").textContent = text;
}

function placeText({ track, bar }) {
  const { tracks, firstBar } = model.song;
  return `${tracks[track].name}, bar ${bar + firstBar}${isMarked(track, bar) ? ", marked" : ""}`;
}

// The visible note of marked cells that is nearest to the pointer, or null if none is within reach.
function noteAt({ x, y, track }) {
  const own = model.song.tracks[track], top = yOf(track), fill = chosenFill(track);
  let found = null, nearest = REACH;
  const look = (notes, isShown) => {
    for (let i = 0; i < notes.length; i += NOTE) {
      const bar = barOf(notes, i);
      if (!isMarked(track, bar) || !isShown(bar)) continue;
      const [rowTop, size] = rowOf(own, top, notes[i + 2]);
      const left = xOf(notes[i]), right = own.drum ? left : xOf(notes[i] + notes[i + 1]);
      const distance = Math.hypot(Math.max(left - x, 0, x - right), Math.max(rowTop - y, 0, y - rowTop - size));
      if (distance > nearest || (found && distance === nearest)) continue;
      nearest = distance;
      found = { track, onset: notes[i], pitch: notes[i + 2] };
    }
  };
  look(own.notes, (bar) => !fill || !isAnswered(track, bar));
  look(fill || [], () => true);
  return found;
}

function toggleLock(note) {
  if (model.running) return;
  const key = [note.track, note.onset, note.pitch].join(",");
  const locked = !model.locked.delete(key);
  if (locked) model.locked.add(key);
  announce(locked ? "note locked" : "note no longer locked");
  trigger("lock", note);
  redraw();
}

// A click locks the note under it, or marks a bar that is not marked; with Shift it adds or removes a mark.
function click({ from, add }) {
  const { track, bar } = from;
  const note = add || from.onRuler ? null : noteAt(from);
  if (from.onRuler) seek(model.song.bars[bar]);
  else if (note) toggleLock(note);
  else if (add || !isMarked(track, bar)) markSpan([track, track, bar, bar], add, isMarked(track, bar));
  else announce(placeText(from));
}

scroller.addEventListener("pointerdown", (event) => {
  if (!model.song || event.button !== 0 || event.target === scroller && onScrollbar(event)) return;
  const at = place(event);
  stage.focus({ preventScroll: true });
  getSelection().removeAllRanges(); // or the browser drags the selected text
  if (!at.onRuler && (at.track < 0 || at.track >= model.song.tracks.length)) return;
  scroller.setPointerCapture(event.pointerId);
  const scrolls = event.pointerType === "touch" && !view.marking;
  view.drag = { from: at, to: at, add: event.shiftKey || event.pointerType === "touch" && view.marking, moved: false, scrolls };
  if (!at.onRuler) view.cursor = { track: at.track, bar: at.bar };
});

function onScrollbar(event) {
  const box = scroller.getBoundingClientRect();
  return event.clientX > box.left + scroller.clientWidth || event.clientY > box.top + scroller.clientHeight;
}

scroller.addEventListener("pointermove", (event) => {
  if (!view.drag) return;
  const at = place(event);
  if (Math.abs(at.x - view.drag.from.x) + Math.abs(at.y - view.drag.from.y) > 5) view.drag.moved = true;
  at.track = Math.min(Math.max(at.track, 0), model.song.tracks.length - 1);
  view.drag.to = at;
  const edge = at.x < 24 ? -12 : at.x > view.width - 24 ? 12 : 0;
  if (edge && view.drag.moved && !view.drag.scrolls) scroller.scrollLeft += edge;
  redraw();
});

scroller.addEventListener("pointerup", () => {
  const drag = view.drag;
  view.drag = null;
  if (!drag || drag.moved && drag.scrolls) return;
  if (!drag.moved) click(drag);
  else markSpan(dragSpan(drag), drag.add, drag.add && !drag.from.onRuler && isMarked(drag.from.track, drag.from.bar));
  redraw();
});

scroller.addEventListener("pointercancel", () => {
  view.drag = null;
  redraw();
});

scroller.addEventListener("scroll", () => {
  placeHeads();
  redraw();
});

scroller.addEventListener(
  "wheel",
  (event) => {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / 300), place(event).x);
  },
  { passive: false },
);

// With a finger, a drag scrolls, or marks while this is on.
function toggleMarking() {
  view.marking = !view.marking;
  find('[data-do="mark"]').setAttribute("aria-pressed", String(view.marking));
  root.dataset.marking = view.marking ? "yes" : "no";
}

function zoom(by, anchor = view.width / 2) {
  if (model.song) layOut(view.scale * by, anchor);
}

function taller() {
  view.tall = view.tall % 3 + 1;
  layOut(view.scale);
}

function reveal({ track, bar }) {
  const x = model.song.bars[bar] * view.scale, y = track * view.lane;
  const end = model.song.bars[bar + 1] * view.scale;
  if (x < scroller.scrollLeft) scroller.scrollLeft = x;
  if (end > scroller.scrollLeft + view.width) scroller.scrollLeft = end - view.width;
  if (y < scroller.scrollTop) scroller.scrollTop = y;
  const bottom = RULER + y + view.lane;
  if (bottom > scroller.scrollTop + view.height) scroller.scrollTop = bottom - view.height;
}

const MOVES = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

stage.addEventListener("keydown", (event) => {
  if (!model.song || event.ctrlKey || event.metaKey || event.altKey) return;
  const key = event.key;
  let used = true;
  if (key in MOVES) moveCursor(MOVES[key], event.shiftKey);
  else if (key === "Enter" && view.cursor) {
    const { track, bar } = view.cursor;
    markSpan([track, track, bar, bar], true, isMarked(track, bar));
  } else if (key === " ") togglePlay();
  else if (key === "Escape") mark(new Set());
  else if (key === "+" || key === "=") zoom(1.4);
  else if (key === "-") zoom(1 / 1.4);
  else if (key === "0") layOut(fitScale());
  else if (key.toLowerCase() === "l") toggleLoop();
  else if (key.toLowerCase() === "t") taller();
  else if (/^[1-9]$/.test(key) && model.candidates.length >= Number(key)) choose(Number(key) - 1);
  else if (key === "o") choose(-1);
  else used = false;
  if (used) event.preventDefault();
});

stage.addEventListener("focus", () => {
  if (model.song && view.cursor) announce(placeText(view.cursor));
  redraw();
});
stage.addEventListener("blur", redraw);

function moveCursor([down, right], extend) {
  const old = view.cursor || { track: 0, bar: barAt(scroller.scrollLeft / view.scale) };
  if (!view.cursor) [down, right] = [0, 0];
  const next = {
    track: Math.min(Math.max(old.track + down, 0), model.song.tracks.length - 1),
    bar: Math.min(Math.max(old.bar + right, 0), barCount() - 1),
    from: extend ? old.from || old : null,
  };
  view.cursor = next;
  if (extend) markSpan(dragSpan({ from: next.from, to: next }), false, false);
  announce(extend ? `${placeText(next)}; ${regionText()}` : placeText(next));
  reveal(next);
  redraw();
}
