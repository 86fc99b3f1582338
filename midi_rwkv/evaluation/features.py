"""What one can tell of the notes in a case's cells without knowing who wrote them: features for the judge.

They describe the notes by themselves, beside the rest of their track, and beside the other tracks. The song's own notes
in the cells are never looked at. Features of a track are averaged over the case's tracks; nan stands where there is
nothing to tell.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from midi_rwkv.score.score import Note, Score
from midi_rwkv.tokens.chords import SongChords

from .cases import Case, share_on_grid
from .metrics import Section, groove, key_of, out_of_key_rate, self_repetition
from .music import AROUND, LEAP, Notes, cell_sizes, count_music, line_of

GRID = 12  # positions a quarter for patterns
CLASHES = (1, 6, 11)  # semitones


@dataclass(frozen=True, eq=False)
class Part:
    """Notes of one track as arrays, and each one's bar and position in it in twelfths of a quarter."""

    notes: list[Note]
    onsets: np.ndarray  # quarters from the song's start
    pitches: np.ndarray
    durations: np.ndarray  # quarters
    velocities: np.ndarray
    bars: np.ndarray
    positions: np.ndarray

    @classmethod
    def of(cls, score: Score, track: int, notes: Sequence[Note]) -> Part:
        table = np.array(notes, np.int64).reshape(-1, 4)
        bars = np.array([score.bar_of(track, n.onset_ticks) for n in notes], np.int64)
        starts = np.array([score.bar(b).start_ticks for b in bars.tolist()], np.int64)
        onsets, durations = table[:, 0] / score.ticks_per_beat, table[:, 2] / score.ticks_per_beat
        positions = np.rint((table[:, 0] - starts) * GRID / score.ticks_per_beat).astype(np.int64)
        return cls(list(notes), onsets, table[:, 1], durations, table[:, 3], bars, positions)

    def __len__(self) -> int:
        return len(self.notes)

    def keys(self, bar: int) -> frozenset[tuple[int, int]]:
        """Position and pitch of the notes of one bar."""
        own = self.bars == bar
        return frozenset(zip(self.positions[own].tolist(), self.pitches[own].tolist(), strict=True))


def features(case: Case, score: Score, notes: Notes, chords: Mapping[str, SongChords]) -> dict[str, float]:
    """Features of `notes` in the case's cells. chords: those of the tracks that are not asked for, "chord_tones"."""
    return features_in(case, case.given(score), notes, chords)


def features_in(case: Case, given: Score, notes: Notes, chords: Mapping[str, SongChords]) -> dict[str, float]:
    """`features` in the song without the notes of the case's cells."""
    rows = [_track_features(case, given, t, Part.of(given, t, notes[t])) for t in case.tracks]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        of = {name: float(np.nanmean([row.get(name, np.nan) for row in rows])) for name in _names(rows)}
    counts = count_music(case, given, notes, {"chord_tones": chords["chord_tones"]})
    for name in ("repeated", "fourths_fifths", "leaps_out", "empty", "tutti", "chord_tones"):
        hits, total = counts[name]
        of[name] = hits / total if total else np.nan
    sounding = (cell_sizes(case, given, notes) > 0).sum(0)
    nearby = _nearby(case, given, AROUND)
    usual = [sum(bool(given.notes_in(t, b)) for t in case.tracks) for b in nearby]
    of["tracks sounding beside nearby"] = float(sounding.mean() - np.mean(usual)) if usual else np.nan
    return of


def _names(rows: Sequence[Mapping[str, float]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _nearby(case: Case, score: Score, reach: int) -> list[int]:
    bars = range(max(0, case.first - reach), min(len(score.bars), case.last + reach))
    return [b for b in bars if not case.first <= b < case.last]


def _track_features(case: Case, given: Score, track: int, fill: Part) -> dict[str, float]:
    rest = Part.of(given, track, given.tracks[track].notes)
    nearby = _nearby(case, given, 2 * AROUND)
    near = Part.of(given, track, [n for n, b in zip(rest.notes, rest.bars.tolist(), strict=True) if b in nearby])
    of = _amounts(case, fill, near, len(nearby))
    if not len(fill):
        return of
    of |= _rhythm(case, given, fill, rest) | _touch(given, fill, rest) | _likeness(case, fill, rest)
    if not given.tracks[track].is_drum:
        of |= _pitch(given, fill, near) | _line(fill, near, rest) | _vertical(case, given, fill)
    return of


def _amounts(case: Case, fill: Part, near: Part, bars: int) -> dict[str, float]:
    own, usual = len(fill) / case.n_bars, len(near) / max(1, bars)
    struck, usually = len(np.unique(fill.onsets)), len(np.unique(near.onsets))
    return {
        "notes a bar": own,
        "notes beside nearby": float(np.log((own + 0.5) / (usual + 0.5))),
        "onsets beside nearby": float(np.log((struck / case.n_bars + 0.5) / (usually / max(1, bars) + 0.5))),
        "bars that sound beside nearby": len(np.unique(fill.bars)) / case.n_bars
        - len(np.unique(near.bars)) / max(1, bars),
        "notes an onset": len(fill) / struck if struck else np.nan,
        "notes an onset beside nearby": len(fill) / struck - len(near) / usually if struck and usually else np.nan,
    }


def _rhythm(case: Case, given: Score, fill: Part, rest: Part) -> dict[str, float]:
    onsets = np.unique(fill.onsets)
    gaps, usual = np.diff(onsets), np.diff(np.unique(rest.onsets))
    within = fill.positions % GRID
    last_bar = given.bar(case.last - 1)
    end = last_bar.end_ticks / given.ticks_per_beat
    start = given.bar(case.first).start_ticks / given.ticks_per_beat
    section = _section(case, given, fill)
    return {
        "gap": float(gaps.mean()) if len(gaps) else np.nan,
        "gap beside the track": float(np.log(gaps.mean() / usual.mean())) if len(gaps) and len(usual) else np.nan,
        "commonest gap": _commonest(np.rint(gaps * GRID)),
        "gaps as in the track": _overlap(np.rint(gaps * GRID), np.rint(usual * GRID)),
        "places as in the track": _overlap(fill.positions, rest.positions),
        "on the beat": float((within == 0).mean()),
        "on the half beat": float((within == GRID // 2).mean()),
        "off the sixteenths": float((within % 3 > 0).mean()),
        "begins after": float(onsets[0] - start),
        "silent before the end": max(0.0, float(end - (fill.onsets + fill.durations).max())),
        "last onset before the end": float(end - onsets[-1]),
        "bars repeat within": self_repetition(section),
        "groove": groove(section),
    }


def _section(case: Case, given: Score, fill: Part) -> Section:
    bars = [given.bar(b) for b in range(case.first, case.last)]
    kept = [n for n in fill.notes if bars[0].start_ticks <= n.onset_ticks < bars[-1].end_ticks]
    return Section.of(kept, bars, given.ticks_per_beat, is_drum=False)


def _touch(given: Score, fill: Part, rest: Part) -> dict[str, float]:
    ticks = np.array([n.duration_ticks for n in fill.notes])
    known = np.array([n.duration_ticks for n in rest.notes], np.int64)
    nan = float("nan")
    return {
        "exactly on the grid": share_on_grid(given, fill.notes),
        "exactly on the grid beside the track": share_on_grid(given, fill.notes) - share_on_grid(given, rest.notes),
        "velocity": float(fill.velocities.mean() - rest.velocities.mean()) if len(rest) else nan,
        "velocity varies": float(fill.velocities.std() - rest.velocities.std()) if len(rest) else nan,
        "velocities as in the track": _overlap(fill.velocities, rest.velocities),
        "velocities that the track has": float(np.isin(fill.velocities, rest.velocities).mean()),
        "velocity changes": float((np.diff(fill.velocities) != 0).mean()) if len(fill) > 1 else nan,
        "velocity changes beside the track": (
            float((np.diff(fill.velocities) != 0).mean() - (np.diff(rest.velocities) != 0).mean())
            if len(fill) > 1 and len(rest) > 1
            else nan
        ),
        "duration": float(fill.durations.mean()),
        "duration beside the track": float(np.log(fill.durations.mean() / rest.durations.mean())) if len(rest) else nan,
        "durations as in the track": _overlap(ticks, known),
        "durations that the track has": float(np.isin(ticks, known).mean()),
        "shortest duration": float(fill.durations.min()),
        "longest duration": float(fill.durations.max()),
    }


def _likeness(case: Case, fill: Part, rest: Part) -> dict[str, float]:
    """How far the bars repeat bars of the track: F1 of position and pitch with the most similar, or with neighbours."""
    known = [rest.keys(b) for b in np.unique(rest.bars).tolist()]
    bars = [fill.keys(b) for b in range(case.first, case.last)]
    best = [max((_f1(own, other) for other in known), default=0.0) for own in bars if own]
    before = [rest.keys(case.first - 1), *bars]
    rhythms = {frozenset(p for p, _ in k) for k in known}
    return {
        "like the most similar bar": float(np.mean(best)),
        "bars quoted": float(np.mean([b == 1 for b in best])),
        "like the bar before": float(np.mean([_f1(a, b) for a, b in pairwise(before) if a or b])),
        "like the bar after": _f1(bars[-1], rest.keys(case.last)),
        "rhythms that the track has": float(np.mean([frozenset(p for p, _ in k) in rhythms for k in bars if k])),
        "notes that the track has": float(np.isin(fill.pitches, rest.pitches).mean()),
    }


def _f1(a: frozenset[tuple[int, int]], b: frozenset[tuple[int, int]]) -> float:
    return 2 * len(a & b) / max(1, len(a) + len(b))


def _pitch(given: Score, fill: Part, near: Part) -> dict[str, float]:
    pitched = [n for t in given.tracks if not t.is_drum for n in t.notes]
    key = (
        key_of(np.array([n.pitch for n in pitched]), np.array([n.duration_ticks for n in pitched])) if pitched else None
    )
    section = Section(
        np.zeros(len(fill)), np.sort(fill.pitches), np.ones(len(fill)), np.array([0.0, 1.0]), is_drum=False
    )
    values = {
        "out of key": out_of_key_rate(section, key),
        "range": float(np.ptp(fill.pitches)),
        "pitches in use": len(np.unique(fill.pitches)) / len(fill),
        "commonest pitch": _commonest(fill.pitches),
    }
    if len(near):
        values |= {
            "pitch beside nearby": float(fill.pitches.mean() - near.pitches.mean()),
            "top beside nearby": float(fill.pitches.max() - near.pitches.max()),
            "bottom beside nearby": float(fill.pitches.min() - near.pitches.min()),
            "range beside nearby": float(np.ptp(fill.pitches) - np.ptp(near.pitches)),
            "pitches as nearby": _overlap(fill.pitches, near.pitches),
            "pitch classes as nearby": _overlap(fill.pitches % 12, near.pitches % 12),
            "commonest pitch beside nearby": _commonest(fill.pitches) - _commonest(near.pitches),
        }
    return values


def _line(fill: Part, near: Part, rest: Part) -> dict[str, float]:
    """Melodic intervals, and those by which the fill joins what stands around."""
    own, usual = _intervals(fill.notes), _intervals(near.notes)
    values = {"interval": float(own.mean()) if len(own) else np.nan}
    for name, low, high in (("steps", 1, 2), ("thirds", 3, 4), ("fourths and fifths", 5, 7), ("leaps", LEAP, 127)):
        share = _between(own, low, high)
        values[name] = share
        values[f"{name} beside nearby"] = share - _between(usual, low, high)
    values["repeats beside nearby"] = _between(own, 0, 0) - _between(usual, 0, 0)
    line = line_of(fill.notes)
    before = line_of([n for n in rest.notes if n.onset_ticks < line[0][0]])
    after = line_of([n for n in rest.notes if n.onset_ticks > line[-1][0]])
    values["interval in"] = float(abs(line[0][1] - before[-1][1])) if before else np.nan
    values["interval out"] = float(abs(after[0][1] - line[-1][1])) if after else np.nan
    return values


def _intervals(notes: Sequence[Note]) -> np.ndarray:
    return np.abs(np.diff([pitch for _, pitch in line_of(notes)])) if notes else np.zeros(0)


def _between(values: np.ndarray, low: int, high: int) -> float:
    return float(((values >= low) & (values <= high)).mean()) if len(values) else np.nan


def _vertical(case: Case, given: Score, fill: Part) -> dict[str, float]:
    """Beside the pitched tracks that are not asked for: shared onsets, and clashes at them."""
    others: dict[int, list[int]] = {}
    low, high = given.bar(case.first).start_ticks, given.bar(case.last - 1).end_ticks
    for t, other in enumerate(given.tracks):
        if t not in case.tracks and not other.is_drum:
            for n in other.notes:
                if low <= n.onset_ticks < high:
                    others.setdefault(n.onset_ticks, []).append(n.pitch)
    if not others:
        return {}
    together = [(n, others[n.onset_ticks]) for n in fill.notes if n.onset_ticks in others]
    clashing = [any((n.pitch - p) % 12 in CLASHES for p in pitches) for n, pitches in together]
    doubled = [any((n.pitch - p) % 12 == 0 for p in pitches) for n, pitches in together]
    own = {n.onset_ticks for n in fill.notes}
    return {
        "onsets shared with others": len(together) / len(fill),
        "others' onsets shared": len(own & set(others)) / len(others),
        "clashes": float(np.mean(clashing)) if clashing else np.nan,
        "doubles others": float(np.mean(doubled)) if doubled else np.nan,
    }


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Shared part of two histograms; nan where one is empty."""
    if not (len(a) and len(b)):
        return np.nan
    values, inverse = np.unique(np.concatenate([a, b]), return_inverse=True)
    shares = (
        np.bincount(inverse[: len(a)], minlength=len(values)) / len(a),
        np.bincount(inverse[len(a) :], minlength=len(values)) / len(b),
    )
    return float(np.minimum(*shares).sum())


def _commonest(values: np.ndarray) -> float:
    """Share of the most frequent value."""
    return float(np.unique(values, return_counts=True)[1].max() / len(values)) if len(values) else np.nan
