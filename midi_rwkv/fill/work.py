"""A fill in progress, and what writes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from midi_rwkv.score.score import Cell, Note, Region, Score

from .ask import Ask
from .blank import Blanked
from .draft import Draft
from .rules import Rules


@dataclass(frozen=True)
class Work:
    """A fill in progress."""

    blanked: Blanked[Any]
    rules: Rules
    drafts: list[Draft]
    on_cell: Callable[[Cell, list[list[Note]]], None]  # called with a finished cell and its notes per candidate

    def first_of_run(self, cell: Cell) -> int:
        """The first bar of the run of the track's bars that a cell is in."""
        return next(lo for lo, hi in self.blanked.ask.region.bar_runs(cell.track) if lo <= cell.bar < hi)

    def is_silent(self, draft: Draft, cell: Cell) -> bool:
        """Whether a candidate has written nothing so far into the run of the track's bars that a cell is in."""
        return not draft.has_written(cell.track, self.blanked.score.bar(self.first_of_run(cell)).start_ticks)


class Writing(Protocol):
    """What differs between a model of steps and one of tokens: how a song is read, and how cells are written."""

    def blank(self, score: Score, ask: Ask) -> Blanked[Any]:
        """Empties the cells. Raises RequestError if the score has no such region."""

    def rules(self, blanked: Blanked[Any]) -> Rules:
        """The limits of each cell. Raises RequestError if a request cannot be met."""

    def drafts(self, blanked: Blanked[Any]) -> list[Draft]:
        """One for each candidate."""

    def runs(self, region: Region) -> list[tuple[int, int]]:
        """The bars, half-open, that one prompt is made for."""

    def write(self, work: Work, run: tuple[int, int]) -> None:
        """Writes the cells of a run into the drafts."""
