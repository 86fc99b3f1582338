"""A new track takes after tracks of its kind in the pieces that a style was learned from."""

from __future__ import annotations

import numpy as np
import pytest

from midi_rwkv import Ask, Note, Region, Score, Track, load_checkpoint
from midi_rwkv.fill.infill import Infiller
from midi_rwkv.score.score import TimeSignature
from midi_rwkv.style.kinds import find_kind
from midi_rwkv.style.style import Style, blend
from midi_rwkv.tokens.attributes import DRUMS
from midi_rwkv.tokens.notes import SongNotes, encode

BAR = 1920
CHORD = (52, 57, 61, 64)


def song(*tracks: Track) -> Score:
    return Score(480, tracks, (TimeSignature(0, 4, 4),))


def strummed(program: int = 25, bars: int = 12) -> Track:
    """Chords of four notes in eighths."""
    notes = [Note(b * BAR + k * 240, p, 230, 80) for b in range(bars) for k in range(8) for p in CHORD]
    return Track("Guitar", program, tuple(notes))


def beats() -> Track:
    hits = [Note(b * BAR + k * 120, (37, 54, 70)[k % 3], 60, 90) for b in range(12) for k in range(16)]
    return Track("Drums", 0, tuple(hits), is_drum=True)


def lead() -> Track:
    return Track("Lead", 73, tuple(Note(k * 480, 72 + k % 5, 460, 80) for k in range(64)))


def encoded(*tracks: Track) -> SongNotes:
    return encode(load_checkpoint().vocabulary, song(*tracks))


@pytest.fixture(scope="module")
def infiller() -> Infiller:
    return Infiller(load_checkpoint())


def test_a_kind_is_of_the_program_else_of_the_family() -> None:
    pieces = [encoded(strummed(), beats()), encoded(lead())]
    for program in (25, 24):
        kind = find_kind(pieces, program)
        assert kind is not None
        assert kind.per_quarter == (8, 8, 8)
        assert set(kind.pitches) == set(CHORD)
        assert len(kind.cells) == 12
    both = [*pieces, encoded(Track("Nylon", 24, tuple(Note(b * BAR, 50, 1900, 80) for b in range(8))))]
    kind = find_kind(both, 24)
    assert kind is not None
    assert kind.per_quarter == (0.25, 0.25, 0.25)
    kind = find_kind(pieces, DRUMS)
    assert kind is not None
    assert set(kind.pitches) == {37, 54, 70}
    assert find_kind(pieces, 40) is None
    assert find_kind([encoded(strummed(bars=7))], 25) is None  # too few bars


@pytest.mark.parametrize("is_drum", [False, True])
def test_a_new_track_takes_after_its_kind(infiller: Infiller, is_drum: bool) -> None:  # noqa: FBT001 - a parameter
    """As busy, as full and as high as there; with the drums that are used there."""
    score = song(lead(), Track("new", 0 if is_drum else 25, (), is_drum=is_drum))
    ask = Ask(Region.rectangle([1], [(4, 8)]), seed=3)
    infiller.style = Style("mine", pieces=[(encoded(strummed(), beats()), 0.0)])
    try:
        [found] = infiller(score, ask)
    finally:
        infiller.style = Style("none")
    notes = found.fills[1]
    counts = [len(found.score.notes_in(1, b)) for b in range(4, 8)]
    if is_drum:
        assert {n.pitch for n in notes} <= {37, 54, 70}
        assert min(counts) >= 10
    else:
        assert min(CHORD) - 5 <= min(n.pitch for n in notes) <= max(n.pitch for n in notes) <= max(CHORD) + 5
        _, together = np.unique([n.onset_ticks for n in notes], return_counts=True)
        assert np.median(together) == 4
        assert min(counts) >= 16
    [plain] = infiller(score, ask)
    assert plain.fills[1] != notes


def test_at_strength_0_nothing_is_known_of_kinds() -> None:
    style = Style("mine", pieces=[(encoded(strummed()), 0.0)], run=np.zeros((1, 1, 2, 2), np.float32))
    assert blend([(style, 1.0)], 0.0) is None
    half = blend([(style, 1.0)], 0.5)
    assert half is not None
    assert half.kind(Track("new", 25, ())) is not None
    assert Style("none").kind(Track("new", 25, ())) is None
