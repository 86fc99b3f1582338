"""Nats per note of a model on held-out fills, raw and on version 6's grid, alone and with the sources that it follows.

    python scripts/measure_nats.py CHECKPOINT|RUN/state.pt SHARDS [--per-source 24]

SHARDS holds note shards. The fills are the trainer's own (`training/valid.py`), 24 of each source: 312 of 13.
`evaluation/fold.py` says how a model is put on version 6's grid, so that it compares with that version's figures. All
sources have the same weight. Repeats are cells that stand, on that grid, also in a bar of their track that is shown.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from script_helpers.tables import markdown

from midi_rwkv.evaluation.fold import Fold
from midi_rwkv.evaluation.step_nats import CellsNats, StepNats, load_steps, load_valid, repeats
from midi_rwkv.files import whole_file
from midi_rwkv.training.valid import ATTRIBUTES, draw_places

KINDS = ("all", "repeats", "other")
SPLIT_HEAD = ["system", "cells", "notes", *ATTRIBUTES, "all"]
Rows = dict[str, dict[str, dict[str, np.ndarray]]]  # system -> kind of cell -> source -> nats (5,) and notes


def add(rows: Rows, system: str, source: str, cells: CellsNats, repeated: set[tuple[int, int]]) -> None:
    """Adds the cells of one fill."""
    for key, cell in cells.items():
        for kind in ("all", "repeats" if key in repeated else "other"):
            of = rows.setdefault(system, {}).setdefault(kind, {})
            of[source] = of.get(source, np.zeros(6)) + np.array([*cell.nats, cell.notes])


def per_note(by_source: dict[str, np.ndarray]) -> np.ndarray:
    """Mean over the sources that have notes, of each attribute and the sum: (6,)."""
    shares = np.array([x[:5] / x[5] for x in by_source.values() if x[5]])
    mean = shares.mean(0)
    return np.append(mean, mean.sum())


def tables(rows: Rows) -> tuple[list[list[Any]], list[list[Any]]]:
    """By kind of cell and attribute, and by source."""
    split = [
        [system, kind, int(sum(x[5] for x in of[kind].values())), *per_note(of[kind]).tolist()]
        for kind in KINDS
        for system, of in rows.items()
        if kind in of
    ]
    sources = sorted({s for of in rows.values() for s in of["all"]})
    by_source = [
        [s, *(float(of["all"][s][:5].sum() / of["all"][s][5]) if s in of["all"] else 0.0 for of in rows.values())]
        for s in sources
    ]
    return split, by_source


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("state", type=Path, help="a checkpoint folder, or the state.pt of a run")
    parser.add_argument("shards", type=Path, help="the folder of the note shards")
    parser.add_argument("--per-source", type=int, default=24, help="fills per source (default: 24)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="also write the figures here as JSON")
    args = parser.parse_args(arguments)

    torch.set_num_threads(args.threads)
    shard, vocabulary = load_valid(args.shards)
    model, seen = load_steps(args.state)
    fold = Fold(vocabulary)
    steps = StepNats(model, vocabulary, fold)
    rows: Rows = {}
    places = draw_places(shard, per_source=args.per_source)
    for number, place in enumerate(places, 1):
        song = shard[place.song]
        repeated = repeats(song, place, fold)
        for name, follow in (("alone", False), ("with sources", True)):
            raw, folded = steps.of(song, place, follow=follow)
            add(rows, f"steps {name}, raw", place.source, raw, repeated)
            add(rows, f"steps {name}, folded", place.source, folded, repeated)
        if number == len(places) or place.source != places[number].source:
            print(f"{place.source}: {number} of {len(places)} fills", file=sys.stderr, flush=True)
            if args.out:
                write(args.out, seen, rows)
    split, by_source = tables(rows)
    print(f"{args.state}: {seen:,} steps. Nats per note, mean over sources.\n")
    print(markdown(SPLIT_HEAD, split), "\n")
    print(markdown(["source", *rows], by_source))


def write(path: Path, seen: int, rows: Rows) -> None:
    """The figures so far."""
    split, by_source = tables(rows)
    record = {"steps_seen": seen, "split": [SPLIT_HEAD, *split], "by_source": [["source", *rows], *by_source]}
    with whole_file(path, overwrite=True) as partial:
        partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
