"""Reads and writes MIDI files: `read_midi` makes a Score, `write_midi` puts new notes into the same file.

A MusicXML document is read as the MIDI file of what it plays (source.py).

`smf.py` parses the bytes, mido interprets the messages, and `splice.py` inserts the new notes. A file that cannot be
read or written raises a MidiError with a one-line message.
"""

from __future__ import annotations

import os
import stat
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from pathlib import Path
from typing import BinaryIO

import numpy as np
from mido.midifiles.meta import build_meta_message

from midi_rwkv.errors import MidiError
from midi_rwkv.files import FileChangedError, check_writable, shown, whole_files

from .score import (
    MAX_BARS,
    Note,
    ProgramChange,
    Region,
    Score,
    Tempo,
    TimeSignature,
    Track,
    bar_grid,
    bar_lines,
    usual_lead,
)
from .smf import (
    DRUM_CHANNEL,
    INSTRUMENT_NAME,
    META,
    NOTE_OFF,
    NOTE_ON,
    PROGRAM_CHANGE,
    SET_TEMPO,
    TIME_SIGNATURE,
    TRACK_NAME,
    Layout,
    decoded,
    digest_of,
    meta_payload,
    pair_notes,
    read_events,
    read_layout,
)
from .source import Source, load_midi, reason
from .splice import splice

__all__ = ["Source", "check_output", "load_midi", "read_midi", "write_candidates", "write_midi"]

MAX_NOTES = 1_000_000
MAX_PROGRAM_CHANGES = 1000  # per track; later ones are ignored
MAX_TICKS = 2**31 - 1
MAX_DENOMINATOR = 128  # of a time signature


def read_midi(
    source: str | Path | bytes | BinaryIO | Source, name: str | None = None, *, allow_empty: bool = False
) -> Score:
    """Reads a type 0 or type 1 file, or a MusicXML document.

    Each channel that has notes in a track chunk becomes one Track, in file order.

    The song ends with its last note, channel message, tempo or time signature, wherever its end-of-track events are. A
    note without a note-off ends at the next note of its pitch, or else with its track, but at most four beats after the
    song's last event.

    Args:
        source: a path, the file's bytes, or a binary file.
        name: what to call the song in messages and in `Score.name` (default: the file's name).
        allow_empty: accept a file without notes.

    Raises:
        MidiError: the file cannot be read, or has no notes.
    """
    data, name, *_ = load_midi(source, name)
    layout = read_layout(data, name)
    reading = _Reading(layout)
    for chunk in range(len(layout.tracks)):
        reading.add_chunk(chunk)
    tracks = reading.tracks()
    if not tracks and not allow_empty:
        raise MidiError(f"{name} has no notes; at least 1 is needed; choose a file with music in it")
    signatures = tuple(reading.signatures[tick] for tick in sorted(reading.signatures))
    end = max(reading.last_tick, signatures[-1].tick + 1 if signatures else 0)
    if end > MAX_TICKS:
        raise MidiError(f"{name} ends at tick {end:,}; at most {MAX_TICKS:,} are read; shorten it")
    try:
        lines = bar_lines(bar_grid(signatures, layout.ticks_per_beat, end))
        return Score(
            layout.ticks_per_beat,
            tuple(_with_lead(track, lines, layout.ticks_per_beat) for track in tracks),
            signatures,
            tuple(reading.tempos[tick] for tick in sorted(reading.tempos)),
            end_ticks=end,
            name=name,
            digest=digest_of(data),
        )
    except ValueError:
        raise MidiError(f"{name} has more than {MAX_BARS:,} bars; at most these are read; shorten it") from None


def _with_lead(track: Track, lines: np.ndarray, ticks_per_beat: int) -> Track:
    onsets = np.array([note.onset_ticks for note in track.notes], np.int64)
    return replace(track, usual_lead=usual_lead(onsets, lines, ticks_per_beat))


def write_midi(
    path: str | Path,
    source: str | Path | bytes | Source,
    score: Score,
    region: Region,
    *,
    fills: Mapping[int, Sequence[Note]],
    overwrite: bool = False,
) -> None:
    """Writes the file `source` with the notes of `region` replaced by `fills` (see `splice`).

    The file appears complete or not at all (see `whole_files`).

    Raises:
        MidiError: the output exists and `overwrite` is False, its folder cannot be written to, or `source` is no longer
            the file from which the score was read.
    """
    write_candidates([path], source, score, region, candidates=[fills], overwrite=overwrite)


def write_candidates(  # noqa: PLR0913 - all but four have a default
    paths: Sequence[str | Path],
    source: str | Path | bytes | Source,
    score: Score,
    region: Region,
    *,
    candidates: Sequence[Mapping[int, Sequence[Note]]],
    overwrite: bool = False,
    form: Callable[[bytes, int], bytes] = lambda song, _: song,
) -> None:
    """Writes one file per fill as `write_midi` does: all of them or, after an error or Ctrl-C, none.

    The file from which `source` was read is replaced only if it still holds what was read. `form` makes what is written
    of a song with a fill, and of the fill's index.
    """
    for path in paths:
        check_output(path, overwrite=overwrite)
    loaded = load_midi(source, score.name)
    data, name, origin, _ = loaded
    if score.digest and score.digest != digest_of(data):
        raise MidiError(f"{name} was changed since the score was read of it; nothing was written; read it again")
    songs = [form(splice(data, score, region, fills, name=name), i) for i, fills in enumerate(candidates)]
    targets = [Path(os.path.realpath(path)) for path in paths]
    try:
        own = [t for t in targets if origin is not None and t.exists() and os.path.samefile(t, origin)]
        with whole_files(targets, overwrite=overwrite, unchanged=dict.fromkeys(own, loaded.file)) as partials:
            for partial, song in zip(partials, songs, strict=True):
                partial.write_bytes(song)
    except (FileExistsError, FileChangedError) as error:
        raise MidiError(str(error)) from None
    except OSError as error:
        raise MidiError(
            f"cannot write {shown(targets[0])}: {reason(error)}; nothing was written; choose another folder"
        ) from None


def check_output(path: str | Path, *, overwrite: bool = False) -> None:
    """Raises MidiError unless a file can be written to `path`. Call this before long work."""
    try:
        target = os.path.realpath(path)
        folder = os.path.dirname(target)
        if os.path.isdir(target):
            raise MidiError(f"cannot write {shown(path)}: it is a folder; name a file in it")
        if os.path.lexists(target) and not stat.S_ISREG(os.stat(target).st_mode):
            raise MidiError(f"cannot write {shown(path)}: it is not a plain file; choose another output")
        if os.path.exists(target) and not overwrite:
            raise MidiError(f"{shown(path)} exists already; choose another output or allow overwriting (--overwrite)")
        if not os.path.isdir(folder):
            raise MidiError(
                f"cannot write {shown(path)}: there is no folder {shown(folder)}; create it or choose another"
            )
        check_writable(Path(target))
    except MidiError:
        raise
    except (OSError, ValueError) as error:
        raise MidiError(f"cannot write {shown(path)}: {reason(error)}; choose another output") from None


@dataclass
class _Part:
    """The notes and program changes of one channel in one chunk."""

    pitches: dict[int, tuple[list[int], list[int]]] = field(default_factory=dict)  # ticks, velocities (0: note-off)
    first_tick: int | None = None  # of the first note
    programs: list[tuple[int, int]] = field(default_factory=list)  # the chunk's own program changes, (tick, program)
    programs_before: int = 0  # how many of these come before the first note


class _Reading:
    """Collects a file's events, chunk by chunk."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.parts: dict[tuple[int, int], _Part] = {}  # by chunk and channel
        self.names: dict[tuple[int, int], str] = {}  # by chunk and kind of name
        self.ends: list[int] = []  # tick of each chunk's last event
        self.programs: dict[int, list[tuple[int, int]]] = defaultdict(list)  # (tick, program) by channel, all chunks
        self.shared: dict[int, list[ProgramChange]] = {}  # the changes of `programs` by channel, made when needed
        self.signatures: dict[int, TimeSignature] = {}
        self.tempos: dict[int, Tempo] = {}
        self.last_tick = 0
        self.note_count = 0

    def add_chunk(self, chunk: int) -> None:
        events, _ = read_events(self.layout, chunk)
        self.ends.append(events[-1][0] if events else 0)
        parts = [_Part() for _ in range(16)]
        last = notes = 0
        for tick, status, payload, _ in events:
            if status == META:
                self._add_meta(chunk, tick, payload)
                continue
            if status >= 0xF0:
                continue
            last = tick
            kind, channel = status & 0xF0, status & 0x0F
            if kind in (NOTE_ON, NOTE_OFF):
                part = parts[channel]
                pitch, velocity = payload
                if kind == NOTE_OFF:
                    velocity = 0
                ticks, velocities = part.pitches.get(pitch) or part.pitches.setdefault(pitch, ([], []))
                ticks.append(tick)
                velocities.append(velocity)
                if velocity:
                    notes += 1
                    if part.first_tick is None:
                        part.first_tick, part.programs_before = tick, len(part.programs)
            elif kind == PROGRAM_CHANGE:
                parts[channel].programs.append((tick, payload[0]))
                self.programs[channel].append((tick, payload[0]))
        self.last_tick = max(self.last_tick, last)
        self.note_count += notes
        if self.note_count > MAX_NOTES:
            raise MidiError(f"{self.layout.name} has more than {MAX_NOTES:,} notes; split it into shorter files")
        self.parts.update(((chunk, c), part) for c, part in enumerate(parts) if part.first_tick is not None)

    def _add_meta(self, chunk: int, tick: int, payload: bytes) -> None:
        kind = payload[0]
        if kind not in (TRACK_NAME, INSTRUMENT_NAME, SET_TEMPO, TIME_SIGNATURE):
            return
        data, name = meta_payload(payload), self.layout.name
        if kind == SET_TEMPO:
            tempo = build_meta_message(kind, data).tempo if len(data) == 3 else 0
            if tempo == 0:
                raise MidiError(
                    f"{name} has a tempo of {int.from_bytes(data[:3], 'big')} microseconds a beat ({len(data)} bytes) "
                    f"at tick {tick}; 1 to 16777215 (3 bytes) are allowed; correct it in another program"
                )
            self.tempos[tick] = Tempo(tick, tempo)
            self.last_tick = max(self.last_tick, tick)
        elif kind == TIME_SIGNATURE:
            numerator, power = (data + b"\xff\xff")[:2]
            if numerator == 0 or 1 << power > MAX_DENOMINATOR:
                raise MidiError(
                    f"{name} has a time signature of {numerator}/2^{power} at tick {tick}; 1 to 255 over 2^0 to "
                    f"{MAX_DENOMINATOR} is allowed; correct it in another program"
                )
            self.signatures[tick] = TimeSignature(tick, numerator, 1 << power)
        else:
            self.names.setdefault((chunk, kind), decoded(data))

    def tracks(self) -> tuple[Track, ...]:
        """The tracks: every channel with notes in every chunk. Call this after all chunks have been added."""
        sharing = Counter(chunk for chunk, _ in self.parts)
        for changes in self.programs.values():
            changes.sort(key=itemgetter(0))  # stable, so that of several at one tick the last in the file is in force
        tracks = []
        for (chunk, channel), part in self.parts.items():
            name = self.names.get((chunk, TRACK_NAME)) or self.names.get((chunk, INSTRUMENT_NAME)) or ""
            if name and sharing[chunk] > 1:
                name += f" ch {channel + 1}"
            drums = channel == DRUM_CHANNEL
            program, later = self._programs(part, channel)
            notes = self._notes(chunk, part)
            tracks.append(
                Track(
                    name,
                    program,
                    notes,
                    is_drum=drums,
                    chunk=chunk,
                    channel=channel,
                    program_changes=() if drums else later,
                )
            )
        return tuple(tracks)

    def _programs(self, part: _Part, channel: int) -> tuple[int, tuple[ProgramChange, ...]]:
        """The program at the first note, and the later changes to others.

        They are the chunk's own if it has any before the first note, else those of the channel in any chunk, else 0.
        """
        before = part.programs_before
        if before:
            program = part.programs[before - 1][1]
            changes = _changes(part.programs[before:], program)
        else:
            if channel not in self.shared:
                self.shared[channel] = _changes(self.programs[channel], 0)
            changes = self.shared[channel]
            before = bisect_right(changes, part.first_tick or 0, key=itemgetter(0))
            program = changes[before - 1].program if before else 0
            changes = changes[before:]
        return program, tuple(changes[:MAX_PROGRAM_CHANGES])

    def _notes(self, chunk: int, part: _Part) -> tuple[Note, ...]:
        silence = min(self.ends[chunk], self.last_tick + 4 * self.layout.ticks_per_beat)
        notes = []
        for pitch, (ticks, velocities) in part.pitches.items():
            for on, off in pair_notes(velocities)[0]:
                onset = ticks[on]
                end = silence if off is None else ticks[off]
                notes.append(Note(onset, pitch, max(1, end - onset), velocities[on]))
        notes.sort()
        return tuple(notes)


def _changes(said: Sequence[tuple[int, int]], program: int) -> list[ProgramChange]:
    """Program changes (tick, program) that follow `program`, without those that change nothing."""
    changes: list[ProgramChange] = []
    for tick, changed in said:
        if changes and changes[-1].tick == tick:  # of several at one tick, the last is in force
            changes.pop()
        if changed != (changes[-1].program if changes else program):
            changes.append(ProgramChange(tick, changed))
    return changes
