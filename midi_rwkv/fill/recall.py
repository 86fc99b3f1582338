"""Recall: what occurs elsewhere in the song, mixed into the model's probabilities of the next token.

A recurrent state of fixed size forgets the exact content of bar 3, but the song is available. While a cell is written,
every other cell of its track is a source, except those that were written just before it (unless the track has nothing
else), because a fill that follows itself goes in circles. A source votes for the token that follows there. Its weight
grows with the similarity of its surroundings (three bars on either side, all tracks) to the cell's, and with the number
of tokens it has just predicted correctly. What other tracks play in the same bar is also a source, a twin, weighted by
the similarity of the two tracks in the bars around. The same sources also vote note by note, their velocities aside
(outline.py). The model's probabilities p, the votes q and those of the outlines o are mixed, (1 - a - b) p + a q + b o,
where a and b are a softmax over linear functions of how good the best-voted sources are and of what the model thinks of
their ids.

The few weights are fitted on training songs (fit_recall.py), so that the mixture is a probability like any
other, and are stored beside the model in `recall.json`. In kind this is the continuous cache of Grave et al. (arXiv
1612.04426) and the match model of context-mixing compressors, with the sources weighted by their musical surroundings.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from midi_rwkv.model.recall_mix import RecallWeights, Votes, mixture
from midi_rwkv.score.score import Cell
from midi_rwkv.tokens.outline import CellOutlines, outline_tables
from midi_rwkv.tokens.tokenizer import TokenizedSong, Tokenizer

REACH = 3  # bars on either side whose similarity counts, nearer bars more
NEARNESS = (3.0, 1 / 2, 1 / 3, 1 / 4)  # how much: the bar itself (what other tracks play in it), its neighbours ...
MOST_SOURCES = 64  # the most similar


class _Notes:
    """The (position, pitch) of a song's notes, each a number, found by cell and by what they are."""

    def __init__(self, tokenizer: Tokenizer, song: TokenizedSong):
        self.n_bars, self.n_tracks = song.n_bars, song.n_tracks
        self.tokenizer = tokenizer
        lengths = np.diff(song.offsets)
        keys, cell = self._keys(song.cells, np.repeat(np.arange(len(lengths)), lengths))
        self.sizes = np.bincount(cell, minlength=len(lengths)).reshape(song.n_bars, song.n_tracks)
        bar, track = np.divmod(cell, song.n_tracks)
        self._by_cell = np.split(keys, np.cumsum(self.sizes.ravel())[:-1])
        order = np.lexsort((bar, keys, track))
        self._sorted = (track * self.SPAN + keys)[order]
        self._bars = bar[order]

    SPAN = 1 << 20  # more than any key

    def _keys(self, ids: np.ndarray, cell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """ids of cells and the cell of each -> a number a note, and its cell."""
        position, pitch, index = self.tokenizer.places(ids)
        return position.astype(np.int64) * 128 + pitch, cell[index]

    def of(self, cell: Cell) -> np.ndarray:
        return self._by_cell[cell.bar * self.n_tracks + cell.track]

    def of_ids(self, ids: Sequence[int]) -> np.ndarray:
        """The same for a cell that is not the song's."""
        return self._keys(np.array(ids, np.int64), np.zeros(len(ids), np.int64))[0]

    def shared(self, track: int, keys: np.ndarray) -> np.ndarray:
        """How many of these notes each bar of the track has: (bars,)."""
        wanted = track * self.SPAN + keys
        low, high = np.searchsorted(self._sorted, wanted), np.searchsorted(self._sorted, wanted, side="right")
        found = [self._bars[a:b] for a, b in zip(low.tolist(), high.tolist(), strict=True)]
        return np.bincount(np.concatenate(found), minlength=self.n_bars) if found else np.zeros(self.n_bars, np.int64)


class SongMemory:
    """A song's cells as sources for one candidate; `fork` makes one for the next."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        song: TokenizedSong,
        hidden: Collection[Cell],
        weights: RecallWeights,
        *,
        end_id: int,
        refused: Mapping[Cell, Sequence[int]] | None = None,
    ):
        """hidden: the cells that are to be written; what `song` has there isn't looked at. end_id: the id
        that closes a cell. refused: per cell, the ids that the user wants replaced; neither the same notes nor silence
        are a source there."""
        song = song.without(hidden)
        self.song, self.weights, self.end_id = song, weights, end_id
        self.outlines = outline_tables(tokenizer, end_id)
        self.notes = _Notes(tokenizer, song)
        self.refused = {cell: self.notes.of_ids(ids) for cell, ids in (refused or {}).items()}
        self.hidden = np.zeros((song.n_bars, song.n_tracks), bool)
        for track, bar in hidden:
            self.hidden[bar, track] = True
        self.sizes = self.notes.sizes.copy()
        self.written: dict[Cell, tuple[list[int], np.ndarray]] = {}  # ids and notes
        self._new_places: dict[tuple[int, int], list[int]] = {}  # (track, note) -> bars, of the written cells

    def fork(self) -> SongMemory:
        """A copy that shares the song and continues independently."""
        other = SongMemory.__new__(SongMemory)
        other.__dict__.update(self.__dict__)
        other.hidden, other.sizes, other.written = self.hidden.copy(), self.sizes.copy(), dict(self.written)
        other._new_places = {note: list(bars) for note, bars in self._new_places.items()}
        return other

    def write(self, cell: Cell, ids: Sequence[int]) -> None:
        """Adds a written cell, which is from now on a source and part of the surroundings."""
        notes = self.notes.of_ids(ids)
        track, bar = cell
        self.written[cell] = list(ids), notes
        for note in notes.tolist():
            self._new_places.setdefault((track, note), []).append(bar)
        self.sizes[bar, track] = len(notes)
        self.hidden[bar, track] = False

    def likeness(self, bar: int) -> np.ndarray:
        """(bars,) similarity, 0-1, of each bar's surroundings to this one's. Unwritten cells do not count."""
        n = self.song.n_bars
        shown, sounding = ~self.hidden, self.sizes.any(0)
        alike, both = np.zeros(n), np.zeros(n)
        for j in range(-REACH, REACH + 1):
            if not 0 <= bar + j < n:
                continue
            weight = NEARNESS[abs(j)]
            at = np.arange(n) + j
            inside = (at >= 0) & (at < n)
            at = at.clip(0, n - 1)
            for t in np.flatnonzero(shown[bar + j] & sounding).tolist():
                seen = inside & shown[at, t]
                if self.sizes[bar + j, t]:
                    alike += (2 * weight) * self._shared(Cell(t, bar + j))[at] * seen
                both += weight * (self.sizes[bar + j, t] + self.sizes[at, t] * seen)
        return np.divide(alike, both, out=np.zeros(n), where=both > 0)

    def _shared(self, cell: Cell) -> np.ndarray:
        """How many notes each bar of a track has in common with one of them: (bars,)."""
        notes = self._notes_of(cell)
        shared = self.notes.shared(cell.track, notes)
        if self._new_places:
            for note in notes.tolist():
                for b in self._new_places.get((cell.track, note), ()):
                    shared[b] += 1
        return shared

    def cell(self, cell: Cell) -> CellMemory:
        """The sources of a cell that is about to be written."""
        track, bar = cell
        like = self.likeness(bar)
        refused = self.refused.get(cell)
        known = ~self.hidden[:, track]
        if track in self.song.changing:  # what another instrument plays is no source
            known &= self.song.changing[track] == self.song.changing[track][bar]
        if self.notes.sizes[:, track].any():
            first = bar
            while Cell(track, first - 1) in self.written:
                first -= 1
            known[first:bar] = False
        bars = np.flatnonzero(known)
        bars = bars[np.argsort(-like[bars], kind="stable")]
        twins = [(self.twinship(cell, t), Cell(t, bar)) for t in range(self.song.n_tracks)]
        found = [x for x in twins if x[0] > 0] + [(float(like[b]), Cell(track, b)) for b in bars.tolist()]
        sources: list[list[int]] = []
        kept: list[tuple[float, bool]] = []
        for how_like, source in found:
            ids = self.written[source][0] if source in self.written else self.song.cell(source).tolist()
            if refused is None or (ids and not np.array_equal(self._notes_of(source), refused)):
                sources.append([*ids, self.end_id])
                kept.append((how_like, source.track != track))
                if len(kept) == MOST_SOURCES:
                    break
        return CellMemory(
            sources,
            np.array([x for x, _ in kept]),
            np.array([twin for _, twin in kept], bool),
            self.weights,
            CellOutlines(self.outlines, sources),
        )

    def twinship(self, cell: Cell, other: int) -> float:
        """The similarity, 0-1, of the track to another around this bar; 0 if the other is not known in it."""
        track, bar = cell
        if other == track or self.hidden[bar, other] or not (self.sizes[:, track] & self.sizes[:, other]).any():
            return 0.0
        alike = both = 0.0
        for b in range(max(0, bar - REACH), min(self.song.n_bars, bar + REACH + 1)):
            if b != bar and not (self.hidden[b, track] or self.hidden[b, other]):
                mine, theirs = self._notes_of(Cell(track, b)), self._notes_of(Cell(other, b))
                weight = 1 / (1 + abs(b - bar))
                alike += 2 * weight * len(set(mine.tolist()).intersection(theirs.tolist()))
                both += weight * (len(mine) + len(theirs))
        return alike / both if both else 0.0

    def _notes_of(self, cell: Cell) -> np.ndarray:
        written = self.written.get(cell)
        return self.notes.of(cell) if written is None else written[1]

    def follow(self, song: TokenizedSong, cells: Iterable[Cell]) -> Iterator[tuple[CellMemory, int]]:
        """Cells being written as `song` has them, id by id, each cell's end included: the sources before each id, and
        the id."""
        for cell in cells:
            memory, ids = self.cell(cell), song.cell(cell).tolist()
            for true in [*ids, self.end_id]:
                yield memory, true
                memory.take(true)
            self.write(cell, ids)


@dataclass
class CellMemory:
    """The sources of one cell while it is written."""

    sources: list[list[int]]
    like: np.ndarray  # (sources,)
    twin: np.ndarray  # (sources,) bool: of another track
    weights: RecallWeights
    outlines: CellOutlines
    _at: int = 0  # ids written

    def __post_init__(self) -> None:
        width = max(map(len, self.sources), default=1)
        self._ids = np.full((len(self.sources), width), -1)
        for row, ids in zip(self._ids, self.sources, strict=True):
            row[: len(ids)] = ids
        self._run = np.zeros_like(self._ids)  # ids up to here that agree with the last ones written
        self._whole = np.ones(len(self.sources), bool)  # agrees from the start

    def take(self, written: int) -> None:
        """Reads the token that was written."""
        before = np.zeros_like(self._run)
        before[:, 1:] = self._run[:, :-1]
        self._run = np.where(self._ids == written, before + 1, 0)
        if self._at < self._ids.shape[1]:
            self._whole &= self._ids[:, self._at] == written
        else:
            self._whole[:] = False
        self._at += 1
        self.outlines.take(written)

    def votes(self) -> Votes:
        """The votes of the sources that have one."""
        rows = np.arange(len(self._ids))
        best = self._run[:, :-1].argmax(1) if self._ids.shape[1] > 1 else np.zeros(len(rows), np.int64)
        run = self._run[rows, best]
        match = np.where(self._whole, self._at + 1, -run)
        place = np.where(
            self._whole, min(self._at, self._ids.shape[1] - 1), np.minimum(best + 1, self._ids.shape[1] - 1)
        )
        ids = self._ids[rows, place]
        usable = (match != 0) & (ids >= 0)
        return Votes(ids[usable], self.like[usable], match[usable], self.twin[usable])

    def mix(self, logits: np.ndarray, strength: float = 1.0) -> np.ndarray:
        """The mixture's log probabilities from logits (vocabulary,). `strength` is 0 (the model alone) to 1."""
        top = logits.max()
        log_p: np.ndarray = logits - (top + math.log(np.exp(logits - top).sum()))
        if strength <= 0:
            return log_p
        return mixture(
            log_p,
            self.votes(),
            self.outlines.votes(),
            like=self.like,
            twin=self.twin,
            weights=self.weights,
            strength=strength,
        )
