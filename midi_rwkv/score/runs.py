"""Runs of masked bars, in ticks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .score import Region, Score


class Run(NamedTuple):
    """A run of masked bars of one track, in ticks."""

    start: int  # bar lines
    end: int
    first_onset: int  # half-open range in which its notes begin, see `Score.cell_ticks`
    last_onset: int

    def holds(self, onset: int) -> bool:
        """Whether a note that begins at `onset` belongs to these bars."""
        return self.first_onset <= onset < self.last_onset


def masked_runs(score: Score, region: Region, track: int) -> list[Run]:
    """The region's runs of bars in one track."""
    return [
        Run(
            score.bar(lo).start_ticks,
            score.bar(hi - 1).end_ticks,
            score.cell_ticks(track, lo)[0],
            score.cell_ticks(track, hi - 1)[1],
        )
        for lo, hi in region.bar_runs(track)
    ]


def held(runs: Sequence[Run], onset: int) -> bool:
    return any(run.holds(onset) for run in runs)
