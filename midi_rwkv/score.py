"""Music as the rest of the package sees it: notes on tracks, bars on a tick axis, and the region to write anew.

Ticks are the file's own (`Score.ticks_per_beat` of them to a quarter note). A bar *index* is 0-based and counts
from the file's first bar; a bar *number* is what people read and type: 1-based, with a pickup bar as number 0.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from operator import itemgetter
from typing import NamedTuple

from .errors import RequestError
from .keyswitches import keyswitches

MAX_BARS = 20_000


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
    """

    name: str
    program: int
    is_drum: bool
    notes: tuple[Note, ...]
    _: KW_ONLY
    chunk: int | None = None
    channel: int | None = None
    program_changes: tuple[ProgramChange, ...] = ()
    is_overridden: bool = False

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
        last = max((n.onset_ticks + 1 for t in self.tracks for n in t.notes), default=0)
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
        """Index of the bar that holds `tick`."""
        if tick < self.bars[-1].end_ticks:
            return max(0, bisect_right(self._starts, tick) - 1)
        last, nxt = self.bars[-1], self.bar(len(self.bars))
        return len(self.bars) + (tick - last.end_ticks) // (nxt.end_ticks - nxt.start_ticks)

    def tempo_at(self, tick: int) -> float:
        """Beats (quarters) per minute in force at `tick`; 120 before the first tempo event."""
        i = bisect_right(self.tempos, tick, key=itemgetter(0))
        return self.tempos[i - 1].beats_per_minute if i else 120.0

    def notes_in(self, track: int, bar: int) -> list[Note]:
        """Notes of one cell: those whose onset lies in the bar."""
        span = self.bar(bar)
        notes = self.tracks[track].notes
        lo = bisect_right(notes, (span.start_ticks - 1, 128, 0, 0))
        hi = bisect_right(notes, (span.end_ticks - 1, 128, 0, 0))
        return list(notes[lo:hi])

    def note_counts(self) -> list[list[int]]:
        """Notes in each bar of each track, [track][bar]."""
        counts = [[0] * len(self.bars) for _ in self.tracks]
        for row, track in zip(counts, self.tracks, strict=True):
            for note in track.notes:
                row[self.bar_index_at(note.onset_ticks)] += 1
        return counts

    def with_fill(self, region: Region, fills: Mapping[int, Sequence[Note]]) -> Score:
        """A copy in which the notes of the region's cells are those of `fills`, by track index, and keyswitches."""
        score = self
        for t, notes in fills.items():
            stay = keyswitches(self.tracks[t], self.ticks_per_beat)
            kept = [
                n
                for n in self.tracks[t].notes
                if n in stay or (t, self.bar_index_at(n.onset_ticks)) not in region.cells
            ]
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
    """The cells to write anew: pairs (track index, bar index), both 0-based.

    `runs()` gives maximal runs of consecutive bars in which any cell is masked, each with the tracks masked in every
    bar; the model writes run by run, bar by bar, track by track.
    """

    cells: frozenset[tuple[int, int]]

    def __post_init__(self) -> None:
        if not self.cells:
            raise RequestError("the region is empty: name at least one track and one bar")

    @classmethod
    def rectangle(cls, tracks: Iterable[int], bar_ranges: Iterable[tuple[int, int]]) -> Region:
        """Every given track in every half-open range of bar indices."""
        tracks = list(tracks)
        return cls(frozenset((t, b) for lo, hi in bar_ranges for b in range(lo, hi) for t in tracks))

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
