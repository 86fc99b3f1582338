"""Outlines: what a source allows next, against a plain definition over the whole vocabulary, and what fills make of
it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midi_rwkv import Ask
from midi_rwkv.fill.infill import Infiller
from midi_rwkv.fill.recall import CellMemory
from midi_rwkv.model.checkpoint import load_checkpoint
from midi_rwkv.model.config import SamplingConfig
from midi_rwkv.model.recall_mix import GATE, OUTLINE_GATE, RecallWeights
from midi_rwkv.score.score import Cell, Note, Region, Score, TimeSignature, Track
from midi_rwkv.tokens.outline import MOST_COUNTED, CellOutlines, outline_tables
from midi_rwkv.tokens.prompt import PromptTokens
from midi_rwkv.tokens.tokenizer import Kind

BAR = 1920
BY_OUTLINE = RecallWeights(  # exact votes never, outlines wherever the surroundings are alike
    20.0,
    3.0,
    3.0,
    3.0,
    0.0,
    gate=(-1e9, *[0.0] * (len(GATE) - 1)),
    outline=(20.0, 3.0, -3.0, -3.0, 3.0, 0.0),
    outline_gate=(-6.0, 16.0, *[0.0] * (len(OUTLINE_GATE) - 2)),
)

Played = list[tuple[int, int, int]]  # (sixteenth, pitch, velocity)


def score_of(bars: list[Played], *, drum: bool, second: list[Played] | None = None) -> Score:
    tracks = []
    for name, cells in (("a", bars), ("b", second)):
        if cells is not None:
            notes = {(b, at, p): Note(b * BAR + at * 120, p, 120, v) for b, bar in enumerate(cells) for at, p, v in bar}
            tracks.append(Track(name, 0, tuple(sorted(notes.values())), is_drum=drum))
    return Score(480, tuple(tracks), (TimeSignature(0, 4, 4),), end_ticks=len(bars) * BAR)


def symbols_of(tokenizer, ids, end) -> list[str]:
    """Base tokens by name, velocities as one."""
    names = []
    for i in ids:
        parts = ["end"] if i == end else [tokenizer.base_names[b] for b in tokenizer.expansions[i]]
        names += ["velocity" if n.startswith("Velocity") else n for n in parts]
    return names


def parsed(symbols: list[str]) -> list[tuple[int, int]]:
    """(position, pitch) of the notes."""
    notes, position = [], -1
    for s in symbols:
        kind, _, value = s.partition("_")
        if kind == "Position":
            position = int(value)
        elif kind in ("Pitch", "PitchDrum"):
            notes.append((position, int(value)))
    return notes


def expected(source: list[str], written: list[str], *, drum: bool) -> list[str] | None:
    """What the source goes on with: from its first note after the last one written, or within that very note."""
    last = (written or ["start"])[-1].partition("_")[0]
    notes, done = parsed(source), parsed(written)
    position = max((int(s.partition("_")[2]) for s in written if s.startswith("Position")), default=-1)
    groups = [i for i, s in enumerate(source) if s.startswith("Position")]
    pitches = [i for i, s in enumerate(source) if s.startswith("Pitch")]
    if last == "Position":
        later = [i for i, n in zip(pitches, notes, strict=True) if n[0] == position]
        return source[later[0] :] if later else None
    if last in ("Pitch", "PitchDrum") or (last == "velocity" and not drum):
        same = [i for i, n in zip(pitches, notes, strict=True) if n == done[-1]]
        return source[same[0] + (2 if last == "velocity" else 1) :] if same else None
    later_notes = [(i, n) for i, n in zip(pitches, notes, strict=True) if not done or n > done[-1]]
    if not later_notes:
        return source[-1:]
    place, (where, _) = later_notes[0]
    return source[place:] if where == position else source[max(g for g in groups if g < place) :]


cells = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from([36, 38, 42, 60, 64]), st.sampled_from([64, 80, 96])),
    max_size=6,
    unique_by=lambda n: n[:2],
)


@settings(max_examples=60)
@given(st.lists(cells, min_size=2, max_size=5), st.booleans())
def test_votes_are_the_ids_that_begin_what_a_source_goes_on_with(tokenizer, bars, drum):
    """The last cell is written id by id; the others are the sources."""
    end = PromptTokens(tokenizer).fill_end
    song = tokenizer.encode(score_of(bars, drum=drum))
    sources = [[*song.cell(Cell(0, b)).tolist(), end] for b in range(song.n_bars - 1)]
    outlines = CellOutlines(outline_tables(tokenizer, end), sources)
    by_id = [symbols_of(tokenizer, [i], end) for i in range(tokenizer.vocab_size)]
    in_cells = [
        i == end or (not tokenizer.opens_word[i] and all(tokenizer.base_kind[b] != Kind.OTHER for b in parts) and parts)
        for i, parts in enumerate(tokenizer.expansions)
    ]
    drum = drum or not any("Duration" in s for source in sources for s in symbols_of(tokenizer, source, end))
    ids = song.cell(Cell(0, song.n_bars - 1)).tolist()
    for at in range(len(ids) + 1):
        written = symbols_of(tokenizer, ids[:at], end)
        votes = outlines.votes()
        found = dict(zip(votes.source.tolist(), range(len(votes.source)), strict=True))
        for row, source in enumerate(symbols_of(tokenizer, s, end) for s in sources):
            goes_on = expected(source, written, drum=drum)
            assert (row in found) == (goes_on is not None)
            if goes_on is None:
                continue
            allowed = [i for i, s in enumerate(by_id) if in_cells[i] and s and goes_on[: len(s)] == s]
            place = found[row]
            assert sorted(votes.ids[votes.choice[place]].tolist()) == allowed
            assert allowed
            theirs, mine = parsed(source), parsed(written)
            assert votes.hits[place] == min(MOST_COUNTED, len(set(theirs) & set(mine)))
            assert votes.missing[place] == min(MOST_COUNTED, len(set(mine) - set(theirs)))
        if at < len(ids):
            outlines.take(ids[at])


def test_agreement_is_counted_up_to_where_the_cell_is(tokenizer):
    end = PromptTokens(tokenizer).fill_end
    bars = [[(0, 60, 80), (2, 64, 80), (4, 67, 80)], [(0, 60, 96), (4, 67, 64), (5, 60, 80)]]
    song = tokenizer.encode(score_of(bars, drum=False))
    outlines = CellOutlines(outline_tables(tokenizer, end), [[*song.cell(Cell(0, 0)).tolist(), end]])
    counted = []
    for i in song.cell(Cell(0, 1)).tolist():
        outlines.take(i)
        votes = outlines.votes()
        if votes.phase == Kind.DURATION:
            counted.append([int(x[0]) for x in (votes.hits, votes.missing, votes.passed, votes.kept_up)])
    assert counted[0] == [1, 0, 0, 1]
    assert counted[-2:] == [[2, 0, 1, 0], [2, 1, 1, 0]]  # 64 was left out; the last note is not the source's


def test_the_mixture_is_a_probability(tokenizer):
    end = PromptTokens(tokenizer).fill_end
    song = tokenizer.encode(score_of([[(0, 36, 64), (2, 42, 64)], [(0, 36, 96), (2, 42, 80)]], drum=True))
    sources = [[*song.cell(Cell(0, 0)).tolist(), end]]
    memory = CellMemory(
        sources, np.ones(1), np.zeros(1, bool), BY_OUTLINE, CellOutlines(outline_tables(tokenizer, end), sources)
    )
    rng = np.random.default_rng(0)
    for i in [*song.cell(Cell(0, 1)).tolist(), end]:
        logits = rng.normal(size=tokenizer.vocab_size)
        alone = logits - np.log(np.exp(logits).sum())
        last = alone[i]
        for strength in (0.3, 1.0):
            mixed = memory.mix(logits, strength)
            assert np.exp(mixed).sum() == pytest.approx(1)
            assert mixed[i] >= last - 1e-6  # the other velocities are among what the source allows
            last = mixed[i]
        memory.take(i)


GROOVE = [(0, 36), (2, 42), (4, 38), (6, 42), (8, 36), (10, 46), (12, 38)]


def played(rng: np.random.Generator, figure: list[tuple[int, int]]) -> Played:
    return [(at, p, int(rng.integers(40, 120))) for at, p in figure]


def places(fill: list[Note], bar: int) -> list[tuple[int, int]]:
    return [((n.onset_ticks - bar * BAR) // 120, n.pitch) for n in fill if n.onset_ticks // BAR == bar]


def test_a_groove_comes_back_whatever_its_velocities(checkpoint_folder):
    """Drums as people play them, no two bars alike id by id; a model of random weights writes the groove."""
    rng = np.random.default_rng(3)
    bars = [played(rng, GROOVE) for _ in range(12)]
    score = score_of(bars, drum=True)
    ids = Infiller(load_checkpoint(checkpoint_folder)).writing.tokenizer.encode(score)
    assert len({tuple(ids.cell(Cell(0, b)).tolist()) for b in range(12)}) == 12
    blank = score.with_notes(0, [n for n in score.tracks[0].notes if n.onset_ticks // BAR not in (6, 7)])
    region = Region.rectangle([0], [(6, 8)])
    for recall, same in (
        (BY_OUTLINE, True),
        (replace(BY_OUTLINE, outline_gate=(-1e9, *BY_OUTLINE.outline_gate[1:])), False),
    ):
        infiller = Infiller(replace(load_checkpoint(checkpoint_folder), recall=recall))
        [found] = infiller(blank, Ask(region, SamplingConfig(top_p=0.7), seed=1))
        assert all((places(found.fills[0], b) == GROOVE) == same for b in (6, 7))


def test_what_was_masked_does_not_come_back_in_other_velocities(checkpoint_folder):
    rng = np.random.default_rng(3)
    score = score_of([played(rng, GROOVE) for _ in range(12)], drum=True)
    infiller = Infiller(replace(load_checkpoint(checkpoint_folder), recall=BY_OUTLINE))
    [found] = infiller(score, Ask(Region.rectangle([0], [(6, 7)]), SamplingConfig(top_p=0.7), seed=1))
    assert found.fills[0]
    assert places(found.fills[0], 6) != GROOVE
