"""A listener's taste: a small linear model of what is kept, starred and thrown away, which orders later candidates.

The model is a logistic regression with L2 over pairs of candidates of the same ask, one liked more than the other: the
difference of their features, and of their places in the plain order (fill/ranking.py), says which.

It is used only where it is known to help. A replay goes through the kept fills in their order, and guesses each from
what came before it. The taste must show the kept candidate first more often than the plain order does. And what was
kept must have been more probable to it, by a factor of `EVIDENCE`, than to the best rule that knows places alone: the
chance of a candidate falls with each place, in the plain order or as shown, by whatever factor fits all the choices
best. A listener who follows such a rule, or keeps any candidate at random, is taken for one with a taste at most once
in `EVIDENCE`, however often that is looked at, which is after every fill (universal inference: Wasserman, Ramdas &
Balakrishnan 2020, doi 10.1073/pnas.1922664117).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil, log

import numpy as np

from .choices import PLACE, Choice, Rows

FEWEST = 20  # kept fills before the taste is used
EVIDENCE = 20
LATEST = 1000  # choices that are learned from
PENALTY = 1.0  # L2, per unit of a feature's usual difference within an ask
FARTHEST = 3.0  # such units that count
DOUBT = 0.05  # the share of each guess that is any candidate
FALLS = np.linspace(0, 6, 25)  # nats by which the chance of a candidate falls with each place
REFIT = 1.1  # the replay fits again when it knows this many times as much


@dataclass(frozen=True)
class Taste:
    """Weights by feature; what is added to a candidate's worth by a usual difference, and what difference is usual."""

    weights: Mapping[str, float]
    scales: Mapping[str, float]

    def order(self, rows: Rows) -> list[int]:
        """Indices of candidates, given in the plain order, as the listener would like to see them."""
        count = len(next(iter(rows.values()), ()))
        places = np.arange(count)
        return _best_first(self.worth(_centred({PLACE: places.tolist(), **rows}, tuple(self.weights), count)), places)

    def worth(self, table: np.ndarray) -> np.ndarray:
        """(n,) the worth of candidates with (n, features) differences from their ask's mean."""
        scales, weights = np.array(list(self.scales.values())), np.array(list(self.weights.values()))
        worth: np.ndarray = _scaled(table, scales) @ weights
        return worth


@dataclass(frozen=True)
class Guess:
    """Of a kept fill, from the choices before it."""

    taste: bool  # whether the taste would have shown it first
    plain: bool  # whether the plain order would have
    chance: float  # nats: the log of the probability that the taste gave it
    by_place: np.ndarray  # (2, FALLS) the same by its place in the plain order, and by the place where it was shown


@dataclass(frozen=True)
class Replay:
    """How often the kept candidate would have been shown first."""

    asks: int
    taste: int
    plain: int
    evidence: float  # nats by which the taste's guesses were more probable than the best by place

    @classmethod
    def of(cls, guesses: Sequence[Guess]) -> Replay:
        """From the guesses of some kept fills."""
        by_place = sum((g.by_place for g in guesses), np.zeros((2, len(FALLS))))
        evidence = sum(g.chance for g in guesses) - float(by_place.max())
        return cls(len(guesses), sum(g.taste for g in guesses), sum(g.plain for g in guesses), evidence)

    @property
    def helps(self) -> bool:
        """Whether the taste beat the plain order by more than chance."""
        return self.taste > self.plain and self.evidence >= log(EVIDENCE)


@dataclass(frozen=True)
class Verdict:
    """What is known of a listener, and the taste, if it is to be used."""

    kept: int
    starred: int
    thrown: int
    replay: Replay
    learned: Taste | None

    @property
    def helps(self) -> bool:
        """Whether enough is kept, and the taste beat the plain order by more than chance."""
        return self.kept >= FEWEST and self.replay.helps

    @property
    def taste(self) -> Taste | None:
        """The taste, where it is to be used."""
        return self.learned if self.helps else None

    @property
    def counts(self) -> str:
        """What is known of."""
        fills = "fill" if self.kept == 1 else "fills"
        return f"{self.kept} {fills} kept, {self.starred} starred, {self.thrown} thrown away"

    @property
    def why(self) -> str:
        """Whether the taste is used and why, in a sentence without its subject."""
        of = self.replay
        if self.kept < FEWEST:
            return f"not used yet: it is tried from {FEWEST} kept fills on, {FEWEST - self.kept} to go"
        told = f"of {of.asks} kept fills it would have shown {of.taste} first, the plain order {of.plain}"
        if self.helps:
            return f"used: {told}"
        return f"not used: {told}" + (", which may be chance" if of.taste > of.plain else "")


def guesses(choices: Sequence[Choice]) -> list[Guess]:
    """Of each kept fill, but where nothing is known before it."""
    return list(_Table(_telling(choices)).guesses())


def judge_taste(choices: Sequence[Choice]) -> Verdict:
    """Learns the taste, and finds out whether it helps."""
    recent = _telling(choices)
    table = _Table(recent)
    kept = sum(c.kept is not None for c in recent)
    starred, thrown = sum(len(c.starred) for c in recent), sum(len(c.thrown) for c in recent)
    learned = table.fit(len(recent)) if recent else None
    return Verdict(kept, starred, thrown, Replay.of(list(table.guesses())), learned)


def _telling(choices: Sequence[Choice]) -> list[Choice]:
    """The latest choices that prefer one candidate to another."""
    return [c for c in choices if len(set(c.levels)) > 1][-LATEST:]


class _Table:
    """Choices as arrays, of which any first few can be learned from."""

    def __init__(self, choices: Sequence[Choice]):
        self.names = tuple(dict.fromkeys(name for c in choices for name in c.rows))
        self.choices = choices
        self.tables = [_centred(c.rows, self.names, c.candidates) for c in choices]
        self.spreads = np.array([(t**2).mean(0) for t in self.tables]).reshape(len(choices), len(self.names))
        pairs, owners = [], []
        for i, (choice, table) in enumerate(zip(choices, self.tables, strict=True)):
            levels = choice.levels
            for a, b in product(range(choice.candidates), repeat=2):
                if levels[a] > levels[b]:
                    pairs.append(table[a] - table[b])
                    owners.append(i)
        self.pairs = np.array(pairs).reshape(len(pairs), len(self.names))
        self.owners = np.array(owners, np.int64)

    def fit(self, known: int) -> Taste:
        """The taste from the first choices."""
        scales = np.sqrt(self.spreads[:known].mean(0)) if known else np.zeros(len(self.names))
        own = self.owners < known
        owners = self.owners[own]
        weights = _logistic(_scaled(self.pairs[own], scales), 1 / np.bincount(owners)[owners])
        return Taste(
            dict(zip(self.names, weights.tolist(), strict=True)), dict(zip(self.names, scales.tolist(), strict=True))
        )

    def guesses(self) -> Iterator[Guess]:
        """Guesses each kept fill but the first from the choices before it."""
        taste, refit = Taste({}, {}), 1
        for known, (choice, table) in enumerate(zip(self.choices, self.tables, strict=True)):
            if choice.kept is None or not known:
                continue
            if known >= refit:
                taste, refit = self.fit(known), ceil(known * REFIT)
            kept, count, places = choice.kept, choice.candidates, np.array(choice.rows[PLACE])
            worth = taste.worth(table)
            chance = np.log((1 - DOUBT) * np.exp(_log_chances(worth)[kept]) + DOUBT / count)
            falling = -FALLS[:, None] * np.stack([places, np.arange(count)])[:, None]
            by_place = _log_chances(falling)[..., kept]
            yield Guess(_best_first(worth, places)[0] == kept, int(places.argmin()) == kept, float(chance), by_place)


def _log_chances(worth: np.ndarray) -> np.ndarray:
    """(..., n) nats of each of n candidates, by their worth."""
    worth = worth - worth.max(-1, keepdims=True)
    found: np.ndarray = worth - np.log(np.exp(worth).sum(-1, keepdims=True))
    return found


def _centred(rows: Rows, names: Sequence[str], count: int) -> np.ndarray:
    """(count, names) differences from the ask's mean; 0 where there is nothing to tell."""
    table = np.array([rows.get(name, [np.nan] * count) for name in names], float).reshape(len(names), count).T
    there = ~np.isnan(table)
    mean = np.where(there, table, 0).sum(0) / np.maximum(1, there.sum(0))
    return np.where(there, table - mean, 0)


def _scaled(differences: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Differences in units of what is usual, none beyond `FARTHEST`; 0 for a feature that never differs."""
    units: np.ndarray = np.divide(differences, scales, out=np.zeros_like(differences), where=scales > 0)
    return units.clip(-FARTHEST, FARTHEST)


def _best_first(worth: np.ndarray, places: np.ndarray) -> list[int]:
    """Indices by descending worth, those of equal worth by place; rounding noise decides nothing."""
    return [int(i) for i in np.lexsort((places, -np.round(worth, 9)))]


def _logistic(pairs: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Weights under which the first of each pair, (n, F) differences that count (n,), is the better one; by Newton."""
    weights = np.zeros(pairs.shape[1])
    for _ in range(25):
        wrong = (1 - np.tanh(pairs @ weights / 2)) / 2
        gradient = pairs.T @ (counts * wrong) - PENALTY * weights
        curve = (pairs.T * (counts * wrong * (1 - wrong))) @ pairs + PENALTY * np.eye(len(weights))
        step = np.linalg.solve(curve, gradient)
        weights += step
        if np.abs(step).max(initial=0) < 1e-9:
            break
    return weights
