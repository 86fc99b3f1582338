"""A MIDI file cut into its chunks, as bytes."""

from __future__ import annotations

import struct
from typing import NamedTuple


class File(NamedTuple):
    header: bytes
    tracks: list[bytes]  # bodies of the counted track chunks
    between: list[bytes]  # bytes before each counted track chunk, and after the last


def split(data: bytes) -> File:
    """The chunks of a file."""
    size = struct.unpack(">I", data[4:8])[0]
    count = struct.unpack(">H", data[10:12])[0]
    pos = 8 + size
    tracks: list[bytes] = []
    between: list[bytes] = []
    skipped = b""
    while len(tracks) < count:
        name, length = struct.unpack(">4sI", data[pos : pos + 8])
        whole = data[pos : pos + 8 + length]
        pos += len(whole)
        if name == b"MTrk":
            tracks.append(whole[8:])
            between.append(skipped)
            skipped = b""
        else:
            skipped += whole
    return File(data[8 : 8 + size], tracks, [*between, skipped + data[pos:]])
