"""What a MIDI file says is to be filled: by its name, or by a pair of markers in it.

By name: the brackets at its end, if they begin with the number of a bar.

    song [8-12].mid                        the tracks that play there
    song [8.3-9.2,16 Bass].mid             bars and beats, as --bars takes them; tracks, as --tracks takes them
    song [8-12 Bass, Lead x3 seed=1].mid   then words, of which x3 asks for three candidates
    song [1-16 new-track=Violin key=A minor].mid

A word NAME=VALUE is the option --NAME VALUE of `midi-rwkv infill`, for the names in WORDS; its value ends where the
next word begins. Nothing may be said twice.

By markers: `fill` where the region begins and `end fill`, or `/fill`, where it ends. After `fill` come tracks and words
as in brackets: `fill Bass x3`. The region has every bar that it touches; a marker within 1/48 of a quarter of a bar
line stands on it. Several pairs make one region, and must say the same. Markers, cue points and texts are read.

What the name or a marker says counts before the options of the command. Where the name says something, markers are not
read.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, NoReturn

from midi_rwkv.errors import RequestError
from midi_rwkv.fill.places import PLACE

from .request import add_request

if TYPE_CHECKING:
    from midi_rwkv.score.midi import Source
    from midi_rwkv.score.score import Score

WORDS = (
    *("chords", "density", "feel", "keep", "key", "like", "new-track"),
    *("only", "pitch-range", "polyphony", "seed", "style", "temperature", "vary"),
)
BARS = re.compile(rf"{PLACE.pattern}(?:\s*,\s*{PLACE.pattern})*")
WORD = re.compile(r"(?:^|\s)(?:x(?P<count>[0-9]+)(?=\s|$)|(?P<name>[a-z][a-z-]*)=)", re.IGNORECASE)
BEGIN, END = re.compile(r"fill(?:\s+(.*))?", re.IGNORECASE), re.compile(r"end\s+fill|/fill", re.IGNORECASE)
LONGEST = 1000  # characters of a marker
EXAMPLE = "[8-12 Bass x3 seed=1]"


class HalfAsked(RequestError):
    """What may be meant as an instruction and may as well not be."""


@dataclass(frozen=True)
class Instruction:
    """What a file asks for.

    Attributes:
        bars: texts for --bars.
        words: options of `midi-rwkv infill` by name, without their dashes, and their values.
    """

    bars: tuple[str, ...]
    words: Mapping[str, str]

    def applied(self, options: argparse.Namespace) -> argparse.Namespace:
        """The options of a command with those of the instruction in their place. Raises RequestError."""
        parser = _Words(add_help=False, allow_abbrev=False)
        add_request(parser)
        said = parser.parse_args([f"--{name}={value}" for name, value in self.words.items()])
        fields = [name.replace("-", "_") for name in self.words]
        changed = {field: getattr(said, field) for field in fields}
        return argparse.Namespace(**{**vars(options), "bars": list(self.bars), **changed})


class _Words(argparse.ArgumentParser):
    """A parser of options that nobody typed as such."""

    def error(self, message: str) -> NoReturn:
        raise RequestError(message.removeprefix("argument "))


def instruction_in_name(stem: str) -> Instruction | None:
    """What the name of a file, without its suffix, asks for. Raises RequestError if it cannot be read."""
    text = _bracketed(stem.strip()).strip().replace("–", "-")  # some keyboards write a range with a dash
    bars = BARS.match(text)
    if not bars or not re.match(r"[\s,]|$", text[bars.end() :]):
        return None
    if not re.match(r"\s|$", text[bars.end() :]):
        raise RequestError(f"[{text}] is not understood after its bars; write it like {EXAMPLE}")
    return Instruction((bars[0],), _words(text[bars.end() :].strip(), f"[{text}]"))


def _bracketed(stem: str) -> str:
    """The text in the brackets that close at the end; "" if there are none."""
    depth = 0
    for i in range(len(stem) - 1, -1, -1):
        depth += (stem[i] == "]") - (stem[i] == "[")
        if depth == 0:
            return stem[i + 1 : -1]
    return ""


def _words(text: str, whole: str) -> dict[str, str]:
    """Tracks and words to options by name. `whole`: where they stand, for messages."""
    found = list(WORD.finditer(text))
    tracks = text[: found[0].start()] if found else text
    words = {"tracks": tracks} if tracks else {}
    for match, following in zip_longest(found, found[1:]):
        value = text[match.end() : following.start() if following else None].strip()
        name = (match["name"] or "candidates").lower()
        if match["count"] and value:
            raise RequestError(
                f"{whole}: {value!r} is not understood after x{match['count']}; tracks come before words"
            )
        if match["name"] and name not in WORDS:
            raise RequestError(f"{whole}: there is no word {name}=; there are xN and {', '.join(WORDS)}")
        if match["name"] and not value:
            raise RequestError(f"{whole}: {name}= needs a value; write it like {EXAMPLE}")
        if name in words:
            raise RequestError(f"{whole}: {match[0].strip()} is said twice; say it once")
        words[name] = match["count"] or value
    return words


def instruction_in_markers(source: Source) -> Instruction | None:
    """What pairs of markers in a file ask for.

    Raises:
        MidiError: the file cannot be read.
        HalfAsked: there are markers that begin a region, and none that ends one.
        RequestError: the markers cannot be paired or read.
    """
    if b"fill" not in source.data.lower():
        return None
    from midi_rwkv.score.midi import read_midi

    texts = _texts(source)
    if not any(END.fullmatch(text) for _, text in texts):
        for _, text in texts:
            if BEGIN.fullmatch(text):
                raise HalfAsked(f"the marker {text!r} has no marker 'end fill' after it")
        return None
    score = read_midi(source, allow_empty=True)
    bars, said = [], {}
    begun: tuple[int, str] | None = None
    for tick, text in texts:
        number = score.bar_index_at(tick) + score.first_bar_number
        if END.fullmatch(text):
            if begun is None:
                raise RequestError(f"the marker {text!r} at bar {number} ends nothing; put a marker 'fill' before it")
            bars.append(_bars(begun[0], tick, score))
            begun = None
        elif match := BEGIN.fullmatch(text):
            if begun is not None:
                raise RequestError(f"two regions overlap: {begun[1]!r} has no 'end fill' before bar {number}")
            begun = tick, text
            said[" ".join((match[1] or "").split())] = text
    if begun is not None:
        raise RequestError(f"the marker {begun[1]!r} has no marker 'end fill' after it")
    if len(said) > 1:
        raise RequestError(f"the markers {', '.join(map(repr, said.values()))} ask for different things; ask for one")
    [(words, marker)] = said.items()
    return Instruction(tuple(bars), _words(words, f"the marker {marker!r}"))


def _texts(source: Source) -> list[tuple[int, str]]:
    """The markers, cue points and texts of a file by tick, those that end something first."""
    from midi_rwkv.score.smf import CUE, MARKER, META, TEXT, decoded, meta_payload, read_events, read_layout

    layout = read_layout(source.data, source.name)
    found = set()  # some programs write the markers into every track
    for chunk in range(len(layout.tracks)):
        for tick, status, payload, _ in read_events(layout, chunk)[0]:
            if status == META and payload[0] in (TEXT, MARKER, CUE):
                found.add((tick, decoded(meta_payload(payload), LONGEST)))
    return sorted(found, key=lambda at: (at[0], not END.fullmatch(at[1]), at[1]))


def _bars(start: int, end: int, score: Score) -> str:
    """The bars from one tick to another, as --bars takes them."""
    from midi_rwkv.score.score import lead_ticks

    slack = lead_ticks(score.ticks_per_beat)
    first, last = score.bar_index_at(start + slack), score.bar_index_at(end - slack - 1)
    if last < first:
        number = first + score.first_bar_number
        raise RequestError(f"the markers at bar {number} have no bar between them; put 'end fill' after the last one")
    return f"{first + score.first_bar_number}-{last + score.first_bar_number}"
