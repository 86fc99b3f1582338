"""Splices new notes into a MIDI file, and leaves everything else in it as it is.

A chunk without masked cells is copied byte for byte. From a masked chunk only these events are removed:

- the note-ons of the region's cells (`Score.cell_ticks`), and the note-offs that belong to them, wherever they are. Two
  kinds of notes stay, with their events as they are: keyswitches, and notes that the fill has, too;
- note-offs that belong to no note, inside the region's bars;
- pitch bends and sustain pedal inside the region, because they shaped those notes. The values at the region's end are
  restored there, and new notes get the pedal of a bar around them (pedal.py). Three kinds stay: the first return to
  rest of a bend or pedal held from before the region, which belongs to the notes before; those during a note of the
  fill that stays; and all of them if another track on the same channel that is not masked sounds in the region.

For bends and pedal, the region's bars are those that the track plays: they begin with its first note if that comes
before the bar line, and end with the first early note of the bar after.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from operator import itemgetter
from types import MappingProxyType
from typing import NamedTuple

from mido import Message

from midi_rwkv.errors import MidiError, RequestError

from .controls import Span, control_places, outside, played_span, restored, stale
from .keyswitches import keyswitches
from .note_events import remove_notes, settle
from .pedal import Pedalling
from .runs import Run, held, masked_runs
from .score import Note, Region, Score, Track
from .smf import (
    CONTROL_CHANGE,
    DRUM_CHANNEL,
    END,
    END_OF_TRACK,
    MAX_TRACKS,
    META,
    NOTE_ON,
    PITCH_BEND,
    TRACK_NAME,
    Event,
    Layout,
    assemble,
    meta_event,
    read_events,
    read_layout,
    write_track,
)

# Order of events at one tick: new note-offs, restored values, the file's own events in their order, then new note-ons.
ENDS, RESTORED, KEPT, BEGINS = range(4)
Placed = tuple[int, int, Event]  # tick, rank within the tick, event


class _Part(NamedTuple):
    """The changes to one track, in one channel of one chunk."""

    channel: int
    runs: list[Run]
    masked: list[Run]  # the runs in which notes are removed: empty for a new track
    shared: list[bool]  # for each masked run: an unmasked track on this channel sounds in it
    notes: Sequence[Note]
    opening: list[Event]  # the first events of a new track
    switches: frozenset[tuple[int, int]] = frozenset()  # tick and pitch of keyswitches
    cells: Mapping[int, Span] = MappingProxyType({})  # by masked bar, where its notes begin


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

    New notes end at the next onset of their pitch at the latest. One that would begin while a kept note of its pitch
    still sounds is left out.

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
            switches = frozenset((n.onset_ticks, n.pitch) for n in keyswitches(track, score.ticks_per_beat))
            cells = {bar: score.cell_ticks(index, bar) for t, bar in sorted(region.cells) if t == index}
            part = _Part(track.channel, runs[index], runs[index], shared, fills[index], [], switches, cells)
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
        rewritten = _rewrite(events, parts[chunk], score)
        if rewritten is not None:
            chunks[chunk] = write_track(rewritten, tail)
    return assemble(layout, chunks)


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
        if not held(runs, note.onset_ticks):
            cells = [run[2:] for run in runs]
            raise RequestError(f"a new note of {track} begins at tick {note.onset_ticks}, outside its cells {cells}")
        if not (0 <= note.pitch <= 127 and 1 <= note.velocity <= 127 and note.duration_ticks >= 1):
            raise RequestError(f"a new note of {track} is out of range (pitch 0-127, velocity 1-127, 1- ticks): {note}")


def _is_shared(tracks: Sequence[Track], masks: Mapping[int, Sequence[Run]], index: int, run: Run) -> bool:
    """True if a track of another chunk that shares the channel, and is not masked there, sounds in the run."""
    return any(
        note.onset_ticks < run.last_onset
        and note.onset_ticks + note.duration_ticks > run.start
        and not held(masks.get(i, ()), note.onset_ticks)
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
            opening.append(meta_event(0, TRACK_NAME, text))
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


def _rewrite(events: list[Event], parts: Sequence[_Part], score: Score) -> list[Event] | None:
    """A chunk's events with the new notes, or None if nothing changes."""
    gone: set[int] = set()
    added: list[Placed] = []
    for channel in sorted({part.channel for part in parts}):
        stale, new = _rewrite_channel(events, channel, [part for part in parts if part.channel == channel], score)
        gone |= stale
        added += new
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


def _rewrite_channel(
    events: Sequence[Event], channel: int, parts: Sequence[_Part], score: Score
) -> tuple[set[int], list[Placed]]:
    """Indices of the events of one channel to remove, and those to add."""
    masked = [run for part in parts for run in part.masked]
    switches = frozenset(place for part in parts for place in part.switches)
    there = remove_notes(events, channel, masked, switches, (n for p in parts if p.masked for n in p.notes))
    new: list[Note] = []
    added: list[Placed] = []
    for part in parts:
        added += [(event[0], BEGINS, event) for event in part.opening]
        others = Counter(part.notes) - Counter(there.staying) if part.masked else Counter(part.notes)
        new += settle(list(others.elements()), there.busy)
    for note in new:
        on = Message("note_on", channel=channel, note=note.pitch, velocity=note.velocity)
        off = Message("note_off", channel=channel, note=note.pitch, velocity=0)
        end = note.onset_ticks + note.duration_ticks
        added += [(note.onset_ticks, BEGINS, _event(note.onset_ticks, on)), (end, ENDS, _event(end, off))]
    onsets = [event[0] for event in events if event[1] == NOTE_ON | channel and event[2][1]]
    changed = [*there.removed, *(note.onset_ticks for note in new)]
    shared = [flag for part in parts for flag in part.shared]
    unshared = [
        played_span(run, onsets)
        for run, flag in zip(masked, shared, strict=True)
        if not flag and not _stays(run, there.staying, changed)
    ]
    spans, gone = outside(unshared, there.staying), there.gone
    cells = {bar: span for part in parts for bar, span in part.cells.items()}
    for kind in (PITCH_BEND, CONTROL_CHANGE):
        places = control_places(events, kind, channel)
        controls = [events[place] for place in places]
        old = stale(controls, kind, spans)
        instead: list[Event] = []
        if kind == CONTROL_CHANGE and controls:
            kept = [event[0] for i, event in enumerate(controls) if i not in old]
            instead = Pedalling(events, channel, score, cells).of_fill(new, kept, spans)
        gone |= {places[i] for i in old}
        added += [(e[0], RESTORED, e) for e in [*instead, *restored(controls, kind, old, instead, spans)]]
    return gone, added


def _stays(run: Run, staying: Sequence[Note], changed: Sequence[int]) -> bool:
    """Whether the fill of a run is what stands there. changed: onsets of the notes that come or go."""
    return any(run.holds(note.onset_ticks) for note in staying) and not any(map(run.holds, changed))
