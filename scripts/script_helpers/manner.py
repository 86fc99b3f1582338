"""A composer's manner in a few bars: what notes are like by themselves, whatever stands around them.

Beside `evaluation/features.py`, which says how notes fit what stands around. Here are degrees of the key, melodic and
vertical intervals, note values, places in the beat and the bar, touch, timing, and the pieces of a drum kit. Each is
averaged over the tracks.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from midi_rwkv import Score
from midi_rwkv.evaluation.cases import Case
from midi_rwkv.evaluation.features import GRID, Part
from midi_rwkv.evaluation.metrics import key_of
from midi_rwkv.evaluation.music import Notes

VALUES = np.array([1 / 8, 1 / 6, 1 / 4, 1 / 3, 1 / 2, 2 / 3, 3 / 4, 1, 1.5, 2, 3, 4])  # quarters
VALUE_NAMES = [f"{v:.3g}" for v in VALUES]
STEPS = (-8, -6, -4, -2, -1, 0, 1, 2, 4, 6, 8)  # upper ends of classes of signed intervals, in semitones
SIXTEENTHS = 16  # places of drums in a bar
KIT = {
    "kick": (35, 36),
    "snare": (38, 40),
    "stick": (37, 39),
    "closed hat": (42, 22),
    "open hat": (46, 26),
    "foot hat": (44,),
    "ride": (51, 59),
    "bell": (53,),
    "crash": (49, 57, 52, 55),
    "toms": (41, 43, 45, 47, 48, 50, 58),
}
PLACED = ("kick", "snare", "closed hat", "ride")
GHOST = 50  # velocity below which a drum is a ghost note
Features = dict[str, float]


def manner(case: Case, given: Score, notes: Notes) -> Features:
    """Features of `notes` in a case's cells. given: the song without them."""
    tonic = _tonic(given, notes)
    rows = [_track(given, t, Part.of(given, t, notes[t]), case.n_bars, tonic) for t in case.tracks if len(notes[t])]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        names = dict.fromkeys(name for row in rows for name in row)
        return {f"manner: {n}": float(np.nanmean([row.get(n, np.nan) for row in rows])) for n in names}


def _tonic(given: Score, notes: Notes) -> tuple[int, bool]:
    """The tonic of everything there, and whether the key is major."""
    pitched = [n for t in given.tracks if not t.is_drum for n in t.notes]
    pitched += [n for t, own in notes.items() if not given.tracks[t].is_drum for n in own]
    if not pitched:
        return 0, True
    tonic, mode = key_of(np.array([n.pitch for n in pitched]), np.array([n.duration_ticks for n in pitched]))
    return tonic, mode == "major"


def _track(given: Score, track: int, part: Part, bars: int, key: tuple[int, bool]) -> Features:
    quarters = sum(_lengths(given, part, bars)) / given.ticks_per_beat
    of = _rhythm(part, bars, quarters) | _touch(part)
    if given.tracks[track].is_drum:
        return of | _drums(part, bars)
    return of | _pitches(part, key) | _texture(part, quarters)


def _lengths(given: Score, part: Part, bars: int) -> list[int]:
    first = int(part.bars.min())
    return [given.bar(b).end_ticks - given.bar(b).start_ticks for b in range(first, first + bars)]


def _shares(prefix: str, classes: np.ndarray, names: Sequence[str]) -> Features:
    """The share of each class: nan where there is nothing to class."""
    counts = np.bincount(classes, minlength=len(names)) / len(classes) if len(classes) else np.full(len(names), np.nan)
    return {f"{prefix} {name}": float(c) for name, c in zip(names, counts, strict=True)}


def _value_classes(quarters: np.ndarray) -> np.ndarray:
    """The nearest note value of each length, by ratio."""
    logs = np.log(np.maximum(quarters, 1 / 64))[:, None] - np.log(VALUES)
    classes: np.ndarray = np.abs(logs).argmin(1)
    return classes


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else np.nan


def _rhythm(part: Part, bars: int, quarters: float) -> Features:
    onsets = np.unique(np.rint(part.onsets * GRID) / GRID)
    gaps = np.diff(onsets)
    of = _shares("gap of", _value_classes(gaps), VALUE_NAMES)
    of |= _shares("duration of", _value_classes(part.durations), VALUE_NAMES)
    ratios = gaps[1:] / gaps[:-1]
    for name, ratio in (("evenly", 1), ("twice as long", 2), ("half as long", 0.5), ("dotted", 1 / 3)):
        of[f"gaps go on {name}"] = _mean(np.isclose(ratios, ratio, rtol=0.05))
    of |= _shares("in the beat at", part.positions % GRID, [str(k) for k in range(GRID)])
    beats = np.clip(part.positions // GRID, 0, 5)
    of |= _shares("in beat", beats, [str(k) for k in range(6)])
    of["bars with a downbeat"] = len(np.unique(part.bars[part.positions == 0])) / bars
    patterns = [frozenset(part.positions[part.bars == b].tolist()) for b in np.unique(part.bars)]
    of["different rhythms"] = len(set(patterns)) / len(patterns)
    of["different bars"] = len({part.keys(b) for b in np.unique(part.bars).tolist()}) / len(patterns)
    of["onsets a quarter"] = len(onsets) / quarters
    following = np.append(onsets[1:], np.nan)[
        np.searchsorted(onsets, part.onsets - 0.5 / GRID).clip(0, len(onsets) - 1)
    ]
    held = part.durations / (following - part.onsets)
    of["held of the gap"] = float(np.nanmedian(held)) if np.isfinite(held).any() else np.nan
    return of


def _late(part: Part) -> np.ndarray:
    """(n,) quarters that notes are behind the nearest position, of 24 a quarter."""
    units = part.onsets * 2 * GRID
    late: np.ndarray = (units - np.rint(units)) / (2 * GRID)
    return late


def _touch(part: Part) -> Features:
    late = _late(part)
    on_beat = part.positions % GRID == 0
    low, high = np.quantile(part.velocities, [0.1, 0.9])
    return {
        "velocity": float(part.velocities.mean()),
        "velocity spread": float(part.velocities.std()),
        "soft velocity": float(low),
        "loud velocity": float(high),
        "different velocities": len(np.unique(part.velocities)) / len(part),
        "accent on beats": _mean(part.velocities[on_beat]) - _mean(part.velocities[~on_beat]),
        "late": float(late.mean()),
        "timing spread": float(late.std()),
        "late off the beat": _mean(late[~on_beat]),
    }


def _classes(intervals: np.ndarray) -> np.ndarray:
    classes: np.ndarray = np.searchsorted(STEPS, intervals)
    return classes


def _line(name: str, onsets: np.ndarray, pitches: np.ndarray) -> Features:
    """Melodic intervals of one line of notes."""
    steps = np.diff(pitches)
    names = [f"up to {s:+d}" for s in STEPS] + ["above"]
    of = _shares(f"{name} moves", _classes(steps), names)
    moving = np.sign(steps[steps != 0])
    of[f"{name} turns"] = _mean(moving[1:] != moving[:-1])
    stepwise = np.abs(steps) <= 2
    of[f"{name} steps on"] = _mean(stepwise[1:] & stepwise[:-1] & (np.sign(steps[1:]) == np.sign(steps[:-1])))
    of[f"{name} turns back"] = _mean(steps[1:] == -steps[:-1])
    long = np.diff(onsets) >= 1
    of[f"{name} leaps after long notes"] = _mean(np.abs(steps[long]) > 2)
    of[f"{name} range"] = float(np.ptp(pitches))
    return of


def _pitches(part: Part, key: tuple[int, bool]) -> Features:
    tonic, major = key
    degrees = (part.pitches - tonic) % 12
    of = _shares("degree", degrees, [str(k) for k in range(12)])
    of["major"] = float(major)
    strong = degrees[part.positions == 0]
    for name, among in (("tonic", (0,)), ("third", (3, 4)), ("fifth", (7,)), ("leading note", (11,))):
        of[f"{name} on downbeats"] = _mean(np.isin(strong, among))
    of["mean pitch"], of["lowest"], of["highest"] = (float(f(part.pitches)) for f in (np.mean, np.min, np.max))
    at = np.rint(part.onsets * GRID)
    top = np.lexsort((-part.pitches, at))
    top = top[np.unique(at[top], return_index=True)[1]]
    of |= _line("top", part.onsets[top], part.pitches[top])
    bottom = np.lexsort((part.pitches, at))
    bottom = bottom[np.unique(at[bottom], return_index=True)[1]]
    return of | _line("bottom", part.onsets[bottom], part.pitches[bottom])


def _texture(part: Part, quarters: float) -> Features:
    """Chords: how many notes begin together, and how far above the lowest."""
    _, of_onset, sizes = np.unique(np.rint(part.onsets * GRID), return_inverse=True, return_counts=True)
    lowest = np.full(len(sizes), 128)
    np.minimum.at(lowest, of_onset, part.pitches)
    above = part.pitches - lowest[of_onset]
    chord = sizes[of_onset] > 1
    of = _shares("chord has", above[chord & (above > 0)] % 12, [str(k) for k in range(12)])
    of |= _shares("onset of", np.minimum(sizes, 5) - 1, [str(k) for k in range(1, 6)])
    of["chord spans"] = _mean(above[chord & (above > 0)])
    of["notes sounding"] = float(part.durations.sum() / quarters)
    return of


def _drums(part: Part, bars: int) -> Features:
    of: Features = {}
    late = _late(part)
    sixteenth = np.rint(part.positions / (GRID / 4)).astype(int)
    for name, pitches in KIT.items():
        own = np.isin(part.pitches, pitches)
        of[f"{name} share"] = float(own.mean())
        of[f"{name} velocity"] = _mean(part.velocities[own])
        of[f"{name} velocity spread"] = float(part.velocities[own].std()) if own.any() else np.nan
        of[f"{name} ghosts"] = _mean(part.velocities[own] < GHOST)
        of[f"{name} late"] = _mean(late[own])
        if name in PLACED:
            for place in range(SIXTEENTHS):
                of[f"{name} at {place}"] = len(np.unique(part.bars[own & (sixteenth == place)])) / bars
    return of
