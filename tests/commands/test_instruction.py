"""What the name of a file and its markers say is to be filled."""

import pytest

from midi_rwkv.commands.instruction import (
    WORDS,
    HalfAsked,
    Instruction,
    instruction_in_markers,
    instruction_in_name,
)
from midi_rwkv.commands.parser import build_parser
from midi_rwkv.errors import RequestError
from midi_rwkv.score.midi import Source

BAR = 1920


@pytest.fixture(scope="module")
def make(build_midi, note):
    """make([(tick, text)]) -> twelve bars of 4/4 with these markers."""

    def song(markers):
        head = [(tick, bytes([0xFF, 6, len(text)]) + text.encode()) for tick, text in markers]
        return build_midi([head, [e for b in range(12) for e in note(b * BAR, 60, 960)]])

    return song


def parse(*arguments):
    """The options of the command."""
    return build_parser().parse_args(["watch", ".", *arguments])


@pytest.mark.parametrize(
    ("stem", "bars", "words"),
    [
        ("song [8-12 Bass]", "8-12", {"tracks": "Bass"}),
        ("song [8-12]", "8-12", {}),
        ("[8]", "8", {}),
        ("song [8.3-9.2, 16 2,4]", "8.3-9.2, 16", {"tracks": "2,4"}),
        ("song [8–12 Electric Piano, Bass x3]", "8-12", {"tracks": "Electric Piano, Bass", "candidates": "3"}),
        ("a [demo] b [3 Bass [DI] seed=7]", "3", {"tracks": "Bass [DI]", "seed": "7"}),
        ("Lied [0-3 ピアノ style=meins]", "0-3", {"tracks": "ピアノ", "style": "meins"}),
        (
            "s [1-16 new-track=Violin KEY=A minor x2]",
            "1-16",
            {"new-track": "Violin", "key": "A minor", "candidates": "2"},
        ),
        ("s [5-8 chords=Am F | C | E7 vary=0.5]", "5-8", {"chords": "Am F | C | E7", "vary": "0.5"}),
    ],
)
def test_a_name_says_what_to_fill(stem, bars, words):
    assert instruction_in_name(stem) == Instruction((bars,), words)


@pytest.mark.parametrize(
    "stem",
    [
        "song",
        "song 8-12",
        "[demo]",
        "song [8-12] final",
        "x [2026-11-30]",
        "x [128bpm]",
        "x 8-12]",
        "x []",
        "[8-12 x]y",
    ],
)
def test_other_names_say_nothing(stem):
    assert instruction_in_name(stem) is None


@pytest.mark.parametrize(
    ("stem", "words"),
    [
        ("s [8-12,Bass]", "not understood after its bars"),
        ("s [8 x3 Bass]", "'Bass' is not understood after x3"),
        ("s [8 sed=1]", "there is no word sed="),
        ("s [8 threads=2]", "there is no word threads="),
        ("s [8 seed=]", "seed= needs a value"),
        ("s [8 seed=1 seed=2]", "seed= is said twice"),
        ("s [8 x2 x3]", "x3 is said twice"),
    ],
)
def test_a_name_that_is_not_understood(stem, words):
    with pytest.raises(RequestError, match=words):
        instruction_in_name(stem)


def test_words_come_before_the_options_of_the_command():
    options = parse("--temperature", "1.1", "--keep", "rhythm", "--candidates", "2", "--key", "C major")
    words = {"keep": "pitches", "seed": "3", "key": "A minor", "new-track": "Violin"}
    applied = Instruction(("8-12",), words).applied(options)
    assert (applied.bars, applied.keep, applied.seed, applied.key) == (["8-12"], ["pitches"], 3, "A minor")
    assert (applied.temperature, applied.candidates, applied.new_track) == (1.1, 2, ["Violin"])
    with pytest.raises(RequestError, match=r"^--seed: invalid int value: 'x'$"):
        Instruction(("8",), {"seed": "x"}).applied(options)
    for word in WORDS:
        assert Instruction(("8",), {word: "1"}).applied(options) != options


@pytest.mark.parametrize(
    ("markers", "bars", "words"),
    [
        ([(BAR, "fill"), (3 * BAR, "end fill")], ("2-3",), {}),
        ([(BAR - 9, "Fill Bass x2"), (3 * BAR + 9, "/FILL")], ("2-3",), {"tracks": "Bass", "candidates": "2"}),
        ([(BAR + 600, "fill"), (3 * BAR + 600, "End  Fill")], ("2-4",), {}),
        ([(0, "fill"), (BAR, "end fill"), (BAR, "fill"), (2 * BAR, "/fill")], ("1-1", "2-2"), {}),
        ([(0, "Verse"), (BAR, "fill"), (13 * BAR, "/fill"), (2 * BAR, "Chorus")], ("2-13",), {}),
    ],
)
def test_pairs_of_markers_say_what_to_fill(make, markers, bars, words):
    assert instruction_in_markers(Source(make(sorted(markers)), "song")) == Instruction(bars, words)


@pytest.mark.parametrize(
    ("markers", "words"),
    [
        ([(BAR, "end fill")], "'end fill' at bar 2 ends nothing"),
        ([(0, "fill"), (BAR, "fill"), (2 * BAR, "/fill")], "two regions overlap"),
        ([(0, "fill"), (BAR, "/fill"), (BAR, "fill Bass")], "'fill Bass' has no marker 'end fill'"),
        ([(0, "fill Bass"), (BAR, "/fill"), (BAR, "fill Lead"), (2 * BAR, "/fill")], "ask for different things"),
        ([(BAR, "fill"), (BAR + 1, "/fill")], "no bar between"),
        ([(0, "fill Bass tempo=3"), (BAR, "/fill")], "there is no word tempo="),
    ],
)
def test_markers_that_are_not_understood(make, markers, words):
    with pytest.raises(RequestError, match=words):
        instruction_in_markers(Source(make(markers), "song"))


def test_songs_with_other_markers_say_nothing(make):
    assert instruction_in_markers(Source(make([(0, "Verse"), (BAR, "refill"), (BAR, "the end")]), "song")) is None
    with pytest.raises(HalfAsked, match="'Fill In AA' has no marker 'end fill'"):
        instruction_in_markers(Source(make([(0, "Fill In AA")]), "song"))
