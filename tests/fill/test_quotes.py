"""No run of the training music is missed, and none is completed by a note that the guard lets through."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midi_rwkv.errors import CheckpointError, RequestError
from midi_rwkv.fill.ask import Ask
from midi_rwkv.fill.fingerprint import (
    FILE,
    RUN,
    Fingerprint,
    Line,
    is_told,
    line_of,
    load_fingerprint,
    make_fingerprint,
    steps_of,
)
from midi_rwkv.fill.limits import CellLimits
from midi_rwkv.fill.note_writer import NoteWriter
from midi_rwkv.fill.quotes import QuoteGuard, SharedRun, longest_run, quoted_bars, shared_run
from midi_rwkv.model.config import SamplingConfig
from midi_rwkv.score.score import Cell, Region
from midi_rwkv.tokens.attributes import DRUMS
from midi_rwkv.tokens.notes import SongNotes

BAR = 96  # positions
CLASSES = (386, 26, 256, 32, 240)
ANY = SamplingConfig(temperature=1.0, top_p=1.0, min_p=0.0)


def song_of(tracks: list[list[list[tuple[int, int]]]], programs: list[int]) -> SongNotes:
    """A song from the positions and pitches of each bar of each track."""
    bars = len(tracks[0])
    cells = [
        np.array([(p, 0, q, 16, 5) for p, q in t[b]], np.int16).reshape(-1, 5) for b in range(bars) for t in tracks
    ]
    return SongNotes(
        np.array(programs, np.int16),
        np.zeros(bars, np.int16),
        np.full(bars, BAR, np.int16),
        np.zeros(bars, np.int16),
        np.concatenate(cells),
        np.concatenate([[0], np.cumsum([len(c) for c in cells])]),
    )


def random_song(rng: np.random.Generator, bars: int = 12) -> SongNotes:
    """A melody and drums, neither of them monotonous."""

    def bar(low: int, high: int) -> list[tuple[int, int]]:
        places = np.sort(rng.choice(16, 8, replace=False)) * 6
        return [(int(p), int(q)) for p, q in zip(places, rng.integers(low, high, 8), strict=True)]

    return song_of([[bar(55, 80) for _ in range(bars)], [bar(36, 52) for _ in range(bars)]], [0, DRUMS])


@pytest.fixture(scope="module")
def training() -> list[SongNotes]:
    return [random_song(np.random.default_rng(seed)) for seed in range(20)]


@pytest.fixture(scope="module")
def fingerprint(training: list[SongNotes]) -> Fingerprint:
    return make_fingerprint(training)


def embedded(rng: np.random.Generator, part: Line) -> tuple[Line, np.ndarray]:
    """Notes among others, and which they are."""
    before, after = rng.integers(0, 30, 2)
    onsets = np.concatenate([6 * np.arange(before), 6 * before + 12 + part.onsets - part.onsets[0]])
    onsets = np.concatenate([onsets, onsets[-1] + 12 + 6 * np.arange(after)])
    pitches = np.concatenate([rng.integers(30, 50, before), part.pitches, rng.integers(80, 100, after)])
    new = np.zeros(len(onsets), bool)
    new[before : before + len(part.onsets)] = True
    return Line(onsets, pitches, part.is_drum), new


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 19),
    st.booleans(),
    st.integers(0, 80),
    st.integers(RUN, 40),
    st.integers(-11, 11),
    st.integers(0, 9999),
)
def test_no_run_is_missed(  # noqa: PLR0913 - hypothesis
    training: list[SongNotes],
    fingerprint: Fingerprint,
    song: int,
    drums: bool,  # noqa: FBT001 - hypothesis
    first: int,
    length: int,
    up: int,
    seed: int,
) -> None:
    line = line_of(training[song], int(drums))
    part = slice(first, first + length)
    copied = Line(line.onsets[part], line.pitches[part] + (0 if drums else up), drums)
    told = is_told(steps_of(copied.onsets, copied.pitches, is_drum=drums))
    around, new = embedded(np.random.default_rng(seed), copied)
    found = shared_run(fingerprint, around, new)
    if told.all() and len(told):
        assert found.alone >= len(copied.onsets)
        assert found.around >= found.alone


def test_a_played_run_is_found() -> None:
    """Sixteenths, eighths, dotted eighths and quarters a 24th of a quarter early or late are still what they were."""
    rng = np.random.default_rng(5)
    onsets = np.cumsum(rng.choice([6, 12, 18, 24], 16))
    bars = [[(int(p), int(q)) for p, q in zip(onsets, rng.integers(50, 80, 16), strict=True)]]
    line = line_of(song_of([bars], [0]), 0)
    fingerprint = make_fingerprint([song_of([bars], [0])])
    for offset in (-1, 1):
        played = line._replace(onsets=line.onsets + offset * (np.arange(16) % 2))
        assert shared_run(fingerprint, played, np.ones(16, bool)) == SharedRun(16, 16)


def test_other_music_shares_no_run(fingerprint: Fingerprint) -> None:
    for seed in range(100, 120):
        song = random_song(np.random.default_rng(seed))
        for t in range(2):
            line = line_of(song, t)
            assert shared_run(fingerprint, line, np.ones(len(line.onsets), bool)) == SharedRun(0, 0)


@pytest.mark.parametrize("pattern", [[60], [60, 62], [60, 64, 67], [60, 67, 64, 67], [60, 62, 64, 65, 67, 69, 71, 72]])
def test_trivial_runs_are_nobodys(pattern: list[int]) -> None:
    """Repeated notes, trills, broken chords and scales."""
    bars = [[(p, pattern[p // 12 % len(pattern)]) for p in range(0, BAR, 12)] for _ in range(8)]
    song = song_of([bars], [0])
    line = line_of(song, 0)
    assert make_fingerprint([song]).runs(line) == []


def test_what_is_new(training: list[SongNotes], fingerprint: Fingerprint) -> None:
    """Of one bar of a training song every note but one is new."""
    song = training[3]
    stay = song.cell(0, 5)[4:5]
    whole = len(line_of(song, 0).onsets)
    assert longest_run(fingerprint, song, {Cell(0, 5): stay, Cell(0, 6): stay[:0]}) == {0: SharedRun(whole, 0)}
    cells = {Cell(0, bar): stay[:0] for bar in (4, 5, 6)}
    assert longest_run(fingerprint, song, cells) == {0: SharedRun(whole, 24)}


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 19), st.booleans(), st.integers(RUN, 20), st.integers(0, 9999), st.booleans())
def test_the_guard_lets_no_run_through(  # noqa: PLR0913 - hypothesis
    training: list[SongNotes],
    fingerprint: Fingerprint,
    song: int,
    drums: bool,  # noqa: FBT001 - hypothesis
    notes: int,
    seed: int,
    locks: bool,  # noqa: FBT001 - hypothesis
) -> None:
    """Heads that want the training song itself fill three of its bars, with what follows and some notes in place."""
    rng, original, track = np.random.default_rng(seed), training[song], int(drums)
    cells = [Cell(track, bar) for bar in (5, 6, 7)]
    stay = {c: original.cell(*c)[2:3] if locks else original.cell(*c)[:0] for c in cells}
    for k, cell in enumerate(cells):
        present = original.with_cells({c: stay[c] for c in cells[k:]} | {c: stay[c] for c in cells[:k]})
        guard = QuoteGuard(fingerprint, notes, line_of(present, track), cell.bar * BAR)
        locked = tuple((int(n[0]), int(n[2])) for n in stay[cell])
        writer = NoteWriter(CellLimits(np.ones((BAR, 128), bool), locked=locked), ANY, rng, is_drum=drums)
        writer.guard = guard
        wanted = [n for n in original.cell(*cell).tolist() if (n[0], n[2]) not in locked]
        while not writer.done:
            k = min(len(writer.notes), len(wanted) - 1)
            for stage, classes in enumerate(CLASSES):
                logits = rng.normal(0, 1, classes)
                if stage == 0:
                    logits[[1 + 1 + wanted[k][0], 0]] += 9, 9 * (len(writer.notes) >= len(wanted))
                if stage == 2:
                    logits[128 * drums + wanted[k][2]] += 9
                writer.choose(stage, logits)
                if writer.done or (stage == 3 and drums):
                    break
        written = np.array(writer.notes, np.int16).reshape(-1, 5)
        both = np.concatenate([written, stay[cell]])
        stay[cell] = both[np.lexsort((both[:, 2], both[:, 0]))]
    filled = original.with_cells({c: stay[c] for c in cells})
    kept = {c: original.cell(*c)[2:3] if locks else original.cell(*c)[:0] for c in cells}
    assert longest_run(fingerprint, filled, kept)[track].around < notes


def test_where_nothing_is_left_the_guard_refuses(training: list[SongNotes], fingerprint: Fingerprint) -> None:
    """The only note that the limits allow, and ask for, is the one that completes the run."""
    song = training[0]
    line = line_of(song.with_cells({(0, bar): song.cell(0, bar)[: 7 * (bar == 1) or 8] for bar in range(2)}), 0)
    last = song.cell(0, 1)[7]
    before = Line(line.onsets[:15], line.pitches[:15], is_drum=False)
    allowed = np.zeros((BAR, 128), bool)
    allowed[last[0], last[2]] = True
    writer = NoteWriter(CellLimits(allowed, (1, 1)), ANY, np.random.default_rng(0), is_drum=False)
    writer.guard = QuoteGuard(fingerprint, RUN, before, BAR)
    with pytest.raises(RequestError, match="quote 12 notes"):
        writer.choose(0, np.zeros(CLASSES[0]))


def test_a_bar_that_is_quoted() -> None:
    tune = [(0, 60), (24, 62), (48, 64), (60, 65), (72, 67)]
    song = song_of([[tune, [*tune[:4], (72, 69)], [], tune[:3], tune]], [0])
    written = {Cell(0, 2): song.cell(0, 0), Cell(0, 4): song.cell(0, 1)[:0]}
    assert quoted_bars(song, written) == {Cell(0, 2): [0, 1], Cell(0, 4): []}


def test_the_file(training: list[SongNotes], fingerprint: Fingerprint, tmp_path: Path) -> None:
    path = tmp_path / FILE
    fingerprint.save(path)
    assert path.stat().st_size <= 5_000_000
    loaded = load_fingerprint(path)
    assert loaded.grams == fingerprint.grams > 0
    line = line_of(training[0], 1)
    assert loaded.runs(line) == fingerprint.runs(line) == [(0, 96)]
    (tmp_path / "cut.bin").write_bytes(path.read_bytes()[:-1])
    for name, message in (("none.bin", "scripts/make_quotes.py"), ("cut.bin", "copy it again")):
        with pytest.raises(CheckpointError, match=message):
            load_fingerprint(tmp_path / name)


def test_shorter_runs_cannot_be_forbidden() -> None:
    with pytest.raises(RequestError, match="12 notes or more, got 11"):
        Ask(Region(frozenset({Cell(0, 0)})), quotes=11)


def test_looking_up_is_fast(fingerprint: Fingerprint) -> None:
    """Ten times the time it takes is allowed: 500 notes in 20 ms, a note's pitches in 10 ms."""
    rng = np.random.default_rng(0)
    line = Line(6 * np.arange(500), rng.integers(40, 90, 500), is_drum=False)
    start = time.perf_counter()
    shared_run(fingerprint, line, np.ones(500, bool))
    between = time.perf_counter()
    QuoteGuard(fingerprint, RUN, line, 0).allowed(95)
    assert between - start < 0.02
    assert time.perf_counter() - between < 0.01
