"""Steps: what the model reads, in which order, and what it is to predict."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from song import random_song, repeating_song, song_of, vocabulary

from midi_rwkv.tokens.attributes import DRUMS, Column, Role, distance_of
from midi_rwkv.tokens.chords import Chord
from midi_rwkv.tokens.layout import (
    CellAsk,
    Window,
    cell_answer,
    cell_steps,
    choose_window,
    control_tokens,
    note_steps,
    notes_of,
    prompt_steps,
    targets_of,
)
from midi_rwkv.tokens.notes import AT, SongNotes


def names(steps: np.ndarray) -> list[str]:
    """The tokens of steps."""
    return [vocabulary().tokens[t] for t in steps[:, Column.TOKEN].tolist()]


def whole(song: SongNotes, first: int, last: int) -> Window:
    """A window that shows everything."""
    return Window(first, last, 0, song.n_bars)


@settings(max_examples=30)
@given(st.integers(0, 10_000))
def test_notes_come_back_from_their_steps(seed: int) -> None:
    song = random_song(seed)
    for t in range(song.n_tracks):
        for b in range(song.n_bars):
            steps = note_steps(vocabulary(), song.cell(t, b), program=song.program(t, b), role=Role.ANSWER, distance=1)
            assert np.array_equal(notes_of(vocabulary(), steps), song.cell(t, b))


def test_a_song_is_read_track_by_track_the_asked_ones_last() -> None:
    song = repeating_song(4)
    steps = prompt_steps(vocabulary(), song, whole(song, 1, 2), [0], [(0, 1)])
    found = names(steps)
    assert found[:5] == ["BOS_None", "Tempo_117.42", "Song_Start", "Song_End", "Infill_Track"]
    starts = [i for i, n in enumerate(found) if n == "Track_Start"]
    assert steps[starts, Column.PROGRAM].tolist() == [33, 1]
    assert found[starts[0] + 1 : starts[0] + 4] == ["TimeSig_4/4", "Note_New", "Note_New"]
    assert found[starts[1] :].count("Infill_Bar") == 1
    assert found.count("TimeSig_4/4") == 7


def test_bars_in_which_a_track_rests_are_few_steps() -> None:
    song = song_of([(0, [(0, 60, 1), (16 * 21, 60, 1)]), (1, [(k, 60, 1) for k in range(16 * 22)])], 22)
    steps = prompt_steps(vocabulary(), song, whole(song, 21, 22), [1], [(1, 21)])
    rests = [n for n in names(steps) if n.startswith("Rest")]
    assert rests == ["Rest_16", "Rest_4"]


def test_the_answer_is_predicted_and_so_is_its_end() -> None:
    song = song_of([(0, [(0, 60, 4), (0, 64, 4), (8, 62, 4)])], 2)
    ask = CellAsk(0, 0)
    steps = np.concatenate(
        [
            cell_steps(vocabulary(), song, ask, (0, 2)),
            cell_answer(vocabulary(), song, ask, song.cell(0, 0), (0, 2)),
            cell_steps(vocabulary(), song, CellAsk(0, 1), (0, 2)),
            np.zeros((1, len(Column)), np.int16),
        ]
    )
    targets, roles = targets_of(steps, vocabulary())
    wanted = targets[roles == Role.ANSWER]
    assert wanted[:, 0].tolist() == [2, 1, 2 + 48, 0, 0]  # a position, the same, a position, the end; an empty cell
    assert (wanted[:3, 2] - 1).tolist() == [60, 64, 62]
    assert not wanted[3:].any()


def test_kept_notes_are_not_predicted() -> None:
    song = repeating_song()
    ask = CellAsk(0, 8, song.cell(0, 8)[:2])
    steps = np.concatenate([cell_steps(vocabulary(), song, ask, (8, 9)), np.zeros((1, len(Column)), np.int16)])
    _, roles = targets_of(steps, vocabulary())
    assert (roles != Role.NONE).sum() == 1  # the place after FillBar_Start
    assert (steps[:, Column.ROLE] == Role.KEPT).sum() == 2


def test_what_is_asked_is_told() -> None:
    song = repeating_song()
    chords = [Chord(0, "min", 9, 9), Chord(48, "maj", 0, 4), Chord(72, "")]
    ask = CellAsk(0, 8, span=(24, 72), pitches=(50, 70), controls=("ACBarNoteDensity_4",), chords=chords)
    steps = cell_steps(vocabulary(), song, ask, (8, 9))
    assert names(steps) == [
        "TimeSig_4/4",
        "Fill_From",
        "Fill_To",
        "Fill_Low",
        "Fill_High",
        "ACBarNoteDensity_4",
        "Chord_min",
        "Chord_maj",
        "Chord_Bass",
        "Chord_None",
        "FillBar_Start",
    ]


def test_controls_describe_the_cell() -> None:
    song = song_of([(0, [(0, 60, 4), (0, 64, 4), (8, 62, 8)])], 1)
    told = control_tokens(vocabulary(), song.cell(0, 0), is_drum=False, kinds=("density", "polyphony", "duration"))
    assert told[:3] == ["ACBarNoteDensity_3", "ACBarOnsetPolyphonyMin_1", "ACBarOnsetPolyphonyMax_2"]
    assert [n for n in told[3:] if n.endswith("_1")] == ["ACBarNoteDurationHalf_1", "ACBarNoteDurationQuarter_1"]


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.integers(0, 8), st.integers(1, 4))
def test_what_is_hidden_is_nowhere_in_the_prompt(seed: int, first: int, bars: int) -> None:
    song, other = random_song(seed), random_song(seed + 1)
    hidden = [(t, b) for t in (0, 2) for b in range(first, first + bars)]
    changed = song.with_cells({(t, b): other.cell(t, b) for t, b in hidden})
    run = first, first + bars
    visible = np.ones((3, song.n_bars), bool)
    for t, b in hidden:
        visible[t, b] = False
    prompts = []
    for s in (song, changed):
        window = choose_window(s, visible, run, budget=200)
        prompts.append(prompt_steps(vocabulary(), s, window, [0, 2], hidden))
    assert np.array_equal(*prompts)


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.integers(60, 400))
def test_a_window_keeps_to_its_budget(seed: int, budget: int) -> None:
    song = random_song(seed, bars=40)
    window = choose_window(song, np.ones((3, 40), bool), (20, 21), budget=budget)
    steps = prompt_steps(vocabulary(), song, window, [0], [(0, 20)])
    assert len(steps) <= max(budget, 60)
    assert window.low <= 20 < window.high


def test_distances_grow_on_both_sides_and_count_down_inside() -> None:
    found = distance_of(np.arange(40), 20, 24).tolist()
    assert found[12:20] == [8, 7, 6, 5, 4, 3, 2, 1]
    assert found[20:24] == [44, 43, 42, 41]
    assert found[24:28] == [21, 22, 23, 24]
    assert found[:12] == sorted(found[:12], reverse=True)
    assert distance_of(20, 20, 24) == 44


def test_drums_have_pitches_of_their_own_and_no_duration() -> None:
    steps = note_steps(vocabulary(), random_song(0).cell(2, 1), program=DRUMS, role=Role.ANSWER, distance=1)
    assert (steps[:, Column.PITCH] > 128).all()
    assert not steps[:, Column.DURATION].any()
    assert AT.pitch == 2
