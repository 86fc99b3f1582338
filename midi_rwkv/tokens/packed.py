"""Songs as a few arrays, for files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .notes import SongNotes


def pack(songs: Sequence[SongNotes]) -> dict[str, np.ndarray]:
    """The songs one after another; the programs of tracks that change them are left out."""
    return {
        "n_tracks": np.array([s.n_tracks for s in songs], np.int32),
        "n_bars": np.array([s.n_bars for s in songs], np.int32),
        "programs": np.concatenate([s.programs for s in songs]).astype(np.int16),
        "headers": np.concatenate([s.headers for s in songs]).astype(np.int16),
        "lengths": np.concatenate([s.lengths for s in songs]).astype(np.int16),
        "tempos": np.concatenate([s.tempos for s in songs]).astype(np.int16),
        "notes": np.concatenate([s.notes for s in songs]).astype(np.int16),
        "counts": np.concatenate([np.diff(s.offsets) for s in songs]).astype(np.uint16),
    }


class PackedSongs:
    """What `pack` packed: `packed[i]` is a `SongNotes`."""

    def __init__(self, data: Mapping[str, np.ndarray]):
        self._data = data
        self.n_bars = data["n_bars"].astype(np.int64)
        tracks = data["n_tracks"].astype(np.int64)
        self._track_at, self._bar_at, self._cell_at = (
            np.concatenate([[0], np.cumsum(n)]) for n in (tracks, self.n_bars, tracks * self.n_bars)
        )
        self._offsets = np.concatenate([[0], np.cumsum(data["counts"], dtype=np.int64)])

    def __len__(self) -> int:
        return len(self.n_bars)

    def __getitem__(self, i: int) -> SongNotes:
        tracks, bars = slice(*self._track_at[i : i + 2]), slice(*self._bar_at[i : i + 2])
        offsets = self._offsets[self._cell_at[i] : self._cell_at[i + 1] + 1]
        d = self._data
        return SongNotes(
            d["programs"][tracks],
            d["headers"][bars],
            d["lengths"][bars],
            d["tempos"][bars],
            d["notes"][offsets[0] : offsets[-1]],
            offsets - offsets[0],
        )
