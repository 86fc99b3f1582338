"""One candidate while it is written, and how its notes are made to fit beside what stays."""

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
from .recall import SongMemory


@dataclass
class Draft:
    """A candidate's notes so far, by track of the region, in ticks."""

    rng: np.random.Generator
    memory: SongMemory | None  # what its song says elsewhere
    settled: dict[int, list[Note]]  # in the runs before, as the splice will have them
    written: dict[int, list[Note]] = field(default_factory=lambda: defaultdict(list))  # in this run, as they came
    fill: dict[int, list[Note]] = field(default_factory=dict)  # what is settled, with the locked notes of these runs

    def has_written(self, track: int, since_ticks: int) -> bool:
        """Whether a note of the track begins in this run at `since_ticks` or later."""
        return any(note.onset_ticks >= since_ticks for note in self.written.get(track, ()))

    def settle(self, blanked: Blanked, single: Collection[int], end_bar: int) -> None:
        """The run up to `end_bar` is written. single: tracks that play one note at a time."""
        region, score = blanked.ask.region, blanked.score
        for t, notes in self.written.items():
            self.settled[t] += _settled(blanked.blank, region, t, notes, single=t in single)
        self.written.clear()
        so_far = {
            t: [n for n in notes if score.bar_of(t, n.onset_ticks) < end_bar] for t, notes in blanked.ask.locked.items()
        }
        self.fill = with_locked(score, self.settled, so_far, single)

    def score(self, blank: Score) -> Score:
        """The blank score with what is settled in it."""
        for track, notes in self.fill.items():
            blank = blank.with_notes(track, [*blank.tracks[track].notes, *notes])
        return blank


def _settled(blank: Score, region: Region, track: int, notes: Sequence[Note], *, single: bool) -> list[Note]:
    """The notes as the splice will have them: ended by their run, and by kept or later notes of their pitch; on a track
    that plays one note at a time, of any pitch."""
    busy: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for n in blank.tracks[track].notes:
        busy[n.pitch].append((n.onset_ticks, n.onset_ticks + n.duration_ticks))
    settled = settle(notes, masked_runs(blank, region, track), busy)
    if not single:
        return settled
    apart = one_at_a_time(settled, blank.tracks[track].notes, blank.ticks_per_beat)
    return [n for n in apart if (track, blank.bar_of(track, n.onset_ticks)) in region.cells]  # some wait their turn
