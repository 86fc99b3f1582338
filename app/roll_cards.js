// The row of candidates.

function choose(number) {
  if (number >= model.candidates.length) return;
  model.chosen = number;
  shownWhileRunning = number;
  for (const card of find(".mr-cards").children) check(card);
  enableButtons();
  if (!model.running) trigger("choose", { number });
  soundChanged();
  redraw();
}

// A card for the original and one for each candidate, each with a small drawing of the bars.
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
    const liked = number < 0 ? 0 : model.candidates[number].liked || 0;
    card.dataset.liked = liked;
    card.querySelector("b").textContent = number < 0 ? "O: as it was" : `${number + 1}${[" ✕", "", " ★"][liked + 1]}`;
    card.querySelector("small").textContent = `${notes.reduce((n, [, list]) => n + list.length, 0)} notes`;
    check(card);
    drawCard(card.querySelector("canvas"), notes, number >= 0);
  });
}

// The chosen card is the only Tab stop of the row.
function check(card) {
  const chosen = Number(card.dataset.number) === model.chosen;
  card.setAttribute("aria-checked", String(chosen));
  card.tabIndex = chosen ? 0 : -1;
}

find(".mr-cards").addEventListener("keydown", (event) => moveInside(event, (card) => choose(Number(card.dataset.number))));

function makeCard(number) {
  const card = document.createElement("button");
  card.type = "button";
  card.className = "mr-card";
  card.dataset.number = number;
  card.setAttribute("role", "radio");
  const title = document.createElement("div");
  title.append(document.createElement("b"), document.createElement("small"));
  card.append(title, document.createElement("canvas"));
  const what = number < 0 ? "What stands in the song (key O)" : `Candidate ${number + 1} (key ${number + 1})`;
  card.title = `${what}; drag it into a DAW or a folder for its bars as a MIDI file`;
  dragsOut(card, () => candidatePart(number));
  card.onclick = () => choose(number);
  card.ondblclick = () => playMarked();
  return card;
}

// [track, [[onset, duration, pitch, bar], ...]] of the cells that the candidates are for.
function cardNotes(number) {
  const tracks = [...new Set([...model.answered].map((key) => Number(key.split(",")[0])))].sort((a, b) => a - b);
  return tracks.map((t) => {
    const flat = number < 0 ? model.song.tracks[t].notes : model.candidates[number].fill[t] || [];
    const list = [];
    for (let i = 0; i < flat.length; i += NOTE) {
      const bar = barOf(flat, i);
      if (isAnswered(t, bar)) list.push([flat[i], flat[i + 1], flat[i + 2], bar]);
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
  const bars = [...new Set([...model.answered].map((key) => Number(key.split(",")[1])))].sort((a, b) => a - b);
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
    for (const [onset, duration, pitch, b] of list) {
      const x = Math.max((at.get(b) + onset - model.song.bars[b]) * scale, 0);
      const [y, size] = rowOf(track, k * lane, pitch, lane);
      if (track.drum) c.fillRect(x, y + size / 2 - 1.5, 3, 3);
      else c.fillRect(x, y, Math.max(duration * scale - 0.5, 1.5), Math.max(size - 0.5, 1.5));
    }
  });
}
