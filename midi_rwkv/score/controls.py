"""Pitch bends and sustain pedal of one channel of a chunk: which of them a splice removes."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Sequence

from .runs import Run
from .score import Note
from .smf import CONTROL_CHANGE, PITCH_BEND, Event

SUSTAIN = 64  # controller number
AT_REST = {PITCH_BEND: b"\x00\x40", CONTROL_CHANGE: bytes([SUSTAIN, 0])}
Span = tuple[int, int]  # ticks, half-open


def played_span(run: Run, onsets: Sequence[int]) -> Span:
    """The run's bars as the channel plays them: from its first note, if that is early, to the first early note after.

    Args:
        onsets: of all notes of the channel, ascending.
    """
    first, last = bisect_left(onsets, run.first_onset), bisect_left(onsets, run.last_onset)
    return min([run.start, *onsets[first : first + 1]]), min([run.end, *onsets[last : last + 1]])


def control_places(events: Sequence[Event], kind: int, channel: int) -> list[int]:
    """Indices of a channel's pitch bends, or of its sustain pedal."""
    return [
        place
        for place, (_, status, payload, _) in enumerate(events)
        if status == kind | channel and (kind == PITCH_BEND or payload[0] == SUSTAIN)
    ]


def stale(controls: Sequence[Event], kind: int, spans: Sequence[Span]) -> set[int]:
    """Indices of the pitch bends (or pedal) of a channel to remove from ascending spans."""
    gone: set[int] = set()
    in_file = in_force = AT_REST[kind]
    waiting = list(reversed(spans))
    for i, (tick, _, payload, _) in enumerate(controls):
        while waiting and waiting[-1][1] <= tick:
            waiting.pop()
            in_force = in_file
        in_file = payload
        held_before = at_rest(payload, kind) and not at_rest(in_force, kind)
        if held_before or not any(lo <= tick < hi for lo, hi in spans):
            in_force = payload
        else:
            gone.add(i)
    return gone


def restored(
    controls: Sequence[Event], kind: int, gone: Collection[int], new: Sequence[Event], spans: Sequence[Span]
) -> list[Event]:
    """The events that set a control, at the end of each span, to what it is there in the file.

    Args:
        controls: all of its events in the file; gone: indices of those that are removed.
        new: those that come in their place.
    """
    every = [(event, True, i not in gone) for i, event in enumerate(controls)]
    merged = sorted([*every, *((event, False, True) for event in new)], key=lambda row: row[0][0])
    found: list[Event] = []
    in_file = in_force = AT_REST[kind]
    place = 0
    for _, end in spans:
        while place < len(merged) and merged[place][0][0] < end:
            event, of_file, heard = merged[place]
            in_file = event[2] if of_file else in_file
            in_force = event[2] if heard else in_force
            place += 1
        if in_force != in_file:
            found.append((end, controls[0][1], in_file, False))
            in_force = in_file
    return found


def outside(spans: Iterable[Span], notes: Iterable[Note]) -> list[Span]:
    """The parts of ascending spans in which none of the notes sounds."""
    left = list(spans)
    for note in notes:
        begin, end = note.onset_ticks, note.onset_ticks + note.duration_ticks
        pieces = [piece for lo, hi in left for piece in ((lo, min(hi, begin)), (max(lo, end), hi))]
        left = [(lo, hi) for lo, hi in pieces if lo < hi]
    return left


def at_rest(payload: bytes, kind: int) -> bool:
    """Whether a bend is none, or a pedal up."""
    return payload == AT_REST[kind] if kind == PITCH_BEND else payload[1] < 64
