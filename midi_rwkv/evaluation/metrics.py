"""Compares a fill of N bars of one track with the original bars: content, groove, onsets, key, copies.

Conventions. Time is in quarter notes from the first bar's start. A note belongs to the bar of its onset; a note held
over from before the section is not part of it. `nan` means "not defined" (comparing two silences, pitch classes of
drums, the groove of a single bar): average with `np.nanmean`, and report how many values were defined. Functions of two
sections take the fill first, and both sections must have the same bar lines. Onsets within `EPS` of a grid line are on
it.

Functions whose names end in `_published` follow the evaluator of the MIDI-RWKV paper (arXiv 2506.13001; repository
christianazinn/MIDI-RWKV), for comparison with its tables. Each has a flaw, which the function with the plain name
repairs.

- content preservation (Lu & Su 2018) scores frames that are silent in both sections 0, so that a sparse section does
  not preserve itself: a dotted half note alone in two bars of 4/4 scores 19/32 against itself. Repaired: the mean is
  over the frames in which at least one of the two sounds.
- groove (grooving pattern similarity, Wu & Yang 2020, arXiv 2008.01307) sums over N - 1 pairs of adjacent bars but
  divides by N, so the worst score is 1/N and one bar always scores 1; so does silence. Repaired: divided by N - 1.
  The repaired form stays lenient, as nearly every grid position is empty; `onset_pattern_f1` has no such flaw.
- onset F1 pairs notes many to many, so that repeated notes lift it above 1. Repaired: a one-to-one matching, by
  mir_eval, with which it shares the rounding of onset differences to 1e-4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from itertools import pairwise
from math import log2, nan
from typing import Literal

import numpy as np

from midi_rwkv.score.score import Bar, Note

RUN_NOTES = 12  # consecutive equal notes that count as a copy
FRAMES_PER_BAR = 16
GRID = 8  # groove positions per quarter
ONSET_TOLERANCE = 1 / 8  # quarters
LONGEST_TWELFTHS = 16 * 12  # durations are compared up to 16 quarters
EPS = 1e-6  # quarters; far below a tick, far above float64 rounding
Key = tuple[int, Literal["major", "minor"]]

# Krumhansl & Kessler probe-tone profiles (Krumhansl 1990, Cognitive Foundations of Musical Pitch), tonic first.
MAJOR = np.array([6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88])
MINOR = np.array([6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17])
SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 9, 10, 11)}  # minor: 6th and 7th raised or not


@dataclass(frozen=True, eq=False)
class Section:
    """The notes of one track in consecutive bars, in quarter notes from the first bar's start.

    Raises ValueError for arrays that do not fit together, values out of range, and notes out of order.
    """

    onsets: np.ndarray  # (n,) quarters, float64, in [0, bars[-1])
    pitches: np.ndarray  # (n,) MIDI, 0-127
    durations: np.ndarray  # (n,) quarters, > 0; may reach beyond the last bar line
    bars: np.ndarray  # (N + 1,) bar lines in quarters, bars[0] == 0
    _: KW_ONLY
    is_drum: bool

    def __post_init__(self) -> None:
        onsets, pitches, durations, bars = self.onsets, self.pitches, self.durations, self.bars
        if not (onsets.ndim == 1 and onsets.shape == pitches.shape == durations.shape):
            raise ValueError(f"onsets, pitches and durations must have one shape (n,), not {onsets.shape} and others")
        if bars.ndim != 1 or len(bars) < 2 or bars[0] != 0 or not (np.diff(bars) > 0).all():
            raise ValueError("bars must be (N + 1,) rising bar lines with N >= 1 and bars[0] == 0")
        if not ((onsets >= 0) & (onsets < bars[-1])).all():
            raise ValueError(f"onsets must lie in the bars, from 0 up to {bars[-1]:g} quarters")
        if pitches.dtype.kind not in "iu" or not ((pitches >= 0) & (pitches < 128)).all():
            raise ValueError("pitches must be integers in 0..127")
        if not (durations > 0).all():
            raise ValueError("durations must be above 0")
        if not (np.lexsort((pitches, onsets)) == np.arange(len(onsets))).all():
            raise ValueError("notes must be sorted by onset, then pitch")

    @classmethod
    def of(cls, notes: Sequence[Note], bars: Sequence[Bar], ticks_per_beat: int, *, is_drum: bool) -> Section:
        """From file ticks. Notes with an onset outside the bars are dropped; the bars must be consecutive."""
        if not bars:
            raise ValueError("a section needs at least one bar")
        if any(a.end_ticks != b.start_ticks for a, b in pairwise(bars)):
            raise ValueError("the bars of a section must be consecutive")
        start, end = bars[0].start_ticks, bars[-1].end_ticks
        kept = sorted(n for n in notes if start <= n.onset_ticks < end)
        return cls(
            onsets=np.array([n.onset_ticks - start for n in kept], np.float64) / ticks_per_beat,
            pitches=np.array([n.pitch for n in kept], np.int64),
            durations=np.array([n.duration_ticks for n in kept], np.float64) / ticks_per_beat,
            bars=np.array([0, *(b.end_ticks - start for b in bars)], np.float64) / ticks_per_beat,
            is_drum=is_drum,
        )

    def __len__(self) -> int:
        return len(self.onsets)

    @property
    def bar_count(self) -> int:
        return len(self.bars) - 1

    @property
    def note_bars(self) -> np.ndarray:
        """(n,) 0-based bar of every note."""
        return np.clip(np.searchsorted(self.bars, self.onsets + EPS, side="right") - 1, 0, self.bar_count - 1)


def _check_pair(fill: Section, original: Section) -> None:
    if fill.is_drum != original.is_drum:
        raise ValueError("one section is a drum track and the other is not")
    if fill.bars.shape != original.bars.shape or not np.allclose(fill.bars, original.bars, rtol=0, atol=EPS):
        raise ValueError(f"the sections cover other bars: {fill.bar_count} and {original.bar_count}, or other metres")


def _twelfths(quarters: np.ndarray) -> np.ndarray:
    """Nearest twelfth of a quarter, halves up (also where float rounding left them just below)."""
    return np.floor(quarters * 12 + 0.5 + EPS).astype(np.int64)


def _chroma(section: Section) -> np.ndarray:
    """(16 N, 12) smoothed chroma: notes sounding in each frame, L2-normalised, moving mean over [i - 4, i + 4)."""
    edges = np.linspace(0, section.bars[-1], FRAMES_PER_BAR * section.bar_count + 1)
    ends = section.onsets + section.durations
    sounding = (section.onsets < edges[1:, None] - EPS) & (ends > edges[:-1, None] + EPS)  # (frames, n)
    frames = sounding.astype(float) @ np.eye(12)[section.pitches % 12]
    frames /= np.linalg.norm(frames, axis=1, keepdims=True) + 1e-8
    i = np.arange(len(frames))
    near = (i >= i[:, None] - 4) & (i < i[:, None] + 4)  # clipped at the edges; a product keeps silence exactly 0
    return np.asarray((near / near.sum(1, keepdims=True)) @ frames)


def _content(fill: Section, original: Section, *, over_silence: bool) -> float:
    _check_pair(fill, original)
    if fill.is_drum:
        return nan
    a, b = _chroma(fill), _chroma(original)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosine = np.divide((a * b).sum(1), norms, out=np.zeros(len(a)), where=norms > 0)
    counted = np.ones(len(a), bool) if over_silence else (a + b).any(1)
    return min(1.0, float(cosine[counted].mean())) if counted.any() else nan


def content_preservation_published(fill: Section, original: Section) -> float:
    """Mean cosine of the smoothed chroma frames over all 16 N frames; frames silent in either score 0."""
    return _content(fill, original, over_silence=True)


def content_preservation(fill: Section, original: Section) -> float:
    """The same over the frames in which either sounds: 1 for a section with itself, nan for two silences."""
    return _content(fill, original, over_silence=False)


def _patterns(section: Section) -> np.ndarray:
    """(N, Q) bool: is there an onset at the position? Q is the longest bar's length in eighths of a quarter."""
    size = max(1, int(np.ceil(np.diff(section.bars).max() * GRID - EPS)))
    bar = section.note_bars
    position = np.floor((section.onsets - section.bars[bar]) * GRID + EPS).astype(int)
    grid = np.zeros((section.bar_count, size), bool)
    grid[bar, np.clip(position, 0, size - 1)] = True
    return grid


def groove_published(section: Section) -> float:
    """Similarity of adjacent bars' onset patterns, divided by N: at least 1/N, and 1 when N = 1."""
    grid = _patterns(section)
    return 1 - float((grid[1:] ^ grid[:-1]).sum()) / grid.size


def groove(section: Section) -> float:
    """The same divided by N - 1, hence in [0, 1]; nan for one bar or no notes."""
    grid = _patterns(section)
    return 1 - float((grid[1:] ^ grid[:-1]).mean()) if len(grid) > 1 and len(section) else nan


def groove_to_original(fill: Section, original: Section) -> float:
    """Share of grid positions on which the fill and the original agree.

    Nearly all positions of most music are empty, so that a silent fill scores high: read it with `onset_pattern_f1`.
    """
    _check_pair(fill, original)
    return 1 - float((_patterns(fill) ^ _patterns(original)).mean())


def onset_pattern_f1(fill: Section, original: Section) -> float:
    """F1 of the occupied (bar, position) pairs, pitch ignored; nan if both are empty, 0 if one is."""
    _check_pair(fill, original)
    a, b = _patterns(fill), _patterns(original)
    total = int(a.sum() + b.sum())
    return 2 * int((a & b).sum()) / total if total else nan


def onset_f1_published(fill: Section, original: Section) -> float:
    """F1 of note pairs of one pitch at most 1/8 quarter apart, many to many: can exceed 1. Empty: as `onset_f1`."""
    _check_pair(fill, original)
    if not (len(fill) and len(original)):
        return 0.0 if len(fill) or len(original) else nan
    apart = np.around(np.abs(np.subtract.outer(fill.onsets, original.onsets)), 4)  # 4 decimals: as mir_eval
    same = np.equal.outer(fill.pitches, original.pitches)
    matches = int((same & (apart <= ONSET_TOLERANCE)).sum())
    return 2 * matches / (len(fill) + len(original))  # = 2PR / (P + R)


def onset_f1(fill: Section, original: Section) -> float:
    """F1 of a maximum one-to-one matching of such pairs (mir_eval); nan if both are empty, 0 if one is."""
    from mir_eval import transcription, util  # takes a second to import

    _check_pair(fill, original)
    if not (len(fill) and len(original)):
        return 0.0 if len(fill) or len(original) else nan
    of_each = []  # quarters in place of mir_eval's seconds
    for s in (original, fill):
        of_each += [np.stack([s.onsets, s.onsets + s.durations], axis=1), util.midi_to_hz(s.pitches)]
    options = {"onset_tolerance": ONSET_TOLERANCE, "pitch_tolerance": 50.0, "offset_ratio": None, "strict": False}
    return float(transcription.precision_recall_f1_overlap(*of_each, **options)[2])


def pitch_class_entropy(section: Section) -> float:
    """Entropy of the pitch-class histogram of the onsets, bits (0 to log2 12); nan for drums or no notes."""
    if section.is_drum or not len(section):
        return nan
    counts = np.bincount(section.pitches % 12)
    p = counts[counts > 0] / len(section)
    return float((p * np.log2(1 / p)).sum())


def entropy_distance(fill: Section, original: Section) -> float:
    """Absolute difference of the two pitch-class entropies, bits."""
    return abs(pitch_class_entropy(fill) - pitch_class_entropy(original))


def _overlap(fill: np.ndarray, original: np.ndarray, classes: int) -> float:
    """Sum of the minima of two normalised histograms; nan without an original, 0 without a fill."""
    if not (len(fill) and len(original)):
        return 0.0 if len(original) else nan
    a, b = (np.bincount(x, minlength=classes) / len(x) for x in (fill, original))
    return min(1.0, float(np.minimum(a, b).sum()))


def pitch_overlap(fill: Section, original: Section) -> float:
    """Intersection of the histograms of the 128 pitches; nan without an original, 0 without a fill."""
    return _overlap(fill.pitches, original.pitches, 128)


def duration_overlap(fill: Section, original: Section) -> float:
    """The same for durations in twelfths of a quarter, up to 16 quarters; also nan for drums."""
    if fill.is_drum:
        return nan
    a, b = (np.minimum(_twelfths(s.durations), LONGEST_TWELFTHS) for s in (fill, original))
    return _overlap(a, b, LONGEST_TWELFTHS + 1)


def density_error(fill: Section, original: Section) -> float:
    """Absolute difference in notes per bar."""
    return abs(len(fill) / fill.bar_count - len(original) / original.bar_count)


def density_ratio_error(fill: Section, original: Section) -> float:
    """|log2 ((notes + 1) / (original's notes + 1))|: 1 is about twice or half as many."""
    return abs(log2((len(fill) + 1) / (len(original) + 1)))


def key_of(pitches: np.ndarray, weights: np.ndarray) -> Key:
    """(tonic pitch class, mode) whose Krumhansl-Kessler profile correlates best with the weighted pitch classes.

    Weights are durations or ones, (n,). Ties go to major, then to the lower tonic. ValueError when they sum to 0.
    """
    histogram = np.bincount(np.asarray(pitches, int) % 12, weights, minlength=12)
    if histogram.sum() <= 0:
        raise ValueError("no notes to find a key in")
    profiles = np.stack([np.roll(p, tonic) for p in (MAJOR, MINOR) for tonic in range(12)])  # (24, 12)
    profiles -= profiles.mean(1, keepdims=True)
    # The histogram's own norm is the same for all 24, so it is left out; 9 decimals make ties exact.
    scores = profiles @ (histogram - histogram.mean()) / (np.linalg.norm(profiles, axis=1) * histogram.sum())
    mode, tonic = divmod(int(np.argmax(np.around(scores, 9))), 12)
    return tonic, "minor" if mode else "major"


def out_of_key_rate(section: Section, key: Key | None) -> float:
    """Share of notes outside the scale (minor with both 6ths and 7ths); nan for drums, no notes or no key."""
    if section.is_drum or not len(section) or key is None:
        return nan
    tonic, mode = key
    return 1 - float(np.isin((section.pitches - tonic) % 12, SCALES[mode]).mean())


def runs(pitches: np.ndarray, onsets: np.ndarray, length: int = RUN_NOTES) -> np.ndarray:
    """(n - length + 1,) uint64: a hash of every `length` consecutive notes, in order of onset, then pitch.

    The hash covers the pitches and the steps between onsets, which are first rounded to twelfths of a
    quarter (halves to even). A run in another key is another run; a run at another place in the song is the same.
    Hashes are the same on every platform.
    """
    place = np.rint(np.asarray(onsets, np.float64) * 12).astype(np.int64)
    order = np.lexsort((pitches, place))
    count = max(0, len(order) - length + 1)
    pitch = np.asarray(pitches)[order].astype(np.uint64)
    step = np.diff(place[order], prepend=0).astype(np.uint64)
    state = np.zeros(count, np.uint64)
    for k in range(length):
        word = pitch[k : k + count] + (step[k : k + count] * np.uint64(128) if k else np.uint64(0))
        state = (state ^ word) + np.uint64(0x9E3779B97F4A7C15)  # splitmix64; uint64 arrays wrap around
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state ^= state >> np.uint64(31)
    return state


def copies_run(section_runs: np.ndarray, known_sorted: np.ndarray) -> float:
    """1.0 if any run is in the sorted array of known ones, 0.0 if none is, nan if there is no run."""
    if not len(section_runs):
        return nan
    found = np.searchsorted(known_sorted, section_runs)
    inside = found < len(known_sorted)
    return float((known_sorted[found[inside]] == section_runs[inside]).any())


def self_repetition(section: Section) -> float:
    """Share of the non-empty bars, after the first, that repeat an earlier bar: same pitches at the same twelfths.

    It is nan with fewer than two non-empty bars.
    """
    bar = section.note_bars
    position = _twelfths(section.onsets - section.bars[bar])
    contents = [frozenset(zip(position[bar == b], section.pitches[bar == b], strict=True)) for b in np.unique(bar)]
    return (len(contents) - len(set(contents))) / (len(contents) - 1) if len(contents) > 1 else nan


@dataclass(frozen=True)
class Metric:
    """The name of a metric, and how to read it."""

    title: str
    better: Literal["higher", "lower", "original"]  # "original": closer to the original's own value
    unit: str
    definition: str  # one sentence


_CONTENT = "Mean cosine of the two smoothed chroma frames over "
_GROOVE = "Agreement of adjacent bars' onset patterns over "
_F1 = "F1 of notes with one pitch and onsets at most 1/8 quarter apart, "
_COPY = f"1 if {RUN_NOTES} consecutive notes also occur in "
_OVERLAP = "Shared part of the two histograms of "
METRICS: dict[str, Metric] = {
    "content_preservation": Metric("Content preservation", "higher", "0-1", _CONTENT + "those not silent in both."),
    "content_preservation_published": Metric("Content preservation (published)", "higher", "0-1", _CONTENT + "all."),
    "groove": Metric("Groove", "original", "0-1", _GROOVE + "the N - 1 pairs of bars."),
    "groove_published": Metric("Groove (published)", "original", "1/N-1", _GROOVE + "N - 1 pairs but divided by N."),
    "groove_to_original": Metric(
        "Groove to original", "higher", "0-1", "Share of the grid's positions (8 a quarter, mostly empty) that agree."
    ),
    "onset_pattern_f1": Metric(
        "Onset pattern F1", "higher", "0-1", "F1 of the grid positions (8 a quarter) that hold an onset, pitch ignored."
    ),
    "pitch_class_entropy": Metric("Pitch-class entropy", "original", "bits", "Entropy of the onsets' pitch classes."),
    "entropy_distance": Metric("Entropy distance", "lower", "bits", "Difference of the two pitch-class entropies."),
    "onset_f1": Metric("Onset F1", "higher", "0-1", _F1 + "matched one to one."),
    "onset_f1_published": Metric("Onset F1 (published)", "higher", "0 up", _F1 + "matched many to many."),
    "pitch_overlap": Metric("Pitch overlap", "higher", "0-1", _OVERLAP + "pitches."),
    "duration_overlap": Metric("Duration overlap", "higher", "0-1", _OVERLAP + "durations in twelfths of a quarter."),
    "density_error": Metric("Density error", "lower", "notes/bar", "Absolute difference in notes a bar."),
    "density_ratio_error": Metric(
        "Density ratio error", "lower", "log2", "Absolute log2 ratio of the note counts, one added to each."
    ),
    "out_of_key": Metric("Out of key", "original", "0-1", "Share of notes outside the scale of the song's key."),
    "copies_context": Metric("Copies context", "original", "0 or 1", _COPY + "the rest of the song."),
    "copies_training": Metric("Copies training", "lower", "0 or 1", _COPY + "the training songs."),
    "self_repetition": Metric(
        "Self-repetition", "original", "0-1", "Share of bars with notes, but the first, that repeat an earlier one."
    ),
}


def compare(
    fill: Section, original: Section, *, key: Key | None, context_runs: np.ndarray, training_runs: np.ndarray | None
) -> dict[str, float]:
    """Every metric of `METRICS`, in its order.

    `key` is the song's (None: unknown). `context_runs` and `training_runs` are sorted `runs` of `RUN_NOTES` notes.
    """
    own = runs(fill.pitches, fill.onsets)
    return {
        "content_preservation": content_preservation(fill, original),
        "content_preservation_published": content_preservation_published(fill, original),
        "groove": groove(fill),
        "groove_published": groove_published(fill),
        "groove_to_original": groove_to_original(fill, original),
        "onset_pattern_f1": onset_pattern_f1(fill, original),
        "pitch_class_entropy": pitch_class_entropy(fill),
        "entropy_distance": entropy_distance(fill, original),
        "onset_f1": onset_f1(fill, original),
        "onset_f1_published": onset_f1_published(fill, original),
        "pitch_overlap": pitch_overlap(fill, original),
        "duration_overlap": duration_overlap(fill, original),
        "density_error": density_error(fill, original),
        "density_ratio_error": density_ratio_error(fill, original),
        "out_of_key": out_of_key_rate(fill, key),
        "copies_context": copies_run(own, context_runs),
        "copies_training": nan if training_runs is None else copies_run(own, training_runs),
        "self_repetition": self_repetition(fill),
    }
