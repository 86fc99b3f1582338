"""What the command and the terminal have to do with each other: names, pipes and Ctrl-C."""

import io
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from midi_rwkv.commands.cli import main
from midi_rwkv.commands.terminal import plain
from midi_rwkv.score.midi import read_midi

COMMAND = [sys.executable, "-m", "midi_rwkv"]
KANA = "ピアノ 🎹"


@pytest.fixture(scope="module")
def song(build_midi, note, tmp_path_factory):
    """Eight bars of one track whose name no code page of the West has."""
    name = (0, b"\xff\x03" + bytes([len(KANA.encode())]) + KANA.encode())
    path = tmp_path_factory.mktemp("song") / "song.mid"
    path.write_bytes(build_midi([[name, *[e for b in range(32) for e in note(b * 480, 60 + b % 5, 240)]]]))
    return path


def run(*arguments, environment=(), **options):
    return subprocess.run([*COMMAND, *map(str, arguments)], env={**os.environ, **dict(environment)}, **options)


@pytest.mark.parametrize(
    "environment",
    [{"PYTHONIOENCODING": "cp1252"}, {"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}],
)
def test_a_name_that_the_terminal_cannot_encode(song, checkpoint_folder, tmp_path, environment):
    out = tmp_path / "out.mid"
    options = ["--bars", "3", "--seed", "1", "--checkpoint", checkpoint_folder, "-o", out]
    done = run("infill", song, *options, environment=environment, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert out.exists()
    assert b"bars 3 of 1 " in done.stdout
    for arguments in (["inspect", song], ["inspect", song, "--json"], ["infill", song, "--bars", "2", "--tracks", "x"]):
        done = run(*arguments, environment=environment, capture_output=True)
        assert done.returncode == (2 if arguments[0] == "infill" else 0), done.stderr
        assert b"Traceback" not in done.stderr


def test_what_a_terminal_would_obey_is_shown(song, tmp_path, capsys, monkeypatch):
    assert plain("\x1b[31mred\x07 \u202e \udc80\tピ\n") == "\\x1b[31mred\\x07 \\u202e \\udc80\tピ\n"
    monkeypatch.chdir(tmp_path)
    for arguments in (["inspect", "\x1b[2J.mid"], ["infill", str(song), "--bars", "1", "--tracks", "\x1b[2J"]):
        assert main(arguments) == 2
        assert "\x1b" not in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["\x1b[2J"])
    assert "\x1b" not in capsys.readouterr().err


def test_a_song_comes_and_goes_through_pipes(song, checkpoint_folder, tmp_path, capsys, monkeypatch):
    options = ["--bars", "3-4", "--seed", "1", "--checkpoint", str(checkpoint_folder), "--json"]
    assert main(["infill", str(song), *options, "-o", str(tmp_path / "out.mid")]) == 0
    told = json.loads(capsys.readouterr().out)
    done = run("infill", "-", *options, "-o", "-", input=song.read_bytes(), capture_output=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (tmp_path / "out.mid").read_bytes()
    again = json.loads(done.stderr)
    assert {**again, "outputs": 0, "seconds": 0} == {**told, "outputs": 0, "seconds": 0}
    done = run(
        "infill", "/dev/stdin", *options, "-o", tmp_path / "two.mid", input=song.read_bytes(), capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "two.mid").read_bytes() == (tmp_path / "out.mid").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(song.read_bytes())))
    assert main(["inspect", "-"]) == 0
    assert "standard input: 1 tracks" in capsys.readouterr().out
    for arguments, words in (
        ([str(song), "-o", "-", "--candidates", "2"], "room for one song"),
        (["-"], "has no name"),
        (["/dev/stdin"], "has no name"),
    ):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(song.read_bytes())))
        assert main(["infill", arguments[0], *options, *arguments[1:]]) == 2
        err = capsys.readouterr().err
        assert words in err
        assert err.count("\n") == 1


def test_output_that_nobody_reads_or_that_finds_no_room(song):
    with subprocess.Popen([*COMMAND, "inspect", str(song)], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0
    with open("/dev/full", "w") as full:
        done = run("inspect", song, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "No space left" in done.stderr


def test_a_song_that_is_saved_during_the_fill(  # noqa: PLR0913 -- fixtures
    song, checkpoint_folder, tmp_path, build_midi, note, capsys, monkeypatch
):
    """What is written belongs to what was read; the file itself is replaced only while it is what was read."""
    import midi_rwkv.commands.infill as cli_infill

    read, newer = song.read_bytes(), build_midi([note(0, 60, 480), note(0, 50, 1920)])
    path, write = tmp_path / "song.mid", cli_infill.write

    def saved_meanwhile(*arguments, **options):
        path.write_bytes(newer)
        write(*arguments, **options)

    monkeypatch.setattr(cli_infill, "write", saved_meanwhile)
    options = ["--bars", "3", "--seed", "1", "--checkpoint", str(checkpoint_folder)]
    path.write_bytes(read)
    assert main(["infill", str(path), *options, "-o", str(path), "--overwrite"]) == 2
    err = capsys.readouterr().err
    assert "was changed by another program meanwhile" in err
    assert "--seed 1 gives the same notes again" in err
    assert path.read_bytes() == newer
    path.write_bytes(read)
    assert main(["infill", str(path), *options, "-o", str(tmp_path / "out.mid")]) == 0
    assert "song.mid was changed meanwhile" in capsys.readouterr().err
    assert [t.name for t in read_midi(tmp_path / "out.mid").tracks] == [KANA]


def test_no_free_channel_is_said_before_the_fill(build_midi, note, checkpoint_folder, tmp_path, capsys, monkeypatch):
    import midi_rwkv.fill.infill

    monkeypatch.setattr(midi_rwkv.fill.infill, "Infiller", lambda *_, **__: pytest.fail("the fill began"))
    channels = [c for c in range(16) if c != 9]
    tracks = [[(0, bytes([0xC0 | c, c])), *note(0, 60, 480, channel=c)] for c in channels]
    path = tmp_path / "full.mid"
    path.write_bytes(build_midi(tracks))
    options = ["--bars", "1", "--checkpoint", str(checkpoint_folder)]
    assert main(["infill", str(path), *options, "--new-track", "Oboe"]) == 2
    assert "no free channel" in capsys.readouterr().err
    assert main(["infill", str(path), *options, "-o", str(tmp_path / ("x" * 260 + ".mid"))]) == 2
    assert "name too long" in capsys.readouterr().err
    assert callable(midi_rwkv.infill)


def test_ctrl_c_is_one_line_from_the_first_moments_on(song, checkpoint_folder, tmp_path):
    """While modules are imported too. What comes before our first line is Python's own."""
    command = [*COMMAND, "infill", str(song), "--bars", "3", "--checkpoint", str(checkpoint_folder)]
    code = (
        "import sys; from midi_rwkv.commands import cli; main = cli.main; sys.argv[0] = 'midi-rwkv'\n"
        "cli.main = lambda: (print('*', flush=True), main())[1]; cli.entry()"
    )
    for delay in (0.02, 0.1, 0.2, 0.4, 0.8, 1.6):
        process = subprocess.Popen(
            [sys.executable, "-c", code, *command[3:], "-o", str(tmp_path / f"{delay}.mid")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
        if process.returncode != 0:  # a quick machine has written it by then
            assert process.returncode == 130, err
            assert err.count("\n") == 1, err
            assert err.startswith("midi-rwkv: stopped; ")


def test_the_command_needs_little_before_it_can_be_stopped():
    code = "import sys, midi_rwkv.commands.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    ours = [name for name in done.stdout.split() if name.startswith(("midi_rwkv", "numpy", "argparse"))]
    light = {"midi_rwkv.errors", *(f"midi_rwkv.commands{name}" for name in ("", ".cli", ".interrupt"))}
    assert set(ours) <= {"midi_rwkv", *light}


def test_functions_are_functions_whatever_was_imported():
    code = (
        "import midi_rwkv, importlib\n"
        "importlib.import_module('midi_rwkv.fill.infill')\n"
        "assert all(map(callable, (midi_rwkv.infill, midi_rwkv.evaluate, midi_rwkv.personalize)))\n"
        "from midi_rwkv.style.pieces import read_pieces\n"
        "assert midi_rwkv.personalize.__name__ == 'personalize'\n"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
