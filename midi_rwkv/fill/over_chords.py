"""Chords that a fill sounds over: what may be struck where, and how long it may be held.

On a strong beat pitched tracks strike and hold chord tones alone; elsewhere they are free, and the model is told the
chords. Strong are the beginning of each chord and, in each bar, every second beat of an even metre, the first of an odd
one, and the dotted beats of a compound one. Where a chord begins, a bass plays its bass note, unless it is free.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from midi_rwkv.score.harmony import ChordSpan
from midi_rwkv.score.score import Bar, Note, Score, Track
from midi_rwkv.tokens.attributes import POSITIONS_PER_QUARTER
from midi_rwkv.tokens.chords import Chord
from midi_rwkv.tokens.notes import BarGrid

BASSES = (*range(32, 40), 43, 58)  # programs: basses, contrabass and tuba
NEAR = 1.5  # positions around a strong beat in which a note counts as struck on it


class OverChords:
    """The chords of an ask."""

    def __init__(self, score: Score, chords: Sequence[ChordSpan], *, free_bass: bool):
        self.score, self.chords, self.free_bass = score, sorted(chords, key=lambda c: c.start_ticks), free_bass
        self._near = int(NEAR * score.ticks_per_beat / POSITIONS_PER_QUARTER)

    def at(self, tick: int) -> ChordSpan | None:
        """The chord in force, None where there is none, or it is N.C."""
        for chord in self.chords:
            if chord.start_ticks <= tick < chord.end_ticks:
                return chord if chord.tones else None
        return None

    def strong_ticks(self, bar: Bar) -> list[int]:
        """The strong beats of a bar, ascending."""
        beat = self.score.ticks_per_beat * 4 / bar.denominator
        if bar.denominator >= 8 and bar.numerator % 3 == 0:
            every = 3 * beat
        elif bar.numerator % 2 == 0:
            every = 2 * beat
        else:
            every = float(bar.end_ticks - bar.start_ticks)
        begins = {c.start_ticks for c in self.chords if bar.start_ticks <= c.start_ticks < bar.end_ticks}
        return sorted(begins | {round(t) for t in np.arange(bar.start_ticks, bar.end_ticks, max(1.0, every))})

    def tones(self, track: Track, tick: int) -> np.ndarray:
        """(12,) bool: the pitch classes that a track may strike or hold on a strong beat."""
        chord = self.at(tick)
        if chord is None or track.is_drum:
            return np.ones(12, bool)
        out = np.isin(np.arange(12), list(chord.tones))
        if tick == chord.start_ticks and not self.free_bass and is_bass(track):
            out = np.arange(12) == chord.bass
        return out

    def allowed(self, track: Track, bar: Bar, ticks: np.ndarray) -> np.ndarray:
        """Which pitches may begin at some ticks (n,) of a bar, or just before it: (n, 128) bool."""
        out = np.ones((len(ticks), 128), bool)
        for strong in (*self.strong_ticks(bar), bar.end_ticks):  # a note may come just before the next bar's
            near = abs(ticks - strong) <= self._near
            out[near] &= self.tones(track, strong)[np.arange(128) % 12]
        return out

    def clipped(self, track: Track, notes: Sequence[Note]) -> list[Note]:
        """The notes, each of which ends on the first strong beat that it doesn't fit."""
        if track.is_drum:
            return list(notes)
        out = []
        for note in notes:
            end = note.onset_ticks + note.duration_ticks
            first, last = self.score.bar_index_at(note.onset_ticks), self.score.bar_index_at(end - 1)
            for bar in (self.score.bar(b) for b in range(first, last + 1)):
                for strong in self.strong_ticks(bar):
                    struck = note.onset_ticks + self._near < strong < end
                    if struck and not self.tones(track, strong)[note.pitch % 12]:
                        end = strong
            out.append(note._replace(duration_ticks=end - note.onset_ticks))
        return out

    def told(self, grid: BarGrid, bar: int) -> list[Chord]:
        """The chords of a bar, as the model reads them."""
        start, end = self.score.bar(bar)[:2]
        out = []
        for chord in self.chords:
            if chord.start_ticks < end and chord.end_ticks > start:
                position = int(np.abs(grid.position_ticks(bar) - max(start, chord.start_ticks)).argmin())
                out.append(Chord(position, chord.quality, chord.root, chord.bass))
        return out


def is_bass(track: Track) -> bool:
    """Whether a track plays the bass."""
    return not track.is_drum and (track.program in BASSES or "bass" in track.name.lower().split())
