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

import io
import wave
from collections.abc import Callable, Collection
from functools import lru_cache
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np

from midi_rwkv.errors import RequestError
from midi_rwkv.files import whole_file
from midi_rwkv.score.score import Score

from .soundfont import Soundfont, Zone, load_soundfont

TAIL_SECONDS = 1.0
PEAK = 0.9
OVERSAMPLING = 2  # samples are read by linear interpolation, which aliases less at twice the rate
SILENCE_DB = 70.0  # a note ends when it has decayed by this much
SHORTEST_NOTE = 0.03  # seconds; drum tracks have notes of one tick
SHORTEST_RELEASE = 0.02  # seconds; many fonts say 0.001, which clicks
SAMPLE_RATE = 22050  # Hz


def render(
    score: Score,
    bars: tuple[int, int],
    soundfont: Path,
    *,
    sample_rate: int = SAMPLE_RATE,
    tracks: Collection[int] | None = None,
    loudness: float | None = None,
) -> np.ndarray:
    """Some bars and a tail of one second that fades out.

    Only notes that begin inside the bars sound; they ring into the tail.

    Args:
        bars: the first bar, and the one after the last; 0-based.
        tracks: indices of the tracks to play; None for all.
        loudness: a fixed gain, for sections that are played one after another; peaks are then rounded off. Without it,
            the section is scaled to a peak of 0.9.

    Returns:
        (samples,) mono float32 in [-1, 1].

    Raises:
        RequestError: there are no bars, or the file is not an SF2 soundfont.
    """
    first, last = bars
    if not 0 <= first < last:
        raise RequestError(f"bars [{first}, {last}) are no stretch; the first must be 0 or more and below the last")
    mix = _mix(score, bars, load_soundfont(str(soundfont)), sample_rate * OVERSAMPLING, tracks)
    samples = _halve(mix)
    fade = round(TAIL_SECONDS * sample_rate)
    samples[-fade:] *= np.linspace(1, 0, fade, dtype=np.float32)
    if loudness is not None:
        rounded: np.ndarray = PEAK * np.tanh(samples * np.float32(loudness / PEAK))
        return rounded
    peak = float(np.abs(samples).max())
    return samples * np.float32(PEAK / peak) if peak else samples


def _mix(score: Score, bars: tuple[int, int], font: Soundfont, rate: int, tracks: Collection[int] | None) -> np.ndarray:
    """(frames,) the sum of the notes' sounds."""
    start, stop = (score.bar(bar).start_ticks for bar in bars)
    seconds = _clock(score, start)
    mix = np.zeros(round((seconds(stop) + TAIL_SECONDS) * rate), np.float32)
    for index, track in enumerate(score.tracks):
        if tracks is not None and index not in tracks:
            continue
        for note in track.notes:
            if not start <= note.onset_ticks < stop:
                continue
            at = round(seconds(note.onset_ticks) * rate)
            end = round(seconds(note.onset_ticks + note.duration_ticks) * rate)
            held = max(min(end, len(mix)) - at, round(SHORTEST_NOTE * rate))
            for zone in font.zones(track.program_at(note.onset_ticks), is_drum=track.is_drum):
                if zone.plays(note.pitch, note.velocity):
                    sound = _sound(font, zone, note.pitch, held, rate)[: len(mix) - at]
                    mix[at : at + len(sound)] += sound * np.float32((note.velocity / 127) ** 2)
    return mix


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
    """Writes (samples,) in [-1, 1] as a 16-bit mono WAV file, whole or not at all."""
    with whole_file(Path(path)) as partial:
        partial.write_bytes(wav_bytes(samples, sample_rate))


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


def _envelope(zone: Zone, held: int, rate: int) -> np.ndarray:
    """(frames,) amplitude of a note that is released after `held` frames, until it is silent."""
    fading = zone.decay * min(zone.sustain_db, SILENCE_DB) / 100
    settled = zone.delay + zone.attack + zone.hold + fading
    frames = min(held, round(settled * rate)) if zone.sustain_db >= SILENCE_DB else held
    release = max(zone.release * SILENCE_DB / 100, SHORTEST_RELEASE) if frames == held else SHORTEST_RELEASE
    time = np.arange(frames + round(release * rate), dtype=np.float32) / rate
    decayed = (np.minimum(time, frames / rate) - zone.delay - zone.attack - zone.hold) * (100 / zone.decay)
    below = np.clip(decayed, 0, zone.sustain_db)
    below[frames:] += (time[frames:] - frames / rate) * (SILENCE_DB / release)
    level = np.exp(below * np.float32(-np.log(10) / 20))
    rise = np.clip((np.minimum(time, frames / rate) - zone.delay) / zone.attack, 0, 1)
    envelope: np.ndarray = level * rise
    return envelope


@lru_cache(maxsize=512)  # for drum hits, repeated notes, and the notes that an original and its fills share
def _sound(font: Soundfont, zone: Zone, key: int, held: int, rate: int) -> np.ndarray:
    """(frames,) sound of one zone at full velocity: `held` frames and the release."""
    envelope = _envelope(zone, held, rate)
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
