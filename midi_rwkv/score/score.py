"""The score, which the rest of the package works on: notes on tracks, bars on a tick axis, and the region to rewrite.

Ticks are the file's own (`Score.ticks_per_beat` to a quarter note). A bar *index* is 0-based and counts from the first
bar of the file. A bar *number* is what people read and type: it is 1-based, and a pickup bar has number 0.

Only this module decides which bar a note belongs to. Players come in early, so each track has a *lead*: a note that
begins at most that many ticks before a bar line belongs to the bar it leads into. Reading, masking, splicing and
drawing all use `bar_of`, `note_bars`, `notes_in` or `cell_ticks`; `bar_index_at` is for other ticks.
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
POSITIONS_PER_BEAT = 12  # grid positions per quarter note, for reading and writing notes
LEAD_EVIDENCE = 4  # a track's usual lead is measured from at least this many notes near bar lines


class Note(NamedTuple):
    """One note. Sorts by onset, then pitch."""

    onset_ticks: int
    pitch: int  # 0-127
    duration_ticks: int  # at least 1
    velocity: int  # 1-127


class TimeSignature(NamedTuple):
    """A time signature that holds from `tick` on."""

    tick: int
    numerator: int
    denominator: int


class Tempo(NamedTuple):
    """A tempo that holds from `tick` on."""

    tick: int
    microseconds_per_beat: int  # beat = quarter note

    @property
    def beats_per_minute(self) -> float:
        return 60e6 / self.microseconds_per_beat


class Bar(NamedTuple):
    """One bar, `[start_ticks, end_ticks)`. It is shorter than its time signature if the next time signature cuts it."""

    start_ticks: int
    end_ticks: int
    numerator: int
    denominator: int


class Cell(NamedTuple):
    """One bar of one track, as 0-based indices. Arguments have the same order, track before bar."""

    track: int
    bar: int


class ProgramChange(NamedTuple):
    """A change to another instrument, which holds from `tick` on."""

    tick: int
    program: int  # General MIDI, 0-127


@dataclass(frozen=True)
class Track:
    """The notes of one channel of one MIDI track chunk.

    Attributes:
        program: the General MIDI program (0-127) in force at the first note.
        is_drum: True for channel 9.
        chunk, channel: where the track is in the file; None for a track that the file does not have yet.
        program_changes: the changes after the first note, in order, each to another program than the one before.
        is_overridden: True if `Score.with_instrument` set the program; the track still keeps its channel in the file.
        usual_lead: how early its downbeats usually come, in ticks (see the function `usual_lead`). A copy of the track
            keeps it, so that a note stays in its bar when other notes are removed.
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
        """Every program of the track, in order of first appearance."""
        return tuple(dict.fromkeys([self.program, *(c.program for c in self.program_changes)]))

    def program_at(self, tick: int) -> int:
        """The program in force at `tick`."""
        i = bisect_right(self.program_changes, tick, key=itemgetter(0))
        return self.program_changes[i - 1].program if i else self.program

    def program_in(self, bar: Bar) -> int:
        """The program in force for the longest part of a bar; the first one, if several are equally long."""
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
    """How early a track's downbeats usually come, in ticks.

    This is the median lead of the notes that begin within one grid step of a bar line, plus three median absolute
    deviations (some two standard deviations, so one early downbeat in 40 is earlier). It is 0 if there are too few such
    notes or if they are spread evenly, and always less than one grid step, so that a pickup of a 32nd, a triplet or
    more never counts as a downbeat.

    Args:
        onsets: (n,) ticks.
        bar_lines: (bars + 1,) ascending ticks.
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
    if spread > 3 / 8 * step:  # evenly spread offsets have a spread of half a step
        return 0
    return max(0, min(int(3 * spread - middle), int(step) - 1))


def bar_lines(bars: Sequence[Bar]) -> np.ndarray:
    """(bars + 1,) ticks of all bar lines, including the one at the end."""
    return np.array([bars[0].start_ticks, *(b.end_ticks for b in bars)], np.int64)


def bar_grid(
    time_signatures: Sequence[TimeSignature], ticks_per_beat: int, end_ticks: int, limit: int = MAX_BARS
) -> tuple[Bar, ...]:
    """Bars from tick 0 up to and including the one that contains `end_ticks - 1`; at least one.

    A time signature inside a bar ends that bar. Before the first time signature the metre is 4/4.
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
    """A track's lead: half a grid step, or its usual lead if that is larger."""
    return max(ticks_per_beat // (2 * POSITIONS_PER_BEAT), usual)


def lead_at_end(lead: int, bar_ticks: int) -> int:
    """The lead at the end of a bar of this length: a note in the first half of a bar never belongs to the next."""
    return min(lead, bar_ticks // 2)


def bars_of(onsets: np.ndarray, bar_lines: np.ndarray, lead: int) -> np.ndarray:
    """(n,) indices of the bars that notes belong to, for (n,) onsets; after the last bar, the number of bars."""
    bar: np.ndarray = np.searchsorted(bar_lines, onsets, side="right") - 1
    length = np.append(np.diff(bar_lines), 0)
    early = np.append(bar_lines[1:], np.iinfo(np.int64).max) - np.minimum(lead, length // 2)
    bar += onsets >= early[bar]
    return bar


@dataclass(frozen=True)
class Score:
    """A song: tracks over one time axis.

    `bars` covers every note and event of the file; `bar(index)` continues beyond its end in the last metre. `digest`
    identifies the file that was read (`smf.digest_of`), or is "" if there is none; `write_midi` accepts only that file.
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
        """The bar at a 0-based index, which may be beyond the end (in the metre of the last bar)."""
        if index < len(self.bars):
            return self.bars[index]
        last = self.bars[-1]
        length = max(1, round(self.ticks_per_beat * 4 * last.numerator / last.denominator))
        start = last.end_ticks + (index - len(self.bars)) * length
        return Bar(start, start + length, last.numerator, last.denominator)

    def bar_index_at(self, tick: int) -> int:
        """Index of the bar that contains `tick`. For a note, use `bar_of`."""
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
        """How early a note of the track may begin and still belong to the bar after the bar line, in ticks."""
        return lead_ticks(self.ticks_per_beat, track.usual_lead)

    def bar_of(self, track: int, onset_ticks: int) -> int:
        """Index of the bar that a note of the track belongs to."""
        bar = self.bar_index_at(onset_ticks)
        return bar + (onset_ticks >= self.cell_ticks(track, bar)[1])

    def note_bars(self, track: int) -> np.ndarray:
        """(n,) `bar_of` all notes of the track."""
        onsets = np.array([n.onset_ticks for n in self.tracks[track].notes], np.int64)
        return bars_of(onsets, self._bar_lines, self.lead_ticks(self.tracks[track]))

    def cell_ticks(self, track: int, bar: int) -> tuple[int, int]:
        """The half-open range of ticks in which a cell's notes begin: the bar, shifted back by the track's lead."""
        lead = self.lead_ticks(self.tracks[track])
        start, end = self.bar(bar)[:2]
        before = start - self.bar(bar - 1).start_ticks if bar else 0
        return start - lead_at_end(lead, before), end - lead_at_end(lead, end - start)

    def notes_in(self, track: int, bar: int) -> list[Note]:
        """The notes of one cell."""
        start, end = self.cell_ticks(track, bar)
        notes = self.tracks[track].notes
        lo = bisect_left(notes, start, key=itemgetter(0))
        hi = bisect_left(notes, end, key=itemgetter(0))
        return list(notes[lo:hi])

    def note_counts(self) -> list[list[int]]:
        """Notes in each bar of each track, [track][bar]."""
        return [np.bincount(self.note_bars(t), minlength=len(self.bars)).tolist() for t in range(len(self.tracks))]

    def with_fill(self, region: Region, fills: Mapping[int, Sequence[Note]]) -> Score:
        """A copy in which the region's cells hold the notes of `fills` (by track index) and their own keyswitches."""
        score = self
        for t, notes in fills.items():
            stay = keyswitches(self.tracks[t], self.ticks_per_beat)
            masked = {cell.bar for cell in region.cells if cell.track == t}
            bars = self.note_bars(t).tolist()
            kept = [n for n, b in zip(self.tracks[t].notes, bars, strict=True) if b not in masked or n in stay]
            score = score.with_notes(t, [*kept, *notes])
        return score

    def with_instrument(self, track: int, program: int = 0, *, is_drum: bool = False) -> Score:
        """A copy in which one track is treated as another instrument throughout, or as drums.

        This changes how the model reads and writes the track; the file keeps its program changes and its channel.

        Raises:
            RequestError: the track or the program does not exist.
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
    """The cells to rewrite. The model writes run by run (`bar_runs`), bar by bar, track by track."""

    cells: frozenset[Cell]

    def __post_init__(self) -> None:
        if not self.cells:
            raise RequestError("the region is empty: name at least one track and one bar")
        object.__setattr__(self, "cells", frozenset(Cell(*cell) for cell in self.cells))  # accepts plain pairs

    @classmethod
    def rectangle(cls, tracks: Iterable[int], bar_ranges: Iterable[tuple[int, int]]) -> Region:
        """All given tracks in all given half-open ranges of bar indices."""
        tracks = list(tracks)
        return cls(frozenset(Cell(t, b) for lo, hi in bar_ranges for b in range(lo, hi) for t in tracks))

    @property
    def tracks(self) -> tuple[int, ...]:
        return tuple(sorted({t for t, _ in self.cells}))

    @property
    def bars(self) -> tuple[int, ...]:
        return tuple(sorted({b for _, b in self.cells}))

    def bar_runs(self, track: int | None = None) -> list[tuple[int, int]]:
        """Half-open runs of consecutive bar indices, for one track or for all."""
        bars = self.bars if track is None else sorted(b for t, b in self.cells if t == track)
        runs: list[tuple[int, int]] = []
        for b in bars:
            if runs and runs[-1][1] == b:
                runs[-1] = (runs[-1][0], b + 1)
            else:
                runs.append((b, b + 1))
        return runs
