"""Reading, refusing and writing MIDI files. The splice itself is in test_splice.py."""

import io
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midi_rwkv.errors import MidiError
from midi_rwkv.score import midi as midi
from midi_rwkv.score import smf as smf
from midi_rwkv.score.midi import check_output, load_midi, read_midi, write_candidates, write_midi
from midi_rwkv.score.score import Note, Region, Score

TEMPO = b"\xff\x51\x03\x07\xa1\x20"


def signature(numerator, power):
    return bytes([0xFF, 0x58, 4, numerator, power, 24, 8])


def name(text):
    return b"\xff\x03" + bytes([len(text)]) + text


def test_reads_notes_tracks_tempos_and_signatures(build_midi, note):
    conductor = [(0, TEMPO), (0, signature(3, 2)), (1440, signature(7, 3)), (2000, b"\xff\x51\x03\x0f\x42\x40")]
    bass = [(0, name(b"Bass")), (0, b"\xc1\x21"), *note(0, 40, 480, 90, channel=1), *note(480, 43, 1, 7, channel=1)]
    drums = [(0, name(b"Kit")), *note(0, 36, 10, channel=9)]
    score = read_midi(build_midi([conductor, bass, drums, []]), name="song.mid")
    assert score.name == "song.mid"
    assert [(t.name, t.program, t.is_drum, t.chunk, t.channel) for t in score.tracks] == [
        ("Bass", 33, False, 1, 1),
        ("Kit", 0, True, 2, 9),
    ]
    assert score.tracks[0].notes == (Note(0, 40, 480, 90), Note(480, 43, 1, 7))
    assert [(b.start_ticks, b.numerator, b.denominator) for b in score.bars] == [(0, 3, 4), (1440, 7, 8)]
    assert [t.beats_per_minute for t in score.tempos] == [120, 60]


@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize("running", [False, True])
def test_channels_of_one_chunk_are_tracks(build_midi, note, kind, running):
    events = [(0, name(b"All")), (0, b"\xc0\x05"), (0, b"\xc3\x28")]
    for beat in range(8):
        on, off = note(beat * 480, 60, 480, channel=0)
        events += [on, (on[0], bytes([0x93, 64, 70])), off, (off[0], bytes([0x93, 64, 0]))]
    score = read_midi(build_midi([sorted(events, key=lambda e: e[0])], kind=kind, running=running))
    assert [(t.name, t.program, t.channel, len(t.notes)) for t in score.tracks] == [
        ("All ch 1", 5, 0, 8),
        ("All ch 4", 40, 3, 8),
    ]
    assert {n.duration_ticks for t in score.tracks for n in t.notes} == {480}


def test_program_of_a_channel_may_stand_in_another_chunk(build_midi, note):
    setup = [(0, b"\xc0\x10"), (0, b"\xc1\x11"), (960, b"\xc1\x12"), (961, b"\xc1\x13")]
    own = [(0, b"\xc0\x20"), *note(0, 60, 10)]
    score = read_midi(build_midi([setup, own, note(0, 60, 10), note(960, 60, 10, channel=1)]))
    assert [t.program for t in score.tracks] == [32, 32, 18]
    assert read_midi(build_midi([note(0, 60, 10)])).tracks[0].program == 0


def test_of_overlapping_notes_the_first_ends_first(build_midi):
    on, off = b"\x90\x3c\x50", b"\x80\x3c\x00"
    score = read_midi(build_midi([[(0, on), (100, on), (150, off), (300, off), (400, off)]]))
    assert [n[:3] for n in score.tracks[0].notes] == [(0, 60, 150), (100, 60, 200)]


def test_a_note_without_note_off_ends_at_the_next_of_its_pitch_or_with_its_track(build_midi):
    on, off = b"\x90\x3c\x50", b"\x80\x3c\x00"
    lost = read_midi(build_midi([[(0, on), (100, on), (150, off), (200, on), (260, off), (300, on)]], end=400))
    assert [n[:3] for n in lost.tracks[0].notes] == [(0, 60, 100), (100, 60, 50), (200, 60, 60), (300, 60, 100)]
    absurd = read_midi(build_midi([[(0, on)]], end=smf.MAX_DELTA_TICKS))
    assert absurd.tracks[0].notes == (Note(0, 60, 4 * 480, 80),)
    assert len(absurd.bars) == 1


def test_the_song_ends_with_its_music_not_with_its_end_of_track(build_midi, note):
    assert len(read_midi(build_midi([note(0, 60, 1920)], end=100_000)).bars) == 1
    assert len(read_midi(build_midi([note(0, 60, 1921)])).bars) == 2
    assert len(read_midi(build_midi([[*note(0, 60, 10), (1920, signature(3, 2))]])).bars) == 2


def test_unknown_chunks_running_status_over_meta_and_bytes_after_the_end_are_read_over(build_midi):
    body = b"\x00\x90\x3c\x50\x60\xff\x01\x01x\x00\x3c\x00\x00\xff\x2f\x00trailing"
    chunk = b"MTrk" + struct.pack(">I", len(body)) + body
    data = build_midi([b"XFIH\x00\x00\x00\x02ab", chunk]) + b"more bytes"
    assert read_midi(data).tracks[0].notes == (Note(0, 60, 96, 80),)


def test_names_are_one_line_of_text_in_any_encoding(build_midi, note):
    names = {
        "Große Flöte".encode(): "Große Flöte",
        "Flöte".encode("latin-1"): "Flöte",
        b"a\nb\x00\t c": "a b c",
        b"": "",
    }
    for raw, shown in names.items():
        assert read_midi(build_midi([[(0, name(raw)), *note(0, 60, 10)]])).tracks[0].name == shown


def test_reads_paths_streams_and_bytes(build_midi, note, tmp_path):
    data = build_midi([note(0, 60, 10)])
    path = tmp_path / "a.mid"
    path.write_bytes(data)
    scores = [read_midi(source) for source in (data, path, str(path), io.BytesIO(data))]
    assert [s.name for s in scores] == ["song", "a.mid", "a.mid", "song"]
    assert len({s.tracks for s in scores}) == 1


def header(kind=1, count=1, division=480, size=6):
    return b"MThd" + struct.pack(">IHHH", size, kind, count, division)


BAD = {
    "empty": (b"", "not a MIDI file"),
    "text": (b"hello world, this is no music", "not a MIDI file"),
    "rmi": (b"RIFF\x00\x00\x00\x00RMIDdata", "RIFF-wrapped"),
    "short header": (header()[:9], "truncated"),
    "long header": (header(size=6000) + b"\x00" * 10, "truncated"),
    "small header": (header(size=2) + b"\x00" * 10, "header claims 2 bytes"),
    "no chunk": (header(), "truncated"),
    "half a chunk": (header() + b"MTrk\x00\x00\x00\x10\x00\x90\x3c", "truncated"),
    "type 2": (header(kind=2), "type 2"),
    "zero tracks": (header(count=0), "zero tracks"),
    "60,000 tracks": (header(count=60_000) + b"MTrk\x00\x00\x00\x00" * 60_000, "60,000 tracks; at most 256"),
    "tpq 0": (header(division=0), "0 ticks per quarter"),
    "SMPTE": (header(division=0xE728), "SMPTE frames (25 a second)"),
}
BAD_EVENTS = {
    "no notes": ([(0, TEMPO)], "no notes"),
    "only note-offs": ([(0, b"\x80\x3c\x00"), (0, b"\x90\x3c\x00")], "no notes"),
    "metre 0/0": ([(0, signature(0, 0))], "time signature of 0/2^0"),
    "metre 4/2^200": ([(0, signature(4, 200))], "time signature of 4/2^200"),
    "metre of one byte": ([(0, b"\xff\x58\x01\x04")], "time signature of 4/2^255 at tick 0"),
    "tempo 0": ([(0, b"\xff\x51\x03\x00\x00\x00")], "tempo of 0"),
    "short tempo": ([(7, b"\xff\x51\x01\x07")], "tempo of 7 microseconds a beat (1 bytes) at tick 7"),
    "data byte": ([(0, b"\x90\x3c\xff")], "damaged"),
    "undefined status": ([(0, b"\xf4")], "damaged"),
    "no status": ([(0, b"\x3c\x40")], "damaged"),
    "long meta": ([(0, b"\xff\x01\x7f")], "damaged"),
    "five-byte length": ([(0, b"\xff\x01\x80\x80\x80\x80\x00")], "damaged"),
    "bars without end": ([(0, signature(1, 7)), (2**27, b"\x90\x3c\x40")], "20,000 bars"),
    "ticks without end": ([(k * 2**27, b"\x90\x3c\x40") for k in range(17)], "2,147,483,647"),
}


@pytest.mark.parametrize("case", BAD)
def test_refuses_a_bad_file_in_one_line(case):
    data, expected = BAD[case]
    refuses(data, expected)


@pytest.mark.parametrize("case", BAD_EVENTS)
def test_refuses_bad_events_in_one_line(case, build_midi):
    events, expected = BAD_EVENTS[case]
    refuses(build_midi([events]), expected)


def refuses(source, expected):
    with pytest.raises(MidiError) as caught:
        read_midi(source)
    message = str(caught.value)
    assert expected in message
    assert "\n" not in message
    assert ";" in message, "what is wrong; what helps"


def test_refuses_470_million_bars_in_600_bytes(build_midi, note):
    song = [
        (0, signature(1, 7)),
        *note(0, 60, 1),
        (235_000_000, b"\xb0\x01\x00"),
        (470_000_000, b"\xb0\x01\x00"),
    ]
    data = build_midi([song], ticks_per_beat=32)
    assert len(data) < 600
    refuses(data, "20,000 bars")


def test_allows_an_empty_song_when_asked(build_midi):
    assert read_midi(build_midi([[]]), allow_empty=True).tracks == ()


def test_limits_on_notes_and_events(build_midi, note, monkeypatch):
    data = build_midi([note(0, 60, 10) + note(20, 60, 10) + note(40, 60, 10)])
    monkeypatch.setattr(midi, "MAX_NOTES", 2)
    refuses(data, "more than 2 notes")
    monkeypatch.setattr(smf, "MAX_EVENTS", 4)
    refuses(data, "more than 4 events")


def test_a_big_file_is_refused_unread(tmp_path):
    path = tmp_path / "big.mid"
    with open(path, "wb") as file:
        file.truncate(50_000_000)
    refuses(path, "50,000,000 bytes, at most 20,000,000")
    refuses(io.BytesIO(b"MThd" + bytes(20_000_000)), "too big")
    refuses(Path("/dev/zero"), "too big")


def test_unreadable_paths(tmp_path):
    refuses(tmp_path / "missing.mid", "there is no file")
    refuses(tmp_path, "is a folder")
    refuses("a\0b.mid", "cannot read")
    refuses(str(tmp_path / ("x" * 300)), "cannot read")
    refuses(tmp_path / "two\nlines.mid", "there is no file")


@settings(max_examples=300)
@given(data=st.data())
def test_any_bytes_are_read_or_refused(data, build_midi, note):
    """Mutations of a good file: whatever comes of it, it is a Score or a MidiError."""
    events = [(0, name(b"Piano")), (0, TEMPO), (0, signature(4, 2)), *note(0, 60, 480), (5, b"\xf0\x02\x01\xf7")]
    raw = bytearray(build_midi([sorted(events, key=lambda e: e[0]), note(9, 61, 9, channel=9)], running=True))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
        if not raw:
            break
    score = read_or_refuse(bytes(raw))
    assert all(n.duration_ticks > 0 and n.velocity > 0 for t in score.tracks for n in t.notes)


@settings(max_examples=200)
@given(st.binary(max_size=80))
def test_any_track_bytes_are_read_or_refused(body):
    read_or_refuse(header() + b"MTrk" + struct.pack(">I", len(body)) + body)


def read_or_refuse(data):
    """The score, one without tracks where the file is refused. Lets any other error through."""
    try:
        return read_midi(data)
    except MidiError as error:
        if "\n" in str(error):
            raise AssertionError("a message of several lines") from error
        return Score(480, ())


@pytest.fixture
def song(build_midi, note):
    """A file, its score, a region and its fill."""
    data = build_midi([note(0, 60, 480) + note(1920, 62, 480)])
    return data, read_midi(data), Region.rectangle([0], [(1, 2)]), {0: [Note(2000, 70, 100, 90)]}


def write(path, source, score, region, fills, **options):
    write_midi(path, source, score, region, fills=fills, **options)


def test_writes_the_splice(song, tmp_path):
    source = tmp_path / "in.mid"
    source.write_bytes(song[0])
    for given_source in (song[0], source, str(source)):
        write(tmp_path / "out.mid", given_source, *song[1:], overwrite=True)
        assert read_midi(tmp_path / "out.mid").tracks[0].notes == (Note(0, 60, 480, 80), Note(2000, 70, 100, 90))
    assert sorted(os.listdir(tmp_path)) == ["in.mid", "out.mid"]


def refuses_to_write(path, song, expected, **options):
    with pytest.raises(MidiError, match=expected) as caught:
        write(path, *song, **options)
    assert "\n" not in str(caught.value)


def test_an_existing_output_is_kept_unless_overwritten(song, tmp_path):
    path = tmp_path / "song.mid"
    path.write_bytes(song[0])
    path.chmod(0o640)
    refuses_to_write(path, (path, *song[1:]), "exists already")
    assert path.read_bytes() == song[0]
    write(path, path, *song[1:], overwrite=True)
    assert path.read_bytes() != song[0]
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_link_is_followed_and_a_device_is_left_alone(song, tmp_path):
    target, link = tmp_path / "target.mid", tmp_path / "link.mid"
    target.write_bytes(b"old")
    link.symlink_to(target)
    write(link, *song, overwrite=True)
    assert link.is_symlink()
    assert target.read_bytes()[:4] == b"MThd"
    refuses_to_write("/dev/null", song, "not a plain file", overwrite=True)


def test_unwritable_outputs(song, tmp_path):
    refuses_to_write(tmp_path, song, "is a folder", overwrite=True)
    refuses_to_write(tmp_path / "no" / "out.mid", song, "there is no folder")
    refuses_to_write("a\0b.mid", song, "cannot write")
    refuses_to_write(tmp_path / f"{'x' * 300}.mid", song, "name too long")
    with pytest.raises(MidiError, match=r"cannot write /sys/out\.mid"):
        check_output("/sys/out.mid")
    assert os.listdir(tmp_path) == []


def test_a_file_that_was_saved_since_it_was_read_is_left_alone(song, tmp_path, build_midi, note):
    path, out = tmp_path / "in.mid", tmp_path / "out.mid"
    path.write_bytes(song[0])
    _, score, region, fills = song
    read = load_midi(path)
    newer = build_midi([note(0, 60, 480) + note(1920, 64, 480)])
    path.write_bytes(newer)
    refuses_to_write(out, (path, score, region, fills), "in.mid|song was changed since the score was read")
    with pytest.raises(MidiError, match=r"in\.mid was changed by another program meanwhile"):
        write_candidates([path], read, score, region, candidates=[fills], overwrite=True)
    assert path.read_bytes() == newer
    assert read.is_changed
    write_candidates([out], read, score, region, candidates=[fills])
    assert read_midi(out).tracks[0].notes[0] == score.tracks[0].notes[0], "what is written belongs to what was read"
    path.write_bytes(song[0])
    write_candidates([path], read, score, region, candidates=[fills], overwrite=True)
    assert path.read_bytes() == out.read_bytes()


def test_candidates_are_written_all_or_none(song, tmp_path):
    data, score, region, fills = song
    paths = [tmp_path / f"out-{i}.mid" for i in range(3)]
    bad = {0: [Note(0, 70, 100, 90)]}
    with pytest.raises(ValueError, match="outside its cells"):
        write_candidates(paths, data, score, region, candidates=[fills, fills, bad])
    assert os.listdir(tmp_path) == []
    paths[1].write_bytes(b"mine")
    with pytest.raises(MidiError, match="exists already"):
        write_candidates(paths, data, score, region, candidates=[fills] * 3)
    assert os.listdir(tmp_path) == ["out-1.mid"]


def test_a_full_disk_leaves_nothing(song, tmp_path):
    """A real one: no file may grow beyond 10 bytes in that process."""
    (tmp_path / "in.mid").write_bytes(song[0])
    program = (
        "import resource, signal, sys\n"
        "from midi_rwkv.errors import MidiError\nfrom midi_rwkv.score.midi import *\n"
        "from midi_rwkv.score.score import *\n"
        "score = read_midi('in.mid')\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))\n"
        "try:\n"
        "    write_midi('out.mid', 'in.mid', score, Region.rectangle([0], [(1, 2)]), fills={0: []})\n"
        "except MidiError as error:\n"
        "    print(error)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(midi.__file__).parents[2]), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert "nothing was written" in done.stdout, done.stderr
    assert os.listdir(tmp_path) == ["in.mid"]


def test_an_interrupt_leaves_nothing(song, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "out.mid", *song)
    assert os.listdir(tmp_path) == []
