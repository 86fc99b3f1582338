"""Recall: likeness and votes against plain definitions, the mixture as a probability, and what fills make of it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midi_rwkv import Ask
from midi_rwkv.evaluation.baselines import CellNotes
from midi_rwkv.fill.infill import Infiller
from midi_rwkv.fill.recall import NEARNESS, REACH, CellMemory, SongMemory
from midi_rwkv.model.checkpoint import CheckpointError, load_checkpoint
from midi_rwkv.model.config import SamplingConfig
from midi_rwkv.model.recall_mix import GATE, OUTLINE, OUTLINE_GATE, RecallWeights
from midi_rwkv.score.score import Cell, Note, Region, Score, TimeSignature, Track
from midi_rwkv.tokens.outline import CellOutlines, outline_tables

BAR = 1920
END = 7
# Closed where nothing is alike; wide open where the likest sources agree.
EAGER = RecallWeights(
    20.0,
    3.0,
    3.0,
    3.0,
    0.0,
    gate=(-6.0, 16.0, *[0.0] * (len(GATE) - 2)),
    outline=(20.0, 3.0, -3.0, -3.0, 3.0, 0.0),
    outline_gate=(-1e9, *[0.0] * (len(OUTLINE_GATE) - 1)),
)


def song_of(bars: list[list[list[tuple[int, int]]]]) -> Score:
    """bars[b][t]: (sixteenth, pitch) of the notes of a cell."""
    tracks = []
    for t in range(len(bars[0])):
        notes = [Note(b * BAR + at * 120, p, 120, 80) for b, bar in enumerate(bars) for at, p in sorted(set(bar[t]))]
        tracks.append(Track(f"track {t}", 0, tuple(sorted(notes))))
    return Score(480, tuple(tracks), (TimeSignature(0, 4, 4),), end_ticks=len(bars) * BAR)


def memory_of(tokenizer, sources, like) -> CellMemory:
    outlines = CellOutlines(outline_tables(tokenizer, END), sources)
    return CellMemory(sources, np.array(like), np.zeros(len(sources), bool), EAGER, outlines)


cells = st.lists(st.tuples(st.sampled_from([0, 4, 8]), st.sampled_from([60, 62, 64])), max_size=4)


@st.composite
def situations(draw):
    n_bars, n_tracks = draw(st.integers(3, 7)), draw(st.integers(1, 3))
    bars = [[draw(cells) for _ in range(n_tracks)] for _ in range(n_bars)]
    places = [Cell(t, b) for b in range(n_bars) for t in range(n_tracks)]
    hidden = draw(st.lists(st.sampled_from(places), min_size=1, max_size=5, unique=True))
    return bars, hidden, draw(st.integers(0, len(hidden) - 1))


@settings(max_examples=40)
@given(situations())
def test_likeness_is_the_weighted_dice_of_what_is_shown(tokenizer, situation):
    """Against the definition, note by note, with some of the cells written on the way."""
    bars, hidden, written = situation
    song = tokenizer.encode(song_of(bars))
    memory = SongMemory(tokenizer, song, hidden, EAGER, end_id=END)
    for cell in hidden[:written]:
        memory.write(cell, song.cell(cell).tolist())
    notes, unseen = CellNotes(tokenizer, song), set(hidden[written:])
    n = song.n_bars
    for bar in range(n):
        expected = []
        for other in range(n):
            alike = both = 0.0
            for j in range(-REACH, REACH + 1):
                for t in range(song.n_tracks):
                    here, there = Cell(t, bar + j), Cell(t, other + j)
                    if not 0 <= here.bar < n or here in unseen:
                        continue
                    seen = 0 <= there.bar < n and there not in unseen
                    mine, theirs = notes.of(here), notes.of(there) if seen else frozenset()
                    alike += 2 * NEARNESS[abs(j)] * len(mine & theirs)
                    both += NEARNESS[abs(j)] * (len(mine) + len(theirs))
            expected.append(alike / both if both else 0.0)
        np.testing.assert_allclose(memory.likeness(bar), expected, atol=1e-12)


@settings(max_examples=60)
@given(
    st.lists(st.lists(st.integers(10, 12), max_size=6), min_size=1, max_size=5),
    st.lists(st.integers(10, 12), max_size=7),
)
def test_votes_are_what_follows_the_longest_agreement(tokenizer, sources, written):
    memory = memory_of(tokenizer, [[*s, END] for s in sources], np.linspace(1, 0, len(sources)))
    for i in written:
        memory.take(i)
    expected = []
    for source, like in zip(sources, memory.like, strict=True):
        said = [*source, END]
        if said[: len(written)] == written:
            expected.append((said[len(written)], like, len(written) + 1))
            continue
        runs = [
            max(m for m in range(min(i, len(written)) + 1) if said[i - m : i] == written[len(written) - m :])
            for i in range(len(said))
        ]
        if max(runs):
            expected.append((said[int(np.argmax(runs))], like, -max(runs)))
    votes = memory.votes()
    assert list(zip(votes.ids, votes.like, votes.match, strict=True)) == expected


def test_the_mixture_is_a_probability_and_follows_the_song(tokenizer):
    memory = memory_of(tokenizer, [[3, 4, END], [3, 4, END], [5, END]], [1.0, 1.0, 0.2])
    logits = np.random.default_rng(0).normal(size=20)
    alone = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(np.exp(memory.mix(logits, 0.0)), alone)
    last = alone[3]
    for strength in (0.25, 0.5, 1.0):
        p = np.exp(memory.mix(logits, strength))
        assert p.sum() == pytest.approx(1)
        assert p[3] > last
        last = p[3]
    assert last > 0.95
    memory.take(9)  # what no source has
    np.testing.assert_allclose(np.exp(memory.mix(logits)), alone)
    memory.take(4)  # agrees with the first two lately
    assert np.exp(memory.mix(logits))[END] > alone[END]
    nothing = memory_of(tokenizer, [], [])
    np.testing.assert_allclose(np.exp(nothing.mix(logits)), alone)


def test_what_is_fitted_is_what_is_used(tokenizer):
    """The fit's mixture of whole tables is the product's, id by id."""
    from midi_rwkv.fill import fit_recall as fit

    rng = np.random.default_rng(1)
    drawn = (tuple(rng.normal(size=len(names)).tolist()) for names in (GATE, OUTLINE, OUTLINE_GATE))
    weights = RecallWeights(6.0, 0.7, 0.4, 1.1, 0.9, *drawn, longest_match=2)
    double, high = [(0, 60), (4, 64)], [(8, 43)]
    phrase = [[double, double, [(0, 40)]], [[(0, 62)], [(0, 62)], high], [[(4, 60), (8, 67)], [(4, 60)], []]]
    song = tokenizer.encode(song_of(phrase * 3))
    cells = [Cell(0, 3), Cell(0, 4), Cell(1, 4)]
    memory = SongMemory(tokenizer, song, cells, weights, end_id=END)
    rows, used = [], []
    for m, true in memory.follow(song, cells):
        log_p = m.mix(rng.normal(size=tokenizer.vocab_size), 0)
        votes = m.votes()
        ids, slot = np.unique(votes.ids, return_inverse=True)
        right = int(np.flatnonzero(ids == true)[0]) if true in ids else -1
        outline = fit.outline_columns(m, m.outlines.votes(), log_p, true)
        place = fit.Place(0, votes.like, votes.match, votes.twin, slot, log_p[ids], right, float(log_p[true]), *outline)
        rows.append(place)
        used.append(m.mix(log_p)[true])
    assert any(row.twin.any() for row in rows)
    table = fit.Table(rows, [5])
    np.testing.assert_allclose(table.log_mixture(fit.tensors_of(weights), weights.longest_match), used, atol=1e-4)


# -- fills ------------------------------------------------------------------------------------------------------------

FIGURE = [(0, 60), (4, 64), (8, 67), (12, 72)]
OTHER = [(0, 62), (2, 65), (6, 69)]


@pytest.fixture(scope="module")
def checkpoint(checkpoint_folder):
    return replace(load_checkpoint(checkpoint_folder), recall=EAGER)


def repeating() -> Score:
    """FIGURE under 40 and OTHER under 45, in turn, sixteen bars."""
    return song_of([[FIGURE, [(0, 40)]], [OTHER, [(0, 45)]]] * 8)


def written(fill: list[Note], bar: int) -> list[tuple[int, int]]:
    return [((n.onset_ticks - bar * BAR) // 120, n.pitch) for n in fill if n.onset_ticks // BAR == bar]


def without(score: Score, track: int, bars: range) -> Score:
    kept = [n for n in score.tracks[track].notes if n.onset_ticks // BAR not in bars]
    return score.with_notes(track, kept)


def test_a_gap_is_filled_as_the_song_has_it(checkpoint):
    """A model of random weights writes the song's own figures, each over its bass, in every candidate."""
    score = without(repeating(), 0, range(6, 10))
    found = Infiller(checkpoint)(
        score, Ask(Region.rectangle([0], [(6, 10)]), SamplingConfig(top_p=0.7), candidates=2, seed=1)
    )
    for candidate in found:
        assert [written(candidate.fills[0], b) for b in range(6, 10)] == [FIGURE, OTHER, FIGURE, OTHER]


def test_without_recall_it_is_not(checkpoint):
    score, region = without(repeating(), 0, range(6, 10)), Region.rectangle([0], [(6, 10)])
    infiller = Infiller(checkpoint)
    [new] = infiller(score, Ask(region, SamplingConfig(recall=0), seed=1))
    assert FIGURE not in [written(new.fills[0], b) for b in range(6, 10)]
    plain = Infiller(replace(checkpoint, recall=None))
    assert plain(score, Ask(region, SamplingConfig(), seed=1)) == infiller(
        score, Ask(region, SamplingConfig(recall=0), seed=1)
    )


def test_what_was_masked_does_not_come_back(checkpoint):
    """The figure stands in seven other bars, but it is what the composer wants replaced."""
    score = repeating()
    [found] = Infiller(checkpoint)(score, Ask(Region.rectangle([0], [(6, 7)]), SamplingConfig(top_p=0.7), seed=1))
    assert found.fills[0]
    assert written(found.fills[0], 6) != FIGURE


def test_bars_that_may_not_be_read_are_no_sources(checkpoint):
    """Bars 0-3 have what would fit, but only two bars on either side may be read."""
    bars = [[FIGURE, [(0, 40)]]] * 4 + [[[], [(0, 40)]]] * 8
    score, region = song_of(bars), Region.rectangle([0], [(8, 9)])
    sampling = SamplingConfig(top_p=0.7)
    wide = replace(checkpoint, recall=replace(EAGER, gate=(9.0, *EAGER.gate[1:])))
    [near] = Infiller(wide)(score, Ask(region, sampling, seed=1, context_bars=2))
    assert near.fills[0]  # asked for music, where the sources say silence
    assert written(near.fills[0], 8) != FIGURE


def test_a_track_that_doubles_another_goes_on_doubling(checkpoint):
    """New bars in the first, which no bar of the second has had."""
    rng = np.random.default_rng(5)
    bars = [[(int(s), int(rng.integers(55, 75))) for s in range(0, 16, 4)] for _ in range(12)]
    score = without(song_of([[bar, bar, [(0, 40)]] for bar in bars]), 1, range(6, 8))
    wide = replace(checkpoint, recall=replace(EAGER, gate=(9.0, *EAGER.gate[1:])))
    [found] = Infiller(wide)(score, Ask(Region.rectangle([1], [(6, 8)]), SamplingConfig(top_p=0.7), seed=1))
    assert [written(found.fills[1], b) for b in (6, 7)] == bars[6:8]


def test_controls_hold_whatever_the_song_says(checkpoint):
    score, region = without(repeating(), 0, range(6, 8)), Region.rectangle([0], [(6, 8)])
    sampling = SamplingConfig(density=(2, 2), pitch_range=(50, 66))
    [found] = Infiller(checkpoint)(score, Ask(region, sampling, seed=2))
    for bar in (6, 7):
        pitches = [p for _, p in written(found.fills[0], bar)]
        assert len(pitches) == 2
        assert all(50 <= p <= 66 for p in pitches)


def test_candidates_recall_their_own_bars(tokenizer):
    song = tokenizer.encode(repeating())
    memory = SongMemory(tokenizer, song, [Cell(0, 4), Cell(0, 5)], EAGER, end_id=END)
    fork = memory.fork()
    fork.write(Cell(0, 4), [])
    assert Cell(0, 4) in fork.written
    assert Cell(0, 4) not in memory.written
    assert memory.hidden[4, 0]
    assert not fork.hidden[4, 0]
    assert not np.array_equal(memory.likeness(5), fork.likeness(5))


def test_bars_after_the_end_can_recall(checkpoint):
    [found] = Infiller(checkpoint)(
        repeating(), Ask(Region.rectangle([0, 1], [(16, 18)]), SamplingConfig(top_p=0.7), seed=3)
    )
    assert set(found.fills) == {0, 1}


# -- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"likeness": 1}'])
def test_a_damaged_file_is_one_line(checkpoint_folder, tmp_path, text):
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (tmp_path / name).write_bytes((checkpoint_folder / name).read_bytes())
    assert load_checkpoint(tmp_path).recall is None
    (tmp_path / "recall.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"recall\.json is damaged .*; copy it again") as caught:
        load_checkpoint(tmp_path)
    assert "\n" not in str(caught.value)


def test_weights_travel_as_json(tmp_path):
    path = tmp_path / "recall.json"
    path.write_text(json.dumps(EAGER.to_dict()))
    assert RecallWeights.load(path) == EAGER
    with pytest.raises(ValueError, match=f"recall needs {len(GATE)} gate weights"):
        replace(EAGER, gate=(1.0,))


def test_the_checkpoint_that_ships_has_it():
    assert load_checkpoint().recall is not None


@pytest.mark.parametrize("new", [False, True])
def test_a_fill_is_a_source_for_itself_only_on_a_new_track(tokenizer, new):
    """Else its bars would be the likest ones, and a long fill would go in circles."""
    song = tokenizer.encode(repeating())
    gap = [Cell(0, b) for b in (range(16) if new else range(4, 8))]
    memory = SongMemory(tokenizer, song, gap, EAGER, end_id=END)
    ids = tokenizer.encode(song_of([[[(2, 71), (5, 72)]]])).cell(Cell(0, 0)).tolist()
    memory.write(Cell(0, 4), ids)
    assert ([*ids, END] in memory.cell(Cell(0, 5)).sources) == new
    assert memory.likeness(5)[5] == 1  # but part of the surroundings
    assert [*ids, END] in memory.cell(Cell(0, 7)).sources  # not up to there: another run of bars
