"""Other pieces as a source of references: the cells of theirs whose place is most like the place of a cell to write.

Another piece shares no bar with the song, so likeness is told by rhythm: what the same part plays in the bars right
before and after, and when all other parts strike in the bar itself. What is found is moved into the song's key and the
part's register.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, cached_property

import numpy as np

from .attributes import DRUMS
from .notes import AT, SongNotes
from .references import Reference

_SLOTS = 16  # parts of a bar in which onsets are counted
_TURNED = (np.arange(12) - np.arange(12)[:, None]) % 12  # row k: what lies k semitones below each pitch class
_SAME_PROGRAM, _SAME_FAMILY, _OTHER = 1.0, 0.8, 0.5


class Rhythms:
    """When each cell of a song strikes."""

    def __init__(self, song: SongNotes):
        self.song = song
        cell = np.repeat(np.arange(len(song.offsets) - 1), np.diff(song.offsets))
        bar, track = np.divmod(cell, max(1, song.n_tracks))
        slot = song.notes[:, AT.position].astype(np.int64) * _SLOTS // song.lengths[bar].astype(np.int64)
        onsets = np.zeros((song.n_tracks, song.n_bars, _SLOTS), np.float32)
        onsets[track, bar, np.minimum(slot, _SLOTS - 1)] = 1
        self.onsets = onsets
        self.places = cache(self._places)

    @cached_property
    def pitch_classes(self) -> np.ndarray:
        """How often each pitch class is played, (12,)."""
        pitched = np.repeat(np.tile(self.song.programs != DRUMS, self.song.n_bars), np.diff(self.song.offsets))
        return np.bincount(self.song.notes[pitched, AT.pitch] % 12, minlength=12).astype(np.float64)

    @cached_property
    def registers(self) -> np.ndarray:
        """The mean pitch of each track, (T,), NaN where it has no notes."""
        track = np.repeat(np.tile(np.arange(self.song.n_tracks), self.song.n_bars), np.diff(self.song.offsets))
        count = np.bincount(track, minlength=self.song.n_tracks)
        total = np.bincount(track, self.song.notes[:, AT.pitch], minlength=self.song.n_tracks)
        mean: np.ndarray = np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)
        return mean

    def place(self, track: int, bar: int, shown: np.ndarray) -> np.ndarray:
        """What surrounds a cell, (3 * _SLOTS,): the part before and after, and the others in the bar. shown: (T, B)."""
        own, others = np.zeros((2, _SLOTS), np.float32), shown[:, bar].copy()
        for k, b in enumerate((bar - 1, bar + 1)):
            if 0 <= b < self.song.n_bars and shown[track, b]:
                own[k] = self.onsets[track, b]
        others[track] = False
        return np.concatenate([own[0], own[1], self.onsets[others, bar].max(0, initial=0)])

    def _places(self, track: int) -> np.ndarray:
        """`place` of each bar, (B, 3 * _SLOTS), everything shown."""
        own = np.pad(self.onsets[track], ((1, 1), (0, 0)))
        others = np.delete(self.onsets, track, 0).max(0, initial=0)
        return np.concatenate([own[:-2], own[2:], others], 1)


class PieceMemory:
    """The cells of some pieces, to be found by their place."""

    def __init__(self, pieces: Sequence[Rhythms]):
        self.pieces = pieces

    def find(self, own: Rhythms, track: int, bar: int, shown: np.ndarray, count: int = 1) -> list[Reference]:
        """The `count` best cells for a place, one a piece at most, the best first. shown: (T, B) of `own.song`."""
        song = own.song
        place = own.place(track, bar, shown)
        found: list[Reference] = []
        for piece in self.pieces:
            best = self._best(piece, place, song.program(track, bar), int(song.lengths[bar]))
            if best is None:
                continue
            likeness, other, at = best
            notes = piece.song.cell(other, at).copy()
            if not song.is_drum(track):
                notes[:, AT.pitch] += _shift(piece, own, other, track)
                if notes[:, AT.pitch].min() < 0 or notes[:, AT.pitch].max() > 127:
                    continue
            found.append(Reference(notes, likeness))
        return sorted(found, key=lambda r: -r.likeness)[:count]

    def _best(self, piece: Rhythms, place: np.ndarray, program: int, length: int) -> tuple[float, int, int] | None:
        """Likeness, track and bar of the best cell of a piece."""
        best: tuple[float, int, int] | None = None
        for t in range(piece.song.n_tracks):
            if piece.song.is_drum(t) != (program == DRUMS):
                continue
            alike = _OTHER
            if int(piece.song.programs[t]) == program:
                alike = _SAME_PROGRAM
            elif program != DRUMS and int(piece.song.programs[t]) // 8 == program // 8:
                alike = _SAME_FAMILY
            usable = (piece.song.counts[:, t] > 0) & (piece.song.lengths == length)
            if not usable.any():
                continue
            places = piece.places(t)
            both = places.sum(1) + place.sum()
            like = alike * np.divide(2 * (places @ place), both, out=np.zeros(len(both)), where=both > 0)
            like[~usable] = -1
            at = int(like.argmax())
            if best is None or like[at] > best[0]:
                best = float(like[at]), t, at
        return best


def _shift(piece: Rhythms, own: Rhythms, other: int, track: int) -> int:
    """Semitones that bring a track of a piece into the song's key and the register of one of its tracks."""
    key = int(np.argmax(piece.pitch_classes[_TURNED] @ own.pitch_classes))
    register = own.registers[track]
    away = 0.0 if np.isnan(register) else float(register - piece.registers[other])
    return key + 12 * round((away - key) / 12)
