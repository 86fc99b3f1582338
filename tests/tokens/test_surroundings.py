"""What stands around a note: looked for note by note, and nothing that is hidden among it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from song import random_song, song_of, vocabulary

from midi_rwkv.tokens import following_loops
from midi_rwkv.tokens.attributes import DRUMS, Column
from midi_rwkv.tokens.context import Context
from midi_rwkv.tokens.following import AHEAD, AT_POSITION, OF_PITCH
from midi_rwkv.tokens.layout import CellAsk, Window, cell_answer, cell_steps, prompt_steps
from midi_rwkv.tokens.notes import AT, SongNotes
from midi_rwkv.tokens.references import Reference, RunIndex
from midi_rwkv.tokens.surroundings import OTHERS, RINGING, CellSurroundings

NOTHING = 1 + vocabulary().n_positions
NOTE = np.array([(0, 0, 60, 5, 7)], np.int16)


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
                expected = CellSurroundings(vocabulary(), without, t, b, sources=without.sources(t, b))
                ahead = [*AHEAD, Column.NEXT_STRUCK]
                assert np.array_equal(cells[t, b, ahead], expected.at_start()[ahead])
                wanted = expected.of_notes(song.cell(t, b))
                columns = [*ahead, *AT_POSITION, *OF_PITCH]
                assert np.array_equal(found[:, columns], wanted[:, columns])


def followed(*sources: Reference) -> CellSurroundings:
    song = song_of([(0, [(0, 60, 4)]), (0, [(0, 40, 4), (6, 41, 4)])], 2)
    return CellSurroundings(vocabulary(), RunIndex(song, (1, 2), [(0, 1)]), 0, 0, sources=sources)


def test_the_source_is_followed_from_note_to_note() -> None:
    notes = np.array([(0, 0, 60, 5, 7), (0, 2, 64, 6, 8), (12, 0, 62, 7, 9)], np.int16)
    around = followed(Reference(notes, 1.0))
    ahead = [Column.NEXT_THERE, Column.NEXT_PITCH]
    assert around.at_start()[ahead].tolist() == [1, 61]
    first = around.at_place(0)
    assert first[[Column.THERE_PITCH, Column.THERE_MICRO]].tolist() == [61, 21]
    around.write(first, 0, 60)
    assert first[[*OF_PITCH, *ahead]].tolist() == [6, 8, 1, 65]
    above = around.at_place(0)
    assert above[[Column.THERE_PITCH, Column.THERE_MICRO]].tolist() == [65, 23]
    around.at_pitch(above, 0, 63)
    assert above[OF_PITCH].tolist() == [7, 9]  # no source has the pitch: those of the one at the place
    elsewhere = around.at_place(5)
    around.at_pitch(elsewhere, 5, 62)
    assert not elsewhere[[Column.THERE_PITCH, *OF_PITCH]].any()
    assert elsewhere[ahead].tolist() == [13, 63]
    last = around.at_place(12)
    around.at_pitch(last, 12, 70)
    assert last[ahead].tolist() == [NOTHING, 0]


def test_the_source_that_was_right_is_followed() -> None:
    one = np.array([(0, 0, 60, 5, 7), (12, 0, 62, 5, 7), (24, 0, 64, 5, 7)], np.int16)
    two = np.array([(0, 0, 65, 6, 8), (6, 0, 67, 6, 8), (24, 0, 69, 9, 3)], np.int16)
    around = followed(Reference(one, 0.6, 1), Reference(two, 0.5, 1))
    assert around.at_start()[AHEAD[:3]].tolist() == [1, 61, 0]  # both begin at once
    first = around.at_place(0)
    assert first[[Column.THERE_PITCH, Column.THERE_SECOND]].tolist() == [61, 66]
    around.write(first, 0, 65)
    assert first[[*OF_PITCH, *AHEAD[:3]]].tolist() == [7, 9, 7, 68, 13]
    second = around.at_place(24)
    assert second[[Column.THERE_PITCH, Column.THERE_SECOND]].tolist() == [70, 65]
    around.at_pitch(second, 24, 64)  # the other source has it, and rises
    assert second[[*OF_PITCH, *AHEAD[:3]]].tolist() == [5 + 1, 7 + 1, NOTHING, 0, 1 + 24]


def test_the_more_sources_agree_the_more_they_are_trusted() -> None:
    notes = [np.array([(0, 0, p, 5, 7), (12, 0, p, 5, 7)], np.int16) for p in (60, 60, 62)]
    sources = [Reference(n, 0.5, 1) for n in notes]
    alone, agreeing, against = (followed(*x) for x in (sources[:1], sources[:2], sources[1:]))
    trust = [a.at_place(0)[Column.THERE_TRUST] for a in (alone, agreeing, against)]
    assert trust[0] == trust[1] > trust[2]
    for around in (alone, against):
        around.write(around.at_place(0), 0, 60)
    assert against.at_place(12)[Column.THERE_TRUST] > trust[2]


def test_without_numba_the_same_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    song = random_song(3)
    context = Context(vocabulary(), song, np.ones((song.n_tracks, song.n_bars), bool), (0, song.n_bars))
    compiled = context.columns()
    for name in ("say_next", "say_pitch", "say_rest"):
        monkeypatch.setattr(following_loops, name, getattr(following_loops, name).py_func)
    for one, other in zip(compiled, context.columns(), strict=True):
        assert np.array_equal(one, other)


def test_what_doubles_a_track_is_a_source() -> None:
    tune = [(4 * i, 60 + i % 7, 2) for i in range(24)]
    chords = [(at, pitch + shift, 2) for at, pitch, _ in tune for shift in (3, 12)]
    song = song_of([(0, tune), (24, chords)], 6)
    index = RunIndex(song, (2, 4), [(0, 2), (0, 3)])
    twin = index.sources(0, 2)[-1]
    assert (twin.bar, twin.likeness) == (2, 1)
    assert np.array_equal(twin.notes[:, AT.pitch], song.cell(0, 2)[:, AT.pitch])  # the highest, an octave lower


def test_without_a_source_nothing_is_said_of_one() -> None:
    columns = followed().of_notes(NOTE)[0]
    assert not columns[[*AT_POSITION, *OF_PITCH, *AHEAD]].any()


def test_what_other_tracks_strike_next_is_told() -> None:
    around = followed()
    starts = [n[AT.position] for n in song_of([(0, [(0, 40, 4), (6, 41, 4)])], 1).notes.tolist()]
    assert around.at_start()[Column.NEXT_STRUCK] == 1 + starts[0]
    assert around.of_notes(NOTE)[0, Column.NEXT_STRUCK] == 1 + starts[1]
    assert around.of_notes(NOTE + np.array([90, 0, 0, 0, 0]))[0, Column.NEXT_STRUCK] == NOTHING


def laid_out(song: SongNotes, run: tuple[int, int], cells: list[tuple[int, int]], answers: SongNotes) -> np.ndarray:
    index = RunIndex(song, run, cells)
    parts = [prompt_steps(vocabulary(), song, Window(*run, 0, song.n_bars), [0, 2], cells)]
    for t, b in cells:
        ask = CellAsk(t, b, around=CellSurroundings(vocabulary(), index, t, b, index.sources(t, b)))
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
