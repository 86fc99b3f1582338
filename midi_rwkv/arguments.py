"""What a person types -> what the library takes: bars, tracks, ranges, pitches, keys. ValueError on bad input."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from .score import Score

MAX_CONTINUATION_BARS = 256
PITCH_CLASSES = {"c": 0, "d": 2, "e": 4, "f": 5, "g": 7, "a": 9, "b": 11}
MODES = {
    "major": (0, 2, 4, 5, 7, 9, 11),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "harmonic minor": (0, 2, 3, 5, 7, 8, 11),
    "melodic minor": (0, 2, 3, 5, 7, 8, 9, 10, 11),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "phrygian": (0, 1, 3, 5, 7, 8, 10),
    "lydian": (0, 2, 4, 6, 7, 9, 11),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10),
    "major pentatonic": (0, 2, 4, 7, 9),
    "minor pentatonic": (0, 3, 5, 7, 10),
    "blues": (0, 3, 5, 6, 7, 10),
}


def parse_bars(texts: Sequence[str], score: Score) -> list[tuple[int, int]]:
    """`8-12`, `8` or `8-12,20` as bar numbers -> half-open ranges of bar indices, checked against the song."""
    first, last = score.first_bar_number, score.last_bar_number
    ranges = []
    for text in (part.strip() for whole in texts for part in whole.split(",")):
        match = re.fullmatch(r"(\d{1,9})(?:\s*-\s*(\d{1,9}))?", text)
        if not match:
            raise ValueError(f"--bars must be like 8-12 or 8, got {text!r}")
        low, high = int(match[1]), int(match[2] or match[1])
        if low > high:
            raise ValueError(f"--bars must rise, got {text}; did you mean {high}-{low}?")
        if low < first:
            raise ValueError(
                f"--bars {text}: {score.name} begins at bar {first} and has no pickup bar 0; use {first} or more"
            )
        if low > last + 1:
            raise ValueError(
                f"bars {text} are out of range: {score.name} has bars {first}-{last}; "
                f"use --bars {last + 1}-{last + 8} to continue it"
            )
        if high > last + MAX_CONTINUATION_BARS:
            most = last + MAX_CONTINUATION_BARS
            raise ValueError(
                f"--bars {text}: {score.name} ends at bar {last} and can be continued to bar {most}; use less"
            )
        ranges.append((low - first, high - first + 1))
    return ranges


def sounding_tracks(score: Score, bars: Sequence[tuple[int, int]]) -> list[int]:
    """The tracks that have notes in these half-open ranges of bars; all, where none has."""
    inside = [b for low, high in bars for b in range(low, min(high, len(score.bars)))]
    sounding = [t for t in range(len(score.tracks)) if any(score.notes_in(t, b) for b in inside)]
    return sounding or list(range(len(score.tracks)))


def parse_tracks(text: str, score: Score) -> list[int]:
    """`2,4`, names, or `all` -> track indices."""
    if text.strip().lower() == "all":
        return list(range(len(score.tracks)))
    found: list[int] = []
    for part in (p.strip() for p in text.split(",")):
        names = [t.name.strip().lower() for t in score.tracks]
        exact = [i for i, n in enumerate(names) if n and n == part.lower()]
        like = exact or [i for i, n in enumerate(names) if part and part.lower() in n]
        if part.isdigit() and 1 <= int(part) <= len(score.tracks):  # a number wins over a track of that name
            exact = like = [int(part) - 1]
        if not like or (len(like) > 1 and not exact):
            there = ", ".join(f"{i + 1} {t.name}".strip() for i, t in enumerate(score.tracks))
            raise ValueError(f"{'several tracks match' if like else 'no track'} {part!r}; {score.name} has {there}")
        found += [i for i in like if i not in found]
    return found


def parse_range(name: str, text: str | None, number: Callable[[str], int] = int) -> tuple[int, int] | None:
    """`2-6` or `4` -> (2, 6) or (4, 4)."""
    if text is None:
        return None
    parts = re.fullmatch(r"\s*([^-\s]+(?:-\d)?|\d+)\s*-\s*([^-\s].*?)\s*|\s*(\S+)\s*", text)
    try:
        if parts is None:
            raise ValueError
        low, high = (number(p) for p in ((parts[3], parts[3]) if parts[3] else (parts[1], parts[2])))
    except ValueError:
        example = "C3-C6 or 48-84" if number is parse_pitch else "2-6"
        raise ValueError(f"{name} must be LOW-HIGH like {example}, got {text!r}") from None
    return low, high


def parse_pitch(text: str) -> int:
    """`C4` (= 60), `F#3`, `Bb2` or a MIDI number."""
    if text.isdigit():
        return int(text)
    match = re.fullmatch(r"([A-Ga-g])([#b]?)(-?\d)", text)
    if not match:
        raise ValueError(f"{text!r} is not a pitch")
    return PITCH_CLASSES[match[1].lower()] + {"#": 1, "b": -1, "": 0}[match[2]] + 12 * (int(match[3]) + 1)


def parse_key(text: str | None, name: str = "--key") -> tuple[int, ...] | None:
    """`A minor`, `Bb major`, `D dorian` -> pitch classes."""
    if text is None:
        return None
    match = re.fullmatch(r"\s*([A-Ga-g])([#b]?)\s*(.*?)\s*", text)
    mode = MODES.get((match[3] or "major").lower()) if match else None
    if not match or mode is None:
        raise ValueError(f"{name} must be a tonic and one of {', '.join(MODES)}, like 'A minor', got {text!r}")
    tonic = PITCH_CLASSES[match[1].lower()] + {"#": 1, "b": -1, "": 0}[match[2]]
    return tuple(sorted((tonic + step) % 12 for step in mode))
