"""Standard MIDI File bytes: chunks, raw events, and which note-off ends which note-on.

This module interprets nothing and loses nothing: an event that is read and written again keeps its data, and chunks are
parsed only on request. `midi.py` makes a Score from the events, and `splice.py` inserts new notes among them. Ticks are
absolute, from the start of the file.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from midi_rwkv.errors import MidiError

MAX_FILE_BYTES = 20_000_000
MAX_TRACKS = 256  # track chunks
MAX_EVENTS = 2_500_000
MAX_DELTA_TICKS = 0x0FFFFFFF  # four bytes of seven bits

DRUM_CHANNEL = 9
META = 0xFF
TRACK_NAME, INSTRUMENT_NAME, END_OF_TRACK, SET_TEMPO, TIME_SIGNATURE = 0x03, 0x04, 0x2F, 0x51, 0x58  # meta types
TEXT, MARKER, CUE = 0x01, 0x06, 0x07
NOTE_OFF, NOTE_ON, CONTROL_CHANGE, PROGRAM_CHANGE, PITCH_BEND = 0x80, 0x90, 0xB0, 0xC0, 0xE0

# Tick, status byte, all bytes after the status byte, and whether the file omits the status byte (running status). This
# is a plain tuple because a song has a hundred thousand of them.
Event = tuple[int, int, bytes, bool]
END: Event = (0, META, b"\x2f\x00", False)

# Data bytes after a status byte. 0xF4, 0xF5, 0xF9 and 0xFD are undefined; 0xF0, 0xF7 and 0xFF carry their length.
_DATA_BYTES = {status: 1 if status & 0xF0 in (0xC0, 0xD0) else 2 for status in range(0x80, 0xF0)}
_DATA_BYTES |= {0xF1: 1, 0xF2: 2, 0xF3: 1, 0xF6: 0, 0xF8: 0, 0xFA: 0, 0xFB: 0, 0xFC: 0, 0xFE: 0}


class Layout(NamedTuple):
    """Where the chunks of a file are."""

    data: bytes
    name: str  # for messages
    format: int  # 0 or 1
    ticks_per_beat: int
    tracks: tuple[tuple[int, int], ...]  # span of each track chunk's body in `data`; its 8-byte header precedes it


def read_layout(data: bytes, name: str = "the file") -> Layout:
    """Finds the track chunks. Unknown chunks, and any bytes after the last track, are skipped.

    Raises:
        MidiError: the data is not a complete type 0 or type 1 file with ticks per quarter note.
    """
    if len(data) > MAX_FILE_BYTES:
        raise MidiError(
            f"{name} is too big: {len(data):,} bytes, at most {MAX_FILE_BYTES:,} are read; split it into shorter files"
        )
    if data[:4] == b"RIFF" and data[8:12] == b"RMID":
        raise MidiError(f"{name} is a RIFF-wrapped MIDI file (.rmi); save it as a Standard MIDI File (.mid)")
    if data[:4] != b"MThd":
        found = "it is empty" if not data else f"it starts with {data[:4]!r} instead of b'MThd'"
        raise MidiError(f"{name} is not a MIDI file: {found}; export a Standard MIDI File (.mid)")
    header = int.from_bytes(data[4:8], "big")
    if len(data) < 14 or 8 + header > len(data):
        raise MidiError(f"{name} is truncated: it ends inside its header, after {len(data)} bytes; get a complete copy")
    if header < 6:
        raise MidiError(f"{name} is damaged: its header claims {header} bytes, at least 6 are needed; export it again")
    kind, count, division = (int.from_bytes(data[i : i + 2], "big") for i in (8, 10, 12))
    if kind > 1:
        raise MidiError(f"{name} is a type {kind} file; types 0 and 1 are read; export it as type 1")
    if count == 0:
        raise MidiError(f"{name} has zero tracks; at least 1 is needed; export it again")
    if count > MAX_TRACKS:
        raise MidiError(f"{name} has {count:,} tracks; at most {MAX_TRACKS} are read; leave some out")
    if division & 0x8000:
        frames = 256 - (division >> 8)
        raise MidiError(
            f"{name} counts time in SMPTE frames ({frames} a second), not in beats; export it with ticks per beat"
        )
    if division == 0:
        raise MidiError(f"{name} has 0 ticks per quarter note; 1 to 32767 are allowed; export it again")
    return Layout(data, name, kind, division, _track_spans(data, name, 8 + header, count))


def _track_spans(data: bytes, name: str, pos: int, count: int) -> tuple[tuple[int, int], ...]:
    spans: list[tuple[int, int]] = []
    while len(spans) < count:
        body = pos + 8
        end = body + int.from_bytes(data[pos + 4 : body], "big")
        if body > len(data) or end > len(data):
            raise MidiError(
                f"{name} is truncated: its header announces {count} tracks, {len(spans)} are whole; get a complete copy"
            )
        if data[pos : pos + 4] == b"MTrk":
            spans.append((body, end))
        pos = end
    return tuple(spans)


def read_events(layout: Layout, chunk: int) -> tuple[list[Event], bytes]:
    """The events of one track chunk up to its end-of-track event, and the bytes after that inside the chunk.

    Running status continues after meta and system exclusive events, as most writers that use it expect.

    Raises:
        MidiError: the bytes are not events.
    """
    data = layout.data
    pos, end = layout.tracks[chunk]
    tick = running = 0
    events: list[Event] = []
    append = events.append
    try:
        while pos < end:
            delta = data[pos]
            pos += 1
            if delta > 0x7F:
                delta, pos = _read_length(data, pos - 1)
            tick += delta
            status = data[pos]
            implied = status < 0x80
            if implied:
                status = running
            else:
                pos += 1
            start = pos
            if status == META:
                length, pos = _read_length(data, pos + 1)
                pos += length
            elif status in (0xF0, 0xF7):
                length, pos = _read_length(data, pos)
                pos += length
            else:
                pos += _DATA_BYTES[status]
                if status < 0xF0:
                    running = status
            payload = data[start:pos]
            if pos > end or (status < 0xF0 and not payload.isascii()):
                raise ValueError
            append((tick, status, payload, implied))
            if status == META and payload[0] == END_OF_TRACK:
                break
            if len(events) > MAX_EVENTS:
                break
    except (IndexError, KeyError, ValueError):
        where = pos - layout.tracks[chunk][0]
        raise MidiError(
            f"{layout.name} is damaged: track chunk {chunk + 1} has no valid event near its byte {where}; "
            "open it in another program and export it again"
        ) from None
    if len(events) > MAX_EVENTS:
        raise MidiError(f"{layout.name} has more than {MAX_EVENTS:,} events; split it into shorter files")
    return events, data[pos:end]


def digest_of(data: bytes) -> str:
    """A digest that identifies a file by its content."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _read_length(data: bytes, pos: int) -> tuple[int, int]:
    """A variable-length number of at most four bytes, and the position after it."""
    value = 0
    for i in range(pos, pos + 4):
        value = value << 7 | data[i] & 0x7F
        if data[i] < 0x80:
            return value, i + 1
    raise ValueError("a variable-length number has more than four bytes")


def meta_payload(payload: bytes) -> bytes:
    """The data of a meta event, without its type and length."""
    length, pos = _read_length(payload, 1)
    return payload[pos : pos + length]


def decoded(data: bytes, most: int = 100) -> str:
    """At most so many characters of a meta event's text, on one line. MIDI files do not declare their encoding."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:most]


def write_length(value: int) -> bytes:
    """Encodes a variable-length number. Raises MidiError if it needs more than four bytes."""
    if not 0 <= value <= MAX_DELTA_TICKS:
        raise MidiError(f"two events may stand 0 to {MAX_DELTA_TICKS:,} ticks apart, not {value:,}; fill the gap first")
    out = bytearray([value & 0x7F])
    while value := value >> 7:
        out.append(value & 0x7F | 0x80)
    out.reverse()
    return bytes(out)


def write_track(events: Iterable[Event], tail: bytes = b"") -> bytes:
    """A whole track chunk with its header. Status bytes that the file omitted stay omitted if that is still valid."""
    body = bytearray()
    tick = last = 0
    for at, status, payload, implied in events:
        body += write_length(at - tick)
        if not (implied and status == last):
            body.append(status)
        body += payload
        tick, last = at, status if status < 0xF0 else 0
    body += tail
    return b"MTrk" + len(body).to_bytes(4, "big") + bytes(body)


def meta_event(tick: int, kind: int, data: bytes) -> Event:
    """A meta event of a type."""
    return tick, META, bytes([kind]) + write_length(len(data)) + data, False


def write_file(ticks_per_beat: int, chunks: Iterable[Sequence[Event]], end: int) -> bytes:
    """A type 1 file of chunks of events in order. Each chunk ends at `end`, or with its last event after that."""
    tracks = [write_track([*c, (max([end, *(e[0] for e in c)]), META, b"\x2f\x00", False)]) for c in chunks]
    header = b"MThd" + b"".join(v.to_bytes(n, "big") for v, n in ((6, 4), (1, 2), (len(tracks), 2)))
    return header + ticks_per_beat.to_bytes(2, "big") + b"".join(tracks)


def assemble(layout: Layout, chunks: Mapping[int, bytes]) -> bytes:
    """The file with some of its chunks replaced; new chunks are appended."""
    data, count = layout.data, len(layout.tracks)
    total = max(count, max(chunks, default=0) + 1)
    pieces = [data[:10], total.to_bytes(2, "big")]
    pos = 12
    for chunk in sorted(chunks):
        body, end = layout.tracks[chunk] if chunk < count else (layout.tracks[-1][1] + 8, layout.tracks[-1][1])
        pieces += [data[pos : body - 8], chunks[chunk]]
        pos = end
    pieces.append(data[pos:])
    return b"".join(pieces)


def pair_notes(velocities: Sequence[int]) -> tuple[list[tuple[int, int | None]], bool]:
    """Pairs each note with the event that ends it, for one pitch on one channel of one chunk.

    If every note has a note-off, the first note-off ends the note that began first. If one is missing, this would give
    every later note the note-off of its successor, so instead each note ends at the next event, whether note-off or
    note-on, and the last note may have no end (None).

    Args:
        velocities: of the note events in file order, 0 for a note-off.

    Returns:
        Pairs (index of the note-on, index of the event that ends it) in the order of the note-ons, and whether every
        note has a note-off.
    """
    ends: dict[int, int | None] = {}
    sounding: deque[int] = deque()
    for i, velocity in enumerate(velocities):
        if velocity:
            ends[i] = None
            sounding.append(i)
        elif sounding:
            ends[sounding.popleft()] = i
    if not sounding:
        return list(ends.items()), True
    last: int | None = None
    for i, velocity in enumerate(velocities):
        if last is not None:
            ends[last] = i
        last = i if velocity else None
    if last is not None:
        ends[last] = None
    return list(ends.items()), False
