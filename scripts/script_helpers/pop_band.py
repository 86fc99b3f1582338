"""Harbour Lights: a pop band in G, for make_examples.py."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .compose import Chord, Part, Song, Span, read_line

VERSE = "Em7|Cadd9|G|D|Em7|Cadd9|Am7|Dsus4 D"
CHORUS = "G|D/F#|Em7|Cadd9|G/B|Cadd9|Am7 D|G"
BAND_FORM = [  # section, chords a bar, how loud the band plays
    ("Intro", "Em7|Cadd9|G|D/F#", 60),
    ("Verse 1", VERSE, 66),
    ("Pre-chorus", "Am7|Bm7|Cadd9|D", 74),
    ("Chorus 1", CHORUS, 88),
    ("Verse 2", VERSE, 72),
    ("Bridge", "Am7|Cm6|G/B|A7 D", 76),
    ("Chorus 2", CHORUS, 94),
    ("Outro", "Em7|Cadd9|G|G", 64),
]
BAND_LEAD = {
    "Verse 1": "rq B4e D5e E5q. D5e | D5q B4e A4e G4h | rq B4e D5e G5q. F#5e | F#5q E5e D5e A4h"
    "| rq B4e D5e E5q. D5e | E5q D5e C5e D5h | rq C5e D5e E5q. D5e | D5q C5e B4e A4h",
    "Pre-chorus": "A4e C5e E5q E5e D5e C5q | B4e D5e F#5q F#5e E5e D5q | C5e E5e G5q G5e F#5e E5q | F#5q G5q A5h",
    "Chorus 1": "D5e G5e B5q. A5e G5q | A5q. G5e F#5q D5q | E5e G5e B5q. A5e G5q | G5q. E5e G5h"
    "| D5e G5e B5q. A5e B5q | C6q. B5e A5q G5q | A5e G5e E5q F#5e G5e A5q | G5h. rq",
    "Verse 2": "re B4e B4e D5e E5q. D5e | D5e E5e D5e B4e G4h | re B4e D5e E5e G5q. F#5e | E5e F#5e E5e D5e A4h"
    "| re B4e B4e D5e E5q. G5e | E5q D5e C5e D5h | re C5e D5e E5e G5q. E5e | G5q E5e D5e A5h",
    "Bridge": "E5h. D5e C5e | Eb5h. D5e C5e | D5h G5h | A5q G5e E5e F#5q A5q",
    "Chorus 2": "D5e G5e B5q. A5e G5q | A5q. G5e F#5e E5e D5q | E5e G5e B5q. A5e G5q | G5q. E5e G5q A5q"
    "| B5e G5e D6q. B5e G5q | C6q. B5e C6e D6e B5q | A5e G5e E5q F#5e G5e A5q | G5h. rq",
    "Outro": "rq B4e D5e E5q. D5e | D5q B4e A4e G4h | rq B4e D5e G5q. A5e | G5w",
}
BAND_COUNTER = "B4w | C5h D5h | D5w | A4h F#4h | G4w | E5h D5h | C5w | A4h C5h"  # strings in verse 2
KICK, RIM, SNARE, HAT, PEDAL_HAT, OPEN_HAT, CRASH, RIDE, TAMBOURINE = 36, 37, 38, 42, 44, 46, 49, 51, 54
TOMS = (50, 47, 43)


@dataclass(frozen=True)
class BandBar:
    """One bar of the band: where it begins (in beats), and what the players know of it."""

    at: float
    section: str
    place: int  # in its section
    chords: list[str]
    loud: float
    ends: bool  # its section
    last: bool  # of the piece

    @property
    def full(self) -> bool:
        return "Chorus" in self.section

    @property
    def quiet(self) -> bool:
        return self.section in ("Intro", "Outro")

    @property
    def fill_from(self) -> float:
        """The beat at which the drummer leaves the groove for a fill."""
        if not self.ends or self.quiet:
            return 4.0
        return 2.0 if self.full or self.section in ("Pre-chorus", "Bridge") else 3.0


def band_bars() -> list[BandBar]:
    bars: list[BandBar] = []
    for number, (name, text, loud) in enumerate(BAND_FORM):
        symbols = [bar.split() for bar in text.split("|")]
        for place, chords in enumerate(symbols):
            ends = place == len(symbols) - 1
            last = ends and number == len(BAND_FORM) - 1
            bars.append(BandBar(4.0 * len(bars), name, place, chords, loud, ends, last))
    return bars


def pop_band() -> Song:
    song = Song("Harbour Lights", "G")
    song.tempo(0, 104)
    song.metre(0, 4, 4)
    drums = Part(song, "Drums", 0, 9)
    bass = Part(song, "Bass", 33, 0, 104)
    guitar = Part(song, "Electric Guitar", 27, 1, 84, 40)
    keys = Part(song, "Electric Piano", 4, 2, 88, 84)
    strings = Part(song, "Strings", 48, 3, 80, 70)
    lead = Part(song, "Lead", 65, 4, 108)
    voicings = {guitar: [55, 59, 64, 67], keys: [59, 62, 66, 69], strings: [67, 71, 74]}
    bars = band_bars()
    for bar, following in zip(bars, [*bars[1:], None], strict=True):
        if bar.place == 0:
            song.section(bar.at, bar.section)
            if bar.section in BAND_LEAD:
                lead.sing(bar.at, BAND_LEAD[bar.section], bar.loud + 10)
            if bar.section == "Verse 2":
                strings.sing(bar.at, BAND_COUNTER, bar.loud - 14, gate=1)
        band_drums(drums, bar)
        spans = [
            Span(bar.at + half * 4 / len(bar.chords), 4 / len(bar.chords), Chord(symbol))
            for half, symbol in enumerate(bar.chords)
        ]
        after = Chord(following.chords[0]) if following else None
        for span, target in zip(spans, [*(s.chord for s in spans[1:]), after or spans[-1].chord], strict=True):
            band_bass(bass, bar, span, target)
            for part, (low, high) in {guitar: (52, 72), keys: (57, 76), strings: (62, 81)}.items():
                voicings[part] = span.chord.voiced(voicings[part], low, high)
            band_guitar(guitar, bar, span, voicings[guitar])
            band_keys(keys, bar, span, voicings[keys])
            if bar.full or bar.section in ("Pre-chorus", "Bridge", "Outro"):
                for key in voicings[strings]:
                    strings.play(span.at, span.length, key, bar.loud - 22 + 3 * (bar.place % 4))
    for start, length, _ in read_line(BAND_LEAD["Chorus 2"], 4):  # the last chorus leans into its long notes
        if length >= 1.5:
            at = 36 * 4 + start
            for step in range(5):
                lead.bend(at + step / 16, -1200 + 300 * step)
    return song


def band_bass(part: Part, bar: BandBar, span: Span, target: Chord) -> None:
    """Roots on the strong beats, and a step towards the next root before it comes."""
    (at, length, chord), loud = span, bar.loud
    root, goal = chord.bass_pitch(28), target.bass_pitch(28)
    fifth = root + 7 if chord.bass == chord.classes[0] else root
    lead_in = goal + (-2 if goal > root else 2) if goal != root else fifth
    if lead_in % 12 not in (0, 2, 4, 6, 7, 9, 11):  # stay in G major
        lead_in += 1 if goal < root else -1
    if bar.last:
        part.play(at, length, root, loud)
    elif bar.full:
        for step in range(int(2 * length)):
            key = lead_in if step == 2 * length - 1 else root + 12 if step % 4 == 3 else root
            part.play(at + step / 2, 0.45, key, loud + (5 if step % 2 == 0 else -5), late=5)
    else:
        part.play(at, 1.4, root, loud + 8, late=5)
        part.play(at + 1.5, 0.45, root, loud - 4, late=5)
        if length == 4:
            part.play(at + 2, 1.0, fifth, loud + 3, late=5)
            part.play(at + 3, 0.45, root, loud - 2, late=5)
            part.play(at + 3.5, 0.45, lead_in, loud, late=5)


def band_guitar(part: Part, bar: BandBar, span: Span, voices: list[int]) -> None:
    """Broken chords in quavers; in a chorus strummed, down on the beat and up after it."""
    at, length, _ = span
    if bar.last:
        for string, key in enumerate(voices):
            part.play(at + string / 24, length - 0.2, key, bar.loud - 6)
    elif bar.full:
        for start, held in [(0, 0.9), (1, 0.45), (1.5, 0.9), (2.5, 0.45), (3, 0.9)]:
            if start < length:
                strum = voices if start % 1 == 0 else voices[:0:-1]
                for string, key in enumerate(strum):
                    louder = -4 if start in (1, 3) else -10
                    part.play(at + start + string / 60, held - string / 60, key, bar.loud + louder)
    else:
        for step in range(int(2 * length)):
            key = voices[(0, 2, 1, 3, 2, 3, 1, 2)[step]]
            part.play(at + step / 2, 0.9, key, bar.loud - 10 + (6 if step % 4 == 0 else 0), late=6)


def band_keys(part: Part, bar: BandBar, span: Span, voices: list[int]) -> None:
    """Chords, held where the band is quiet and struck three times elsewhere."""
    hits = [(0.0, 4.0)] if bar.quiet else [(0.0, 1.5), (1.5, 1.0), (2.5, 1.5)]
    for start, held in [(0.0, 2.0)] if span.length == 2 else hits:
        for key in voices:
            part.play(span.at + start, held * 0.9, key, bar.loud - 12 + (4 if start == 0 else 0), late=8)


def band_drums(part: Part, bar: BandBar) -> None:
    """Hats and a rim click at first, the whole kit from the first verse on, and a fill where a section ends."""

    def hit(start: float, key: int, louder: float = 0) -> None:
        part.play(bar.at + start, 0.2, key, bar.loud + louder, late=4)

    if bar.last:
        for key in (KICK, CRASH):
            hit(0, key, 10)
        return
    if bar.place == 0 and not bar.quiet:
        hit(0, CRASH, 12)
    for start, key, louder in [*drum_strokes(bar), *hat_strokes(bar)]:
        if start < bar.fill_from:
            hit(start, key, louder)
    if bar.full:
        for start in (1, 3):
            hit(start, PEDAL_HAT, -20)
    for step in range(round(4 * (4 - bar.fill_from))):
        start = bar.fill_from + step / 4
        drum = SNARE if start < 2.75 else TOMS[min(int(4 * start - 11) // 2, 2)]
        if not (start % 1 == 0.5 and start < 3):
            hit(start, drum, -8 + 4 * (start - bar.fill_from) * 3)


def drum_strokes(bar: BandBar) -> Iterator[tuple[float, int, float]]:
    """(beat, drum, how much louder) of the bass drum and the snare."""
    odd = bar.place % 2
    kicks = {"quiet": (0, 2.5), "verse": (0, 2, 2.5), "full": (0, 1.5, 2, 3.5) if odd else (0, 1.5, 2)}
    for start in kicks["quiet" if bar.quiet else "full" if bar.full else "verse"]:
        yield start, KICK, 12 if start == 0 else 4
    for start in (1, 3):
        yield start, RIM if bar.quiet or bar.section == "Verse 1" else SNARE, 12
    if bar.full or bar.section == "Verse 2":
        for start in (1.75, 2.25) if odd else (2.25,):
            yield start, SNARE, -38


def hat_strokes(bar: BandBar) -> Iterator[tuple[float, int, float]]:
    """(beat, cymbal, how much louder), a quaver at a time."""
    for step in range(8):
        opened = step == 7 and bar.place % 4 == 3
        yield step / 2, RIDE if bar.full else OPEN_HAT if opened else HAT, 0 if step % 2 == 0 else -14
        if bar.full and step % 2:
            yield step / 2, TAMBOURINE, -20
