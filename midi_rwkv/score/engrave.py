"""Notes as they are written: on a grid, split at beats with ties, with dots, triplets, beams and names for pitches.

Times are in quarter notes from the start of a measure.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import NamedTuple
from xml.etree.ElementTree import Element, SubElement

from .harmony import LINE_OF_FIFTHS, PITCH_CLASSES, fifths_of

GRIDS = {1: 0.0, 2: 0.01, 4: 0.02, 3: 0.03, 8: 0.045, 6: 0.05}  # parts of a quarter: what each costs, in quarters
ENDS = {1: 4, 2: 4, 4: 4, 8: 8, 3: 3, 6: 6}  # by grid, the parts of a quarter at which notes end
NEAR = Fraction(1, 4)  # a gap shorter than this is not written
OVERLAP = Fraction(1, 8)  # nor is an overlap up to this
NAMES = ("whole", "half", "quarter", "eighth", "16th", "32nd", "64th")
TYPES = {Fraction(4, 2**k): name for k, name in enumerate(NAMES)}
VALUES = sorted(((n * (2 - Fraction(1, 2**dots)), name, dots) for n, name in TYPES.items() for dots in (0, 1)))[::-1]
BEAMS = {"eighth": 1, "16th": 2, "32nd": 3, "64th": 4}
QUARTERS = "quarters"  # what stands for <duration> until the divisions are known
WRITTEN_LONGER = Fraction(3, 2)  # notes of a triplet


@dataclass(frozen=True)
class Tone:
    """A note of a piece. dynamics: its velocity in percent of 90."""

    pitch: int  # as it sounds
    dynamics: str
    tied_from: bool = False
    tied_on: bool = False


@dataclass(frozen=True)
class Piece:
    """A chord, a note or (without tones) a rest, within one measure."""

    start: Fraction
    end: Fraction
    tones: tuple[Tone, ...] = ()


class Name(NamedTuple):
    """The elements that say which note a tone is; where they do not apply, None."""

    pitch: Element
    instrument: Element | None = None
    notehead: Element | None = None


@dataclass(frozen=True)
class Manuscript:
    """How the notes of a measure are written.

    Attributes:
        metre: the time signature.
        name: names a tone.
        voice, staff: of the notes; no staff where the part has one.
    """

    metre: tuple[int, int]
    name: Callable[[Tone], Name]
    voice: str
    staff: int | None


@dataclass
class _Value:
    """A piece, or a part of one, that one note value writes. No type: a length that has no value."""

    piece: Piece
    type: str
    dots: int
    in_triplet: bool
    elements: list[Element]


def on_grid(spans: Sequence[tuple[Fraction, Fraction]], *, is_drum: bool) -> list[tuple[Fraction, Fraction]]:
    """Onsets and ends of a part's notes as they are written: each quarter has the coarsest grid that fits its onsets.

    Short gaps and overlaps between notes are closed, and a hit of drums ends with its beat or at the next one.
    """
    cells: dict[int, list[Fraction]] = {}
    for onset, _ in spans:
        cells.setdefault(int(onset), []).append(onset % 1)
    grids = {cell: min(GRIDS, key=lambda parts: _misfit(places, parts)) for cell, places in cells.items()}
    onsets = [_snapped(onset, grids[int(onset)]) for onset, _ in spans]
    ascending = sorted(set(onsets))
    found = []
    for (first, end), onset in zip(spans, onsets, strict=True):
        at = bisect_right(ascending, onset)
        if is_drum:
            end = min([int(onset) + Fraction(1), *ascending[at : at + 1]])
        else:
            end = max(_snapped(end, ENDS[grids.get(int(end), 1)]), onset + Fraction(1, ENDS[grids[int(first)]]))
            close = bisect_right(ascending, end - OVERLAP - Fraction(1, 1000))
            near = ascending[max(at, close) : max(at, close) + 1]
            end = near[0] if near and near[0] - end < NEAR else end
        found.append((onset, end))
    longest: dict[Fraction, Fraction] = {}
    for onset, end in found:
        longest[onset] = max(end, longest.get(onset, end))
    return [(onset, longest[onset] if longest[onset] - end <= NEAR else end) for onset, end in found]


def _misfit(places: Iterable[Fraction], parts: int) -> float:
    return GRIDS[parts] + max(float(abs(place - _snapped(place, parts))) for place in places)


def _snapped(place: Fraction, parts: int) -> Fraction:
    return Fraction(round(place * parts), parts)


def engraved(pieces: Sequence[Piece], manuscript: Manuscript) -> list[tuple[Piece, list[Element]]]:
    """The `<note>` elements of the pieces of a voice, which do not overlap, and what each writes. Instead
    of `<duration>` they have `<quarters>`, a fraction (see `in_divisions`)."""
    pieces = sorted(pieces, key=lambda piece: piece.start)
    triplets = {int(at) for p in pieces for at in (p.start, p.end) if at.denominator % 3 == 0}
    beat = _beat(manuscript.metre)
    values = [v for piece in pieces for v in _values(piece, triplets, beat)]
    for value in values:
        _write(value, manuscript)
    _bracket(values, triplets)
    _beam(values, max(beat, Fraction(1)))
    return [(value.piece, value.elements) for value in values]


def _beat(metre: tuple[int, int]) -> Fraction:
    numerator, denominator = metre
    unit = Fraction(4, denominator)
    return 3 * unit if denominator >= 8 and numerator > 3 and numerator % 3 == 0 else unit


def _values(piece: Piece, triplets: set[int], beat: Fraction) -> list[_Value]:
    """A piece as note values: tied from one to the next."""
    found: list[_Value] = []
    at = piece.start
    while at < piece.end:
        if int(at) in triplets:
            left = min(piece.end, Fraction(int(at) + 1)) - at
            length, name, dots = _longest(left * WRITTEN_LONGER, lambda _: True)
            length /= WRITTEN_LONGER
        else:
            stop = min([piece.end, *(Fraction(cell) for cell in triplets if at < cell < piece.end)])
            length, name, dots = _longest(stop - at, lambda value, at=at: _stands_well(at, value, beat))  # type: ignore[misc]
        if not name:
            length = min(piece.end, Fraction(int(at) + 1)) - at
        tones = tuple(
            replace(t, tied_from=t.tied_from or at > piece.start, tied_on=t.tied_on or at + length < piece.end)
            for t in piece.tones
        )
        found.append(_Value(Piece(at, at + length, tones), name, dots, bool(name) and int(at) in triplets, []))
        at += length
    return found


def _longest(room: Fraction, stands: Callable[[Fraction], bool]) -> tuple[Fraction, str, int]:
    """The longest value that fits, if the room is a multiple of the shortest."""
    if (room * 16).denominator != 1:
        return room, "", 0
    return next((v for v in VALUES if v[0] <= room and stands(v[0])), (room, "", 0))


def _stands_well(at: Fraction, length: Fraction, beat: Fraction) -> bool:
    """Whether a value shows the beats: it begins on one, or lies within one, or is a beat that begins half-way."""
    place = at % beat
    if place == 0:
        return length <= beat or beat.numerator != 3 or length % beat == 0
    return place + length <= beat or (beat.numerator != 3 and place == beat / 2 and length == beat)


def _write(value: _Value, manuscript: Manuscript) -> None:
    """Makes the elements of a value."""
    if not value.piece.tones:
        value.elements.append(_note(value, manuscript, None, Name(Element("rest"))))
    for k, tone in enumerate(value.piece.tones):
        note = _note(value, manuscript, tone, manuscript.name(tone))
        note.set("dynamics", tone.dynamics)
        if k:
            note.insert(0, Element("chord"))
        value.elements.append(note)


def _note(value: _Value, manuscript: Manuscript, tone: Tone | None, name: Name) -> Element:
    """A note or a rest, its children in the order that MusicXML's schema asks for."""
    note = Element("note")
    note.append(name.pitch)
    SubElement(note, QUARTERS).text = str(value.piece.end - value.piece.start)
    ties = [kind for kind, is_tied in (("stop", tone.tied_from), ("start", tone.tied_on)) if is_tied] if tone else []
    for kind in ties:
        SubElement(note, "tie", type=kind)
    if name.instrument is not None:
        note.append(name.instrument)
    SubElement(note, "voice").text = manuscript.voice
    if value.type:
        SubElement(note, "type").text = value.type
        note.extend(Element("dot") for _ in range(value.dots))
    if value.in_triplet:
        modification = SubElement(note, "time-modification")
        SubElement(modification, "actual-notes").text = "3"
        SubElement(modification, "normal-notes").text = "2"
    if name.notehead is not None:
        note.append(name.notehead)
    if manuscript.staff is not None:
        SubElement(note, "staff").text = str(manuscript.staff)
    if ties:
        notations = SubElement(note, "notations")
        for kind in ties:
            SubElement(notations, "tied", type=kind)
    return note


def _bracket(values: Sequence[_Value], triplets: set[int]) -> None:
    """Marks where triplets begin and end, if all of them is written here."""
    for cell in triplets:
        inside = [v for v in values if v.in_triplet and int(v.piece.start) == cell]
        if inside and sum(v.piece.end - v.piece.start for v in inside) == 1:
            for value, kind in ((inside[0], "start"), (inside[-1], "stop")):
                note = value.elements[0]
                notations = note.find("notations")
                notations = SubElement(note, "notations") if notations is None else notations
                SubElement(notations, "tuplet", type=kind)


def _beam(values: Sequence[_Value], unit: Fraction) -> None:
    """Beams the notes in each `unit` quarters that follow each other without a rest."""
    group: list[_Value] = []
    for value in [*values, None]:
        joins = value is not None and bool(value.piece.tones) and value.type in BEAMS
        if group and not (
            joins
            and value is not None
            and value.piece.start == group[-1].piece.end
            and value.piece.start // unit == group[0].piece.start // unit
        ):
            _beam_group([(v.elements[0], BEAMS[v.type]) for v in group])
            group = []
        if joins and value is not None:
            group.append(value)


def _beam_group(notes: Sequence[tuple[Element, int]]) -> None:
    """notes: with how many beams each has."""
    if len(notes) < 2:
        return
    for k, (note, beams) in enumerate(notes):
        notations = note.find("notations")
        at = len(note) if notations is None else list(note).index(notations)
        for level in range(1, beams + 1):
            before = k > 0 and notes[k - 1][1] >= level
            after = k + 1 < len(notes) and notes[k + 1][1] >= level
            beam = Element("beam", number=str(level))
            beam.text = ("continue" if after else "end") if before else "begin" if after else ""
            beam.text = beam.text or ("forward hook" if k == 0 else "backward hook")
            note.insert(at, beam)
            at += 1


def pitch_element(pitch: int, fifths: int) -> Element:
    """A written pitch, named as in a key of so many sharps: from its flat third to its sharp fifth if it is major."""
    place = fifths_of(pitch % 12, fifths - 3)
    step, alter = LINE_OF_FIFTHS[(place + 1) % 7], (place + 1) // 7
    element = Element("pitch")
    SubElement(element, "step").text = step
    if alter:
        SubElement(element, "alter").text = str(alter)
    SubElement(element, "octave").text = str((pitch - alter - PITCH_CLASSES[step.lower()]) // 12 - 1)
    return element
