"""A soundfont made by code, of one sine, for tests that listen."""

import struct
from pathlib import Path

import numpy as np


def _chunk(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def sine_font(folder: Path) -> Path:
    """A file with a looped sine of 50 frames at 22,000 Hz, 440 Hz, on program 0 and on the kit.

    Its sample header claims key 60; the zone's overriding root key, 69, is what counts.
    """
    sine = (12000 * np.sin(2 * np.pi * np.arange(500) / 50)).astype("<i2").tobytes() + b"\0" * 92
    zone = [(54, 1), (58, 69), (38, -2400), (53, 0)]  # looped, root key, 0.25 s of release, the sample
    preset = "<20s3H3I"
    tables: dict[bytes, list[tuple[bytes | int, ...]]] = {
        b"phdr": [(b"Sine", 0, 0, 0, 0, 0, 0), (b"Kit", 0, 128, 1, 0, 0, 0), (b"EOP", 0, 0, 2, 0, 0, 0)],
        b"pbag": [(0, 0), (1, 0), (2, 0)],
        b"pmod": [],
        b"pgen": [(41, 0), (41, 0), (0, 0)],
        b"inst": [(b"Sine", 0), (b"EOI", 1)],
        b"ibag": [(0, 0), (len(zone), 0)],
        b"imod": [],
        b"igen": [*zone, (0, 0)],
        b"shdr": [(b"sine", 0, 500, 100, 450, 22000, 60, 0, 0, 1), (b"EOS", *[0] * 9)],
    }
    formats = {b"phdr": preset, b"inst": "<20sH", b"shdr": "<20s5IBb2H", b"pgen": "<Hh", b"igen": "<Hh"}
    pdta = b"".join(
        _chunk(name, b"".join(struct.pack(formats.get(name, "<HH"), *row) for row in rows))
        for name, rows in tables.items()
    )
    lists = [b"INFO" + _chunk(b"ifil", b"\2\0\1\0"), b"sdta" + _chunk(b"smpl", sine), b"pdta" + pdta]
    path = folder / "sine.sf2"
    path.write_bytes(_chunk(b"RIFF", b"sfbk" + b"".join(_chunk(b"LIST", body) for body in lists)))
    return path
