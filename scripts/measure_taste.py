"""Measures whether a taste can be learned from choices: scripted listeners choose among candidates of real fills.

    python scripts/measure_taste.py write corpus/valid.zip data/styles/taste.jsonl --asks 160
    python scripts/measure_taste.py replay data/styles/taste.jsonl

`write` fills four bars of one track in as many songs with the model that ships, three candidates each, and writes what
describes each candidate. `replay` lets listeners with a known preference choose among them, the asks in many random
orders, and prints the tables of data/styles/taste.md. A listener likes a candidate by the features that are named, in
units of their usual difference, and keeps the best; one that errs adds noise (Gumbel, of one such unit).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from midi_rwkv import Ask, Infiller, load_checkpoint
from midi_rwkv.evaluation.candidates import candidate_features
from midi_rwkv.evaluation.cases import Songs, draw_cases
from midi_rwkv.style.choices import PLACE, Choice, read_choices, write_choices
from midi_rwkv.style.taste import FEWEST, Replay, guesses, judge_taste

CANDIDATES = 3
BARS = 4
ORDERS = 200
SPANS = ((5, 10), (10, 20), (20, 40), (40, 80), (80, 160))  # kept fills
KEPT = (20, 30, 40, 60, 80, 120, 160)


@dataclass(frozen=True)
class Listener:
    """What is liked, by feature, and how much noise there is."""

    name: str
    likes: Mapping[str, float]
    noise: float = 0.0


LISTENERS = (
    Listener("sparser", {"onsets beside nearby": -1}),
    Listener(
        "sparser, higher, less repeated",
        {"onsets beside nearby": -1, "pitch beside nearby": 1, "repeats beside nearby": -1},
    ),
    Listener(
        "the same, and errs",
        {"onsets beside nearby": -1, "pitch beside nearby": 1, "repeats beside nearby": -1},
        noise=1.0,
    ),
    Listener("busier, more chord tones", {"onsets beside nearby": 1, "chord_tones": 1}),
    Listener("as dense as the bars around", {"|onsets beside nearby|": -1}),
    Listener("as usual: the plain order", {PLACE: -1}),
    Listener("at random", {}, noise=1.0),
)


def write(corpus: Path, path: Path, asks: int) -> None:
    """Writes a record of `asks` asks, in which the first candidate stands for the kept one."""
    songs, checkpoint = Songs(corpus), load_checkpoint()
    infiller = Infiller(checkpoint)
    told = []
    for case in draw_cases(songs, asks, [BARS], settings=["song"]):
        score = case.given(songs.read(case.file))
        found = infiller(score, Ask(case.region, candidates=CANDIDATES, seed=case.seed))
        rows = candidate_features(score, case.region, [c.fills for c in found], checkpoint.vocabulary)
        told.append(Choice(case.id, {PLACE: list(range(CANDIDATES)), **rows}, kept=0))
        write_choices(path, told)


def liking(choices: Sequence[Choice], listener: Listener) -> np.ndarray:
    """(asks, candidates) how much a listener likes each candidate, without noise."""
    liked = np.zeros((len(choices), CANDIDATES))
    for name, weight in listener.likes.items():
        values = np.array([c.rows[name] for c in choices])
        known = ~np.isnan(values)
        mean = np.where(known, values, 0).sum(1, keepdims=True) / np.maximum(1, known.sum(1, keepdims=True))
        apart = np.where(known, values - mean, 0)
        liked += weight * apart / np.sqrt((apart**2).mean())
    return liked


def chosen(choices: Sequence[Choice], listener: Listener, rng: np.random.Generator) -> list[Choice]:
    """The asks in a random order, with what the listener keeps; of equals any."""
    liked = liking(choices, listener) + listener.noise * rng.gumbel(size=(len(choices), CANDIDATES))
    liked += 1e-6 * rng.random(liked.shape)
    return [replace(choices[i], kept=int(liked[i].argmax())) for i in rng.permutation(len(choices))]


def rows(choices: Sequence[Choice], seed: int = 0) -> Iterator[tuple[str, list[str], list[str]]]:
    """Of each listener: the shares of asks whose kept fill is shown first, and how often the taste is used."""
    for listener in LISTENERS:
        rng = np.random.default_rng(seed)
        runs = [guesses(chosen(choices, listener, rng)) for _ in range(ORDERS)]
        known = np.mean([_knowing(choices, listener, rng) for _ in range(ORDERS)])
        right = np.array([[(g.plain, g.taste) for g in run] for run in runs], float)  # the first kept fill has no guess
        every = range(FEWEST, len(choices) + 1)
        used = np.array([[Replay.of(run[: kept - 1]).helps for kept in every] for run in runs])
        spans = [right[:, lo - 1 : hi - 1].mean((0, 1)) for lo, hi in SPANS if hi <= len(choices)]
        shown = np.where(used[:, :-1], right[:, FEWEST - 1 :, 1], right[:, FEWEST - 1 :, 0]).mean()
        shares = [f"{used[:, kept - FEWEST].mean():.0%}" for kept in KEPT if kept <= len(choices)]
        told = [*(f"{plain:.2f} → {taste:.2f}" for plain, taste in spans), f"{known:.2f}", f"{shown:.2f}"]
        yield listener.name, told, [*shares, f"{used.any(1).mean():.1%}"]


def _knowing(choices: Sequence[Choice], listener: Listener, rng: np.random.Generator) -> float:
    """The share of asks whose kept fill would be shown first by who knows what is liked, but for noise and equals."""
    guess = chosen(choices, replace(listener, noise=0.0), rng)
    kept = {c.ask: c.kept for c in chosen(choices, listener, rng)}
    return float(np.mean([kept[c.ask] == c.kept for c in guess]))


def replay(choices: Sequence[Choice]) -> None:
    """Prints the tables."""
    shares, uses = [], []
    for name, share, use in rows(choices):
        shares.append(f"| {name} | {' | '.join(share)} |")
        uses.append(f"| {name} | {' | '.join(use)} |")
    spans = [f"{lo}-{hi}" for lo, hi in SPANS if hi <= len(choices)]
    print(f"| listener | {' | '.join(spans)} | at best | as used, from {FEWEST} |\n|---|{'---|' * (len(spans) + 2)}")
    print("\n".join(shares))
    kept = [str(k) for k in KEPT if k <= len(choices)]
    print(f"\n| listener | {' | '.join(kept)} | ever |\n|---|{'---|' * (len(kept) + 1)}")
    print("\n".join(uses))
    many = [replace(c, ask=f"{i}") for i in range(-(-1000 // len(choices))) for c in choices][:1000]
    began = time.perf_counter()
    judge_taste(many)
    print(f"\nlearning from and replaying {len(many)} kept fills: {time.perf_counter() - began:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    p = commands.add_parser("write", help="fill, and write what describes each candidate")
    p.add_argument("corpus", type=Path, help="a folder or zip of MIDI files")
    p.add_argument("record", type=Path, help="the .jsonl file to write")
    p.add_argument("--asks", type=int, default=160)
    p = commands.add_parser("replay", help="let listeners choose, and print tables")
    p.add_argument("record", type=Path)
    options = parser.parse_args()
    if options.command == "write":
        write(options.corpus, options.record, options.asks)
    else:
        replay(read_choices(options.record))


if __name__ == "__main__":
    main()
