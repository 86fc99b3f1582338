"""What stands around a note's place, as columns of its step: what the other tracks play there, and what stands there in
the cell that is shown as the most alike.

A recurrent state remembers a song vaguely. What matters most for the next note is therefore looked up rather than
remembered: the lowest and the highest pitch and the pitch classes that sound in the other tracks, how many of them
strike a note, and the note of the reference at the same place. In a cell to write, the step before tells when another
track strikes next, and which note of the reference comes next.

All of this depends on a note's place alone (on its pitch, too, for the reference's velocity and duration), so the heads
are given it as soon as they have chosen that. Only what is shown or has been written counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .attributes import DRUMS, MOST_STRUCK, Column, Vocabulary
from .notes import AT, SongNotes
from .references import Reference, RunIndex

RINGING = 4  # bars before a cell of which the notes that still sound are looked for
OTHERS = [
    Column.LOWEST,
    Column.HIGHEST,
    Column.CHROMA,
    Column.STRUCK,
    Column.STRUCK_VELOCITY,
    Column.STRUCK_DURATION,
]


@dataclass(frozen=True)
class Sounds:
    """Notes as others hear them, (N,) each. Times are in positions; the pitch of a drum is -1."""

    start: np.ndarray
    end: np.ndarray
    pitch: np.ndarray
    track: np.ndarray
    velocity: np.ndarray  # level
    duration: np.ndarray  # index

    @classmethod
    def of(
        cls, vocabulary: Vocabulary, song: SongNotes, notes: np.ndarray, start: np.ndarray, track: np.ndarray
    ) -> Sounds:
        """Of notes (N, 5) that begin at `start`."""
        notes = notes.astype(np.int64)
        return cls(
            start,
            start + vocabulary.durations[notes[:, AT.duration]],
            np.where(song.programs[track] == DRUMS, -1, notes[:, AT.pitch]),
            track,
            notes[:, AT.velocity],
            notes[:, AT.duration],
        )


def sounding(queries: np.ndarray, of: np.ndarray, sounds: Sounds) -> np.ndarray:
    """Columns `OTHERS` at some times, (Q, 6), from notes of other tracks.

    queries (Q,): times, ascending. of (Q,): the track that asks.
    """
    drums = sounds.pitch < 0
    low = np.searchsorted(queries, sounds.start)
    high = np.searchsorted(queries, np.where(drums, sounds.start + 1, sounds.end))
    count = np.maximum(0, high - low)
    note = np.repeat(np.arange(len(count)), count)
    query = np.arange(len(note)) - np.repeat(np.cumsum(count) - count, count) + low[note]
    other = sounds.track[note] != of[query]
    note, query = note[other], query[other]
    out = np.zeros((len(queries), len(OTHERS)), np.int64)
    pitched = ~drums[note]
    strikes = sounds.start[note] == queries[query]
    hit, at = note[strikes], query[strikes]
    keys = np.unique((at * 2 + pitched[strikes]) * 4096 + sounds.track[hit]) // 4096  # each track once
    struck = np.minimum(MOST_STRUCK, np.bincount(keys, minlength=2 * len(queries)).reshape(-1, 2))
    out[:, 3] = 1 + (1 + MOST_STRUCK) * struck[:, 0] + struck[:, 1]
    np.maximum.at(out[:, 4], at, 1 + sounds.velocity[hit])
    np.maximum.at(out[:, 5], at[pitched[strikes]], 1 + sounds.duration[hit[pitched[strikes]]])
    note, query = note[pitched], query[pitched]
    lowest = np.full(len(queries), 128)
    np.minimum.at(lowest, query, sounds.pitch[note])
    np.maximum.at(out[:, 1], query, 1 + sounds.pitch[note])
    out[:, 0] = np.where(lowest < 128, 1 + lowest, 0)
    np.bitwise_or.at(out[:, 2], query, 1 << sounds.pitch[note] % 12)
    return out


def with_before(steps: np.ndarray, last: int = 0) -> np.ndarray:
    """Fills in column BEFORE of the notes of a sequence of steps, in place. last: PITCH of the last note before it."""
    pitch = np.concatenate([[last], steps[:, Column.PITCH]])
    is_note = np.concatenate([[True], steps[:, Column.VELOCITY] > 0])
    at = np.maximum.accumulate(np.where(is_note, np.arange(len(pitch)), 0))
    steps[:, Column.BEFORE] = np.where(is_note[1:], pitch[at[:-1]], 0)
    return steps


class CellSurroundings:
    """Around the notes of one cell, as things are now."""

    def __init__(
        self, vocabulary: Vocabulary, index: RunIndex, track: int, bar: int, references: Sequence[Reference] = ()
    ):
        """index: what is shown now of the song, and has been written since. references: the best first; the first that
        holds notes is followed."""
        self._vocabulary, self._index, self._track, self._bar = vocabulary, index, track, bar
        self._is_drum = index.song.is_drum(track)
        self._others, self._struck = self._at(bar)
        self._has_reference = bool(references)
        self._there: dict[int, list[list[int]]] = {}  # the reference's notes by position, in the order of pitches
        for note in next((r.notes.tolist() for r in references if len(r.notes)), []):
            self._there.setdefault(note[AT.position], []).append(note)
        self._positions = sorted(self._there)
        self.references = [self._of_reference(r) for r in references]  # the columns of their notes, (n, columns) each

    def _at(self, bar: int) -> tuple[np.ndarray, np.ndarray]:
        """Columns `OTHERS` at each position of a bar, (positions, 6); and where another track strikes."""
        song, n = self._index.song, int(self._index.song.lengths[bar])
        first = max(0, bar - RINGING)
        bars, track, notes = self._index.notes(first, bar + 1)
        other = track != self._track
        bars, track, notes = bars[other], track[other], notes[other]
        lengths = song.lengths[first : bar + 1].astype(np.int64)
        lines = np.cumsum(lengths) - lengths - lengths[:-1].sum()  # seen from the bar's own
        start = lines[bars - first] + notes[:, AT.position]
        found = sounding(np.arange(n), np.full(n, self._track), Sounds.of(self._vocabulary, song, notes, start, track))
        return found.astype(np.int16), np.unique(start[start >= 0])

    def _of_reference(self, reference: Reference) -> np.ndarray:
        """What sounds around a reference's notes where they stand."""
        out = np.zeros((len(reference.notes), len(Column)), np.int16)
        if reference.bar is not None and len(out):
            others = self._others if reference.bar == self._bar else self._at(reference.bar)[0]
            at = np.minimum(reference.notes[:, AT.position], len(others) - 1)
            out[:, OTHERS] = others[at]
        return out

    def at_start(self) -> np.ndarray:
        """The columns of the step before the cell's first note."""
        return self._ahead(np.zeros(len(Column), np.int16), -1, -1)

    def at_place(self, position: int, above: int = -1) -> np.ndarray:
        """The columns of a note at a position, its pitch not yet known, (columns,). above: the pitch of the note that
        was written before it at the same position."""
        out = np.zeros(len(Column), np.int16)
        if position < len(self._others):
            out[OTHERS] = self._others[position]
        note = next((n for n in self._there.get(position, ()) if n[AT.pitch] > above), None)
        if note is not None:
            out[Column.THERE_MICRO] = 1 + note[AT.micro] - self._vocabulary.micros[0]
            out[Column.THERE_PITCH] = self._pitch(note)
        return out

    def at_pitch(self, columns: np.ndarray, position: int, pitch: int) -> np.ndarray:
        """`at_place`'s columns with what is known of the note once its pitch is."""
        here = self._there.get(position)
        if here:
            note = min(here, key=lambda n: abs(n[AT.pitch] - pitch))
            columns[Column.THERE_VELOCITY] = 1 + note[AT.velocity]
            columns[Column.THERE_DURATION] = 0 if self._is_drum else 1 + note[AT.duration]
        return self._ahead(columns, position, pitch)

    def of_notes(self, notes: np.ndarray) -> np.ndarray:
        """The columns of the cell's notes, (n, columns), each from those before it."""
        out = np.zeros((len(notes), len(Column)), np.int16)
        before, below = -1, -1
        for row, (position, _, pitch, *_) in zip(out, notes.tolist(), strict=True):
            row[:] = self.at_pitch(self.at_place(position, below if position == before else -1), position, pitch)
            before, below = position, pitch
        return out

    def _ahead(self, columns: np.ndarray, position: int, pitch: int) -> np.ndarray:
        """Fills in what comes after a note."""
        nothing = self._vocabulary.nothing
        k = int(np.searchsorted(self._struck, position, side="right"))
        columns[Column.NEXT_STRUCK] = 1 + self._struck[k] if k < len(self._struck) else nothing
        if self._has_reference:
            note = next((n for n in self._there.get(position, ()) if n[AT.pitch] > pitch), None)
            if note is None:
                later = next((p for p in self._positions if p > position), None)
                note = None if later is None else self._there[later][0]
            columns[Column.NEXT_THERE] = nothing if note is None else 1 + note[AT.position]
            columns[Column.NEXT_PITCH] = 0 if note is None else self._pitch(note)
        return columns

    def _pitch(self, note: Sequence[int]) -> int:
        return 1 + note[AT.pitch] + 128 * self._is_drum
