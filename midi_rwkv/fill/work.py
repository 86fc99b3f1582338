"""A fill in progress."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from midi_rwkv.score.score import Cell, Note

from .blank import Blanked
from .draft import Draft
from .rules import Rules


@dataclass(frozen=True)
class Work:
    """A fill in progress."""

    blanked: Blanked
    rules: Rules
    drafts: list[Draft]
    on_cell: Callable[[Cell, list[list[Note]]], None]  # called with a finished cell and its notes per candidate

    def first_of_run(self, cell: Cell) -> int:
        """The first bar of the run of the track's bars that a cell is in."""
        return next(lo for lo, hi in self.blanked.ask.region.bar_runs(cell.track) if lo <= cell.bar < hi)

    def is_silent(self, draft: Draft, cell: Cell) -> bool:
        """Whether a candidate has written nothing so far into the run of the track's bars that a cell is in."""
        return not draft.has_written(cell.track, self.blanked.score.bar(self.first_of_run(cell)).start_ticks)
