"""What stands around a note's place, as columns of its step: what the other tracks play there, and what the cells that
are most like this one have there (following.py).

A recurrent state remembers a song vaguely. What matters most for the next note is therefore looked up rather than
remembered: the lowest and the highest pitch and the pitch classes that sound in the other tracks, how many of them
strike a note, and the note of the best source at the same place. In a cell to write, the step before tells when another
track strikes next, and which note of the source comes next.

All of this depends on a note's place alone (on its pitch, too, for the source's velocity and duration), so the heads
are given it as soon as they have chosen that. Only what is shown or has been written counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace

import numpy as np

from .attributes import DRUMS, MOST_STRUCK, Column, Vocabulary
from .following import (
    AHEAD,
    AT_POSITION,
    MEMORY_AHEAD,
    MEMORY_AT_POSITION,
    MEMORY_OF_PITCH,
    OF_PITCH,
    WIDTH,
    Followers,
    Placed,
    SourceNotes,
)
from .following_loops import NONE
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


class _Followed:
    """What is followed in a cell, of one kind, and the columns that tell of it."""

    def __init__(
        self, vocabulary: Vocabulary, sources: Sequence[Reference], columns: Sequence[list[Column]], *, drum: bool
    ):
        """columns: what is ahead, at the position, of the pitch."""
        self._ahead, self._at_position, self._of_pitch = columns
        followed = sources[:WIDTH]
        of = np.full((1, WIDTH), NONE)
        likeness = np.zeros((1, WIDTH), np.float32)
        of[0, : len(followed)] = np.arange(len(followed))
        likeness[0, : len(followed)] = [r.likeness for r in followed]
        self._cells = [r.notes for r in followed]
        self._now = Followers.begin(vocabulary, SourceNotes.of(self._cells), of, likeness, np.array([drum]))
        self._placed = self._now, self._now.at_place(np.zeros(1, np.int64))

    def copy(self) -> _Followed:
        return copy(self)

    def narrow(self, part: np.ndarray) -> None:
        """From now on only a part of them is followed."""
        cells = []
        for notes in self._cells:
            position, pitch = notes[:, AT.position].astype(np.int64), notes[:, AT.pitch]
            inside = position < len(part)
            cells.append(notes[inside & part[np.where(inside, position, 0), pitch]])
        self._now = replace(self._now, notes=SourceNotes.of(cells))
        self._placed = self._now, self._now.at_place(np.zeros(1, np.int64))

    def from_start(self) -> None:
        """Before the first note again, with what they have gained."""
        self._now = self._now.from_start()

    def ahead(self, columns: np.ndarray) -> None:
        """Fills in what comes next."""
        columns[self._ahead] = self._now.ahead()[0]

    def at_place(self, columns: np.ndarray, position: int) -> None:
        """Fills in what is known of the next note at a position."""
        columns[self._at_position] = self._place(position).columns[0]

    def add_pitch(self, columns: np.ndarray, position: int, pitch: int) -> Followers:
        """Fills in what is known once the pitch is, and what comes after the note. Returns where they are then."""
        of_pitch, after = self._now.write(self._place(position), np.array([pitch]))
        columns[self._of_pitch] = of_pitch[0]
        columns[self._ahead] = after.ahead()[0]
        return after

    def write(self, columns: np.ndarray, position: int, pitch: int) -> None:
        """The same, and the note is written."""
        self._now = self.add_pitch(columns, position, pitch)

    def _place(self, position: int) -> Placed:
        """The next note being at a position; what was found last is kept."""
        now, placed = self._placed
        if now is not self._now or placed.position[0] != position:
            placed = self._now.at_place(np.array([position]))
            self._placed = self._now, placed
        return placed


class CellSurroundings:
    """Around the notes of one cell, as things are now, for one writer of it, who tells of each note (`write`)."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        index: RunIndex,
        track: int,
        bar: int,
        sources: Sequence[Reference] = (),
        memory: Sequence[Reference] = (),
    ):
        """index: what is shown now of the song, and has been written since. sources: what is followed. memory: what is
        followed beside them, of other pieces."""
        self._vocabulary, self._index, self._track, self._bar = vocabulary, index, track, bar
        self._others, self._struck = self._at(bar)
        drum = index.song.is_drum(track)
        self._followed = [_Followed(vocabulary, sources, (AHEAD, AT_POSITION, OF_PITCH), drum=drum)]
        if memory:
            columns = MEMORY_AHEAD, MEMORY_AT_POSITION, MEMORY_OF_PITCH
            self._followed.append(_Followed(vocabulary, memory, columns, drum=drum))

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

    def copy(self) -> CellSurroundings:
        """For another writer, who has written the same so far."""
        other = copy(self)
        other._followed = [f.copy() for f in self._followed]
        return other

    def at_start(self) -> np.ndarray:
        """The columns of the step before the cell's first note, (columns,)."""
        out = np.zeros(len(Column), np.int16)
        for followed in self._followed:
            followed.ahead(out)
        return self._next_struck(out, -1)

    def at_place(self, position: int) -> np.ndarray:
        """The columns of the next note at a position, its pitch not yet known, (columns,)."""
        out = np.zeros(len(Column), np.int16)
        if position < len(self._others):
            out[OTHERS] = self._others[position]
        for followed in self._followed:
            followed.at_place(out, position)
        return out

    def at_pitch(self, columns: np.ndarray, position: int, pitch: int) -> None:
        """Adds to `at_place`'s columns what is known of the note once its pitch is."""
        for followed in self._followed:
            followed.add_pitch(columns, position, pitch)
        self._next_struck(columns, position)

    def write(self, columns: np.ndarray, position: int, pitch: int) -> None:
        """The same, and the note is written."""
        for followed in self._followed:
            followed.write(columns, position, pitch)
        self._next_struck(columns, position)

    def of_notes(self, notes: np.ndarray) -> np.ndarray:
        """The columns of notes that come next, (n, columns), each from those before it."""
        return self.copy()._written(notes)

    def at_each(self, notes: np.ndarray) -> list[CellSurroundings]:
        """As it is before each of some notes that come next, and after the last."""
        moments, writer = [self.copy()], self.copy()
        for note in notes:
            writer._written(note[None])
            moments.append(writer.copy())
        return moments

    def keep(self, notes: np.ndarray) -> np.ndarray:
        """The columns of the cell's notes that stay, (n, columns), and sources that have them rise."""
        columns = self._written(notes)
        for followed in self._followed:
            followed.from_start()
        return columns

    def narrow(self, part: np.ndarray) -> None:
        """From now on only a part of the sources is followed. part: (positions, 128) bool, places and pitches."""
        for followed in self._followed:
            followed.narrow(part)

    def _written(self, notes: np.ndarray) -> np.ndarray:
        out = np.zeros((len(notes), len(Column)), np.int16)
        for row, (position, _, pitch, *_) in zip(out, notes.tolist(), strict=True):
            row[:] = self.at_place(position)
            self.write(row, position, pitch)
        return out

    def _next_struck(self, columns: np.ndarray, position: int) -> np.ndarray:
        """Fills in where another track strikes after a position."""
        k = int(np.searchsorted(self._struck, position, side="right"))
        columns[Column.NEXT_STRUCK] = 1 + self._struck[k] if k < len(self._struck) else self._vocabulary.nothing
        return columns
