"""A notation for written music, chords that lead their voices, and parts and songs that become MIDI files.

Lines are written as notes with a pitch (or several, C4+E4) and a length: w h q e s for a whole note to a sixteenth,
dotted with a dot, "r" for a rest, "|" at every bar line. Times and lengths are in beats (quarter notes) from the start
of the piece. The same script makes the same bytes.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import mido

from midi_rwkv.files import whole_file

TICKS = 480  # per beat
STEPS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
LENGTHS = {"w": 4.0, "h": 2.0, "q": 1.0, "e": 0.5, "s": 0.25}
QUALITIES = {
    "": (0, 4, 7), "m": (0, 3, 7), "7": (0, 4, 7, 10), "m7": (0, 3, 7, 10), "maj7": (0, 4, 7, 11), "add9": (0, 4, 7, 2),
    "sus4": (0, 5, 7), "m6": (0, 3, 7, 9), "m7b5": (0, 3, 6, 10), "dim7": (0, 3, 6, 9),
}  # fmt: skip
TOKEN = re.compile(r"(r|(?:[A-G][#b]?\d\+?)+)([whqes]\.?)")
CHORD = re.compile(r"([A-G][#b]?)([^/]*)(?:/([A-G][#b]?))?")


def pitch_class(name: str) -> int:
    return (STEPS[name[0]] + {"#": 1, "b": -1}.get(name[1:2], 0)) % 12


def pitch(name: str) -> int:
    """MIDI pitch of a name with an octave: C4 is 60."""
    return 12 * (int(name[-1]) + 1) + STEPS[name[0]] + {"#": 1, "b": -1}.get(name[1:2], 0)


def read_line(text: str, bar_beats: float) -> list[tuple[float, float, list[int]]]:
    """(start, length, pitches) of a written line. Raises ValueError where a bar does not add up."""
    notes, now = [], 0.0
    for number, bar in enumerate(text.split("|")):
        for token in bar.split():
            names, length = TOKEN.fullmatch(token).groups()  # type: ignore[union-attr]
            beats = LENGTHS[length[0]] * (1.5 if length.endswith(".") else 1)
            if names != "r":
                notes.append((now, beats, [pitch(name) for name in names.split("+")]))
            now += beats
        if now != (number + 1) * bar_beats:
            raise ValueError(f"bar {number + 1} of {text!r} ends at beat {now}, not {(number + 1) * bar_beats}")
    return notes


class Chord:
    """A chord symbol: pitch classes, and the bass note's."""

    def __init__(self, symbol: str) -> None:
        root, quality, bass = CHORD.fullmatch(symbol).groups()  # type: ignore[union-attr]
        self.classes = [(pitch_class(root) + step) % 12 for step in QUALITIES[quality]]
        self.bass = pitch_class(bass or root)

    def bass_pitch(self, low: int) -> int:
        """The bass note, not below `low`."""
        return low + (self.bass - low) % 12

    def voiced(self, near: Sequence[int], low: int, high: int) -> list[int]:
        """As many voices as `near`, as close to it as possible, with every note of the chord if they suffice."""
        tones = [p for p in range(low, high + 1) if p % 12 in self.classes]

        def cost(voices: tuple[int, ...]) -> tuple[float, int]:
            missing = len(set(self.classes)) - len({p % 12 for p in voices})
            moved = sum(abs(a - b) for a, b in zip(voices, near, strict=True))
            return 7 * missing + moved + max(0, voices[-1] - voices[0] - 14) * 3, voices[-1]

        closest = min(combinations(tones, len(near)), key=cost)
        return list(closest)


class Span(NamedTuple):
    """A chord and how long it sounds."""

    at: float
    length: float
    chord: Chord


class Part:
    """A track of a piece."""

    def __init__(self, song: Song, name: str, program: int, channel: int, volume: int = 100, pan: int = 64) -> None:
        self.song, self.name, self.channel = song, name, channel
        self.events: list[tuple[int, int, mido.Message]] = []
        self.notes: dict[tuple[int, int], tuple[int, int]] = {}  # (tick, pitch) -> end tick, velocity
        self._send(0, "program_change", program=program)
        self.control(0, 7, volume)
        self.control(0, 10, pan)
        song.parts.append(self)

    def _send(self, beat: float, kind: str, **values: int) -> None:
        self.events.append((round(beat * TICKS), 1, mido.Message(kind, channel=self.channel, **values)))

    def control(self, beat: float, number: int, value: int) -> None:
        self._send(beat, "control_change", control=number, value=round(min(max(value, 0), 127)))

    def bend(self, beat: float, value: int) -> None:
        self._send(beat, "pitchwheel", pitch=value)

    def play(self, beat: float, length: float, key: int, velocity: float, late: int = 0) -> None:
        """One note. `late`: at most so many ticks behind the beat."""
        tick = round(beat * TICKS) + self.song.random.randint(0, late)
        loud = round(min(max(velocity + self.song.random.uniform(-3, 3), 1), 127))
        self.notes[tick, key] = (max(tick + 1, round((beat + length) * TICKS)), loud)

    def sing(self, beat: float, text: str, velocity: float, bar: float = 4, gate: float = 0.95, up: int = 0) -> None:
        """A written line, swelling towards the middle of each four bars and leaning on the beats."""
        for start, length, keys in read_line(text, bar):
            swell = 1 - abs((start / bar) % 4 - 2) / 2  # 0 at the ends of four bars, 1 in their middle
            lean = 6 if start % bar == 0 else 2 if start % 1 == 0 else -3
            for key in keys:
                height = (key - 60) * 0.25
                self.play(beat + start, length * gate, key + up, velocity + 8 * swell + lean + height, late=4)

    def track(self) -> mido.MidiTrack:
        """The part as mido writes it: of one pitch, a note ends where the next begins."""
        events = list(self.events)
        onsets: dict[int, list[int]] = {}
        for tick, key in self.notes:
            onsets.setdefault(key, []).append(tick)
        for (tick, key), (end, velocity) in self.notes.items():
            end = min([end, *(other for other in onsets[key] if other > tick)])
            note = {"channel": self.channel, "note": key}
            events.append((tick, 2, mido.Message("note_on", velocity=velocity, **note)))
            events.append((end, 0, mido.Message("note_off", velocity=0, **note)))
        return written(self.name, events)


class Song:
    """A piece: parts, and a conductor track with tempos, metres and section names."""

    def __init__(self, title: str, key: str) -> None:
        self.title, self.random = title, random.Random(title)
        self.parts: list[Part] = []
        self.meta: list[tuple[int, int, mido.MetaMessage]] = [(0, 0, mido.MetaMessage("key_signature", key=key))]

    def tempo(self, beat: float, quarters_a_minute: float) -> None:
        message = mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(quarters_a_minute))
        self.meta.append((round(beat * TICKS), 1, message))

    def metre(self, beat: float, numerator: int, denominator: int) -> None:
        message = mido.MetaMessage("time_signature", numerator=numerator, denominator=denominator)
        self.meta.append((round(beat * TICKS), 0, message))

    def section(self, beat: float, name: str) -> None:
        self.meta.append((round(beat * TICKS), 2, mido.MetaMessage("marker", text=name)))

    def save(self, path: Path) -> None:
        file = mido.MidiFile(type=1, ticks_per_beat=TICKS)
        file.tracks.append(written(self.title, self.meta))
        file.tracks.extend(part.track() for part in self.parts)
        with whole_file(path) as partial:
            file.save(partial)


def written(name: str, events: Sequence[tuple[int, int, mido.Message]]) -> mido.MidiTrack:
    """Events of (tick, rank, message) as a track with a name."""
    track = mido.MidiTrack([mido.MetaMessage("track_name", name=name)])
    now = 0
    for tick, _, message in sorted(events, key=lambda event: event[:2]):
        track.append(message.copy(time=tick - now))
        now = tick
    track.append(mido.MetaMessage("end_of_track"))
    return track
