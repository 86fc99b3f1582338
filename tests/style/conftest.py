"""Little pieces, and a data folder and a tuning small enough for a test."""

from importlib import import_module

import numpy as np
import pytest
import torch

from midi_rwkv.commands.cli import main
from midi_rwkv.model.checkpoint import load_checkpoint
from midi_rwkv.model.step_checkpoint import step_model_of
from midi_rwkv.tokens.attributes import Column, Role
from midi_rwkv.tokens.layout import targets_of
from midi_rwkv.tokens.pointers import places_known


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A data folder of this test's own, and fewer fills and steps than a real model needs."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setattr(import_module("midi_rwkv.style.preparing"), "TUNE_FILLS", 40)
    monkeypatch.setattr(import_module("midi_rwkv.style.preparing"), "HELD_OUT_FILLS", 16)
    for name, steps in {"STEPS": 8, "RATE_STEPS": 4, "CHECK_EVERY": 4}.items():
        monkeypatch.setattr(import_module("midi_rwkv.style.tuning"), name, steps)


@pytest.fixture(scope="module")
def checkpoint(checkpoint_folder):
    return load_checkpoint(checkpoint_folder)


@pytest.fixture(scope="module")
def model(checkpoint):
    """The tiny checkpoint's model, its weights frozen."""
    return step_model_of(checkpoint).requires_grad_(requires_grad=False)


@pytest.fixture(scope="session")
def plain_nats():
    """plain_nats(model, vocabulary, sample): nats of a sample's answer, the whole of it read by the model itself.

    `run` is added to the state before the first cell; `before` is read first, (n, columns).
    """

    @torch.no_grad()
    def call(model, vocabulary, sample, run=None, before=None):
        def read(steps, state):
            return model.trunk.hidden(model.tables(torch.from_numpy(steps)[None]), state)

        at = int((sample[:, Column.ROLE] == Role.ANSWER).argmax())
        state = None if before is None else read(before, None)[1]
        context, state = read(sample[:at], state)
        if run is not None:
            state.wkv = state.wkv + torch.as_tensor(run)[:, None]
        h = torch.cat([context, read(sample[at:], state)[0]], 1)[0]
        padded = np.concatenate([sample, np.zeros((1, len(Column)), np.int16)])
        targets, roles = targets_of(padded, vocabulary)
        known = (targets, padded[1:], places_known(sample, vocabulary.nothing))
        asked = roles == Role.ANSWER
        return float(model.heads.nats(h[asked], *(torch.from_numpy(x[asked]) for x in known)).sum())

    return call


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
        model = ["--checkpoint", str(checkpoint_folder), "--threads", "1"]
        code = main(["personalize", *map(str, arguments), *model])
        return code, *capsys.readouterr()

    return call
