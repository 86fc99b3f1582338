"""What stands around the notes of a song that are read, as surroundings.py has it for those that are written.

A bar that is read has a reference too, though none is shown before it: the bar of the same track whose surroundings are
most like its own. What a model learns of references from the few notes that it writes, it so learns from all that it
reads.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .attributes import DRUMS, Column, Vocabulary
from .notes import AT, SongNotes
from .references import NEAR, REACH, bin_bits, in_common
from .surroundings import OTHERS, Sounds, sounding

_POSITIONS = 1 << 10  # more than a bar has


@dataclass(frozen=True)
class Context:
    """The notes of a song that are shown, in bars [first, last).

    shown: (T, B) bool.
    """

    vocabulary: Vocabulary
    song: SongNotes
    shown: np.ndarray
    bars: tuple[int, int]

    def columns(self) -> tuple[np.ndarray, np.ndarray]:
        """What stands around each note of the song, (N, columns), 0 for those that are not shown; and what each cell
        tells before its first note, (T, B, columns)."""
        song, (first, last) = self.song, self.bars
        cells = self.shown.T.copy()
        cells[:first] = cells[last:] = False
        at = np.flatnonzero(np.repeat(cells.ravel(), np.diff(song.offsets)))
        notes, starts = (np.zeros((n, len(Column)), np.int16) for n in (len(song.notes), song.n_tracks * song.n_bars))
        cell = np.searchsorted(song.offsets, at, side="right") - 1  # bar * T + track
        bar, track = np.divmod(cell, song.n_tracks)
        lines = np.concatenate([[0], np.cumsum(song.lengths.astype(np.int64))])
        time = lines[bar] + song.notes[at, AT.position]
        order = np.argsort(time, kind="stable")
        sounds = Sounds.of(self.vocabulary, song, song.notes[at[order]], time[order], track[order])
        around = np.zeros((len(at), len(OTHERS)), np.int64)
        around[order] = sounding(time[order], track[order], sounds)
        notes[at[:, None], OTHERS] = around
        heads = np.flatnonzero((np.diff(song.offsets) > 0) & cells.ravel())
        head_bar, head_track = np.divmod(heads, song.n_tracks)
        for t in np.unique(track).tolist():
            strikes = np.unique(time[track != t])
            for rows, own, places, after in (
                (notes, at[track == t], bar[track == t], time[track == t]),
                (starts, heads[head_track == t], head_bar[head_track == t], lines[head_bar[head_track == t]] - 1),
            ):
                rows[own, Column.NEXT_STRUCK] = self._next(strikes, after, lines[places], lines[places + 1])
        self._follow(notes, starts, (at, cell, heads))
        return notes, starts.reshape(song.n_bars, song.n_tracks, -1).transpose(1, 0, 2)

    def _next(self, strikes: np.ndarray, after: np.ndarray, line: np.ndarray, end: np.ndarray) -> np.ndarray:
        """Column NEXT_STRUCK of times in bars that go from `line` to `end`."""
        k = np.searchsorted(strikes, after, side="right")
        found = np.append(strikes, np.iinfo(np.int64).max)[k]
        return np.where(found < end, 1 + found - line, self.vocabulary.nothing)

    def _follow(self, notes: np.ndarray, starts: np.ndarray, where: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
        """Fills in the columns of the references. where: the notes that are shown, the cell of each, and the cells."""
        song, v = self.song, self.vocabulary
        at, cell, heads = where
        bars = self._references().T.ravel()
        reference = np.where(bars < 0, -1, bars * song.n_tracks + np.tile(np.arange(song.n_tracks), song.n_bars))
        position, pitch = (song.notes[at, c].astype(np.int64) for c in (AT.position, AT.pitch))
        keys = (cell * _POSITIONS + position) * 128 + pitch
        drums = 128 * (song.programs[cell % song.n_tracks] == DRUMS)

        def look(cells: np.ndarray, positions: np.ndarray, lowest: np.ndarray) -> np.ndarray:
            """The first note of cells from a position and pitch on, by its place in `at`; len(at) for none."""
            found = np.searchsorted(keys, (cells * _POSITIONS + positions) * 128 + lowest)
            return np.where(np.append(cell, -2)[found] == cells, found, len(at))

        own = np.flatnonzero(reference[cell] >= 0)
        of, place = reference[cell[own]], position[own]
        padded = [np.append(x, 0) for x in (position, pitch, drums)]
        of_note = np.append(song.notes[at].astype(np.int64), np.zeros((1, 5), np.int64), 0)
        same = np.concatenate([[False], (cell[1:] == cell[:-1]) & (position[1:] == position[:-1])])[own]
        above = np.where(same, pitch[own - 1] + 1, 0)
        there = look(of, place, above)
        has = (there < len(at)) & (padded[0][there] == place)
        notes[at[own[has]], Column.THERE_MICRO] = 1 + of_note[there[has], AT.micro] - v.micros[0]
        notes[at[own[has]], Column.THERE_PITCH] = 1 + of_note[there[has], AT.pitch] + drums[own[has]]
        upper = look(of, place, pitch[own])
        has_upper = (upper < len(at)) & (padded[0][upper] == place)
        lower = np.where(upper < len(at), upper, np.searchsorted(keys, (of + 1) * _POSITIONS * 128)) - 1
        has_lower = (lower >= 0) & (np.append(cell, -2)[lower] == of) & (padded[0][lower] == place)
        nearer = has_upper & (~has_lower | (padded[1][upper] - pitch[own] < pitch[own] - padded[1][lower]))
        nearest, known = np.where(nearer, upper, lower), has_upper | has_lower
        notes[at[own[known]], Column.THERE_VELOCITY] = 1 + of_note[nearest[known], AT.velocity]
        length = np.where(drums[own[known]] > 0, 0, 1 + of_note[nearest[known], AT.duration])
        notes[at[own[known]], Column.THERE_DURATION] = length
        begun = np.flatnonzero(reference[heads] >= 0)
        zero = np.zeros(len(begun), np.int64)
        for rows, index, following in (
            (notes, at[own], look(of, place, pitch[own] + 1)),
            (starts, heads[begun], look(reference[heads[begun]], zero, zero)),
        ):
            some = following < len(at)
            rows[index, Column.NEXT_THERE] = np.where(some, 1 + padded[0][following], v.nothing)
            rows[index, Column.NEXT_PITCH] = np.where(some, 1 + padded[1][following] + padded[2][following], 0)

    def _references(self) -> np.ndarray:
        """The bar that each cell's reference stands in, (T, B); -1 where there is none."""
        song, (first, last) = self.song, self.bars
        filled = self.shown[:, first:last] & (song.counts[first:last].T > 0)
        shared, both = zip(*(self._alike(t) for t in range(song.n_tracks)), strict=True)
        here = np.sum(shared, 0), np.sum(both, 0)
        around = [np.zeros_like(x) for x in here]
        for offset in (o for o in range(-REACH, REACH + 1) if o):
            some, other = slice(max(0, -offset), min(0, -offset) or None), slice(max(0, offset), min(0, offset) or None)
            for total, x in zip(around, here, strict=True):
                total[some, some] += NEAR[abs(offset)] * x[other, other]
        out = np.full((song.n_tracks, song.n_bars), -1)
        for t in range(song.n_tracks):
            bars = np.flatnonzero(filled[t])
            if len(bars) < 2:
                continue
            alike, of = (
                _without_own(total + NEAR[0] * x, own)[np.ix_(bars, bars)]
                for total, x, own in zip(around, here, (shared[t], both[t]), strict=True)
            )
            likeness = np.divide(alike, of, out=np.zeros_like(of), where=of > 0)
            np.fill_diagonal(likeness, -1)
            out[t, first + bars] = first + bars[likeness.argmax(1)]
        return out

    def _alike(self, track: int) -> tuple[np.ndarray, np.ndarray]:
        """Of each two bars, what a track contributes to their likeness: twice the notes that both have, and the notes
        of both; 0 where not both are shown."""
        song, (first, last) = self.song, self.bars
        shown = self.shown[track, first:last]
        counts = song.counts[first:last, track] * shown
        at = [
            np.arange(*song.offsets[(first + b) * song.n_tracks + track :][:2]) for b in np.flatnonzero(counts).tolist()
        ]
        own = np.concatenate([np.zeros(0, np.int64), *at])
        bits = bin_bits(np.repeat(np.arange(last - first), counts), song.notes[own], last - first)
        sizes = counts.astype(np.float32)
        return 2 * in_common(bits[:, None], bits), (sizes[:, None] + sizes) * (shown[:, None] & shown)


def _without_own(total: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Sums over the surroundings of each two bars, (B, B), without what a track's own cell of the first contributes,
    there or as a neighbour of the second. own: of the track, bar by bar."""
    total = total - NEAR[0] * own
    bars = np.arange(len(total))
    for offset in (o for o in range(-REACH, REACH + 1) if o):
        at = bars[
            (bars + offset >= 0) & (bars + offset < len(bars)) & (bars - offset >= 0) & (bars - offset < len(bars))
        ]
        total[at, at - offset] -= NEAR[abs(offset)] * own[at + offset, at]
    return total
