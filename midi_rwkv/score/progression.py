"""Progressions of chords: `parse_chords` reads "Am F | C G/B", and `format_chords` writes it.

How a progression is written:

- `|` or a new line separates bars; one may also stand at either end, and `||` is the same as `|`. A number at the start
  of a line, before its first `|`, is not read.
- The chords of a bar share it evenly, by its beats as the time signature counts them; what is left over goes to the
  first ones. In 4/4, two chords get two beats each, and three get 2 + 1 + 1. More chords than beats are equally long.
- `F@3.5` begins on beat 3.5 instead. Then every chord of the bar but the first needs a beat, and what was there before
  lasts until the first one begins.
- `-` or `/` holds the chord before, in a bar of its own or as one of several (`Am - - F`); so does an empty bar,
  `| |`. `%` plays the bar before again.
- A `?` after a chord, as `inspect` writes it, is not read.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from operator import attrgetter
from typing import NamedTuple

from midi_rwkv.errors import RequestError

from .harmony import MEANT, ChordSpan, read_chord
from .score import Bar, Score

HOLD, AGAIN = "-", "%"
HOLDS = (HOLD, "/")
UNSURE = 0.5  # chords of less confidence are marked
LONGEST = 40  # characters that a message quotes
_WRITTEN = re.compile(r"(?P<symbol>[^@?]+)\??(?:@(?P<beat>[0-9]{1,4}(?:\.[0-9]{1,6})?))?\??")


class _Written(NamedTuple):
    """A chord as it stands in the text."""

    text: str
    chord: ChordSpan | None  # None: the one before is held
    beat: float | None  # from 1 on


def parse_chords(
    text: str, score: Score, bars: Sequence[tuple[int, int]], name: str = "--chords"
) -> tuple[ChordSpan, ...]:
    """The chords of a progression (see the module) over some bars of a song.

    A progression of fewer bars is repeated. Each chord that is written makes a span, even where the one before is the
    same; a chord that is held over bars that are not asked for begins again after them.

    Args:
        bars: half-open ranges of bar indices, which may lie beyond the song's end.
        name: what the text is called in messages.

    Raises:
        RequestError: the text cannot be read, or has more bars than are asked for.
    """
    written = _read(text, name)
    asked = sorted({b for low, high in bars for b in range(low, high)})
    if len(written) > len(asked):
        raise RequestError(
            f"{name} has {_bars(len(written))}, but the region has {_bars(len(asked))}; write as many or fewer, which "
            "are then repeated"
        )
    spans: list[ChordSpan] = []
    held: ChordSpan | None = None
    for k, b in enumerate(asked):
        which = k % len(written)
        bar = score.bar(b)
        starts = _starts(written[which], bar, score.ticks_per_beat, f"bar {which + 1} of {name}")
        if spans and spans[-1].end_ticks == bar.start_ticks:
            spans[-1] = replace(spans[-1], end_ticks=starts[0])
        elif held and starts[0] > bar.start_ticks:
            spans.append(replace(held, start_ticks=bar.start_ticks, end_ticks=starts[0]))
        for (_, chord, _), start, end in zip(written[which], starts, [*starts[1:], bar.end_ticks], strict=True):
            if chord is not None:
                held = chord
                spans.append(replace(chord, start_ticks=start, end_ticks=end))
            elif spans and spans[-1].end_ticks == start:
                spans[-1] = replace(spans[-1], end_ticks=end)
            elif held:
                spans.append(replace(held, start_ticks=start, end_ticks=end))
    return tuple(spans)


def _bars(count: int) -> str:
    return f"{count:,} bar{'s' if count != 1 else ''}"


def _read(text: str, name: str) -> list[list[_Written]]:
    """What is written in each bar."""
    bars: list[list[_Written]] = []
    for line in text.splitlines():
        parts = re.split(r"\|+", re.sub(r"^\s*[0-9]+\s*(?=\|)", "", line).strip())
        for part in parts[parts[0] == "" : -1 if parts[-1] == "" else None]:
            symbols, place = part.split() or [HOLD], f"bar {len(bars) + 1} of {name}"
            if not bars and symbols[0] in (*HOLDS, AGAIN):
                raise RequestError(f"{place} repeats or holds a chord, but none stands before it; begin with a chord")
            bars.append(bars[-1] if symbols == [AGAIN] else _read_bar(symbols, place))
    if not bars:
        raise RequestError(f"{name} has no chords; write some like 'Am F | C G/B'")
    return bars


def _read_bar(symbols: Sequence[str], place: str) -> list[_Written]:
    bar = []
    for symbol in symbols:
        match = _WRITTEN.fullmatch(symbol)
        chord = read_chord(match["symbol"]) if match else None
        if chord is None and symbol not in HOLDS:
            raise RequestError(f"{symbol[:LONGEST]!r} in {place} is no chord; {MEANT}")
        bar.append(_Written(symbol, chord, float(match["beat"]) if match and match["beat"] else None))
    timed = [w for w in bar[1:] if w.beat is not None]
    if 0 < len(timed) < len(bar) - 1 or (not timed and len(bar) > 1 and bar[0].beat is not None):
        raise RequestError(
            f"{place} has chords with and without a beat; give a beat to each but the first, like Am F@3, or to none"
        )
    return bar


def _starts(bar: Sequence[_Written], grid: Bar, ticks_per_beat: int, place: str) -> list[int]:
    """The ticks on which the chords of a bar begin."""
    beat_ticks = 4 * ticks_per_beat / grid.denominator
    if all(w.beat is None for w in bar):
        starts = _evenly(len(bar), grid, beat_ticks)
    else:
        starts = [grid.start_ticks + round((1 if w.beat is None else w.beat) * beat_ticks - beat_ticks) for w in bar]
    edges = [grid.start_ticks - 1, *starts, grid.end_ticks]
    if any(a >= b for a, b in pairwise(edges)):
        quoted, end = " ".join(w.text for w in bar)[:LONGEST], 1 + (grid.end_ticks - grid.start_ticks) / beat_ticks
        raise RequestError(
            f"the chords of {place} ({quoted}) must begin one after another, on beats from 1 to less than {end:g}"
        )
    return starts


def _evenly(count: int, grid: Bar, beat_ticks: float) -> list[int]:
    """Where `count` chords begin that share a bar."""
    length = grid.end_ticks - grid.start_ticks
    beats = max(1, round(length / beat_ticks))
    each, more = divmod(beats, count)
    if each == 0:
        return [grid.start_ticks + k * length // count for k in range(count)]
    return [grid.start_ticks + round((k * each + min(k, more)) * beat_ticks) for k in range(count)]


def format_chords(spans: Sequence[ChordSpan], score: Score, bars: Sequence[int]) -> list[str]:
    """What `parse_chords` reads as these chords, a text for each of the bars, whose indices are given.

    A chord of less confidence than `UNSURE` has a question mark. The first bar names the chord that is held from before
    it; in the others a held chord is `-`.
    """
    texts = []
    for k, b in enumerate(bars):
        grid = score.bar(b)
        low, high = (bisect_left(spans, t, key=attrgetter("start_ticks")) for t in (grid.start_ticks, grid.end_ticks))
        if k == 0 and low and spans[low - 1].end_ticks > grid.start_ticks:
            low -= 1
        begun = [
            (max(s.start_ticks, grid.start_ticks), s.name + "?" * (s.confidence < UNSURE)) for s in spans[low:high]
        ]
        beat_ticks = 4 * score.ticks_per_beat / grid.denominator
        if begun and [tick for tick, _ in begun] != _evenly(len(begun), grid, beat_ticks):
            beats = [1 + (tick - grid.start_ticks) / beat_ticks for tick, _ in begun]
            names = [n if beat == 1 else f"{n}@{round(beat, 6):g}" for (_, n), beat in zip(begun, beats, strict=True)]
        else:
            names = [name for _, name in begun]
        texts.append(" ".join(names) or HOLD)
    return texts
