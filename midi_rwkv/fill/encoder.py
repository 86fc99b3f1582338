"""Songs and cells as the model reads them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from midi_rwkv.score.score import Bar, Cell, Score
from midi_rwkv.tokens.attributes import DRUMS, Vocabulary
from midi_rwkv.tokens.layout import EMPTY
from midi_rwkv.tokens.notes import AT, BarGrid, SongNotes, TrackArray, encode, encode_track

from .limits import Place


class Encoder:
    """How a model reads songs: `encode` a whole one, and some cells of it."""

    def __init__(self, vocabulary: Vocabulary):
        self.vocabulary = vocabulary

    def encode(self, score: Score, bars: Sequence[Bar]) -> SongNotes:
        """A whole song, over these bars."""
        return encode(self.vocabulary, score, bars)

    def emptied(self, song: SongNotes, cells: Collection[Cell]) -> SongNotes:
        """The song with nothing in these cells."""
        return song.with_cells({(cell.track, cell.bar): EMPTY for cell in cells})

    def cells(self, score: Score, cells: Collection[Cell], bars: Sequence[Bar]) -> dict[Cell, np.ndarray]:
        """The notes of some cells, (n, 5) each."""
        grid = BarGrid(self.vocabulary, bars, score.ticks_per_beat)
        found = {}
        for t in {cell.track for cell in cells}:
            track = score.tracks[t]
            array = TrackArray(
                np.array(track.notes, np.int64).reshape(-1, 4),
                DRUMS if track.is_drum else track.program,
                score.lead_ticks(track),
            )
            bar, notes = encode_track(self.vocabulary, grid, array, score.ticks_per_beat)
            found.update({cell: notes[bar == cell.bar] for cell in cells if cell.track == t})
        return found

    def places(self, score: Score, cells: Collection[Cell], bars: Sequence[Bar]) -> dict[Cell, list[Place]]:
        """Where the notes of some cells begin and at which pitch, ascending; cells without notes are left out."""
        return {
            cell: sorted({(p, q) for p, q in notes[:, [AT.position, AT.pitch]].tolist()})
            for cell, notes in self.cells(score, cells, bars).items()
            if len(notes)
        }
