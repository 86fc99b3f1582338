"""Writes new notes into a measure of a MusicXML document.

Notes that stay keep their elements, with all that hangs on them. A voice in which notes come or go gets rests where it
is silent then. New notes go to the first voice of their staff that has room, else to a new one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from math import lcm
from operator import itemgetter
from xml.etree.ElementTree import Element, SubElement

from midi_rwkv.errors import MidiError

from .engrave import QUARTERS, Manuscript, Name, Piece, Tone, engraved
from .musicxml import Event, Manner, Measure, number

Namer = Callable[[Tone, int, Manner], Name]  # of a tone on a staff


@dataclass
class _Voice:
    """A voice of a measure. Times are in quarter notes from its start.

    Attributes:
        sounds: what stays.
        rests: as the measure has them.
        holes: where notes were removed.
        new: what is added.
    """

    name: str
    staff: int
    sounds: list[Event] = field(default_factory=list)
    rests: list[Event] = field(default_factory=list)
    holes: list[tuple[Fraction, Fraction]] = field(default_factory=list)
    new: list[Piece] = field(default_factory=list)

    @property
    def is_touched(self) -> bool:
        return bool(self.holes or self.new)

    def has_room(self, start: Fraction, end: Fraction) -> bool:
        there = [(e.start, e.end) for e in self.sounds] + [(p.start, p.end) for p in self.new]
        return all(end <= lo or hi <= start for lo, hi in there)

    def silences(self) -> list[Piece]:
        """Rests where it was not silent before and is now, and where it had rests."""
        covered = [*self.holes, *((e.start, e.end) for e in self.rests), *((p.start, p.end) for p in self.new)]
        taken = [(e.start, e.end) for e in self.sounds] + [(p.start, p.end) for p in self.new]
        edges = sorted({at for span in (*covered, *taken) for at in span})
        found: list[tuple[Fraction, Fraction]] = []
        for lo, hi in pairwise(edges):
            if any(a <= lo and hi <= b for a, b in covered) and not any(a <= lo and hi <= b for a, b in taken):
                if found and found[-1][1] == lo:
                    found[-1] = found[-1][0], hi
                else:
                    found.append((lo, hi))
        return [Piece(lo, hi) for lo, hi in found]


@dataclass(frozen=True)
class Change:
    """What becomes of a measure.

    Attributes:
        gone: the `<note>` elements to remove.
        new: pieces to add, by staff.
        length: of the measure, in quarter notes.
        metre: the time signature in force.
    """

    gone: Collection[Element]
    new: Sequence[tuple[int, Piece]]
    length: Fraction
    metre: tuple[int, int]


def rewritten(measure: Measure, change: Change, name: Namer) -> Element:
    """The measure's element, changed. name: makes the elements that name a tone.

    Raises:
        MidiError: it changes its divisions within.
    """
    content, after = measure.content()
    divisions = _divisions(measure, content.others)
    voices = _voices(content.events, change.gone)
    for staff, piece in change.new:
        _place(voices, staff, piece)
    writing = _Writing(content.others)
    for voice, is_first in _in_order(voices):
        notes: list[tuple[Fraction, Fraction, list[Element]]]
        if not voice.is_touched:
            notes = [(e.start, e.end, [*e.graces, *e.notes]) for e in (*voice.sounds, *voice.rests)]
        elif not voice.sounds and not voice.new:
            notes = [(Fraction(0), change.length, [_whole_rest(change.length, voice, after)])] if is_first else []
        else:
            written = voice.staff if after.staves > 1 else None
            manuscript = Manuscript(change.metre, _naming(name, voice.staff, after), voice.name, written)
            notes = [(p.start, p.end, made) for p, made in engraved([*voice.new, *voice.silences()], manuscript)]
            for event in voice.sounds:
                for element in event.notes:
                    for beam in element.findall("beam"):
                        element.remove(beam)
                notes.append((event.start, event.end, [*event.graces, *event.notes]))
        writing.add_voice(sorted(notes, key=lambda found: found[:2]))
    measure.element[:] = writing.finished(change.length)
    in_divisions(measure.element, divisions)
    return measure.element


def _divisions(measure: Measure, others: Iterable[tuple[Fraction, Element]]) -> Fraction:
    """The divisions of a quarter note in a measure."""
    found = measure.manner.divisions
    for place, element in others:
        if element.tag == "attributes" and (own := number(element, "divisions", found)) != found:
            if place:
                told = measure.element.get("number", "")
                raise MidiError(f"measure {told[:10]} changes its divisions within; save the score again in an editor")
            found = own
    return found


def _naming(name: Namer, staff: int, manner: Manner) -> Callable[[Tone], Name]:
    return lambda tone: name(tone, staff, manner)


def _voices(events: Iterable[Event], gone: Collection[Element]) -> list[_Voice]:
    voices: dict[str, _Voice] = {}
    for event in events:
        voice = voices.setdefault(event.voice, _Voice(event.voice, event.staff))
        if event.notes and event.notes[0].find("rest") is not None:
            voice.rests.append(event)
            continue
        stay = [note for note in event.notes if note not in gone]
        if event.notes and not stay:
            voice.holes.append((event.start, event.end))
            continue
        if len(stay) < len(event.notes):
            for mark in stay[0].findall("chord"):
                stay[0].remove(mark)
            event.notes = stay
        voice.sounds.append(event)
    return list(voices.values())


def _place(voices: list[_Voice], staff: int, piece: Piece) -> None:
    """Adds a piece to the first voice of its staff that has room: one that lost notes there, if there is one."""
    own = sorted((v for v in voices if v.staff == staff), key=lambda v: not v.holes)
    fits = next((v for v in own if v.has_room(piece.start, piece.end)), None)
    if fits is None:
        numbers = [int(v.name) for v in voices if v.name.isdecimal()]
        fits = _Voice(str(max([4 * (staff - 1), *numbers]) + 1), staff)
        voices.append(fits)
    fits.new.append(piece)


def _in_order(voices: Iterable[_Voice]) -> list[tuple[_Voice, bool]]:
    """Voices by staff, and whether each is the first one of its staff that has anything to say."""
    found: list[tuple[_Voice, bool]] = []
    for voice in sorted(voices, key=lambda v: v.staff):
        found.append((voice, all(other.staff != voice.staff for other, _ in found)))
    return found


def _whole_rest(length: Fraction, voice: _Voice, manner: Manner) -> Element:
    note = Element("note")
    SubElement(note, "rest", measure="yes")
    SubElement(note, QUARTERS).text = str(length)
    SubElement(note, "voice").text = voice.name
    if manner.staves > 1:
        SubElement(note, "staff").text = str(voice.staff)
    return note


class _Writing:
    """The children of a measure, voice after voice. The first takes along what else stands in the measure."""

    def __init__(self, others: Sequence[tuple[Fraction, Element]]) -> None:
        def closes(element: Element) -> bool:
            return element.tag == "barline" and element.get("location", "right") == "right"

        self.pending = sorted((found for found in others if not closes(found[1])), key=itemgetter(0))
        self.last = [found for found in others if closes(found[1])]
        self.children: list[Element] = []
        self.at = Fraction(0)

    def add_voice(self, notes: Sequence[tuple[Fraction, Fraction, list[Element]]]) -> None:
        """notes: start, end and elements of each, in order."""
        for start, end, elements in notes:
            self._others(start)
            self._move(start)
            self.children += elements
            self.at = end

    def finished(self, length: Fraction) -> list[Element]:
        self._others(None)
        self._move(length)
        return [*self.children, *(element for _, element in self.last)]

    def _others(self, until: Fraction | None) -> None:
        while self.pending and (until is None or self.pending[0][0] <= until):
            place, element = self.pending.pop(0)
            self._move(place)
            self.children.append(element)

    def _move(self, to: Fraction) -> None:
        if to != self.at:
            element = Element("backup" if to < self.at else "forward")
            SubElement(element, QUARTERS).text = str(abs(to - self.at))
            self.children.append(element)
        self.at = to


def in_divisions(measure: Element, divisions: Fraction) -> None:
    """Gives the new elements of a measure their durations: in finer divisions than it had, if they need it."""
    new = list(measure.iter(QUARTERS))
    quarters = [Fraction(e.text or 0) for e in new]
    finer = lcm(*((q * divisions).denominator for q in quarters))
    if finer > 1:
        for element in (*measure.iter("duration"), *measure.iter("offset")):
            element.text = _shown(number(element, ".", 0) * finer)
        for element in measure.findall("attributes/divisions"):
            element.text = _shown(divisions * finer)
        if measure.find("attributes/divisions") is None:
            measure.insert(0, _attributes(divisions * finer))
        closing = len(measure) > 0 and measure[-1].tag == "barline"
        measure.insert(len(measure) - closing, _attributes(divisions))
    for element, length in zip(new, quarters, strict=True):
        element.tag, element.text = "duration", _shown(length * divisions * finer)


def _attributes(divisions: Fraction) -> Element:
    attributes = Element("attributes")
    SubElement(attributes, "divisions").text = _shown(divisions)
    return attributes


def _shown(value: Fraction) -> str:
    return f"{float(value):.6f}".rstrip("0").rstrip(".")
