"""Music as the rest of the package sees it: notes on tracks, bars on a tick axis, and the region to write anew.

Ticks are the file's own (`Score.ticks_per_beat` of them to a quarter note). A bar *index* is 0-based and counts
from the file's first bar; a bar *number* is what people read and type: 1-based, with a pickup bar as number 0.

Which bar a note belongs to is decided here and nowhere else. Players come in early, so each track has a *lead*: a note
that begins at most so many ticks before a bar line belongs to the bar that it leads into. Reading, masking, splicing
and drawing all ask `bar_of`, `note_bars`, `notes_in` or `cell_ticks`; `bar_index_at` is for ticks that are no note's.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import cached_property
from operator import itemgetter
from typing import NamedTuple

import numpy as np

from midi_rwkv.errors import RequestError

from .keyswitches import keyswitches

MAX_BARS = 20_000
POSITIONS_PER_BEAT = 12  # of the grid on which notes are read and written
LEAD_EVIDENCE = 4  # notes at bar lines from which a track's usual lead is told


class Note(NamedTuple):
    """One note. Sorts by onset, then pitch."""

    onset_ticks: int
    pitch: int  # 0-127
    duration_ticks: int  # at least 1
    velocity: int  # 1-127


class TimeSignature(NamedTuple):
    """A time signature from `tick` on."""

    tick: int
    numerator: int
    denominator: int


class Tempo(NamedTuple):
    """A tempo from `tick` on."""

    tick: int
    microseconds_per_beat: int  # beat = quarter note

    @property
    def beats_per_minute(self) -> float:
        return 60e6 / self.microseconds_per_beat


class Bar(NamedTuple):
    """One bar, `[start_ticks, end_ticks)`. Shorter than its time signature where the next one cuts it."""

    start_ticks: int
    end_ticks: int
    numerator: int
    denominator: int


class Cell(NamedTuple):
    """One bar of one track, as 0-based indices. This order, track before bar, is the order of arguments too."""

    track: int
    bar: int


class ProgramChange(NamedTuple):
    """Another instrument from `tick` on."""

    tick: int
    program: int  # General MIDI, 0-127


@dataclass(frozen=True)
class Track:
    """The notes of one channel of one MIDI track chunk.

    `chunk` and `channel` say where in the file the track lives; both are None for a track that the file does not
    have yet. `program` is the General MIDI program (0-127) in force at the first note, `program_changes` are those that
    follow, rising by tick, each to another program than the one before. Channel 9 is read as drums. `is_overridden` is
    True where the program is not the file's (`Score.with_instrument`); the track is written on its own channel even so.
    `usual_lead`: how early its downbeats usually come, in ticks, by the function of that name; a copy of the track
    keeps it, so that a note stays in its bar whatever else is removed.
    """

    name: str
    program: int
    notes: tuple[Note, ...]
    _: KW_ONLY
    is_drum: bool = False
    chunk: int | None = None
    channel: int | None = None
    program_changes: tuple[ProgramChange, ...] = ()
    is_overridden: bool = False
    usual_lead: int = field(default=0, compare=False)

    @property
    def programs(self) -> tuple[int, ...]:
        """Every program of the track, in the order in which they first come."""
        return tuple(dict.fromkeys([self.program, *(c.program for c in self.program_changes)]))

    def program_at(self, tick: int) -> int:
        """The program in force at `tick`."""
        i = bisect_right(self.program_changes, tick, key=itemgetter(0))
        return self.program_changes[i - 1].program if i else self.program

    def program_in(self, bar: Bar) -> int:
        """The program in force for the longest part of a bar; of equals, the first."""
        lo = bisect_right(self.program_changes, bar.start_ticks, key=itemgetter(0))
        hi = bisect_right(self.program_changes, bar.end_ticks - 1, key=itemgetter(0))
        inside = self.program_changes[lo:hi]
        since = [bar.start_ticks, *(c.tick for c in inside)]
        until = [*since[1:], bar.end_ticks]
        programs = [self.program_at(bar.start_ticks), *(c.program for c in inside)]
        return max(zip(programs, since, until, strict=True), key=lambda part: part[2] - part[1])[0]

    def notes_of(self, program: int) -> tuple[Note, ...]:
        """The notes that begin while `program` is in force."""
        if not self.program_changes:
            return self.notes if program == self.program else ()
        return tuple(n for n in self.notes if self.program_at(n.onset_ticks) == program)


def usual_lead(onsets: np.ndarray, bar_lines: np.ndarray, ticks_per_beat: int) -> int:
    """How early a track's downbeats usually come, in ticks: less than a grid step, so that no 32nd, triplet or longer
    pick-up counts as a downbeat.

    It is told by the notes that begin within a grid step of a bar line, as their median plus three median absolute
    deviations (some two standard deviations: of 40 early downbeats one is earlier). 0 where these notes are few or lie
    anywhere in that span. onsets: (n,) ticks. bar_lines: (bars + 1,) rising ticks.
    """
    if len(onsets) < LEAD_EVIDENCE:
        return 0
    step = ticks_per_beat / POSITIONS_PER_BEAT
    after = np.clip(np.searchsorted(bar_lines, onsets), 1, len(bar_lines) - 1)
    late, early = onsets - bar_lines[after - 1], bar_lines[after] - onsets
    offset = np.where(late < early, late, -early)
    near = offset[np.abs(offset) < step]
    if len(near) < LEAD_EVIDENCE:
        return 0
    middle = float(np.median(near))
    spread = float(np.median(np.abs(near - middle)))
    if spread > 3 / 8 * step:  # evenly spread offsets have half a step
        return 0
    return max(0, min(int(3 * spread - middle), int(step) - 1))


def bar_lines(bars: Sequence[Bar]) -> np.ndarray:
    """Ticks of all bar lines, the last one too: (bars + 1,)."""
    return np.array([bars[0].start_ticks, *(b.end_ticks for b in bars)], np.int64)


def bar_grid(
    time_signatures: Sequence[TimeSignature], ticks_per_beat: int, end_ticks: int, limit: int = MAX_BARS
) -> tuple[Bar, ...]:
    """Bars from tick 0 up to and including the one that holds `end_ticks - 1`; at least one.

    A time signature that arrives inside a bar ends that bar. Before the first signature the metre is 4/4.
    Raises RequestError when more than `limit` bars would be needed.
    """
    changes = {0: (4, 4)}
    changes.update({ts.tick: (ts.numerator, ts.denominator) for ts in sorted(time_signatures)})
    ticks = sorted(changes)
    bars: list[Bar] = []
    for i, tick in enumerate(ticks):
        if bars and tick >= end_ticks:
            break
        numerator, denominator = changes[tick]
        length = max(1, round(ticks_per_beat * 4 * numerator / denominator))
        stop = ticks[i + 1] if i + 1 < len(ticks) and ticks[i + 1] < max(end_ticks, 1) else None
        last = max(end_ticks, 1) if stop is None else stop
        count = -(-(last - tick) // length)
        if len(bars) + count > limit:
            raise RequestError(
                f"the file has more than {limit} bars ({len(bars) + count} claimed); split it into shorter files"
            )
        for k in range(count):
            start = tick + k * length
            end = start + length if stop is None else min(start + length, stop)
            bars.append(Bar(start, end, numerator, denominator))
    return tuple(bars)


def lead_ticks(ticks_per_beat: int, usual: int = 0) -> int:
    """A track's lead: half a grid step, or its usual lead where that is more."""
    return max(ticks_per_beat // (2 * POSITIONS_PER_BEAT), usual)


def lead_at_end(lead: int, bar_ticks: int) -> int:
    """The lead at the end of a bar of so many ticks: what begins in a bar's first half is never of the next."""
    return min(lead, bar_ticks // 2)


def bars_of(onsets: np.ndarray, bar_lines: np.ndarray, lead: int) -> np.ndarray:
    """Indices of the bars to which notes belong, (n,); the number of bars for those after the last. onsets: (n,)."""
    bar = np.searchsorted(bar_lines, onsets, side="right") - 1
    length = np.append(np.diff(bar_lines), 0)
    early = np.append(bar_lines[1:], np.iinfo(np.int64).max) - np.minimum(lead, length // 2)
    return bar + (onsets >= early[bar])


@dataclass(frozen=True)
class Score:
    """A song: tracks over one time axis.

    `bars` covers every note and event of the file; `bar(index)` goes on beyond its end in the last metre. `digest` says
    of which file it was read (`smf.digest_of`), "" where of none: `write_midi` writes into that file alone.
    """

    ticks_per_beat: int
    tracks: tuple[Track, ...]
    time_signatures: tuple[TimeSignature, ...] = ()
    tempos: tuple[Tempo, ...] = ()
    _: KW_ONLY
    end_ticks: int = 0
    name: str = "song"
    digest: str = field(default="", repr=False, compare=False, kw_only=True)
    bars: tuple[Bar, ...] = field(init=False)
    _starts: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        last = max((n.onset_ticks + self.lead_ticks(t) + 1 for t in self.tracks for n in t.notes), default=0)
        bars = bar_grid(self.time_signatures, self.ticks_per_beat, max(self.end_ticks, last))
        object.__setattr__(self, "bars", bars)
        object.__setattr__(self, "_starts", tuple(b.start_ticks for b in bars))

    @property
    def has_pickup(self) -> bool:
        """True when the first bar is shorter than the second and belongs to another time signature or is cut."""
        if len(self.bars) < 2:
            return False
        first, second = self.bars[:2]
        return first.end_ticks - first.start_ticks < second.end_ticks - second.start_ticks

    @property
    def first_bar_number(self) -> int:
        return 0 if self.has_pickup else 1

    @property
    def last_bar_number(self) -> int:
        return self.first_bar_number + len(self.bars) - 1

    def bar(self, index: int) -> Bar:
        """The bar at a 0-based index, beyond the end too (same metre as the last)."""
        if index < len(self.bars):
            return self.bars[index]
        last = self.bars[-1]
        length = max(1, round(self.ticks_per_beat * 4 * last.numerator / last.denominator))
        start = last.end_ticks + (index - len(self.bars)) * length
        return Bar(start, start + length, last.numerator, last.denominator)

    def bar_index_at(self, tick: int) -> int:
        """Index of the bar that holds `tick`. For a note: `bar_of`."""
        if tick < self.bars[-1].end_ticks:
            return max(0, bisect_right(self._starts, tick) - 1)
        last, nxt = self.bars[-1], self.bar(len(self.bars))
        return len(self.bars) + (tick - last.end_ticks) // (nxt.end_ticks - nxt.start_ticks)

    def tempo_at(self, tick: int) -> float:
        """Beats (quarters) per minute in force at `tick`; 120 before the first tempo event."""
        i = bisect_right(self.tempos, tick, key=itemgetter(0))
        return self.tempos[i - 1].beats_per_minute if i else 120.0

    @cached_property
    def _bar_lines(self) -> np.ndarray:
        return bar_lines(self.bars)

    def lead_ticks(self, track: Track) -> int:
        """How long before a bar line a note of the track may begin and still belong to the bar that it leads into."""
        return lead_ticks(self.ticks_per_beat, track.usual_lead)

    def bar_of(self, track: int, onset_ticks: int) -> int:
        """Index of the bar to which a note of the track belongs."""
        bar = self.bar_index_at(onset_ticks)
        return bar + (onset_ticks >= self.cell_ticks(track, bar)[1])

    def note_bars(self, track: int) -> np.ndarray:
        """`bar_of` for all notes of the track, (n,)."""
        onsets = np.array([n.onset_ticks for n in self.tracks[track].notes], np.int64)
        return bars_of(onsets, self._bar_lines, self.lead_ticks(self.tracks[track]))

    def cell_ticks(self, track: int, bar: int) -> tuple[int, int]:
        """Where the notes of one cell begin: ticks, half-open. It is the bar, moved ahead by the track's lead."""
        lead = self.lead_ticks(self.tracks[track])
        start, end = self.bar(bar)[:2]
        before = start - self.bar(bar - 1).start_ticks if bar else 0
        return start - lead_at_end(lead, before), end - lead_at_end(lead, end - start)

    def notes_in(self, track: int, bar: int) -> list[Note]:
        """Notes of one cell."""
        start, end = self.cell_ticks(track, bar)
        notes = self.tracks[track].notes
        lo = bisect_left(notes, start, key=itemgetter(0))
        hi = bisect_left(notes, end, key=itemgetter(0))
        return list(notes[lo:hi])

    def note_counts(self) -> list[list[int]]:
        """Notes in each bar of each track, [track][bar]."""
        return [np.bincount(self.note_bars(t), minlength=len(self.bars)).tolist() for t in range(len(self.tracks))]

    def with_fill(self, region: Region, fills: Mapping[int, Sequence[Note]]) -> Score:
        """A copy in which the notes of the region's cells are those of `fills`, by track index, and keyswitches."""
        score = self
        for t, notes in fills.items():
            stay = keyswitches(self.tracks[t], self.ticks_per_beat)
            masked = {cell.bar for cell in region.cells if cell.track == t}
            bars = self.note_bars(t).tolist()
            kept = [n for n, b in zip(self.tracks[t].notes, bars, strict=True) if b not in masked or n in stay]
            score = score.with_notes(t, [*kept, *notes])
        return score

    def with_instrument(self, track: int, program: int = 0, *, is_drum: bool = False) -> Score:
        """A copy in which one track is taken for another instrument throughout, or for drums.

        This says how the model reads and writes the track; the file keeps its program changes and its channel. Raises
        RequestError for a track or program that there is not.
        """
        if not 0 <= track < len(self.tracks):
            raise RequestError(f"track must be 0-{len(self.tracks) - 1}, got {track}")
        if not 0 <= program <= 127:
            raise RequestError(f"program must be 0-127, got {program}")
        tracks = list(self.tracks)
        tracks[track] = replace(tracks[track], program=program, is_drum=is_drum, program_changes=(), is_overridden=True)
        return replace(self, tracks=tuple(tracks))

    def with_notes(self, track: int, notes: Iterable[Note]) -> Score:
        """A copy in which one track holds `notes`."""
        tracks = list(self.tracks)
        tracks[track] = replace(tracks[track], notes=tuple(sorted(notes)))
        return replace(self, tracks=tuple(tracks))


@dataclass(frozen=True)
class Region:
    """The cells to write anew. The model writes run by run (`bar_runs`), bar by bar, track by track."""

    cells: frozenset[Cell]

    def __post_init__(self) -> None:
        if not self.cells:
            raise RequestError("the region is empty: name at least one track and one bar")
        object.__setattr__(self, "cells", frozenset(Cell(*cell) for cell in self.cells))  # plain pairs will do

    @classmethod
    def rectangle(cls, tracks: Iterable[int], bar_ranges: Iterable[tuple[int, int]]) -> Region:
        """Every given track in every half-open range of bar indices."""
        tracks = list(tracks)
        return cls(frozenset(Cell(t, b) for lo, hi in bar_ranges for b in range(lo, hi) for t in tracks))

    @property
    def tracks(self) -> tuple[int, ...]:
        return tuple(sorted({t for t, _ in self.cells}))

    @property
    def bars(self) -> tuple[int, ...]:
        return tuple(sorted({b for _, b in self.cells}))

    def tracks_in(self, bar: int) -> tuple[int, ...]:
        return tuple(sorted(t for t, b in self.cells if b == bar))

    def bar_runs(self, track: int | None = None) -> list[tuple[int, int]]:
        """Half-open runs of consecutive bar indices, of one track or of all."""
        bars = self.bars if track is None else sorted(b for t, b in self.cells if t == track)
        runs: list[tuple[int, int]] = []
        for b in bars:
            if runs and runs[-1][1] == b:
                runs[-1] = (runs[-1][0], b + 1)
            else:
                runs.append((b, b + 1))
        return runs
