"""What a fill quotes: runs of notes from the training music or from a composer's pieces (fingerprint.py), and bars of
the song; and how the former are forbidden while a cell is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from midi_rwkv.score.score import Cell
from midi_rwkv.tokens.notes import AT, SongNotes

from .fingerprint import RUN, Fingerprint, Line, bar_starts, joined, line_of, steps_of

MOSTLY = 0.8  # share of notes, of both, that a cell and a bar have in common where it quotes that


@dataclass(frozen=True)
class SharedRun:
    """Notes of the longest run that a fill shares with some music; 0: fewer than `RUN`."""

    around: int  # runs with at least one new note, and notes of the song before and after it
    alone: int  # runs of new notes only


def shared_run(fingerprint: Fingerprint, line: Line, new: np.ndarray) -> SharedRun:
    """The longest runs of a line that some music has, too. new: (n,) bool, which of its notes are new."""
    shared = fingerprint.shares(steps_of(line.onsets, line.pitches, is_drum=line.is_drum))
    if not shared.any():
        return SharedRun(0, 0)
    seen = np.concatenate([[0], np.cumsum(new)])
    only = shared & (seen[RUN:] - seen[:-RUN] == RUN)
    return SharedRun(
        max((end - first for first, end in joined(shared) if seen[end] > seen[first]), default=0),
        max((end - first for first, end in joined(only)), default=0),
    )


def longest_run(fingerprint: Fingerprint, song: SongNotes, cells: Mapping[Cell, np.ndarray]) -> dict[int, SharedRun]:
    """The longest shared run of each track that is written to.

    Args:
        song: with the fill in place.
        cells: the cells that were written, with the notes in them that are not new, (n, 5).
    """
    starts, found = bar_starts(song), {}
    for track in sorted({cell.track for cell in cells}):
        line = line_of(song, track)
        bars = np.searchsorted(starts, line.onsets, side="right") - 1
        new = np.isin(bars, [cell.bar for cell in cells if cell.track == track])
        for cell, stay in cells.items():
            if cell.track == track and len(stay):
                new &= ~np.isin(_keys(line.onsets, line.pitches), _cell_keys(stay, int(starts[cell.bar])))
        found[track] = shared_run(fingerprint, line, new)
    return found


def refusal(notes: int) -> str:
    """The message where no fill without quotes of so many notes was found."""
    return (
        f"what else is asked for leaves only notes that quote {notes} notes of the training music or of the style's "
        "pieces; allow longer quotes, try another seed, or ask for less"
    )


class QuoteGuard:
    """Forbids notes that would complete a run of some music, while one cell of a candidate is written.

    After each note the line is without such a run even if nothing follows it in its track but the notes that stay, so
    that the cell may end anywhere. A run that has none of the cell's new notes is not of its making.
    """

    def __init__(self, fingerprint: Fingerprint, notes: int, line: Line, start: int):
        """notes: how many make a run, RUN or more. line: the notes of the track without the new ones of this cell.
        start: where the bar begins, in positions since the beginning of the song."""
        self._fingerprint, self._notes, self._is_drum, self._start = fingerprint, notes, line.is_drum, start
        gap = np.full(notes - 1, -1)
        self._line = np.concatenate([gap, _keys(line.onsets, line.pitches), gap])
        self._known: dict[int, np.ndarray] = {}

    def allowed(self, position: int) -> np.ndarray:
        """(128,) bool: the pitches that the next note may have at a position in the bar."""
        if position not in self._known:
            self._known[position] = ~self._completes(_keys(np.full(128, self._start + position), np.arange(128)))
        return self._known[position]

    def write(self, position: int, pitch: int) -> None:
        """The note that is written next."""
        key = (self._start + position) * 128 + pitch
        self._line = np.insert(self._line, self._at(np.array([key]))[0], key)
        self._known.clear()

    def refusal(self) -> str:
        """See `Guard.refusal`."""
        return refusal(self._notes)

    def _at(self, keys: np.ndarray) -> np.ndarray:
        """Where notes belong in the line."""
        pad = self._notes - 1
        found: np.ndarray = pad + np.searchsorted(self._line[pad : len(self._line) - pad], keys)
        return found

    def _completes(self, keys: np.ndarray) -> np.ndarray:
        """Whether each of some notes makes the line have a run that is forbidden: (n,) bool."""
        reach, at = np.arange(self._notes - 1), self._at(keys)[:, None]
        before, after = self._line[at - self._notes + 1 + reach], self._line[at + reach]
        notes = np.concatenate([before, keys[:, None], after], axis=1)
        steps = steps_of(notes // 128, notes % 128, is_drum=self._is_drum)
        steps[(notes[:, 1:] < 0) | (notes[:, :-1] < 0)] = 0
        shared = self._fingerprint.shares(steps)
        in_a_row = self._notes - RUN + 1
        counts = np.cumsum(np.pad(shared, ((0, 0), (1, 0))), axis=1)
        completes: np.ndarray = (counts[:, in_a_row:] - counts[:, :-in_a_row] == in_a_row).any(1)
        return completes


def quoted_bars(song: SongNotes, cells: Mapping[Cell, np.ndarray]) -> dict[Cell, list[int]]:
    """The bars of the same track that each written cell quotes: the same notes at the same positions, all of them or at
    least `MOSTLY` of either's. The most alike come first, then the earlier ones.

    Args:
        song: without the written cells.
        cells: the notes of the written cells, (n, 5) each. They are no sources themselves.
    """
    found = {}
    for cell, notes in cells.items():
        own, ranked = set(_cell_keys(notes).tolist()), []
        for bar in range(song.n_bars):
            other = set(_cell_keys(song.cell(cell.track, bar)).tolist())
            if Cell(cell.track, bar) in cells or not (own and other):
                continue
            alike = len(own & other) / max(len(own), len(other))
            if alike >= MOSTLY:
                ranked.append((-alike, bar))
        found[cell] = [bar for _, bar in sorted(ranked)]
    return found


def _keys(onsets: np.ndarray, pitches: np.ndarray) -> np.ndarray:
    """Places as one number each, in the order of a line."""
    keys: np.ndarray = onsets * 128 + pitches
    return keys


def _cell_keys(notes: np.ndarray, start: int = 0) -> np.ndarray:
    return _keys(start + notes[:, AT.position].astype(np.int64), notes[:, AT.pitch].astype(np.int64))
