"""Little pieces, and a data folder and a tuning small enough for a test."""

from importlib import import_module

import numpy as np
import pytest

from midi_rwkv.commands.cli import main
from midi_rwkv.model.checkpoint import load_checkpoint


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A data folder of this test's own, and fewer fills and steps than a real model needs."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setattr(import_module("midi_rwkv.style.personalize"), "TUNE_FILLS", 40)
    monkeypatch.setattr(import_module("midi_rwkv.style.personalize"), "HELD_OUT_FILLS", 15)
    for name, steps in {"STEPS": 8, "RATE_STEPS": 4, "CHECK_EVERY": 4}.items():
        monkeypatch.setattr(import_module("midi_rwkv.style.tuning"), name, steps)


@pytest.fixture(scope="module")
def checkpoint(checkpoint_folder):
    return load_checkpoint(checkpoint_folder)


@pytest.fixture(scope="module")
def midi(build_midi, note):
    """midi(seed, bars=12, drums=False, one_note=False) -> bytes of a little piece."""

    def call(seed, bars=12, *, drums=False):
        rng = np.random.default_rng(seed)
        events = [(0, bytes.fromhex("ff580404021808")), (0, b"\xc0\x00")]
        channel = 9 if drums else 0
        for b in range(bars):
            for k in range(4):
                pitch = int(rng.choice([36, 38, 42])) if drums else 60 + int(rng.integers(0, 12))
                events += note(b * 1920 + k * 480, pitch, 240, channel=channel)
        return build_midi([sorted(events, key=lambda e: e[0])], end=bars * 1920)

    return call


@pytest.fixture
def pieces(midi, tmp_path):
    """pieces(5) -> files of so many pieces."""

    def call(count, **options):
        folder = tmp_path / "pieces"
        folder.mkdir(exist_ok=True)
        paths = [folder / f"{i}.mid" for i in range(count)]
        for i, path in enumerate(paths):
            path.write_bytes(midi(i, **options))
        return paths

    return call


@pytest.fixture
def run(checkpoint_folder, capsys):
    """run(*arguments) -> (exit code, stdout, stderr) of `midi-rwkv personalize ... --checkpoint tiny --threads 1`."""

    def call(*arguments):
        code = main(["personalize", *map(str, arguments), "--checkpoint", str(checkpoint_folder), "--threads", "1"])
        return code, *capsys.readouterr()

    return call
