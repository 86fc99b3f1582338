// The page's model of the song, parsed from the component's value, with one JSON value per line (see view.py).
// All of these files are joined into one function body: element, trigger, props, watch and server are Gradio's.

const model = {
  song: null, // line 1: bars, tracks, notes
  songLine: "",
  cells: new Set(), // "track,bar"
  locked: new Set(), // "track,onset,pitch"
  answered: new Set(), // the cells that the candidates are for
  candidates: [], // {seed, fill: {track: flat notes}}; while they are being written, what there is of them
  chosen: -1, // -1: the song as it stands
  status: null, // {text, done, total}
  running: false,
  undo: "", // what undo would take back
  redo: "",
};

const NOTE = 5; // numbers a note: onset, duration, pitch, velocity, the bar that it belongs to

function cellKey(track, bar) {
  return track + "," + bar;
}

function readValue(value) {
  const lines = (value || "").split("\n");
  if (lines[0] !== model.songLine) {
    model.songLine = lines[0];
    model.song = lines[0] ? readSong(JSON.parse(lines[0])) : null;
  }
  if (lines.length < 2) return;
  const view = JSON.parse(lines[1]);
  model.cells = new Set(view.cells.map(([t, b]) => cellKey(t, b)));
  model.locked = new Set(view.locked.map((x) => x.join(",")));
  model.candidates = view.candidates;
  model.chosen = view.chosen;
  model.answered = new Set(view.answered.map(([t, b]) => cellKey(t, b)));
  model.running = view.running > 0;
  model.undo = view.undo;
  model.redo = view.redo;
  model.status = view.status;
  if (model.running) {
    model.candidates = Array.from({ length: view.running }, () => ({ seed: view.seed, fill: {} }));
    model.chosen = Math.min(Math.max(shownWhileRunning, 0), view.running - 1);
  }
  for (const { fill } of model.candidates) {
    for (const t of Object.keys(fill)) makeRoom(model.song.tracks[t], fill[t]);
  }
  for (const line of lines.slice(2)) {
    const event = JSON.parse(line);
    if (event.status) model.status = event.status;
    if (event.notes) {
      event.notes.forEach((notes, i) => {
        const fill = model.candidates[i].fill;
        fill[event.track] = (fill[event.track] || []).concat(notes);
        makeRoom(model.song.tracks[event.track], notes);
      });
    }
  }
}

function readSong(song) {
  for (const track of song.tracks) {
    const notes = track.notes;
    let low = 127, high = 0, longest = 0;
    for (let i = 0; i < notes.length; i += NOTE) {
      low = Math.min(low, notes[i + 2]);
      high = Math.max(high, notes[i + 2]);
      longest = Math.max(longest, notes[i + 1]);
    }
    track.longest = longest;
    track.stays = new Set(track.stays.map(([onset, pitch]) => `${onset},${pitch}`));
    if (track.drum) {
      track.rows = [...new Set(notes.filter((_, i) => i % NOTE === 2))].sort((a, b) => a - b);
    } else {
      const middle = (low + high) / 2 || 60;
      track.low = Math.max(0, Math.floor(Math.min(low, middle - 7)) - 1);
      track.high = Math.min(127, Math.ceil(Math.max(high, middle + 7)) + 1);
    }
  }
  song.end = song.bars[song.bars.length - 1];
  return song;
}

// New notes may be outside the lane's range.
function makeRoom(track, notes) {
  for (let i = 2; i < notes.length; i += NOTE) {
    if (!track.drum) {
      track.low = Math.max(0, Math.min(track.low, notes[i] - 1));
      track.high = Math.min(127, Math.max(track.high, notes[i] + 1));
    } else if (!track.rows.includes(notes[i])) {
      track.rows = [...track.rows, notes[i]].sort((a, b) => a - b);
    }
  }
}

function barAt(tick) {
  const bars = model.song.bars;
  let lo = 0, hi = bars.length - 1;
  while (lo + 1 < hi) {
    const mid = (lo + hi) >> 1;
    if (bars[mid] <= tick) lo = mid;
    else hi = mid;
  }
  return lo;
}

function barCount() {
  return model.song.bars.length - 1;
}

// The index of the first note that may sound at `tick` or later.
function firstNote(notes, tick) {
  let lo = 0, hi = notes.length / NOTE;
  while (lo < hi) {
    const mid = (lo + hi) >> 1;
    if (notes[mid * NOTE] < tick) lo = mid + 1;
    else hi = mid;
  }
  return lo * NOTE;
}

// The bar that the note at index `i` belongs to; an early note belongs to the bar after.
function barOf(notes, i) {
  return notes[i + 4];
}

function isMarked(track, bar) {
  return model.cells.has(cellKey(track, bar));
}

function isAnswered(track, bar) {
  return model.answered.has(cellKey(track, bar));
}

// The chosen candidate's notes for a track, or null if the song as it is is shown.
function chosenFill(track) {
  const candidate = model.candidates[model.chosen];
  return candidate ? candidate.fill[track] || (model.running ? null : []) : null;
}

function seconds(tick) {
  const { tempos, ticksPerBeat } = model.song;
  let total = 0;
  for (let i = 0; i < tempos.length; i++) {
    const [from, bpm] = tempos[i];
    const to = i + 1 < tempos.length ? Math.min(tempos[i + 1][0], tick) : tick;
    if (to > from) total += ((to - from) * 60) / bpm / ticksPerBeat;
  }
  return total;
}

function tickAt(time) {
  const { tempos, ticksPerBeat } = model.song;
  for (let i = tempos.length - 1; i >= 0; i--) {
    const begin = seconds(tempos[i][0]);
    if (time >= begin || i === 0) return tempos[i][0] + ((time - begin) * tempos[i][1] * ticksPerBeat) / 60;
  }
  return 0;
}

// The marked region in words: "bars 8-12 of Bass, Lead".
function regionText() {
  if (!model.cells.size) return "nothing marked: drag over the bars that you want written anew";
  const byTrack = new Map();
  for (const key of model.cells) {
    const [t, b] = key.split(",").map(Number);
    byTrack.set(t, [...(byTrack.get(t) || []), b]);
  }
  const byBars = new Map();
  for (const [t, bars] of [...byTrack].sort((a, b) => a[0] - b[0])) {
    bars.sort((a, b) => a - b);
    const runs = [];
    for (const b of bars) {
      if (runs.length && runs[runs.length - 1][1] === b - 1) runs[runs.length - 1][1] = b;
      else runs.push([b, b]);
    }
    const first = model.song.firstBar;
    const text = runs.map(([lo, hi]) => (lo === hi ? `${lo + first}` : `${lo + first}-${hi + first}`)).join(", ");
    byBars.set(text, [...(byBars.get(text) || []), model.song.tracks[t].name]);
  }
  return [...byBars].map(([bars, names]) => `bar${/[-,]/.test(bars) ? "s" : ""} ${bars} of ${names.join(", ")}`).join("; ");
}
