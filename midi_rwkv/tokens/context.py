"""What stands around the notes of a song that are read, as surroundings.py has it for those that are written.

A bar that is read has sources as one that is written: the other bars of its track whose surroundings are most like its
own, and its twins. What a model learns of them from the few notes that it writes, it so learns from all that it reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .attributes import DRUMS, Column, Vocabulary
from .following import AHEAD, AT_POSITION, OF_PITCH, WIDTH, Followers, SourceNotes
from .following_loops import NONE
from .notes import AT, SongNotes
from .references import MOST_SOURCES, NEAR, REACH, bin_bits, coarse, in_common, most_alike
from .surroundings import OTHERS, Sounds, sounding
from .twins import doubled, doubled_track, find_twins


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
        """Fills in the columns of the sources. where: the notes that are shown, the cell of each, and the cells."""
        at, cell, heads = where
        sources, of, likeness = self._sources(at, cell)
        drum = self.song.programs[heads % self.song.n_tracks] == DRUMS
        followers = Followers.begin(self.vocabulary, sources, of[heads], likeness[heads], drum)
        starts[heads[:, None], AHEAD] = followers.ahead()
        first = np.searchsorted(cell, heads)
        counts = np.searchsorted(cell, heads, side="right") - first
        for number in range(int(counts.max(initial=0))):
            going = np.flatnonzero(counts > number)
            if len(going) < len(counts):
                followers, first, counts = followers.select(going), first[going], counts[going]
            own = at[first + number]
            position, pitch = (self.song.notes[own, c].astype(np.int64) for c in (AT.position, AT.pitch))
            placed = followers.at_place(position)
            notes[own[:, None], AT_POSITION] = placed.columns
            notes[own[:, None], OF_PITCH], followers = followers.write(placed, pitch)
            notes[own[:, None], AHEAD] = followers.ahead()

    def _sources(self, at: np.ndarray, cell: np.ndarray) -> tuple[SourceNotes, np.ndarray, np.ndarray]:
        """What is followed in each cell (bar * T + track): the notes, and by cell the sources and their likeness,
        (cells, WIDTH). at: the notes that are shown. cell: of each."""
        song, (low, high) = self.song, self.bars
        n = song.n_tracks
        of = np.full((song.n_bars, n, WIDTH), NONE)
        likeness = np.zeros((song.n_bars, n, WIDTH), np.float32)
        size = np.zeros((song.n_bars, n), np.int64)  # how many sources a cell has so far
        for t, bars, ranked, alike in self._ranked():
            k = ranked.shape[1]
            of[bars, t, :k] = ranked * n + t
            likeness[bars, t, :k] = alike
            size[bars, t] = k
        bar, track = np.divmod(cell, n)
        shown = np.zeros((n, song.n_bars), bool)
        shown[:, low:high] = self.shown[:, low:high]
        pitched = song.programs[track] != DRUMS
        found = find_twins(bar[pitched], track[pitched], song.notes[at[pitched]], shown)
        cells, notes = [cell], [song.notes[at]]
        made: dict[tuple[int, int], int] = {}  # what is doubled, and in which bar
        for t, b, rank in zip(*np.nonzero(found.kinds >= 0), strict=True):
            kind = int(found.kinds[t, b, rank])
            if not song.counts[b, t]:
                continue
            if (kind, b) not in made:
                made[kind, b] = song.n_bars * n + len(made)
                twin = doubled(kind, song.cell(doubled_track(kind), b))
                cells.append(np.full(len(twin), made[kind, b]))
                notes.append(twin)
            k = size[b, t]
            of[b, t, k], likeness[b, t, k] = made[kind, b], coarse(found.likeness[t, b, rank])
            size[b, t] += 1
        sources = SourceNotes(np.concatenate(cells), np.concatenate(notes))
        return sources, of.reshape(-1, WIDTH), likeness.reshape(-1, WIDTH)

    def _ranked(self) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
        """By track: its cells that hold notes, bars (n,); and of each the bars that are most like it and how alike, the
        best first, (n, up to MOST_SOURCES)."""
        song, (first, last) = self.song, self.bars
        shown = self.shown[:, first:last]
        filled = shown & (song.counts[first:last].T > 0)
        shared, both = zip(*(self._alike(t) for t in range(song.n_tracks)), strict=True)
        here = np.sum(shared, 0), np.sum(both, 0)
        around = [np.zeros_like(x) for x in here]
        for offset in (o for o in range(-REACH, REACH + 1) if o):
            some, other = slice(max(0, -offset), min(0, -offset) or None), slice(max(0, offset), min(0, offset) or None)
            for total, x in zip(around, here, strict=True):
                total[some, some] += NEAR[abs(offset)] * x[other, other]
        for t in range(song.n_tracks):
            bars, others = np.flatnonzero(filled[t]), np.flatnonzero(shown[t])
            if not len(bars) or len(others) < 2:
                continue
            alike, of = (
                _without_own(total + NEAR[0] * x, own)[np.ix_(bars, others)]
                for total, x, own in zip(around, here, (shared[t], both[t]), strict=True)
            )
            likeness = np.divide(alike, of, out=np.zeros_like(of), where=of > 0)
            likeness = coarse(np.minimum(1, likeness))
            likeness[np.arange(len(bars)), np.searchsorted(others, bars)] = -1
            order = most_alike(likeness)[:, : min(MOST_SOURCES, len(others) - 1)]
            yield t, first + bars, first + others[order], np.take_along_axis(likeness, order, 1)

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
