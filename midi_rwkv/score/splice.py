"""Splices new notes into a MIDI file, and leaves everything else in it as it is.

A chunk without masked cells is copied byte for byte. From a masked chunk only these events are removed:

- the note-ons of the region's cells (`Score.cell_ticks`), except keyswitches, and the note-offs that belong to them,
  wherever they are;
- note-offs that belong to no note, inside the region's bars;
- pitch bends and sustain pedal inside the region, because they shaped those notes. The values at the region's end are
  restored there. Two kinds stay: the first return to rest of a bend or pedal held from before the region, which belongs
  to the notes before, and all of them if another track on the same channel that is not masked sounds in the region.

For bends and pedal, the region's bars are those that the track plays: they begin with its first note if that comes
before the bar line, and end with the first early note of the bar after.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from operator import itemgetter
from typing import NamedTuple

from mido import Message

from midi_rwkv.errors import MidiError, RequestError

from .keyswitches import keyswitches
from .score import Note, Region, Score, Track
from .smf import (
    CONTROL_CHANGE,
    DRUM_CHANNEL,
    END,
    END_OF_TRACK,
    MAX_TRACKS,
    META,
    NOTE_OFF,
    NOTE_ON,
    PITCH_BEND,
    TRACK_NAME,
    Event,
    Layout,
    assemble,
    pair_notes,
    read_events,
    read_layout,
    write_length,
    write_track,
)

log = logging.getLogger(__name__)

SUSTAIN = 64  # controller number
BEND_AT_REST, PEDAL_AT_REST = b"\x00\x40", b"\x40\x00"
# Order of events at one tick: new note-offs, restored values, the file's own events in their order, then new note-ons.
ENDS, RESTORED, KEPT, BEGINS = range(4)
Span = tuple[int, int]  # ticks, half-open
Placed = tuple[int, int, Event]  # tick, rank within the tick, event


class Run(NamedTuple):
    """A run of masked bars of one track, in ticks."""

    start: int  # bar lines
    end: int
    first_onset: int  # half-open range in which its notes begin, see `Score.cell_ticks`
    last_onset: int

    def holds(self, onset: int) -> bool:
        """Whether a note that begins at `onset` belongs to these bars."""
        return self.first_onset <= onset < self.last_onset


class _Part(NamedTuple):
    """The changes to one track, in one channel of one chunk."""

    channel: int
    runs: list[Run]
    masked: list[Run]  # the runs in which notes are removed: empty for a new track
    shared: list[bool]  # for each masked run: an unmasked track on this channel sounds in it
    notes: Sequence[Note]
    opening: list[Event]  # the first events of a new track
    staying: frozenset[tuple[int, int]] = frozenset()  # tick and pitch of keyswitches


def splice(
    source: bytes,
    score: Score,
    region: Region,
    fills: Mapping[int, Sequence[Note]],
    *,
    new_tracks: Sequence[Track] = (),
    name: str | None = None,
) -> bytes:
    """The bytes of `source`, from which `score` was read, with the notes of `region` replaced by `fills`.

    New notes are clipped at the end of their run of bars and at the next onset of their pitch. A note that would begin
    while a kept note of its pitch still sounds is left out.

    Args:
        fills: maps each track index of the region to its new notes, in absolute ticks, with onsets in its masked cells
            (see `Score.cell_ticks`). Indices beyond the file's tracks refer to `new_tracks`.
        new_tracks: tracks to add; by default those of `score` without a chunk. Each gets a chunk of its own, or in a
            type 0 file a channel of the only chunk.

    Raises:
        RequestError: score, region and fills do not fit together.
        MidiError: the file has no channel or track left.
    """
    layout = read_layout(source, name or score.name)
    old, new = _parts_of(layout, score, new_tracks)
    _check(region, fills, old, new)
    grown = replace(score, tracks=(*old, *new))
    runs = {track: masked_runs(grown, region, track) for track in region.tracks}
    parts: dict[int, list[_Part]] = defaultdict(list)  # by chunk
    for index, track in enumerate(old):
        if index in runs:
            assert track.chunk is not None
            assert track.channel is not None
            shared = [_is_shared(old, runs, index, run) for run in runs[index]]
            _check_notes(track.name or f"track {index + 1}", fills[index], runs[index])
            staying = frozenset((n.onset_ticks, n.pitch) for n in keyswitches(track, score.ticks_per_beat))
            part = _Part(track.channel, runs[index], runs[index], shared, fills[index], [], staying)
            parts[track.chunk].append(part)
    count = len(layout.tracks)
    for k, (channel, opening) in enumerate(_openings(layout, old, new)):
        index = len(old) + k
        _check_notes(new[k].name or f"track {index + 1}", fills[index], runs[index])
        chunk = 0 if layout.format == 0 else count + k
        parts[chunk].append(_Part(channel, runs[index], [], [], fills[index], opening))

    chunks = {}
    for chunk in sorted(parts):
        events, tail = read_events(layout, chunk) if chunk < count else ([END], b"")
        rewritten = _rewrite(events, parts[chunk])
        if rewritten is not None:
            chunks[chunk] = write_track(rewritten, tail)
    return assemble(layout, chunks)


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


def check_new_tracks(source: bytes, score: Score, new_tracks: Sequence[Track] = ()) -> None:
    """Raises MidiError if the file has no channel or track left for the new tracks. Call this before long work."""
    layout = read_layout(source, score.name)
    list(_openings(layout, *_parts_of(layout, score, new_tracks)))


def _parts_of(layout: Layout, score: Score, new_tracks: Sequence[Track]) -> tuple[list[Track], list[Track]]:
    """The tracks that the file has, and those to be added."""
    old = [track for track in score.tracks if track.chunk is not None]
    new = list(new_tracks) or [track for track in score.tracks if track.chunk is None]
    if layout.ticks_per_beat != score.ticks_per_beat or any((t.chunk or 0) >= len(layout.tracks) for t in old):
        raise RequestError(f"the score does not belong to {layout.name}; read it from that file")
    if layout.format == 1 and len(layout.tracks) + len(new) > MAX_TRACKS:
        raise MidiError(f"{layout.name} has {len(layout.tracks)} tracks of at most {MAX_TRACKS}; remove one first")
    return old, new


def _check(region: Region, fills: Mapping[int, Sequence[Note]], old: Sequence[Track], new: Sequence[Track]) -> None:
    count = len(old) + len(new)
    if region.tracks[0] < 0 or region.tracks[-1] >= count or region.bars[0] < 0:
        raise RequestError(f"the region has a track outside 0-{count - 1} or a bar below 0; name cells of the score")
    if set(fills) != set(region.tracks):
        raise RequestError(f"fills are for tracks {sorted(fills)}, the region has {list(region.tracks)}; give one each")
    if missing := set(range(len(old), count)) - set(region.tracks):
        raise RequestError(f"the region does not have the new tracks {sorted(missing)}; mask bars of each")


def _check_notes(track: str, notes: Sequence[Note], runs: Sequence[Run]) -> None:
    for note in notes:
        if not _held(runs, note.onset_ticks):
            cells = [run[2:] for run in runs]
            raise RequestError(f"a new note of {track} begins at tick {note.onset_ticks}, outside its cells {cells}")
        if not (0 <= note.pitch <= 127 and 1 <= note.velocity <= 127 and note.duration_ticks >= 1):
            raise RequestError(f"a new note of {track} is out of range (pitch 0-127, velocity 1-127, 1- ticks): {note}")


def _inside(spans: Sequence[Span], tick: int) -> bool:
    return any(lo <= tick < hi for lo, hi in spans)


def _held(runs: Sequence[Run], onset: int) -> bool:
    return any(run.holds(onset) for run in runs)


def _is_shared(tracks: Sequence[Track], masks: Mapping[int, Sequence[Run]], index: int, run: Run) -> bool:
    """True if a track of another chunk that shares the channel, and is not masked there, sounds in the run."""
    return any(
        note.onset_ticks < run.last_onset
        and note.onset_ticks + note.duration_ticks > run.start
        and not _held(masks.get(i, ()), note.onset_ticks)
        for i, other in enumerate(tracks)
        if other.channel == tracks[index].channel and other.chunk != tracks[index].chunk
        for note in other.notes
    )


def _openings(layout: Layout, old: Sequence[Track], new: Sequence[Track]) -> Iterator[tuple[int, list[Event]]]:
    """A channel and the opening events for each new track."""
    if not new:
        return
    sounding = {track.channel for track in old}
    touched = {e[1] & 0x0F for chunk in range(len(layout.tracks)) for e in read_events(layout, chunk)[0] if e[1] < 0xF0}
    for track in new:
        alike = [t.channel for t in old if t.channel is not None and _plays_only(t, track.program)]
        if track.is_drum:
            channel = DRUM_CHANNEL
        else:
            free = [c for c in range(16) if c != DRUM_CHANNEL and c not in sounding] or alike
            if not free:
                raise MidiError(
                    f"{layout.name} has no free channel for a new track: all 15 are in use by other programs; "
                    "give it a program that the song has, or remove a track"
                )
            channel = min(free, key=lambda c: (c in touched, c))
        opening = []
        if layout.format == 1:
            text = track.name.encode(errors="replace")
            opening.append((0, META, bytes([TRACK_NAME]) + write_length(len(text)) + text, False))
        if channel not in sounding:
            opening.append(_event(0, Message("program_change", channel=channel, program=track.program)))
        sounding.add(channel)
        yield channel, opening


def _plays_only(track: Track, program: int) -> bool:
    """True if the file itself gives the track this program throughout."""
    return track.programs == (program,) and not track.is_drum and not track.is_overridden


def _event(tick: int, message: Message) -> Event:
    data = bytes(message.bytes())
    return tick, data[0], data[1:], False


def _rewrite(events: list[Event], parts: Sequence[_Part]) -> list[Event] | None:
    """A chunk's events with the new notes, or None if nothing changes."""
    gone: set[int] = set()
    added: list[Placed] = []
    for channel in sorted({part.channel for part in parts}):
        group = [part for part in parts if part.channel == channel]
        masked = [run for part in group for run in part.masked]
        shared = [flag for part in group for flag in part.shared]
        staying = frozenset(place for part in group for place in part.staying)
        stale, busy = _part_notes(events, channel, masked, [run for part in group for run in part.runs], staying)
        gone |= stale
        onsets = [event[0] for event in events if event[1] == NOTE_ON | channel and event[2][1]]
        for part in group:
            added += [(event[0], BEGINS, event) for event in part.opening]
            for note in settle(part.notes, part.runs, busy):
                on = Message("note_on", channel=channel, note=note.pitch, velocity=note.velocity)
                off = Message("note_off", channel=channel, note=note.pitch, velocity=0)
                end = note.onset_ticks + note.duration_ticks
                added.append((note.onset_ticks, BEGINS, _event(note.onset_ticks, on)))
                added.append((end, ENDS, _event(end, off)))
        unshared = [_played_span(run, onsets) for run, flag in zip(masked, shared, strict=True) if not flag]
        for kind in (PITCH_BEND, CONTROL_CHANGE):
            stale, restored = _part_controls(events, kind, channel, unshared)
            gone |= stale
            added += restored
    if not gone and not added:
        return None
    ended = bool(events) and events[-1][1] == META and events[-1][2][0] == END_OF_TRACK
    body = events[:-1] if ended else events
    placed = [(event[0], KEPT, event) for i, event in enumerate(body) if i not in gone]
    merged = [event for _, _, event in sorted(placed + added, key=itemgetter(0, 1))]
    if ended:
        tick, status, payload, implied = events[-1]
        merged.append((max(tick, merged[-1][0]) if merged else tick, status, payload, implied))
    return merged


def _part_notes(
    events: Sequence[Event],
    channel: int,
    masked: Sequence[Run],
    runs: Sequence[Run],
    staying: Collection[tuple[int, int]],
) -> tuple[set[int], dict[int, list[Span]]]:
    """Indices of the note events to remove, and for each pitch the spans in which kept notes sound in `runs`."""
    places_of: dict[int, list[int]] = defaultdict(list)
    for place, (_, status, payload, _) in enumerate(events):
        if status in (NOTE_ON | channel, NOTE_OFF | channel):
            places_of[payload[0]].append(place)
    gone: set[int] = set()
    busy: dict[int, list[Span]] = defaultdict(list)
    for pitch, places in places_of.items():
        velocities = [_velocity(events[place]) for place in places]
        pairs, complete = pair_notes(velocities)
        begun_at = {end: on for on, end in pairs if end is not None and not velocities[end]}
        kept_sounds = False
        for i, place in enumerate(places):
            onset = events[places[begun_at.get(i, i)]][0]
            if velocities[i] or i in begun_at:
                masks = _held(masked, onset) and (onset, pitch) not in staying
            else:  # a note-off without a note counts at its own tick
                masks = any(run.start <= onset < run.end for run in masked)
            if velocities[i]:
                kept_sounds |= not masks
            elif not complete and kept_sounds:
                masks = kept_sounds = False  # the only note-off that can end a kept note without its own
            if masks:
                gone.add(place)
        kept = [place for place in places if place not in gone]
        velocities = [_velocity(events[place]) for place in kept]
        for on, end in pair_notes(velocities)[0]:
            lo = events[kept[on]][0]
            hi = lo + 1 if end is None or velocities[end] else events[kept[end]][0]
            if any(lo < run.end and hi > run.first_onset for run in runs):
                busy[pitch].append((lo, hi))
    return gone, busy


def _velocity(event: Event) -> int:
    return event[2][1] if event[1] & 0xF0 == NOTE_ON else 0


def settle(notes: Sequence[Note], runs: Sequence[Run], busy: dict[int, list[Span]]) -> list[Note]:
    """The new notes, sorted and clipped so that none overlaps the end of its run, another new note or a note in `busy`.

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
        limits = [run.end for run in runs if run.holds(onset)] + [lo for lo, _ in busy[pitch] if lo > onset]
        last[pitch] = len(settled)
        settled.append(note._replace(duration_ticks=min(note.duration_ticks, min(limits) - onset)))
    if len(settled) < len(notes):
        log.info("%d of %d new notes were left out: their pitch sounds already", len(notes) - len(settled), len(notes))
    for note in settled:
        busy[note.pitch].append((note.onset_ticks, note.onset_ticks + note.duration_ticks))
    return settled


def _played_span(run: Run, onsets: Sequence[int]) -> Span:
    """The run's bars as the channel plays them: from its first note, if that is early, to the first early note after.

    Args:
        onsets: of all notes of the channel, ascending.
    """

    first, last = bisect_left(onsets, run.first_onset), bisect_left(onsets, run.last_onset)
    return min([run.start, *onsets[first : first + 1]]), min([run.end, *onsets[last : last + 1]])


def _part_controls(
    events: Sequence[Event], kind: int, channel: int, spans: Sequence[Span]
) -> tuple[set[int], list[Placed]]:
    """Indices of the pitch bends (or sustain pedal events) to remove, and the events that restore their values."""
    bend = kind == PITCH_BEND
    gone: set[int] = set()
    restored: list[Placed] = []
    in_file = in_force = BEND_AT_REST if bend else PEDAL_AT_REST
    waiting = list(reversed(spans))

    def leave(until: int | None) -> None:
        nonlocal in_force
        while waiting and (until is None or waiting[-1][1] <= until):
            _, end = waiting.pop()
            if in_force != in_file:
                restored.append((end, RESTORED, (end, kind | channel, in_file, False)))
                in_force = in_file

    for place, (tick, status, payload, _) in enumerate(events):
        if status != kind | channel or not (bend or payload[0] == SUSTAIN):
            continue
        leave(tick)
        in_file = payload
        if not _inside(spans, tick) or (_at_rest(payload, kind) and not _at_rest(in_force, kind)):
            in_force = payload
        else:
            gone.add(place)
    leave(None)
    return gone, restored


def _at_rest(payload: bytes, kind: int) -> bool:
    return payload == BEND_AT_REST if kind == PITCH_BEND else payload[1] < 64
