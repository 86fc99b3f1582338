"""What stands around a note: looked for note by note, and nothing that is hidden among it."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from song import random_song, song_of, vocabulary

from midi_rwkv.tokens.attributes import DRUMS, Column, Role
from midi_rwkv.tokens.context import Context
from midi_rwkv.tokens.layout import CellAsk, Window, cell_answer, cell_steps, prompt_steps
from midi_rwkv.tokens.notes import AT, SongNotes
from midi_rwkv.tokens.references import Reference, RunIndex
from midi_rwkv.tokens.surroundings import OTHERS, RINGING, CellSurroundings

NOTHING = 1 + vocabulary().n_positions


def by_hand(song: SongNotes, shown: np.ndarray, track: int, bar: int, position: int) -> list[int]:
    """`OTHERS` at a position, from all notes of the song, one after another."""
    lines = np.concatenate([[0], np.cumsum(song.lengths)])
    at = int(lines[bar]) + position
    pitches, struck = [], {True: set[int](), False: set[int]()}
    velocity = duration = 0
    for t in range(song.n_tracks):
        drums = int(song.programs[t]) == DRUMS
        for b in range(song.n_bars):
            for note in song.cell(t, b).tolist() if shown[t, b] and t != track else ():
                start = int(lines[b]) + note[AT.position]
                if start == at:
                    struck[drums].add(t)
                    velocity = max(velocity, 1 + note[AT.velocity])
                    duration = max(duration, 0 if drums else 1 + note[AT.duration])
                if not drums and start <= at < start + int(vocabulary().durations[note[AT.duration]]):
                    pitches.append(note[AT.pitch])
    chroma = sum(1 << p for p in {p % 12 for p in pitches})
    count = 1 + 4 * min(3, len(struck[True])) + min(3, len(struck[False]))
    sounds = [1 + min(pitches), 1 + max(pitches), chroma] if pitches else [0, 0, 0]
    return [*sounds, count, velocity, duration]


@settings(max_examples=15)
@given(st.integers(0, 10_000), st.integers(0, 8))
def test_the_columns_are_what_one_would_find_by_hand(seed: int, bar: int) -> None:
    song = random_song(seed)
    hidden = [(0, b) for b in range(bar, min(bar + 3, song.n_bars))]
    shown = np.ones((song.n_tracks, song.n_bars), bool)
    for t, b in hidden:
        shown[t, b] = False
    around = CellSurroundings(vocabulary(), RunIndex(song, (bar, bar + len(hidden)), hidden), 0, bar)
    near = shown.copy()
    near[:, : max(0, bar - RINGING)] = False
    for position in range(0, int(song.lengths[bar]), 5):
        assert around.at_place(position)[OTHERS].tolist() == by_hand(song, near, 0, bar, position)


def test_the_context_is_as_one_would_find_it_by_hand() -> None:
    for seed in range(6):
        song = random_song(seed)
        shown = np.random.default_rng(seed).random((song.n_tracks, song.n_bars)) < 0.8
        notes, cells = Context(vocabulary(), song, shown, (1, song.n_bars - 1)).columns()
        shown[:, [0, -1]] = False
        assert not cells[~shown].any()
        for t in range(song.n_tracks):
            index = RunIndex(
                song, (0, song.n_bars), [(int(x), int(b)) for x, b in zip(*np.nonzero(~shown), strict=True)]
            )
            for b in range(song.n_bars):
                k = b * song.n_tracks + t
                found = notes[song.offsets[k] : song.offsets[k + 1]]
                if not shown[t, b] or not len(found):
                    assert not found.any()
                    continue
                for note, row in zip(song.cell(t, b).tolist(), found, strict=True):
                    assert row[OTHERS].tolist() == by_hand(song, shown, t, b, note[AT.position])
                without = RunIndex(
                    song, (b, b + 1), [(t, b), *zip(*(x.tolist() for x in np.nonzero(~shown)), strict=True)]
                )
                best = [r for r in without.find(t, b, 8) if r.bar is not None and r.bar != b and len(r.notes)]
                there = cells[t, b, Column.NEXT_THERE], cells[t, b, Column.NEXT_PITCH]
                of_track = [r for r in best if np.array_equal(r.notes, index.cell(t, r.bar))]
                if not of_track:
                    continue
                expected = CellSurroundings(vocabulary(), without, t, b, of_track[:1])
                start = expected.at_start()
                assert there == (start[Column.NEXT_THERE], start[Column.NEXT_PITCH])
                assert cells[t, b, Column.NEXT_STRUCK] == start[Column.NEXT_STRUCK]
                wanted = expected.of_notes(song.cell(t, b))
                followed_columns = [c for c in Column if c >= Column.THERE_MICRO and c != Column.BEFORE]
                followed_columns = [c for c in followed_columns if c not in OTHERS]
                assert np.array_equal(found[:, followed_columns], wanted[:, followed_columns])


def followed(reference: Reference | None) -> CellSurroundings:
    song = song_of([(0, [(0, 60, 4)]), (0, [(0, 40, 4), (6, 41, 4)])], 2)
    index = RunIndex(song, (1, 2), [(0, 1)])
    return CellSurroundings(vocabulary(), index, 0, 0, [reference] if reference else [])


def test_the_reference_is_followed_from_note_to_note() -> None:
    notes = np.array([(0, 0, 60, 5, 7), (0, 2, 64, 6, 8), (12, 0, 62, 7, 9)], np.int16)
    around = followed(Reference(notes, 1.0, Role.PIECE))
    ahead = [Column.NEXT_THERE, Column.NEXT_PITCH]
    assert around.at_start()[ahead].tolist() == [1, 61]
    first = around.at_place(0)
    assert first[[Column.THERE_PITCH, Column.THERE_MICRO]].tolist() == [61, 21]
    first = around.at_pitch(first, 0, 60)
    assert first[[Column.THERE_VELOCITY, Column.THERE_DURATION, *ahead]].tolist() == [6, 8, 1, 65]
    above = around.at_place(0, 60)
    assert above[[Column.THERE_PITCH, Column.THERE_MICRO]].tolist() == [65, 23]
    nearest = around.at_pitch(above, 0, 63)
    assert nearest[[Column.THERE_VELOCITY, Column.THERE_DURATION]].tolist() == [7, 9]
    elsewhere = around.at_pitch(around.at_place(5), 5, 62)
    assert not elsewhere[[Column.THERE_PITCH, Column.THERE_VELOCITY, Column.THERE_DURATION]].any()
    assert elsewhere[ahead].tolist() == [13, 63]
    last = around.at_pitch(around.at_place(12), 12, 70)
    assert last[ahead].tolist() == [NOTHING, 0]


def test_without_a_reference_nothing_is_said_of_one() -> None:
    columns = followed(None).of_notes(np.array([(0, 0, 60, 5, 7)], np.int16))[0]
    assert not columns[[Column.THERE_PITCH, Column.THERE_VELOCITY, Column.NEXT_THERE, Column.NEXT_PITCH]].any()


def test_what_other_tracks_strike_next_is_told() -> None:
    around = followed(None)
    starts = [n[AT.position] for n in song_of([(0, [(0, 40, 4), (6, 41, 4)])], 1).notes.tolist()]
    assert around.at_start()[Column.NEXT_STRUCK] == 1 + starts[0]
    assert around.at_pitch(around.at_place(0), 0, 60)[Column.NEXT_STRUCK] == 1 + starts[1]
    assert around.at_pitch(around.at_place(90), 90, 60)[Column.NEXT_STRUCK] == NOTHING


def laid_out(song: SongNotes, run: tuple[int, int], cells: list[tuple[int, int]], answers: SongNotes) -> np.ndarray:
    index = RunIndex(song, run, cells)
    parts = [prompt_steps(vocabulary(), song, Window(*run, 0, song.n_bars), [0, 2], cells)]
    for t, b in cells:
        references = index.find(t, b, 2)
        ask = CellAsk(t, b, references, around=CellSurroundings(vocabulary(), index, t, b, references))
        parts += [
            cell_steps(vocabulary(), song, ask, run),
            cell_answer(vocabulary(), song, ask, answers.cell(t, b), run),
        ]
        index.write(t, b, answers.cell(t, b))
    return np.concatenate(parts)


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.integers(0, 8), st.integers(1, 3), st.data())
def test_a_note_knows_nothing_of_what_comes_after_it(seed: int, first: int, bars: int, data: st.DataObject) -> None:
    """From any cell on other notes are written: all before it is as it was, and so is what is hidden."""
    song, other = random_song(seed), random_song(seed + 1)
    run = first, first + bars
    cells = [(t, b) for t in (0, 2) for b in range(*run)]
    k = data.draw(st.integers(0, len(cells) - 1))
    changed = song.with_cells({cell: other.cell(*cell) for cell in cells[k:]})
    emptied = song.with_cells({cell: np.zeros((0, 5), np.int16) for cell in cells})
    one, two = laid_out(song, run, cells, song), laid_out(emptied, run, cells, changed)
    same = min(len(one), len(two))
    differ = np.flatnonzero((one[:same] != two[:same]).any(1))
    written = np.flatnonzero(one[:, Column.TOKEN] == vocabulary().id("FillBar_Start"))[k]
    assert not len(differ) or differ[0] > written
