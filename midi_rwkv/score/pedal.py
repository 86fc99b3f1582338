"""Sustain pedal for new notes, in the manner of the bars around them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from operator import itemgetter

from .controls import Span, at_rest, control_places
from .score import POSITIONS_PER_BEAT, Bar, Note, Score
from .smf import CONTROL_CHANGE, NOTE_ON, Event

NEARBY_BARS = 8  # on either side of a bar, from which its pedal is copied


class Pedalling:
    """The pedal of one channel of a chunk, and how the bars that stay use it.

    A new bar takes the pedal of the most similar bar nearby, if most bars there that sound are pedalled: similar by
    where notes begin, and of those that are as similar, the nearest.
    """

    def __init__(self, events: Sequence[Event], channel: int, score: Score, cells: Mapping[int, Span]):
        """cells: for each bar that is replaced, and so not copied from, where its notes begin."""
        self.score, self.cells = score, cells
        self._pedal = [events[place] for place in control_places(events, CONTROL_CHANGE, channel)]
        self._notes = [e[0] for e in events if e[1] == NOTE_ON | channel and e[2][1]]

    def of_fill(self, new: Sequence[Note], kept: Collection[int], spans: Sequence[Span]) -> list[Event]:
        """The pedal for the new notes. A bar in which some of the pedal has to stay gets none.

        Args:
            kept: ticks of the pedal that stays. In a span it is the release of what was held before, and nothing comes
                before it.
            spans: where pedal is replaced.
        """
        found: list[Event] = []
        for bar, (first, last) in self.cells.items():
            notes = [n for n in new if first <= n.onset_ticks < last]
            inside = any(lo <= self.score.bar(bar).start_ticks and last <= hi for lo, hi in spans)
            found += self._copied(bar, notes) if notes and inside else []
        return [
            event
            for event in found
            if any(lo <= event[0] < hi and not any(event[0] <= tick < hi for tick in kept) for lo, hi in spans)
        ]

    def _copied(self, bar: int, new: Sequence[Note]) -> list[Event]:
        """The pedal for a bar of new notes; none where the bars around have none."""
        nearby = range(max(0, bar - NEARBY_BARS), min(len(self.score.bars), bar + NEARBY_BARS + 1))
        there = [b for b in nearby if b not in self.cells and self._onsets(self.score.bar(b))]
        pedalled = [b for b in there if any(not at_rest(e[2], CONTROL_CHANGE) for e in self._in(self.score.bar(b)))]
        here = self.score.bar(bar)
        alike = [b for b in pedalled if _shape(self.score.bar(b)) == _shape(here)]
        if not alike or 2 * len(pedalled) < len(there):
            return []
        own = self._places(here, [n.onset_ticks for n in new])

        def similarity(b: int) -> tuple[float, int]:
            other = self._places(self.score.bar(b), self._onsets(self.score.bar(b)))
            return len(own & other) / max(1, len(own | other)), -abs(b - bar)

        source = self.score.bar(max(alike, key=similarity))
        by = here.start_ticks - source.start_ticks
        return [(tick + by, status, payload, False) for tick, status, payload, _ in self._in(source)]

    def _in(self, bar: Bar) -> list[Event]:
        lo, hi = (bisect_left(self._pedal, tick, key=itemgetter(0)) for tick in bar[:2])
        return self._pedal[lo:hi]

    def _onsets(self, bar: Bar) -> list[int]:
        lo, hi = (bisect_left(self._notes, tick) for tick in bar[:2])
        return self._notes[lo:hi]

    def _places(self, bar: Bar, onsets: Sequence[int]) -> set[int]:
        return {(t - bar.start_ticks) * POSITIONS_PER_BEAT // self.score.ticks_per_beat for t in onsets}


def _shape(bar: Bar) -> tuple[int, int, int]:
    return bar.end_ticks - bar.start_ticks, bar.numerator, bar.denominator
