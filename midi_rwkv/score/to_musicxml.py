"""A song with a fill as MusicXML: in the score that it came from, or in a new one.

In its own score only the measures in which notes come or go are written anew, and all other bytes are copied. A note of
the region that was tied to notes after it is gone with these, and rests stand there. New notes end with the region.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import count as count_from
from itertools import pairwise
from operator import itemgetter
from xml.etree.ElementTree import Element

from .blank import BlankBar, add_rests, blank_part, blank_score
from .clip_musicxml import clipped
from .engrave import Piece, Tone, on_grid
from .heard import FULL, Played, Song, hear, midi_of
from .midi import read_midi
from .musicxml import read_document, text_of
from .naming import Names
from .notated import Change, in_divisions, rewritten
from .score import Cell, Note, Region, Score, Track

MIDDLE_C = 60
LATEST = Fraction(1, 8)  # how long before a bar line the last note of a bar begins at least
Edit = tuple[int, int, bytes]  # of a span of bytes, half-open: what stands there instead
WrittenNote = tuple[Fraction, Fraction, int, int]  # onset and end in quarters from a bar's start, pitch, velocity


def in_own_score(data: bytes, song: bytes, score: Score, region: Region, *, clip: bool = False) -> bytes:
    """A MusicXML document with a fill in it.

    Args:
        data: the document.
        song: the MIDI file that `midi_of` made of it, with the fill (see `splice`).
        score: the song with the fill, and with the tracks that were added.
        clip: write only the bars of the region, of its parts.

    Raises:
        MidiError: the document cannot be changed there.
    """
    document = read_document(data, score.name)
    heard = hear(document, score.name)
    before = {t.chunk: t.notes for t in read_midi(midi_of(heard), score.name, allow_empty=True).tracks}
    after = read_midi(song, score.name, allow_empty=True)
    places = _places(heard, score)
    grown = _grown(heard, score, places, 1 + max(region.bars))
    if grown is not None:
        heard = hear(read_document(grown, score.name), score.name)
    writing = _Writing(heard)
    notes = {}
    for track in after.tracks:
        assert track.chunk is not None
        notes[track.chunk] = track.notes
    for chunk, (part, own) in places.items():
        old, new = Counter(before.get(chunk, ())), Counter(notes.get(chunk, ()))
        writing.remove(part, score, own, (old - new).elements(), region)
        writing.add(part, score, own, (new - old).elements(), region)
    filled = writing.document()
    if not clip:
        return filled
    parts = sorted(part for part, own in places.values() if own in region.tracks)
    return clipped(read_document(filled, score.name), parts, (region.bars[0], region.bars[-1] + 1))


def converted(score: Score) -> bytes:
    """A song as a new MusicXML document."""
    writing = _Writing(hear(read_document(blank_score(score), score.name), score.name))
    every = Region.rectangle(range(len(score.tracks)), [(0, len(score.bars))])
    for index, track in enumerate(score.tracks):
        writing.add(index, score, index, track.notes, every)
    return writing.document()


def _places(heard: Song, score: Score) -> dict[int, tuple[int, int]]:
    """For each chunk of the MIDI file, the part that it is and the track of `score`.

    A new track is an empty part of its instrument if the document has one, else a part after all others.
    """
    count = len(heard.parts)
    found: dict[int, tuple[int, int]] = {}
    empty = [k for k, played in enumerate(heard.parts) if not played.notes]
    new = 0
    for index, track in enumerate(score.tracks):
        if track.chunk is not None:
            found[track.chunk] = track.chunk - 1, index
            continue
        alike = [k for k in empty if _is_like(heard.parts[k], track)]
        if alike:
            empty.remove(alike[0])
        found[count + 1 + new] = (alike[0] if alike else count + sum(p >= count for p, _ in found.values())), index
        new += 1
    return found


def _is_like(played: Played, track: Track) -> bool:
    return played.is_drum == track.is_drum and (track.is_drum or played.program == track.program)


def _grown(heard: Song, score: Score, places: Mapping[int, tuple[int, int]], bars: int) -> bytes | None:
    """The document with so many measures at least and with a part for each track, or None if it has them."""
    document, count = heard.document, len(heard.metres)
    lengths = [b - a for a, b in pairwise(heard.starts)]
    blank = [BlankBar(length, metre) for length, metre in zip(lengths, heard.metres, strict=True)]
    for k in range(count, bars):
        bar = score.bar(k)
        length = Fraction(bar.end_ticks - bar.start_ticks, score.ticks_per_beat)
        blank.append(BlankBar(length, (bar.numerator, bar.denominator)))
    first, last = (document.parts[0].measures[k].element.get("number", "") for k in (0, -1))
    edits: list[Edit] = []
    for part in document.parts:
        manner = part.measures[-1].content()[1]
        for k, added in enumerate(blank[count:], 1):
            measure = Element("measure", number=str((int(last) if last.isdecimal() else count) + k))
            add_rests(measure, added.length, manner.staves)
            in_divisions(measure, manner.divisions)
            edits.append((part.end, part.end, text_of(measure)))
    keys = {part.key for part in document.parts}
    manners = [part.measures[0].content()[1] for part in document.parts]
    fifths = next((manner.fifths for manner in manners if not manner.shifts), 0)
    for _, own in sorted(place for place in places.values() if place[0] >= len(document.parts)):
        key = next(key for key in (f"P{n}" for n in count_from(1)) if key not in keys)
        keys.add(key)
        new = blank_part(score.tracks[own], key)
        element = Element("part", id=key)
        element.extend(new.measures(blank, fifths=fifths, first=int(first) if first in ("0", "1") else 1))
        edits.append((document.list_end, document.list_end, text_of(new.head())))
        edits.append((document.end, document.end, text_of(element)))
    return _edited(document.data, edits) if edits else None


class _Writing:
    """Collects what becomes of the measures of a document, and makes the document of it."""

    def __init__(self, heard: Song) -> None:
        self.heard, self.parts = heard, heard.document.parts
        self.gone: dict[tuple[int, int], set[Element]] = defaultdict(set)  # by part and measure
        self.new: dict[tuple[int, int], list[tuple[int, Piece]]] = defaultdict(list)

    def remove(self, part: int, score: Score, track: int, notes: Iterable[Note], region: Region) -> None:
        """Removes those of a track's notes that begin in the region from a part, with others that sound just so."""
        wanted = {n[:2] for n in notes if Cell(track, score.bar_of(track, n.onset_ticks)) in region.cells}
        for sounding in self.heard.parts[part].notes if wanted else ():
            if (self.heard.ticks(sounding.onset), sounding.pitch) in wanted:
                for measure, element in sounding.elements:
                    self.gone[part, measure].add(element)

    def add(self, part: int, score: Score, track: int, notes: Iterable[Note], region: Region) -> None:
        """Adds those of a track's notes that begin in the region to a part. They end with their run of its bars."""
        by_bar: dict[int, list[Note]] = defaultdict(list)
        for note in sorted(notes):
            by_bar[score.bar_of(track, note.onset_ticks)].append(note)
        for low, high in region.bar_runs(track):
            for bar in range(low, high):
                start = score.bar(bar).start_ticks
                lines = [Fraction(score.bar(b).end_ticks - start, score.ticks_per_beat) for b in range(bar, high)]
                is_drum = self.heard.parts[part].is_drum
                written = _written(by_bar[bar], start, score.ticks_per_beat, lines[0], is_drum=is_drum)
                self._add_bar(part, bar, [Fraction(0), *lines], written)

    def _add_bar(self, part: int, bar: int, lines: Sequence[Fraction], notes: Sequence[WrittenNote]) -> None:
        """Adds the notes that begin in a bar. lines: of this bar and those after it, in quarters from its start."""
        played = self.heard.parts[part]
        staves = self.parts[part].measures[bar].content()[1].staves
        for k, (low, high) in enumerate(pairwise(lines)):
            chords: dict[tuple[int, Fraction, Fraction], list[Tone]] = defaultdict(list)
            for onset, end, pitch, velocity in notes:
                lo, hi = max(onset, low), min(end, high)
                if lo < hi:
                    staff = 1 if staves < 2 or pitch >= MIDDLE_C else 2
                    dynamics = f"{velocity * 100 / FULL:.2f}"
                    tone = Tone(pitch, dynamics, onset < low, end > high and k + 2 < len(lines))
                    chords[staff, lo - low, hi - low].append(tone)
            for (staff, lo, hi), tones in chords.items():
                if played.is_drum:
                    tones = [replace(t, tied_from=False, tied_on=False) for t in tones]
                self.new[part, bar + k].append((staff, Piece(lo, hi, tuple(tones))))

    def document(self) -> bytes:
        """The document, changed."""
        edits: list[Edit] = []
        namers: dict[int, Names] = {}
        for part, k in sorted(self.gone.keys() | self.new.keys()):
            measure = self.parts[part].measures[k]
            new = sorted(self.new[part, k], key=lambda n: (n[1].start, -n[1].tones[0].pitch))
            length = max([self.heard.starts[k + 1] - self.heard.starts[k], *(piece.end for _, piece in new)])
            change = Change(self.gone[part, k], new, length, self.heard.metres[k])
            names = namers.setdefault(part, Names(self.heard.parts[part]))
            edits.append((*measure.span, text_of(rewritten(measure, change, names.of))))
        for part, names in namers.items():
            if names.has_grown:
                edits.append((*self.parts[part].head_span, text_of(self.parts[part].head)))
        return _edited(self.heard.document.data, edits)


def _written(
    notes: Sequence[Note], start: int, ticks_per_beat: int, bar: Fraction, *, is_drum: bool
) -> list[WrittenNote]:
    """The notes that begin in a bar as they are written. bar: its length in quarters, start: its tick."""
    spans = []
    for note in notes:
        onset = max(Fraction(0), Fraction(note.onset_ticks - start, ticks_per_beat))
        end = Fraction(note.onset_ticks + note.duration_ticks - start, ticks_per_beat)
        spans.append((onset, max(end, onset)))
    found: dict[tuple[int, Fraction], WrittenNote] = {}
    for note, (onset, end) in zip(notes, on_grid(spans, is_drum=is_drum), strict=True):
        if onset >= bar:  # rounded up to the bar line
            onset, end = bar - LATEST, max(end, bar)
        other = found.get((note.pitch, onset))
        found[note.pitch, onset] = onset, max(end, other[1] if other else end), note.pitch, note.velocity
    ordered = sorted(found.values(), key=itemgetter(2, 0))
    cut = [(a[0], min(a[1], b[0]) if a[2] == b[2] else a[1], *a[2:]) for a, b in pairwise(ordered)]
    return sorted([*cut, *ordered[-1:]])


def _edited(data: bytes, edits: Iterable[Edit]) -> bytes:
    """Bytes with some spans replaced."""
    found, at = [], 0
    for lo, hi, new in sorted(edits, key=itemgetter(0, 1)):  # stable: what goes to one place keeps its order
        found += [data[at:lo], new]
        at = hi
    return b"".join((*found, data[at:]))
