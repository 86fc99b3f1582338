"""Whatever the heads say, a cell is finished, keeps to its limits, and every allowed cell can be written."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from song import vocabulary

from midi_rwkv.engine.heads import NoteHeads
from midi_rwkv.fill.limits import NO_LIMIT, CellLimits
from midi_rwkv.fill.note_writer import NoteWriter
from midi_rwkv.model.config import ModelConfig, SamplingConfig
from midi_rwkv.model.steps import StepModel
from midi_rwkv.tokens.attributes import Column

CLASSES = (386, 26, 256, 32, 240)
ANY = SamplingConfig(temperature=1.0, top_p=1.0, min_p=0.0)


def write(limits: CellLimits, seed: int, *, is_drum: bool = False, on_grid: bool = False) -> list[tuple[int, ...]]:
    """A cell from heads that say anything."""
    rng = np.random.default_rng(seed)
    writer = NoteWriter(limits, ANY, rng, is_drum=is_drum, on_grid=on_grid)
    for _ in range(2000):
        for stage, classes in enumerate(CLASSES):
            writer.choose(stage, rng.normal(0, 3, classes))
            if writer.done:
                return list(writer.notes)
            if stage == 3 and is_drum:
                break
    raise AssertionError("the cell does not end")


@st.composite
def cell_limits(draw: st.DrawFn) -> CellLimits:
    """Limits that some cell meets."""
    n = draw(st.integers(2, 12))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    allowed = np.zeros((n, 128), bool)
    allowed[:, 60:66] = rng.random((n, 6)) < 0.5
    low = draw(st.integers(1, 2))
    polyphony = low, draw(st.sampled_from([low, low + 1, NO_LIMIT]))
    fewest = draw(st.integers(0, 6))
    density = fewest, draw(st.sampled_from([fewest, fewest + 2, NO_LIMIT]))
    return CellLimits(allowed, density, polyphony)


@settings(max_examples=150)
@given(cell_limits(), st.integers(0, 1000), st.booleans())
def test_every_cell_meets_its_limits(limits: CellLimits, seed: int, is_drum: bool) -> None:  # noqa: FBT001 - hypothesis
    if limits.conflict() is not None:
        return
    notes = write(limits, seed, is_drum=is_drum)
    assert notes == sorted(notes, key=lambda x: (x[0], x[2], x[1]))
    assert limits.density[0] <= len(notes) <= limits.density[1]
    for _, group in itertools.groupby(notes, key=lambda x: x[0]):
        assert limits.polyphony[0] <= len(list(group)) <= limits.polyphony[1]
    for position, micro, pitch, velocity, duration in notes:
        assert limits.allowed[position, pitch]
        assert (-20 if position == 0 else -5) <= micro <= 4
        assert 0 <= velocity < 32
        assert 0 <= duration < 240


def test_on_the_grid_there_is_no_micro_timing() -> None:
    notes = write(CellLimits(np.ones((24, 128), bool), (8, 8)), 0, on_grid=True)
    assert {n[1] for n in notes} == {0}


def test_every_small_cell_can_be_written() -> None:
    allowed = np.zeros((2, 128), bool)
    allowed[:, 60:62] = True
    limits = CellLimits(allowed, (1, 2), (1, 2))
    seen = {tuple((n[0], n[2]) for n in write(limits, seed, on_grid=True)) for seed in range(400)}
    places = [(p, q) for p in range(2) for q in (60, 61)]
    assert seen == {c for k in (1, 2) for c in itertools.combinations(places, k)}


def test_the_heads_are_the_models() -> None:
    torch.manual_seed(0)
    model = StepModel(ModelConfig(n_layer=1, n_embd=64, vocab_size=1), vocabulary().sizes)
    for layer in model.heads.down:
        torch.nn.init.normal_(layer.weight, std=0.1)
    heads = NoteHeads({k: v.numpy() for k, v in model.state_dict().items()})
    h = torch.randn(3, 64)
    z, given = h, h.numpy()
    for stage in range(5):
        with torch.no_grad():
            theirs = model.heads.stage(stage, z)
        ours = heads.logits(stage, given)
        assert ours == pytest.approx(theirs.numpy(), abs=1e-4)
        if stage < 4:
            chosen = theirs.argmax(1)
            z = z + model.heads.given[stage](chosen)
            given = heads.given(stage, given, chosen.numpy())
    assert ours.shape[1] == vocabulary().sizes[Column.DURATION] - 1
