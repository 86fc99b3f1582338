"""A fill is struck and held as its track is: how long, how many together, how often the same again."""

from __future__ import annotations

from itertools import groupby, pairwise

import numpy as np
import pytest
from cell_limits import ANY, CLASSES, finish, small_limits
from hypothesis import given, settings
from hypothesis import strategies as st

from midi_rwkv import Ask, Note, Region, Score, Track, infill
from midi_rwkv.fill.habits import Habits, TrackHabits
from midi_rwkv.fill.infill import Infiller
from midi_rwkv.fill.limits import NO_LIMIT, CellLimits
from midi_rwkv.fill.note_writer import NoteWriter
from midi_rwkv.model.checkpoint import load_checkpoint
from midi_rwkv.model.config import SamplingConfig
from midi_rwkv.score.score import TimeSignature

BAR = 1920


def song(*tracks: Track) -> Score:
    return Score(480, tracks, (TimeSignature(0, 4, 4),))


def pad(bars: int = 8, times: int = 4) -> Track:
    """Chords of three notes, held for so many bars."""
    chords = ((48, 55, 64), (45, 52, 60), (53, 57, 60), (43, 50, 59))
    notes = [Note(k * bars * BAR, p, bars * BAR - 10, 70) for k in range(times) for p in chords[k % 4]]
    return Track("Pad", 89, tuple(sorted(notes)))


def lead(bars: int) -> Track:
    return Track("Lead", 80, tuple(Note(k * 480, 72 + k % 3, 400, 80) for k in range(4 * bars)))


def habits_of(score: Score, region: Region, **asked: object) -> TrackHabits | None:
    writing = Infiller(load_checkpoint()).writing
    blanked = writing.blank(score, Ask(region, SamplingConfig(**asked)))  # type: ignore[arg-type]
    return Habits(blanked, writing.vocabulary, writing.style.kind).of(region.tracks[0])


def strikes(notes: list[Note]) -> list[tuple[int, tuple[int, ...]]]:
    return [(tick, tuple(n.pitch for n in found)) for tick, found in groupby(sorted(notes), lambda n: n.onset_ticks)]


@pytest.mark.parametrize("bars", [2, 4, 8])
def test_a_pad_is_held_as_long_and_struck_as_full(bars: int) -> None:
    """Under a lead in quarters, which a model follows gladly."""
    score, region = song(pad(bars), lead(4 * bars)), Region.rectangle([0], [(bars, 2 * bars)])
    for answer in infill(score, Ask(region, candidates=3, seed=1)):
        notes = answer.fills[0]
        assert [len(pitches) for _, pitches in strikes(notes)] == [3] * len(strikes(notes))
        assert len(strikes(notes)) <= 2
        assert max(n.duration_ticks for n in notes) >= bars * BAR / 2 - 10


def test_what_a_track_shows() -> None:
    """Durations near to its own; strikes that end with the next; full chords; the usual runs of one low note."""
    chords = pad(1, 20)
    found = habits_of(song(chords), Region.rectangle([0], [(8, 10)]))
    assert found is not None
    assert found.together == (3, 3)
    assert found.longest == 1
    lengths = load_checkpoint().vocabulary.durations[found.durations] / 24
    assert 3 < lengths.min() <= 4 <= lengths.max() < 5
    assert found.lasts[found.durations].min() > 72
    riff = [Note(b * BAR + k * 240, 40 + (b % 2), 200, 80) for b in range(16) for k in range(8)]
    found = habits_of(song(Track("Bass", 33, tuple(riff))), Region.rectangle([0], [(8, 10)]))
    assert found is not None
    assert found.longest == 8
    ringing = [Note(b * BAR + k * 480, 40 + 5 * k, 3000, 80) for b in range(16) for k in range(4)]
    found = habits_of(song(Track("Harp", 46, tuple(ringing))), Region.rectangle([0], [(8, 10)]))
    assert found is not None
    assert not found.lasts.any()


def test_nothing_is_told_of_few_notes_of_drums_or_where_other_things_are_asked() -> None:
    region = Region.rectangle([0], [(2, 3)])
    few = song(Track("a", 0, tuple(Note(k * BAR, 60 + k, 400, 80) for k in range(5))), lead(8))
    assert habits_of(few, region) is None
    hits = Track("Drums", 0, tuple(Note(k * 480, 36 + 2 * (k % 2), 60, 90) for k in range(32)), is_drum=True)
    assert habits_of(song(hits), region) is None
    assert habits_of(song(pad(1, 8)), region, density=(4, 8)) is None
    found = habits_of(song(pad(1, 8)), region, polyphony=(1, 2))
    assert found is not None
    assert found.together == (1, NO_LIMIT)


@given(small_limits(), st.integers(0, 1000), st.integers(1, 3), st.integers(1, 3))
@settings(max_examples=200)
def test_limits_come_first_and_habits_are_kept_to(limits: CellLimits, seed: int, longest: int, fewest: int) -> None:
    """From heads that say anything. Where the limits leave no choice, they alone hold."""
    if limits.conflict() is not None:
        return
    rng = np.random.default_rng(seed)
    durations = np.arange(CLASSES[4]) % 7 == 3
    habits = TrackHabits(durations, np.zeros(CLASSES[4]), (fewest, fewest + 1), longest)
    writer = NoteWriter(limits, ANY, rng, is_drum=False)
    writer.keep_to(habits, -1, 0)
    finish(writer, rng)
    assert all(note[4] % 7 == 3 for note in writer.notes)
    assert limits.density[0] <= len(writer.notes) + len(limits.locked) <= limits.density[1]


def test_strikes_that_end_with_the_next_are_not_cut_and_not_stuck() -> None:
    limits = CellLimits(np.tile(np.isin(np.arange(128), [60, 62, 64]), (96, 1)))
    lasts = np.full(CLASSES[4], 20.5)
    for seed in range(50):
        rng = np.random.default_rng(seed)
        writer = NoteWriter(limits, ANY, rng, is_drum=False)
        writer.keep_to(TrackHabits(np.ones(CLASSES[4], bool), lasts, (1, 1), 2), 60, 2)
        finish(writer, rng)
        places, pitches = [n[0] for n in writer.notes], [60, 60, *(n[2] for n in writer.notes)]
        assert all(b - a >= 21 for a, b in pairwise(places))
        assert all(len(set(pitches[i : i + 3])) > 1 for i in range(len(pitches) - 2))
