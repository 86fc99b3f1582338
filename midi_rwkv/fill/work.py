"""A fill in progress."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from midi_rwkv.score.score import Cell, Note
from midi_rwkv.score.single import handover_ticks

from .blank import Blanked
from .draft import Draft
from .feel import Feel
from .habits import Habits
from .plans import Plans
from .rules import Rules


@dataclass(frozen=True)
class Work:
    """A fill in progress."""

    blanked: Blanked
    rules: Rules
    drafts: list[Draft]
    plans: Plans
    feel: Feel
    habits: Habits
    on_cell: Callable[[Cell, list[list[Note]]], None]  # called with a finished cell and its notes per candidate

    def first_of_run(self, cell: Cell) -> int:
        """The first bar of the run of the track's bars that a cell is in."""
        return next(lo for lo, hi in self.blanked.ask.region.bar_runs(cell.track) if lo <= cell.bar < hi)

    def is_silent(self, draft: Draft, cell: Cell) -> bool:
        """Whether a candidate has written nothing so far into the run of the track's bars that a cell is in."""
        return not draft.has_written(cell.track, self.blanked.score.bar(self.first_of_run(cell)).start_ticks)

    def is_held(self, draft: Draft, cell: Cell) -> bool:
        """Whether a note that a candidate has written in an earlier bar sounds all through a cell."""
        score, first = self.blanked.score, Cell(cell.track, self.first_of_run(cell))
        end = score.bar(cell.bar).end_ticks - handover_ticks(score.ticks_per_beat)
        begin = score.cell_ticks(*cell)[0]
        there = [n.onset_ticks for n in self.blanked.blank.tracks[cell.track].notes if n.onset_ticks < end]
        since = max([score.cell_ticks(*first)[0], *there[-1:]])
        return any(
            since <= n.onset_ticks < begin and n.onset_ticks + n.duration_ticks >= end
            for n in draft.written[cell.track]
        )
