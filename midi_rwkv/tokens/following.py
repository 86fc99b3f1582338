"""Following what a song says elsewhere, note by note, while a cell is written.

The sources of a cell are the cells whose surroundings are most like its own, and what other tracks play in the same bar
where they double this one. Which of them to follow shows while it is written: a source that has said what was written
last rises, one that has said something else falls. At every note the best is asked what comes next, and which pitch it
has at the place that was chosen; so is the best of those that say something else. How far the first is to be trusted is
told by its score and by the share of all sources that say the same.

The constants were chosen on validation songs: the first source is right about the next place in 75 of 100 cases and
about the pitch in 61, where the cell with the most alike surroundings, followed throughout, is in 69 and 50.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from . import following_loops as loops
from .attributes import Column, Vocabulary
from .following_loops import END, NONE, PITCHES, POSITIONS
from .notes import AT
from .references import MOST_SOURCES
from .twins import MOST_TWINS

WIDTH = MOST_SOURCES + MOST_TWINS  # sources of a cell
LIKENESS = 4.0  # what a source's likeness of 1 counts

AHEAD = [Column.NEXT_THERE, Column.NEXT_PITCH, Column.NEXT_SECOND, Column.NEXT_TRUST]
AT_POSITION = [Column.THERE_MICRO, Column.THERE_PITCH, Column.THERE_SECOND, Column.THERE_TRUST]
OF_PITCH = [Column.THERE_VELOCITY, Column.THERE_DURATION]
MEMORY_AHEAD = [
    Column.MEMORY_NEXT,
    Column.MEMORY_NEXT_PITCH,
    Column.MEMORY_NEXT_SECOND,
    Column.MEMORY_NEXT_TRUST,
]
MEMORY_AT_POSITION = [Column.MEMORY_MICRO, Column.MEMORY_PITCH, Column.MEMORY_SECOND, Column.MEMORY_TRUST]
MEMORY_OF_PITCH = [Column.MEMORY_VELOCITY, Column.MEMORY_DURATION]


class SourceNotes:
    """The notes of cells that may be followed: (n, 5), and the cell of each, ascending; in a cell in the order of
    position and pitch."""

    def __init__(self, cell: np.ndarray, notes: np.ndarray):
        self.notes = np.ascontiguousarray(notes, np.int64)
        self.keys = (cell * POSITIONS + self.notes[:, AT.position]) * PITCHES + self.notes[:, AT.pitch]

    @classmethod
    def of(cls, cells: Sequence[np.ndarray]) -> SourceNotes:
        """Of the notes of each cell."""
        which = np.repeat(np.arange(len(cells)), [len(c) for c in cells])
        return cls(which, np.concatenate([np.zeros((0, 5), np.int64), *cells]))


@dataclass(frozen=True)
class Placed:
    """The next note's place being chosen, what the sources have there: by writer and source the number of a note, and
    the scores, which now know the place; and columns `AT_POSITION`, by writer."""

    position: np.ndarray
    there: np.ndarray
    gained: np.ndarray
    columns: np.ndarray


@dataclass(frozen=True)
class Followers:
    """Writers of cells, one for each of R cells, and where each is.

    of (R, K): the sources' cells in `notes`, NONE for none. prior (R, K): their likeness, as a score. gained (R, K):
    what they have gained since. position, pitch (R,): of the note written last; -1 and `PITCHES` - 1 before the first.
    """

    vocabulary: Vocabulary
    notes: SourceNotes
    of: np.ndarray
    prior: np.ndarray
    drum: np.ndarray  # (R,) bool
    gained: np.ndarray
    position: np.ndarray
    pitch: np.ndarray

    @classmethod
    def begin(
        cls, vocabulary: Vocabulary, notes: SourceNotes, of: np.ndarray, likeness: np.ndarray, drum: np.ndarray
    ) -> Followers:
        """Before the first note of each cell. likeness (R, K): 0-1, of the sources."""
        rows, prior = np.full(len(of), -1), (LIKENESS * likeness).astype(np.float32)
        return cls(vocabulary, notes, of, prior, drum, np.zeros_like(prior), rows, rows + PITCHES)

    def from_start(self) -> Followers:
        """Before the first note of each cell again, with what the sources have gained."""
        return replace(self, position=np.full_like(self.position, -1), pitch=np.full_like(self.pitch, PITCHES - 1))

    def select(self, rows: np.ndarray) -> Followers:
        """Of some writers."""
        parts = (self.of, self.prior, self.drum, self.gained, self.position, self.pitch)
        of, prior, drum, gained, position, pitch = (x[rows] for x in parts)
        return Followers(self.vocabulary, self.notes, of, prior, drum, gained, position, pitch)

    def _sources(self, gained: np.ndarray) -> tuple[np.ndarray, ...]:
        return self.notes.keys, self.notes.notes, self.of, self.prior, gained

    @cached_property
    def _next(self) -> tuple[np.ndarray, np.ndarray]:
        """The positions that all sources say come next, (R, K), and what is heard of them, (R, 4)."""
        says, out = np.empty_like(self.of), np.empty((len(self.of), 4), np.int64)
        loops.say_next(self._sources(self.gained), self.position, self.pitch, says, out)
        return says, out

    def ahead(self) -> np.ndarray:
        """Columns `AHEAD`, (R, 4)."""
        out = self._next[1].copy()
        pitched = out[:, 0] >= 0
        for column in (0, 2):
            there = out[:, column]
            out[:, column] = np.where(there >= 0, 1 + there, np.where(there == END, self.vocabulary.nothing, 0))
        out[:, 1] = np.where(pitched, 1 + out[:, 1] + PITCHES * self.drum, 0)
        return out

    def at_place(self, position: np.ndarray) -> Placed:
        """The next note being at a position, (R,)."""
        there, gained = np.empty_like(self.of), np.empty_like(self.gained)
        out = np.empty((len(self.of), 4), np.int64)
        last = self.position, self.pitch
        loops.say_pitch(self._sources(self.gained), last, self._next[0], position, there, gained, out)
        known = out[:, :3] != NONE
        out[:, 0] += 1 - self.vocabulary.micros[0]
        out[:, 1:3] += (1 + PITCHES * self.drum)[:, None]
        out[:, :3] *= known
        return Placed(position, there, gained, out)

    def write(self, placed: Placed, pitch: np.ndarray) -> tuple[np.ndarray, Followers]:
        """The next note having a pitch: columns `OF_PITCH`, (R, 2), and where the writers are then."""
        out, gained = np.empty((len(pitch), 2), np.int64), np.empty_like(self.gained)
        loops.say_rest(self._sources(placed.gained), placed.position, pitch, placed.there, gained, out)
        out += 1
        out[out < 0] = 0
        out[self.drum, 1] = 0
        return out, replace(self, gained=gained, position=placed.position, pitch=pitch)
