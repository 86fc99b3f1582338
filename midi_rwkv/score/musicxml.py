"""A MusicXML document: its parts, its measures and where these stand in its bytes.

Python's own parser (expat) reads it, which fetches nothing. A document that declares entities is refused, and so is one
that unzips to more than `MAX_FILE_BYTES`.
"""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from dataclasses import dataclass, field
from fractions import Fraction
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from midi_rwkv.errors import MidiError

from .score import MAX_BARS
from .smf import MAX_FILE_BYTES, MAX_TRACKS

SUFFIXES = (".musicxml", ".mxl", ".xml")  # how scores are called
MOST_STAVES = 8  # of a part
DEEPEST = 60  # elements within elements
NUMBER = re.compile(r"\s*([+-]?[0-9]{1,9}(?:\.[0-9]{1,9})?)\s*")
CONTAINER = "META-INF/container.xml"  # names the score in an .mxl file
UTF16 = (b"\xff\xfe", b"\xfe\xff")
BLANK = b"\xef\xbb\xbf \r\n\t"  # what may stand before the first tag
DECLARATION = b"""<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE score-partwise PUBLIC "-//Recordare//DTD MusicXML 4.0 Partwise//EN" "http://www.musicxml.org/dtds/partwise.dtd">
"""
Span = tuple[int, int]  # of bytes, half-open


@dataclass
class Manner:
    """What `<attributes>` say that holds at a place in a part."""

    divisions: Fraction = Fraction(1)  # of a quarter note
    fifths: int = 0  # sharps of the key, or minus its flats
    staves: int = 1
    shifts: dict[int, int] = field(default_factory=dict)  # semitones from written to sounding by staff; 0: all

    def shift(self, staff: int) -> int:
        """Semitones from what a staff has written to what sounds."""
        return self.shifts.get(staff, self.shifts.get(0, 0))

    def take(self, attributes: Element) -> None:
        """Takes over what `attributes` say."""
        self.divisions = number(attributes, "divisions", self.divisions)
        if self.divisions <= 0:
            raise MidiError(f"<divisions> must be above 0, got {self.divisions}")
        self.fifths = max(-7, min(7, int(number(attributes, "key/fifths", self.fifths))))
        self.staves = max(1, min(MOST_STAVES, int(number(attributes, "staves", self.staves))))
        for element in attributes.findall("transpose"):
            shift = number(element, "chromatic", 0) + 12 * number(element, "octave-change", 0)
            self.shifts = {**self.shifts, int(element.get("number", "0")): round(shift)}


@dataclass
class Event:
    """A chord, a note or a rest of a voice. Times are in quarter notes from the measure's start."""

    notes: list[Element]
    start: Fraction
    end: Fraction
    voice: str = "1"
    staff: int = 1
    shift: int = 0  # semitones from written to sounding
    graces: list[Element] = field(default_factory=list)  # that lead to it


@dataclass
class Content:
    """What a measure has. Times are in quarter notes from its start."""

    events: list[Event]
    others: list[tuple[Fraction, Element]]  # all but notes, backups and forwards, in their order
    length: Fraction


@dataclass
class Measure:
    """A measure of a part. manner: what holds before it."""

    element: Element
    span: Span
    manner: Manner = field(default_factory=Manner)

    def content(self) -> tuple[Content, Manner]:
        """What it has, and what holds after it. Raises MidiError."""
        manner = Manner(self.manner.divisions, self.manner.fifths, self.manner.staves, self.manner.shifts)
        return walk(self.element, manner), manner


@dataclass
class Part:
    """A part; `head` is its `<score-part>`, and its end is the byte at which `</part>` begins."""

    key: str
    head: Element
    head_span: Span
    measures: list[Measure]
    end: int

    @property
    def name(self) -> str:
        return " ".join(self.head.findtext("part-name", "").split())


@dataclass
class Document:
    """A document with at least one part, whose parts have as many measures, at least one.

    Attributes:
        data: the bytes, which all spans and ends refer to.
        list_end, end: the bytes at which the end tags of the list of parts and of the root begin.
    """

    data: bytes
    parts: list[Part]
    list_end: int
    end: int


def is_musicxml(data: bytes) -> bool:
    """Whether a file is XML or a zip, which no MIDI file is."""
    return data[:4] == b"PK\3\4" or data[:2] in UTF16 or data[:200].lstrip(BLANK)[:1] == b"<"


def text_of(element: Element) -> bytes:
    """An element as text that fits a document in any encoding."""
    ElementTree.indent(element)
    element.tail = "\n"
    text: bytes = ElementTree.tostring(element, encoding="us-ascii")
    return text


def number(element: Element, path: str, default: Fraction | int) -> Fraction:
    """The number that a descendant has as its text. Raises MidiError if it is none."""
    text = element.findtext(path)
    if text is None or not text.strip():
        return Fraction(default)
    found = NUMBER.fullmatch(text)
    if not found:
        raise MidiError(f"<{path.rpartition('/')[2]}> must have a number, got {text[:20]!r}")
    return Fraction(found[1])


def walk(measure: Element, manner: Manner) -> Content:
    """What a measure has. `manner` takes over what its attributes say. Raises MidiError."""
    events: list[Event] = []
    others: list[tuple[Fraction, Element]] = []
    graces: dict[str, list[Element]] = {}
    at = length = Fraction(0)
    for child in measure:
        if child.tag == "note":
            voice, staff = child.findtext("voice", "1").strip(), int(number(child, "staff", 1))
            if child.find("grace") is not None:
                graces.setdefault(voice, []).append(child)
            elif child.find("chord") is not None and events:
                events[-1].notes.append(child)
            else:
                end = at + _duration(child, manner)
                events.append(Event([child], at, end, voice, staff, manner.shift(staff), graces.pop(voice, [])))
                at = end
        elif child.tag == "backup":
            at = max(Fraction(0), at - _duration(child, manner))
        elif child.tag == "forward":
            at += _duration(child, manner)
        else:
            if child.tag == "attributes":
                manner.take(child)
            others.append((at, child))
        length = max(length, at)
    events += [Event([], length, length, voice, graces=left) for voice, left in graces.items()]
    return Content(events, others, length)


def _duration(element: Element, manner: Manner) -> Fraction:
    duration = number(element, "duration", 0)
    if duration < 0:
        raise MidiError(f"<duration> must be 0 or more, got {duration}")
    return duration / manner.divisions


def read_document(data: bytes, name: str) -> Document:
    """Reads a document, `.mxl` too. name: what to call it in messages.

    Raises:
        MidiError: it is none, or is damaged, too big or hostile.
    """
    data = _unzipped(data, name) if data[:2] == b"PK" else data
    if data[:2] in UTF16:
        text = data.decode("utf-16", "replace")
        data = re.sub(r"""(<\?xml[^>]*?encoding=)["'][^"']*["']""", r'\1"UTF-8"', text, count=1).encode()
    return _Parsing(data, name).document()


def _unzipped(data: bytes, name: str) -> bytes:
    """The score in an `.mxl` file."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            with archive.open(CONTAINER) as file:
                found = re.search(rb"""<rootfile\s[^>]*?full-path\s*=\s*["']([^"']+)["']""", file.read(100_000))
            if not found:
                raise KeyError(CONTAINER)
            with archive.open(found[1].decode("utf-8", "replace")) as file:
                score = file.read(MAX_FILE_BYTES + 1)
    except KeyError:
        raise MidiError(f"{name} is a zip without a score; export it as MusicXML (.musicxml or .mxl)") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError, ValueError):
        raise MidiError(f"{name} is a damaged or encrypted zip; export it as MusicXML (.musicxml) again") from None
    if len(score) > MAX_FILE_BYTES:
        raise MidiError(
            f"{name} unzips to more than {MAX_FILE_BYTES:,} bytes; at most these are read; split it into shorter files"
        )
    return score


class _Parsing:
    """The elements of a document, and where in its bytes they stand."""

    def __init__(self, data: bytes, name: str) -> None:
        self.data, self.name = data, name
        self.builder = TreeBuilder()
        self.begins: list[int] = []  # of the open elements
        self.spans: dict[Element, Span] = {}  # of measures and heads
        self.ends: dict[str, int] = {}  # by tag, where its last end tag begins
        self.part_ends: list[int] = []
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self.builder.data
        self.parser.EntityDeclHandler = self._refuse

    def document(self) -> Document:
        try:
            self.parser.Parse(self.data, True)  # noqa: FBT003 - it takes no keywords
        except MidiError:
            raise
        except (expat.ExpatError, LookupError, ValueError) as error:
            raise MidiError(f"{self.name} is no sound MusicXML: {error}; export it again") from None
        root = self.builder.close()
        heads = {head.get("id", ""): head for head in root.findall("part-list/score-part")}
        parts = []
        for element, end in zip(root.findall("part"), self.part_ends, strict=True):
            key = element.get("id", "")
            if key not in heads:
                raise MidiError(f"{self.name} is damaged: its list of parts has no {key[:20]!r}; export it again")
            measures = [Measure(m, self.spans[m]) for m in element.findall("measure")]
            parts.append(Part(key, heads[key], self.spans[heads[key]], measures, end))
        self._check(parts)
        return Document(self.data, parts, self.ends["part-list"], self.ends["score-partwise"])

    def _check(self, parts: list[Part]) -> None:
        counts = sorted({len(part.measures) for part in parts})
        if not counts or not counts[0]:
            raise MidiError(f"{self.name} has no measures; at least 1 is needed; choose a score with music in it")
        if len(parts) >= MAX_TRACKS:
            raise MidiError(f"{self.name} has {len(parts)} parts; at most {MAX_TRACKS - 1} are read; leave some out")
        if len(counts) > 1:
            between = f"{counts[0]} to {counts[-1]}"
            raise MidiError(f"{self.name} is damaged: its parts have {between} measures, not as many; export it again")
        if counts[0] > MAX_BARS:
            raise MidiError(f"{self.name} has more than {MAX_BARS:,} bars; at most these are read; shorten it")

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        if not self.begins and tag != "score-partwise":
            remedy = "save it as score-partwise" if tag == "score-timewise" else "export the score as MusicXML"
            raise MidiError(f"{self.name} is no MusicXML that can be read: it is a <{tag[:30]}>; {remedy}")
        if len(self.begins) >= DEEPEST:
            raise MidiError(f"{self.name} has elements more than {DEEPEST} deep; export it again")
        self.begins.append(self.parser.CurrentByteIndex)
        self.builder.start(tag, attributes)

    def _end(self, tag: str) -> None:
        element, begin, at = self.builder.end(tag), self.begins.pop(), self.parser.CurrentByteIndex
        self.ends[tag] = at
        if tag in ("measure", "score-part"):
            closing = b">" if self.data.startswith(b"</", at) else b"/>"
            self.spans[element] = begin, self.data.index(closing, at) + len(closing)
        elif tag == "part" and len(self.begins) == 1:
            self.part_ends.append(at)

    def _refuse(self, *_: object) -> None:
        raise MidiError(f"{self.name} declares entities, which are not read; save it again in a score editor")
