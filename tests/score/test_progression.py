"""Progressions over bars, and the chords that a file has among its texts."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from midi_rwkv.errors import RequestError
from midi_rwkv.score.chord_markers import asked_chords, chords_in_file
from midi_rwkv.score.harmony import KINDS, read_chord
from midi_rwkv.score.midi import read_midi
from midi_rwkv.score.progression import format_chords, parse_chords
from midi_rwkv.score.score import Score, TimeSignature

FOUR = Score(480, (), (TimeSignature(0, 4, 4),), end_ticks=4 * 1920)


def places(
    text: str, score: Score = FOUR, bars: tuple[tuple[int, int], ...] = ((0, 2),)
) -> list[tuple[str, float, float]]:
    """Name, and the quarters on which a chord begins and ends."""
    return [(c.name, c.start_ticks / 480, c.end_ticks / 480) for c in parse_chords(text, score, bars)]


def test_chords_share_a_bar_by_its_beats() -> None:
    assert places("Am F | C Dm G/B") == [("Am", 0, 2), ("F", 2, 4), ("C", 4, 6), ("Dm", 6, 7), ("G/B", 7, 8)]
    assert places("A B C D E F G A | C")[1] == ("B", 0.5, 1)  # more than there are beats


def test_chords_on_beats() -> None:
    assert places("Am F@3.5 | G@2") == [("Am", 0, 2.5), ("F", 2.5, 5), ("G", 5, 8)]
    assert places("C@2 | F") == [("C", 1, 4), ("F", 4, 8)]  # nothing is asked before


def test_chords_are_held_and_bars_repeated() -> None:
    once = [("Am", 0, 3), ("F", 3, 4)]
    assert places("Am - - F | -") == places("Am / / F | /") == [("Am", 0, 3), ("F", 3, 8)]
    assert places("Am - - F | | C", bars=((0, 3),)) == [("Am", 0, 3), ("F", 3, 8), ("C", 8, 12)]
    assert places("Am - - F | %") == places("Am - - F") == once + [(n, a + 4, b + 4) for n, a, b in once]
    assert places("Am - - F || - C") == [("Am", 0, 3), ("F", 3, 6), ("C", 6, 8)]


def test_bar_lines_lines_and_question_marks() -> None:
    assert places("| Am | F |") == places("Am\nF\n") == places(" 9 | Am? |\n10 | F |") == [("Am", 0, 4), ("F", 4, 8)]
    assert places("Am?@1 F@3? | C") == places("Am F | C")


def test_regions_of_several_ranges_and_beyond_the_end() -> None:
    assert places("Am | -", bars=((0, 1), (2, 3))) == [("Am", 0, 4), ("Am", 8, 12)]
    assert places("Am | F@2", bars=((0, 1), (2, 3))) == [("Am", 0, 4), ("Am", 8, 9), ("F", 9, 12)]
    assert places("Am | F", bars=((4, 6),)) == [("Am", 16, 20), ("F", 20, 24)]


def test_other_metres_and_pickups() -> None:
    six = Score(480, (), (TimeSignature(0, 6, 8),), end_ticks=2880)
    assert places("C F | G", six) == [("C", 0, 1.5), ("F", 1.5, 3), ("G", 3, 6)]
    assert places("C F@4 | G", six) == places("C F | G", six)
    three = Score(480, (), (TimeSignature(0, 3, 4),), end_ticks=2880)
    assert places("C F | G", three) == [("C", 0, 2), ("F", 2, 3), ("G", 3, 6)]
    pickup = Score(480, (), (TimeSignature(0, 1, 4), TimeSignature(480, 4, 4)), end_ticks=4800)
    assert pickup.has_pickup
    assert places("G7 | C F", pickup) == [("G7", 0, 1), ("C", 1, 3), ("F", 3, 5)]
    cut = Score(480, (), (TimeSignature(0, 4, 4), TimeSignature(720, 4, 4)), end_ticks=4800)
    assert places("G G7 | C", cut) == [("G", 0, 1), ("G7", 1, 1.5), ("C", 1.5, 5.5)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Am | - | Hm", "'Hm' in bar 3 of chords is no chord; write a root A-G"),
        ("Am@x", "'Am@x' in bar 1 of chords is no chord"),
        ("Am | |: C", "':' in bar 3"),
        ("H" * 999, "HHHH' in bar 1"),
        ("% | C", "bar 1 of chords repeats or holds a chord, but none stands before it"),
        ("- C", "bar 1 of chords repeats or holds"),
        ("", "chords has no chords; write some like"),
        (" | ", "chords has no chords"),
        ("C F@5", "the chords of bar 1 of chords (C F@5) must begin one after another, on beats from 1 to less than 5"),
        ("C F@3 G@2", "must begin one after another"),
        ("C@0", "must begin one after another"),
        ("C F@3 G", "bar 1 of chords has chords with and without a beat"),
        ("C@1 F", "with and without a beat"),
        ("C | C | C | C | C", "chords has 5 bars, but the region has 4 bars"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(text: str, said: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_chords(text, FOUR, [(0, 4)], "chords")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 23), st.sampled_from("ABCDEFG"), st.sampled_from(sorted(KINDS))), max_size=4),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from([(4, 4), (3, 4), (6, 8), (5, 8), (2, 2)]),
)
def test_what_is_formatted_is_read_again(bars: list[list[tuple[int, str, str]]], metre: tuple[int, int]) -> None:
    score = Score(480, (), (TimeSignature(0, *metre),), end_ticks=1)
    starts = {0: "C"}
    for b, chords in enumerate(bars):
        grid = score.bar(b)
        length = grid.end_ticks - grid.start_ticks
        starts |= {grid.start_ticks + 60 * at % length: root + kind for at, root, kind in chords}
    edges = [*sorted(starts), score.bar(len(bars) - 1).end_ticks]
    spans = [read_chord(starts[a], a, b) for a, b in pairwise(edges)]
    text = " | ".join(format_chords([s for s in spans if s], score, range(len(bars))))
    assert list(parse_chords(text, score, [(0, len(bars))])) == spans


def test_a_part_begins_with_the_chord_that_is_held() -> None:
    spans = parse_chords("C | - | F@3 | -", FOUR, [(0, 4)])
    assert format_chords(spans, FOUR, range(4)) == ["C", "-", "F@3", "-"]
    assert format_chords(spans, FOUR, range(1, 4)) == ["C", "F@3", "-"]
    assert format_chords(spans, FOUR, [3]) == ["F"]


def text(tick: int, words: str, kind: int = 6) -> tuple[int, bytes]:
    body = words.encode()
    return tick, bytes([0xFF, kind, len(body)]) + body


def markers(
    build_midi: Callable[..., bytes], note: Callable[..., list[tuple[int, bytes]]], *events: tuple[int, bytes]
) -> bytes:
    notes = [e for k in range(4) for e in note(1920 * k, 60, 1920)]
    return build_midi([events, notes])


@pytest.mark.parametrize("kind", [1, 6])
def test_chords_in_a_file(build_midi, note, kind) -> None:
    song = markers(build_midi, note, text(0, "Am7", kind), text(960, "Chorus", kind), text(1920, " C/G ", kind))
    found = chords_in_file(song, read_midi(song))
    assert [(c.name, c.start_ticks, c.end_ticks) for c in found] == [("Am7", 0, 1920), ("C/G", 1920, 7680)]


@pytest.mark.parametrize(
    "events",
    [
        [],
        [text(0, "A"), text(1920, "B"), text(3840, "A")],  # sections
        [text(480 * k, word, 1) for k, word in enumerate(("I", "gave", "A", "rose", "to", "Em"))],  # lyrics
        [text(0, "Am", 5)],
    ],
)
def test_other_texts_are_no_chords(build_midi, note, events) -> None:
    song = markers(build_midi, note, *events)
    assert chords_in_file(song, read_midi(song)) == ()
    with pytest.raises(RequestError, match="song has no chords among its markers and texts"):
        asked_chords("file", song, read_midi(song), [(0, 1)])


def test_asking_for_the_chords_of_the_file(build_midi, note) -> None:
    song = markers(build_midi, note, text(960, "Am"), text(2880, "F"))
    score = read_midi(song)
    found = asked_chords("file", song, score, [(0, 1), (3, 4)])
    assert [(c.name, c.start_ticks, c.end_ticks) for c in found] == [("Am", 960, 1920), ("F", 5760, 7680)]
    assert asked_chords("C | G", song, score, [(0, 2)]) == parse_chords("C | G", score, [(0, 2)])
    with pytest.raises(RequestError, match="--chords file: song has no chords in these bars"):
        asked_chords("file", song, score, [(4, 5)])
