"""The command as its users meet it: what it writes, what it says, and how it refuses."""

import json
import re
import shutil
import signal
import struct
import subprocess
import sys
import time

import pytest

from midi_rwkv.commands.cli import main
from midi_rwkv.fill.arguments import parse_key, parse_pitch, parse_range, parse_tracks
from midi_rwkv.score.midi import read_midi
from midi_rwkv.score.progression import parse_chords
from midi_rwkv.score.score import Note, Score, Track

COMMAND = [sys.executable, "-m", "midi_rwkv"]


@pytest.fixture(scope="module")
def song(build_midi, note, tmp_path_factory):
    """Twelve bars: lead (with a bend in bar 4), bass, drums; 4/4."""
    name = [(0, b"\xff\x03" + bytes([len(n)]) + n) for n in (b"Lead", b"Bass", b"Drums")]
    head = [(0, bytes.fromhex("ff58040402" + "1808")), (0, bytes.fromhex("ff510307a120"))]
    lead = [e for b in range(12) for k in range(4) for e in note(b * 1920 + k * 480, 60 + k + b % 5, 240)]
    lead = sorted([*lead, (3 * 1920 + 100, b"\xe0\x00\x50"), (0, b"\xc0\x49")], key=lambda e: e[0])
    bass = [e for b in range(12) for e in note(b * 1920, 36 + b % 7, 960, channel=1)]
    drums = [e for b in range(12) for k in range(8) for e in note(b * 1920 + k * 240, 36 + 2 * (k % 2), 120, channel=9)]
    path = tmp_path_factory.mktemp("song") / "song.mid"
    path.write_bytes(build_midi([head, [name[0], *lead], [name[1], (0, b"\xc1\x21"), *bass], [name[2], *drums]]))
    return path


@pytest.fixture
def run(song, checkpoint_folder, tmp_path, capsys):
    """run("--bars", "3-4", ...) -> (exit code, stdout, stderr) of `midi-rwkv infill song ... -o tmp/out.mid`."""

    def call(*arguments, path=song, output=tmp_path / "out.mid", checkpoint=checkpoint_folder):
        command = ["infill", str(path), "--checkpoint", str(checkpoint), "-o", str(output), *map(str, arguments)]
        code = main(command)
        return code, *capsys.readouterr()

    return call


def spans(song, tracks, low, high):
    """The checker's mask for whole bars of 4/4 at 480 ticks: track indices, bar numbers."""
    score = read_midi(song)
    return [(score.tracks[t].chunk, score.tracks[t].channel, (low - 1) * 1920, high * 1920) for t in tracks]


def test_the_main_job(run, song, check_fill, tmp_path):
    code, out, err = run("--bars", "3-4", "--seed", 7)
    assert (code, err) == (0, "")
    assert "bars 3-4 of 1 Lead, 2 Bass, 3 Drums; 26 notes before; seed 7" in out
    assert check_fill(song, tmp_path / "out.mid", spans(song, (0, 1, 2), 3, 4)) == []


def test_same_seed_same_file(run, tmp_path):
    first = run("--bars", "5-6", "--seed", 1) and (tmp_path / "out.mid").read_bytes()
    again = run("--bars", "5-6", "--seed", 1, "--overwrite") and (tmp_path / "out.mid").read_bytes()
    other = run("--bars", "5-6", "--seed", 2, "--overwrite") and (tmp_path / "out.mid").read_bytes()
    assert first == again != other


def test_candidates_differ_and_only_the_named_track_changes(run, song, check_fill, tmp_path):
    code, out, _ = run("--bars", "2-3", "--bars", "7", "--tracks", "bass", "--candidates", 3, "--seed", 3, "--json")
    report = json.loads(out)
    assert code == 0
    assert report["bars"] == [[2, 3], [7, 7]]
    assert report["tracks"] == [2]
    files = [tmp_path / f"out-{i}.mid" for i in (1, 2, 3)]
    assert report["outputs"] == [str(f) for f in files]
    assert len({f.read_bytes() for f in files}) == 3
    for f in files:
        assert check_fill(song, f, [*spans(song, (1,), 2, 3), *spans(song, (1,), 7, 7)]) == []


def test_the_same_seed_gives_the_same_candidates_in_the_same_order(run, tmp_path):
    seen = []
    for _ in range(2):
        run("--bars", "4-5", "--seed", 5, "--candidates", 3, "--overwrite")
        seen.append([read_midi(tmp_path / f"out-{k}.mid").tracks for k in (1, 2, 3)])
    assert seen[0] == seen[1]
    assert seen[0][0] != seen[0][1]


def test_limits_the_user_sets_are_met(run, tmp_path):
    options = ["--density", "3-5", "--polyphony", "1-2", "--pitch-range", "C4-C5", "--key", "A minor"]
    code, _, _ = run("--bars", "2-9", "--tracks", "1", "--seed", 1, *options)
    assert code == 0
    score = read_midi(tmp_path / "out.mid")
    for bar in range(1, 9):
        notes = score.notes_in(0, bar)
        assert 3 <= len(notes) <= 5
        assert all(60 <= n.pitch <= 72 and n.pitch % 12 in (9, 11, 0, 2, 4, 5, 7) for n in notes)
        onsets = [n.onset_ticks for n in notes]
        assert all(onsets.count(o) <= 2 for o in onsets)


def test_continuation_and_new_track(run, song, check_fill, tmp_path):
    assert run("--bars", "13-16", "--seed", 1)[0] == 0
    assert check_fill(song, tmp_path / "out.mid", spans(song, (0, 1, 2), 13, 16)) == []
    code, out, _ = run("--bars", "1-4", "--new-track", "violin", "--density", "1-8", "--seed", 1, "--overwrite")
    assert code == 0
    assert "4 Violin; 0 notes before" in out
    score = read_midi(tmp_path / "out.mid")
    assert [t.program for t in score.tracks] == [73, 33, 0, 40]
    assert score.tracks[:3] == read_midi(song).tracks


def test_inspect(song, capsys):
    assert main(["inspect", str(song)]) == 0
    out = capsys.readouterr().out
    assert "song.mid: 3 tracks, bars 1-12, 156 notes, 120 BPM" in out
    assert "2 Bass (Electric Bass (finger))" in out
    assert main(["inspect", str(song), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["tracks"][0]["notes_per_bar"] == [4] * 12


def test_inspect_prints_chords_that_can_be_asked_for(build_midi, note, tmp_path, capsys):
    chords = {0: (45, 57, 60, 64), 960: (41, 57, 60, 65), 1920: (36, 55, 60, 64), 2880: (47, 55, 59, 62)}
    notes = [e for tick, pitches in chords.items() for p in pitches for e in note(tick, p, 960)]
    path = tmp_path / "chords.mid"
    path.write_bytes(build_midi([[(0, meta(6, b"Am")), (1920, meta(6, b"Cmaj7"))], sorted(notes, key=lambda e: e[0])]))
    assert main(["inspect", str(path), "--chords"]) == 0
    told, written = capsys.readouterr().out.split("chords, told from the notes:")[1].split("chords in the file:")
    score = read_midi(path)
    assert [c.name for c in parse_chords(told, score, [(0, 2)])] == ["Am", "F", "C", "G/B"]
    assert written.strip() == "1 | Am | Cmaj7 |"
    assert main(["inspect", str(path), "--chords", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [(c["bar"], c["beat"], c["beats"], c["name"]) for c in report["chords"]] == [
        (1, 1, 2, "Am"),
        (1, 3, 2, "F"),
        (2, 1, 2, "C"),
        (2, 3, 2, "G/B"),
    ]
    assert all(0.5 < c["confidence"] <= 1 for c in report["chords"])
    assert [c["name"] for c in report["chords_in_file"]] == ["Am", "Cmaj7"]
    assert main(["inspect", str(path), "--json"]) == 0
    assert "chords" not in json.loads(capsys.readouterr().out)


def meta(kind, body):
    return bytes([0xFF, kind, len(body)]) + body


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--bars", "12-8"], "did you mean 8-12"),
        (["--bars", "0-3"], "no pickup"),
        (["--bars", "x"], "must be like 8-12"),
        (["--bars", "40-44"], "use --bars 13-20 to continue"),
        (["--bars", "9-999999999"], "can be continued to"),
        (["--bars", "3", "--tracks", "9"], "no track '9'; song.mid has 1 Lead, 2 Bass, 3 Drums"),
        (["--bars", "3", "--tracks", "Oboe"], "no track 'Oboe'"),
        (["--bars", "3", "--new-track", "Kazoo"], "no General MIDI instrument"),
        (["--bars", "3", "--temperature", "0"], "temperature must lie in"),
        (["--bars", "3", "--density", "9-2"], "density must be LOW-HIGH"),
        (["--bars", "3", "--pitch-range", "H9"], "--pitch-range must be"),
        (["--bars", "3", "--key", "A mina"], "--key must be"),
        (["--bars", "3", "--candidates", "0"], "candidates must be"),
        (["--bars", "3", "--seed", "-4"], "--seed must be"),
        (["--bars", "3", "--context-bars", "-1"], "--context-bars must be"),
        (["--bars", "3", "--threads", "0"], "threads"),
    ],
)
def test_bad_options_are_one_line_and_write_nothing(run, tmp_path, arguments, words):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def bad_files(build_midi, note):
    """Name -> (bytes, words of the message): every broken file a composer may meet."""
    good = build_midi([note(0, 60, 480)])
    notes = note(0, 60, 480)
    return {
        "not MIDI": (b"hello, this is text" * 9, ""),
        "empty": (b"", ""),
        "truncated": (good[:-9], ""),
        "no tracks": (b"MThd" + struct.pack(">IHHH", 6, 1, 0, 480), ""),
        "no notes": (build_midi([[(0, b"\xc0\x05")]]), "no notes"),
        "tpq 0": (build_midi([notes], ticks_per_beat=0), ""),
        "SMPTE": (build_midi([notes], ticks_per_beat=0xE728), "SMPTE"),
        "0/0": (build_midi([[(0, meta(0x58, b"\0\0\x18\x08")), *notes]]), "time signature"),
        "absurd metre": (build_midi([[(0, meta(0x58, b"\x01\xff\x18\x08")), *notes]]), "time signature"),
        "tempo 0": (build_midi([[(0, meta(0x51, b"\0\0\0")), *notes]]), "tempo"),
        "470 million bars": (
            build_midi([[(0, meta(0x58, b"\x01\x07\x18\x08")), *notes, *note(2**28 - 9, 60, 1)]], 1),
            "",
        ),
        "60,000 tracks": (b"MThd" + struct.pack(">IHHH", 6, 1, 60_000, 480) + good[14:] * 60_000, ""),
        "50 MB": (good + b"\0" * 50_000_000, ""),
    }


BAD = ["not MIDI", "empty", "truncated", "no tracks", "no notes", "tpq 0", "SMPTE", "0/0", "absurd metre", "tempo 0"]
BAD += ["470 million bars", "60,000 tracks", "50 MB"]


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_one_line_and_write_nothing(run, build_midi, note, tmp_path, tmp_path_factory, case):
    data, words = bad_files(build_midi, note)[case]
    path = tmp_path_factory.mktemp("bad") / "bad.mid"
    path.write_bytes(data)
    began = time.process_time()
    code, out, err = run("--bars", "1", path=path)
    assert (code, out) == (2, "")
    assert "bad.mid" in err
    assert words in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
    assert time.process_time() - began < 5


def test_bad_paths(run, song, tmp_path, tmp_path_factory):
    taken = tmp_path_factory.mktemp("taken") / "out.mid"
    taken.write_bytes(b"mine")
    for options, words in (
        ({"path": tmp_path / "gone.mid"}, "gone.mid"),
        ({"path": tmp_path_factory.mktemp("folder")}, "folder"),
        ({"output": taken}, "exists"),
        ({"output": tmp_path / "no" / "out.mid"}, "no folder"),
        ({"checkpoint": tmp_path}, "not a checkpoint"),
    ):
        code, out, err = run("--bars", "2", **options)
        assert (code, out) == (2, "")
        assert words in err
        assert err.count("\n") == 1
    assert taken.read_bytes() == b"mine"
    assert list(tmp_path.iterdir()) == []
    before = song.read_bytes()
    assert run("--bars", "2", output=song)[0] == 2
    assert song.read_bytes() == before


def test_a_checkpoint_that_does_not_fit_together(run, checkpoint_folder, tmp_path_factory):
    folder = shutil.copytree(checkpoint_folder, tmp_path_factory.mktemp("c") / "c")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    code, _, err = run("--bars", "2", checkpoint=folder)
    assert code == 2
    assert "damaged" in err
    assert err.count("\n") == 1


def test_a_full_disk_leaves_no_file(song, checkpoint_folder, tmp_path):
    """A limit on file size stands in for the disk: the write fails half-way."""
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "from midi_rwkv.commands import cli; from midi_rwkv.score import midi; import midi_rwkv.fill.infill;"
        "write = midi.write_candidates;\n"
        "def limited(*a, **k):\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY)); write(*a, **k)\n"
        "midi.write_candidates = limited; sys.exit(cli.main(sys.argv[1:]))"
    )
    command = [
        "infill",
        str(song),
        "--bars",
        "2",
        "--checkpoint",
        str(checkpoint_folder),
        "-o",
        str(tmp_path / "o.mid"),
    ]
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_leaves_no_file(song, checkpoint_folder, tmp_path):
    """When the first of many cells is written."""
    code = (
        "from midi_rwkv.commands import cli, infill\n"
        "show = infill.show_progress\n"
        "infill.show_progress = lambda check, **way: show(lambda: (print('*', flush=True), check()), **way)\n"
        "cli.entry()"
    )
    options = ["--bars", "1-12", "--candidates", "64", "--density", "30-48", "--checkpoint", str(checkpoint_folder)]
    process = subprocess.Popen(
        [sys.executable, "-c", code, "infill", str(song), *options, "-o", str(tmp_path / "o.mid")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores Ctrl-C
    )
    assert process.stdout
    assert process.stdout.readline() == "*\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_help_is_quick_and_names_the_commands():
    done = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert all(name in done.stdout for name in ("infill", "inspect", "convert", "corpus", "train"))
    heavy = "{'torch', 'numba', 'miditok', 'symusic'}"
    code = f"import sys, midi_rwkv.commands.cli; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_version_names_program_and_checkpoint(capsys):
    with pytest.raises(SystemExit) as done:
        main(["--version"])
    assert done.value.code == 0
    assert re.fullmatch(r"midi-rwkv \d+\.\d+\.\d+, checkpoint base \d+\n", capsys.readouterr().out)


def test_a_track_number_wins_over_a_track_of_that_name():
    score = Score(480, tuple(Track(name, 0, (Note(0, 60, 1, 1),)) for name in ("3", "Bass", "2", "bass two")))
    assert parse_tracks("3,2", score) == [2, 1]
    assert parse_tracks("two,Bass", score) == [3, 1]
    with pytest.raises(ValueError, match="several tracks match 'ba'"):
        parse_tracks("ba", score)


def test_without_tracks_those_that_play_there_are_written(run, build_midi, note, tmp_path):
    """The second track rests in bars 3-4; `all` means all."""
    lead = [e for b in range(8) for e in note(b * 1920, 60 + b, 480)]
    late = [e for b in (0, 1, 6, 7) for e in note(b * 1920, 40, 480, channel=1)]
    path = tmp_path / "rests.mid"
    path.write_bytes(build_midi([[(0, bytes.fromhex("ff580404021808"))], lead, late], end=8 * 1920))
    for bars, tracks, expected in (("3-4", (), [1]), ("2-4", (), [1, 2]), ("9", (), [1, 2]), ("3-4", ("all",), [1, 2])):
        options = [x for t in tracks for x in ("--tracks", t)]
        _, out, _ = run("--bars", bars, "--json", "--overwrite", *options, path=path)
        assert json.loads(out)["tracks"] == expected


def test_parsing():
    assert [parse_pitch(p) for p in ("C4", "F#3", "Bb2", "C-1", "72")] == [60, 54, 46, 0, 72]
    assert parse_range("--density", "4") == (4, 4)
    assert parse_range("--density", "2 - 6") == (2, 6)
    assert parse_range("--pitch-range", "C3-C6", parse_pitch) == (48, 84)
    assert parse_range("--pitch-range", "C-1-C6", parse_pitch) == (0, 84)
    assert parse_range("--pitch-range", "48-84", parse_pitch) == (48, 84)
    assert parse_key("A minor") == parse_key("C") == (0, 2, 4, 5, 7, 9, 11)
    assert parse_key("Eb harmonic minor") == (2, 3, 5, 6, 8, 10, 11)
    for text in ("", "4-", "-", "a-b", "٣", "2-²"):
        with pytest.raises(ValueError, match="LOW-HIGH"):
            parse_range("--density", text)
