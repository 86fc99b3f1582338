"""What a MusicXML document plays, and the MIDI file of it, which the rest of the package works on.

A bar is a `<measure>` as it stands in the document: repeats are not played out, and its own numbers are not used. It is
as long as what the parts have in it, so a pickup is short. Pitches are as they sound, ties are joined, unpitched hits
are those of their instruments, velocities are those of dynamics. Grace notes, cues, ornaments, hairpins and pedal are
not heard.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from math import ceil, lcm
from operator import attrgetter, itemgetter
from xml.etree.ElementTree import Element

from midi_rwkv.errors import MidiError, RequestError

from .harmony import PITCH_CLASSES
from .instruments import find_program
from .musicxml import Content, Document, Event, Part, number
from .smf import (
    DRUM_CHANNEL,
    NOTE_OFF,
    NOTE_ON,
    PROGRAM_CHANGE,
    SET_TEMPO,
    TIME_SIGNATURE,
    TRACK_NAME,
    meta_event,
    write_file,
)
from .smf import Event as MidiEvent

MAX_TICKS_PER_BEAT, USUAL_TICKS_PER_BEAT = 32767, 10080
LOUDNESS = {"pppp": 10, "ppp": 16, "pp": 33, "p": 49, "mp": 64, "mf": 80, "f": 96, "ff": 112, "fff": 120, "ffff": 126}
LOUDNESS |= {"sf": 100, "sfz": 100, "fz": 100, "fp": 96, "sfp": 100, "rf": 96, "rfz": 96}
USUAL_VELOCITY = 80
FULL = 90  # the velocity that MusicXML calls 100 %
SNARE, CHOIR = 38, 52
SINGERS = frozenset(("soprano", "alto", "tenor", "bass", "baritone", "mezzo", "voice", "voices", "choir", "chorus"))
UNITS: dict[str, int | Fraction] = {"whole": 4, "half": 2, "quarter": 1, "eighth": Fraction(1, 2)}
PER_MINUTE = re.compile(r"[0-9]{1,4}(?:\.[0-9]{1,6})?")
BPM = (1, 1000)
LONGEST_METRE = 255  # beats of a bar


@dataclass
class Sounding:
    """A note as it is heard. Times are in quarter notes from the song's start.

    Attributes:
        elements: what writes it, with ties if several: the index of a measure, and a `<note>`.
    """

    onset: Fraction
    end: Fraction
    pitch: int
    velocity: int
    program: int
    elements: list[tuple[int, Element]]


@dataclass
class Instrument:
    """What a `<score-part>` says of an instrument; None where it says nothing."""

    program: int | None = None
    channel: int | None = None  # 0-15
    unpitched: int | None = None  # the MIDI pitch of its hits


@dataclass
class Played:
    """What a part plays."""

    part: Part
    program: int
    is_drum: bool
    notes: list[Sounding]


@dataclass
class Song:
    """What a document plays. Times are in quarter notes from the song's start.

    Attributes:
        starts: (measures + 1,) where measures begin, and where the last one ends.
        metres: by measure, the time signature in force.
        tempos: quarter notes a minute, by time.
    """

    document: Document
    ticks_per_beat: int
    starts: list[Fraction]
    metres: list[tuple[int, int]]
    tempos: dict[Fraction, float]
    parts: list[Played]

    def ticks(self, quarters: Fraction) -> int:
        """A time in ticks of the MIDI file."""
        return round(quarters * self.ticks_per_beat)


def hear(document: Document, name: str) -> Song:
    """What a document plays. Raises MidiError where it is damaged. name: what to call it in messages."""
    try:
        contents = [_contents(part) for part in document.parts]
        lengths = [max(c.length for c in at_once) for at_once in zip(*contents, strict=True)]
        song = Song(document, _ticks_per_beat(document), [], [], {}, [])
        at, metre = Fraction(0), (4, 4)
        for k, length in enumerate(lengths):
            if length > 4 * LONGEST_METRE:
                raise MidiError(f"measure {k + 1} has {float(length):,.0f} quarters, of at most {4 * LONGEST_METRE:,}")
            others = [found for of_part in contents for found in of_part[k].others]
            metre = next((m for _, e in others if e.tag == "attributes" and (m := _metre(e))), metre)
            song.starts.append(at)
            song.metres.append(metre)
            for place, element in others:
                if bpm := tempo_of(element):
                    song.tempos.setdefault(at + place, bpm)
            at += length or Fraction(4 * metre[0], metre[1])
        song.starts.append(at)
        song.parts = [_played(part, own, song.starts) for part, own in zip(document.parts, contents, strict=True)]
    except MidiError as error:
        raise MidiError(f"{name} is damaged: {error}; save it again in a score editor") from None
    return song


def _contents(part: Part) -> list[Content]:
    """What its measures have; notes for each the manner before it."""
    found = []
    for measure, following in pairwise([*part.measures, None]):
        assert measure is not None
        content, manner = measure.content()
        found.append(content)
        if following:
            following.manner = manner
    return found


def _ticks_per_beat(document: Document) -> int:
    """A resolution that has every place of the document, if there is one."""
    elements = [e for part in document.parts for measure in part.measures for e in measure.element.iter("divisions")]
    ticks = 24
    for divisions in {number(e, ".", 1) for e in elements}:
        ticks = lcm(ticks, max(1, divisions.numerator))
        if ticks > MAX_TICKS_PER_BEAT:
            return USUAL_TICKS_PER_BEAT
    return ticks * -(-480 // ticks)


def _metre(attributes: Element) -> tuple[int, int] | None:
    """The time signature that they set: of several that are added, their sum."""
    time = attributes.find("time")
    beats = time.findall("beats") if time is not None else []
    types = time.findall("beat-type") if time is not None else []
    if not beats or len(beats) != len(types):
        return None
    units = [int(number(e, ".", 4)) for e in types]
    counts = [sum(int(text) for text in re.findall("[0-9]{1,3}", e.text or "")) for e in beats]
    if any(n not in (1, 2, 4, 8, 16, 32, 64) for n in units) or not all(counts):
        return None
    unit = max(units)
    numerator = sum(count * unit // n for count, n in zip(counts, units, strict=True))
    return (numerator, unit) if numerator <= LONGEST_METRE else None


def tempo_of(element: Element) -> float | None:
    """The quarter notes a minute that a direction or sound sets."""
    sound = element if element.tag == "sound" else element.find("sound")
    found = PER_MINUTE.search(sound.get("tempo", "")) if sound is not None else None
    unit: Fraction | int = 1
    if not found and (mark := element.find("direction-type/metronome")) is not None:
        found = PER_MINUTE.search(mark.findtext("per-minute", ""))
        dots = len(mark.findall("beat-unit-dot"))
        unit = UNITS.get(mark.findtext("beat-unit", ""), 1) * (2 - Fraction(1, 2**dots))
    return min(max(float(found[0]) * float(unit), BPM[0]), BPM[1]) if found else None


def _played(part: Part, contents: Sequence[Content], starts: Sequence[Fraction]) -> Played:
    instruments = instruments_of(part)
    usual = next(iter(instruments.values()), Instrument())
    notes = [n for content in contents for event in content.events for n in event.notes if n.find("rest") is None]
    unpitched = sum(n.find("unpitched") is not None for n in notes)
    is_drum = usual.channel == DRUM_CHANNEL or 2 * unpitched > len(notes)
    guess = 0 if is_drum else _guessed_program(part) if usual.program is None else usual.program
    playing = _Playing(instruments, usual, guess, is_drum=is_drum)
    for k, (content, start) in enumerate(zip(contents, starts, strict=False)):
        playing.add(k, content, start)
    return Played(part, guess, is_drum, playing.finished())


def instruments_of(part: Part) -> dict[str, Instrument]:
    """By id, the instruments of a part."""
    found = {e.get("id", ""): Instrument() for e in part.head.findall("score-instrument")}
    for element in part.head.findall("midi-instrument"):
        values = [int(number(element, tag, 0)) - 1 for tag in ("midi-program", "midi-channel", "midi-unpitched")]
        program, channel, hit = (v if v >= 0 else None for v in values)
        found[element.get("id", "")] = Instrument(
            program if program is None else min(program, 127), channel, hit if hit is None else min(hit, 127)
        )
    return found


def _guessed_program(part: Part) -> int:
    """The General MIDI program of a part that states none, from what its instrument is called."""
    told = [e.text or "" for e in part.head.iterfind("score-instrument/instrument-sound")]
    told += [part.name, part.head.findtext("score-instrument/instrument-name", "")]
    for text in told:
        words = re.findall("[a-z]+", text.lower())
        if SINGERS.intersection(words):
            return CHOIR
        for word in (" ".join(words), *reversed(words)):
            try:
                return find_program(word)[0]
            except RequestError:
                continue
    return 0


class _Playing:
    """Collects the notes of a part, measure by measure."""

    def __init__(self, instruments: dict[str, Instrument], usual: Instrument, program: int, *, is_drum: bool) -> None:
        self.instruments, self.usual, self.program, self.is_drum = instruments, usual, program, is_drum
        self.notes: list[Sounding] = []
        self.loudness: list[tuple[Fraction, int]] = []
        self._open: list[tuple[str, Sounding]] = []  # those that are tied on, with their voices

    def add(self, k: int, content: Content, start: Fraction) -> None:
        """Adds the notes of measure `k`, which begins at `start`."""
        for place, element in content.others:
            if velocity := _velocity(element):
                self.loudness.append((start + place, velocity))
        for event in sorted(content.events, key=attrgetter("start")):
            for note in event.notes:
                pitch = self._pitch(note, event.shift)
                if pitch is not None and event.end > event.start and note.find("cue") is None:
                    self._sound(note, pitch, event, k, start)

    def finished(self) -> list[Sounding]:
        """The notes in order."""
        self.loudness.sort(key=itemgetter(0))
        for note in self.notes:
            at = bisect_right(self.loudness, note.onset, key=itemgetter(0))
            own = PER_MINUTE.match(note.elements[0][1].get("dynamics", ""))
            velocity = float(own[0]) * FULL / 100 if own else self.loudness[at - 1][1] if at else USUAL_VELOCITY
            note.velocity = max(1, min(127, round(velocity)))
        return sorted(self.notes, key=lambda n: (n.onset, n.pitch, n.end))

    def _sound(self, note: Element, pitch: int, event: Event, k: int, start: Fraction) -> None:
        ties = {e.get("type") for path in ("tie", "notations/tied") for e in note.findall(path)}
        onset, end = start + event.start, start + event.end
        before = [(v, s) for v, s in self._open if s.pitch == pitch and s.end == onset]
        if "stop" not in ties:  # some programs leave it out
            before = [(v, s) for v, s in before if v == event.voice]
        if before:
            found = next(((v, s) for v, s in before if v == event.voice), before[0])
            self._open.remove(found)
            sounding = found[1]
            sounding.end = end
            sounding.elements.append((k, note))
        else:
            sounding = Sounding(onset, end, pitch, USUAL_VELOCITY, self._instrument(note).program or 0, [(k, note)])
            if self.is_drum or self._instrument(note).program is None:
                sounding.program = self.program
            self.notes.append(sounding)
        if "start" in ties:
            self._open.append((event.voice, sounding))

    def _instrument(self, note: Element) -> Instrument:
        element = note.find("instrument")
        return self.usual if element is None else self.instruments.get(element.get("id", ""), self.usual)

    def _pitch(self, note: Element, shift: int) -> int | None:
        """The MIDI pitch that sounds; None for a rest, or if there is none."""
        hit = self._instrument(note).unpitched if self.is_drum else None
        step = note.findtext("pitch/step", "").strip()
        if note.find("unpitched") is not None or (step and hit is not None):
            return SNARE if hit is None else hit
        if step.lower() not in PITCH_CLASSES:
            return None
        altered = PITCH_CLASSES[step.lower()] + number(note, "pitch/alter", 0)
        pitch = round(12 * (number(note, "pitch/octave", 4) + 1) + altered) + shift
        return pitch if 0 <= pitch <= 127 else None


def _velocity(element: Element) -> int | None:
    """The velocity that a direction or sound sets from here on."""
    sound = element if element.tag == "sound" else element.find("sound")
    found = PER_MINUTE.match(sound.get("dynamics", "")) if sound is not None else None
    if found:
        return max(1, min(127, round(float(found[0]) * FULL / 100)))
    marks = [mark.tag for group in element.iterfind("direction-type/dynamics") for mark in group]
    return next((LOUDNESS[mark] for mark in marks if mark in LOUDNESS), None)


def midi_of(song: Song) -> bytes:
    """The song as a type 1 MIDI file: tempo and metre in the first chunk, then a chunk for each part."""
    head = [
        meta_event(song.ticks(at), SET_TEMPO, round(60e6 / bpm).to_bytes(3, "big")) for at, bpm in song.tempos.items()
    ]
    for tick, numerator, denominator in _signatures(song):
        data = bytes([numerator, denominator.bit_length() - 1, 24, 8])
        head.append(meta_event(tick, TIME_SIGNATURE, data))
    chunks = [sorted(head, key=itemgetter(0))]
    channels: dict[int, int] = {}  # by program, the last one that it got
    free = [c for c in range(16) if c != DRUM_CHANNEL]
    for played in song.parts:
        channel = DRUM_CHANNEL
        if not played.is_drum:
            channel = free.pop(0) if free else channels.get(played.program, 0)
            channels[played.program] = channel
        chunks.append(_events(song, played, channel))
    return write_file(song.ticks_per_beat, chunks, song.ticks(song.starts[-1]))


def _signatures(song: Song) -> list[tuple[int, int, int]]:
    """Ticks and metres of bars that are as long as the measures are, and as many."""
    found: list[tuple[int, int, int]] = []
    bars = list(pairwise(song.starts))
    due = Fraction(0)  # where the metre in force has its next bar line
    for k, ((start, end), metre) in enumerate(zip(bars, song.metres, strict=True)):
        length, usual = end - start, Fraction(4 * metre[0], metre[1])
        own = metre
        if length > usual:
            unit = next((u for u in (4, 8, 16) if length * u % 4 == 0 and length * u <= 4 * LONGEST_METRE), 1)
            own = ceil(length * unit / 4), unit
        if not found or own != found[-1][1:] or start != due or k == len(bars) - 1:
            found.append((song.ticks(start), *own))
        due = start + Fraction(4 * own[0], own[1])
    return found


def _events(song: Song, played: Played, channel: int) -> list[MidiEvent]:
    """The events of a part. Of two notes that begin as one the longer is kept, and a note ends where its pitch begins
    again."""
    longest: dict[tuple[int, int], Sounding] = {}
    for note in played.notes:
        key = song.ticks(note.onset), note.pitch
        if key not in longest or longest[key].end < note.end:
            longest[key] = note
    by_pitch: dict[int, list[int]] = {}
    for tick, pitch in sorted(longest):
        by_pitch.setdefault(pitch, []).append(tick)
    placed: list[tuple[int, MidiEvent]] = [(1, meta_event(0, TRACK_NAME, played.part.name.encode()))]
    program = None
    for (tick, pitch), note in sorted(longest.items()):
        if note.program != program:
            program = note.program
            placed.append((1, (tick, PROGRAM_CHANGE | channel, bytes([program]), False)))
        at = bisect_right(by_pitch[pitch], tick)
        following = by_pitch[pitch][at] if at < len(by_pitch[pitch]) else song.ticks(note.end)
        end = max(tick + 1, min(song.ticks(note.end), following))
        placed.append((2, (tick, NOTE_ON | channel, bytes([pitch, note.velocity]), False)))
        placed.append((0, (end, NOTE_OFF | channel, bytes([pitch, 0]), False)))
    return [event for _, event in sorted(placed, key=lambda p: (p[1][0], p[0]))]
