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

import numpy as np

from .attributes import DRUMS, MOST_STRUCK, Column, Vocabulary
from .notes import AT, SongNotes
from .references import Reference, RunIndex

RINGING = 4  # bars before a cell of which the notes that still sound are looked for
OTHERS = slice(Column.LOWEST, Column.STRUCK + 1)


def sounding(
    queries: np.ndarray, of: np.ndarray, start: np.ndarray, end: np.ndarray, pitch: np.ndarray, track: np.ndarray
) -> np.ndarray:
    """Columns LOWEST to STRUCK at some times, (Q, 4), from notes of other tracks.

    queries (Q,): times, ascending. of (Q,): the track that asks. start, end, pitch, track (N,): of notes; the pitch of
    a drum is -1.
    """
    low, high = np.searchsorted(queries, start), np.searchsorted(queries, np.where(pitch < 0, start + 1, end))
    count = np.maximum(0, high - low)
    note = np.repeat(np.arange(len(start)), count)
    query = np.arange(len(note)) - np.repeat(np.cumsum(count) - count, count) + low[note]
    other = track[note] != of[query]
    note, query = note[other], query[other]
    out = np.zeros((len(queries), 4), np.int64)
    pitched = pitch[note] >= 0
    strikes = start[note] == queries[query]
    keys = np.unique((query * 2 + pitched)[strikes] * 4096 + track[note[strikes]]) // 4096  # each track once
    struck = np.minimum(MOST_STRUCK, np.bincount(keys, minlength=2 * len(queries)).reshape(-1, 2))
    out[:, 3] = 1 + (1 + MOST_STRUCK) * struck[:, 0] + struck[:, 1]
    note, query = note[pitched], query[pitched]
    lowest = np.full(len(queries), 128)
    np.minimum.at(lowest, query, pitch[note])
    np.maximum.at(out[:, 1], query, 1 + pitch[note])
    out[:, 0] = np.where(lowest < 128, 1 + lowest, 0)
    np.bitwise_or.at(out[:, 2], query, 1 << pitch[note] % 12)
    return out


def song_surroundings(vocabulary: Vocabulary, song: SongNotes, shown: np.ndarray, bars: tuple[int, int]) -> np.ndarray:
    """Columns LOWEST to STRUCK of a song's notes, (N, 4): of those in cells that are shown, in bars [first, last), from
    one another; 0 for the rest.

    shown: (T, B) bool.
    """
    out = np.zeros((len(song.notes), 4), np.int16)
    cells = shown.T.copy()
    cells[: bars[0]] = cells[bars[1] :] = False
    at = np.flatnonzero(np.repeat(cells.ravel(), np.diff(song.offsets)))
    bar, track = np.divmod(np.searchsorted(song.offsets, at, side="right") - 1, song.n_tracks)
    notes = song.notes[at].astype(np.int64)
    lines = np.concatenate([[0], np.cumsum(song.lengths.astype(np.int64))])
    start = lines[bar] + notes[:, AT.position]
    order = np.argsort(start, kind="stable")
    start, track, notes, at = start[order], track[order], notes[order], at[order]
    pitch = np.where(song.programs[track] == DRUMS, -1, notes[:, AT.pitch])
    out[at] = sounding(start, track, start, start + vocabulary.durations[notes[:, AT.duration]], pitch, track)
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
        """Columns LOWEST to STRUCK at each position of a bar, (positions, 4); and where another track strikes."""
        song, n = self._index.song, int(self._index.song.lengths[bar])
        first = max(0, bar - RINGING)
        bars, track, notes = self._index.notes(first, bar + 1)
        other = track != self._track
        bars, track, notes = bars[other], track[other], notes[other].astype(np.int64)
        lengths = song.lengths[first : bar + 1].astype(np.int64)
        lines = np.cumsum(lengths) - lengths - lengths[:-1].sum()  # seen from the bar's own
        start = lines[bars - first] + notes[:, AT.position]
        end = start + self._vocabulary.durations[notes[:, AT.duration]]
        pitch = np.where(song.programs[track] == DRUMS, -1, notes[:, AT.pitch])
        own = np.full(n, self._track)
        return sounding(np.arange(n), own, start, end, pitch, track).astype(np.int16), np.unique(start[start >= 0])

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
