"""Bars that are written anew are about as busy as they were."""

from __future__ import annotations

import numpy as np
import pytest

from midi_rwkv import Ask, Note, Region, SamplingConfig, Score, Track, infill, load_checkpoint
from midi_rwkv.fill.ask import Like
from midi_rwkv.fill.blank import blank_cells
from midi_rwkv.fill.infill import Infiller
from midi_rwkv.fill.sources import Sources
from midi_rwkv.score.score import Cell, TimeSignature
from midi_rwkv.tokens.notes import BarGrid
from midi_rwkv.tokens.references import RunIndex

BAR = 1920
BARS = 32
CALM = range(8, 12)  # four bars of one long note, of which the third rests; elsewhere four such and four of eighths


@pytest.fixture(scope="module")
def song() -> Score:
    chords = [(60, 64, 67), (57, 60, 64), (65, 69, 72), (67, 71, 74)]
    keys = [Note(b * BAR, p - 12, BAR - 20, 70) for b in range(BARS) for p in chords[b % 4]]
    calm = [Note(b * BAR, chords[b % 4][b % 3] + 12, BAR - 20, 90) for b in range(BARS) if b // 4 % 2 == 0 and b != 10]
    busy = [
        Note(b * BAR + k * 240, chords[b % 4][(k + b) % 3] + 12, 220, 90)
        for b in range(BARS)
        if b // 4 % 2
        for k in range(8)
    ]
    lead = tuple(sorted([*calm, *busy]))
    return Score(480, (Track("Keys", 0, tuple(keys)), Track("Lead", 73, lead)), (TimeSignature(0, 4, 4),))


def counts(song: Score, ask: Ask) -> list[list[int]]:
    """By candidate and bar that does not rest."""
    return [[len(answer.score.notes_in(1, b)) for b in CALM if b != 10] for answer in infill(song, ask)]


def test_calm_bars_stay_calm(song: Score) -> None:
    region = Region.rectangle([1], [(CALM.start, CALM.stop)])
    blank = song.with_fill(region, {1: ()})
    anew, empty = (
        np.mean([np.less(counts(of, Ask(region, candidates=8, seed=seed)), 4) for seed in (1, 2)])
        for of in (song, blank)
    )
    assert anew > 0.8
    assert empty < anew - 0.1


def told(song: Score, cell: Cell, **asked: object) -> object:
    writing = Infiller(load_checkpoint()).writing
    region = Region.rectangle([1], [(CALM.start - 1, CALM.stop)])
    blanked = writing.blank(song, Ask(region, **asked))  # type: ignore[arg-type]
    return writing.rules(blanked).told(cell).density


def test_what_is_told_of_how_busy_it_was(song: Score) -> None:
    """Half as many again or two thirds; nothing of a rest, nor where something else is asked for."""
    assert told(song, Cell(1, 7)) == (5, 12)
    assert told(song, Cell(1, 9)) == (1, 2)
    assert told(song, Cell(1, 10)) is None
    assert told(song, Cell(1, 7), sampling=SamplingConfig(density=(2, 3))) == (2, 3)
    assert told(song, Cell(1, 7), sampling=SamplingConfig(polyphony=(1, 1))) is None
    assert told(song, Cell(1, 7), like=Like(((2, 4),))) is None


def test_which_bars_rested(song: Score) -> None:
    """Silent bars of a run that plays, where nothing rings."""
    region = Region.rectangle([0, 1], [(CALM.start, CALM.stop)])
    encoder = Infiller(load_checkpoint()).writing.encoder
    for ringing in (False, True):
        notes = [
            n._replace(duration_ticks=3 * BAR) if ringing and n.onset_ticks == 9 * BAR else n
            for n in song.tracks[1].notes
        ]
        blanked = blank_cells(encoder, song.with_notes(1, notes), Ask(region))
        assert [b for b in CALM if blanked.rested(Cell(1, b))] == ([] if ringing else [10])
    silent = blank_cells(encoder, song.with_fill(region, {0: (), 1: ()}), Ask(region))
    assert not any(silent.rested(cell) for cell in region.cells)


def followed(song: Score, bar: int, density: tuple[int, int] | None) -> list[int]:
    """How many notes the bars have that are followed."""
    writing = Infiller(load_checkpoint()).writing
    blanked = writing.blank(song, Ask(Region.rectangle([1], [(CALM.start, CALM.stop)])))
    index = RunIndex(blanked.song, (CALM.start, CALM.stop), blanked.ask.region.cells)
    sources = Sources(blanked, writing.encoder, None, BarGrid(writing.vocabulary, blanked.bars, 480))
    found = sources.of(index, Cell(1, bar), np.random.default_rng(0), density)
    return [len(r.notes) for r in found]


def test_bars_as_busy_are_followed_alone_if_there_are_enough(song: Score) -> None:
    assert {1, 8} <= set(followed(song, 8, None))
    assert set(followed(song, 8, (5, 12))) == {8}
    assert set(followed(song, 8, (1, 2))) == {1}
    assert followed(song, 8, (3, 5)) == followed(song, 8, None)  # there are none


def test_a_rest_is_followed_where_the_part_rested(song: Score) -> None:
    resting = song.with_notes(1, [n for n in song.tracks[1].notes if not 12 * BAR <= n.onset_ticks < 14 * BAR])
    assert 0 in followed(resting, 10, None)
    assert 0 not in followed(resting.with_fill(Region.rectangle([1], [(CALM.start, CALM.stop)]), {1: ()}), 10, None)
