"""Files of 100 KB made to cost memory or time, and what `midi-rwkv inspect` spends on each.

python tests/hostile.py    -> JSON: by name, [exit code, seconds of CPU, peak memory in bytes, bytes printed]
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

SIZE = 100_000  # bytes of each file, about


def number(value: int) -> bytes:
    """A variable-length number."""
    out = [value & 0x7F]
    while value := value >> 7:
        out.append(value & 0x7F | 0x80)
    return bytes(reversed(out))


def song(*bodies: bytes, kind: int = 1) -> bytes:
    """A file of track chunks; the events of each begin with their delta."""
    head = bytes([0, 0, 0, 6, 0, kind]) + len(bodies).to_bytes(2, "big") + (480).to_bytes(2, "big")
    ended = [body + b"\0\xff\x2f\0" for body in bodies]
    return b"MThd" + head + b"".join(b"MTrk" + len(body).to_bytes(4, "big") + body for body in ended)


def fill(events: bytes, room: int = SIZE) -> bytes:
    """The events as often as they fit."""
    return events * (room // len(events))


NOTE = b"\0\x90\x3c\x50\x60\x3c\0"
LAST = number(19_990 * 480 - 96) + NOTE[1:]  # after a note, 20,000 bars of a quarter later
QUARTERS = b"\0\xff\x58\x04\x01\x02\x18\x08"  # a time signature of 1/4
CHANNELS = b"".join(b"\0" + bytes([0x90 | c, 60, 80]) for c in range(16))
TEMPO, METRES = b"\xff\x51\x03\x07\xa1\x20", b"\x01\xff\x58\x04\x01\x07\x18\x08\x01\xff\x58\x04\x02\x07\x18\x08"

HOSTILE: dict[str, Callable[[], bytes]] = {
    "tempos": lambda: song(fill(b"\x01" + TEMPO), NOTE),
    "tempos and bars": lambda: song(QUARTERS + fill(b"\x83\x60" + TEMPO), NOTE + LAST),
    "tempos of one tick": lambda: song(fill(b"\0" + TEMPO), NOTE),
    "metres": lambda: song(fill(METRES), NOTE),
    "bars": lambda: song(QUARTERS + NOTE + LAST),
    "bars without end": lambda: song(NOTE + b"\xff\xff\xff\x7f\x90\x3c\x50" * 7),
    "tracks": lambda: song(*[CHANNELS] * 256),
    "tracks and bars": lambda: song(QUARTERS + NOTE + LAST, *[CHANNELS] * 255),
    "running status": lambda: song(NOTE + b"\0\x90\x3c\x50" + fill(b"\0\x3c\0\0\x3c\x50")),
    "notes of one beat": lambda: song(b"\0\x90\x3c\x50" + bytes(b for k in range(SIZE // 3) for b in (0, k % 128, 80))),
    "notes that never end": lambda: song(NOTE + b"\0\x90\x3c\x50" + fill(b"\0\x3c\x50")),
    "note-offs": lambda: song(NOTE + b"\0\x80\x3c\0" + fill(b"\0\x3c\0")),
    "programs": lambda: song(b"\0\xc0\0" + bytes(b for k in range(SIZE // 3) for b in (1, k % 128)), *[NOTE] * 255),
    "controllers": lambda: song(NOTE + b"\0\xb0\x01\0" + fill(b"\0\x01\0")),
    "bends": lambda: song(NOTE + b"\0\xe0\x01\0" + fill(b"\0\x01\x50")),
    "sysex": lambda: song(NOTE + fill(b"\0\xf0\0")),
    "a long name": lambda: song(b"\0\xff\x03" + number(SIZE) + b"n" * SIZE + NOTE),
    "a long name that is no text": lambda: song(b"\0\xff\x03" + number(SIZE) + b"\xff\x1b" * (SIZE // 2) + NOTE),
    "names": lambda: song(fill(b"\0\xff\x03\x01n") + NOTE),
    "texts": lambda: song(fill(b"\0\xff\x01\0") + NOTE),
    "foreign chunks": lambda: song(NOTE)[:-4] + b"XXXX\0\0\0\0" * (SIZE // 8),
    "one chunk of all channels": lambda: song(CHANNELS + fill(CHANNELS), kind=0),
}


def measure() -> dict[str, list[float]]:
    """Each file in a process of its own, forked from this one, which has imported everything already."""
    from midi_rwkv.commands.cli import main

    main(["inspect", "--json", "/"])
    print(file=sys.stderr)
    spent = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, make in HOSTILE.items():
            for options in ([], ["--json"]):
                path, printed = Path(folder, "song.mid"), Path(folder, "printed")
                path.write_bytes(make())
                child = os.fork()
                if not child:
                    out = os.open(printed, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
                    os.dup2(out, 1)
                    os.dup2(out, 2)
                    code = main(["inspect", str(path), *options])
                    sys.stdout.flush()
                    os._exit(code)
                _, status, usage = os.wait4(child, 0)
                seconds = usage.ru_utime + usage.ru_stime
                code = os.waitstatus_to_exitcode(status)
                spent[" ".join([name, *options])] = [code, seconds, usage.ru_maxrss * 1024, printed.stat().st_size]
    return spent


if __name__ == "__main__":
    print(json.dumps(measure()))
