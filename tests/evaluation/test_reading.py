"""The original is read on the path on which a fill is written."""

from __future__ import annotations

import numpy as np
import pytest
from evaluated import model_nats

from midi_rwkv import Ask, Note, Region, RequestError, Score, Track, load_checkpoint
from midi_rwkv.evaluation.cases import Case
from midi_rwkv.evaluation.reading import original_nats
from midi_rwkv.evaluation.systems import COPIES, ORIGINAL, Setup, System
from midi_rwkv.fill.infill import Infiller
from midi_rwkv.model.config import SamplingConfig

BAR = 1920


def song(bars: int = 12) -> Score:
    lead = [Note(b * BAR + 480 * k, 60 + (b + 2 * k) % 9, 400, 80) for b in range(bars) for k in range(4)]
    bass = [Note(b * BAR, 36 + b % 4, 1900, 80) for b in range(bars)]
    return Score(480, (Track("lead", 0, tuple(lead)), Track("bass", 33, tuple(bass))))


@pytest.fixture(scope="module")
def infiller(tiny):
    return Infiller(load_checkpoint(tiny), precision="float32")


@pytest.mark.parametrize("follow", [1.0, 0.0])
def test_the_originals_nats_are_the_models(infiller, follow):
    """Against the whole sequence at once, in PyTorch."""
    score, region = song(), Region.rectangle([0, 1], [(4, 6)])
    given = score.with_fill(region, {0: [], 1: []})
    found = original_nats(infiller.writing, given, Ask(region, SamplingConfig(follow=follow)), score)
    cells = [(t, b) for t in (0, 1) for b in (4, 5)]
    expected = model_nats(infiller.writing.checkpoint, score, cells, follow=follow > 0)
    assert found == pytest.approx(expected, rel=1e-3)


def test_what_is_followed_counts_as_far_as_it_is_asked(infiller):
    score, region = song(), Region.rectangle([0], [(4, 6)])
    given = score.with_fill(region, {0: []})
    costs = [
        original_nats(infiller.writing, given, Ask(region, SamplingConfig(follow=r)), score) for r in (0.0, 0.5, 1.0)
    ]
    assert all((cost[[0, 2]] > 0).all() for cost in costs)
    for i, j in ((0, 1), (1, 2), (0, 2)):
        assert not np.allclose(costs[i], costs[j])


def test_what_stood_in_the_bars_changes_no_probability(infiller):
    """Other notes in the bars to be rewritten, the same song around them: every note of an answer costs the same."""
    score, region = song(), Region.rectangle([0, 1], [(4, 6)])
    rng = np.random.default_rng(0)
    costs = []
    for _ in range(3):
        notes = {
            t: [
                Note(int(x), int(p), 200, 60)
                for x, p in zip(rng.integers(4 * BAR, 6 * BAR, 9), rng.integers(90, 120, 9), strict=True)
            ]
            for t in (0, 1)
        }
        costs.append(original_nats(infiller.writing, score.with_fill(region, notes), Ask(region), score))
    assert costs[0].sum() > 0
    assert np.array_equal(costs[0], costs[1])
    assert np.array_equal(costs[0], costs[2])


def test_bars_that_sound_are_shown_to_it(tiny):
    """What it is given is the song itself where its bars are to be rewritten, and the emptied song else."""
    system = System(Setup("tiny", "model", tiny))
    given = []
    infiller = system.infiller
    system.infiller = lambda score, ask: given.append(score) or infiller(score, ask)
    for setting in ("rewrite", "song"):
        system.fill(Case(setting, 0, "a/x.mid", (0,), 4, 2), song(), SamplingConfig())
    assert given[0] == song()
    assert not any(given[1].notes_in(0, b) for b in (4, 5))


def test_a_copy_and_the_original_have_no_nats(tiny):
    case = Case("song", 0, "a/x.mid", (0,), 4, 2)
    for kind in (*COPIES, ORIGINAL):
        system = System(Setup(kind, kind, tiny))
        assert system.fill(case, song(), SamplingConfig())
        assert system.nats(case, song()) is None


def test_where_nothing_can_be_written_a_case_stays_silent(tiny):
    """A horn holds a note all through the bars."""
    notes = [*(Note(b * BAR, 60, 4 * BAR, 80) for b in range(0, 12, 4)), Note(12 * BAR, 62, 480, 80)]
    held = Track("horn", 60, tuple(notes))
    system = System(Setup("tiny", "model", tiny))
    assert system.fill(Case("song", 0, "a/x.mid", (0,), 5, 2), Score(480, (held,)), SamplingConfig()) == {0: []}


def test_a_fault_of_the_request_is_no_silence(tiny):
    system = System(Setup("tiny", "model", tiny))
    with pytest.raises(RequestError, match="tracks must be 0-1, got 5-5"):
        system.fill(Case("rewrite", 0, "a/x.mid", (5,), 4, 2), song(), SamplingConfig())
