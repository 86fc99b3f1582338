"""What the model reads and writes: a song and a masked run of bars as one sequence of steps.

    BOS Tempo [Song_Start] [Song_End] Infill_Track+          what is asked
    Track_Start (TimeSig notes | Rest | Infill_Bar)+         the song, track by track, the asked tracks last
    TimeSig [limits] [controls] [chords] [Kept_Start notes] FillBar_Start notes      a cell to write

A bar of the song is its TimeSig and its notes; bars in which a track rests are a `Rest` together, and a cell that is
hidden is an `Infill_Bar`. Cells are written track by track. Nothing closes a cell: that it ends is what the model says
where it might have begun another note.

Reading order aside, every step carries the program of its track, what it is to the fill (`Role`) and how far its bar
lies from the run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from .attributes import DRUMS, RESTS, Column, Role, Vocabulary, distance_of
from .chords import Chord
from .context import Context
from .notes import AT, SongNotes
from .surroundings import CellSurroundings

DENSITY_LEVELS = 18
POLYPHONY_LEVELS = 6
# MidiTok's note durations, in positions.
_DURATIONS = {"Whole": 96, "Half": 48, "Quarter": 24, "Eight": 12, "Sixteenth": 6, "ThirtySecond": 3}
EMPTY = np.zeros((0, 5), np.int16)


@dataclass(frozen=True)
class CellAsk:
    """A cell to write, and what is told before it."""

    track: int
    bar: int
    kept: np.ndarray = field(default_factory=lambda: EMPTY)  # (n, 5) notes that stay
    span: tuple[int, int] | None = None  # positions to write in, half-open; None: all
    pitches: tuple[int, int] | None = None  # lowest and highest to write
    controls: Sequence[str] = ()  # structural tokens
    chords: Sequence[Chord] = ()
    around: CellSurroundings | None = None
    part: np.ndarray | None = None  # (positions, 128) bool, what of the sources is followed; None: all


@dataclass(frozen=True)
class Window:
    """What is shown of a song: bars [low, high) around a run [first, last).

    open_end: whether the song goes on after them is not known.
    """

    first: int
    last: int
    low: int
    high: int
    open_end: bool = False


def step(token: int, **columns: int) -> np.ndarray:
    """One structural step, (1, columns); columns by their names in lower case."""
    row = np.zeros((1, len(Column)), np.int16)
    row[0, Column.TOKEN] = token
    for name, value in columns.items():
        row[0, Column[name.upper()]] = value
    return row


def note_steps(  # noqa: PLR0913 -- the columns, by name
    vocabulary: Vocabulary,
    notes: np.ndarray,
    *,
    program: np.ndarray | int,
    role: Role,
    distance: np.ndarray | int,
    cell: np.ndarray | None = None,
    around: np.ndarray | None = None,
) -> np.ndarray:
    """Notes as steps, (n, columns). cell: which cell each note is of, where they are of several. around: the columns of
    their surroundings, the others 0."""
    steps = np.zeros((len(notes), len(Column)), np.int16) if around is None else around
    if not len(notes):
        return steps
    position = notes[:, AT.position]
    same = np.concatenate([[False], position[1:] == position[:-1]])
    if cell is not None:
        same[1:] &= cell[1:] == cell[:-1]
    new, again = vocabulary.note_tokens
    is_drum = np.asarray(program) == DRUMS
    steps[:, Column.TOKEN] = np.where(same, again, new)
    steps[:, Column.POSITION] = 1 + position
    steps[:, Column.MICRO] = 1 + notes[:, AT.micro] - vocabulary.micros[0]
    steps[:, Column.PITCH] = 1 + notes[:, AT.pitch] + 128 * is_drum
    steps[:, Column.VELOCITY] = 1 + notes[:, AT.velocity]
    steps[:, Column.DURATION] = np.where(is_drum, 0, 1 + notes[:, AT.duration])
    steps[:, Column.PROGRAM] = 1 + np.asarray(program)
    steps[:, Column.ROLE] = role
    steps[:, Column.DISTANCE] = distance
    return steps


def notes_of(vocabulary: Vocabulary, steps: np.ndarray) -> np.ndarray:
    """`note_steps` undone: (n, 5)."""
    notes = np.zeros((len(steps), 5), np.int16)
    notes[:, AT.position] = steps[:, Column.POSITION] - 1
    notes[:, AT.micro] = steps[:, Column.MICRO] - 1 + vocabulary.micros[0]
    notes[:, AT.pitch] = (steps[:, Column.PITCH] - 1) % 128
    notes[:, AT.velocity] = steps[:, Column.VELOCITY] - 1
    notes[:, AT.duration] = np.maximum(0, steps[:, Column.DURATION] - 1)
    return notes


def choose_window(
    song: SongNotes,
    visible: np.ndarray,
    run: tuple[int, int],
    *,
    budget: int,
    before: int | None = None,
    after: int | None = None,
) -> Window:
    """The run and, a bar at a time on either side in turn, as many neighbours as fit `budget` steps.

    visible: (T, B) bool, cells that may be shown. before, after: at most so many bars (None: as many as there are).
    """
    counts = song.counts.T * visible
    cost = counts.sum(0) + (counts > 0).sum(0) + 1
    first, last = run
    end = min(song.n_bars, last + (song.n_bars if after is None else after))
    start = max(0, first - (song.n_bars if before is None else before))
    left = budget - int(cost[first:last].sum()) - 4 * song.n_tracks - 8
    low, high = first, last
    growing = True
    while growing:
        growing = False
        if low > start and cost[low - 1] <= left:
            low -= 1
            left -= int(cost[low])
            growing = True
        if high < end and cost[high] <= left:
            left -= int(cost[high])
            high += 1
            growing = True
    return Window(first, last, low, high)


def prompt_steps(
    vocabulary: Vocabulary,
    song: SongNotes,
    window: Window,
    asked: Collection[int],
    hidden: Collection[tuple[int, int]],
    *,
    absent: Collection[int] = (),
) -> np.ndarray:
    """All that is read before the first cell: (n, columns).

    asked: tracks to write. hidden: cells (track, bar) that are not shown. absent: tracks of which nothing is shown.
    """
    v, w = vocabulary, window
    parts = [step(v.id("BOS_None")), step(int(song.tempos[w.first]))]
    if w.low == 0:
        parts.append(step(v.id("Song_Start")))
    if w.high == song.n_bars and not w.open_end:
        parts.append(step(v.id("Song_End")))
    parts += [step(v.id("Infill_Track"), program=1 + song.program(t, w.first)) for t in sorted(asked)]
    hidden_at = np.zeros((song.n_tracks, w.high - w.low), bool)
    for track, bar in hidden:
        if w.low <= bar < w.high:
            hidden_at[track, bar - w.low] = True
    hidden_at[list(absent)] = True
    counts = song.counts[w.low : w.high].T * ~hidden_at
    shown = np.zeros((song.n_tracks, song.n_bars), bool)
    shown[:, w.low : w.high] = ~hidden_at
    around = Context(v, song, shown, (w.low, w.high)).columns()
    order = [t for t in range(song.n_tracks) if t not in asked] + sorted(asked)
    for t in order:
        if t not in absent and (counts[t].any() or (t in asked and hidden_at[t].any())):
            parts.append(_track_steps(v, song, window, t, hidden_at[t], around))
    return np.concatenate(parts)


def _track_steps(
    v: Vocabulary,
    song: SongNotes,
    window: Window,
    track: int,
    hidden: np.ndarray,
    around: tuple[np.ndarray, np.ndarray],
) -> np.ndarray:
    """One track of the window. around: of the song's notes and cells, as `Context.columns` has it."""
    w = window
    bars = np.arange(w.low, w.high)
    if track in song.changing:
        programs = song.changing[track][w.low : w.high].astype(np.int64)
    else:
        programs = np.full(len(bars), int(song.programs[track]))
    distances = distance_of(bars, w.first, w.last)
    counts = song.counts[w.low : w.high, track] * ~hidden
    headers = around[1][track, w.low : w.high].copy()
    headers[:, Column.TOKEN] = np.where(hidden, v.id("Infill_Bar"), song.headers[w.low : w.high])
    headers[:, Column.PROGRAM] = 1 + programs
    headers[:, Column.ROLE] = Role.CONTEXT
    headers[:, Column.DISTANCE] = distances
    headers, header_bars = _with_rests(v, headers, (counts == 0) & ~hidden)
    cells = np.repeat(np.arange(len(bars)), counts)
    sounding = np.flatnonzero(counts)
    at = [np.arange(*song.offsets[(w.low + b) * song.n_tracks + track :][:2]) for b in sounding.tolist()]
    own = np.concatenate(at) if at else np.zeros(0, np.int64)
    played = note_steps(
        v,
        song.notes[own],
        program=programs[cells],
        role=Role.CONTEXT,
        distance=distances[cells],
        cell=cells,
        around=around[0][own],
    )
    order = np.argsort(np.concatenate([2 * header_bars, 2 * cells + 1]), kind="stable")
    start = step(v.id("Track_Start"), program=1 + int(programs[0]), role=Role.CONTEXT)
    return np.concatenate([start, np.concatenate([headers, played])[order]])


def _with_rests(v: Vocabulary, headers: np.ndarray, rests: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The headers with a few `Rest` steps for each stretch of empty bars, and the bar of each."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], rests.astype(np.int8), [0]]))).reshape(-1, 2)
    tokens, keep = headers[:, Column.TOKEN].copy(), ~rests
    for lo, hi in edges.tolist():
        while lo < hi:
            length = max(n for n in RESTS if n <= hi - lo)
            tokens[lo], keep[lo] = v.id(f"Rest_{length}"), True
            lo += length
    headers = headers.copy()
    headers[:, Column.TOKEN] = tokens
    return headers[keep], np.flatnonzero(keep)


def cell_steps(vocabulary: Vocabulary, song: SongNotes, ask: CellAsk, run: tuple[int, int]) -> np.ndarray:
    """All that is read before the first note of a cell, FillBar_Start the last: (n, columns)."""
    v, program = vocabulary, song.program(ask.track, ask.bar)
    place = {"program": 1 + program, "role": int(Role.ANSWER), "distance": int(distance_of(ask.bar, *run))}
    parts = [step(int(song.headers[ask.bar]), **place)]
    if ask.span is not None:
        parts.append(step(v.id("Fill_From"), position=1 + ask.span[0], **place))
        parts.append(step(v.id("Fill_To"), position=ask.span[1], **place))
    if ask.pitches is not None:
        drums = 128 * (program == DRUMS)
        parts.append(step(v.id("Fill_Low"), pitch=1 + drums + ask.pitches[0], **place))
        parts.append(step(v.id("Fill_High"), pitch=1 + drums + ask.pitches[1], **place))
    parts += [step(v.id(name), **place) for name in ask.controls]
    for chord in ask.chords:
        at = {"position": 1 + chord.position, **place}
        if not chord.quality:
            parts.append(step(v.id("Chord_None"), **at))
            continue
        parts.append(step(v.id(f"Chord_{chord.quality}"), pitch=1 + chord.root, **at))
        if chord.bass != chord.root:
            parts.append(step(v.id("Chord_Bass"), pitch=1 + chord.bass, **at))
    if len(ask.kept):
        parts.append(step(v.id("Kept_Start"), **place))
        around = ask.around.keep(ask.kept) if ask.around else None
        parts.append(
            note_steps(v, ask.kept, program=program, role=Role.KEPT, distance=place["distance"], around=around)
        )
    parts.append(step(v.id("FillBar_Start"), **place))
    if ask.around and ask.part is not None:
        ask.around.narrow(ask.part)
    if ask.around:
        parts[-1][0, Column.LOWEST :] = ask.around.at_start()[Column.LOWEST :]
    return np.concatenate(parts)


def cell_answer(
    vocabulary: Vocabulary, song: SongNotes, ask: CellAsk, notes: np.ndarray, run: tuple[int, int]
) -> np.ndarray:
    """The notes of a cell as they are written after `cell_steps`."""
    return note_steps(
        vocabulary,
        notes,
        program=song.program(ask.track, ask.bar),
        role=Role.ANSWER,
        distance=int(distance_of(ask.bar, *run)),
        around=ask.around.of_notes(notes) if ask.around else None,
    )


def control_tokens(vocabulary: Vocabulary, notes: np.ndarray, *, is_drum: bool, kinds: Iterable[str]) -> list[str]:
    """MidiTok's bar-level attribute controls that describe a cell. kinds: of "density", "polyphony", "duration"."""
    names: list[str] = []
    struck = np.bincount(notes[:, AT.position]) if len(notes) else np.zeros(0, np.int64)
    struck = struck[struck > 0]
    for kind in kinds:
        if kind == "density":
            names.append(f"ACBarNoteDensity_{len(notes)}" if len(notes) < DENSITY_LEVELS else "ACBarNoteDensity_18+")
        elif kind == "polyphony" and len(struck):
            names.append(f"ACBarOnsetPolyphonyMin_{min(int(struck.min()), POLYPHONY_LEVELS)}")
            names.append(f"ACBarOnsetPolyphonyMax_{min(int(struck.max()), POLYPHONY_LEVELS)}")
        elif kind == "duration" and len(notes) and not is_drum:
            lengths = set(vocabulary.durations[notes[:, AT.duration]].tolist())
            names += [f"ACBarNoteDuration{name}_{int(length in lengths)}" for name, length in _DURATIONS.items()]
    return names


def targets_of(steps: np.ndarray, vocabulary: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
    """What each step but the last is to predict, (n - 1, 5): place, micro-timing, pitch, velocity, duration; and the
    role of each prediction, (n - 1,), `Role.NONE` where nothing is predicted.

    Place: 0 the cell ends, 1 the position of the note before, 2 + p position p. The others as in the columns; all 0
    where the cell ends.
    """
    new, same = vocabulary.note_tokens
    token, following = steps[:-1, Column.TOKEN], steps[1:]
    is_note = (following[:, Column.TOKEN] == new) | (following[:, Column.TOKEN] == same)
    in_cell = (token == new) | (token == same) | (token == vocabulary.id("FillBar_Start"))
    role = np.where(is_note, following[:, Column.ROLE], np.where(in_cell, steps[:-1, Column.ROLE], Role.NONE))
    role[(role != Role.CONTEXT) & (role != Role.ANSWER)] = Role.NONE
    targets = following[:, Column.POSITION : Column.DURATION + 1].astype(np.int64)
    targets[:, 0] = np.where(following[:, Column.TOKEN] == same, 1, 1 + targets[:, 0])
    targets[~is_note] = 0
    return targets, role
