"""What fills with and without a style come to: whose they are said to be, and what they quote, as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from midi_rwkv import Score
from midi_rwkv.evaluation.music import Notes
from midi_rwkv.fill.fingerprint import RUN, Fingerprint, make_fingerprint
from midi_rwkv.fill.quotes import SharedRun, longest_run
from midi_rwkv.tokens.attributes import make_vocabulary
from midi_rwkv.tokens.notes import encode

from .style_places import SETTINGS, Place
from .tables import markdown
from .whose import Judge, Quality, Window, quality, told

OWN = "own"
VARIANTS: tuple[float | str, ...] = (OWN, 0.0, 0.5, 1.0)  # the composer's own bars, and the strengths
HEADS = ("own bars", "no style", "strength 0.5", "strength 1")
RESAMPLES = 2000
VOCABULARY = make_vocabulary()


@dataclass(frozen=True)
class Measured:
    """What a style's fills in one setting came to.

    Attributes:
        songs: (n,) the piece of each place.
        scores: by variant, (n,) log odds of the fills; nan where a fill is empty or missing.
        quotes: by variant, of each place that has a fill, the longest run from the tuning pieces.
    """

    style: str
    setting: str
    songs: np.ndarray
    scores: Mapping[float | str, np.ndarray]
    quotes: Mapping[float | str, Sequence[SharedRun]]
    quality: Quality


def measure(
    style: str,
    tune: Sequence[Score],
    windows: Sequence[Window],
    found: Mapping[str, Sequence[Place]],
    fills: Mapping[tuple[str, int, float | str], Notes],
) -> Iterator[Measured]:
    """One style in each setting.

    Args:
        tune: the pieces that may be quoted.
        found: the places by setting.
        fills: by setting, number of the place and strength.
    """
    fingerprint = make_fingerprint(encode(VOCABULARY, score) for score in tune)
    for setting, places in found.items():
        own = [w for w in windows if w.setting == setting]
        judge = Judge([w for w in own if w.part in ("tune", "others")])
        scores: dict[float | str, np.ndarray] = {}
        quotes: dict[float | str, list[SharedRun]] = {}
        for variant in VARIANTS:
            notes = [p.own if variant == OWN else fills.get((setting, k, variant)) for k, p in enumerate(places)]
            there = [(p, n) for p, n in zip(places, notes, strict=True) if n is not None]
            if there:
                scores[variant] = judge.scores([told(p, n or {}) for p, n in zip(places, notes, strict=True)])
                quotes[variant] = [_quote(fingerprint, p, n) for p, n in there]
        songs = np.array([p.case.file for p in places])
        tested = quality(judge, [w for w in own if w.part not in ("tune", "others")])
        yield Measured(style, setting, songs, scores, quotes, tested)


def _quote(fingerprint: Fingerprint, place: Place, notes: Notes) -> SharedRun:
    """The longest runs of the fill that the tuning pieces have, over its tracks."""
    song = encode(VOCABULARY, place.given.with_fill(place.case.region, notes))
    runs = longest_run(fingerprint, song, {cell: np.zeros((0, 5), np.int16) for cell in place.case.region.cells})
    return SharedRun(max(r.around for r in runs.values()), max(r.alone for r in runs.values()))


def report(measured: Sequence[Measured]) -> str:
    """All tables."""
    parts = ["## How well the classifier tells unseen pieces apart", _qualities(measured)]
    for setting in SETTINGS:
        own = [m for m in measured if m.setting == setting]
        parts += [f"## Whose is it? {setting.capitalize()}", _whose(own)] if own else []
    return "\n\n".join([*parts, f"## Quotes of {RUN} notes and more from the tuning pieces", _quotes(measured)]) + "\n"


def _qualities(measured: Sequence[Measured]) -> str:
    rows = [[m.style, m.setting, m.quality.near, m.quality.other, _percent(m.quality.his)] for m in measured]
    for setting in dict.fromkeys(m.setting for m in measured):
        own = [m.quality for m in measured if m.setting == setting]
        near, other, his = (_mean([getattr(q, name) for q in own]) for name in ("near", "other", "his"))
        rows.append(["mean", setting, near, other, _percent(his)])
    return markdown(["style", "setting", "AUC, own source", "AUC, other sources", "his said to be his"], rows)


def _mean(values: Sequence[float] | np.ndarray) -> float:
    """Of those that are known; nan if none is."""
    known = np.asarray(values)[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _whose(measured: Sequence[Measured]) -> str:
    """Shares said to be the composer's, with the mean log odds in brackets; and differences with 95 % intervals."""
    rows = [[m.style, len(m.songs), *_cells([m])] for m in measured]
    if len(measured) > 1:
        rows.append(["mean", sum(len(m.songs) for m in measured), *_cells(measured)])
    head = ["style", "places", *HEADS, "own less no style, log odds", "strength 1 less 0, points", "the same, log odds"]
    return markdown(head, rows)


def _cells(measured: Sequence[Measured]) -> list[str]:
    cells = []
    for variant in VARIANTS:
        if any(variant not in m.scores for m in measured):
            cells.append("")
            continue
        shares = [(m.scores[variant] > m.quality.limit).mean() for m in measured]
        odds = [_mean(m.scores[variant]) for m in measured]
        cells.append(f"{_percent(float(np.mean(shares)))} ({np.mean(odds):+.2f})")
    for a, b, points in ((OWN, 0.0, False), (1.0, 0.0, True), (1.0, 0.0, False)):
        if any(v not in m.scores for v in (a, b) for m in measured):
            cells.append("")
            continue
        values = [_difference(m, a, b, points=points) for m in measured]
        low, high = _interval(values, [m.songs for m in measured])
        mean, digits = np.mean([_mean(v) for v in values]), 0 if points else 2
        cells.append(f"{mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]")
    return cells


def _difference(m: Measured, a: float | str, b: float | str, *, points: bool) -> np.ndarray:
    """(n,) of each place: in percentage points, or in log odds."""
    if points:
        said = [(m.scores[v] > m.quality.limit).astype(np.float64) for v in (a, b)]
        return 100 * (said[0] - said[1])
    difference: np.ndarray = m.scores[a] - m.scores[b]
    return difference


def _interval(values: Sequence[np.ndarray], songs: Sequence[np.ndarray]) -> tuple[float, float]:
    """95 % of the mean over styles, by bootstrap over the pieces of each. values: (n,) of each style."""
    rng, means = np.random.default_rng(0), np.zeros(RESAMPLES)
    for own, of in zip(values, songs, strict=True):
        _, piece = np.unique(of, return_inverse=True)
        known = ~np.isnan(own)
        sums = np.bincount(piece[known], own[known], minlength=piece.max() + 1)
        counts = np.bincount(piece[known], minlength=len(sums))
        drawn = rng.integers(0, len(sums), (RESAMPLES, len(sums)))
        means += sums[drawn].sum(1) / np.maximum(1, counts[drawn].sum(1)) / len(values)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def _quotes(measured: Sequence[Measured]) -> str:
    """Shares of fills with a run of new notes; in brackets, of new notes together with those around."""
    rows: list[list[Any]] = []
    for title, chosen in _groups(measured):
        cells = []
        for variant in VARIANTS:
            found = [q for m in chosen for q in m.quotes.get(variant, ())]
            alone, around = ([getattr(q, name) >= RUN for q in found] for name in ("alone", "around"))
            cells.append(f"{_percent(float(np.mean(alone)))} ({_percent(float(np.mean(around)))})" if found else "")
        rows.append([title, sum(len(m.songs) for m in chosen), *cells])
    return markdown(["fills", "places", *HEADS], rows)


def _groups(measured: Sequence[Measured]) -> Iterator[tuple[str, list[Measured]]]:
    """By style, by setting, and all."""
    for style in dict.fromkeys(m.style for m in measured):
        yield style, [m for m in measured if m.style == style]
    for setting in dict.fromkeys(m.setting for m in measured):
        yield f"all styles, {setting}", [m for m in measured if m.setting == setting]
    yield "all", list(measured)
