"""A song as the attributes of its notes, cell by cell, and back to ticks.

Time is read in 240ths of a quarter: a position (24 a quarter, counted from the bar line) and the micro-timing around
it. A note that its player brought in before the bar line it belongs to has position 0 and an early micro-timing. In a
bar of more than 16 quarters, which the positions do not cover, both are coarser by a whole factor.

What is not read: a drum's duration, velocities finer than 4, durations finer than the vocabulary's (a position up to a
whole note, half a position's fineness above), and of several notes at one position, micro-timing and pitch all but the
loudest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from midi_rwkv.score.score import Bar, Note, Score, bar_lines, bars_of

from .attributes import DRUMS, MICRO_MAX, MICRO_MIN, MICROS_PER_POSITION, POSITIONS_PER_QUARTER, Vocabulary

UNITS_PER_QUARTER = POSITIONS_PER_QUARTER * MICROS_PER_POSITION


class Attribute(NamedTuple):
    """The columns of `SongNotes.notes`: plain values and indices from 0, unlike the columns of a step."""

    position: int = 0
    micro: int = 1  # in 240ths of a quarter, MICRO_MIN to MICRO_MAX
    pitch: int = 2
    velocity: int = 3  # level
    duration: int = 4  # index


AT = Attribute()


@dataclass(frozen=True)
class SongNotes:
    """A song of B bars and T tracks. Cell (track t, bar b) is rows `offsets[b * T + t]` to `offsets[b * T + t + 1]`
    of `notes`, in the order of position, pitch and micro-timing."""

    programs: np.ndarray  # (T,) General MIDI, or DRUMS
    headers: np.ndarray  # (B,) TimeSig tokens
    lengths: np.ndarray  # (B,) positions that begin in the bar
    tempos: np.ndarray  # (B,) Tempo tokens
    notes: np.ndarray  # (N, 5) int16, columns AT
    offsets: np.ndarray  # (B * T + 1,)
    changing: Mapping[int, np.ndarray] = field(default_factory=dict)  # by track that changes program: (B,) programs

    @property
    def n_tracks(self) -> int:
        return len(self.programs)

    @property
    def n_bars(self) -> int:
        return len(self.headers)

    @cached_property
    def counts(self) -> np.ndarray:
        """Notes in each cell, (B, T)."""
        return np.diff(self.offsets).reshape(self.n_bars, self.n_tracks)

    def program(self, track: int, bar: int) -> int:
        """The program in force for the longest part of a bar."""
        return int(self.changing[track][bar] if track in self.changing else self.programs[track])

    def is_drum(self, track: int) -> bool:
        return int(self.programs[track]) == DRUMS

    def cell(self, track: int, bar: int) -> np.ndarray:
        """(n, 5) notes."""
        k = bar * self.n_tracks + track
        return self.notes[self.offsets[k] : self.offsets[k + 1]]

    def part(self, first: int, last: int) -> SongNotes:
        """Bars [first, last) as a song."""
        offsets = self.offsets[first * self.n_tracks : last * self.n_tracks + 1]
        return SongNotes(
            self.programs,
            self.headers[first:last],
            self.lengths[first:last],
            self.tempos[first:last],
            self.notes[offsets[0] : offsets[-1]],
            offsets - offsets[0],
            {t: programs[first:last] for t, programs in self.changing.items()},
        )

    def with_cells(self, cells: Mapping[tuple[int, int], np.ndarray]) -> SongNotes:
        """The song with other notes in some cells (track, bar)."""
        parts = np.split(self.notes, self.offsets[1:-1])
        for (track, bar), notes in cells.items():
            parts[bar * self.n_tracks + track] = notes
        offsets = np.concatenate([[0], np.cumsum([len(p) for p in parts])])
        notes = np.concatenate(parts).astype(np.int16) if parts else self.notes
        return SongNotes(self.programs, self.headers, self.lengths, self.tempos, notes, offsets, self.changing)


def transposed(song: SongNotes, semitones: int) -> SongNotes:
    """The song in another key, drums as they are."""
    if not semitones:
        return song
    pitched = np.repeat(np.tile(song.programs != DRUMS, song.n_bars), np.diff(song.offsets))
    notes = song.notes.copy()
    notes[:, AT.pitch] += (semitones * pitched).astype(np.int16)
    return replace(song, notes=notes)


class BarGrid:
    """Bars in ticks against positions in them."""

    def __init__(self, vocabulary: Vocabulary, bars: Sequence[Bar], ticks_per_beat: int):
        self.lines = bar_lines(bars)
        whole = np.ceil(np.diff(self.lines) * POSITIONS_PER_QUARTER / ticks_per_beat - 1e-6).astype(np.int64)
        coarser = -(-whole // vocabulary.n_positions)
        self.ticks = coarser * ticks_per_beat / UNITS_PER_QUARTER  # (B,) a micro-timing step
        self.lengths = np.maximum(1, -(-whole // np.maximum(1, coarser)))

    def place(self, bar: np.ndarray, onset: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Position and micro-timing of ticks that belong to bars."""
        units = np.rint((onset - self.lines[bar]) / self.ticks[bar]).astype(np.int64)
        position = np.clip((units + MICROS_PER_POSITION // 2) // MICROS_PER_POSITION, 0, self.lengths[bar] - 1)
        return position, np.clip(units - MICROS_PER_POSITION * position, MICRO_MIN, MICRO_MAX)

    def position_ticks(self, bar: int) -> np.ndarray:
        """The ticks of a bar's positions, (n,)."""
        units = MICROS_PER_POSITION * np.arange(self.lengths[bar])
        ticks: np.ndarray = self.lines[bar] + np.rint(units * self.ticks[bar]).astype(np.int64)
        return ticks

    def onset(self, bar: int, position: int, micro: int) -> int:
        """The tick of a place."""
        return int(self.lines[bar]) + round((MICROS_PER_POSITION * position + micro) * float(self.ticks[bar]))


@dataclass(frozen=True)
class TrackArray:
    """A track in ticks and MIDI units."""

    notes: np.ndarray  # (n, 4) onset, pitch, duration, velocity
    program: int  # General MIDI, or DRUMS
    lead: int  # `score.lead_ticks`


def encode_track(
    vocabulary: Vocabulary, grid: BarGrid, track: TrackArray, ticks_per_beat: int
) -> tuple[np.ndarray, np.ndarray]:
    """One track's notes, sorted bar by bar: the bar of each, (n,), and their attributes, (n, 5)."""
    is_drum = track.program == DRUMS
    onset, pitch, duration, velocity = np.asarray(track.notes, np.int64).reshape(-1, 4).T
    bar = bars_of(onset, grid.lines, track.lead)
    inside = (bar >= 0) & (bar < len(grid.lengths))
    onset, pitch, duration, velocity, bar = (x[inside] for x in (onset, pitch, duration, velocity, bar))
    position, micro = grid.place(bar, onset)
    order = np.lexsort((-duration, -velocity, micro, pitch, position, bar))
    key = np.stack([bar, position, pitch, micro], 1)[order]
    order = order[np.concatenate([np.ones(min(1, len(key)), bool), (key[1:] != key[:-1]).any(1)])]
    length = duration * POSITIONS_PER_QUARTER / ticks_per_beat
    columns = (
        position,
        micro,
        pitch,
        nearest(vocabulary.velocities, velocity),
        np.zeros_like(pitch) if is_drum else nearest(vocabulary.durations, length),
    )
    return bar[order], np.stack(columns, 1)[order].astype(np.int16)


def encode_arrays(
    vocabulary: Vocabulary,
    tracks: Sequence[TrackArray],
    bars: Sequence[Bar],
    tempos: Sequence[float],
    *,
    ticks_per_beat: int,
) -> SongNotes:
    """A song from plain arrays. tempos: in BPM, one for each bar."""
    grid = BarGrid(vocabulary, bars, ticks_per_beat)
    T, B = len(tracks), len(bars)
    cells, parts = [], []
    for t, track in enumerate(tracks):
        bar, attributes = encode_track(vocabulary, grid, track, ticks_per_beat)
        cells.append(bar * T + t)
        parts.append(attributes)
    cell = np.concatenate([np.zeros(0, np.int64), *cells])
    order = np.argsort(cell, kind="stable")
    counts = np.bincount(cell, minlength=B * T)
    quarters = np.diff(grid.lines) / ticks_per_beat
    headers = [vocabulary.time_signature_id(b.numerator, b.denominator, q) for b, q in zip(bars, quarters, strict=True)]
    tempo_of = {t: vocabulary.tempo_id(t) for t in set(tempos)}
    return SongNotes(
        programs=np.array([track.program for track in tracks], np.int16),
        headers=np.array(headers, np.int16),
        lengths=grid.lengths.astype(np.int16),
        tempos=np.array([tempo_of[t] for t in tempos], np.int16),
        notes=np.concatenate([np.zeros((0, 5), np.int16), *parts])[order],
        offsets=np.concatenate([[0], np.cumsum(counts)]),
    )


def encode(vocabulary: Vocabulary, score: Score, bars: Sequence[Bar] | None = None) -> SongNotes:
    """A whole song. bars: the grid, where it goes on beyond `score.bars`."""
    bars = score.bars if bars is None else bars
    song = encode_arrays(
        vocabulary,
        [
            TrackArray(
                np.array(t.notes, np.int64).reshape(-1, 4), DRUMS if t.is_drum else t.program, score.lead_ticks(t)
            )
            for t in score.tracks
        ],
        bars,
        [score.tempo_at(b.start_ticks) for b in bars],
        ticks_per_beat=score.ticks_per_beat,
    )
    changing = {
        i: np.array([t.program_in(bar) for bar in bars], np.int16)
        for i, t in enumerate(score.tracks)
        if t.program_changes and not t.is_drum
    }
    return SongNotes(song.programs, song.headers, song.lengths, song.tempos, song.notes, song.offsets, changing)


def decode_cell(
    vocabulary: Vocabulary, grid: BarGrid, notes: np.ndarray, *, bar: int, ticks_per_beat: int, is_drum: bool
) -> list[Note]:
    """The notes of a cell in ticks. A drum hit is a sixteenth long, for its duration is not known."""
    decoded = []
    for position, micro, pitch, velocity, duration in notes.tolist():
        positions = POSITIONS_PER_QUARTER // 4 if is_drum else int(vocabulary.durations[duration])
        ticks = max(1, round(positions * ticks_per_beat / POSITIONS_PER_QUARTER))
        onset = max(0, grid.onset(bar, position, micro))
        decoded.append(Note(onset, pitch, ticks, int(vocabulary.velocities[velocity])))
    return decoded


def duration_edges(vocabulary: Vocabulary, ticks_per_beat: int) -> np.ndarray:
    """Midpoints, in ticks, between neighbouring durations of the vocabulary."""
    durations = vocabulary.durations * (ticks_per_beat / POSITIONS_PER_QUARTER)
    return np.asarray((durations[1:] + durations[:-1]) / 2)


def nearest(table: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Index of the entry of a sorted table nearest to each value; the lower one in a tie."""
    return np.searchsorted((table[1:] + table[:-1]) / 2, values, side="left")
