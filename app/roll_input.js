// Mouse, keyboard, and the row of candidates.

const stage = find(".mr-view");

function place(event) {
  const box = stage.getBoundingClientRect();
  const x = event.clientX - box.left, y = event.clientY - box.top;
  const tick = Math.max(0, (x + scroller.scrollLeft) / view.scale);
  const track = Math.floor((y - RULER + scroller.scrollTop) / view.lane);
  return { x, y, tick, bar: Math.min(barAt(tick), barCount() - 1), track, onRuler: y < RULER };
}

function dragSpan({ from, to }) {
  return [Math.min(from.track, to.track), Math.max(from.track, to.track), Math.min(from.bar, to.bar), Math.max(from.bar, to.bar)];
}

function mark(cells) {
  if (model.running) return;
  model.cells = cells;
  model.candidates = [];
  model.chosen = -1;
  tellMarked();
  showCards();
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

function tellMarked() {
  find(".mr-marked").textContent = find(".mr-marked").title = model.song ? regionText() : "";
}

// The note under the pointer in marked cells, of what is shown there.
function noteAt({ tick, track, y }) {
  if (!isMarked(track, barAt(tick))) return null;
  const own = model.song.tracks[track], top = yOf(track);
  const fill = model.chosen >= 0 ? model.candidates[model.chosen].fill[track] || [] : own.notes;
  const slack = 4 / view.scale;
  for (let i = 0; i < fill.length; i += NOTE) {
    const [rowTop, size] = rowOf(own, top, fill[i + 2]);
    const length = own.drum ? slack : fill[i + 1];
    if (tick >= fill[i] - slack && tick <= fill[i] + length + slack && y >= rowTop - 2 && y <= rowTop + size + 2) {
      return [track, fill[i], fill[i + 2]];
    }
  }
  return null;
}

scroller.addEventListener("pointerdown", (event) => {
  if (!model.song || event.button !== 0 || event.target === scroller && onScrollbar(event)) return;
  const at = place(event);
  stage.focus({ preventScroll: true });
  if (at.onRuler) {
    seek(model.song.bars[at.bar]);
    return;
  }
  if (at.track < 0 || at.track >= model.song.tracks.length) return;
  scroller.setPointerCapture(event.pointerId);
  view.drag = { from: at, to: at, add: event.shiftKey, moved: false };
  view.cursor = { track: at.track, bar: at.bar };
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
  if (edge) scroller.scrollLeft += edge;
  redraw();
});

scroller.addEventListener("pointerup", () => {
  const drag = view.drag;
  view.drag = null;
  if (!drag) return;
  const note = drag.moved ? null : noteAt(drag.from);
  if (note && !model.running) {
    const key = note.join(",");
    if (!model.locked.delete(key)) model.locked.add(key);
    trigger("lock", { track: note[0], onset: note[1], pitch: note[2] });
    redraw();
  } else {
    markSpan(dragSpan(drag), drag.add, drag.add && isMarked(drag.from.track, drag.from.bar));
  }
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
  reveal(next);
  redraw();
}

function choose(number) {
  if (number >= model.candidates.length) return;
  model.chosen = number;
  shownWhileRunning = number;
  for (const card of find(".mr-cards").children) {
    card.setAttribute("aria-checked", String(Number(card.dataset.number) === number));
  }
  if (!model.running) trigger("choose", { number });
  soundChanged();
  redraw();
}

// A card for what was there and one for each candidate, the marked bars drawn small.
function showCards() {
  const cards = find(".mr-cards");
  if (!model.song || !model.candidates.length) {
    cards.replaceChildren();
    return;
  }
  const numbers = [-1, ...model.candidates.keys()];
  if (cards.children.length !== numbers.length) {
    cards.replaceChildren(...numbers.map(makeCard));
  }
  numbers.forEach((number, k) => {
    const card = cards.children[k];
    const notes = cardNotes(number);
    card.querySelector("small").textContent = `${notes.reduce((n, [, list]) => n + list.length, 0)} notes`;
    card.setAttribute("aria-checked", String(model.chosen === number));
    drawCard(card.querySelector("canvas"), notes, number >= 0);
  });
}

function makeCard(number) {
  const card = document.createElement("button");
  card.type = "button";
  card.className = "mr-card";
  card.dataset.number = number;
  card.setAttribute("role", "radio");
  const title = document.createElement("div");
  const name = document.createElement("b");
  name.textContent = number < 0 ? "O: as it was" : `${number + 1}`;
  title.append(name, document.createElement("small"));
  card.append(title, document.createElement("canvas"));
  card.title = number < 0 ? "What stands in the song (key O)" : `Candidate ${number + 1} (key ${number + 1})`;
  card.onclick = () => choose(number);
  card.ondblclick = () => playMarked();
  return card;
}

// [track, [[onset, duration, pitch], ...]] of the marked cells.
function cardNotes(number) {
  const tracks = [...new Set([...model.cells].map((key) => Number(key.split(",")[0])))].sort((a, b) => a - b);
  return tracks.map((t) => {
    const flat = number < 0 ? model.song.tracks[t].notes : model.candidates[number].fill[t] || [];
    const list = [];
    for (let i = 0; i < flat.length; i += NOTE) {
      if (isMarked(t, barAt(flat[i]))) list.push([flat[i], flat[i + 1], flat[i + 2]]);
    }
    return [t, list];
  });
}

function drawCard(small, notes, isNew) {
  const ratio = window.devicePixelRatio || 1;
  const width = 172, height = 60;
  small.width = width * ratio;
  small.height = height * ratio;
  const c = small.getContext("2d");
  c.setTransform(ratio, 0, 0, ratio, 0, 0);
  const bars = [...new Set([...model.cells].map((key) => Number(key.split(",")[1])))].sort((a, b) => a - b);
  const at = new Map(), shares = [];
  let total = 0;
  for (const b of bars) {
    at.set(b, total);
    shares.push(total);
    total += model.song.bars[b + 1] - model.song.bars[b];
  }
  const scale = width / total, lane = height / notes.length;
  c.strokeStyle = view.colours.line;
  for (const share of shares) c.strokeRect(Math.round(share * scale) + 0.5, -1, width, height + 2);
  notes.forEach(([t, list], k) => {
    const track = model.song.tracks[t];
    c.fillStyle = isNew ? NEW : SHADES[t % SHADES.length];
    for (const [onset, duration, pitch] of list) {
      const b = barAt(onset);
      const x = (at.get(b) + onset - model.song.bars[b]) * scale;
      const [y, size] = rowOf(track, k * lane, pitch, lane);
      if (track.drum) c.fillRect(x, y + size / 2 - 1.5, 3, 3);
      else c.fillRect(x, y, Math.max(duration * scale - 0.5, 1.5), Math.max(size - 0.5, 1.5));
    }
  });
}
