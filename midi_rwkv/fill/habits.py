"""How long the notes of a track are, how many it strikes together and how often it strikes the same again: a fill keeps
to that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from midi_rwkv.score.score import Cell, Track
from midi_rwkv.score.single import handover_ticks
from midi_rwkv.score.sustain import EVIDENCE, ends_with_next
from midi_rwkv.style.kinds import Kind
from midi_rwkv.tokens.attributes import POSITIONS_PER_QUARTER, Vocabulary
from midi_rwkv.tokens.notes import AT
from midi_rwkv.tokens.references import RunIndex

from .blank import Blanked
from .limits import NO_LIMIT

STRIKES = 3  # that show how many notes a track strikes together
MANY = 32  # notes that show all the durations that a track has
RARE = 0.05  # share of the strikes that may lie in longer runs than a fill has


@dataclass(frozen=True)
class TrackHabits:
    """Those of one track, in what it shows.

    Attributes:
        durations: (classes,) bool, how long notes may be.
        lasts: (classes,) how many positions a note of each duration sounds before the next begins, at least; zeros
            where notes may begin while others sound.
        together: notes that are struck together, at least and at most.
        longest: strikes in a row that have the same lowest note, at most.
    """

    durations: np.ndarray
    lasts: np.ndarray
    together: tuple[int, int]
    longest: float


class Habits:
    """Those of the tracks of a region."""

    def __init__(self, blanked: Blanked, vocabulary: Vocabulary, kind: Callable[[Track], Kind | None]):
        """kind: gives what tracks like one are in a style's pieces, after which a track without notes takes."""
        self.blanked, self.vocabulary, self.kind = blanked, vocabulary, kind
        self._habits: dict[int, TrackHabits | None] = {}

    def of(self, track: int) -> TrackHabits | None:
        """A track's habits; None for drums, where it shows too little, and where others are asked for."""
        if track not in self._habits:
            self._habits[track] = self._of(track)
        return self._habits[track]

    def _of(self, track: int) -> TrackHabits | None:
        blanked, positions = self.blanked, self.vocabulary.durations
        cells = [blanked.song.cell(track, b) for b in range(blanked.song.n_bars)]
        if not blanked.blank.tracks[track].notes and (kind := self.kind(blanked.score.tracks[track])):
            cells = list(kind.cells)
        own = np.bincount(np.concatenate(cells)[:, AT.duration], minlength=len(positions))
        if blanked.score.tracks[track].is_drum or blanked.ask.sampling.density or own.sum() < EVIDENCE:
            return None
        used = np.flatnonzero(own)
        durations = (2 * positions >= positions[used[0]]) & (positions <= 2 * positions[used[-1]])
        if own.sum() >= MANY:
            near = np.zeros(len(positions) + 2, bool)
            for shift in range(3):
                near[used + shift] = True
            durations &= near[1:-1]
        ticks_per_beat = blanked.score.ticks_per_beat
        lasts = np.zeros(len(positions))
        if ends_with_next(blanked.blank.tracks[track].notes, ticks_per_beat):
            shortest = np.concatenate([[0], (positions[1:] + positions[:-1]) / 2])
            overlap = POSITIONS_PER_QUARTER * handover_ticks(ticks_per_beat) / ticks_per_beat
            lasts = np.maximum(0, shortest - overlap)
        return TrackHabits(durations, lasts, self._together(cells), _longest(_lengths(cells)))

    def _together(self, cells: list[np.ndarray]) -> tuple[int, int]:
        """How many notes a track strikes together; any number where that is asked for, or notes stay in the cells."""
        counts = np.concatenate([np.unique(notes[:, AT.position], return_counts=True)[1] for notes in cells])
        if self.blanked.ask.sampling.polyphony or not self.blanked.part.is_whole or len(counts) < STRIKES:
            return 1, NO_LIMIT
        return int(counts.min()), int(counts.max())

    def run_before(self, index: RunIndex, cell: Cell) -> tuple[int, int]:
        """The lowest note that was struck last before a cell, and how many strikes in a row had it; -1 for none."""
        pitch, count = -1, 0
        for bar in range(cell.bar - 1, -1, -1):
            for low in reversed(_lows(index.cell(cell.track, bar))):
                if count and low != pitch:
                    return pitch, count
                pitch, count = low, count + 1
        return pitch, count


def _lows(notes: np.ndarray) -> list[int]:
    """The lowest pitch of each strike of a cell."""
    order = np.lexsort((notes[:, AT.pitch], notes[:, AT.position]))
    _, first = np.unique(notes[order, AT.position], return_index=True)
    lows: list[int] = notes[order][first, AT.pitch].tolist()
    return lows


def _lengths(cells: list[np.ndarray]) -> np.ndarray:
    """How many strikes with the same lowest note follow each other, by run."""
    lows = np.array([low for notes in cells for low in _lows(notes)], np.int64)
    edges = np.flatnonzero(np.diff(lows)) + 1
    return np.diff(np.concatenate([[0], edges, [len(lows)]]))


def _longest(lengths: np.ndarray) -> float:
    """The length beyond which no more than `RARE` of the strikes lie in runs."""
    lengths = np.sort(lengths)
    within = np.cumsum(lengths) >= (1 - RARE) * lengths.sum()
    return float(lengths[within.argmax()])
