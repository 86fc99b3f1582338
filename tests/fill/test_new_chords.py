"""Where the other tracks play a chord over which a track has never played, the fill goes with it."""

from __future__ import annotations

import numpy as np
import pytest

from midi_rwkv import Ask, Note, Region, Score, Track, load_checkpoint
from midi_rwkv.fill.infill import Infiller
from midi_rwkv.fill.sources import Sources
from midi_rwkv.score.score import Cell, TimeSignature
from midi_rwkv.tokens.notes import AT, BarGrid
from midi_rwkv.tokens.references import RunIndex

BAR = 1920
CHORDS = (
    [(36, "M"), (33, "m"), (41, "M"), (43, "M")] * 2 + [(32, "M"), (39, "M"), (34, "M"), (37, "m")] + [(36, "M")] * 4
)
REGION = Region.rectangle([1], [(8, 12)])


def song() -> Score:
    """Chords and a bass, in four bars over chords that are nowhere else."""
    keys = [
        Note(b * BAR + half, root + 24 + step, 900, 76)
        for b, (root, kind) in enumerate(CHORDS)
        for half in (0, 960)
        for step in (0, 3 if kind == "m" else 4, 7)
    ]
    bass = [
        Note(b * BAR + 480 * k, root + (0, 0, 7, 0)[k], 440, 92) for b, (root, _) in enumerate(CHORDS) for k in range(4)
    ]
    return Score(480, (Track("Keys", 4, tuple(keys)), Track("Bass", 33, tuple(bass))), (TimeSignature(0, 4, 4),))


@pytest.fixture(scope="module")
def infiller() -> Infiller:
    return Infiller(load_checkpoint())


def followed(infiller: Infiller, ask: Ask, cell: Cell) -> list[list[int]]:
    """The pitches of what is followed."""
    writing = infiller.writing
    blanked = writing.blank(song(), ask)
    grid = BarGrid(writing.vocabulary, blanked.bars, 480)
    index = RunIndex(blanked.song, (8, 12), ask.region.cells)
    found = Sources(blanked, writing.encoder, None, grid).of(index, cell, np.random.default_rng(0))
    return [r.notes[:, AT.pitch].tolist() for r in found]


def test_bars_are_followed_moved_to_a_new_chord_and_as_they_are(infiller: Infiller) -> None:
    asked = followed(infiller, Ask(REGION, again=True), Cell(1, 8))
    assert asked[0] == [32, 32, 39, 32]
    assert asked[1] in ([36, 36, 43, 36], [33, 33, 40, 33], [41, 41, 48, 41], [43, 43, 50, 43])


def test_what_is_refused_does_not_come_back_moved(infiller: Infiller) -> None:
    assert [32, 32, 39, 32] not in followed(infiller, Ask(REGION), Cell(1, 8))


def test_over_chords_that_the_track_knows_nothing_is_moved(infiller: Infiller) -> None:
    region = Region.rectangle([1], [(4, 8)])
    writing = infiller.writing
    blanked = writing.blank(song(), Ask(region))
    sources = Sources(blanked, writing.encoder, None, BarGrid(writing.vocabulary, blanked.bars, 480))
    assert [sources.told(Cell(1, b)) for b in range(4, 8)] == [()] * 4


@pytest.mark.parametrize("again", [False, True])
def test_a_bass_goes_with_new_chords(infiller: Infiller, again: bool) -> None:  # noqa: FBT001 - a parameter
    tones, roots = [], []
    for answer in infiller(song(), Ask(REGION, candidates=4, seed=1, again=again)):
        for note in answer.fills[1]:
            root, kind = CHORDS[note.onset_ticks // BAR]
            tones.append((note.pitch - root) % 12 in (0, 3 if kind == "m" else 4, 7))
            if note.onset_ticks % BAR == 0:
                roots.append((note.pitch - root) % 12 == 0)
    assert np.mean(tones) > 0.85
    assert np.mean(roots) > 0.8
