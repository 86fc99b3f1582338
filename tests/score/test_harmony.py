"""What chord symbols mean, and how chords are spelled."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from midi_rwkv.score.harmony import KINDS, NO_CHORD, SUFFIXES, chord_name, read_chord
from midi_rwkv.tokens.chords import QUALITIES

NOTES = [letter + sign for letter in "ABCDEFG" for sign in ("", "#", "b")]
C, CM, C7, CMAJ7, CM7 = {0, 4, 7}, {0, 3, 7}, {0, 4, 7, 10}, {0, 4, 7, 11}, {0, 3, 7, 10}


@pytest.mark.parametrize(
    ("symbols", "tones", "quality"),
    [
        ("C Cmaj CM Cmajor", C, "maj"),
        ("Cm Cmin C- Cmi Cminor", CM, "min"),
        ("C7 Cdom7", C7, "7dom"),
        ("Cmaj7 CM7 CΔ CΔ7 C△7 Cma7 CMaj7 C7M", CMAJ7, "7maj"),
        ("Cm7 C-7 Cmin7 C−7", CM7, "7min"),
        ("Cm(maj7) CmM7 C-Δ Cmmaj7 CmΔ7", {0, 3, 7, 11}, "min"),
        ("C6 Cmaj6", {0, 4, 7, 9}, "maj"),
        ("Cm6 C-6", {0, 3, 7, 9}, "min"),
        ("C6/9 C69 C6add9 C(6/9)", {0, 2, 4, 7, 9}, "maj"),
        ("C9", {0, 2, 4, 7, 10}, "7dom"),
        ("Cmaj9 CM9 CΔ9", {0, 2, 4, 7, 11}, "9maj"),
        ("Cm9 C-9", {0, 2, 3, 7, 10}, "9min"),
        ("Cadd9 C(add9) C2 Cadd2", {0, 2, 4, 7}, "maj"),
        ("Cmadd9 Cm(add9)", {0, 2, 3, 7}, "min"),
        ("C11", {0, 2, 5, 7, 10}, "sus4"),
        ("C13", {0, 2, 4, 7, 9, 10}, "7dom"),
        ("Csus2", {0, 2, 7}, "sus2"),
        ("Csus4 Csus", {0, 5, 7}, "sus4"),
        ("C7sus4 C7sus", {0, 5, 7, 10}, "sus4"),
        ("Cdim C° Co", {0, 3, 6}, "dim"),
        ("Cdim7 C°7 Co7", {0, 3, 6, 9}, "7dim"),
        ("Cm7b5 Cø Cø7 C-7b5 Cm7-5 Cm7(♭5)", {0, 3, 6, 10}, "7halfdim"),
        ("Caug C+ C(#5)", {0, 4, 8}, "aug"),
        ("C7#5 C+7 C7+ C7+5 Caug7", {0, 4, 8, 10}, "7aug"),
        ("C7b9 C7(b9) C7-9 C7♭9", {0, 1, 4, 7, 10}, "7dom"),
        ("C7#9 C7+9", {0, 3, 4, 7, 10}, "7dom"),
        ("C5", {0, 7}, "maj"),
        ("C/G C/E", C, "maj"),
        ("Cm7/Bb", CM7, "7min"),
        ("C/D", {0, 2, 4, 7}, "maj"),
        ("N.C. NC n.c. N.C", set(), ""),
    ],
)
def test_every_spelling_means_its_chord(symbols: str, tones: set[int], quality: str) -> None:
    for symbol in symbols.split():
        chord = read_chord(symbol)
        assert chord is not None, symbol
        assert (set(chord.tones), chord.quality, chord.root) == (tones, quality, 0), symbol
    assert len({read_chord(s).name for s in symbols.split() if "/G" not in s and "/E" not in s}) <= 1  # type: ignore[union-attr]


def test_roots_and_basses() -> None:
    chords = [read_chord(s) for s in ("Am7/G", "B♭m", "F♯dim/C", "Cb", "B#", "C6/9/G")]
    assert [(c.name, c.root, c.bass) for c in chords if c] == [
        ("Am7/G", 9, 7),
        ("Bbm", 10, 10),
        ("F#dim/C", 6, 0),
        ("Cb", 11, 11),
        ("B#", 0, 0),
        ("C6/9/G", 0, 7),
    ]


@pytest.mark.parametrize(
    "symbol", ["H", "am", "Cfoo", "C/", "C/H", "C/9", "", "-", "%", "C7/9", "Cmm", "C#b", "Verse", "Cb#"]
)
def test_what_is_no_chord(symbol: str) -> None:
    assert read_chord(symbol) is None


@given(st.sampled_from(NOTES), st.sampled_from(sorted(KINDS)), st.none() | st.sampled_from(NOTES))
def test_a_chord_is_read_as_it_is_written(root: str, kind: str, bass: str | None) -> None:
    name = root + kind + (f"/{bass}" if bass else "")
    chord = read_chord(name)
    assert chord is not None
    assert chord.name == name
    steps = {(chord.root + s) % 12 for s in KINDS[kind].steps}
    assert chord.tones == steps | {chord.bass}
    assert bass is not None or chord.bass == chord.root


def test_the_nearest_qualities_are_midi_tok_s() -> None:
    assert {kind.quality for kind in KINDS.values()} == set(QUALITIES) == set(SUFFIXES)
    assert all(set(KINDS[SUFFIXES[q]].steps) == set(steps) for q, steps in QUALITIES.items())
    for written, (steps, quality) in KINDS.items():
        near = QUALITIES[quality]
        thirds = [{3, 4} & set(s) for s in (steps, near)]
        assert not thirds[0] or thirds[1] <= thirds[0], written


@given(st.sampled_from(sorted(QUALITIES)), *[st.integers(0, 11)] * 3)
def test_a_name_in_any_key_is_the_same_chord(quality: str, root: int, bass: int, tonic: int) -> None:
    chord = read_chord(chord_name(quality, root, bass, tonic))
    assert chord is not None
    assert (chord.quality, chord.root, chord.bass) == (quality, root, bass)


def test_sharps_and_flats_are_those_of_the_key() -> None:
    def names(tonic: int) -> str:
        return " ".join(chord_name("maj", root, root, tonic) for root in range(12))

    assert names(0) == "C Db D Eb E F F# G Ab A Bb B"
    assert names(9) == "C C# D D# E F F# G G# A Bb B"
    assert names(3) == "C Db D Eb E F Gb G Ab A Bb B"
    assert chord_name("7dim", 8, 8, 0) == "G#dim7"  # leads to A minor
    assert chord_name("maj", 4, 8, 0) == "E/G#"
    assert chord_name("min", 0, 3, 3) == "Cm/Eb"
    assert chord_name("7halfdim", 11, 11, 0) == "Bm7b5"
    assert NO_CHORD == "N.C."
