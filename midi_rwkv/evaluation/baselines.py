"""Baselines that copy other bars of the song.

- copy before / copy after: the same tracks' N bars before or after the region.
- copy similar: the N bars of the song whose surroundings (the other tracks, and two bars on either side) are most
  similar to the region's, that is, a nearest neighbour.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from midi_rwkv.errors import RequestError
from midi_rwkv.score.score import Cell, Note, Score
from midi_rwkv.tokens.notes import AT, SongNotes

COPIES = ("copy before", "copy after", "copy similar")
SURROUNDINGS = 2  # bars on either side that "similar" also compares


class CellNotes:
    """(position, pitch) of the notes of each cell of a song, read on demand."""

    def __init__(self, song: SongNotes):
        self.song = song
        self.of = cache(self._of)

    def _of(self, cell: Cell) -> frozenset[tuple[int, int]]:
        columns = self.song.cell(*cell)[:, [AT.position, AT.pitch]]
        return frozenset((position, pitch) for position, pitch in columns.tolist())


def source_bar(
    kind: str, cells: CellNotes, tracks: Sequence[int], *, first: int, n_bars: int, window: tuple[int, int]
) -> int | None:
    """The first of the N bars to copy, or None if the half-open window of readable bars has none."""
    low, high = window
    last = first + n_bars
    if kind == "copy before":
        return first - n_bars if first - n_bars >= low else None
    if kind == "copy after":
        return last if last + n_bars <= high else None
    if kind != "copy similar":
        raise RequestError(f"a copy must be one of {', '.join(COPIES)}, got {kind!r}")
    starts = [s for s in range(low, high - n_bars + 1) if s + n_bars <= first or s >= last]
    hidden = {Cell(t, b) for b in range(first, last) for t in tracks}

    def seen(cell: Cell) -> frozenset[tuple[int, int]]:
        return cells.of(cell) if low <= cell.bar < high and cell not in hidden else frozenset()

    around = range(-SURROUNDINGS, n_bars + SURROUNDINGS)
    all_tracks = range(cells.song.n_tracks)
    places = [(j, t) for j in around for t in all_tracks if seen(Cell(t, first + j))]

    def likeness(start: int) -> tuple[float, int]:
        pairs = [(seen(Cell(t, first + j)), seen(Cell(t, start + j))) for j, t in places]
        size = sum(len(a) + len(b) for a, b in pairs)
        return (2 * sum(len(a & b) for a, b in pairs) / size if size else 0.0), -abs(start - first)

    return max(starts, key=likeness) if starts else None


def copied_notes(score: Score, track: int, source: int, *, first: int, n_bars: int) -> list[Note]:
    """The notes of bars [source, source + N) moved to [first, first + N), and clipped at the end of the region."""
    end = score.bar(first + n_bars - 1).end_ticks
    notes = []
    for j in range(n_bars):
        old, new = score.bar(source + j), score.bar(first + j)
        for note in score.notes_in(track, source + j):
            onset = new.start_ticks + note.onset_ticks - old.start_ticks
            if onset < new.end_ticks:
                notes.append(note._replace(onset_ticks=onset, duration_ticks=min(note.duration_ticks, end - onset)))
    return sorted(notes)
