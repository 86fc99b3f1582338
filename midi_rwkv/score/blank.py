"""Empty parts of MusicXML, to be written into: for a song that has no score, or a track that is new in one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from xml.etree.ElementTree import Element, SubElement

from .engrave import QUARTERS
from .instruments import program_name
from .musicxml import DECLARATION, text_of
from .notated import in_divisions
from .score import Score, Track
from .smf import DRUM_CHANNEL, decoded

DIVISIONS = 24
MIDDLE_C, LOW, HIGH = 60, 55, 62  # what lies below and above is written in the bass and the treble clef
KEYBOARDS = range(24)  # programs that are written on two staves
CLEFS = {"treble": ("G", 2), "bass": ("F", 4), "percussion": ("percussion", None)}
SHOWN_CHANGE = 0.05  # of the tempo; smaller ones are heard but get no mark
BASS_DRUM = 36
MAJOR = frozenset((0, 2, 4, 5, 7, 9, 11))


@dataclass(frozen=True)
class BlankBar:
    """A bar without notes. tempos: place in quarter notes, and quarter notes a minute."""

    length: Fraction  # in quarter notes
    metre: tuple[int, int]
    tempos: Sequence[tuple[Fraction, float]] = ()


@dataclass(frozen=True)
class BlankPart:
    """An empty part of an instrument. pitches: what it will play, by which clefs are chosen."""

    key: str
    name: str
    program: int
    is_drum: bool
    pitches: Sequence[int] = ()

    @property
    def clefs(self) -> list[str]:
        if self.is_drum:
            return ["percussion"]
        pitches = sorted(self.pitches) or [MIDDLE_C]
        if self.program in KEYBOARDS and pitches[0] < LOW and pitches[-1] > HIGH:
            return ["treble", "bass"]
        return ["bass" if pitches[len(pitches) // 2] < MIDDLE_C - 3 else "treble"]

    def head(self) -> Element:
        """Its `<score-part>`."""
        head = Element("score-part", id=self.key)
        SubElement(head, "part-name").text = self.name
        key = f"{self.key}-I1"
        SubElement(SubElement(head, "score-instrument", id=key), "instrument-name").text = self.name
        midi = SubElement(head, "midi-instrument", id=key)
        if self.is_drum:  # of other hits the instruments come when they are written
            SubElement(midi, "midi-channel").text = str(DRUM_CHANNEL + 1)
            SubElement(midi, "midi-unpitched").text = str(BASS_DRUM + 1)
        else:
            SubElement(midi, "midi-program").text = str(self.program + 1)
        return head

    def measures(self, bars: Sequence[BlankBar], *, fifths: int, first: int) -> list[Element]:
        """Its measures, numbered from `first` on; 0 is a pickup. fifths: sharps of the key, or minus its flats."""
        found: list[Element] = []
        shown = 0.0
        for k, (before, bar) in enumerate(pairwise([None, *bars])):
            assert bar is not None
            measure = Element("measure", {"number": str(first + k), **({} if first + k else {"implicit": "yes"})})
            if before is None or before.metre != bar.metre:
                self._attributes(measure, bar.metre, fifths if before is None else None)
            for place, tempo in bar.tempos:
                shows = not place and abs(tempo - shown) > SHOWN_CHANGE * shown
                shown = tempo if shows else shown
                _tempo(measure, place, tempo, shows=shows)
            add_rests(measure, bar.length, len(self.clefs))
            in_divisions(measure, Fraction(DIVISIONS))
            found.append(measure)
        return found

    def _attributes(self, measure: Element, metre: tuple[int, int], fifths: int | None) -> None:
        """fifths: the key, in a part's first measure."""
        attributes = SubElement(measure, "attributes")
        if fifths is not None:
            SubElement(attributes, "divisions").text = str(DIVISIONS)
            SubElement(SubElement(attributes, "key"), "fifths").text = str(fifths)
        time = SubElement(attributes, "time")
        SubElement(time, "beats").text, SubElement(time, "beat-type").text = map(str, metre)
        if fifths is None:
            return
        if len(self.clefs) > 1:
            SubElement(attributes, "staves").text = str(len(self.clefs))
        for number, (sign, line) in enumerate((CLEFS[name] for name in self.clefs), 1):
            clef = SubElement(attributes, "clef", {"number": str(number)} if len(self.clefs) > 1 else {})
            SubElement(clef, "sign").text = sign
            if line:
                SubElement(clef, "line").text = str(line)


def _tempo(measure: Element, place: Fraction, tempo: float, *, shows: bool) -> None:
    """A tempo at a place, with a metronome mark if it shows."""
    text = f"{tempo:.3f}".rstrip("0").rstrip(".")
    if place:
        SubElement(SubElement(measure, "forward"), QUARTERS).text = str(place)
    if shows:
        direction = SubElement(measure, "direction", placement="above")
        mark = SubElement(SubElement(direction, "direction-type"), "metronome")
        SubElement(mark, "beat-unit").text = "quarter"
        SubElement(mark, "per-minute").text = f"{tempo:.0f}"
        SubElement(direction, "sound", tempo=text)
    else:
        SubElement(measure, "sound", tempo=text)
    if place:
        SubElement(SubElement(measure, "backup"), QUARTERS).text = str(place)


def add_rests(measure: Element, length: Fraction, staves: int) -> None:
    """Fills an empty measure with rests, whose durations are yet to be given (see `in_divisions`)."""
    for staff in range(1, staves + 1):
        if staff > 1:
            SubElement(SubElement(measure, "backup"), QUARTERS).text = str(length)
        note = SubElement(measure, "note")
        SubElement(note, "rest", measure="yes")
        SubElement(note, QUARTERS).text = str(length)
        SubElement(note, "voice").text = str(4 * staff - 3)
        if staves > 1:
            SubElement(note, "staff").text = str(staff)


def blank_part(track: Track, key: str) -> BlankPart:
    """A part for a track. key: its id."""
    name = track.name or program_name(track.program, is_drum=track.is_drum)
    pitches = [n.pitch for n in track.notes]
    return BlankPart(key, decoded(name.encode(errors="replace")), track.program, track.is_drum, pitches)


def blank_score(score: Score) -> bytes:
    """A document in which the tracks of a song are parts without notes, and the bars measures."""
    bars = []
    for bar in score.bars:
        inside = [t for t in score.tempos if bar.start_ticks <= t.tick < bar.end_ticks]
        tempos = [(Fraction(t.tick - bar.start_ticks, score.ticks_per_beat), t.beats_per_minute) for t in inside]
        length = Fraction(bar.end_ticks - bar.start_ticks, score.ticks_per_beat)
        bars.append(BlankBar(length, (bar.numerator, bar.denominator), tempos))
    silent = [BlankBar(bar.length, bar.metre) for bar in bars]
    root = Element("score-partwise", version="4.0")
    parts = SubElement(root, "part-list")
    fifths = _fifths(score)
    for k, track in enumerate(score.tracks):
        part = blank_part(track, f"P{k + 1}")
        parts.append(part.head())
        measures = part.measures(silent if k else bars, fifths=fifths, first=score.first_bar_number)
        SubElement(root, "part", id=part.key).extend(measures)
    return DECLARATION + text_of(root)


def _fifths(score: Score) -> int:
    """The key whose major scale sounds longest: of several, the one with the fewest sharps or flats."""
    sounding = [0] * 12
    for track in score.tracks:
        for note in () if track.is_drum else track.notes:
            sounding[note.pitch % 12] += note.duration_ticks
    return max(range(-5, 7), key=lambda f: (sum(sounding[(7 * f + step) % 12] for step in MAJOR), -abs(f)))
