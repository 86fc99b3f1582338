"""The arithmetic inside the scripts: n-gram models of music_report.py, bars and regions of try_corpus.py."""

from __future__ import annotations

import numpy as np
import pytest

from midi_rwkv.dataset import CONTEXT, FILL, NOT_MUSIC, Sample

VOCABULARY = 12


@pytest.fixture(scope="module")
def report(script):
    return script("music_report")


@pytest.fixture(scope="module")
def corpus_run(script):
    script("check_fill")  # try_corpus imports it as its neighbour
    return script("try_corpus")


def grams_of(ids: np.ndarray, order: int = 5) -> np.ndarray:
    return np.lib.stride_tricks.sliding_window_view(ids, order)


def nats(model, ids: np.ndarray) -> float:
    return float(-np.log(model.probability(grams_of(ids))).mean())


def test_probabilities_sum_to_one_in_seen_and_unseen_contexts(report):
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 9, 4000) ** 2 % 9  # uneven; ids 9-11 never occur
    contexts = np.concatenate([grams_of(ids, 4)[:20], rng.integers(0, VOCABULARY, (20, 4))])
    for order in (1, 2, 5):
        model = report.NGram(ids, rng.random(len(ids)) < 0.8, VOCABULARY, order)
        assert report.deviation_from_one(model, contexts) < 1e-12


def test_every_probability_is_positive(report):
    rng = np.random.default_rng(1)
    model = report.NGram(rng.integers(0, 9, 2000), np.ones(2000, bool), VOCABULARY)
    everything = rng.integers(0, VOCABULARY, (3000, 5))
    assert model.probability(everything).min() > 0
    assert model.probability(everything).max() < 1


def test_unigram_is_the_add_one_frequency_of_counted_ids(report):
    ids, counted = np.array([0, 0, 1, 2, 2, 2]), np.array([True, True, True, True, False, False])
    model = report.NGram(ids, counted, 4, 1)
    assert model.probability(np.array([[0], [1], [2], [3]])) == pytest.approx(np.array([3, 2, 2, 1]) / 8)


def test_bigram_agrees_with_kneser_ney_by_hand(report):
    """0 1 0 1 0 2 with discount 0.75 (too few data to estimate one), over 3 ids.

    Distinct bigrams 01, 10, 02: id 0 follows one id, 1 one, 2 one, of 3. P1 = 0.25/3 + (0.75*3/3)/3 = 1/3 each.
    After 0: 1 twice, 2 once, of 3; freed 2*0.75. P(1|0) = (1.25 + 1.5/3)/3, P(2|0) = (0.25 + 0.5)/3, P(0|0) = 0.5/3.
    """
    model = report.NGram(np.array([0, 1, 0, 1, 0, 2]), np.ones(6, bool), 3, 2)
    p = model.probability(np.array([[0, 0], [0, 1], [0, 2], [2, 0]]))
    assert p == pytest.approx([0.5 / 3, 1.75 / 3, 0.75 / 3, 1 / 3])  # nothing ever follows 2: one order down


def test_what_is_not_counted_is_context_only(report):
    """7 stands between the others but is never predicted: it is as rare as an unseen id, yet tells what follows it."""
    ids = np.tile([7, 1, 7, 2], 500)
    model = report.NGram(ids, ids != 7, VOCABULARY)
    not_counted, unseen, counted = model.probability(np.array([[7, 1, 7, 2, 7], [7, 1, 7, 2, 3], [1, 7, 2, 7, 1]]))
    assert not_counted == unseen
    assert counted > 0.95


def test_five_gram_beats_unigram_on_a_repeating_sequence_only(report):
    rng = np.random.default_rng(2)
    tune = rng.integers(0, VOCABULARY, 40)
    counted = np.ones(4000, bool)
    repeating = np.tile(tune, 100)
    longest, unigram = (report.NGram(repeating, counted, VOCABULARY, n) for n in (5, 1))
    assert nats(longest, np.tile(tune, 3)) < 0.1
    assert nats(unigram, np.tile(tune, 3)) > 1.5
    noise, fresh = rng.integers(0, VOCABULARY, (2, 4000))
    assert nats(report.NGram(noise, counted, VOCABULARY), fresh) == pytest.approx(np.log(VOCABULARY), abs=0.3)


def test_discounts_follow_chen_and_goodman(report):
    count = np.repeat([1, 2, 3, 4], [8, 4, 2, 1])  # Y = 8 / 16
    assert report.discounts(count) == pytest.approx([0, 1 - 0.5, 2 - 3 * 0.5 * 0.5, 3 - 4 * 0.5 * 0.5])
    assert report.discounts(np.array([1, 1, 2])) == pytest.approx([0, 0.75, 0.75, 0.75])


def test_fill_grams_are_the_fills_ids_behind_their_context(report):
    one = Sample([1, 2, 3, 4, 5, 6, 7], [NOT_MUSIC, CONTEXT, CONTEXT, CONTEXT, FILL, NOT_MUSIC, FILL])
    two = Sample([9, 8, 7, 6, 5], [NOT_MUSIC] * 4 + [FILL])
    grams, owner = report.fill_grams([one, two])
    assert grams.tolist() == [[1, 2, 3, 4, 5], [3, 4, 5, 6, 7], [9, 8, 7, 6, 5]]
    assert owner.tolist() == [0, 0, 1]


def test_song_as_mido_sees_it(corpus_run, build_midi, note):
    """A pickup of one beat, then 3/4, then 4/4 that begins inside a bar; two channels in one chunk."""
    metres = [
        (0, b"\xff\x58\x04\x01\x02\x18\x08"),
        (480, b"\xff\x58\x04\x03\x02\x18\x08"),
        (480 + 1440 + 480, b"\xff\x58\x04\x04\x02\x18\x08"),
    ]
    notes = sorted([*note(0, 60, 480, channel=3), *note(2400, 62, 240), *note(4400, 64, 240)])
    song = corpus_run.read_song(build_midi([metres, notes]))
    assert song.tracks == [(1, 0), (1, 3)]
    assert song.onsets[1, 0].tolist() == [2400, 4400]
    assert song.bars == [(0, 480), (480, 1920), (1920, 2400), (2400, 4320), (4320, 6240)]
    assert song.first_bar_number == 0


def test_regions_name_what_they_mask(corpus_run):
    tracks = [(1, 0), (2, 1), (3, 9)]
    bars = [(i * 1920, (i + 1) * 1920) for i in range(12)]
    song = corpus_run.Song(tracks, {t: np.array([0]) for t in tracks}, bars, 1)
    sizes = set()
    for seed in range(60):
        arguments, chosen, start, end = corpus_run.choose_region(song, np.random.default_rng(seed))
        low, _, high = arguments[1].partition("-")
        assert (start, end) == ((int(low) - 1) * 1920, int(high or low) * 1920)
        assert end - start <= 8 * 1920
        named = [int(n) for n in arguments[3].split(",")] if "--tracks" in arguments else [1, 2, 3]
        assert [tracks[n - 1] for n in named] == chosen
        sizes.add(len(chosen))
    assert sizes == {1, 2, 3}


def test_files_are_spread_over_the_sources(corpus_run):
    names = [f"big/{i:03}.mid" for i in range(100)] + ["small/1.mid", "small/2.mid", "mid/1.mid"]
    chosen = corpus_run.choose_files(names, 11)
    assert [sum(n.startswith(s) for n in chosen) for s in ("big/", "small/", "mid/")] == [8, 2, 1]
    assert len(set(chosen)) == 11
    assert corpus_run.choose_files(names, 10**9) == sorted(names)
