"""A training run's curve as a picture: nats per note on the validation fills over tokens, by source and their mean.

    python scripts/plot_curve.py RUN/curve.csv OUT.png
    python scripts/plot_curve.py data/training/curve.csv docs/curve.png     # of the checkpoint that ships

A column `run`, where the file has one, parts the lines: runs that went on from one another but were measured on other
fills.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

Point = tuple[str, float, float, dict[str, float]]  # run, million tokens, mean, by source


def read_curve(path: Path) -> list[Point]:
    """Every evaluation of a `curve.csv`. ValueError where it has none."""
    with path.open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if r.get("kind") == "valid"]
    if not rows:
        raise ValueError(f"{path} has no evaluation yet; a run makes one every --eval-tokens tokens")
    return [
        (r.get("run") or "", int(r["tokens"]) / 1e6, float(r["loss"]), json.loads(r["by_source"] or "{}")) for r in rows
    ]


def draw(points: Sequence[Point]) -> Figure:
    """The mean of each run as a thick line, sources as thin ones."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.add_subplot()
    sources = sorted({s for p in points for s in p[3]})
    colours = dict(zip(sources, matplotlib.colormaps["tab20"].colors, strict=False))
    for run, group in groupby(points, key=lambda p: p[0]):
        mine = list(group)
        millions = [p[1] for p in mine]
        for source in sources:
            known = [(p[1], p[3][source]) for p in mine if source in p[3]]
            if known:
                axes.plot(*zip(*known, strict=True), color=colours.get(source, "grey"), linewidth=0.9)
        axes.plot(millions, [p[2] for p in mine], color="black", linewidth=2.2, marker=".")
        axes.annotate(run, (millions[0], mine[0][2]), textcoords="offset points", xytext=(4, 6), fontsize=8)
    for source in sources:
        axes.plot([], [], color=colours.get(source, "grey"), label=source)
    axes.plot([], [], color="black", linewidth=2.2, label="mean over sources")
    axes.set(xlabel="million tokens", ylabel="nats per note, validation fills", ylim=(0, None))
    axes.grid(alpha=0.25)
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("curve", type=Path, help="a run's curve.csv")
    parser.add_argument("out", type=Path, help="a .png or .svg")
    options = parser.parse_args()
    draw(read_curve(options.curve)).savefig(options.out, dpi=110)


if __name__ == "__main__":
    main()
