"""Parses where something is in a song, as people count: bars from 1 (a pickup is bar 0), beats from 1 in each bar.

A beat is what the time signature counts in: 3/4 has three quarters, 6/8 has six eighths.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from midi_rwkv.errors import RequestError
from midi_rwkv.score.describe import label, listed
from midi_rwkv.score.instruments import pitch_name
from midi_rwkv.score.score import Note, Region, Score

from .arguments import parse_pitch
from .ask import Span

MAX_CONTINUATION_BARS = 256
PLACE = re.compile(r"([0-9]{1,9})(?:\.([0-9]{1,4}))?(?:\s*-\s*([0-9]{1,9})(?:\.([0-9]{1,4}))?)?")
LOCK = re.compile(r"([0-9]{1,9})\.([0-9]{1,4}(?:\.[0-9]{1,4})?)(?:\s*:\s*|\s+)(\S+)")
NEAR = 1 / 8  # of a beat: how far a locked note may be from the place that is named
MOST_NEAREST = 5  # notes that a message names


class Places(NamedTuple):
    """Bars, and the parts of them that are meant."""

    bars: list[Span]  # half-open ranges of bar indices, in the order given
    within: tuple[Span, ...] | None  # half-open spans of ticks, apart and ascending; None: the whole bars


def looks_like_bars(text: str) -> bool:
    """Whether the text is a list of bar numbers, whatever song it may be for."""
    return all(PLACE.fullmatch(part) for part in _parts([text]))


def parse_bars(texts: Sequence[str], score: Score, name: str = "--bars", *, continues: bool = True) -> list[Span]:
    """Bar numbers (`8-12`, `8` or `8-12,20`) to half-open ranges of bar indices, checked against the song.

    Args:
        name: the option, for messages.
        continues: accept bars after the last.
    """
    ranges = []
    for text in _parts(texts):
        match = PLACE.fullmatch(text)
        if not match or match[2] or match[4]:
            raise RequestError(f"{name} must be like 8-12 or 8, got {text!r}")
        ranges.append(_bars(match, score, name, continues=continues))
    return ranges


def parse_places(texts: Sequence[str], score: Score, name: str = "--bars") -> Places:
    """Bars and beats (`8-12`, `8.3-9.2`, `8.3-9`), all inclusive, to the bars and the ticks that are meant.

    A span begins at the tick of its first beat, and ends where the beat after its last one begins.
    """
    bars, spans = [], []
    for text in _parts(texts):
        match = PLACE.fullmatch(text)
        if not match:
            raise RequestError(f"{name} must be like 8-12, 8 or 8.3-9.2, got {text!r}")
        low, high = _bars(match, score, name)
        last_beat = match[4] or (None if match[3] else match[2])
        start, _ = beat_ticks(score, low, int(match[2] or 1), name)
        end = score.bar(high - 1).end_ticks
        if last_beat:
            _, end = beat_ticks(score, high - 1, int(last_beat), name)
        if end <= start:
            raise RequestError(
                f"{name} must rise, got {text}; did you mean {match[1]}.{last_beat}-{match[1]}.{match[2]}?"
            )
        bars.append((low, high))
        spans.append((start, end))
    whole = _united((score.bar(low).start_ticks, score.bar(high - 1).end_ticks) for low, high in bars)
    within = _united(spans)
    return Places(bars, None if within == whole else within)


def beat_ticks(score: Score, bar: int, beat: int, name: str) -> Span:
    """The ticks of a beat, counted from 1, in the bar at an index. Raises RequestError if the bar has no such beat."""
    start, end, _, denominator = score.bar(bar)
    length = score.ticks_per_beat * 4 / denominator
    beats = max(1, -int(-(end - start) // length))
    if not 1 <= beat <= beats:
        number = bar + score.first_bar_number
        have = "only beat 1" if beats == 1 else f"beats 1-{beats}"
        raise RequestError(f"{name} {number}.{beat}: bar {number} of {score.name} has {have}")
    return start + round((beat - 1) * length), min(end, start + round(beat * length))


def parse_locked(texts: Sequence[str], score: Score, region: Region, name: str = "--lock") -> Mapping[int, list[Note]]:
    """Notes given by bar, beat and pitch (`9.1:C4` or `9.1 C4`; `9.2.5 C4` is half a beat after 9.2), by track index.

    Raises:
        RequestError: a text is none, or does not name exactly one note of the region.
    """
    locked: dict[int, list[Note]] = {}
    there = [(t, n) for t, b in sorted(region.cells) if b < len(score.bars) for n in score.notes_in(t, b)]
    for text in (text.strip() for text in texts):
        match = LOCK.fullmatch(text)
        try:
            pitch = parse_pitch(match[3]) if match else -1
        except RequestError:
            pitch = -1
        if not match or not 0 <= pitch <= 127:
            raise RequestError(f"{name} must be a bar, a beat and a pitch like 9.1:C4, got {text!r}")
        bar = int(match[1]) - score.first_bar_number
        if not 0 <= bar < len(score.bars):
            span = f"{score.first_bar_number}-{score.last_bar_number}"
            raise RequestError(f"{name} {text}: {score.name} has bars {span}")
        start, _ = beat_ticks(score, bar, int(match[2].partition(".")[0]), name)
        beat = score.ticks_per_beat * 4 / score.bar(bar).denominator
        tick = start + float("0." + (match[2].partition(".")[2] or "0")) * beat
        near = [(t, n) for t, n in there if n.pitch == pitch and abs(n.onset_ticks - tick) <= NEAR * beat]
        if len(near) != 1:
            raise RequestError(f"{name} {text}: {_which(score, near, there, (tick, pitch))}")
        [(t, note)] = near
        locked.setdefault(t, [])
        if note not in locked[t]:
            locked[t].append(note)
    return locked


def _which(
    score: Score, near: Sequence[tuple[int, Note]], there: Sequence[tuple[int, Note]], at: tuple[float, int]
) -> str:
    """What a composer can say instead, when several notes are near the place and pitch, or none is."""
    if near:
        return f"several notes match: {_named(score, near)}; name the track with --tracks"
    if not there:
        return "there is no note in these bars"
    octave = score.ticks_per_beat  # an octave away is as far as a quarter note
    nearest = sorted(there, key=lambda x: abs(x[1].onset_ticks - at[0]) + abs(x[1].pitch - at[1]) * octave / 12)
    return f"no such note in these bars of these tracks; the nearest are {_named(score, nearest[:MOST_NEAREST])}"


def _named(score: Score, notes: Iterable[tuple[int, Note]]) -> str:
    return listed([f"{_place(score, n)}:{pitch_name(n.pitch)} ({label(score.tracks[t], t)})" for t, n in notes])


def _place(score: Score, note: Note) -> str:
    """Bar and beat of a note, as `parse_locked` reads them."""
    index = score.bar_index_at(note.onset_ticks)
    start, _, _, denominator = score.bar(index)
    beats = f"{1 + (note.onset_ticks - start) * denominator / (4 * score.ticks_per_beat):.2f}"
    return f"{index + score.first_bar_number}.{beats.rstrip('0').rstrip('.')}"


def _parts(texts: Iterable[str]) -> list[str]:
    return [part.strip() for whole in texts for part in whole.split(",")]


def _bars(match: re.Match[str], score: Score, name: str, *, continues: bool = True) -> Span:
    """The half-open range of the bars that a text matching PLACE names, checked against the song."""
    text, first, last = match[0], score.first_bar_number, score.last_bar_number
    low, high = int(match[1]), int(match[3] or match[1])
    if low > high:
        meant = f"{low}.{match[2]}-{low}.{high}" if match[2] and not match[4] else f"{high}-{low}"
        raise RequestError(f"{name} must rise, got {text}; did you mean {meant}?")
    if low < first:
        raise RequestError(
            f"{name} {text}: {score.name} begins at bar {first} and has no pickup bar 0; use {first} or more"
        )
    if not continues and high > last:
        raise RequestError(f"{name} {text}: {score.name} has bars {first}-{last}; use some of these")
    if low > last + 1:
        raise RequestError(
            f"bars {text} are out of range: {score.name} has bars {first}-{last}; "
            f"use {name} {last + 1}-{last + 8} to continue it"
        )
    if high > last + MAX_CONTINUATION_BARS:
        most = last + MAX_CONTINUATION_BARS
        raise RequestError(
            f"{name} {text}: {score.name} ends at bar {last} and can be continued to bar {most}; use less"
        )
    return low - first, high - first + 1


def _united(spans: Iterable[Span]) -> tuple[Span, ...]:
    """The same ticks as spans that are apart, ascending."""
    united: list[Span] = []
    for low, high in sorted(spans):
        if united and low <= united[-1][1]:
            united[-1] = united[-1][0], max(united[-1][1], high)
        else:
            united.append((low, high))
    return tuple(united)
