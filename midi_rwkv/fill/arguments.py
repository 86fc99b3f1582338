"""Parses what a person types into what the library takes. Bad input raises RequestError."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from midi_rwkv.errors import RequestError
from midi_rwkv.model.config import DENSITY_WORDS
from midi_rwkv.score.describe import TrackNames, labels, normal, track_names
from midi_rwkv.score.harmony import ACCIDENTALS, PITCH_CLASSES, pitch_class
from midi_rwkv.score.instruments import find_program
from midi_rwkv.score.score import Score

NUMBER = re.compile("[0-9]+")
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


def sounding_tracks(score: Score, bars: Sequence[tuple[int, int]]) -> list[int]:
    """The tracks that have notes in these half-open ranges of bars, or all tracks if none has."""
    inside = [b for low, high in bars for b in range(low, min(high, len(score.bars)))]
    sounding = [t for t in range(len(score.tracks)) if any(score.notes_in(t, b) for b in inside)]
    return sounding or list(range(len(score.tracks)))


def parse_tracks(text: str, score: Score) -> list[int]:
    """Track numbers (`2,4`), names as `inspect` prints them, or `all` to track indices.

    A track is given by its number, its name (or part of it), its instrument (or part of it), or number and name. If a
    text can be read in several ways, the first of these counts. Names may contain commas.

    Raises:
        RequestError: no track matches, or more than one.
    """
    if text.strip().lower() == "all":
        return list(range(len(score.tracks)))
    known = track_names(score)
    longest = 1 + max((name.count(",") for names in known for name in names.numbered), default=0)
    parts = text.split(",")
    found: list[int] = []
    while parts:
        length = _name_length(parts[:longest], known)
        wanted = ",".join(parts[:length]).strip()
        matches = next(_exact(wanted, known), None) or next(_partial(wanted, known), [])
        if not matches:
            there = labels(score, range(len(score.tracks)))
            raise RequestError(f"no track {wanted!r}; {score.name} has {there}")
        if len(matches) > 1:
            raise RequestError(f"several tracks match {wanted!r}: {labels(score, matches)}; name one by its number")
        found += [i for i in matches if i not in found]
        parts = parts[length:]
    return found


def _name_length(parts: Sequence[str], known: Sequence[TrackNames]) -> int:
    """How many parts, from the first on, make up one name with commas: the largest number that matches, else 1."""
    for matching in (_exact, _partial):
        for length in range(len(parts), 0, -1):
            joined = ",".join(parts[:length])
            numbers = length > 1 and all(NUMBER.fullmatch(p.strip()) for p in parts[:length])
            if not numbers and next(matching(joined, known), None):
                return length
    return 1


def _exact(text: str, known: Sequence[TrackNames]) -> Iterator[list[int]]:
    """The tracks whose full name is this text, by the most specific kind of name that matches."""
    wanted = normal(text)
    for way in range(len(TrackNames._fields)):
        if matches := [i for i, names in enumerate(known) if wanted in names[way]]:
            yield matches


def _partial(text: str, known: Sequence[TrackNames]) -> Iterator[list[int]]:
    """The tracks that this text is part of a name of, by the most specific kind of name that matches."""
    wanted = normal(text)
    for texts in ([n.shown[:1] for n in known], [n.instruments for n in known], [n.numbered for n in known]):
        if wanted and (matches := [i for i, names in enumerate(texts) if any(wanted in name for name in names)]):
            yield matches


def parse_as(texts: Sequence[str], score: Score) -> Score:
    """The score with tracks treated as other instruments, for texts of the form `TRACK=INSTRUMENT`.

    TRACK is read as in `parse_tracks`, INSTRUMENT as in `find_program`.
    """
    taken: dict[int, tuple[int, bool]] = {}
    for text in texts:
        tracks, sign, instrument = text.rpartition("=")
        if not (sign and tracks.strip() and instrument.strip()):
            raise RequestError(f"--as must be TRACK=INSTRUMENT like 1=Drums or Bass=33, got {text!r}")
        wanted = find_program(instrument)
        for t in parse_tracks(tracks, score):
            if taken.setdefault(t, wanted) != wanted:
                raise RequestError(f"--as takes track {labels(score, [t])} for two instruments; name one")
    for t, (program, is_drum) in taken.items():
        score = score.with_instrument(t, program, is_drum=is_drum)
    return score


def parse_number(text: str) -> int:
    """A number in ASCII digits (`int` would also accept other scripts'). Raises ValueError for anything else."""
    if not NUMBER.fullmatch(text):
        raise RequestError(f"{text!r} is not a whole number")
    return int(text)


def parse_range(name: str, text: str | None, number: Callable[[str], int] = parse_number) -> tuple[int, int] | None:
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
        raise RequestError(f"{name} must be LOW-HIGH like {example}, got {text!r}") from None
    return low, high


def parse_density(name: str, text: str | None) -> tuple[int, int] | str | None:
    """`2-6` or `4` as in `parse_range`, or one of DENSITY_WORDS as it is."""
    word = (text or "").strip().lower()
    if word in DENSITY_WORDS:
        return word
    if re.fullmatch("[a-z]+", word):
        raise RequestError(f"{name} must be {', '.join(DENSITY_WORDS)} or LOW-HIGH like 2-6, got {text!r}")
    return parse_range(name, text)


def parse_pitch(text: str) -> int:
    """`C4` (= 60), `F#3`, `Bb2` or a MIDI number."""
    if NUMBER.fullmatch(text):
        return int(text)
    match = re.fullmatch(r"([A-Ga-g])([#b]?)(-?[0-9])", text)
    if not match:
        raise RequestError(f"{text!r} is not a pitch")
    return PITCH_CLASSES[match[1].lower()] + ACCIDENTALS[match[2]] + 12 * (int(match[3]) + 1)


def parse_key(text: str | None, name: str = "--key") -> tuple[int, ...] | None:
    """`A minor`, `Bb major`, `D dorian` -> pitch classes."""
    if text is None:
        return None
    match = re.fullmatch(r"\s*([A-Ga-g])([#b]?)\s*(.*?)\s*", text)
    mode = MODES.get((match[3] or "major").lower()) if match else None
    if not match or mode is None:
        raise RequestError(f"{name} must be a tonic and one of {', '.join(MODES)}, like 'A minor', got {text!r}")
    tonic = pitch_class(match[1], match[2])
    return tuple(sorted((tonic + step) % 12 for step in mode))
