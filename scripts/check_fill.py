"""Checks a filled MIDI file against its original with mido alone, without sharing code with the splice.

    python scripts/check_fill.py song.mid out.mid --mask 2:1:7680-11520 [--mask ...] [--new-tracks 1]

A mask is CHUNK:CHANNEL:START-END[:FIRST-LAST]: track chunk and channel from 0, ticks half-open. START and END are bar
lines; FIRST-LAST is where the notes of these bars begin, by default from half a grid step (a 24th of a quarter) before
the bar lines. Prints one line for each violation and exits with 1, or prints "ok".

What must hold:
- track chunks without a mask, other chunks, the header and any bytes after the tracks are identical (except for the
  number of tracks, and new chunks after the last);
- in a masked chunk every event keeps its tick, order and data. Exceptions, on the masked channels, are the notes of a
  mask (and their note-offs, wherever they are), note-offs without a note inside, and pitch bends and sustain pedal
  inside, of which some may stay, and whose value may be restored, and pedal as it is elsewhere, for new notes;
  end-of-track may move to the last event;
- for bends and pedal a mask begins with its first note if that is early, and ends with the first early note of the next
  bar; at that end they have the value that they had there in the original;
- the notes of a mask may ring over its end, but no two of one pitch overlap;
- the output parses in mido and symusic if the original does.
"""

from __future__ import annotations

import argparse
import io
import struct
import sys
from collections import Counter, defaultdict, deque
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import mido
from mido.midifiles import midifiles
from mido.midifiles.meta import build_meta_message
from script_helpers.chunks import split

Mask = tuple[int, ...]  # chunk, channel, start tick, end tick, and first and last onset where these are given
BEND, PEDAL = "pitchwheel", "sustain"
REST = {BEND: 0, PEDAL: 0}


class Span(NamedTuple):
    """A mask on one channel, in ticks, half-open."""

    start: int
    end: int
    first: int  # onsets of its notes
    last: int

    def holds(self, onset: int) -> bool:
        return self.first <= onset < self.last

    def played(self, onsets: Sequence[int]) -> tuple[int, int]:
        """Its bars as the channel plays them. onsets: of the channel's notes in the original."""
        start = min([self.start, *(tick for tick in onsets if tick >= self.first)])
        return start, min([self.end, *(tick for tick in onsets if tick >= self.last)])


class Event(NamedTuple):
    tick: int
    data: tuple[int, ...]
    message: mido.Message | mido.MetaMessage


def check_fill(
    original: bytes | str | Path, output: bytes | str | Path, mask: Iterable[Mask], new_tracks: int = 0
) -> list[str]:
    """Violations, one line each; empty when the output is the original with only the masked cells changed.

    `mask` names the cells by track chunk and channel of the output, so those of new tracks too; without onsets, bars
    are taken to be longer than a 12th of a quarter.
    Raises ValueError when mido cannot read the original.
    """
    before, after = (
        source if isinstance(source, bytes) else Path(source).read_bytes() for source in (original, output)
    )
    old, new = split(before), split(after)
    kind, _, division = struct.unpack(">HHH", old.header[:6])
    masks: dict[int, dict[int, list[Span]]] = defaultdict(lambda: defaultdict(list))
    for chunk, channel, start, end, *onsets in mask:
        masks[chunk][channel].append(Span(start, end, *(onsets or (start - division // 24, end - division // 24))))
    appended = new_tracks if kind else 0
    problems = []
    expected = struct.pack(">HHH", kind, len(old.tracks) + appended, division) + old.header[6:]
    if new.header != expected:
        problems.append(f"header: {new.header.hex()} instead of {expected.hex()}")
    if len(new.tracks) != len(old.tracks) + appended:
        return [*problems, f"{len(new.tracks)} tracks instead of {len(old.tracks)} + {appended}"]
    if new.between != old.between[:-1] + [b""] * appended + old.between[-1:]:
        problems.append("bytes between or after the track chunks differ")
    for chunk, body in enumerate(new.tracks):
        if chunk >= len(old.tracks):
            problems += [f"new chunk {chunk}: {line}" for line in _check_new(division, body, masks[chunk])]
        elif chunk not in masks:
            if body != old.tracks[chunk]:
                problems.append(f"chunk {chunk}: not masked, yet its bytes differ")
        else:
            lines = _check_chunk(division, old.tracks[chunk], body, masks[chunk], opens=kind == 0 and new_tracks > 0)
            problems += [f"chunk {chunk}: {line}" for line in lines]
    return problems + _check_parsers(before, after)


def _events(division: int, body: bytes) -> list[Event]:
    """One chunk's events, read by mido as a file of its own."""
    head = b"MThd" + struct.pack(">IHHH", 6, 0, 1, division)
    chunk = io.BytesIO(head + b"MTrk" + struct.pack(">I", len(body)) + body)
    try:
        with mock.patch.object(midifiles, "build_meta_message", _timed_meta):
            track = mido.MidiFile(file=chunk).tracks[0]
    except Exception as error:  # mido raises whatever its parsers stumble over
        raise ValueError(f"mido cannot read a track chunk: {error!r}") from error
    events, tick = [], 0
    for message in track:
        tick += message.time
        events.append(Event(tick, tuple(message.bytes()), message))
    return events


def _timed_meta(kind: int, data: bytes, delta: int = 0) -> mido.MetaMessage:
    """mido 1.3 forgets the time of meta events that it does not know, and so shifts all that follows."""
    message = build_meta_message(kind, data, delta)
    message.time = delta
    return message


def _inside(spans: Iterable[tuple[int, int]], tick: int) -> bool:
    return any(start <= tick < end for start, end in spans)


def _held(spans: Sequence[Span], onset: int) -> bool:
    return any(span.holds(onset) for span in spans)


def _is_note(event: Event) -> bool:
    return event.message.type in ("note_on", "note_off")


def _is_onset(event: Event) -> bool:
    return event.message.type == "note_on" and event.message.velocity > 0


def _control(event: Event) -> str | None:
    if event.message.type == "pitchwheel":
        return BEND
    return PEDAL if event.message.type == "control_change" and event.message.control == 64 else None


def _value(event: Event) -> int:
    return event.message.pitch if event.message.type == "pitchwheel" else event.message.value


class Notes(NamedTuple):
    """Which note-off belongs to which note-on, first in first out, on one channel. Values are indices of events."""

    pairs: dict[int, int | None]
    stray: set[int]  # note-offs without a note
    unclear: set[int]  # pitches that lack a note-off somewhere: the file does not say which


def _pair(events: Sequence[Event], channel: int) -> Notes:
    sounding: dict[int, deque[int]] = defaultdict(deque)
    pairs: dict[int, int | None] = {}
    stray = set()
    for i, event in enumerate(events):
        if not _is_note(event) or event.message.channel != channel:
            continue
        waiting = sounding[event.message.note]
        if _is_onset(event):
            pairs[i] = None
            waiting.append(i)
        elif waiting:
            pairs[waiting.popleft()] = i
        else:
            stray.add(i)
    return Notes(pairs, stray, {pitch for pitch, waiting in sounding.items() if waiting})


def _check_chunk(division: int, before: bytes, after: bytes, masks: dict[int, list[Span]], *, opens: bool) -> list[str]:
    old, new = _events(division, before), _events(division, after)
    problems = []
    ended = [bool(side) and side[-1].message.type == "end_of_track" for side in (old, new)]
    if ended[0] != ended[1]:
        return ["end-of-track came or went"]
    if ended[0]:
        wanted = max(old[-1].tick, max((e.tick for e in new[:-1]), default=0))
        if new[-1].tick != wanted:
            problems.append(f"end-of-track stands at tick {new[-1].tick} instead of {wanted}")
        old, new = old[:-1], new[:-1]
    kept_old, kept_new = set(range(len(old))), set(range(len(new)))
    for channel, spans in masks.items():
        ours, theirs = _pair(new, channel), _pair(old, channel)
        played = [span.played([old[on].tick for on in theirs.pairs]) for span in spans]
        kept_old -= _free(old, theirs, channel, spans, played, theirs.unclear)
        kept_new -= _free(new, ours, channel, spans, played, theirs.unclear)
        if extra := ours.unclear - theirs.unclear:
            problems.append(f"channel {channel}: notes without a note-off on pitches {sorted(extra)}")
        stood = {(old[on][:2], old[off].tick) for on, off in theirs.pairs.items() if off is not None}
        problems += _check_new_notes(new, ours, channel, spans, theirs.unclear, stood)
        problems += _check_controls(old, new, channel, played)
        problems += _check_unclear(old, new, channel, spans, theirs.unclear)
        for control in (BEND, PEDAL):  # one event at the end of each mask may restore a value
            for _, end in played:
                then = [i for i in kept_new if _stands(new[i], control, channel, end)]
                if len(then) > sum(_stands(old[i], control, channel, end) for i in kept_old):
                    kept_new.discard(min(then))
        if opens and not any(getattr(e.message, "channel", None) == channel for e in old):
            programs = [i for i in kept_new if new[i].data[0] == 0xC0 | channel]
            kept_new -= set(programs[:1])
    left, right = [old[i][:2] for i in sorted(kept_old)], [new[i][:2] for i in sorted(kept_new)]
    if left != right:
        at = next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))
        shown = [str(side[at]) if at < len(side) else "nothing" for side in (left, right)]
        problems.append(f"outside the mask, at kept event {at}: {shown[1]} instead of {shown[0]}")
    return problems


def _stands(event: Event, control: str, channel: int, tick: int) -> bool:
    return event.tick == tick and _control(event) == control and event.message.channel == channel


def _free(
    events: Sequence[Event],
    notes: Notes,
    channel: int,
    spans: Sequence[Span],
    played: Sequence[tuple[int, int]],
    unclear: set[int],
) -> set[int]:
    """Indices of the events that may differ. Of an unclear pitch, any note-off."""
    free = {i for i in notes.stray if _inside((span[:2] for span in spans), events[i].tick)}
    for on, off in notes.pairs.items():
        if _held(spans, events[on].tick):
            free |= {on} if off is None else {on, off}
    for i, event in enumerate(events):
        if getattr(event.message, "channel", None) != channel:
            continue
        if _control(event) and _inside(played, event.tick):
            free.add(i)
        if _is_note(event) and event.message.note in unclear:
            free.discard(i)
            if not _is_onset(event) or _held(spans, event.tick):
                free.add(i)
    return free


def _check_new_notes(
    events: Sequence[Event],
    notes: Notes,
    channel: int,
    spans: Sequence[Span],
    unclear: set[int],
    stood: Collection[object] = (),  # notes of the original and where they end: keyswitches may stay
) -> list[str]:
    problems = []
    until: dict[int, int] = defaultdict(int)
    for on, off in notes.pairs.items():
        onset, pitch = events[on].tick, events[on].message.note
        if pitch in unclear:
            continue
        end = events[off].tick if off is not None else onset
        for span in spans:
            if span.holds(onset) and (events[on][:2], end) not in stood:
                note = f"channel {channel}: the note {pitch} at tick {onset}"
                problems += [f"{note} begins inside another"] if onset < until[pitch] else []
        until[pitch] = max(until[pitch], end)
    return problems


def _check_unclear(
    old: Sequence[Event], new: Sequence[Event], channel: int, spans: Sequence[Span], unclear: set[int]
) -> list[str]:
    """Which note-off belongs to which note is open here, but outside the mask there may be one for each new note."""

    def offs(events: Sequence[Event]) -> Counter[tuple[int, tuple[int, ...]]]:
        mine = (e for e in events if _is_note(e) and e.message.channel == channel and e.message.note in unclear)
        around = [(min(span.first, span.start), span.end + 1) for span in spans]
        return Counter(e[:2] for e in mine if not _is_onset(e) and not _inside(around, e.tick))

    added = offs(new) - offs(old)
    begun = sum(_is_onset(e) and e.message.channel == channel and _held(spans, e.tick) for e in new)
    if sum(added.values()) <= begun:  # new notes may ring over the end of their mask
        return []
    return [f"channel {channel}: note-offs outside the mask that were not there: {list(added)[:5]}"]


def _check_controls(
    old: Sequence[Event], new: Sequence[Event], channel: int, spans: Sequence[tuple[int, int]]
) -> list[str]:
    problems = []
    for control in (BEND, PEDAL):
        for _, end in spans:
            values = [_in_force(events, control, channel, end) for events in (old, new)]
            if values[0] != values[1]:
                problems.append(f"channel {channel}: {control} is {values[1]} instead of {values[0]} at tick {end}")
        inside = [
            Counter(
                event[:2]
                for event in events
                if _control(event) == control and event.message.channel == channel and _inside(spans, event.tick)
            )
            for events in (old, new)
        ]
        added = [e for e in new if e[:2] in inside[1] - inside[0] and _control(e) == control]
        added = [e for e in added if _value(e) != _in_force(old, control, channel, e.tick)]
        played = {e.data for e in old} if control == PEDAL else set()  # new notes may get the pedal of other bars
        if added := [e[:2] for e in added if e.data not in played]:
            problems.append(f"channel {channel}: new {control} events in the mask: {list(added)[:5]}")
    return problems


def _in_force(events: Sequence[Event], control: str, channel: int, tick: int) -> int:
    mine = [e for e in events if _control(e) == control and e.message.channel == channel and e.tick <= tick]
    return _value(mine[-1]) if mine else REST[control]


def _check_new(division: int, body: bytes, masks: dict[int, list[Span]]) -> list[str]:
    """A new chunk: a name, a program, and notes inside the masks."""
    try:
        events = _events(division, body)
    except ValueError as error:
        return [str(error)]
    problems = []
    if not events or events[-1].message.type != "end_of_track":
        problems.append("it has no end-of-track")
    for event in events[:-1]:
        channel = getattr(event.message, "channel", None)
        if _is_note(event) and channel not in masks:
            problems.append(f"a note on channel {channel} at tick {event.tick}, which is not masked")
        elif not _is_note(event) and (event.tick or event.message.type not in ("track_name", "program_change")):
            problems.append(f"{event.message} at tick {event.tick}")
    for channel, spans in masks.items():
        notes = _pair(events, channel)
        problems += _check_new_notes(events, notes, channel, spans, set())
        if notes.unclear or notes.stray:
            problems.append("notes and note-offs do not match")
        if outside := [events[on].tick for on in notes.pairs if not _held(spans, events[on].tick)]:
            problems.append(f"notes outside the mask at ticks {outside[:5]}")
    return problems


def _check_parsers(before: bytes, after: bytes) -> list[str]:
    import symusic

    problems = []
    parsers = {
        "mido": lambda data: mido.MidiFile(file=io.BytesIO(data)),
        "symusic": lambda data: symusic.Score.from_midi(data),
    }
    for name, parse in parsers.items():
        try:
            parse(before)
        except Exception:  # any: what it cannot read before it need not read after
            continue
        try:
            parse(after)
        except Exception as error:
            problems.append(f"{name} cannot read the output: {error!r}")
    return problems


def _mask(text: str) -> Mask:
    chunk, channel, *spans = text.split(":")
    return int(chunk), int(channel), *(int(tick) for span in spans for tick in span.split("-"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("original")
    parser.add_argument("output")
    parser.add_argument("--mask", type=_mask, action="append", required=True, metavar="CHUNK:CHANNEL:START-END")
    parser.add_argument("--new-tracks", type=int, default=0, metavar="N")
    args = parser.parse_args()
    problems = check_fill(args.original, args.output, args.mask, args.new_tracks)
    print("\n".join(problems) or "ok")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
