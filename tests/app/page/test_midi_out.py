"""Playing through a MIDI port, in a browser whose port writes down what it is sent."""

from itertools import pairwise
from pathlib import Path

import pytest

from midi_rwkv.score.midi import read_midi

pytestmark = pytest.mark.slow
SONG = Path(__file__).parents[3] / "app" / "examples" / "pop_band.mid"
WITHIN = 5.0  # ms
BAR = 1920
PORT = """(() => {
    window.asked = 0;
    window.sent = [];  // [bytes, time, when it was sent]
    const send = (bytes, time) => {
        if (port.state !== "connected") throw new DOMException("the port is gone", "InvalidStateError");
        window.sent.push([[...bytes], time ?? performance.now(), performance.now()]);
    };
    const port = { id: "7", name: "Synth", state: "connected", send };
    window.access = { outputs: new Map([["7", port]]), inputs: new Map(), onstatechange: null };
    navigator.requestMIDIAccess = async () => (window.asked++, window.access);
})()"""
REFUSED = "navigator.requestMIDIAccess = async () => { throw new DOMException('not allowed', 'SecurityError'); }"
ABSENT = "delete Navigator.prototype.requestMIDIAccess"


@pytest.fixture
def with_midi(browser, visit):
    """`with_midi(script)`: the page in a browser in which this script has run."""
    contexts = []

    def go(script):
        contexts.append(browser.new_context(viewport={"width": 1280, "height": 800}))
        contexts[-1].add_init_script(script)
        return visit(context=contexts[-1])

    yield go
    for context in contexts:
        assert [page.errors for page in context.pages] == [[]]
        context.close()


def kind(message, *kinds):
    return message[0][0] & 0xF0 in kinds


def notes_of(sent):
    """[channel, pitch, velocity, start, end] of what was sent, times in ms; checks that each note ends once."""
    held, notes = {}, []
    for message, time, _ in sent:
        key = message[0] & 15, message[1]
        if kind([message], 0x90):
            assert key not in held
            held[key] = [*key, message[2], time, None]
        elif kind([message], 0x80):
            held[key][4] = time
            notes.append(held.pop(key))
    assert held == {}
    return sorted(notes)


def clock(score):
    """A function from ticks to ms."""
    points = [*((t.tick, t.microseconds_per_beat / 1000 / score.ticks_per_beat) for t in score.tempos), (2**40, 0)]
    return lambda tick: sum((min(b, tick) - a) * pace for (a, pace), (b, _) in pairwise(points) if a < tick)


def written(score):
    """[channel, pitch, velocity, start] of a song's notes, times in ms. Pitched tracks have channels 0-8, 10-15."""
    pitched, notes, ms = 0, [], clock(score)
    for track in score.tracks:
        channel = 9 if track.is_drum else pitched + (pitched > 8)
        pitched += not track.is_drum
        notes += [[channel, n.pitch, n.velocity, ms(n.onset_ticks)] for n in track.notes]
    return sorted(notes)


def choose_port(page):
    page.get_by_label("Play through").select_option("MIDI port …")
    page.wait("document.querySelector('.mr-through select').value === '7'")


def play(page, ms):
    """Plays for some ms from the first note on."""
    page.press("Play")
    page.wait(f"window.sent.some(([[kind], time]) => kind >> 4 === 9 && performance.now() > time + {ms})")


def sent_after_pause(page):
    page.press("Pause")
    sent = page.evaluate("window.sent")
    page.wait_for_timeout(400)
    assert page.evaluate("window.sent.length") == len(sent)
    return sent


def test_the_port_plays_the_song_in_time(with_midi):
    page = with_midi(PORT)
    page.example("Pop band", "pop_band.mid")
    assert page.get_by_label("Play through").input_value() == ""
    assert page.evaluate("window.asked") == 0
    choose_port(page)
    assert page.evaluate("window.asked") == 1
    play(page, 2000)
    assert page.roll("player.playing && player.sources.length === 0 && player.audio === null")  # the page is silent
    assert page.roll("player.position > 0")
    sent = sent_after_pause(page)

    score = read_midi(SONG)
    programs = [[0xC0 | (9 if t.is_drum else k), t.program] for k, t in zip([0, *range(9)], score.tracks, strict=False)]
    assert [m for m, *_ in sent[: len(programs)]] == programs
    start = min(time for m, time, _ in sent if kind([m], 0x90))
    assert all(time < start for _, time, _ in sent[: len(programs)])

    played, wanted = notes_of(sent), written(score)
    first = min(n[3] for n in wanted)
    heard = [n for n in played if n[3] - start < 2000 - WITHIN]
    due = [n for n in wanted if n[3] - first < 2000 - WITHIN]
    assert len(due) > 20
    assert [n[:3] for n in heard] == [n[:3] for n in due]
    jitter = max(abs(h[3] - start - (d[3] - first)) for h, d in zip(heard, due, strict=True))
    lead = min(time - when for m, time, when in sent if kind([m], 0x90))
    print(f"worst jitter {jitter:.6f} ms, shortest lead {lead:.1f} ms")
    assert jitter <= WITHIN

    channels = {m[0] & 15 for m, *_ in sent}
    ending = sent[-len(channels) :]
    assert {tuple(m) for m, *_ in ending} == {(0xB0 | c, 123, 0) for c in channels}
    assert max(time for _, time, _ in sent) == ending[0][1]  # nothing that was sent is due after it


def test_tempos_programs_and_channels_to_the_end(with_midi, build_midi, note, tmp_path):
    tempos = [(0, (100_000).to_bytes(3, "big")), (2 * BAR, (61_237).to_bytes(3, "big"))]
    tracks = [[(tick, b"\xff\x51\x03" + pace) for tick, pace in tempos]]
    quarters = range(0, 12 * BAR, BAR // 4)
    tracks.append([e for tick in quarters for e in note(tick, 36, 1, channel=9)])  # drums of one tick
    for channel in [*range(9), 10]:
        tracks.append([(0, bytes([0xC0 | channel, 20 + channel]))])
        tracks[-1] += [e for tick in quarters for e in note(tick, 50 + channel, 400, channel=channel)]
    tracks[2].insert(1 + 2 * 4 * 5, (5 * BAR, bytes([0xC0, 99])))
    song = tmp_path / "song.mid"
    song.write_bytes(build_midi(tracks))
    page = with_midi(PORT)
    page.open(song)
    choose_port(page)
    page.press("Play")
    page.wait("!player.playing")
    sent = page.evaluate("window.sent")
    assert page.roll("player.position") == 0

    played, wanted = notes_of(sent), written(read_midi(song))
    start = min(n[3] for n in played)
    assert [n[:3] for n in played] == [n[:3] for n in wanted]
    assert max(abs(p[3] - start - w[3]) for p, w in zip(played, wanted, strict=True)) < WITHIN
    assert {n[0] for n in played} == {*range(9), 9, 10}
    lengths = {round(end - begin, 2) for channel, _, _, begin, end in played if channel == 9}
    assert lengths == {5.0}  # long enough to be heard
    programs = [(m[0] & 15, m[1], round(time - start)) for m, time, _ in sent if kind([m], 0xC0)]
    ms = clock(read_midi(song))
    assert (0, 99, round(ms(5 * BAR))) in programs
    assert [p[:2] for p in programs if p[2] < 0] == [(9, 0), *((c, 20 + c) for c in [*range(9), 10])]


def test_a_candidate_is_played_where_it_stands(with_midi):
    page = with_midi(PORT)
    page.example("Piano", "piano.mid")
    page.drag(0, 1, 0, 2)
    page.candidates(1)
    page.infill(seed=3)
    choose_port(page)
    play(page, 2500)
    played = [n for n in notes_of(sent_after_pause(page)) if n[0] == 0]
    own, fill = page.roll("[model.song.tracks[0].notes, model.candidates[0].fill[0]]")
    rows = [[flat[i : i + 5] for i in range(0, len(flat), 5)] for flat in (own, fill)]
    due = sorted([n for n in rows[0] if n[4] not in (1, 2)] + rows[1])
    assert len(played) > 4
    assert [n[4] for n in due[: len(played)]].count(1) > 1  # notes of the candidate are among them
    assert sorted((n[1], n[2]) for n in played) == sorted((n[2], n[3]) for n in due[: len(played)])


def test_seeking_looping_muting_and_leaving_leave_no_note_behind(with_midi):
    page = with_midi(PORT)
    page.example("Pop band", "pop_band.mid")
    page.drag(1, 20, 1, 20)
    choose_port(page)
    play(page, 300)
    count = page.evaluate("window.sent.length")
    page.mouse.click(page.at(0, 10)[0], page.on_screen(0, 10)[1])  # on the ruler
    again = f"window.sent.slice({count}).findIndex(([[kind]]) => kind >> 4 === 12)"  # its programs come first
    page.wait(f"{again} >= 0 && window.sent.slice({count} + {again}).some(([[kind]]) => kind >> 4 === 9)")
    after = page.evaluate(f"window.sent.slice({count})")
    silence = [time for m, time, _ in after if m[1:] == [123, 0]]
    following = after[[kind(e, 0xC0) for e in after].index(True) :]
    assert silence
    assert min(time for m, time, _ in following if kind([m], 0x90)) > max(silence)  # what is new is not silenced

    page.locator('[title="Mute Bass"]').click()
    page.wait_for_timeout(600)
    page.press("Loop marked")
    page.wait("player.position >= model.song.bars[20] && player.position < model.song.bars[21]")
    page.evaluate("window.sent = []")
    page.wait("window.sent.filter(([m]) => m[1] === 123 && m[0] === 0xb9).length === 3")  # three times round
    page.evaluate("dispatchEvent(new Event('pagehide'))")
    sent = page.evaluate("window.sent")
    rounds = [time for m, time, _ in sent if m[:2] == [0xB9, 123]][:3]
    score = read_midi(SONG)
    start, end = (clock(score)(score.bar(bar).start_ticks) for bar in (20, 21))
    assert all(abs(b - a - (end - start)) < WITHIN for a, b in pairwise(rounds))
    assert not [m for m, *_ in sent if m[0] == 0x90]  # Bass, the first pitched track, is muted
    begun = next(k for k, e in enumerate(sent) if e[0][:2] == [0xB9, 123])
    notes_of([e for e in sent[begun:] if kind(e, 0x80, 0x90)])
    assert page.roll("player.playing") is False
    assert sent[-1][0][1] == 123


def test_a_port_that_goes_a_browser_that_refuses_and_one_without(with_midi):
    page = with_midi(PORT)
    page.example("Pop band", "pop_band.mid")
    choose_port(page)
    play(page, 100)
    page.evaluate(
        "() => { const [port] = access.outputs.values(); port.state = 'disconnected'; access.onstatechange({ port }); }"
    )
    assert page.status() == "The MIDI port Synth is gone; the page plays by itself again."
    assert page.roll("player.playing") is False
    assert page.get_by_label("Play through").input_value() == ""
    assert page.get_by_label("Play through").locator("option").all_inner_texts() == ["this page", "MIDI port …"]

    page = with_midi(REFUSED)
    page.get_by_label("Play through").select_option("MIDI port …")
    page.locator(".mr-error").wait_for()
    assert page.status() == "The browser does not let the page use MIDI: not allowed"
    assert page.get_by_label("Play through").input_value() == ""

    page = with_midi(ABSENT)
    assert not page.get_by_label("Play through").is_visible()
