"""SF2 soundfonts: which one is used, and what is read of it.

The layout is that of SoundFont 2.04, sections 7 (the file) and 8.1 (the generators). The samples stay on disk until
they are played.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np

from midi_rwkv.errors import RequestError

DRUM_BANK = 128
FOLDERS = (
    "/usr/share/sounds/sf2",
    "/usr/share/soundfonts",
    "/usr/local/share/soundfonts",
    "~/.local/share/soundfonts",
    "~/.local/share/sounds/sf2",
    "~/Library/Audio/Sounds/Banks",
    "/Library/Audio/Sounds/Banks",
    "C:/soundfonts",
)

# Generators (section 8.1.2) and their defaults: times in timecents, levels in centibels.
START, END, LOOP_START, LOOP_END = 0, 1, 2, 3  # offsets in sample frames
START_COARSE, END_COARSE, LOOP_START_COARSE, LOOP_END_COARSE = 4, 12, 45, 50  # in 32,768 frames
PAN, DELAY, ATTACK, HOLD, DECAY, SUSTAIN, RELEASE = 17, 33, 34, 35, 36, 37, 38
INSTRUMENT, KEYS, VELOCITIES, ATTENUATION, COARSE_TUNE, FINE_TUNE = 41, 43, 44, 48, 51, 52
SAMPLE, SAMPLE_MODES, SCALE_TUNING, ROOT_KEY = 53, 54, 56, 58
EVERY = 127 << 8  # the range 0-127: the low byte is the lowest
DEFAULTS = {**dict.fromkeys((DELAY, ATTACK, HOLD, DECAY, RELEASE), -12000), SCALE_TUNING: 100, ROOT_KEY: -1}
RECORDS = {
    b"phdr": np.dtype([("name", "S20"), ("preset", "<u2"), ("bank", "<u2"), ("bag", "<u2"), ("other", "<u4", 3)]),
    b"pbag": np.dtype([("gen", "<u2"), ("mod", "<u2")]),
    b"pgen": np.dtype([("oper", "<u2"), ("amount", "<i2")]),
    b"inst": np.dtype([("name", "S20"), ("bag", "<u2")]),
    b"ibag": np.dtype([("gen", "<u2"), ("mod", "<u2")]),
    b"igen": np.dtype([("oper", "<u2"), ("amount", "<i2")]),
    b"shdr": np.dtype(
        [
            ("name", "S20"),
            *((name, "<u4") for name in ("start", "end", "loop_start", "loop_end", "rate")),
            ("pitch", "u1"),
            ("correction", "i1"),
            ("other", "<u2", 2),
        ]
    ),
}


def find_soundfont(path: str | Path | None = None) -> Path:
    """The soundfont at `path`, else one from the usual folders (General MIDI by name first), else pretty_midi's.

    Only SF2 is supported, because the samples of SF3 are compressed.

    Raises:
        RequestError: there is none.
    """
    if path is not None:
        if not Path(path).is_file():
            raise RequestError(f"there is no soundfont {path}; check its name, or leave it out for the system's own")
        return Path(path)
    for folder in FOLDERS:
        fonts = [p for p in Path(folder).expanduser().glob("*.sf2") if p.is_file()]
        if fonts:
            return min(fonts, key=lambda p: ("gm" not in p.name.lower(), p.name))
    spec = importlib.util.find_spec("pretty_midi")
    if spec and spec.origin:
        bundled = Path(spec.origin).with_name("TimGM6mb.sf2")
        if bundled.is_file():
            return bundled
    raise RequestError("no soundfont (*.sf2) was found; pip install pretty_midi, which brings one, or name one")


@dataclass(frozen=True)
class Zone:
    """One sample, the notes that play it, and how: positions in sample frames, times in seconds, levels in dB."""

    keys: tuple[int, int]  # lowest and highest
    velocities: tuple[int, int]
    start: int
    end: int
    loop: tuple[int, int] | None
    rate: int  # of the sample, Hz
    root: int  # the key at which it sounds as recorded, apart from `tune_cents`
    tune_cents: int
    key_cents: int  # between neighbouring keys
    gain: float  # from attenuation and pan
    delay: float
    attack: float
    hold: float
    decay: float  # time to fall by 100 dB
    sustain_db: float  # below the peak
    release: float  # time to fall by 100 dB

    def plays(self, key: int, velocity: int) -> bool:
        """Whether a note of that key and velocity sounds this sample."""
        return self.keys[0] <= key <= self.keys[1] and self.velocities[0] <= velocity <= self.velocities[1]


@dataclass(frozen=True, eq=False)
class Soundfont:
    """An SF2 file: its samples, and the tables from which `zones` are read on demand."""

    samples: np.ndarray  # int16, on disk
    tables: dict[bytes, np.ndarray]
    presets: dict[tuple[int, int], int]  # (bank, program): row of phdr
    _zones: dict[int, list[Zone]] = field(default_factory=dict)

    def zones(self, program: int, *, is_drum: bool) -> list[Zone]:
        """The zones of a program, or else of the bank's first program: a wrong instrument is better than silence."""
        bank = DRUM_BANK if is_drum else 0
        row = self.presets.get((bank, program))
        if row is None:
            row = next((row for (b, _), row in sorted(self.presets.items()) if b == bank), None)
        if row is None:
            return []
        if row not in self._zones:
            self._zones[row] = list(self._read_zones(row))
        return self._zones[row]

    def _read_zones(self, row: int) -> Iterator[Zone]:
        for outer in self._generators(b"phdr", b"pbag", b"pgen", row, INSTRUMENT):
            for inner in self._generators(b"inst", b"ibag", b"igen", outer[INSTRUMENT], SAMPLE):
                zone = self._zone(outer, inner)
                if zone.end > zone.start + 1:
                    yield zone

    def _generators(self, head: bytes, bag: bytes, gen: bytes, row: int, last: int) -> Iterator[dict[int, int]]:
        """The generators of each zone that names an instrument or sample (`last`), over those of the global zone."""
        shared: dict[int, int] = {}
        first, stop = (int(self.tables[head]["bag"][r]) for r in (row, row + 1))
        for b in range(first, stop):
            lo, hi = (int(self.tables[bag]["gen"][r]) for r in (b, b + 1))
            zone = shared | dict(self.tables[gen][lo:hi].tolist())
            if last in zone:
                yield zone
            elif b == first:
                shared = zone

    def _zone(self, outer: dict[int, int], inner: dict[int, int]) -> Zone:
        """One zone: an instrument's values are absolute, a preset's are added to them (section 9.4)."""
        sample = self.tables[b"shdr"][inner[SAMPLE] & 0xFFFF]

        def value(generator: int) -> int:
            return inner.get(generator, DEFAULTS.get(generator, 0)) + outer.get(generator, 0)

        def seconds(generator: int) -> float:
            return 2 ** (min(max(value(generator), -12000), 8000) / 1200)

        def both(generator: int) -> tuple[int, int]:
            ranges = [zone.get(generator, EVERY) for zone in (inner, outer)]
            return max(r & 255 for r in ranges), min(r >> 8 & 255 for r in ranges)

        def position(name: str, fine: int, coarse: int) -> int:
            moved = int(sample[name]) + inner.get(fine, 0) + 32768 * inner.get(coarse, 0)
            return min(max(moved, 0), len(self.samples))

        begin = position("loop_start", LOOP_START, LOOP_START_COARSE)
        end = position("loop_end", LOOP_END, LOOP_END_COARSE)
        root = inner.get(ROOT_KEY, -1)
        angle = (min(max(value(PAN), -500), 500) + 500) / 1000 * np.pi / 2
        attenuation_db = max(value(ATTENUATION), 0) / 10 * 0.4  # the hardware that fonts are made for applies 0.4 of it
        return Zone(
            keys=both(KEYS),
            velocities=both(VELOCITIES),
            start=position("start", START, START_COARSE),
            end=position("end", END, END_COARSE),
            loop=(begin, end) if inner.get(SAMPLE_MODES, 0) & 1 and end > begin else None,
            rate=int(sample["rate"]),
            root=root if root >= 0 else int(sample["pitch"]),
            tune_cents=value(COARSE_TUNE) * 100 + value(FINE_TUNE) + int(sample["correction"]),
            key_cents=value(SCALE_TUNING),
            gain=float((np.cos(angle) + np.sin(angle)) / 2 * 10 ** (-attenuation_db / 20)),
            delay=seconds(DELAY),
            attack=seconds(ATTACK),
            hold=seconds(HOLD),
            decay=seconds(DECAY),
            sustain_db=max(value(SUSTAIN), 0) / 10,
            release=seconds(RELEASE),
        )


@cache
def load_soundfont(path: str) -> Soundfont:
    """Opens an SF2 file. Its samples stay on disk until they are played. Raises RequestError for any other file."""
    try:
        data = np.memmap(path, np.uint8, "r")
        chunks = dict(_chunks(data))
        tables = {}
        for name, record in RECORDS.items():
            at, size = chunks[name]
            tables[name] = np.frombuffer(data, record, size // record.itemsize, at)
        at, size = chunks[b"smpl"]
        samples = np.frombuffer(data, "<i2", size // 2, at)
        at, _ = chunks[b"ifil"]
        major = int.from_bytes(bytes(data[at : at + 2]), "little")
    except (OSError, ValueError, KeyError) as error:
        raise RequestError(f"{path} is not an SF2 soundfont; name another, or pip install pretty_midi") from error
    if major != 2:
        raise RequestError(
            f"{path} is of SoundFont version {major}; only version 2 (uncompressed) can be played; name one"
        )
    heads = tables[b"phdr"][:-1]  # the last record only marks the end of the one before
    return Soundfont(samples, tables, {(int(h["bank"]), int(h["preset"])): row for row, h in enumerate(heads)})


def _chunks(data: np.ndarray) -> Iterator[tuple[bytes, tuple[int, int]]]:
    """The name, offset and size in bytes of every chunk inside the lists of a RIFF file."""
    if bytes(data[:4]) != b"RIFF" or bytes(data[8:12]) != b"sfbk":
        raise RequestError("there is no soundfont")
    at = 12
    while at + 8 <= len(data):
        name, size = bytes(data[at : at + 4]), int.from_bytes(bytes(data[at + 4 : at + 8]), "little")
        if name == b"LIST":
            at += 12  # into the list: its chunks follow
            continue
        yield name, (at + 8, size)
        at += 8 + size + size % 2
