"""Mistakes are one line, bugs are bugs, and a package that is missing is named with the command that installs it."""

import inspect
import logging
import subprocess
import sys

import pytest

import midi_rwkv
from midi_rwkv import MidiRwkvError
from midi_rwkv.app.faults import INTERNAL, one_line
from midi_rwkv.commands import cli as cli


@pytest.fixture
def song(build_midi, note, tmp_path):
    path = tmp_path / "song.mid"
    path.write_bytes(build_midi([[e for b in range(8) for e in note(b * 1920, 60, 480)]]))
    return path


def test_every_kind_is_public_and_one_of_the_family():
    kinds = [e for e in vars(midi_rwkv.errors).values() if inspect.isclass(e) and e.__module__ == "midi_rwkv.errors"]
    assert len(kinds) == 8
    for kind in kinds:
        assert getattr(midi_rwkv, kind.__name__) is kind
        assert issubclass(kind, MidiRwkvError)
        assert issubclass(kind, ValueError)


def public_callables():
    for name in midi_rwkv.__all__:
        thing = getattr(midi_rwkv, name)
        yield name, thing
        if inspect.isclass(thing):
            for method, function in inspect.getmembers(thing, callable):
                if method == "__call__" or (not method.startswith("_") and thing.__module__.startswith("midi_rwkv")):
                    yield f"{name}.{method}", function


def test_no_public_function_takes_more_than_four_by_position():
    many = {}
    for name, function in public_callables():
        try:
            parameters = inspect.signature(function).parameters.values()
        except ValueError:  # of a builtin
            continue
        named = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.name != "self"]
        if len(named) > 4 and getattr(function, "__module__", "").startswith("midi_rwkv"):
            many[name] = named
    assert not many


def test_infiller_and_infill_have_the_same_defaults():
    one, other = (inspect.signature(f).parameters for f in (midi_rwkv.infill, midi_rwkv.Infiller))
    shared = (one.keys() & other.keys()) - {"checkpoint"}  # which an Infiller must be given
    assert shared
    assert {name: one[name].default for name in shared} == {name: other[name].default for name in shared}


def broken(*_, **__):
    raise ValueError("operands could not be broadcast together with shapes (2,) (3,)")


def test_a_bug_shows_as_a_bug(song, monkeypatch, capsys):
    monkeypatch.setattr("midi_rwkv.score.midi.read_midi", broken)
    assert cli.main(["inspect", str(song)]) == 1
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "in broken" in said
    assert said.endswith("this is a bug in midi-rwkv: please report it with the lines above\n")


@pytest.mark.parametrize("at", [None, 0, 1, 2])
def test_a_mistake_is_one_line_whose_place_debug_shows(song, at, capsys):
    arguments = ["infill", str(song), "--bars", "90"]
    if at is not None:
        arguments.insert(at, "--debug")
    assert cli.main(arguments) == 2
    said = capsys.readouterr().err
    assert said.splitlines()[-1].startswith("midi-rwkv: error: bars 90 are out of range")
    assert ("Traceback" in said) == (at is not None)
    assert (said.count("\n") == 1) == (at is None)


def test_the_page_tells_a_mistake_from_a_bug(caplog):
    with caplog.at_level(logging.ERROR):
        assert one_line(midi_rwkv.RequestError("bars\n 9")) == "bars 9"
        assert one_line(OSError("disk full")) == "disk full"
        assert not caplog.records
        with pytest.raises(ValueError, match="operands") as bug:
            broken()
        assert one_line(bug.value) == INTERNAL
    assert "operands could not be broadcast" in caplog.text
    assert "in broken" in caplog.text


BLOCKED = """
import sys
for name in sys.argv[1].split(","):
    sys.modules[name] = None
from midi_rwkv.commands.cli import main
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize(
    ("missing", "arguments", "line"),
    [
        ("torch", ["personalize", "SONG", "--name", "x"], "personalize needs PyTorch, which is not installed: pip"),
        ("torch", ["convert", "SONG", "out.pth"], "convert needs PyTorch, which is not installed: pip install torch"),
        ("torch", ["train", "shards", "run"], "train needs PyTorch, which is not installed: pip install torch"),
        ("numba,torch", ["infill", "SONG", "--bars", "2", "-o", "out.mid"], "infill needs PyTorch"),
        ("torch", ["infill", "SONG", "--bars", "2", "-o", "out.mid", "--backend", "torch"], "infill needs PyTorch"),
        ("triton", ["infill", "SONG", "--bars", "2", "-o", "out.mid", "--backend", "triton"], "triton is not"),
        ("scipy", ["evaluate", "FOLDER", "--out", "out"], "evaluate needs SciPy, which is not"),
        ("mir_eval", ["evaluate", "FOLDER", "--out", "out"], "evaluate needs mir_eval"),
        ("gradio", ["app"], "app needs Gradio, which is not installed: pip install gradio"),
        ("mcp", ["app", "--mcp"], "pip install 'midi-rwkv[mcp]'"),
        ("datasketch", ["corpus", "FOLDER", "out"], "datasketch, which is not installed: pip install 'midi-rwkv[train"),
        ("joblib", ["corpus", "FOLDER", "out"], "joblib, which is not installed: pip install 'midi-rwkv[train]'"),
        ("pyarrow", ["corpus", "PARQUET", "out"], "pyarrow, which is not installed: pip install 'midi-rwkv[train"),
        ("distributed", ["corpus", "FOLDER", "out", "--engine", "dask"], "--engine dask needs Dask"),
        ("ray", ["corpus", "FOLDER", "out", "--engine", "ray"], "--engine ray needs Ray"),
    ],
)  # fmt: skip
def test_a_missing_package_is_one_line(song, tmp_path, missing, arguments, line):
    (tmp_path / "data").mkdir()
    parquet = tmp_path / "data" / "some.parquet"
    parquet.write_bytes(b"PAR1")
    (tmp_path / "songs").mkdir()
    places = {"SONG": song.rename(tmp_path / "songs" / "song.mid"), "FOLDER": tmp_path / "songs", "PARQUET": parquet}
    command = [sys.executable, "-c", BLOCKED, missing, *(str(places.get(a, a)) for a in arguments)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, done.stderr
    assert line in done.stderr
    assert done.stderr.startswith("midi-rwkv: error: ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.mid").exists()


def test_a_module_of_ours_that_is_missing_is_a_bug(song):
    command = [sys.executable, "-c", BLOCKED, "midi_rwkv.score.describe", "inspect", str(song)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
