// Playing: the server renders sections of bars, which are joined here, or a MIDI port plays them (roll_midi.js); a
// playhead follows.

const AHEAD = 2.5; // seconds before a stretch ends at which the next one is asked for
const player = { out: null, audio: null, playing: false, loop: false, run: 0, from: 0, sources: [], plan: [], position: 0 };
const rendered = new Map(); // key -> Promise of an AudioBuffer

// What plays, with a clock in seconds. `portSound` is the other.
const pageSound = {
  async begin() {
    player.audio = player.audio || new AudioContext();
    await player.audio.resume();
  },
  now: () => player.audio.currentTime,
  soonest: () => player.audio.currentTime + 0.06,
  prepare: stretch,
  wait: (ms) => new Promise((done) => setTimeout(done, ms)),
  schedule,
  stop() {
    for (const source of player.sources) {
      try {
        source.stop();
      } catch {
        // it had not begun
      }
    }
    player.sources = [];
  },
};
player.out = pageSound;

function markedSpan() {
  const bars = [...model.cells].map((key) => Number(key.split(",")[1]));
  return bars.length ? [Math.min(...bars), Math.max(...bars) + 1] : null;
}

function audibleTracks() {
  return model.song.tracks.map((_, t) => t).filter(audible);
}

async function stretch(first, last) {
  const request = {
    tab: window.midiRwkvTab, version: model.song.version, first, last, candidate: model.running ? -1 : model.chosen, tracks: audibleTracks(),
  };
  const key = JSON.stringify([request, model.running ? "" : model.candidates[model.chosen]]);
  if (!rendered.has(key)) {
    if (rendered.size > 40) rendered.delete(rendered.keys().next().value);
    rendered.set(key, fetchStretch(request).catch((error) => (rendered.delete(key), Promise.reject(error))));
  }
  return rendered.get(key);
}

async function fetchStretch(request) {
  const text = await server.sound(request);
  if (text.error) throw new Error(text.error);
  const bytes = Uint8Array.from(atob(text.wav), (c) => c.charCodeAt(0));
  return player.audio.decodeAudioData(bytes.buffer);
}

function togglePlay() {
  if (player.playing) stop();
  else play();
}

function playMarked() {
  const span = markedSpan();
  if (span) player.position = model.song.bars[span[0]];
  stop();
  play();
}

async function play() {
  if (!model.song) return;
  const { out } = player;
  await out.begin();
  const run = ++player.run;
  player.playing = true;
  find('[data-do="play"]').textContent = "❚❚ Pause";
  const span = player.loop ? markedSpan() : null;
  let bar = barAt(player.position);
  if (bar >= lastBar()) bar = 0;
  if (span && (bar < span[0] || bar >= span[1])) bar = span[0];
  player.plan = [];
  let at = 0;
  try {
    for (let k = 0; run === player.run; k++) {
      let end = Math.min(bar + (k ? 8 : 4), span ? span[1] : lastBar());
      if (end <= bar) break;
      const prepared = await out.prepare(bar, end);
      if (run !== player.run) return;
      if (k === 0) {
        at = out.soonest();
        requestAnimationFrame(() => follow(run));
      }
      at = Math.max(at, out.now() + 0.01);
      const until = at + seconds(model.song.bars[end]) - seconds(model.song.bars[bar]);
      player.plan.push({ at, begin: seconds(model.song.bars[bar]), until });
      out.schedule(prepared, at, { bar, end, isFirst: k === 0, isLast: !!span && end >= span[1] });
      at = until;
      bar = end;
      if (span && bar >= span[1]) bar = span[0];
      while (run === player.run && at - out.now() > AHEAD) await out.wait(100);
    }
    while (run === player.run && out.now() < at) await out.wait(60);
    if (run === player.run) {
      stop();
      player.position = 0;
      redraw();
    }
  } catch (error) {
    stop();
    complain(`No sound: ${error.message}`);
  }
}

// Has a stretch sound from `at` on (seconds of the audio clock).
function schedule(buffer, at) {
  const source = player.audio.createBufferSource();
  source.buffer = buffer;
  source.connect(player.audio.destination);
  source.start(at);
  player.sources.push(source);
}

// The bar after the last one that sounds.
function lastBar() {
  const answered = model.chosen >= 0 ? [...model.answered].map((key) => Number(key.split(",")[1]) + 1) : [];
  return Math.max(model.song.ownBars, ...answered);
}

function stop() {
  player.run++;
  player.playing = false;
  player.out.stop();
  find('[data-do="play"]').textContent = "▶ Play";
}

function seek(tick) {
  player.position = tick;
  view.playhead = tick;
  showPosition();
  redraw();
  if (player.playing) soundChanged();
}

// After another candidate, mute or solo, or another position: continue from the bar that is playing.
function soundChanged() {
  if (!player.playing) return;
  stop();
  play();
}

function toggleLoop() {
  player.loop = !player.loop;
  find('[data-do="loop"]').setAttribute("aria-pressed", String(player.loop));
  enableButtons();
  soundChanged();
}

function follow(run) {
  if (run !== player.run) return;
  const now = player.out.now();
  const part = player.plan.findLast((p) => now >= p.at) || player.plan[0];
  if (part) {
    const time = part.begin + Math.min(Math.max(now - part.at, 0), part.until - part.at);
    player.position = view.playhead = tickAt(time);
    const x = xOf(view.playhead);
    if (x > view.width * 0.95 || x < 0) scroller.scrollLeft = view.playhead * view.scale - view.width * 0.1;
    showPosition();
    draw();
  }
  requestAnimationFrame(() => follow(run));
}

function showPosition() {
  const time = seconds(player.position);
  const minutes = Math.floor(time / 60);
  find(".mr-at").textContent = `bar ${barAt(player.position) + model.song.firstBar}  ${minutes}:${(time % 60).toFixed(1).padStart(4, "0")}`;
}
