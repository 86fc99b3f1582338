"""Other pieces as a memory: the cells of theirs whose place is most like the place of a cell to write.

Another piece shares no bar with the song, so likeness is told by what can be shared: when the same part strikes in the
bars right before and after and all other parts in the bar itself, which pitch classes they have there once the piece is
moved into the song's key, and whether the part is of the same program and register. What is found is moved into the
key, and into the part's register.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from .attributes import DRUMS, PITCH_CLASSES
from .notes import AT, SongNotes
from .references import Reference, RunIndex

MOST = 32  # cells of the memory that are followed at once
_SLOTS = 16  # parts of a bar in which onsets are counted
_HALVES = 2  # and in which pitch classes are
_SAME_PROGRAM, _SAME_FAMILY, _OTHER = 1.0, 0.8, 0.6
_REGISTER = 48.0  # semitones by which a likeness falls to 1 / e
# What counts how much: onsets of the part in the bar before, in the bar after, and of the others in the bar; pitch
# classes of the same.
_WEIGHTS = np.array([1.0, 1.0, 1.0, 0.3, 0.3, 0.6])
_ONSETS, _CLASSES = 3 * _SLOTS, (2 + _HALVES) * PITCH_CLASSES


class PieceCells:
    """When each cell of a piece strikes, onsets (T, B, slots), and which pitch classes, chroma (T, B, halves, 12)."""

    def __init__(self, song: SongNotes):
        self.song = song
        cell = np.repeat(np.arange(len(song.offsets) - 1), np.diff(song.offsets))
        bar, track = np.divmod(cell, max(1, song.n_tracks))
        slot = _slots(song, bar, song.notes)
        self.onsets = np.zeros((song.n_tracks, song.n_bars, _SLOTS), np.float32)
        self.onsets[track, bar, slot] = 1
        self.chroma = np.zeros((song.n_tracks, song.n_bars, _HALVES, PITCH_CLASSES), np.float32)
        own = song.programs[track] != DRUMS
        half, pitch_class = slot[own] * _HALVES // _SLOTS, song.notes[own, AT.pitch] % PITCH_CLASSES
        self.chroma[track[own], bar[own], half, pitch_class] = 1

    @cached_property
    def pitch_classes(self) -> np.ndarray:
        """How often each pitch class is played, (12,)."""
        pitched = np.repeat(np.tile(self.song.programs != DRUMS, self.song.n_bars), np.diff(self.song.offsets))
        return np.bincount(self.song.notes[pitched, AT.pitch] % PITCH_CLASSES, minlength=PITCH_CLASSES).astype(float)

    @cached_property
    def registers(self) -> np.ndarray:
        """The mean pitch of each track, (T,), NaN where it has no notes."""
        track = np.repeat(np.tile(np.arange(self.song.n_tracks), self.song.n_bars), np.diff(self.song.offsets))
        count = np.bincount(track, minlength=self.song.n_tracks)
        total = np.bincount(track, self.song.notes[:, AT.pitch], minlength=self.song.n_tracks)
        mean: np.ndarray = np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)
        return mean

    @cached_property
    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """What surrounds each cell, everything shown: onsets (T, B, 3, slots), pitch classes (T, B, 4, 12)."""
        onsets, chroma = self.onsets, self.chroma
        around = ((0, 0), (1, 1), (0, 0))
        own, classes = np.pad(onsets, around), np.pad(chroma.max(2), around)
        others, harmony = np.zeros_like(onsets), np.zeros_like(chroma)
        for t in range(len(onsets)):
            others[t] = np.delete(onsets, t, 0).max(0, initial=0)
            harmony[t] = np.delete(chroma, t, 0).max(0, initial=0)
        return (
            np.stack([own[:, :-2], own[:, 2:], others], 2),
            np.concatenate([np.stack([classes[:, :-2], classes[:, 2:]], 2), harmony], 2),
        )


@dataclass(frozen=True)
class _Part:
    """The cells of all pieces that hold notes, drums or pitched ones, N of them, in the song's key."""

    onsets: np.ndarray  # (N, 3 * slots)
    classes: np.ndarray  # (N, 4 * 12)
    sums: np.ndarray  # (N, 6) of what `_WEIGHTS` weighs
    piece: np.ndarray
    track: np.ndarray
    bar: np.ndarray
    length: np.ndarray
    program: np.ndarray
    register: np.ndarray  # mean pitch of the track, in the piece's own key
    shift: np.ndarray  # semitones into the song's key, -5 to 6


class PieceMemory:
    """The cells of some pieces, to be found by the places of a song's cells."""

    def __init__(self, pieces: Sequence[PieceCells], index: RunIndex, weights: Sequence[float] = ()):
        """index: what is shown of the song, and has been written since. weights: by which the likeness of each piece's
        cells is multiplied, 0-1; none: 1."""
        self._pieces, self._index = pieces, index
        self._weights = np.array(weights or [1.0] * len(pieces))
        _, tracks, notes = index.notes(0, index.song.n_bars)
        pitched = index.song.programs[tracks] != DRUMS
        key = np.bincount(notes[pitched, AT.pitch] % PITCH_CLASSES, minlength=PITCH_CLASSES).astype(float)
        if not key.any() and pieces:  # nothing is shown: in the key of the first piece that has one
            key = next((p.pitch_classes for p in pieces if p.pitch_classes.any()), key)
        self._shifts = [_shift(p.pitch_classes, key) for p in pieces]
        self._parts: dict[bool, _Part] = {}

    def find(self, track: int, bar: int, count: int = MOST) -> list[Reference]:
        """The `count` best cells for a place, the best first."""
        part, register = self._part(self._index.song.is_drum(track)), self._register(track)
        like = self._likeness(part, track, bar, register)
        like = np.where(like > 0, like * self._weights[part.piece], like)
        best = np.lexsort((part.bar, -like))[:count]
        return [r for k in best[like[best] >= 0].tolist() if (r := self._moved(part, k, float(like[k]), register))]

    def ranked(self, track: int, bar: int, *, of: int | None = None) -> list[Reference]:
        """The cells of one track of the first piece, the most alike first. of: the track; None: that of the best."""
        part, register = self._part(self._index.song.is_drum(track)), self._register(track)
        like = self._likeness(part, track, bar, register)
        own = (part.piece == 0) & (like >= 0)
        if not own.any():
            return []
        of = int(part.track[np.where(own, like, -1).argmax()]) if of is None else of
        numbers = np.flatnonzero((part.piece == 0) & (part.track == of))
        order = numbers[np.argsort(-like[numbers], kind="stable")]
        found = [(self._moved(part, k, max(0.0, float(like[k])), register), int(part.bar[k])) for k in order.tolist()]
        return [replace(r, bar=b) for r, b in found if r]

    def _part(self, drums: bool) -> _Part:  # noqa: FBT001 -- one of two parts
        if drums not in self._parts:
            self._parts[drums] = _part(self._pieces, self._shifts, drums=drums)
        return self._parts[drums]

    def _register(self, track: int) -> float | None:
        """The mean pitch of what is shown of a track."""
        if self._index.song.is_drum(track):
            return None
        pitches = [self._index.cell(track, b)[:, AT.pitch] for b in np.flatnonzero(self._index.shown[track]).tolist()]
        found = np.concatenate([np.zeros(0), *pitches])
        return float(found.mean()) if len(found) else None

    def _likeness(self, part: _Part, track: int, bar: int, register: float | None) -> np.ndarray:
        """How alike the places of the cells are to that of a cell of the song, (N,), 0-1; -1 where a cell is of no use
        there."""
        song = self._index.song
        onsets, classes = self._place(track, bar)
        sums = _sums(onsets[None], classes[None])[0]
        shared = np.concatenate(
            [
                part.onsets @ _blocks(onsets, [_SLOTS] * 3),
                part.classes @ _blocks(classes, [PITCH_CLASSES, PITCH_CLASSES, _HALVES * PITCH_CLASSES]),
            ],
            1,
        )
        both = part.sums + sums
        alike = np.divide(2 * shared, both, out=np.zeros_like(both), where=both > 0)
        weights = _WEIGHTS * (np.arange(len(_WEIGHTS)) < (3 if song.is_drum(track) else len(_WEIGHTS)))
        like = alike @ weights / weights.sum()
        program = song.program(track, bar)
        if not song.is_drum(track):
            family = np.where(part.program // 8 == program // 8, _SAME_FAMILY, _OTHER)
            like = like * np.where(part.program == program, _SAME_PROGRAM, family)
            if register is not None:
                like = like * np.exp(-np.abs(register - part.register) / _REGISTER)
        found: np.ndarray = np.where(part.length == song.lengths[bar], like, -1.0)
        return found

    def _place(self, track: int, bar: int) -> tuple[np.ndarray, np.ndarray]:
        """What surrounds a cell as far as it is shown: onsets (3 * slots,), pitch classes (4 * 12,)."""
        song, low, high = self._index.song, max(0, bar - 1), min(self._index.song.n_bars, bar + 2)
        bars, tracks, notes = self._index.notes(low, high)
        slot = _slots(song, bars, notes)
        pitched, pitch_class = song.programs[tracks] != DRUMS, notes[:, AT.pitch] % PITCH_CLASSES
        onsets = np.zeros((3, _SLOTS), np.float32)
        classes = np.zeros((2 + _HALVES, PITCH_CLASSES), np.float32)
        for row, at in ((0, bar - 1), (1, bar + 1)):
            own = (tracks == track) & (bars == at)
            onsets[row, slot[own]] = 1
            classes[row, pitch_class[own & pitched]] = 1
        others = (tracks != track) & (bars == bar)
        onsets[2, slot[others]] = 1
        others &= pitched
        classes[2 + slot[others] * _HALVES // _SLOTS, pitch_class[others]] = 1
        return onsets.ravel(), classes.ravel()

    def _moved(self, part: _Part, number: int, likeness: float, register: float | None) -> Reference | None:
        """A cell in the song's key and the register of the part; None where it leaves the range of MIDI."""
        track, bar = int(part.track[number]), int(part.bar[number])
        piece = self._pieces[int(part.piece[number])]
        notes = piece.song.cell(track, bar).copy()
        if not piece.song.is_drum(track):
            shift = int(part.shift[number])
            if register is not None:
                shift += 12 * round((register - float(part.register[number]) - shift) / 12)
            notes[:, AT.pitch] += shift
            if notes[:, AT.pitch].min() < 0 or notes[:, AT.pitch].max() > 127:
                return None
        return Reference(notes, likeness)


def _slots(song: SongNotes, bars: np.ndarray, notes: np.ndarray) -> np.ndarray:
    """The part of its bar in which each note (n, 5) strikes."""
    slot = notes[:, AT.position].astype(np.int64) * _SLOTS // song.lengths[bars].astype(np.int64)
    found: np.ndarray = np.minimum(slot, _SLOTS - 1)
    return found


def _part(pieces: Sequence[PieceCells], shifts: Sequence[int], *, drums: bool) -> _Part:
    rows: list[list[np.ndarray]] = [[np.zeros((0, _ONSETS), np.float32), np.zeros((0, _CLASSES), np.float32)]]
    rows[0] += [np.zeros(0, np.int64) for _ in range(5)] + [np.zeros(0), np.zeros(0, np.int64)]
    for number, (piece, shift) in enumerate(zip(pieces, shifts, strict=True)):
        song = piece.song
        kind = (song.programs == DRUMS) == drums
        track, bar = np.nonzero((song.counts.T > 0) & kind[:, None])
        onsets, classes = (x[track, bar] for x in piece.places)
        moved = (shift + 5) % PITCH_CLASSES - 5
        rows.append(
            [
                onsets.reshape(len(track), _ONSETS),
                np.roll(classes, moved, -1).reshape(len(track), _CLASSES),
                np.full(len(track), number),
                track,
                bar,
                song.lengths[bar].astype(np.int64),
                song.programs[track].astype(np.int64),
                piece.registers[track],
                np.full(len(track), moved),
            ]
        )
    onsets, classes, *rest = (np.concatenate(x) for x in zip(*rows, strict=True))
    return _Part(onsets, classes, _sums(onsets, classes), *rest)


def _sums(onsets: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """(N, 6) how much there is of what `_WEIGHTS` weighs."""
    two = 2 * PITCH_CLASSES
    own = classes[:, :two].reshape(-1, 2, PITCH_CLASSES).sum(-1)
    parts = [onsets.reshape(-1, 3, _SLOTS).sum(-1), own, classes[:, two:].sum(-1, keepdims=True)]
    return np.concatenate(parts, 1)


def _blocks(vector: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """A vector as one column for each of its parts, (len, parts)."""
    out = np.zeros((len(vector), len(sizes)), np.float32)
    for column, (low, size) in enumerate(zip(np.cumsum([0, *sizes]).tolist(), sizes, strict=False)):
        out[low : low + size, column] = vector[low : low + size]
    return out


def _shift(piece: np.ndarray, song: np.ndarray) -> int:
    """Semitones up that bring the pitch classes of a piece nearest to those of a song."""
    return int(np.argmax([np.roll(piece, k) @ song for k in range(PITCH_CLASSES)]))
