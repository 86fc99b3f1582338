"""Every draw under the grammar parses, honours the limits, and the mask follows the logits where it may."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midi_rwkv.fill.limits import NO_LIMIT, CellLimits
from midi_rwkv.fill.sample import CellRules, CellWriter, GrammarTables, draw
from midi_rwkv.model.config import SamplingConfig
from midi_rwkv.score.score import Bar
from midi_rwkv.tokens.prompt import PromptTokens

BAR = Bar(0, 1920, 4, 4)


def limits(n_positions, pitches, density=(0, NO_LIMIT), polyphony=(1, NO_LIMIT), locked=()):
    """The same pitches at every position."""
    allowed = np.zeros((n_positions, 128), bool)
    allowed[:, list(pitches)] = True
    return CellLimits(allowed, density, polyphony, tuple(locked))


def write(tokenizer, rules, sampling, seed, end_bias=0.0):
    """A cell written from random logits."""
    rng = np.random.default_rng(seed)
    tokens = PromptTokens(tokenizer)
    writer = CellWriter(rules, tokens, sampling, rng)
    for _ in range(2000):
        logits = rng.normal(size=tokenizer.vocab_size) * 3
        logits[tokens.fill_end] += end_bias
        writer.choose(logits)
        if writer.done:
            return writer.ids
    raise AssertionError("the cell never ended")


@pytest.fixture(scope="module")
def tables(tokenizer):
    return {drum: GrammarTables(tokenizer, is_drum=drum) for drum in (False, True)}


@given(seed=st.integers(0, 10**6), drum=st.booleans(), quarters=st.sampled_from([1, 2, 3, 4, 7]))
@settings(max_examples=60)
def test_whatever_is_drawn_parses(tokenizer, tables, seed, drum, quarters):
    bar = Bar(960, 960 + 480 * quarters, quarters, 4)
    rules = CellRules(tables[drum], limits(tokenizer.positions_in(bar, 480), range(40, 70)))
    notes = tokenizer.decode_cell(write(tokenizer, rules, SamplingConfig(), seed), bar, 480, is_drum=drum)
    assert all(bar.start_ticks <= n.onset_ticks < bar.end_ticks and 40 <= n.pitch < 70 for n in notes)
    assert len({(n.onset_ticks, n.pitch) for n in notes}) == len(notes)
    assert notes == sorted(notes)


@given(
    seed=st.integers(0, 10**6),
    low=st.integers(0, 9),
    extra=st.integers(0, 6),
    together=st.sampled_from([(1, 1), (1, 3), (2, 4)]),
    end_bias=st.sampled_from([-20.0, 0.0, 20.0]),
)
@settings(max_examples=80)
def test_density_and_polyphony_are_met(  # noqa: PLR0913 -- fixtures and draws
    tokenizer, tables, seed, low, extra, together, end_bias
):
    high = low + extra + together[1]
    rules = CellRules(tables[False], limits(48, [60, 62, 64, 65, 67], (low, high), together))
    config = SamplingConfig(density=(low, high), polyphony=together)
    notes = tokenizer.decode_cell(write(tokenizer, rules, config, seed, end_bias), BAR, 480, is_drum=False)
    assert low <= len(notes) <= high
    struck = np.unique([n.onset_ticks for n in notes], return_counts=True)[1]
    assert all(together[0] <= s <= together[1] for s in struck)
    assert {n.pitch for n in notes} <= {60, 62, 64, 65, 67}


def test_a_cell_with_no_room_for_notes_ends_at_once(tokenizer, tables):
    rules = CellRules(tables[False], limits(48, range(128), density=(0, 0)))
    assert write(tokenizer, rules, SamplingConfig(), 0) == []


def test_draw_follows_the_distribution():
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05]))
    rng = np.random.default_rng(0)
    config = SamplingConfig(temperature=1.0, top_p=1.0, min_p=0.0)
    counts = np.bincount([draw(logits, config, rng) for _ in range(20_000)], minlength=4) / 20_000
    assert np.allclose(counts, [0.5, 0.3, 0.15, 0.05], atol=0.02)
    config = SamplingConfig(temperature=1.0, top_p=0.75, min_p=0.0)
    assert {draw(logits, config, rng) for _ in range(500)} == {0, 1}
    config = SamplingConfig(temperature=1.0, top_p=1.0, min_p=0.2)
    assert {draw(logits, config, rng) for _ in range(2000)} == {0, 1, 2}
