"""What tracks of a kind are like in a composer's pieces: a new track of that kind takes after them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from midi_rwkv.tokens.attributes import DRUMS, POSITIONS_PER_QUARTER
from midi_rwkv.tokens.notes import AT, SongNotes

FEWEST = 8  # bars with notes that tell what a kind is like


@dataclass(frozen=True)
class Kind:
    """The bars in which such tracks sound.

    Attributes:
        cells: (n, 5) notes of each.
        per_quarter: notes per quarter: lower quartile, median and upper quartile.
    """

    cells: Sequence[np.ndarray]
    per_quarter: tuple[float, float, float]

    @property
    def pitches(self) -> list[int]:
        """Those of all notes."""
        found: list[int] = np.concatenate(self.cells)[:, AT.pitch].tolist()
        return found


def find_kind(songs: Sequence[SongNotes], program: int) -> Kind | None:
    """The tracks of a program in songs, or of its family; DRUMS: the drums. None with too few bars."""
    family = list(range(program // 8 * 8, program // 8 * 8 + 8))
    for programs in ([DRUMS],) if program == DRUMS else ([program], family):
        cells, played = [], []
        for song in songs:
            for bar, track in np.argwhere((song.counts > 0) & np.isin(song.programs, programs)).tolist():
                cells.append(song.cell(track, bar))
                played.append(len(cells[-1]) * POSITIONS_PER_QUARTER / song.lengths[bar])
        if len(cells) >= FEWEST:
            low, middle, high = np.quantile(played, (0.25, 0.5, 0.75)).tolist()
            return Kind(cells, (low, middle, high))
    return None
