"""What a song says elsewhere: for a cell to write, the cells to follow, whose surroundings are most like its own.

Surroundings are three bars on either side and the bar itself, all tracks: notes at the same place in the bar and of the
same pitch are shared, and a bar counts for more the nearer it is. A cell of another track in the same bar serves too,
where that track doubles this one elsewhere (twins.py).

Cells that are to be written, or not to be known, are hidden: nobody follows them, and they are nobody's surroundings.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from .attributes import DRUMS
from .notes import AT, SongNotes
from .twins import TWIN_REACH, Twins, doubled, doubled_track, find_twins, places

REACH = 3
NEAR = (3.0, 1 / 2, 1 / 3, 1 / 4)  # what a bar so far away counts
MOST_SOURCES = 32
_BINS = 512  # places and pitches of notes share them, at random
_FINE = 2048  # likeness is told in so many steps, so that its order can be found quickly


@dataclass(frozen=True)
class Reference:
    """A cell to be followed while another is written. likeness: 0-1, of surroundings. bar: None for another piece's."""

    notes: np.ndarray  # (n, 5)
    likeness: float
    bar: int | None = None


class RunIndex:
    """References for the cells of one run of bars, cell after cell as they are written."""

    def __init__(self, song: SongNotes, run: tuple[int, int], hidden: Iterable[tuple[int, int]]):
        """run: bars, half-open. hidden: cells (track, bar)."""
        self.song = song
        self._low, high = max(0, run[0] - REACH), min(song.n_bars, run[1] + REACH)
        self._near = slice(self._low, high)
        self._run = run
        self.shown = np.ones((song.n_tracks, song.n_bars), bool)
        hidden = list(hidden)
        for track, bar in hidden:
            self.shown[track, bar] = False
        self._cells: dict[tuple[int, int], np.ndarray] = {}  # written since
        self._sizes = song.counts.T.astype(np.float32)  # (T, B)
        self._bins: dict[int, np.ndarray] = {}  # of tracks of which something is hidden
        self._twins: dict[int, Twins] = {}  # by track, as far as asked for
        self._shared, self._both = self._compare({track for track, _ in hidden})  # (B, bars near the run)

    def cell(self, track: int, bar: int) -> np.ndarray:
        """The notes of a cell, (n, 5), as written where it was."""
        written = self._cells.get((track, bar))
        return self.song.cell(track, bar) if written is None else written

    def notes(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What is shown in bars [first, last): bars (n,), tracks (n,) and notes (n, 5), in no order."""
        song, cells = self.song, self.shown[:, first:last].T.copy()
        written = [(t, b) for t, b in self._cells if first <= b < last]
        for t, b in written:
            cells[b - first, t] = False
        offsets = song.offsets[first * song.n_tracks : last * song.n_tracks + 1]
        cell = np.repeat(np.arange(cells.size), np.diff(offsets))
        own = np.flatnonzero(cells.ravel()[cell])
        bars, tracks = np.divmod(cell[own], song.n_tracks)
        parts = [self._cells[key] for key in written]
        counts = [len(p) for p in parts]
        return (
            np.concatenate([first + bars, np.repeat(np.array([b for _, b in written], np.int64), counts)]),
            np.concatenate([tracks, np.repeat(np.array([t for t, _ in written], np.int64), counts)]),
            np.concatenate([song.notes[offsets[0] + own], *parts]),
        )

    def _compare(self, kept: set[int]) -> tuple[np.ndarray, np.ndarray]:
        """Of each bar and each bar near the run: twice the notes that both have, and the notes of both; tracks of which
        both are shown. kept: tracks that will be written to."""
        song, near = self.song, self._near
        shared = np.zeros((song.n_bars, near.stop - near.start), np.float32)
        bar_of_cell = np.repeat(np.arange(len(song.offsets) - 1), np.diff(song.offsets))
        bars, tracks = np.divmod(bar_of_cell, max(1, song.n_tracks))
        order = np.argsort(tracks, kind="stable")
        cuts = np.searchsorted(tracks[order], np.arange(song.n_tracks + 1))
        for t in range(song.n_tracks):
            own = order[cuts[t] : cuts[t + 1]]
            if t in kept or (self.shown[t, near] & (self._sizes[t, near] > 0)).any():
                own = own[self.shown[t, bars[own]]]
                bits = bin_bits(bars[own], song.notes[own], song.n_bars)
                shared += in_common(bits[:, None], bits[near])
                if t in kept:
                    self._bins[t] = bits
        sizes, shown = self._sizes * self.shown, self.shown.astype(np.float32)
        return 2 * shared, sizes.T @ shown[:, near] + shown.T @ sizes[:, near]

    def write(self, track: int, bar: int, notes: np.ndarray) -> None:
        """A hidden cell has been written, and serves from now on."""
        self._cells[track, bar] = notes
        self._sizes[track, bar] = len(notes)
        bits, near, column = self._bins[track], self._near, bar - self._low
        bits[bar] = bin_bits(np.zeros(len(notes), np.int64), notes, 1)[0]
        self.shown[track, bar] = True
        others = self.shown[track].copy()
        both = (self._sizes[track] + len(notes)) * others
        shared = 2 * in_common(bits, bits[bar])
        self._shared[:, column] += shared
        self._both[:, column] += both
        others[bar] = False  # its own entry is done
        self._shared[bar] += (shared * others)[near]
        self._both[bar] += (both * others)[near]

    def likeness(self, bar: int) -> np.ndarray:
        """How alike the surroundings of each bar are to those of a bar of the run, (B,), 0-1."""
        n = self.song.n_bars
        shared, both = np.zeros(n), np.zeros(n)
        for other in range(max(0, bar - REACH), min(n, bar + REACH + 1)):
            offset, weight = other - bar, NEAR[abs(other - bar)]
            lo, hi = max(0, -offset), min(n, n - offset)  # bars that have a neighbour at this offset
            shared[lo:hi] += weight * self._shared[lo + offset : hi + offset, other - self._low]
            both[lo:hi] += weight * self._both[lo + offset : hi + offset, other - self._low]
        return np.minimum(1, np.divide(shared, both, out=np.zeros(n), where=both > 0))

    def sources(self, track: int, bar: int, *, written: bool = True) -> list[Reference]:
        """The cells to follow while this one is written, the most alike first, empty ones too; then its twins.

        written: whether cells of the track that were written since may be followed, too; they are where there is
        nothing else.
        """
        like = coarse(self.likeness(bar))
        candidates = self._serving(track, written=written)
        ranked = candidates[most_alike(like[candidates])][:MOST_SOURCES].tolist()
        return [
            *(Reference(self.cell(track, b), float(like[b]), b) for b in ranked),
            *self._twins_of(track, bar),
        ]

    def _serving(self, track: int, *, written: bool) -> np.ndarray:
        """The bars of a track that may be followed."""
        found = np.flatnonzero(self.shown[track])
        if written:
            return found
        older = found[[(track, b) not in self._cells for b in found.tolist()]]
        return older if len(older) else found

    def _twins_of(self, track: int, bar: int) -> list[Reference]:
        """What other tracks that double this one play in the bar, the best first."""
        if track not in self._twins:
            low, high = max(0, self._run[0] - TWIN_REACH), min(self.song.n_bars, self._run[1] + TWIN_REACH)
            bars, tracks, notes = self.notes(low, high)
            own = self.song.programs[tracks] != DRUMS
            shown = np.zeros_like(self.shown)
            shown[:, low:high] = self.shown[:, low:high]
            self._twins[track] = find_twins(bars[own], tracks[own], notes[own], shown, np.array([track]))
        twins = self._twins[track]
        kinds = twins.kinds[track, bar].tolist()
        likeness = coarse(twins.likeness[track, bar]).tolist()
        return [
            Reference(doubled(kind, self.cell(doubled_track(kind), bar)), like, bar)
            for kind, like in zip(kinds, likeness, strict=True)
            if kind >= 0
        ]


def coarse(likeness: np.ndarray) -> np.ndarray:
    """Likeness in steps, as it is told and compared."""
    found: np.ndarray = np.rint(likeness * _FINE).astype(np.float32) / _FINE
    return found


def most_alike(likeness: np.ndarray) -> np.ndarray:
    """The order of coarse likeness along the last axis, the greatest first and of equals the first."""
    return np.argsort((-_FINE * likeness).astype(np.int16), axis=-1, kind="stable")


def bin_bits(bars: np.ndarray, notes: np.ndarray, n_bars: int) -> np.ndarray:
    """Which bins the notes (n, 5) of each bar are in, as bits: (n_bars, words)."""
    filled = np.zeros((n_bars, _BINS), bool)
    filled[bars, _bins(notes)] = True
    return np.packbits(filled, axis=-1).view(np.uint64)


def in_common(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """How many bins two arrays of bits share, by broadcasting all but the last axis."""
    found: np.ndarray = np.bitwise_count(some & others).sum(-1, dtype=np.float32)
    return found


def _bins(notes: np.ndarray) -> np.ndarray:
    """The bin of each note's place and pitch."""
    key: np.ndarray = places(notes) * 128 + notes[:, AT.pitch]
    return (key * 2654435761 >> 11) % _BINS
