"""Writes part of a song by itself: the bars of a region as a MIDI file, a DAWproject, or notes in beats as JSON.

A clip holds every note that begins in the region's cells, new or kept, and begins with the region's first bar. The
tempo, the metre and the programs in force there are at its start. A note that leads into the first bar begins with the
clip.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from .controls import AT_REST, SUSTAIN
from .score import Bar, Note, ProgramChange, Region, Score, Tempo, TimeSignature, Track
from .smf import (
    CONTROL_CHANGE,
    DRUM_CHANNEL,
    NOTE_OFF,
    NOTE_ON,
    PROGRAM_CHANGE,
    SET_TEMPO,
    TIME_SIGNATURE,
    TRACK_NAME,
    Event,
    meta_event,
    read_events,
    read_layout,
    write_file,
)

# How files end in each form.
ENDINGS = {"midi": "mid", "json": "json", "dawproject": "dawproject", "musicxml": "musicxml"}
FIRST, CONTROLS, ENDS, BEGINS = range(4)  # order of events at one tick
USUAL_TEMPO = 500_000  # microseconds per quarter, where a file sets none


def excerpt(score: Score, region: Region) -> Score:
    """The region's tracks and bars as a song of their own, whose tick 0 is the start of the region's first bar."""
    start = score.bar(region.bars[0]).start_ticks
    end = score.bar(region.bars[-1]).end_ticks
    bars = [score.bar(b) for b in range(region.bars[0], region.bars[-1] + 1)]
    changes = [b for a, b in pairwise(bars) if a[2:] != b[2:] or a.end_ticks - a.start_ticks != _length(score, a)]
    tempos = [Tempo(0, round(60e6 / score.tempo_at(start)))]
    tempos += [Tempo(t.tick - start, t.microseconds_per_beat) for t in score.tempos if start < t.tick < end]
    return Score(
        score.ticks_per_beat,
        tuple(_part(score, region, t, (start, end)) for t in region.tracks),
        tuple(TimeSignature(bar.start_ticks - start, *bar[2:]) for bar in (bars[0], *changes)),
        tuple(tempos),
        end_ticks=end - start,
        name=score.name,
    )


def _length(score: Score, bar: Bar) -> int:
    """The ticks of a bar in its metre that is not cut short."""
    return round(score.ticks_per_beat * 4 * bar.numerator / bar.denominator)


def _part(score: Score, region: Region, t: int, span: tuple[int, int]) -> Track:
    track, (start, end) = score.tracks[t], span
    notes = [n for cell in sorted(region.cells) if cell.track == t for n in score.notes_in(*cell)]
    shifted = []
    for n in notes:
        onset, until = max(0, n.onset_ticks - start), n.onset_ticks + n.duration_ticks - start
        shifted.append(n._replace(onset_ticks=onset, duration_ticks=max(1, until - onset)))
    return replace(
        track,
        program=track.program_at(start),
        notes=tuple(sorted(shifted)),
        program_changes=tuple(
            ProgramChange(c.tick - start, c.program) for c in track.program_changes if start < c.tick < end
        ),
    )


@dataclass(frozen=True)
class Form:
    """How a song with a fill is written.

    Attributes:
        name: one of ENDINGS.
        clip: only the region.
        notation: the MusicXML document that the song was read of.
    """

    name: str = "midi"
    clip: bool = False
    notation: bytes | None = None


def in_form(song: bytes, filled: Score, region: Region, *, form: Form) -> bytes:
    """A song with a fill in it, in a form. For `song` and `filled`, see `clip_midi`."""
    if form.name == "json":
        return notes_json(filled, region if form.clip else None)
    if form.name == "musicxml":
        from .midi import read_midi
        from .to_musicxml import converted, in_own_score

        if form.notation is not None:
            return in_own_score(form.notation, song, filled, region, clip=form.clip)
        return converted(excerpt(filled, region) if form.clip else read_midi(song, filled.name))
    song = clip_midi(song, filled, region) if form.clip else song
    if form.name == "dawproject":
        from .dawproject import dawproject

        return dawproject(song, filled.name)
    return song


def clip_midi(song: bytes, score: Score, region: Region) -> bytes:
    """The region as a type 1 MIDI file: tempo and metre in the first chunk, then a chunk for each track.

    Args:
        song: the song with the fill in it, as a file (see `splice`), for pitch bends and pedal in the region.
        score: the same song (`Candidate.score`).
    """
    part = excerpt(score, region)
    start, end = score.bar(region.bars[0]).start_ticks, score.bar(region.bars[-1]).end_ticks
    layout = read_layout(song, score.name)
    head: list[Event] = [meta_event(t.tick, SET_TEMPO, t.microseconds_per_beat.to_bytes(3, "big")) for t in part.tempos]
    for s in part.time_signatures:
        head.append(meta_event(s.tick, TIME_SIGNATURE, bytes([s.numerator, s.denominator.bit_length() - 1, 24, 8])))
    chunks = [sorted(head, key=lambda e: e[0])]
    taken = {track.channel for track in part.tracks}
    for track in part.tracks:
        free = [c for c in range(16) if c != DRUM_CHANNEL and c not in taken] or [0]
        channel = track.channel if track.channel is not None else DRUM_CHANNEL if track.is_drum else free[0]
        taken.add(channel)
        placed = [(FIRST, meta_event(0, TRACK_NAME, track.name.encode(errors="replace")))]
        if not track.is_overridden:  # else the file has another program, which stays in force
            for tick, program in ((0, track.program), *track.program_changes):
                placed.append((FIRST, (tick, PROGRAM_CHANGE | channel, bytes([program]), False)))
        if track.chunk is not None:
            events = read_events(layout, track.chunk)[0]
            placed += [(CONTROLS, e) for e in _controls(events, channel, (start, end))]
        for n in track.notes:
            until = n.onset_ticks + n.duration_ticks
            placed.append((BEGINS, (n.onset_ticks, NOTE_ON | channel, bytes([n.pitch, n.velocity]), False)))
            placed.append((ENDS, (until, NOTE_OFF | channel, bytes([n.pitch, 0]), False)))
        chunks.append([e for _, e in sorted(placed, key=lambda x: (x[1][0], x[0]))])
    return write_file(score.ticks_per_beat, chunks, end - start)


def notes_json(score: Score, region: Region | None = None) -> bytes:
    """A song, or the clip of a region, as JSON. docs/wishes.md has the schema. Times are in quarter notes.

    Args:
        score: the song.
        region: None for all tracks and bars.
    """
    numbers: Sequence[int] = region.tracks if region else range(len(score.tracks))
    first = (region.bars[0] if region else 0) + score.first_bar_number
    if region:
        score = excerpt(score, region)

    def beats(ticks: int) -> float:
        return in_beats(ticks, score.ticks_per_beat)

    tempos = score.tempos if score.tempos and score.tempos[0].tick == 0 else (Tempo(0, USUAL_TEMPO), *score.tempos)
    told: dict[str, Any] = {
        "name": score.name,
        "tempo": [[beats(t.tick), round(t.beats_per_minute, 3)] for t in tempos],
        "metre": [
            [beats(b.start_ticks), f"{b.numerator}/{b.denominator}"]
            for a, b in pairwise([None, *score.bars])
            if b and (a is None or a[2:] != b[2:])
        ],
        "bars": [[first + i, beats(b.start_ticks), beats(b.end_ticks)] for i, b in enumerate(score.bars)],
        "tracks": [
            {
                "number": number + 1,
                "name": track.name,
                "program": track.program,
                "drums": track.is_drum,
                "notes": [note_row(n, score.ticks_per_beat) for n in track.notes],
            }
            for number, track in zip(numbers, score.tracks, strict=True)
        ],
    }
    return json.dumps(told).encode() + b"\n"


def in_beats(ticks: int, ticks_per_beat: int) -> float:
    """Ticks in quarter notes, as JSON has them."""
    return round(ticks / ticks_per_beat, 4)


def note_row(n: Note, ticks_per_beat: int) -> list[float]:
    """A note as JSON has it: onset, pitch, duration and velocity, times in quarter notes."""
    return [in_beats(n.onset_ticks, ticks_per_beat), n.pitch, in_beats(n.duration_ticks, ticks_per_beat), n.velocity]


def _controls(events: Iterable[Event], channel: int, span: tuple[int, int]) -> list[Event]:
    """The pitch bends and the sustain pedal inside a span, from its start, and their values in force there."""
    start, end = span
    found: list[Event] = []
    rest = {kind | channel: payload for kind, payload in AT_REST.items()}
    in_force = dict(rest)
    for tick, status, payload, _ in events:
        if status not in rest or (status == CONTROL_CHANGE | channel and payload[0] != SUSTAIN):
            continue
        if tick <= start:
            in_force[status] = payload
        elif tick < end:
            found.append((tick - start, status, payload, False))
    return [(0, s, payload, False) for s, payload in in_force.items() if payload != rest[s]] + found
