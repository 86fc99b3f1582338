"""The note n-gram: probabilities by hand, and writing with it."""

from __future__ import annotations

import numpy as np
import pytest

from midi_rwkv.evaluation.ngram import NGram, NGramEngine, discounts, fill_grams
from midi_rwkv.training.dataset import CONTEXT, FILL, NOT_MUSIC, Sample

VOCABULARY = 12


def grams_of(ids: np.ndarray, order: int = 5) -> np.ndarray:
    return np.lib.stride_tricks.sliding_window_view(ids, order)


def nats(model, ids: np.ndarray) -> float:
    return float(-np.log(model.probability(grams_of(ids))).mean())


def test_probabilities_sum_to_one_in_seen_and_unseen_contexts(script):
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 9, 4000) ** 2 % 9  # uneven; ids 9-11 never occur
    contexts = np.concatenate([grams_of(ids, 4)[:20], rng.integers(0, VOCABULARY, (20, 4))])
    for order in (1, 2, 5):
        model = NGram(ids, rng.random(len(ids)) < 0.8, VOCABULARY, order)
        assert script("measure_nats").deviation_from_one(model, contexts) < 1e-12


def test_every_probability_is_positive():
    rng = np.random.default_rng(1)
    model = NGram(rng.integers(0, 9, 2000), np.ones(2000, bool), VOCABULARY)
    everything = rng.integers(0, VOCABULARY, (3000, 5))
    assert model.probability(everything).min() > 0
    assert model.probability(everything).max() < 1


def test_unigram_is_the_add_one_frequency_of_counted_ids():
    ids, counted = np.array([0, 0, 1, 2, 2, 2]), np.array([True, True, True, True, False, False])
    model = NGram(ids, counted, 4, 1)
    assert model.probability(np.array([[0], [1], [2], [3]])) == pytest.approx(np.array([3, 2, 2, 1]) / 8)


def test_bigram_agrees_with_kneser_ney_by_hand():
    """0 1 0 1 0 2 with discount 0.75 (too few data to estimate one), over 3 ids.

    Distinct bigrams 01, 10, 02: id 0 follows one id, 1 one, 2 one, of 3. P1 = 0.25/3 + (0.75*3/3)/3 = 1/3 each.
    After 0: 1 twice, 2 once, of 3; freed 2*0.75. P(1|0) = (1.25 + 1.5/3)/3, P(2|0) = (0.25 + 0.5)/3, P(0|0) = 0.5/3.
    """
    model = NGram(np.array([0, 1, 0, 1, 0, 2]), np.ones(6, bool), 3, 2)
    p = model.probability(np.array([[0, 0], [0, 1], [0, 2], [2, 0]]))
    assert p == pytest.approx([0.5 / 3, 1.75 / 3, 0.75 / 3, 1 / 3])  # nothing ever follows 2: one order down


def test_what_is_not_counted_is_context_only():
    """7 stands between the others but is never predicted: it is as rare as an unseen id, yet tells what follows it."""
    ids = np.tile([7, 1, 7, 2], 500)
    model = NGram(ids, ids != 7, VOCABULARY)
    not_counted, unseen, counted = model.probability(np.array([[7, 1, 7, 2, 7], [7, 1, 7, 2, 3], [1, 7, 2, 7, 1]]))
    assert not_counted == unseen
    assert counted > 0.95


def test_five_gram_beats_unigram_on_a_repeating_sequence_only():
    rng = np.random.default_rng(2)
    tune = rng.integers(0, VOCABULARY, 40)
    counted = np.ones(4000, bool)
    repeating = np.tile(tune, 100)
    longest, unigram = (NGram(repeating, counted, VOCABULARY, n) for n in (5, 1))
    assert nats(longest, np.tile(tune, 3)) < 0.1
    assert nats(unigram, np.tile(tune, 3)) > 1.5
    noise, fresh = rng.integers(0, VOCABULARY, (2, 4000))
    assert nats(NGram(noise, counted, VOCABULARY), fresh) == pytest.approx(np.log(VOCABULARY), abs=0.3)


def test_discounts_follow_chen_and_goodman():
    count = np.repeat([1, 2, 3, 4], [8, 4, 2, 1])  # Y = 8 / 16
    assert discounts(count) == pytest.approx([0, 1 - 0.5, 2 - 3 * 0.5 * 0.5, 3 - 4 * 0.5 * 0.5])
    assert discounts(np.array([1, 1, 2])) == pytest.approx([0, 0.75, 0.75, 0.75])


def test_fill_grams_are_the_fills_ids_behind_their_context():
    one = Sample([1, 2, 3, 4, 5, 6, 7], [NOT_MUSIC, CONTEXT, CONTEXT, CONTEXT, FILL, NOT_MUSIC, FILL])
    two = Sample([9, 8, 7, 6, 5], [NOT_MUSIC] * 4 + [FILL])
    grams, owner = fill_grams([one, two])
    assert grams.tolist() == [[1, 2, 3, 4, 5], [3, 4, 5, 6, 7], [9, 8, 7, 6, 5]]
    assert owner.tolist() == [0, 0, 1]


def test_distribution_is_the_probability_of_every_id(tmp_path):
    rng = np.random.default_rng(3)
    NGram(rng.integers(0, 9, 3000), rng.random(3000) < 0.9, VOCABULARY).save(tmp_path)
    model = NGram.load(tmp_path)
    for context in rng.integers(0, VOCABULARY, (40, 4)):
        every = np.concatenate([np.tile(context, (VOCABULARY, 1)), np.arange(VOCABULARY)[:, None]], 1)
        assert model.distribution(context) == pytest.approx(model.probability(every), abs=1e-12)


def test_the_engine_goes_by_each_rows_own_last_ids():
    model = NGram(np.tile([1, 2, 3, 4, 5, 6], 200), np.ones(1200, bool), VOCABULARY)
    engine = NGramEngine(model)
    state = engine.new_state(1)
    assert engine.prefill([1, 2, 3], state).argmax() == 4
    state = state.repeat(2)
    logits = engine.step([4, 6], state)
    assert np.exp(logits).sum(1) == pytest.approx([1, 1], abs=1e-5)
    assert logits.argmax(1)[0] == 5
    assert type(state).concat([state.select([1]), state]).ids[:, -1].tolist() == [6, 4, 6]
