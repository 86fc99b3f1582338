"""The first step of a fill: empties the cells to write, and encodes the song once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from midi_rwkv.score.keyswitches import without_keyswitches
from midi_rwkv.score.score import Bar, Cell, Note, Region, Score
from midi_rwkv.tokens.notes import SongNotes

from .ask import Ask
from .encoder import Encoder
from .limits import Place
from .part import Part, opened, part_of, staying


@dataclass(frozen=True)
class Blanked:
    """A song with the cells of an ask emptied. Keyswitches, which are not music, are only in `whole` and `switches`."""

    ask: Ask  # without the keyswitches among its locked notes, and the cells in which nothing may be written
    region: Region  # all of its cells
    part: Part  # what of them is written
    whole: Score  # as it was read
    score: Score  # the music, with the present notes of the region
    blank: Score  # the music, without those that are replaced or locked
    switches: Mapping[int, frozenset[Note]]  # by track of the region
    staying: Mapping[int, Sequence[Note]]  # by track of the region, its notes in `blank`
    bars: tuple[Bar, ...]  # of the song, and of the region where that continues beyond the song
    before: SongNotes  # `score` over these bars
    song: SongNotes  # the same with nothing in the cells to write
    kept: Mapping[Cell, np.ndarray]  # the notes of cells to write that are there already, (n, 5) each
    places: Mapping[Cell, Sequence[Place]]  # the locked notes as the model places them, ascending

    def rested(self, cell: Cell) -> bool:
        """Whether the track rested all through a cell, in a run of the region's bars in which it played."""
        t, b = cell
        lo, hi = next(run for run in self.ask.region.bar_runs(t) if run[0] <= b < run[1])
        start, end = self.score.cell_ticks(t, b)[0], self.score.bar(b).end_ticks
        played = any(len(self.before.cell(t, other)) for other in range(lo, hi))
        sounding = (n for n in self.score.tracks[t].notes if n.onset_ticks < end)
        return played and not any(n.onset_ticks + n.duration_ticks > start for n in sounding)


def blank_cells(encoder: Encoder, score: Score, ask: Ask) -> Blanked:
    """Empties the cells. Raises RequestError if the score has no such region, or a locked note is outside it."""
    ask.check(score)
    region, music = ask.region, without_keyswitches(score)
    switches = {t: frozenset(score.tracks[t].notes) - set(music.tracks[t].notes) for t in region.tracks}
    ask = replace(ask, locked={t: [n for n in ns if n not in switches[t]] for t, ns in ask.locked.items()})
    part = part_of(music, ask)
    stay = staying(music, ask, part)
    blank = music.with_fill(region, stay)
    locked = {t: [n for n in ns if part.holds(music, t, n)] for t, ns in ask.locked.items()}
    ask = replace(ask, region=opened(music, region, part), locked=locked)
    bars = tuple(music.bar(b) for b in range(max(len(music.bars), region.bars[-1] + 1)))
    before = encoder.encode(music, bars)
    alone = there = music
    for t in ask.region.tracks:
        alone = alone.with_notes(t, ask.locked.get(t, ()))
        there = there.with_notes(t, [*ask.locked.get(t, ()), *stay[t]])
    return Blanked(
        ask=ask,
        region=region,
        part=part,
        whole=score,
        score=music,
        blank=blank,
        switches=switches,
        staying=stay,
        bars=bars,
        before=before,
        song=encoder.emptied(before, ask.region.cells),
        kept={cell: notes for cell, notes in encoder.cells(there, ask.region.cells, bars).items() if len(notes)},
        places=encoder.places(alone, [cell for cell in ask.region.cells if ask.locked.get(cell.track)], bars),
    )
