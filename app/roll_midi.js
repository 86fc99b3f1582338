// Playing through a MIDI port (Web MIDI). Messages get the times of their notes and are sent a little before them, so
// that the port's own clock plays them, and a pause does not have to wait for many of them.

const LOOK_AHEAD = 200; // ms before its time that a message is sent
const TICK = 40; // ms between two looks at what is due
const LEAD = 120; // ms from the start of play to the first note; the programs are sent in this time
const SHORTEST = 5; // ms that a note lasts at least: drum tracks have notes without a length
const ENDS = 0, SILENCE = 1, PROGRAM = 2, BEGINS = 3; // order of messages at one time
const DRUM_CHANNEL = 9; // which people call 10
const NOTE_OFF = 0x80, NOTE_ON = 0x90, CONTROL = 0xb0, PROGRAM_CHANGE = 0xc0, ALL_NOTES_OFF = 123;

const midi = {
  access: null, // once the composer has asked for it
  port: null, // the chosen output, or null while the page sounds itself
  queue: [], // {time, rank, note or data}: what is not sent yet, in order
  held: new Map(), // channel and pitch -> the note that sounds
  channels: new Set(), // those that have been played on
  last: 0, // ms: the latest time of a message that is sent
  clock: null, // a worker, whose timers keep time while the page is hidden
  waiting: new Map(), // for the clock: number -> what to call
  asked: 0,
};

// The same as `pageSound`, through the port.
const portSound = {
  begin: async () => {},
  now: () => performance.now() / 1000,
  soonest: () => Math.max(performance.now() + LEAD, midi.last + LEAD) / 1000,
  prepare: async () => null,
  wait: tickOf,
  schedule: queueStretch,
  stop: silencePort,
};

// Each pitched track has a channel of its own as long as there are any; drums are on 10.
function channelOf(t) {
  const { tracks } = model.song;
  if (tracks[t].drum) return DRUM_CHANNEL;
  const place = tracks.slice(0, t).filter((track) => !track.drum).length % 15;
  return place < DRUM_CHANNEL ? place : place + 1;
}

function programAt(track, tick) {
  return track.programs.findLast(([from], k) => k === 0 || from <= tick)[1];
}

// Calls `each` with onset, duration, pitch and velocity of a track's notes that begin in [from, to), as they are heard.
function eachHeard(t, from, to, each) {
  const track = model.song.tracks[t], fill = model.running ? null : chosenFill(t);
  const look = (notes, isHeard) => {
    for (let i = firstNote(notes, from); i < notes.length && notes[i] < to; i += NOTE) {
      if (isHeard(notes, i)) each(notes[i], notes[i + 1], notes[i + 2], notes[i + 3]);
    }
  };
  const stays = (notes, i) => !fill || !isAnswered(t, barOf(notes, i)) || track.stays.has(`${notes[i]},${notes[i + 2]}`);
  look(track.notes, stays);
  if (fill) look(fill, () => true);
}

// Has bars [bar, end) played from `at` on (seconds of the port's clock). `isFirst`: play begins with them. `isLast`: the
// loop ends with them, and no note sounds into its next time round.
function queueStretch(_, at, { bar, end, isFirst, isLast }) {
  const { bars, tracks } = model.song, { queue } = midi, begin = bars[bar], until = bars[end];
  const timeOf = (tick) => 1000 * (at + seconds(tick) - seconds(begin));
  if (isLast) queue.push({ time: timeOf(until) - 1, rank: SILENCE }); // before the first notes of the next time
  for (const t of audibleTracks()) {
    const track = tracks[t], channel = channelOf(t);
    const change = (time, program) => queue.push({ time, rank: PROGRAM, data: [PROGRAM_CHANGE | channel, program] });
    // A later stretch may be the loop's first bars again, where another program may be in force than at its end.
    if (isFirst) change(timeOf(begin) - LEAD / 2, programAt(track, begin));
    else if (track.programs.length > 1) change(timeOf(begin), programAt(track, begin));
    for (const [tick, program] of track.programs.slice(1)) {
      if (tick > begin && tick < until) change(timeOf(tick), program);
    }
    eachHeard(t, begin, until, (onset, duration, pitch, velocity) => {
      const note = { channel, pitch, velocity, key: (channel << 7) | pitch };
      const time = timeOf(onset);
      queue.push({ time, rank: BEGINS, note });
      queue.push({ time: Math.max(timeOf(onset + duration), time + SHORTEST), rank: ENDS, note });
    });
  }
  queue.sort((a, b) => a.time - b.time || a.rank - b.rank);
  if (isFirst) sendDue(player.run);
}

async function sendDue(run) {
  while (run === player.run) {
    const horizon = performance.now() + LOOK_AHEAD;
    let count = 0;
    try {
      while (count < midi.queue.length && midi.queue[count].time <= horizon) act(midi.queue[count++]);
    } catch (error) {
      leavePort(`The MIDI port does not take notes: ${error.message}`);
      return;
    }
    midi.queue.splice(0, count);
    await tickOf(TICK);
  }
}

function act({ time, rank, note, data }) {
  if (rank === SILENCE) releaseAll(time);
  else if (rank === PROGRAM) send(data, time);
  else if (rank === ENDS) release(note, time);
  else {
    release(midi.held.get(note.key), time); // another track's on this channel, or one that overlaps
    send([NOTE_ON | note.channel, note.pitch, note.velocity], time);
    midi.held.set(note.key, note);
  }
}

// Ends a note, unless it has ended before.
function release(note, time) {
  if (!note || midi.held.get(note.key) !== note) return;
  send([NOTE_OFF | note.channel, note.pitch, 0], time);
  midi.held.delete(note.key);
}

function releaseAll(time) {
  for (const note of [...midi.held.values()]) release(note, time);
  for (const channel of midi.channels) send([CONTROL | channel, ALL_NOTES_OFF, 0], time);
}

function send(data, time) {
  midi.port.send(data, time);
  midi.channels.add(data[0] & 15);
  midi.last = Math.max(midi.last, time);
}

// Ends what sounds. What the port has been sent cannot be called back, so this comes right after the last of it.
function silencePort() {
  midi.queue.length = 0;
  if (!midi.channels.size) return;
  try {
    releaseAll(Math.max(performance.now(), midi.last));
  } catch {
    // the port is gone, and what sounded with it
  }
  midi.held.clear();
  midi.channels.clear();
}

// Resolves after some ms. The page's own timers run once a second, or a minute, while it is hidden; a worker's do not.
function tickOf(ms) {
  if (!midi.clock) {
    const code = "onmessage = ({ data: [id, ms] }) => setTimeout(() => postMessage(id), ms);";
    midi.clock = new Worker(URL.createObjectURL(new Blob([code], { type: "text/javascript" })));
    midi.clock.onmessage = ({ data: id }) => {
      midi.waiting.get(id)();
      midi.waiting.delete(id);
    };
  }
  return new Promise((done) => {
    const id = midi.asked++;
    midi.waiting.set(id, done);
    midi.clock.postMessage([id, ms]);
  });
}

// The choice of what to play through. The browser is only asked for MIDI once that is chosen.

const PAGE = "", ASK = "?"; // values of the choice beside the ids of ports
const through = find(".mr-through select");
find(".mr-through").hidden = !navigator.requestMIDIAccess;

function showPorts() {
  const ports = midi.access ? [...midi.access.outputs.values()].filter((port) => port.state === "connected") : [];
  const choices = [[PAGE, "this page"], ...ports.map((port) => [port.id, port.name || "a MIDI port"])];
  if (!ports.length) choices.push([ASK, "MIDI port …"]);
  through.replaceChildren(...choices.map(([value, text]) => new Option(text, value)));
  through.value = midi.port ? midi.port.id : PAGE;
}

async function askForPorts() {
  try {
    midi.access = midi.access || (await navigator.requestMIDIAccess());
  } catch (error) {
    complain(`The browser does not let the page use MIDI: ${error.message}`);
    return null;
  }
  midi.access.onstatechange = () => {
    if (midi.port && midi.port.state !== "connected") leavePort(`The MIDI port ${midi.port.name} is gone; the page plays by itself again.`);
    else showPorts();
  };
  const [first] = [...midi.access.outputs.values()].filter((port) => port.state === "connected");
  if (!first) complain("There is no MIDI port; start a synthesizer or a DAW that has one, and choose again.");
  return first || null;
}

async function chooseThrough() {
  const port = through.value === ASK ? await askForPorts() : midi.access?.outputs.get(through.value) || null;
  playThrough(port);
}

// Goes on playing through the port, or (null) through the page.
function playThrough(port) {
  const goesOn = player.playing && port !== midi.port;
  if (port !== midi.port) stop();
  midi.port = port;
  player.out = port ? portSound : pageSound;
  showPorts();
  if (goesOn) play();
}

function leavePort(why) {
  stop();
  playThrough(null);
  complain(why);
}

through.addEventListener("change", chooseThrough);
// A page that is left plays nothing; what has been sent may go with it, so silence does not wait for that.
addEventListener("pagehide", () => {
  if (midi.port?.state === "connected") for (const channel of midi.channels) midi.port.send([CONTROL | channel, ALL_NOTES_OFF, 0]);
  stop();
});
showPorts();
