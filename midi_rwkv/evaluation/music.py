"""What a musician notices in a fill: repeated notes, leaps, resting parts that play, thin places made thick, harmony.

Each measure is a share or a mean, `hits` over `of`, counted on the fill and on the original alike and pooled over the
cases; what matters is the difference. Repeats, fourths and leaps are those of melodic tracks, which play one note at a
time; where a fill plays several, its highest is the line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from midi_rwkv.score.score import Note, Score
from midi_rwkv.tokens.attributes import POSITIONS_PER_QUARTER, Vocabulary, make_vocabulary
from midi_rwkv.tokens.chords import NO_CHORD, QUALITIES, SongChords, find_chords
from midi_rwkv.tokens.notes import encode

from .cases import Case

LEAP = 8  # semitones
MELODIC = 0.9
AROUND = 4  # bars on either side
FEWEST_TRACKS = 3  # a song of fewer has no tutti
RESAMPLES = 1000
MEASURES = {
    "repeated": "Successive notes of one pitch",
    "fourths_fifths": "Successive notes a fourth or fifth apart",
    "leaps_out": f"Leaps of {LEAP} semitones and more into the next bar",
    "empty": "Empty cells",
    "in_rests": "Notes in a cell where the original rests",
    "sounding_thin": "Asked tracks that sound in a bar where at most half of the original's do",
    "tutti": f"Bars with more tracks than any of the {AROUND} on either side",
    "chord_tones": "Chord tones on strong beats, chords of the other tracks",
    "chord_tones_original": "The same, chords of the original",
}


class Count(NamedTuple):
    """One case's part of a measure."""

    hits: float
    of: float


Notes = Mapping[int, Sequence[Note]]  # by track


@lru_cache(maxsize=1)
def _vocabulary() -> Vocabulary:
    return make_vocabulary()


def is_melodic(score: Score, track: int) -> bool:
    """Whether a pitched track plays one note at a time, but for one onset in ten."""
    onsets = [n.onset_ticks for n in score.tracks[track].notes]
    return not score.tracks[track].is_drum and len(set(onsets)) >= MELODIC * len(onsets)


def line_of(notes: Sequence[Note]) -> list[tuple[int, int]]:
    """Onset and pitch of the highest note at each onset."""
    highest: dict[int, int] = {}
    for n in notes:
        highest[n.onset_ticks] = max(n.pitch, highest.get(n.onset_ticks, 0))
    return sorted(highest.items())


def harmonies(case: Case, score: Score) -> dict[str, SongChords]:
    """The chords of the tracks that are not asked for, and those of the original."""
    return {"chord_tones": other_chords(case, score), "chord_tones_original": _own_chords(score)}


def other_chords(case: Case, score: Score) -> SongChords:
    """The chords of the tracks that are not asked for."""
    around = score
    for t in case.tracks:
        around = around.with_notes(t, ())
    return find_chords(encode(_vocabulary(), around, score.bars), _vocabulary())


@lru_cache(maxsize=4)
def _own_chords(score: Score) -> SongChords:
    return find_chords(encode(_vocabulary(), score), _vocabulary())


def count_music(case: Case, score: Score, notes: Notes, chords: Mapping[str, SongChords]) -> dict[str, Count]:
    """Every measure of `MEASURES` on notes in the case's cells; `score` is the original, `chords` its `harmonies`."""
    lines = {t: line_of(notes[t]) for t in case.tracks if is_melodic(score, t)}
    steps = [abs(b - a) for line in lines.values() for (_, a), (_, b) in pairwise(line)]
    counts = {
        "repeated": Count(sum(s == 0 for s in steps), len(steps)),
        "fourths_fifths": Count(sum(s in (5, 7) for s in steps), len(steps)),
        "leaps_out": _leaps_out(case, score, lines),
        **_silences(case, score, notes),
    }
    for name, of in chords.items():
        pitched = {t: notes[t] for t in case.tracks if not score.tracks[t].is_drum}
        counts[name] = _chord_tones(case, score, pitched, of)
    return counts


def _leaps_out(case: Case, score: Score, lines: Mapping[int, Sequence[tuple[int, int]]]) -> Count:
    leaps = []
    for t, line in lines.items():
        following = line_of(score.notes_in(t, case.last)) if case.last < len(score.bars) else []
        if line and following:
            leaps.append(abs(following[0][1] - line[-1][1]) >= LEAP)
    return Count(sum(leaps), len(leaps))


def _silences(case: Case, score: Score, notes: Notes) -> dict[str, Count]:
    bars = range(case.first, case.last)
    written = cell_sizes(case, score, notes)
    there = cell_sizes(case, score, case.original(score))
    rests = there == 0
    counts = {
        "empty": Count(int((written == 0).sum()), written.size),
        "in_rests": Count(int(written[rests].sum()), int(rests.sum())),
        "sounding_thin": Count(0, 0),
        "tutti": Count(0, 0),
    }
    if len(case.tracks) < FEWEST_TRACKS:
        return counts
    thin = 2 * (there > 0).sum(0) <= len(case.tracks)
    sounding = (written > 0).sum(0)
    nearby = {*range(max(0, case.first - AROUND), min(len(score.bars), case.last + AROUND))} - set(bars)
    most = max((sum(bool(score.notes_in(t, b)) for t in case.tracks) for b in nearby), default=len(case.tracks))
    counts["sounding_thin"] = Count(int(sounding[thin].sum()), int(thin.sum()))
    counts["tutti"] = Count(int((sounding > most).sum()), len(bars))
    return counts


def cell_sizes(case: Case, score: Score, notes: Notes) -> np.ndarray:
    """Notes in each cell, (tracks, bars)."""
    sizes = np.zeros((len(case.tracks), case.n_bars), int)
    for row, t in zip(sizes, case.tracks, strict=True):
        for n in notes[t]:
            row[min(case.n_bars - 1, max(0, score.bar_of(t, n.onset_ticks) - case.first))] += 1
    return sizes


def _chord_tones(case: Case, score: Score, notes: Notes, chords: SongChords) -> Count:
    """Of the notes that begin on a strong beat which has a chord."""
    hits = of = 0
    qualities = list(QUALITIES.values())
    beats = {b: strong_beats(chords, b) for b in range(case.first, case.last)}
    for t, own in notes.items():
        for n in own:
            bar = score.bar_of(t, n.onset_ticks)
            units = (n.onset_ticks - score.bar(bar).start_ticks) * POSITIONS_PER_QUARTER / score.ticks_per_beat
            quality, root = beats.get(bar, {}).get(max(0, round(units)), (NO_CHORD, 0))
            if quality != NO_CHORD:
                of += 1
                hits += (n.pitch - root) % 12 in qualities[quality]
    return Count(hits, of)


def strong_beats(chords: SongChords, bar: int) -> dict[int, tuple[int, int]]:
    """Quality and root by position of the strong beats: the first, and the middle one where their number is even."""
    beats = chords.beats[chords.offsets[bar] : chords.offsets[bar + 1]].tolist()
    strong = [0] if len(beats) % 2 else [0, len(beats) // 2]
    return {beats[i][0]: (beats[i][1], beats[i][2]) for i in strong if i < len(beats)}


def compare_counts(fills: Sequence[Count], originals: Sequence[Count], seed: int = 0) -> dict[str, float | int] | None:
    """Fills', originals' and their difference's values with a bootstrap over the cases; None where nothing counts."""
    table = np.array([[*f, *o] for f, o in zip(fills, originals, strict=True)], float).reshape(-1, 4)
    if not (table[:, 1].sum() and table[:, 3].sum()):
        return None
    rng = np.random.default_rng(seed)
    sums = np.stack([table.sum(0), *(table[rng.integers(0, len(table), len(table))].sum(0) for _ in range(RESAMPLES))])
    with np.errstate(invalid="ignore", divide="ignore"):
        fill, original = sums[:, 0] / sums[:, 1], sums[:, 2] / sums[:, 3]
    low, high = np.nanquantile((fill - original)[1:], [0.025, 0.975])
    values = {"fills": fill[0], "originals": original[0], "difference": fill[0] - original[0], "low": low, "high": high}
    counted = int(((table[:, 1] > 0) | (table[:, 3] > 0)).sum())
    return {**{k: round(float(v), 4) for k, v in values.items()}, "cases": counted}
