"""A judge that knows no model: how well a classifier tells fills from the originals by features of their notes.

Gradient boosting, cross-validated with all fills of a song in one fold, so that it is never asked about a song that it
has seen. Its AUC is 0.5 where fills can't be told from originals, and 1 where they always can.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

FOLDS = 5
ROUNDS = 4  # of cross-validation, each with other folds; a verdict is the mean
RESAMPLES = 1000
SHUFFLES = 3  # of each feature in each fold
FEWEST_SONGS = 20
SHOWN = 12  # strongest features
Features = Mapping[str, float]


@dataclass(frozen=True)
class Pair:
    """Features of one case's fill and of its original, and the case's song."""

    song: str
    fill: Features
    original: Features


def can_judge(songs: Iterable[str]) -> bool:
    """Whether there are songs enough."""
    return len(set(songs)) >= FEWEST_SONGS


def judge(pairs: Sequence[Pair], seed: int = 0) -> dict[str, Any] | None:
    """The AUC, its 95 % interval by bootstrap over songs, and the features that tell most.

    A feature's `importance` is the AUC lost where its values are shuffled among the cases that are judged, `alone` the
    AUC of the feature by itself (above 0.5: higher in fills). None where there are too few songs.
    """
    songs = np.array([p.song for p in pairs])
    if not can_judge(songs.tolist()):
        return None
    names = sorted({name for p in pairs for of in (p.fill, p.original) for name in of})
    table = np.array([[of.get(n, np.nan) for n in names] for p in pairs for of in (p.fill, p.original)])  # in turns
    is_fill, song = np.tile([1, 0], len(pairs)), np.repeat(songs, 2)
    verdict, lost = _cross_validated(table, is_fill, song, seed)
    rng = np.random.default_rng(seed)
    rows = {s: np.flatnonzero(song == s) for s in sorted(set(songs.tolist()))}
    all_rows, sample = list(rows.values()), []
    for _ in range(RESAMPLES):
        drawn = np.concatenate([all_rows[i] for i in rng.integers(0, len(all_rows), len(all_rows))])
        sample.append(auc(is_fill[drawn], verdict[drawn]))
    low, high = np.quantile(sample, [0.025, 0.975])
    order = np.argsort(-lost)[:SHOWN]
    return {
        "auc": _digits(auc(is_fill, verdict)),
        "low": _digits(low),
        "high": _digits(high),
        "fills": len(pairs),
        "songs": len(rows),
        "features": [
            {
                "name": names[i],
                "importance": _digits(lost[i]),
                "alone": _alone(table[:, i], is_fill),
                "fills": _mean(table[::2, i]),
                "originals": _mean(table[1::2, i]),
            }
            for i in order
        ],
    }


def _cross_validated(
    table: np.ndarray, is_fill: np.ndarray, song: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The verdict on each row, (n,), by models that have not seen its song; and the AUC each feature's loss costs."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.model_selection import GroupKFold

    rng = np.random.default_rng(seed)
    verdict, lost = np.zeros(len(table)), np.zeros(table.shape[1])
    for number in range(ROUNDS):
        for train, test in GroupKFold(FOLDS, shuffle=True, random_state=seed + number).split(table, is_fill, song):
            model = HistGradientBoostingClassifier(
                max_iter=100,
                learning_rate=0.06,
                max_leaf_nodes=8,
                min_samples_leaf=10,
                l2_regularization=1.0,
                max_features=0.5,
                early_stopping=False,
                random_state=seed + number,
            )
            telling = [i for i in range(table.shape[1]) if _varies(table[train, i])]
            model.fit(table[np.ix_(train, telling)], is_fill[train])
            held_out = table[np.ix_(test, telling)]
            said = model.predict_proba(held_out)[:, 1]
            verdict[test] += said / ROUNDS
            shuffled = np.tile(held_out, (len(telling), SHUFFLES, 1, 1))
            for column in range(len(telling)):
                shuffled[column, ..., column] = rng.permuted(shuffled[column, ..., column], axis=1)
            guesses = model.predict_proba(shuffled.reshape(-1, len(telling)))[:, 1].reshape(-1, SHUFFLES, len(test))
            known = auc(is_fill[test], said)
            lost[telling] += [known - np.mean([auc(is_fill[test], g) for g in of]) for of in guesses]
    return verdict, lost / (ROUNDS * FOLDS)


def auc(is_fill: np.ndarray, verdict: np.ndarray) -> float:
    """The chance that a fill's verdict is above an original's, ties counting half. Both (n,)."""
    from scipy.stats import rankdata

    fills = int(is_fill.sum())
    above = rankdata(verdict)[is_fill == 1].sum() - fills * (fills + 1) / 2
    return float(above / (fills * (len(is_fill) - fills)))


def _varies(values: np.ndarray) -> bool:
    return len(np.unique(values[~np.isnan(values)])) > 1


def _alone(values: np.ndarray, is_fill: np.ndarray) -> float | None:
    there = ~np.isnan(values)
    if len(set(is_fill[there].tolist())) < 2:
        return None
    return _digits(auc(is_fill[there], values[there]))


def _mean(values: np.ndarray) -> float | None:
    return None if np.isnan(values).all() else _digits(np.nanmean(values))


def _digits(value: float) -> float:
    return round(float(value), 4)
