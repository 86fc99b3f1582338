"""Whatever the heads say, a cell is finished, keeps to its limits, and every allowed cell can be written."""

from __future__ import annotations

import itertools

import numpy as np
from cell_limits import ANY, CLASSES, PITCHES, POSITIONS, answers, finish, small_limits
from hypothesis import given, settings
from hypothesis import strategies as st

from midi_rwkv.fill.limits import NO_LIMIT, CellLimits
from midi_rwkv.fill.note_writer import NoteWriter, draw
from midi_rwkv.model.config import SamplingConfig
from midi_rwkv.tokens.pointers import FIRST_POSITION


def write(limits: CellLimits, seed: int, *, is_drum: bool = False) -> list[tuple[int, ...]]:
    """A cell from heads that say anything."""
    rng = np.random.default_rng(seed)
    return finish(NoteWriter(limits, ANY, rng, is_drum=is_drum), rng)


@given(small_limits(), st.integers(0, 1000))
@settings(max_examples=300)
def test_a_small_cell_is_one_of_those_that_its_limits_allow(limits: CellLimits, seed: int) -> None:
    """Limits are refused exactly where no cell meets them. Notes that are locked are there without being written."""
    found = answers(limits)
    reason = limits.conflict()
    assert (reason is None) == (len(found) > 0)
    if reason is not None:
        assert "\n" not in reason
        return
    written = np.zeros((POSITIONS, 3), bool)
    for position, pitch in [(n[0], n[2]) for n in write(limits, seed)] + list(limits.locked):
        assert not written[position, PITCHES.index(pitch)]
        written[position, PITCHES.index(pitch)] = True
    assert any((written == answer).all() for answer in found)


def test_every_content_that_is_allowed_can_be_written() -> None:
    allowed = np.zeros((POSITIONS, 128), bool)
    allowed[:, PITCHES[:2]] = True
    limits = CellLimits(allowed, (2, 4), (1, 2), ((1, PITCHES[0]),))
    locked = (1, PITCHES[0])
    seen = {frozenset([locked, *((n[0], n[2]) for n in write(limits, seed))]) for seed in range(1000)}
    wanted = {
        frozenset((p, PITCHES[q]) for p, q in zip(*np.nonzero(answer), strict=True)) for answer in answers(limits)
    }
    assert seen == wanted


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


def test_only_the_given_micro_timings_are_chosen() -> None:
    micros = np.zeros((24, 26), bool)
    micros[:, 20] = True  # none
    writer, rng = (
        NoteWriter(CellLimits(np.ones((24, 128), bool)), ANY, np.random.default_rng(0), is_drum=False, micros=micros),
        np.random.default_rng(1),
    )
    for _ in range(20):
        if writer.done:
            break
        for stage, classes in enumerate(CLASSES):
            assert writer.known(stage) == (20 if stage == 1 else None)
            writer.choose(stage, rng.normal(0, 3, classes))
            if writer.done:
                break
    assert writer.notes
    assert {n[1] for n in writer.notes} == {0}


def test_draw_follows_the_distribution() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05]))
    rng = np.random.default_rng(0)
    config = SamplingConfig(temperature=1.0, top_p=1.0, min_p=0.0)
    counts = np.bincount([draw(logits, config, rng) for _ in range(20_000)], minlength=4) / 20_000
    assert np.allclose(counts, [0.5, 0.3, 0.15, 0.05], atol=0.02)
    config = SamplingConfig(temperature=1.0, top_p=0.75, min_p=0.0)
    assert {draw(logits, config, rng) for _ in range(500)} == {0, 1}
    config = SamplingConfig(temperature=1.0, top_p=1.0, min_p=0.2)
    assert {draw(logits, config, rng) for _ in range(2000)} == {0, 1, 2}


def test_pitches_are_drawn_plainer_than_velocities_at_any_temperature() -> None:
    limits = CellLimits(np.ones((1, 128), bool), (0, NO_LIMIT), (1, NO_LIMIT), ())

    def shares(temperature: float) -> tuple[float, float]:
        """Of the better of two classes, to which the model gives odds of two to one: as a pitch, as a velocity."""
        config = SamplingConfig(temperature=temperature, top_p=1.0, min_p=0.0)
        rng, better = np.random.default_rng(0), np.zeros(2)
        for _ in range(1500):
            writer = NoteWriter(limits, config, rng, is_drum=False)
            writer.take(0, FIRST_POSITION)
            writer.take(1, 20)
            for i, stage in enumerate((2, 3)):
                logits = np.full(CLASSES[stage], -100.0)
                logits[[10, 20]] = np.log([2, 1])
                better[i] += writer.choose(stage, logits) == 10
        return tuple(better / 1500)

    usual, low = shares(SamplingConfig.temperature), shares(0.5)
    assert abs(usual[1] - 2 / 3) < 0.03  # as the model has them
    assert usual[0] > usual[1] + 0.03
    assert low[0] > low[1] + 0.03
    assert min(low) > max(usual)
