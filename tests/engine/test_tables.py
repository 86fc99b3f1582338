"""The tables in NumPy are those of model/steps.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from song import random_song, vocabulary

from midi_rwkv.engine.tables import StepTables
from midi_rwkv.model.steps import Tables
from midi_rwkv.tokens.attributes import Column
from midi_rwkv.tokens.layout import Window, prompt_steps

SIZES = vocabulary().sizes
VALUES = [2**12 if c == Column.CHROMA else n for c, n in zip(Column, SIZES, strict=True)]


@pytest.fixture(scope="module")
def tables() -> Tables:
    torch.manual_seed(0)
    made = Tables(SIZES, 48)
    torch.nn.init.normal_(made.weight)
    return made.requires_grad_(requires_grad=False)


def check(model: Tables, steps: np.ndarray) -> None:
    found = StepTables({"tables.weight": model.weight.numpy()}, SIZES)(steps)
    wanted = model(torch.from_numpy(steps[None]))[0].numpy()
    assert found.shape == wanted.shape == (len(steps), 48)
    assert np.abs(found - wanted).max() < 1e-5


def test_every_position_and_pitch_is_the_models(tables: Tables) -> None:
    for column in (Column.POSITION, Column.PITCH):
        steps = np.zeros((SIZES[column], len(SIZES)), np.int16)
        steps[:, column] = np.arange(SIZES[column])
        check(tables, steps)


def test_random_steps_are_the_models(tables: Tables) -> None:
    rng = np.random.default_rng(0)
    for n in (1, 8, 600):  # a note, candidates together, a prompt
        check(tables, np.stack([rng.integers(0, size, n) for size in VALUES], 1).astype(np.int16))


def test_a_prompt_is_the_models(tables: Tables) -> None:
    song = random_song(0, bars=24)
    check(tables, prompt_steps(vocabulary(), song, Window(5, 7, 0, 24), [0], [(0, 5), (0, 6)]))
