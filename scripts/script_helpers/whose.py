"""A classifier that never saw the model: are these bars the composer's, told by features of their notes?

It learns from the composer's own tuning pieces against pieces of other people, in places cut as those that are filled
(style_places.py), one classifier a setting. Half of the others are of the composer's own source in the corpus, where
there are as many: other songs for voice and piano, other drummers. Each piece weighs the same, and so do both sides.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np

from midi_rwkv import MidiRwkvError, Score
from midi_rwkv.evaluation.cases import Songs
from midi_rwkv.evaluation.features import features
from midi_rwkv.evaluation.judge import auc
from midi_rwkv.evaluation.music import Notes, other_chords

from .manner import Features, manner
from .style_places import MOST_TRACKS, SETTINGS, Kind, Place, places

ALARMS = 0.1  # share of other people's bars that are taken for the composer's
OTHERS, TEST_OTHERS = 200, 40  # pieces to learn from, and to test on: of the composer's source and of others each
FROM = {"tune": 8, "test": 3}  # places of each of the composer's pieces in each setting
FROM_OTHERS = 1  # of each of other people's
AROUND = 16  # bars on either side that the features may look at
SOURCES = {
    "drummer8": "groove_drums",
    "giuliani": "mutopia",
    "gomolka": "polish_scores",
    "lang": "openscore_lieder",
    "openmsx": "games",
    "paderewski": "polish_scores",
}


@dataclass(frozen=True)
class Window:
    """Features of the notes that a piece has in a place. part: tune, test, others, near test or other test."""

    part: str
    file: str
    setting: str
    told: Features


def told(place: Place, notes: Notes) -> Features:
    """Features of notes in a place, beside at most `AROUND` bars on either side; of none where there are none."""
    if not any(notes.values()):
        return {}
    case, song = place.near(AROUND)
    shift = song.bar(case.first).start_ticks - place.song.bar(place.case.first).start_ticks
    moved = {t: [n._replace(onset_ticks=max(0, n.onset_ticks + shift)) for n in own] for t, own in notes.items()}
    return features(case, song, moved, {"chord_tones": other_chords(case, song)}) | manner(case, song, moved)


def windows(style: str, styles: Songs, valid: Songs) -> Iterator[Window]:
    """Everything that the classifiers of one style learn from and are tested on."""
    own = [name for name in styles.data if name.startswith(f"{style}/")]
    kind = Kind.of([styles.read(name) for name in own if "/tune/" in name])
    for name in own:
        part = name.split("/")[1]
        if len(styles.read(name).tracks) <= MOST_TRACKS:
            yield from _windows(part, name, styles.read(name), FROM[part])
    near, other = _by_source(style, valid)
    near_test = min(TEST_OTHERS, len(near) // 3)  # a source may be small
    yield from _others("near test", near[:near_test], valid, kind, TEST_OTHERS)
    learned = list(_others("others", near[near_test:], valid, kind, OTHERS // 2))
    yield from learned
    tested = list(_others("other test", other, valid, kind, min(TEST_OTHERS, len(other) // 3)))
    yield from tested
    left = [name for name in other if name not in {w.file for w in tested}]
    yield from _others("others", left, valid, kind, OTHERS - len({w.file for w in learned}))


def _windows(part: str, name: str, score: Score, count: int) -> Iterator[Window]:
    for setting in SETTINGS:
        for place in places(score, name, setting, count):
            yield Window(part, name, setting, told(place, place.own))


def _by_source(style: str, valid: Songs) -> tuple[list[str], list[str]]:
    """The validation pieces of the style's own source, and the others, whose sources take turns; both shuffled."""
    rng = np.random.default_rng(zlib.crc32(style.encode()))
    by: dict[str, list[str]] = {}
    for name in valid.data:
        by.setdefault(name.split("/")[0], []).append(name)
    shuffled = {source: [names[i] for i in rng.permutation(len(names))] for source, names in sorted(by.items())}
    near = shuffled.pop(SOURCES.get(style, ""), [])
    turns = zip_longest(*shuffled.values())
    return near, [name for turn in turns for name in turn if name]


def _others(part: str, names: Sequence[str], valid: Songs, kind: Kind, count: int) -> Iterator[Window]:
    """Windows of the first `count` pieces that have any."""
    used = 0
    for name in names:
        if used == count:
            return
        try:
            score = kind.reduced(valid.read(name), np.random.default_rng(zlib.crc32(name.encode())))
        except MidiRwkvError:
            continue
        found = list(_windows(part, name, score, FROM_OTHERS)) if score else []
        used += bool(found)
        yield from found


class Judge:
    """A style's classifier for one setting."""

    def __init__(self, learned: Sequence[Window], seed: int = 0):
        """learned: windows of one setting, of the parts tune and others."""
        self.names = sorted({name for w in learned for name in w.told})
        table = self._table([w.told for w in learned])
        self.usual = np.array([np.median(c[~np.isnan(c)]) if (~np.isnan(c)).any() else 0.0 for c in table.T])
        his = np.array([w.part == "tune" for w in learned])
        files = np.array([w.file for w in learned])
        self.models = _fitted(self._filled(table), his, files, seed)

    def scores(self, rows: Sequence[Features]) -> np.ndarray:
        """(n,) log odds that notes are the composer's, -7 to 7; nan where there are no notes."""
        empty = np.array([not row for row in rows], bool)
        if not len(rows):
            return np.zeros(0)
        return np.where(empty, np.nan, _log_odds(self.models, self._filled(self._table(rows))))

    def _table(self, rows: Sequence[Features]) -> np.ndarray:
        return np.array([[row.get(name, np.nan) for name in self.names] for row in rows], float)

    def _filled(self, table: np.ndarray) -> np.ndarray:
        """With the usual value where there is none, so that a missing one tells nothing."""
        return np.where(np.isnan(table), self.usual, table)


def _fitted(table: np.ndarray, his: np.ndarray, files: np.ndarray, seed: int) -> list[Any]:
    """Gradient boosting, as the judge has (evaluation/judge.py), a forest of random trees, and a regression on ranks.
    With so few pieces the mean of the three is better than boosting alone."""
    from sklearn.ensemble import ExtraTreesClassifier, HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import QuantileTransformer

    _, of, counts = np.unique(files, return_inverse=True, return_counts=True)
    weights = 1 / counts[of]
    for side in (his, ~his):
        weights[side] *= len(his) / 2 / weights[side].sum()
    boosting = HistGradientBoostingClassifier(
        max_iter=200,
        learning_rate=0.05,
        max_leaf_nodes=4,
        min_samples_leaf=10,
        l2_regularization=5.0,
        max_features=0.3,
        early_stopping=False,
        random_state=seed,
    )
    ranks = QuantileTransformer(output_distribution="normal", n_quantiles=min(100, len(his)), random_state=seed)
    regression = make_pipeline(ranks, LogisticRegression(C=0.02, max_iter=500))
    forest = ExtraTreesClassifier(300, min_samples_leaf=2, max_features=0.15, random_state=seed)
    return [
        boosting.fit(table, his, sample_weight=weights),
        forest.fit(table, his, sample_weight=weights),
        regression.fit(table, his, logisticregression__sample_weight=weights),
    ]


def _log_odds(models: Sequence[Any], table: np.ndarray) -> np.ndarray:
    chances = [np.clip(m.predict_proba(table)[:, 1], 1e-3, 1 - 1e-3) for m in models]
    odds: np.ndarray = np.mean([np.log(p / (1 - p)) for p in chances], 0)
    return odds


@dataclass(frozen=True)
class Quality:
    """How well a classifier tells unseen pieces of the composer from unseen pieces of others.

    Attributes:
        near, other: AUC over places, against pieces of the composer's source and of other sources; nan: there are none.
        limit: the log odds above which notes are said to be the composer's: `ALARMS` of the others' places are.
        his: the share of his own places that is.
    """

    near: float
    other: float
    limit: float
    his: float


def quality(judge: Judge, tested: Sequence[Window]) -> Quality:
    """On windows of one setting, of the parts test, near test and other test."""
    his, near, other = (
        judge.scores([w.told for w in tested if w.part == p]) for p in ("test", "near test", "other test")
    )

    def against(others: np.ndarray) -> float:
        both = np.concatenate([his, others])
        return auc(np.arange(len(both)) < len(his), both) if len(others) else float("nan")

    limit = float(np.quantile(np.concatenate([near, other]), 1 - ALARMS))
    return Quality(against(near), against(other), limit, float((his > limit).mean()))
