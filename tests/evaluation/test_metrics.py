"""Hand-computed cases and properties. Notes are written (onset, pitch, duration), in quarters; bars are 4/4."""

import subprocess
import sys
from math import isnan, log2, nan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midi_rwkv.evaluation import metrics as m
from midi_rwkv.score.score import Bar, Note

pytest.importorskip("mir_eval")


def section(*notes, bars=2, is_drum=False, lines=None):
    """`bars` bars of 4/4, or those between `lines`."""
    onsets, pitches, durations = zip(*sorted(notes), strict=True) if notes else ((), (), ())
    lines = np.arange(bars + 1) * 4 if lines is None else lines
    arrays = [np.array(onsets, float), np.array(pitches, int), np.array(durations, float), np.array(lines, float)]
    return m.Section(*arrays, is_drum=is_drum)


def arpeggio(start=0, step=0.5, count=13, up=0):
    return [(start + step * i, 60 + up + (0, 4, 7, 12)[i % 4], step) for i in range(count)]


SILENCE = section()
TUNE = section((0, 60, 1), (1, 62, 0.5), (2, 64, 1), (4, 60, 2), (6, 67, 2))
EVERY = [(i / 8, 60, 1 / 8) for i in range(32)]  # all 32 grid positions of a bar


def test_a_section_in_quarters_from_its_first_bar():
    bars = [Bar(1920, 3840, 4, 4), Bar(3840, 5280, 3, 4)]
    notes = [Note(2160, 64, 480, 90), Note(1919, 60, 960, 90), Note(2160, 60, 40, 90), Note(5280, 60, 1, 90)]
    s = m.Section.of(notes, bars, 480, is_drum=False)
    assert s.onsets.tolist() == [0.5, 0.5]  # (2160 - 1920) / 480; the other two lie outside
    assert s.pitches.tolist() == [60, 64]
    assert s.durations.tolist() == [40 / 480, 1]
    assert s.bars.tolist() == [0, 4, 7]


def test_sections_that_do_not_fit_are_refused():
    one, bars = np.array([0.0]), np.array([0.0, 4.0])
    pitch = np.array([60])
    for args, message in [
        ((np.zeros(2), pitch, one + 1, bars), "one shape"),
        ((one, pitch, one + 1, np.array([1.0, 4.0])), "rising bar lines"),
        ((one + 4, pitch, one + 1, bars), "onsets must lie"),
        ((one, pitch + 68, one + 1, bars), "0..127"),
        ((one, pitch * 1.0, one + 1, bars), "integers"),
        ((one, pitch, one, bars), "above 0"),
        ((np.array([1.0, 0.0]), np.array([60, 60]), np.ones(2), bars), "sorted"),
    ]:
        with pytest.raises(ValueError, match=message):
            m.Section(*args, is_drum=False)
    for other in (section(bars=3), section(lines=[0, 3, 8]), section(is_drum=True)):
        with pytest.raises(ValueError, match="section"):
            m.onset_f1(TUNE, other)
    with pytest.raises(ValueError, match="consecutive"):
        m.Section.of([], [Bar(0, 4, 4, 4), Bar(8, 12, 4, 4)], 1, is_drum=False)
    with pytest.raises(ValueError, match="at least one bar"):
        m.Section.of([], [], 1, is_drum=False)


def test_content_preservation_of_a_sparse_section_with_itself():
    # 32 frames of a quarter of a quarter. A dotted half on beat 2 sounds in frames 4-15 (12 frames). Frame i is
    # smoothed over [i - 4, i + 4), so frames 4 - 3 = 1 to 15 + 4 = 19 are not silent: 19 of 32.
    s = section((1, 60, 3))
    assert m.content_preservation_published(s, s) == pytest.approx(19 / 32) == 0.59375
    assert m.content_preservation(s, s) == pytest.approx(1)


def test_content_preservation_by_hand():
    # C against C + E, both throughout: every frame (1, 0) against (1, 1) / sqrt 2.
    c, ce = section((0, 60, 8)), section((0, 60, 8), (0, 64, 8))
    assert m.content_preservation(c, ce) == pytest.approx(2**-0.5)
    assert m.content_preservation_published(c, ce) == pytest.approx(2**-0.5)
    # The octave does not matter; C against D is 0, and only counts where one of them sounds.
    assert m.content_preservation(c, section((0, 36, 8))) == pytest.approx(1)
    assert m.content_preservation(c, section((0, 62, 8))) == 0
    # Each frame has norm 1, so a doubled note weighs no more where the smoothing mixes it with the next bar's.
    doubled = section((0, 48, 4), (0, 60, 4), (4, 62, 4))
    assert m.content_preservation(doubled, section((0, 60, 4), (4, 62, 4))) == pytest.approx(1)
    # C in frames 0-15 against C in all 32: smoothed frames 0-19 are 1, the others 0.
    assert m.content_preservation(section((0, 60, 4)), c) == pytest.approx(20 / 32)


def test_content_preservation_of_silence():
    assert m.content_preservation(SILENCE, TUNE) == m.content_preservation_published(SILENCE, TUNE) == 0
    assert isnan(m.content_preservation(SILENCE, SILENCE))
    assert m.content_preservation_published(SILENCE, SILENCE) == 0


@pytest.mark.parametrize("count", [2, 4])
def test_groove_published_cannot_fall_below_one_in_n(count):
    # Full and empty bars alternate: all Q = 32 positions differ in all N - 1 pairs. 1 - 32 (N - 1) / (32 N) = 1 / N.
    s = section(*[(4 * b + i / 8, 60, 1 / 8) for b in range(0, count, 2) for i in range(32)], bars=count)
    assert m.groove_published(s) == pytest.approx(1 / count)
    assert m.groove(s) == 0


def test_groove_of_one_bar_and_of_silence():
    assert m.groove_published(section(*EVERY, bars=1)) == m.groove_published(SILENCE) == 1
    assert isnan(m.groove(section(*EVERY, bars=1)))
    assert isnan(m.groove(SILENCE))


def test_groove_by_hand_with_unequal_bars():
    # 4/4 then 3/4: Q = 32. Onsets {0, 8} and {0, 1}: positions 8 and 1 differ. 1 - 2 / 32, published 1 - 2 / 64.
    s = section((0, 60, 1), (1, 60, 1), (4, 60, 1), (4.24, 60, 1), lines=[0, 4, 7])
    assert m.groove(s) == pytest.approx(1 - 2 / 32)
    assert m.groove_published(s) == pytest.approx(1 - 2 / 64)


def test_groove_to_original_flatters_silence_and_the_pattern_f1_does_not():
    # 5 onsets in 64 positions: a silent fill agrees on 59 of them.
    assert m.groove_to_original(SILENCE, TUNE) == pytest.approx(59 / 64)
    assert m.onset_pattern_f1(SILENCE, TUNE) == m.onset_pattern_f1(TUNE, SILENCE) == 0
    assert isnan(m.onset_pattern_f1(SILENCE, SILENCE))
    # {0, 8} against {0, 16, 24} in the first bar: 3 of 64 differ; F1 = 2 * 1 / (2 + 3).
    fill, original = section((0, 50, 1), (1, 50, 1)), section((0, 60, 1), (2, 60, 1), (3, 60, 1))
    assert m.groove_to_original(fill, original) == pytest.approx(1 - 3 / 64)
    assert m.onset_pattern_f1(fill, original) == pytest.approx(0.4)
    # 30/8 into a bar that begins at 1/3 is position 30, though 49/12 - 1/3 is 3.7499... in float64.
    on, within = (section((t, 60, 1), lines=[0, 1 / 3, 13 / 3]) for t in (49 / 12, 49 / 12 + 1 / 16))
    assert m.onset_pattern_f1(on, within) == 1


def test_pitch_class_entropy_by_hand():
    # C C E G: 1/2 * 1 + 2 * 1/4 * 2 = 1.5 bits. C alone: 0.
    s = section((0, 48, 1), (1, 60, 1), (2, 64, 1), (3, 67, 1))
    assert m.pitch_class_entropy(s) == pytest.approx(1.5)
    assert m.entropy_distance(section((0, 60, 1)), s) == pytest.approx(1.5)
    assert isnan(m.pitch_class_entropy(SILENCE))
    assert isnan(m.entropy_distance(s, SILENCE))


def test_onset_f1_by_hand():
    # Original: C at 0, D at 1, E at 2. Fill: C 1/8 late (a match), D 3/16 late (none), F, and the D an octave up.
    original = section((0, 60, 1), (1, 62, 1), (2, 64, 1))
    fill = section((1 / 8, 60, 3), (1 + 3 / 16, 62, 1), (2, 65, 1), (1, 74, 1))
    # Precision 1/4, recall 1/3: 2/12 / (7/12) = 2/7.
    assert m.onset_f1(fill, original) == pytest.approx(2 / 7)
    assert m.onset_f1_published(fill, original) == pytest.approx(2 / 7)


def test_onset_f1_published_exceeds_one_on_repeated_notes():
    # Three Cs within 1/8 quarter, against themselves: 9 pairs, precision = recall = 3, F1 = 3. One to one: 1.
    s = section((1, 60, 1), (1 + 1 / 16, 60, 1), (1 + 1 / 8, 60, 1))
    assert m.onset_f1_published(s, s) == pytest.approx(3)
    assert m.onset_f1(s, s) == 1


def test_onset_f1_at_the_edges():
    for f1 in (m.onset_f1, m.onset_f1_published):
        assert isnan(f1(SILENCE, SILENCE))
        assert f1(SILENCE, TUNE) == f1(TUNE, SILENCE) == 0
        # 5/12 + 1/8 is more than 1/8 from 5/12 in float64; pitches 0 and 127 are pitches too.
        assert f1(section((5 / 12 + 1 / 8, 0, 1)), section((5 / 12, 0, 0.01))) == 1
        assert f1(section((0, 127, 1)), section((1 / 8, 127, 1))) == 1
        assert f1(section((0, 60, 1)), section((0, 61, 1))) == 0


def test_pitch_and_duration_overlap_by_hand():
    # Fill C C E G, original C D: min(1/2, 1/2) for C, nothing else.
    fill = section((0, 60, 1), (1, 60, 1), (2, 64, 1 / 3), (3, 67, 20))
    original = section((0, 60, 1), (2, 62, 1 / 3 + 0.01))
    assert m.pitch_overlap(fill, original) == pytest.approx(0.5)
    # Durations in twelfths: 12 12 4 192 and 12 4: min(1/2, 1/2) + min(1/4, 1/2).
    assert m.duration_overlap(fill, original) == pytest.approx(0.75)
    assert m.duration_overlap(section((0, 60, 16)), section((0, 60, 99))) == 1  # capped
    for overlap in (m.pitch_overlap, m.duration_overlap):
        assert overlap(SILENCE, TUNE) == 0
        assert isnan(overlap(TUNE, SILENCE))


def test_density_by_hand():
    # 5 notes in two bars against none: 2.5 notes a bar; log2(6 / 1). 5 against 2: 1.5; log2(6 / 3) = 1.
    assert m.density_error(SILENCE, TUNE) == m.density_error(TUNE, SILENCE) == 2.5
    assert m.density_ratio_error(SILENCE, TUNE) == pytest.approx(log2(6))
    pair = section((0, 60, 1), (1, 60, 1))
    assert m.density_error(pair, TUNE) == 1.5
    assert m.density_ratio_error(pair, TUNE) == m.density_ratio_error(TUNE, pair) == 1


@pytest.mark.parametrize("tonic", [0, 5, 11])
def test_key_of_a_scale(tonic):
    major, minor = np.array([0, 2, 4, 5, 7, 9, 11, 12]), np.array([0, 2, 3, 5, 7, 8, 11, 12, 0, 3, 7])
    assert m.key_of(60 + tonic + major, np.ones(8)) == (tonic, "major")
    assert m.key_of(36 + tonic + minor, np.ones(11)) == (tonic, "minor")


def test_key_weights_and_ties():
    # C and E and G against A: which of the relative keys it is depends on the weights.
    pitches = np.array([57, 60, 64, 67])
    assert m.key_of(pitches, np.array([0.1, 4, 2, 2])) == (0, "major")
    assert m.key_of(pitches, np.array([4, 2, 2, 0.1])) == (9, "minor")
    # A correlation: by the covariance alone, F major would win here (major's profile has the larger variance).
    assert m.key_of(np.array([1, 2, 5, 6]), np.array([1, 1, 3, 1])) == (5, "minor")
    assert m.key_of(np.arange(12), np.ones(12)) == (0, "major")  # a tie of all 24
    with pytest.raises(ValueError, match="no notes"):
        m.key_of(np.array([], int), np.array([]))


def test_out_of_key_by_hand():
    # C E F# Bb in C major: F# and Bb are outside. E F# G# Bb C# in A minor: Bb and C# are (6th and 7th may be raised).
    assert m.out_of_key_rate(section((0, 60, 1), (1, 64, 1), (2, 66, 1), (3, 70, 1)), (0, "major")) == 0.5
    minor = section((0, 64, 1), (1, 66, 1), (2, 68, 1), (3, 70, 1), (4, 73, 1))
    assert m.out_of_key_rate(minor, (9, "minor")) == pytest.approx(2 / 5)
    assert isnan(m.out_of_key_rate(SILENCE, (0, "major")))
    assert isnan(m.out_of_key_rate(TUNE, None))


def splitmix_run(words):
    """The hash of one run, in Python integers."""
    mask, state = 2**64 - 1, 0
    for word in words:
        state = ((state ^ word) + 0x9E3779B97F4A7C15) & mask
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
        state ^= state >> 31
    return state


def test_runs_by_hand():
    # Out of order on purpose. Steps: 1/2 quarter = 6 twelfths, 0, 1/3 = 4. A word is pitch + 128 * step, first step 0.
    found = m.runs(np.array([64, 60, 67, 62]), np.array([5.5, 5.0, 5.5, 5.5 + 1 / 3]), 3)
    assert found.dtype == np.uint64
    assert found.tolist() == [splitmix_run([60, 64 + 768, 67]), splitmix_run([64, 67, 62 + 512])]
    assert len(m.runs(np.array([60, 62]), np.array([0.0, 1.0]), 3)) == len(m.runs(np.array([]), np.array([]))) == 0


def test_copies_are_found_anywhere_but_not_in_another_key_or_rhythm():
    def of(notes):
        return m.runs(np.array([n[1] for n in notes]), np.array([n[0] for n in notes]))

    song = np.sort(of([*[(i / 3, 40 + i, 1) for i in range(20)], *arpeggio(100 + 1 / 3)]))
    assert m.copies_run(of(arpeggio()), song) == 1
    assert m.copies_run(of(arpeggio(up=1)), song) == 0
    assert m.copies_run(of(arpeggio(step=0.25)), song) == 0
    assert m.copies_run(of(arpeggio()), song[:0]) == 0
    assert isnan(m.copies_run(of(arpeggio(count=m.RUN_NOTES - 1)), song))


def test_self_repetition_by_hand():
    # Bars A, -, B, A, A': of the three after the first that hold notes, one repeats (A' has another pitch).
    a = [(0, 60, 1), (1 / 3, 64, 1)]
    notes = [*a, (8, 62, 1), *[(12 + t, p, 2) for t, p, _ in a], (16, 60, 1), (16 + 1 / 3, 65, 1)]
    assert m.self_repetition(section(*notes, bars=5)) == pytest.approx(1 / 3)
    assert isnan(m.self_repetition(section(*a, bars=5)))
    assert isnan(m.self_repetition(SILENCE))


def test_compare_gives_every_metric_in_order():
    fill = section(*arpeggio())
    found = m.compare(
        fill, fill, key=(0, "major"), context_runs=np.sort(m.runs(fill.pitches, fill.onsets)), training_runs=None
    )
    assert list(found) == list(m.METRICS)
    assert all(type(v) is float for v in found.values())
    assert [k for k, v in found.items() if isnan(v)] == ["copies_training"]
    assert (found["copies_context"], found["out_of_key"], found["onset_f1"]) == (1, 0, 1)
    assert (
        m.compare(fill, fill, key=None, context_runs=np.zeros(0, np.uint64), training_runs=np.zeros(1, np.uint64))[
            "copies_training"
        ]
        == 0
    )


def test_pitch_classes_of_drums_are_not_defined():
    drums = section(*EVERY, is_drum=True)
    found = m.compare(drums, drums, key=(0, "major"), context_runs=np.zeros(0, np.uint64), training_runs=None)
    pitched = {"content_preservation", "content_preservation_published", "pitch_class_entropy", "entropy_distance"}
    undefined = pitched | {"out_of_key", "duration_overlap", "copies_training", "self_repetition"}  # one bar has notes
    assert {k for k, v in found.items() if isnan(v)} == undefined


def test_importing_the_module_does_not_import_mir_eval():
    code = "import sys, midi_rwkv.evaluation.metrics; print('mir_eval' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


note = st.tuples(
    st.integers(0, 191).map(lambda k: k / 24), st.integers(58, 63), st.integers(1, 60).map(lambda k: k / 12)
)
sections = st.lists(note, max_size=12).map(lambda notes: section(*notes))
SYMMETRIC = ["content_preservation", "content_preservation_published", "groove_to_original", "onset_pattern_f1"]
SYMMETRIC += ["entropy_distance", "onset_f1", "onset_f1_published", "density_error", "density_ratio_error"]
UNIT = [k for k, v in m.METRICS.items() if v.unit in ("0-1", "0 or 1", "1/N-1")]
NO_RUNS = np.zeros(0, np.uint64)


@settings(max_examples=60)
@given(sections, sections)
def test_properties(fill, original):
    there, back = (
        m.compare(*pair, key=(0, "major"), context_runs=NO_RUNS, training_runs=None)
        for pair in ((fill, original), (original, fill))
    )
    for name in UNIT:
        assert isnan(there[name]) or 0 <= there[name] <= 1, name
    for name in SYMMETRIC:
        assert there[name] == pytest.approx(back[name], nan_ok=True), name
    assert there["groove_published"] >= 1 / 2
    assert isnan(there["onset_f1"]) or there["onset_f1_published"] >= there["onset_f1"] - 1e-12
    own = m.compare(fill, fill, key=(0, "major"), context_runs=NO_RUNS, training_runs=None)
    one = 1.0 if len(fill) else nan
    for name in ("content_preservation", "onset_pattern_f1", "onset_f1", "pitch_overlap", "duration_overlap"):
        assert own[name] == pytest.approx(one, nan_ok=True), name
    assert own["groove_to_original"] == 1
    for name in ("entropy_distance", "density_error", "density_ratio_error"):
        assert isnan(own[name]) or own[name] == 0, name
