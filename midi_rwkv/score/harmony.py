"""Chords as musicians write them: what a symbol means, and how a chord is spelled in a key.

`progression.py` reads and writes whole progressions.
"""

from __future__ import annotations

import re
from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple

PITCH_CLASSES = {"c": 0, "d": 2, "e": 4, "f": 5, "g": 7, "a": 9, "b": 11}
ACCIDENTALS = {"#": 1, "b": -1, "": 0}
NO_CHORD = "N.C."
LINE_OF_FIFTHS = "FCGDAEB"  # letters, from a fifth below C


@dataclass(frozen=True)
class ChordSpan:
    """A chord, and where it holds.

    Attributes:
        start_ticks, end_ticks: half-open.
        name: as it is written: "Am7/G", or "N.C." for none.
        tones: pitch classes (0 = C), that of the bass included; none for N.C.
        root, bass: pitch classes.
        quality: MidiTok's name of the kind that is nearest (tokens/chords.py), "" for N.C.
        confidence: 0-1, how sure a chord is that was told from notes (`tokens.chords.chord_spans`).
    """

    start_ticks: int
    end_ticks: int
    name: str
    tones: frozenset[int] = frozenset()
    _: KW_ONLY
    root: int = 0
    bass: int = 0
    quality: str = ""
    confidence: float = 1.0


class Kind(NamedTuple):
    """What a chord is above its root."""

    steps: tuple[int, ...]  # semitones above the root
    quality: str  # MidiTok's name of the nearest kind


# By what is written after the root. The first kind of each quality is that quality itself. Elevenths come without the
# third and thirteenths without the eleventh, as they are played.
KINDS: dict[str, Kind] = {
    "": Kind((0, 4, 7), "maj"),
    "m": Kind((0, 3, 7), "min"),
    "7": Kind((0, 4, 7, 10), "7dom"),
    "maj7": Kind((0, 4, 7, 11), "7maj"),
    "m7": Kind((0, 3, 7, 10), "7min"),
    "m(maj7)": Kind((0, 3, 7, 11), "min"),
    "6": Kind((0, 4, 7, 9), "maj"),
    "m6": Kind((0, 3, 7, 9), "min"),
    "6/9": Kind((0, 4, 7, 9, 2), "maj"),
    "m6/9": Kind((0, 3, 7, 9, 2), "min"),
    "9": Kind((0, 4, 7, 10, 2), "7dom"),
    "maj9": Kind((0, 4, 7, 11, 2), "9maj"),
    "m9": Kind((0, 3, 7, 10, 2), "9min"),
    "add9": Kind((0, 4, 7, 2), "maj"),
    "m(add9)": Kind((0, 3, 7, 2), "min"),
    "sus2": Kind((0, 2, 7), "sus2"),
    "sus4": Kind((0, 5, 7), "sus4"),
    "7sus4": Kind((0, 5, 7, 10), "sus4"),
    "9sus4": Kind((0, 5, 7, 10, 2), "sus4"),
    "11": Kind((0, 7, 10, 2, 5), "sus4"),
    "m11": Kind((0, 3, 7, 10, 2, 5), "9min"),
    "13": Kind((0, 4, 7, 10, 2, 9), "7dom"),
    "maj13": Kind((0, 4, 7, 11, 2, 9), "9maj"),
    "m13": Kind((0, 3, 7, 10, 2, 9), "9min"),
    "13sus4": Kind((0, 5, 7, 10, 2, 9), "sus4"),
    "dim": Kind((0, 3, 6), "dim"),
    "dim7": Kind((0, 3, 6, 9), "7dim"),
    "m7b5": Kind((0, 3, 6, 10), "7halfdim"),
    "aug": Kind((0, 4, 8), "aug"),
    "7#5": Kind((0, 4, 8, 10), "7aug"),
    "maj7#5": Kind((0, 4, 8, 11), "aug"),
    "7b5": Kind((0, 4, 6, 10), "7dom"),
    "7b9": Kind((0, 4, 7, 10, 1), "7dom"),
    "7#9": Kind((0, 4, 7, 10, 3), "7dom"),
    "7#11": Kind((0, 4, 7, 10, 6), "7dom"),
    "7b13": Kind((0, 4, 7, 10, 8), "7dom"),
    "7b9b13": Kind((0, 4, 7, 10, 1, 8), "7dom"),
    "7#5#9": Kind((0, 4, 8, 10, 3), "7aug"),
    "7alt": Kind((0, 4, 10, 1, 3, 8), "7aug"),
    "9#11": Kind((0, 4, 7, 10, 2, 6), "7dom"),
    "13b9": Kind((0, 4, 7, 10, 1, 9), "7dom"),
    "maj7b5": Kind((0, 4, 6, 11), "7maj"),
    "maj7#11": Kind((0, 4, 7, 11, 6), "7maj"),
    "5": Kind((0, 7), "maj"),
}
SUFFIXES = {kind.quality: written for written, kind in reversed(KINDS.items())}  # of each quality itself
MEANT = (
    "write a root A-G with # or b, then nothing, m, 7, maj7, m7, m(maj7), 6, m6, 6/9, 9, maj9, m9, add9, 11, 13, sus2, "
    "sus4, 7sus4, dim, dim7, m7b5, aug, 7#5, 7b9, 7#9 or 5, then a bass like /G; or N.C. for no chord"
)

_ASCII = str.maketrans({"♯": "#", "♭": "b", "−": "-", "–": "-", "º": "°", "˚": "°", "Ø": "ø", "△": "Δ", "∆": "Δ"})
_SYMBOL = re.compile(r"([A-G])([#b]?)(.*?)(?:/([A-G])([#b]?))?")
_NO_CHORD = re.compile(r"n\.?c\.?", re.IGNORECASE)
# Other spellings, rewritten in this order; brackets are gone by then.
_SPELLINGS = tuple(
    (re.compile(pattern), written)
    for pattern, written in (
        (r"(?i:major|maj)|Ma|ma(?!d)|M(?!i)|Δ(?=[0-9])", "maj"),
        (r"Δ", "maj7"),
        (r"^(?i:minor|min|mi|-)", "m"),
        (r"-(?=[59])", "b"),
        (r"^(?:°|o(?=7?$))", "dim"),
        (r"^ø7?$", "m7b5"),
        (r"^\+", "aug"),
        (r"\+(?=[0-9])", "#"),
        (r"\+$", "#5"),
        (r"^maj(?=6|add|$)|(?<=^m)in|^dom(?=[0-9])", ""),
        (r"^7maj", "maj7"),
        (r"^aug(?=maj7|7|9)(.*)", r"\1#5"),
        (r"sus$", "sus4"),
        (r"^(m?)(?:2|add2)$", r"\1add9"),
        (r"^(m?6)add9$", r"\g<1>9"),
    )
)
_OTHER = {"#5": "aug", "mb5": "dim", "no3": "5", "alt": "7alt"}


def _plain(kind: str) -> str:
    """A kind without brackets, commas, and the slash of 6/9."""
    return re.sub(r"[(),]", "", kind.replace("6/9", "69"))


_BY_SPELLING = {_plain(written): written for written in KINDS} | _OTHER


def pitch_class(letter: str, accidental: str) -> int:
    """The pitch class of a note like "F", "#"."""
    return (PITCH_CLASSES[letter.lower()] + ACCIDENTALS[accidental]) % 12


def read_chord(symbol: str, start_ticks: int = 0, end_ticks: int = 0) -> ChordSpan | None:
    """The chord that a symbol like "Am7/G" means, or None if it means none. "N.C." is a chord without tones."""
    if _NO_CHORD.fullmatch(symbol):
        return ChordSpan(start_ticks, end_ticks, NO_CHORD)
    match = _SYMBOL.fullmatch(symbol.translate(_ASCII))
    if not match:
        return None
    kind = _plain(match[3])
    for pattern, spelling in _SPELLINGS:
        kind = pattern.sub(spelling, kind)
    written = _BY_SPELLING.get(kind)
    if written is None:
        return None
    root = pitch_class(match[1], match[2])
    bass = pitch_class(match[4], match[5]) if match[4] else root
    steps, quality = KINDS[written]
    name = match[1] + match[2] + written + (f"/{match[4]}{match[5]}" if match[4] else "")
    tones = frozenset([*((root + s) % 12 for s in steps), bass])
    return ChordSpan(start_ticks, end_ticks, name, tones, root=root, bass=bass, quality=quality)


def chord_name(quality: str, root: int, bass: int, tonic: int) -> str:
    """A chord as musicians write it in the major key of `tonic`, or in its relative minor.

    The root lies between the flat second and the sharp fourth of the key, and that of a diminished chord between the
    flat third and the sharp fifth, for most lead upwards; the bass is spelled as a tone of the chord.

    Args:
        quality: a key of `SUFFIXES`.
        root, bass, tonic: pitch classes.
    """
    key = fifths_of(tonic, -5)
    fifths = fifths_of(root, key - (3 if "dim" in quality else 5))
    name = _note(fifths) + SUFFIXES[quality]
    if bass == root:
        return name
    below = 9 if quality == "7dim" else 6 if 3 in KINDS[SUFFIXES[quality]].steps else 3
    return f"{name}/{_note(fifths_of(bass, fifths - below))}"


def fifths_of(pitch_class: int, lowest: int) -> int:
    """How many fifths above C a pitch class is spelled, from `lowest` on."""
    return lowest + (7 * pitch_class - lowest) % 12


def _note(fifths: int) -> str:
    """A note by its fifths above C, from Gb to A#; others are respelled in these."""
    fifths = fifths if -6 <= fifths <= 10 else fifths_of(7 * fifths % 12, -5)
    sharps, letter = divmod(fifths + 1, 7)
    return LINE_OF_FIFTHS[letter] + {-1: "b", 0: "", 1: "#"}[sharps]
