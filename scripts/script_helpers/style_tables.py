"""The tables of scripts/compare_styles.py: nats a note against the base, by setting and style, with intervals.

An interval is over the fills, which are taken by the piece that they are from, because fills of one piece are alike. A
figure is a ratio of sums, of nats and of notes, and its variance is that of the ratio estimator's first order. Where a
method has several seeds, a fill's nats are their mean.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .tables import markdown

WHOLE_SONG = "whole song"


@dataclass(frozen=True)
class Gain:
    """A change in nats a note, and what each piece adds to its error."""

    mean: float
    by_piece: dict[str, float]

    @property
    def half(self) -> float:
        """Half the width of the 95 % interval; infinite with a single piece."""
        from scipy.stats import t

        n = len(self.by_piece)
        if n < 2:
            return float("inf")
        error = np.sqrt(n / (n - 1) * sum(x * x for x in self.by_piece.values()))
        return float(t.ppf(0.975, n - 1) * error)

    def __str__(self) -> str:
        return f"{self.mean:+.4f}" + (f" ± {self.half:.4f}" if np.isfinite(self.half) else "")


def mean_gain(gains: Sequence[Gain]) -> Gain:
    """Of settings or styles, each with the same weight."""
    together: dict[str, float] = {}
    for gain in gains:
        for piece, share in gain.by_piece.items():
            together[piece] = together.get(piece, 0.0) + share / len(gains)
    return Gain(float(np.mean([g.mean for g in gains])), together)


def read_results(out: Path) -> list[dict[str, Any]]:
    """The records of OUT/results.jsonl."""
    path = out / "results.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def per_note(record: dict[str, Any], setting: str | None = None) -> float:
    """Nats a note in a setting, or in all of them."""
    chosen = [k for k, s in enumerate(record["settings"]) if setting in (None, s)]
    return float(np.take(record["nats"], chosen).sum() / np.take(record["notes"], chosen).sum())


def gain(base: dict[str, Any], runs: Sequence[dict[str, Any]], setting: str) -> Gain:
    """Of a method's runs, one a seed, on the fills of one style in one setting."""
    own = np.array([s == setting for s in base["settings"]])
    notes = np.array(base["notes"])[own]
    change = np.mean([r["nats"] for r in runs], 0)[own] - np.array(base["nats"])[own]
    mean = change.sum() / notes.sum()
    shares = (change - mean * notes) / notes.sum()
    by_piece: dict[str, float] = {}
    for piece, share in zip(np.array(base["pieces"])[own].tolist(), shares.tolist(), strict=True):
        name = f"{base['style']}/{piece}"
        by_piece[name] = by_piece.get(name, 0.0) + share
    return Gain(float(mean), by_piece)


@dataclass(frozen=True)
class Results:
    """The records, and what they are asked."""

    records: list[dict[str, Any]]

    @property
    def base(self) -> dict[str, dict[str, Any]]:
        return {r["style"]: r for r in self.records if r["method"] == "base"}

    @property
    def settings(self) -> list[str]:
        return list(dict.fromkeys(s for r in self.base.values() for s in r["settings"]))

    @property
    def methods(self) -> list[str]:
        return list(dict.fromkeys(r["method"] for r in self.records if r["method"] != "base"))

    @property
    def counts(self) -> list[int]:
        return sorted({r["count"] for r in self.records if r["method"] != "base"})

    def gains(self, count: int, method: str, settings: Sequence[str]) -> dict[str, Gain]:
        """Of each style that the method was run on, the mean over some settings."""
        found = {}
        for style, base in self.base.items():
            runs = [r for r in self.records if (r["style"], r["count"], r["method"]) == (style, count, method)]
            if runs:
                found[style] = mean_gain([gain(base, runs, s) for s in settings])
        return found

    def table(self, count: int, settings: Sequence[str]) -> str:
        """Rows of methods, columns of styles."""
        styles = sorted(self.base)
        bases = [float(np.mean([per_note(self.base[s], x) for x in settings])) for s in styles]
        rows = [["base", *(f"{b:.4f}" for b in bases), f"{np.mean(bases):.4f}"]]
        for method in self.methods:
            gains = self.gains(count, method, settings)
            if gains:
                cells = [str(gains[s]) if s in gains else "" for s in styles]
                complete = str(mean_gain(list(gains.values()))) if len(gains) == len(styles) else ""
                rows.append([method, *cells, complete])
        return markdown(["method", *styles, "mean"], rows)

    def costs(self) -> str:
        """Of each method, with the fewest pieces."""
        rows = []
        for method in self.methods:
            runs = [r for r in self.records if r["method"] == method and r["count"] == self.counts[0]]
            if runs:
                seconds, steps = (np.median([r.get(k, 0) for r in runs]) for k in ("seconds", "steps"))
                rows.append([method, f"{runs[0].get('parameters', 0):,}", f"{seconds:.0f}", f"{steps:.0f}"])
        return markdown(["method", "parameters", "median seconds", "median steps"], rows)


def tables(out: Path) -> str:
    """Markdown: by number of pieces a table a setting, and the mean of all but the whole song; then the costs."""
    results = Results(read_results(out))
    lines = []
    little = [s for s in results.settings if s != WHOLE_SONG]
    for count in results.counts:
        for setting in results.settings:
            lines += [f"\n{count} pieces, {setting}\n", results.table(count, [setting])]
        if little:
            lines += [f"\n{count} pieces, mean of {', '.join(little)}\n", results.table(count, little)]
    return "\n".join([*lines, "", results.costs()]) + "\n"
