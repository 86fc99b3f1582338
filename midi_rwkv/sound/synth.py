"""Renders a section of a Score as sound, offline, from an SF2 soundfont.

The player is our own, in numpy. symusic 0.5.9 has a synthesizer, but it ignores a sample's overriding root key, so that
with TimGM6mb the piano's middle C sounds at 831 Hz instead of 262, and it also ignores velocities, controllers and
pitch bends.

It supports key and velocity ranges, tuning, loops, the volume envelope and attenuation (SoundFont 2.04, section 8.1),
and velocity by the default modulator (section 8.4.1). It does not support filters, low-frequency oscillators, other
modulators, exclusive classes and effects. A Score holds no controllers and no pitch bends, so volume (CC 7), pan
(CC 10), the sustain pedal (CC 64) and bends are not heard either. This is enough to compare notes by ear.
"""

from __future__ import annotations

import importlib.util
import io
import os
import wave
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from functools import cache, lru_cache
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np

from midi_rwkv.errors import RequestError
from midi_rwkv.score.score import Score

TAIL_SECONDS = 1.0
PEAK = 0.9
OVERSAMPLING = 2  # samples are read by linear interpolation, which aliases less at twice the rate
SILENCE_DB = 70.0  # a note ends when it has decayed by this much
SHORTEST_NOTE = 0.03  # seconds; drum tracks have notes of one tick
SHORTEST_RELEASE = 0.02  # seconds; many fonts say 0.001, which clicks
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


def render(
    score: Score,
    first_bar: int,
    last_bar: int,
    soundfont: Path,
    *,
    sample_rate: int = 22050,
    tracks: Collection[int] | None = None,
    loudness: float | None = None,
) -> np.ndarray:
    """(samples,) mono float32 in [-1, 1]: bars [first_bar, last_bar), 0-based, and a tail of one second that fades out.

    Only notes that begin inside the bars sound; they ring into the tail.

    Args:
        tracks: indices of the tracks to play; None for all.
        loudness: a fixed gain, for sections that are played one after another; peaks are then rounded off. Without it,
            the section is scaled to a peak of 0.9.

    Raises:
        RequestError: there are no bars, or the file is not an SF2 soundfont.
    """
    if not 0 <= first_bar < last_bar:
        raise RequestError(
            f"bars [{first_bar}, {last_bar}) are no stretch; the first must be 0 or more and below the last"
        )
    font = load_soundfont(str(soundfont))
    start, stop = score.bar(first_bar).start_ticks, score.bar(last_bar).start_ticks
    seconds = _clock(score, start)
    rate = sample_rate * OVERSAMPLING
    mix = np.zeros(round((seconds(stop) + TAIL_SECONDS) * rate), np.float32)
    for index, track in enumerate(score.tracks):
        if tracks is not None and index not in tracks:
            continue
        for note in track.notes:
            if not start <= note.onset_ticks < stop:
                continue
            zones = font.zones(track.program_at(note.onset_ticks), track.is_drum)
            at = round(seconds(note.onset_ticks) * rate)
            end = round(seconds(note.onset_ticks + note.duration_ticks) * rate)
            held = max(min(end, len(mix)) - at, round(SHORTEST_NOTE * rate))
            for zone in zones:
                if zone.plays(note.pitch, note.velocity):
                    sound = _sound(font, zone, note.pitch, held, rate)[: len(mix) - at]
                    mix[at : at + len(sound)] += sound * np.float32((note.velocity / 127) ** 2)
    samples = _halve(mix)
    fade = round(TAIL_SECONDS * sample_rate)
    samples[-fade:] *= np.linspace(1, 0, fade, dtype=np.float32)
    if loudness is not None:
        return PEAK * np.tanh(samples * np.float32(loudness / PEAK))
    peak = float(np.abs(samples).max())
    return samples * np.float32(PEAK / peak) if peak else samples


def wav_bytes(samples: np.ndarray, sample_rate: int) -> bytes:
    """The bytes of a 16-bit mono WAV file, from (samples,) in [-1, 1]."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(np.round(np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return out.getvalue()


def write_wav(path: str | Path, samples: np.ndarray, sample_rate: int) -> None:
    """Writes (samples,) in [-1, 1] as a 16-bit mono WAV file, completely or not at all."""
    partial = Path(f"{path}.partial")
    partial.write_bytes(wav_bytes(samples, sample_rate))
    os.replace(partial, path)


def _clock(score: Score, start: int) -> Callable[[int], float]:
    """A function from ticks after `start` to seconds since `start`."""
    changes = [(start, score.tempo_at(start)), *((t.tick, t.beats_per_minute) for t in score.tempos if t.tick > start)]
    ticks = np.array([tick for tick, _ in changes])
    pace = np.array([60 / bpm / score.ticks_per_beat for _, bpm in changes])  # seconds per tick
    begins = np.array(
        list(accumulate(((b - a) * p for (a, b), p in zip(pairwise(ticks), pace, strict=False)), initial=0))
    )

    def seconds(tick: int) -> float:
        i = int(np.searchsorted(ticks, tick, side="right")) - 1
        return float(begins[i] + (tick - ticks[i]) * pace[i])

    return seconds


def _halve(mix: np.ndarray) -> np.ndarray:
    """Every second sample, after a low-pass filter (a sinc of 63 taps, Hamming window)."""
    taps = np.sinc((np.arange(63) - 31) / OVERSAMPLING * 0.92) * np.hamming(63)
    return np.convolve(mix, (taps / taps.sum()).astype(np.float32), "same")[::OVERSAMPLING]


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
        return self.keys[0] <= key <= self.keys[1] and self.velocities[0] <= velocity <= self.velocities[1]

    def envelope(self, held: int, rate: int) -> np.ndarray:
        """(frames,) amplitude of a note that is released after `held` frames, until it is silent."""
        fading = self.decay * min(self.sustain_db, SILENCE_DB) / 100
        settled = self.delay + self.attack + self.hold + fading
        frames = min(held, round(settled * rate)) if self.sustain_db >= SILENCE_DB else held
        release = max(self.release * SILENCE_DB / 100, SHORTEST_RELEASE) if frames == held else SHORTEST_RELEASE
        time = np.arange(frames + round(release * rate), dtype=np.float32) / rate
        decayed = (np.minimum(time, frames / rate) - self.delay - self.attack - self.hold) * (100 / self.decay)
        below = np.clip(decayed, 0, self.sustain_db)
        below[frames:] += (time[frames:] - frames / rate) * (SILENCE_DB / release)
        level = np.exp(below * np.float32(-np.log(10) / 20))
        rise = np.clip((np.minimum(time, frames / rate) - self.delay) / self.attack, 0, 1)
        return level * rise


@lru_cache(maxsize=512)  # for drum hits, repeated notes, and the notes that an original and its fills share
def _sound(font: Soundfont, zone: Zone, key: int, held: int, rate: int) -> np.ndarray:
    """(frames,) sound of one zone at full velocity: `held` frames and the release."""
    envelope = zone.envelope(held, rate)
    cents = (key - zone.root) * zone.key_cents + zone.tune_cents
    at = zone.start + np.arange(len(envelope)) * (zone.rate / rate * 2 ** (cents / 1200))
    if zone.loop is None:
        at = at[at < zone.end - 1]
    else:
        begin, end = zone.loop
        at = np.where(at < end, at, begin + (at - end) % (end - begin))
    whole = at.astype(np.int64)
    sample = font.samples[whole].astype(np.float32)
    following = font.samples[np.minimum(whole + 1, len(font.samples) - 1)]
    sample += (following - sample) * (at - whole).astype(np.float32)
    sample *= envelope[: len(sample)] * np.float32(zone.gain / 32768)
    sample.flags.writeable = False
    return sample


@dataclass(frozen=True, eq=False)
class Soundfont:
    """An SF2 file: its samples, and the tables from which `zones` are read on demand."""

    samples: np.ndarray  # int16, on disk
    tables: dict[bytes, np.ndarray]
    presets: dict[tuple[int, int], int]  # (bank, program): row of phdr
    _zones: dict[int, list[Zone]] = field(default_factory=dict)

    def zones(self, program: int, is_drum: bool) -> list[Zone]:
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
