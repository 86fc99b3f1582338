"""Parts of cells: which notes of a region stay, and where new ones may begin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from midi_rwkv.errors import RequestError
from midi_rwkv.score.score import Cell, Note, Region, Score

from .ask import Ask, Span

BLOCK = 4  # bars in which one phrase is varied
POSITIONS = 48  # half positions a quarter


@dataclass(frozen=True)
class Part:
    """What of the cells is written.

    Attributes:
        spans: of ticks in which new notes begin, ascending; None: anywhere.
        pitches: (128,) bool, what may be replaced and written.
    """

    spans: tuple[Span, ...] | None
    pitches: np.ndarray

    @property
    def is_whole(self) -> bool:
        """Whether it is all of the cells."""
        return self.spans is None and bool(self.pitches.all())

    def holds(self, score: Score, track: int, note: Note) -> bool:
        """Whether a note of the region is replaced."""
        if not self.pitches[note.pitch]:
            return False
        at = note.onset_ticks + score.lead_ticks(score.tracks[track])
        return self.spans is None or any(lo <= at < hi for lo, hi in self.spans)

    def begins(self, score: Score, track: int, ticks: np.ndarray) -> np.ndarray:
        """Whether a new note may begin at some positions of a bar, (n,) bool. ticks: of the positions, (n,)."""
        if self.spans is None:
            return np.ones(len(ticks), bool)
        lead, near = score.lead_ticks(score.tracks[track]), score.ticks_per_beat / POSITIONS
        inside = [(ticks >= lo - near) & (ticks < hi - lead) for lo, hi in self.spans]
        found: np.ndarray = np.any(inside, axis=0)
        return found


def part_of(score: Score, ask: Ask) -> Part:
    """The part that is asked for. Raises RequestError if it is empty."""
    every = np.arange(128)
    pitches = np.ones(128, bool)
    if ask.only:
        pitches &= (ask.only[0] <= every) & (every <= ask.only[1])
    if ask.spare:
        pitches &= (every < ask.spare[0]) | (ask.spare[1] < every)
    if not pitches.any():
        raise RequestError("every pitch to write is one to keep; give another range of pitches")
    part = Part(None if ask.within is None else tuple(sorted(ask.within)), pitches)
    return part if ask.vary is None else Part(_phrases(score, ask, part), pitches)


def _phrases(score: Score, ask: Ask, part: Part) -> tuple[Span, ...]:
    """A phrase in each four bars that holds the share of the notes to vary, as nearly as whole chords can. Of two
    shares, the smaller one's phrases lie within the larger one's."""
    assert ask.vary is not None
    rng = np.random.default_rng(ask.seed)
    spans: list[Span] = []
    for low, high in ask.region.bar_runs():
        for first in range(low, high, BLOCK):
            last = min(first + BLOCK, high)
            onsets = sorted(
                n.onset_ticks
                for t, b in ask.region.cells
                if first <= b < last and b < len(score.bars)
                for n in score.notes_in(t, b)
                if part.holds(score, t, n) and n not in ask.locked.get(t, ())
            )
            place = rng.random()
            if not onsets:
                continue
            ticks, sizes = np.unique(onsets, return_counts=True)
            begin, end = _phrase(sizes, place, ask.vary)
            spans.append((int(ticks[begin]), int(ticks[end]) if end < len(ticks) else score.bar(last - 1).end_ticks))
    if not spans:
        raise RequestError("nothing is there to vary; write new notes without it")
    if part.spans is None:
        return tuple(spans)
    shared = [(max(a, lo), min(b, hi)) for a, b in spans for lo, hi in part.spans]
    return tuple((lo, hi) for lo, hi in shared if lo < hi)


def _phrase(sizes: np.ndarray, place: float, share: float) -> tuple[int, int]:
    """The chords, half-open, that hold the share of all notes most nearly: those around a place, 0-1. A greater share
    has all that a smaller one has. sizes: (n,) of the chords."""
    sums = np.concatenate([[0], np.cumsum(sizes)])
    wanted = share * sums[-1]
    begin = int(np.searchsorted(sums, place * sums[-1], side="right")) - 1
    before, after = begin, len(sizes) - begin - 1  # chords around the first
    end = begin + 1
    while begin or end < len(sizes):
        to_left = begin * (after + 1) > (len(sizes) - end) * (before + 1)  # whichever side has more of its own left
        wider = (begin - 1, end) if to_left else (begin, end + 1)
        if sums[end] - sums[begin] + sums[wider[1]] - sums[wider[0]] >= 2 * wanted:  # this one is as near
            break
        begin, end = wider
    return begin, end


def staying(score: Score, ask: Ask, part: Part) -> dict[int, list[Note]]:
    """By track of the region, its notes that are not of the part, locked or not."""
    found: dict[int, list[Note]] = {}
    for t in ask.region.tracks:
        bars = [b for track, b in sorted(ask.region.cells) if track == t and b < len(score.bars)]
        there = {n for b in bars for n in score.notes_in(t, b)} | set(ask.locked.get(t, ()))
        found[t] = sorted(n for n in there if not part.holds(score, t, n))
    return found


def opened(score: Score, region: Region, part: Part) -> Region:
    """The cells of a region in which something may be written. Raises RequestError if there are none."""
    if part.spans is None:
        return region
    cells = [cell for cell in region.cells if _meets(score, cell, part.spans)]
    if not cells:
        raise RequestError("the part to write lies outside the region; give beats inside its bars")
    return Region(frozenset(cells))


def _meets(score: Score, cell: Cell, spans: Sequence[Span]) -> bool:
    bar = score.bar(cell.bar)
    return any(lo < bar.end_ticks and hi > bar.start_ticks for lo, hi in spans)
