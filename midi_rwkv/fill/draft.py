"""One candidate while it is written, and how its notes are fitted beside the notes that stay."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from midi_rwkv.score.score import Note, Region, Score
from midi_rwkv.score.single import one_at_a_time
from midi_rwkv.score.splice import masked_runs, settle

from .blank import Blanked
from .locked import with_locked


@dataclass
class Draft:
    """A candidate's notes so far, by track of the region, in ticks."""

    rng: np.random.Generator
    settled: dict[int, list[Note]]  # notes of earlier runs, as the splice will write them
    written: dict[int, list[Note]] = field(default_factory=lambda: defaultdict(list))  # of this run, as written
    fill: dict[int, list[Note]] = field(default_factory=dict)  # the settled notes, with the locked notes of these runs

    def has_written(self, track: int, since_ticks: int) -> bool:
        """Whether a note of the track begins in this run at `since_ticks` or later."""
        return any(note.onset_ticks >= since_ticks for note in self.written.get(track, ()))

    def settle(self, blanked: Blanked, single: Collection[int], end_bar: int) -> None:
        """Settles the run that ends at `end_bar`. `single` are the monophonic tracks."""
        region, score = blanked.ask.region, blanked.score
        for t, notes in self.written.items():
            self.settled[t] += _settled(blanked.blank, region, t, notes, single=t in single)
        self.written.clear()
        so_far = {
            t: [n for n in notes if score.bar_of(t, n.onset_ticks) < end_bar] for t, notes in blanked.ask.locked.items()
        }
        self.fill = with_locked(score, self.settled, so_far, single)

    def score(self, blank: Score) -> Score:
        """The blank score with the settled notes in it."""
        for track, notes in self.fill.items():
            blank = blank.with_notes(track, [*blank.tracks[track].notes, *notes])
        return blank


def _settled(blank: Score, region: Region, track: int, notes: Sequence[Note], *, single: bool) -> list[Note]:
    """The notes as the splice will write them.

    A note ends with its run, and at kept or later notes of its pitch; on a monophonic track, of any pitch.
    """
    busy: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for n in blank.tracks[track].notes:
        busy[n.pitch].append((n.onset_ticks, n.onset_ticks + n.duration_ticks))
    settled = settle(notes, masked_runs(blank, region, track), busy)
    if not single:
        return settled
    apart = one_at_a_time(settled, blank.tracks[track].notes, blank.ticks_per_beat)
    return [n for n in apart if (track, blank.bar_of(track, n.onset_ticks)) in region.cells]  # some were delayed
