"""The note events of one channel of a chunk: which of them a splice removes, and how new notes fit among the others."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from .runs import Run, held
from .score import Note
from .smf import NOTE_OFF, NOTE_ON, Event, pair_notes

log = logging.getLogger(__name__)

Span = tuple[int, int]  # ticks, half-open


class Removal(NamedTuple):
    """What the splice takes from a channel, and what that leaves."""

    gone: set[int]  # indices of the note events to remove
    busy: dict[int, list[Span]]  # by pitch, where the notes that are left sound
    staying: list[Note]  # notes of the fill that the file has already
    removed: list[int]  # onsets of the notes that go


def remove_notes(
    events: Sequence[Event],
    channel: int,
    masked: Sequence[Run],
    switches: Collection[tuple[int, int]],
    fill: Iterable[Note],
) -> Removal:
    """Decides which note events go: those of the notes in `masked` that are neither keyswitches nor in the fill.

    Args:
        switches: ticks and pitches of the keyswitches.
        fill: the new notes of the masked runs.
    """
    places_of: dict[int, list[int]] = defaultdict(list)
    for place, (_, status, payload, _) in enumerate(events):
        if status in (NOTE_ON | channel, NOTE_OFF | channel):
            places_of[payload[0]].append(place)
    gone: set[int] = set()
    busy: dict[int, list[Span]] = defaultdict(list)
    staying: list[Note] = []
    wanted = Counter(fill)
    for pitch, places in places_of.items():
        here = [events[place] for place in places]
        velocities = [_velocity(event) for event in here]
        pairs, complete = pair_notes(velocities)
        begun_at = {end: on for on, end in pairs if end is not None and not velocities[end]}
        stay = {i for i, v in enumerate(velocities) if v and not _goes(here[i], masked, switches)}
        staying += _staying(here, pairs, stay, wanted)
        kept_sounds = False
        for i, place in enumerate(places):
            if velocities[i] or i in begun_at:
                goes = begun_at.get(i, i) not in stay
            else:  # a note-off without a note counts at its own tick
                goes = any(run.start <= here[i][0] < run.end for run in masked)
            if velocities[i]:
                kept_sounds |= not goes
            elif not complete and kept_sounds:
                goes = kept_sounds = False  # the only note-off that can end a kept note without its own
            if goes:
                gone.add(place)
        left = [event for event, place in zip(here, places, strict=True) if place not in gone]
        velocities = [_velocity(event) for event in left]
        pairs = pair_notes(velocities)[0]
        strays = set(range(len(left))).difference(*pairs)
        busy[pitch] += [(left[i][0], left[i][0]) for i in strays]  # they end what sounds
        for on, end in pairs:
            begin = left[on][0]
            busy[pitch].append((begin, begin + 1 if end is None or velocities[end] else left[end][0]))
    removed = [events[place][0] for place in gone if _velocity(events[place])]
    return Removal(gone, busy, staying, removed)


def _staying(
    events: Sequence[Event], pairs: Sequence[tuple[int, int | None]], stay: set[int], wanted: Counter[Note]
) -> list[Note]:
    """The notes of one pitch that are wanted as they are. Their indices are added to `stay`.

    A note that only one that goes would end is not among them, because it has to be written anew with a note-off.
    """
    found = []
    for on, end in reversed(pairs):
        if on in stay or end is None or (_velocity(events[end]) and end not in stay):
            continue
        onset, _, (pitch, velocity), _ = events[on]
        note = Note(onset, pitch, max(1, events[end][0] - onset), velocity)
        if wanted[note]:
            wanted[note] -= 1
            found.append(note)
            stay.add(on)
    return found


def _goes(note_on: Event, masked: Sequence[Run], switches: Collection[tuple[int, int]]) -> bool:
    tick, _, payload, _ = note_on
    return held(masked, tick) and (tick, payload[0]) not in switches


def settle(notes: Sequence[Note], busy: dict[int, list[Span]]) -> list[Note]:
    """The new notes, sorted and clipped so that none overlaps another new note of its pitch, or one in `busy`.

    Of several notes with the same onset and pitch the longest stays. The notes are added to `busy`.
    """
    settled: list[Note] = []
    last: dict[int, int] = {}  # index in settled, by pitch
    for note in {(n.onset_ticks, n.pitch): n for n in sorted(notes)}.values():
        onset, pitch = note.onset_ticks, note.pitch
        if any(lo <= onset < hi for lo, hi in busy[pitch]):
            continue
        if pitch in last:
            before = settled[last[pitch]]
            length = min(before.duration_ticks, onset - before.onset_ticks)
            settled[last[pitch]] = before._replace(duration_ticks=length)
        last[pitch] = len(settled)
        length = min([note.duration_ticks, *(lo - onset for lo, _ in busy[pitch] if lo > onset)])
        settled.append(note._replace(duration_ticks=length))
    if len(settled) < len(notes):
        log.info("%d of %d new notes were left out: their pitch sounds already", len(notes) - len(settled), len(notes))
    for note in settled:
        busy[note.pitch].append((note.onset_ticks, note.onset_ticks + note.duration_ticks))
    return settled


def _velocity(event: Event) -> int:
    return event[2][1] if event[1] & 0xF0 == NOTE_ON else 0
