"""How long the notes of a track sound, and new notes fitted to that.

A model says how long a note is before it knows what comes next, and it cannot see the seam. So new notes ring over the
end of their bars as far as the track's own do, end with the next onset where the track's own do, and leave no rest
where the track has none.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from .runs import Run
from .score import Note, Score
from .single import handover_ticks

EVIDENCE = 6  # notes from which a track's manner is told
MOST = 0.95  # share of a track's notes that end with the next
NEARBY_BARS = 8  # on either side of a run, in which a track rests or does not


def longest_ring(score: Score, track: int) -> int:
    """How far the notes of a track ring past the end of their bar at most, in ticks."""
    ends = (
        n.onset_ticks + n.duration_ticks - score.bar(b).end_ticks
        for n, b in zip(score.tracks[track].notes, score.note_bars(track).tolist(), strict=True)
    )
    return max(0, max(ends, default=0))


def ends_with_next(notes: Sequence[Note], ticks_per_beat: int) -> bool:
    """Whether notes are struck together and end, all but a few, by the next onset or just after it."""
    slack = handover_ticks(ticks_per_beat)
    onsets = sorted({n.onset_ticks for n in notes})
    following = [(n, _next(onsets, n.onset_ticks + slack)) for n in notes]
    ends = [n.onset_ticks + n.duration_ticks <= then + slack for n, then in following if then is not None]
    return len(ends) >= EVIDENCE and sum(ends) >= MOST * len(ends)


def never_rests(score: Score, track: int, run: Run) -> bool:
    """Whether a track sounds all the time in the bars around a run, up to it and from its end, but for short gaps."""
    first, last = score.bar_index_at(run.start), score.bar_index_at(run.end - 1)
    low = score.bar(max(0, first - NEARBY_BARS)).start_ticks
    high = score.bar(min(len(score.bars) - 1, last + NEARBY_BARS)).end_ticks
    sides = [(lo, hi) for lo, hi in ((low, run.start), (run.end, high)) if lo < hi]
    notes = score.tracks[track].notes
    return bool(sides) and not any(gaps(notes, lo, hi, score.ticks_per_beat) for lo, hi in sides)


def gaps(notes: Sequence[Note], start: int, end: int, ticks_per_beat: int) -> list[tuple[int, int]]:
    """Where no note sounds for more than half a beat in a span of ticks. notes: ascending."""
    found, silent = [], start
    for note in notes:
        if note.onset_ticks >= end:
            break
        if 2 * (note.onset_ticks - silent) > ticks_per_beat:
            found.append((silent, note.onset_ticks))
        silent = max(silent, note.onset_ticks + note.duration_ticks)
    return [*found, (silent, end)] if 2 * (end - silent) > ticks_per_beat else found


def sustained(
    new: Sequence[Note], score: Score, track: int, runs: Sequence[Run], locked: Sequence[Note], *, hold: bool
) -> list[Note]:
    """New notes of a track, as long as its own manner has them.

    Args:
        new: as they were written, in these runs.
        score: the song, in which the track has the notes that are not replaced.
        runs: what of it has been written so far.
        locked: other notes of the runs.
        hold: whether notes may be longer than they were written.
    """
    beat, kept = score.ticks_per_beat, score.tracks[track].notes
    ring, with_next = longest_ring(score, track), ends_with_next(kept, beat)
    onsets = sorted({n.onset_ticks for n in [*new, *kept, *locked]})
    out = []
    for run in runs:
        at_end = run.end >= score.bars[-1].end_ticks
        limit = run.end + (0 if at_end else ring)
        written = [n for n in new if run.holds(n.onset_ticks)]
        if hold and never_rests(score, track, run):
            written = _without_rests(written, [*kept, *locked], run, beat)
        for note in written:
            end = min(note.onset_ticks + note.duration_ticks, limit)
            then = _next(onsets, note.onset_ticks + handover_ticks(beat)) if with_next else None
            end = end if then is None else min(end, then)
            out.append(note._replace(duration_ticks=end - note.onset_ticks))
    return out


def _without_rests(new: Sequence[Note], others: Sequence[Note], run: Run, ticks_per_beat: int) -> list[Note]:
    """The new notes of a run. Where they leave a rest, those that were struck last before it are held on."""
    held = list(new)
    for begin, end in gaps(sorted([*new, *others]), run.start, run.end, ticks_per_beat):
        last = max((n.onset_ticks for n in [*new, *others] if n.onset_ticks < begin), default=begin)
        since = last - handover_ticks(ticks_per_beat)
        for i, note in enumerate(held):
            if since <= note.onset_ticks <= last:
                held[i] = note._replace(duration_ticks=end - note.onset_ticks)
    return held


def _next(onsets: Sequence[int], tick: int) -> int | None:
    place = bisect_right(onsets, tick)
    return onsets[place] if place < len(onsets) else None
