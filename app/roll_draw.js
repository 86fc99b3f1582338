// Draws the song on a canvas: one lane per track, bars from left to right.

const RULER = 36; // px
const SHADES = ["#4a78c8", "#3a9a7a", "#a765b8", "#c2604f", "#6b7f2e", "#3b93b5", "#b0587f", "#7a6bd0"];
const NEW = "#e08a1e";
const DRUM_NAMES = { 35: "Kick", 36: "Kick", 37: "Rim", 38: "Snare", 39: "Clap", 40: "Snare", 41: "Low tom", 42: "Hi-hat",
  43: "Low tom", 44: "Pedal hat", 45: "Mid tom", 46: "Open hat", 47: "Mid tom", 48: "High tom", 49: "Crash", 50: "High tom",
  51: "Ride", 52: "China", 53: "Ride bell", 54: "Tambourine", 55: "Splash", 56: "Cowbell", 57: "Crash", 59: "Ride" };

const root = element.querySelector(".mr-roll");
const find = (selector) => root.querySelector(selector);
const canvas = find(".mr-view canvas");
const scroller = find(".mr-scroll");
const context = canvas.getContext("2d");
const view = { scale: 0, lane: 80, tall: 1, width: 0, height: 0, drag: null, cursor: null, playhead: null, colours: {} };
const sounding = { muted: new Set(), solo: new Set() };
let shownWhileRunning = 0;
let frame = 0;

function redraw() {
  if (!frame) frame = requestAnimationFrame(draw);
}

function readColours() {
  const style = getComputedStyle(root);
  const get = (name) => style.getPropertyValue(name).trim();
  view.colours = {
    text: get("--body-text-color") || "#222",
    faint: getComputedStyle(find(".mr-legend")).color,
    line: get("--border-color-primary") || "#ddd",
    back: get("--background-fill-primary") || "#fff",
    other: get("--background-fill-secondary") || "#f6f6f6",
    accent: get("--color-accent") || "#f60",
  };
}

function fitScale() {
  return Math.max(view.width - 12, 100) / Math.max(1, model.song.bars[model.song.ownBars] || model.song.end);
}

// Sets the sizes of canvas, lanes and scroll area; keeps the tick at `anchor` px in place.
function layOut(scale, anchor = 0) {
  const ratio = window.devicePixelRatio || 1;
  const box = find(".mr-view").getBoundingClientRect();
  view.width = box.width;
  view.height = box.height;
  canvas.width = Math.round(box.width * ratio);
  canvas.height = Math.round(box.height * ratio);
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  find(".mr-empty").hidden = !!model.song;
  find(".mr-empty").style.display = model.song ? "none" : "";
  if (!model.song || !box.width) return;
  const tick = view.scale ? (scroller.scrollLeft + anchor) / view.scale : 0;
  const least = Math.min(fitScale(), view.width / model.song.end);
  view.scale = Math.min(Math.max(scale || view.scale || 0, least), 1.2 * (480 / model.song.ticksPerBeat));
  view.lane = view.tall * Math.min(Math.max((view.height - RULER - 14) / model.song.tracks.length, 52), 150);
  const spacer = find(".mr-spacer");
  spacer.style.width = `${Math.ceil(model.song.end * view.scale)}px`;
  spacer.style.height = `${RULER + Math.ceil(view.lane * model.song.tracks.length)}px`;
  scroller.scrollLeft = tick * view.scale - anchor;
  placeHeads();
  redraw();
}

function audible(t) {
  return sounding.solo.size ? sounding.solo.has(t) : !sounding.muted.has(t);
}

const xOf = (tick) => tick * view.scale - scroller.scrollLeft;
const yOf = (t) => RULER + t * view.lane - scroller.scrollTop;

// Top and height of a pitch in its track's lane.
function rowOf(track, top, pitch, lane = view.lane) {
  if (track.drum) {
    const size = (lane - 8) / Math.max(track.rows.length, 1);
    return [top + lane - 4 - (track.rows.indexOf(pitch) + 1) * size, size];
  }
  const size = (lane - 6) / (track.high - track.low + 1);
  return [top + lane - 3 - (pitch - track.low + 1) * size, size];
}

function draw() {
  frame = 0;
  const { width, height, colours } = view;
  context.fillStyle = colours.back;
  context.fillRect(0, 0, width, height);
  if (!model.song || !view.scale) return;
  const began = performance.now();
  const from = scroller.scrollLeft / view.scale, to = (scroller.scrollLeft + width) / view.scale;
  const firstBar = barAt(from), lastBar = Math.min(barAt(to), barCount() - 1);
  const tracks = model.song.tracks;
  tracks.forEach((track, t) => {
    const top = yOf(t);
    if (top > height || top + view.lane < RULER) return;
    drawLane(track, t, top, firstBar, lastBar);
    drawNotes(track, t, top, from, to);
  });
  drawDrag();
  drawRuler(firstBar, lastBar);
  drawPlayhead();
  view.drawn = performance.now() - began; // read by the benchmark
}

function drawLane(track, t, top, firstBar, lastBar) {
  const { colours, lane, width } = view;
  const { bars, ownBars } = model.song;
  context.fillStyle = t % 2 ? colours.other : colours.back;
  context.fillRect(0, top, width, lane);
  if (track.drum) {
    context.strokeStyle = colours.line;
    context.lineWidth = 0.5;
    for (const pitch of track.rows) {
      const [y, size] = rowOf(track, top, pitch);
      line(0, y + size / 2, width, y + size / 2);
    }
  }
  const gone = xOf(bars[ownBars]);
  if (gone < width) { // after the song's end
    context.fillStyle = colours.line;
    context.globalAlpha = 0.35;
    context.fillRect(Math.max(gone, 0), top, width, lane);
    context.globalAlpha = 1;
  }
  const wide = (bars[firstBar + 1] - bars[firstBar]) * view.scale > 9;
  context.strokeStyle = colours.line;
  context.lineWidth = 1;
  for (let b = firstBar; b <= lastBar; b++) {
    const x = xOf(bars[b]);
    if (wide || b % 8 === 0) line(x, top, x, top + lane);
  }
  line(0, top, width, top);
  for (let b = firstBar; b <= lastBar; b++) {
    if (isMarked(t, b)) drawMarked(t, b, xOf(bars[b]), xOf(bars[b + 1]), top);
  }
}

function drawMarked(t, b, x, next, top) {
  const { colours, lane } = view;
  context.save();
  context.beginPath();
  context.rect(x, top + 1, next - x, lane - 2);
  context.fillStyle = colours.accent;
  context.globalAlpha = 0.1;
  context.fill();
  context.clip();
  context.globalAlpha = 0.3;
  context.strokeStyle = colours.text;
  context.lineWidth = 0.8;
  context.beginPath();
  const step = 9, phase = ((top - x) % step + step) % step;
  for (let d = -lane - step; d < next - x + step; d += step) {
    context.moveTo(x + d + phase, top + lane);
    context.lineTo(x + d + phase + lane, top);
  }
  context.stroke();
  context.restore();
  context.strokeStyle = colours.text;
  context.lineWidth = 1.5;
  context.setLineDash([4, 3]);
  if (!isMarked(t, b - 1)) line(x, top + 1, x, top + lane - 1);
  if (!isMarked(t, b + 1)) line(next, top + 1, next, top + lane - 1);
  if (!isMarked(t - 1, b)) line(x, top + 1, next, top + 1);
  if (!isMarked(t + 1, b)) line(x, top + lane - 1, next, top + lane - 1);
  context.setLineDash([]);
}

function line(x1, y1, x2, y2) {
  context.beginPath();
  context.moveTo(Math.round(x1) + 0.5, Math.round(y1) + 0.5);
  context.lineTo(Math.round(x2) + 0.5, Math.round(y2) + 0.5);
  context.stroke();
}

function drawNotes(track, t, top, from, to) {
  const shade = SHADES[t % SHADES.length];
  const fill = chosenFill(t);
  const asked = [...model.cells, ...model.answered].some((key) => key.startsWith(`${t},`));
  const hollow = [];
  context.globalAlpha = audible(t) ? 1 : 0.35;
  context.fillStyle = shade;
  context.beginPath();
  eachNote(track.notes, track.longest, from, to, (onset, duration, pitch, i) => {
    const bar = asked && !track.stays.has(`${onset},${pitch}`) ? barOf(track.notes, i) : -1;
    const replaced = fill && isAnswered(t, bar);
    if (replaced || isMarked(t, bar)) {
      if (!replaced || model.locked.has(`${t},${onset},${pitch}`)) hollow.push([onset, duration, pitch]);
      return;
    }
    if (track.drum) shape(track, top, onset, duration, pitch);
    else plainNote(track, top, onset, duration, pitch);
  });
  context.fill();
  context.strokeStyle = shade;
  context.lineWidth = 1.4;
  for (const [onset, duration, pitch] of hollow) outlined(track, t, top, onset, duration, pitch, false);
  if (fill) {
    context.fillStyle = NEW;
    context.beginPath();
    eachNote(fill, Infinity, from, to, (onset, duration, pitch) => shape(track, top, onset, duration, pitch));
    context.fill();
    context.strokeStyle = view.colours.text;
    context.lineWidth = view.lane / (track.drum ? track.rows.length : track.high - track.low) > 4 ? 1.2 : 0.6;
    eachNote(fill, Infinity, from, to, (onset, duration, pitch) => outlined(track, t, top, onset, duration, pitch, true));
  }
  context.globalAlpha = 1;
  if (track.drum && view.lane / track.rows.length > 9) drawDrumNames(track, top);
}

function eachNote(notes, longest, from, to, call) {
  const begin = longest === Infinity ? 0 : firstNote(notes, from - longest);
  for (let i = begin; i < notes.length && (longest === Infinity || notes[i] <= to); i += NOTE) {
    if (notes[i] <= to && notes[i] + notes[i + 1] >= from) call(notes[i], notes[i + 1], notes[i + 2], i);
  }
}

// Draws a plain note at once, because thousands in one path are slower.
function plainNote(track, top, onset, duration, pitch) {
  const [y, size] = rowOf(track, top, pitch);
  context.fillRect(xOf(onset), y, Math.max(duration * view.scale - 0.7, 1.2), Math.max(size - 0.6, 1.8));
}

function shape(track, top, onset, duration, pitch) {
  const x = xOf(onset);
  const [y, size] = rowOf(track, top, pitch);
  if (track.drum) {
    const r = Math.min(Math.max(size * 0.42, 1.5), 5);
    context.moveTo(x, y + size / 2 - r);
    context.lineTo(x + r, y + size / 2);
    context.lineTo(x, y + size / 2 + r);
    context.lineTo(x - r, y + size / 2);
    context.closePath();
  } else {
    context.rect(x, y, Math.max(duration * view.scale - 0.7, 1.2), Math.max(size - 0.6, 1.8));
  }
}

// Draws a ring for a new note, a hollow shape for one that will be replaced, a dot for a locked one.
function outlined(track, t, top, onset, duration, pitch, isNew) {
  context.beginPath();
  shape(track, top, onset, duration, pitch);
  const locked = model.locked.has(`${t},${onset},${pitch}`);
  if (locked && !isNew) context.fill();
  context.stroke();
  if (locked) {
    const [y, size] = rowOf(track, top, pitch);
    const middle = track.drum ? xOf(onset) : xOf(onset) + Math.min((duration * view.scale) / 2, 8);
    context.beginPath();
    context.arc(middle, y + size / 2, Math.max(1.4, Math.min(size / 3, 2.6)), 0, 7);
    const before = context.fillStyle;
    context.fillStyle = "white";
    context.fill();
    context.fillStyle = before;
  }
}

function drawDrumNames(track, top) {
  context.font = "9px sans-serif";
  context.fillStyle = view.colours.faint;
  for (const pitch of track.rows) {
    const [y, size] = rowOf(track, top, pitch);
    context.fillText(DRUM_NAMES[pitch] || `Drum ${pitch}`, 3, y + size / 2 + 3);
  }
}

function drawDrag() {
  const { drag, cursor, colours } = view;
  const box = drag && drag.moved ? drag : null;
  if (box) {
    const [t1, t2, b1, b2] = dragSpan(box);
    const x = xOf(model.song.bars[b1]), y = yOf(t1);
    context.strokeStyle = colours.accent;
    context.lineWidth = 2;
    context.strokeRect(x, y + 1, xOf(model.song.bars[b2 + 1]) - x, (t2 - t1 + 1) * view.lane - 2);
    context.fillStyle = colours.accent;
    context.globalAlpha = 0.15;
    context.fillRect(x, y + 1, xOf(model.song.bars[b2 + 1]) - x, (t2 - t1 + 1) * view.lane - 2);
    context.globalAlpha = 1;
  } else if (cursor && document.activeElement === find(".mr-view")) {
    const x = xOf(model.song.bars[cursor.bar]);
    context.strokeStyle = colours.accent;
    context.lineWidth = 2;
    context.strokeRect(x + 1, yOf(cursor.track) + 2, xOf(model.song.bars[cursor.bar + 1]) - x - 2, view.lane - 4);
  }
}

function drawRuler(firstBar, lastBar) {
  const { colours, width } = view;
  const { bars, metres, tempos, firstBar: number } = model.song;
  context.fillStyle = colours.other;
  context.fillRect(0, 0, width, RULER);
  context.font = "11px sans-serif";
  context.strokeStyle = colours.line;
  context.lineWidth = 1;
  const size = (bars[firstBar + 1] - bars[firstBar]) * view.scale;
  const every = [1, 2, 4, 5, 10, 20, 50, 100, 200, 500].find((n) => n * size > 30) || 1000;
  for (let b = firstBar; b <= lastBar; b++) {
    if ((b + number) % every && !(every > 1 && b + number === 1)) continue;
    const x = xOf(bars[b]);
    context.fillStyle = b < model.song.ownBars ? colours.text : colours.faint;
    line(x, RULER - 16, x, RULER);
    context.fillText(String(b + number), x + 3, RULER - 5);
  }
  context.fillStyle = colours.faint;
  let free = -Infinity;
  const marks = metres.map(([b, m]) => [bars[b], m]).concat(tempos.map(([tick, bpm]) => [tick, `♩=${Math.round(bpm)}`]));
  marks.sort((a, b) => a[0] - b[0]);
  const texts = new Map();
  for (const [tick, text] of marks) texts.set(tick, (texts.get(tick) ? texts.get(tick) + "  " : "") + text);
  for (const [tick, text] of texts) {
    const x = Math.max(xOf(tick) + 3, tick === 0 ? 3 : -Infinity);
    if (x < free || x > width || x < -80) continue;
    context.fillText(text, x, 14);
    free = x + context.measureText(text).width + 8;
  }
  line(0, RULER, width, RULER);
}

function drawPlayhead() {
  if (view.playhead === null) return;
  const x = xOf(view.playhead);
  if (x < -1 || x > view.width) return;
  context.strokeStyle = view.colours.accent;
  context.lineWidth = 2;
  line(x, 0, x, view.height);
  context.fillStyle = view.colours.accent;
  context.beginPath();
  context.moveTo(x - 5, 0);
  context.lineTo(x + 5, 0);
  context.lineTo(x, 8);
  context.fill();
}
