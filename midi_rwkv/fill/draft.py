"""One candidate while it is written, and how its notes are fitted beside the notes that stay."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from midi_rwkv.score.note_events import settle
from midi_rwkv.score.runs import masked_runs
from midi_rwkv.score.score import Note, Region, Score
from midi_rwkv.score.single import one_at_a_time
from midi_rwkv.score.sustain import sustained

from .blank import Blanked
from .locked import with_locked


@dataclass
class Draft:
    """A candidate's notes so far, by track of the region, in ticks."""

    rng: np.random.Generator
    written: dict[int, list[Note]] = field(default_factory=lambda: defaultdict(list))  # as the model wrote them
    fill: dict[int, list[Note]] = field(default_factory=dict)  # as they will be in the file, with the locked notes
    nats: float = 0.0  # what its places and pitches cost the model
    choices: int = 0  # its notes, and the ends of its cells

    def has_written(self, track: int, since_ticks: int) -> bool:
        """Whether a note of the track begins at `since_ticks` or later."""
        return any(note.onset_ticks >= since_ticks for note in self.written.get(track, ()))

    def settle(self, blanked: Blanked, single: Collection[int], end_bar: int) -> None:
        """Fits what is written before `end_bar` beside the notes that stay. `single` are the monophonic tracks."""
        score = blanked.score
        so_far = {
            t: [n for n in notes if score.bar_of(t, n.onset_ticks) < end_bar] for t, notes in blanked.ask.locked.items()
        }
        settled = {
            t: _settled(blanked, t, self.written[t], so_far.get(t, ()), end_bar, single=t in single)
            for t in blanked.ask.region.tracks
        }
        self.fill = with_locked(score, settled, so_far, single)

    def score(self, blank: Score) -> Score:
        """The blank score with the settled notes in it."""
        for track, notes in self.fill.items():
            blank = blank.with_notes(track, [*blank.tracks[track].notes, *notes])
        return blank


def _settled(
    blanked: Blanked, track: int, notes: Sequence[Note], locked: Sequence[Note], end_bar: int, *, single: bool
) -> list[Note]:
    """The notes of a track as the splice will write them.

    A note ends at kept or later notes of its pitch; on a monophonic track, of any pitch.
    """
    blank, region = blanked.blank, blanked.ask.region
    kept, cells = blank.tracks[track].notes, [c for c in region.cells if c.track == track and c.bar < end_bar]
    if cells and "rhythm" not in blanked.ask.keep:
        runs = masked_runs(blank, Region(frozenset(cells)), track)
        hold = not (blank.tracks[track].is_drum or blanked.ask.chords)
        notes = sustained(notes, blank, track, runs, locked, hold=hold)
    busy: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for n in kept:
        busy[n.pitch].append((n.onset_ticks, n.onset_ticks + n.duration_ticks))
    settled = settle(notes, busy)
    if not single:
        return settled
    apart = one_at_a_time(settled, kept, blank.ticks_per_beat)
    return [n for n in apart if (track, blank.bar_of(track, n.onset_ticks)) in region.cells]  # some were delayed
