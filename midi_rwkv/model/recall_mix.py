"""Mixes the votes of a song's cells (recall.py) with the model's probabilities: fitted weights, features, mixture."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from midi_rwkv.tokens.outline import OutlineVotes
from midi_rwkv.tokens.tokenizer import Kind

from .config import Config

LEAST = 1e-12  # a probability whose logarithm can be taken
GATE = (
    "bias",
    "like",
    "like2",
    "like6",
    "match",
    "share",
    "share_like",
    "agreeing",
    "restart",
    "surprise",
    "surprise2",
    "twin",
)
OUTLINE = ("likeness", "hits", "missing", "passed", "kept_up", "twin")
OUTLINE_GATE = (
    "bias",
    "like",
    "like2",
    "like6",
    "hits",
    "share",
    "share_like",
    "agreeing",
    "missing",
    "passed",
    "kept_up",
    "surprise",
    "surprise2",
    "twin",
    "position",
    "pitch",
    "velocity",
)


@dataclass(frozen=True)
class RecallWeights(Config):
    """A source's log weight: likeness x `likeness`, + `prefix` an id where it agrees from the cell's start (and `start`
    for that), `suffix` an id where it agrees only lately, `twin` where it is one. gate: the weights of GATE. outline: a
    source's log weight as an outline is OUTLINE times these; outline_gate: the weights of OUTLINE_GATE. longest_match:
    ids after which agreeing further adds nothing."""

    likeness: float
    prefix: float
    suffix: float
    start: float
    twin: float
    gate: tuple[float, ...]
    outline: tuple[float, ...]
    outline_gate: tuple[float, ...]
    longest_match: int = 8

    def __post_init__(self) -> None:
        for name, parts in (("gate", GATE), ("outline", OUTLINE), ("outline_gate", OUTLINE_GATE)):
            values = tuple(getattr(self, name))  # a list, from JSON
            object.__setattr__(self, name, values)
            if len(values) != len(parts):
                raise ValueError(f"recall needs {len(parts)} {name} weights ({', '.join(parts)}), got {len(values)}")


@dataclass
class Votes:
    """What the sources of a cell say now: the id each votes for, and how far it agrees with what is written: ids from
    the cell's start (at least 1, the start itself), or minus the ids it agrees with lately. All (sources,)."""

    ids: np.ndarray
    like: np.ndarray
    match: np.ndarray
    twin: np.ndarray  # bool


def mixture(  # noqa: PLR0913 -- as many things are mixed
    log_p: np.ndarray,
    votes: Votes,
    outlines: OutlineVotes,
    *,
    like: np.ndarray,
    twin: np.ndarray,
    weights: RecallWeights,
    strength: float,
) -> np.ndarray:
    """Log probabilities (vocabulary,) of the model's, `log_p`, and what the sources vote for, these taken `strength`
    times as seriously. like, twin: of all sources."""
    ids, share, gate = weigh(votes, log_p, weights)
    allowed, within, outline_gate = weigh_outlines(outlines, like, twin, log_p=log_p, weights=weights)
    opened, outline_opened = (strength * w for w in softmax_with_zero(gate, outline_gate))
    said = np.bincount(
        np.concatenate([ids, allowed]),
        np.concatenate([opened * share, outline_opened * within]),
        minlength=len(log_p),
    )
    left = max(LEAST, 1 - opened - outline_opened)
    mixed = log_p + np.float32(math.log(left))
    voted = np.flatnonzero(said)
    mixed[voted] = np.log(left * np.exp(log_p[voted]) + said[voted])
    return mixed


def softmax_with_zero(*gates: float) -> list[float]:
    """The share of each beside the model, whose logit is 0; -inf means no votes."""
    top = max(0.0, *gates)
    powers = [math.exp(g - top) for g in gates]
    total = sum(powers) + math.exp(-top)
    return [p / total for p in powers]


def weigh(votes: Votes, log_p: np.ndarray, weights: RecallWeights) -> tuple[np.ndarray, np.ndarray, float]:
    """The distinct ids voted for, each one's share of the votes, and the gate (-inf without votes). log_p: the model's
    (vocabulary,)."""
    if not len(votes.ids):
        return votes.ids, votes.like, -math.inf
    w = weights
    whole = votes.match > 0
    match = np.minimum(np.abs(votes.match), w.longest_match)
    power = w.likeness * votes.like + np.where(whole, w.prefix * match + w.start, w.suffix * match)
    power += w.twin * votes.twin
    power = np.exp(power - power.max())
    ids, slot = np.unique(votes.ids, return_inverse=True)
    share = np.bincount(slot, power) / power.sum()
    chosen = int(share.argmax())
    own = slot == chosen
    features = gate_features(
        float(votes.like[own].max()),
        int(match[own & whole].max(initial=0)),
        float(share[chosen]),
        agreeing=int(own.sum()),
        log_p=float(log_p[ids[chosen]]),
        twin=bool((own & votes.twin).any()),
    )
    return ids, share, float(np.dot(features, w.gate))


def weigh_outlines(
    votes: OutlineVotes, like: np.ndarray, twin: np.ndarray, *, log_p: np.ndarray, weights: RecallWeights
) -> tuple[np.ndarray, np.ndarray, float]:
    """The ids that sources allow (one may come several times), each one's share, and the gate (-inf without votes).
    like, twin: of all sources. log_p: the model's (vocabulary,)."""
    if not len(votes.source):
        return votes.source, np.zeros(0), -math.inf
    of_source = votes.columns(like, twin)
    power = of_source @ np.array(weights.outline)
    power = np.exp(power - power.max())
    choices, slot = np.unique(votes.choice, return_inverse=True)
    share = np.bincount(slot, power) / power.sum()
    chosen = int(share.argmax())
    sets = [votes.ids[choice] for choice in choices.tolist()]
    sizes = [len(ids) for ids in sets]
    allowed = np.concatenate(sets)
    p = np.exp(np.maximum(log_p[allowed], -600).astype(np.float64))
    of_set = np.add.reduceat(p, np.cumsum([0, *sizes[:-1]]))
    within = p * np.repeat(share / of_set, sizes)
    features = outline_gate_features(
        of_source[slot == chosen], float(share[chosen]), math.log(of_set[chosen]), votes.phase
    )
    return allowed, within, float(np.dot(features, weights.outline_gate))


def outline_gate_features(own: np.ndarray, share: float, log_p: float, phase: int | None) -> list[float]:
    """In the order of OUTLINE_GATE, of the best-voted set of ids. own: the columns of OUTLINE of its sources; share: of
    the votes; log_p: what the model gives it; phase: what was written last."""
    like, hits, _, _, kept_up, twin = own.max(0).tolist()
    _, _, missing, passed, _, _ = own.min(0).tolist()
    surprise = -max(log_p, -12.0)
    return [
        1.0,
        like,
        like**2,
        like**6,
        math.log1p(hits),
        share,
        share * like,
        math.log1p(len(own)),
        missing / 4,
        passed / 4,
        kept_up,
        surprise,
        surprise**2 / 10,
        twin,
        float(phase == Kind.POSITION),
        float(phase == Kind.PITCH),
        float(phase == Kind.VELOCITY),
    ]


def gate_features(like: float, match: int, share: float, *, agreeing: int, log_p: float, twin: bool) -> list[float]:
    """The features of the best-voted id, in the order of GATE.

    They are the similarity of its most similar source, its longest whole match, its share of the votes, the number of
    sources that vote for it, the model's log probability, and whether a twin is among the sources.
    """
    surprise = -max(log_p, -12.0)
    return [
        1.0,
        like,
        like**2,
        like**6,
        math.log1p(match),
        share,
        share * like,
        math.log1p(agreeing),
        float(match == 0),
        surprise,
        surprise**2 / 10,
        float(twin),
    ]
