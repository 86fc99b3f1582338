"""`midi-rwkv recall`: fits how much a checkpoint takes from the song itself. Heavy imports are inside functions."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from midi_rwkv.errors import RequestError

from .terminal import say


def add_recall_command(commands: Any) -> None:
    """Adds the parser of the command."""
    p = commands.add_parser(
        "recall",
        help="fit a trained checkpoint's recall",
        description="Fit how a checkpoint mixes the song's own music into a fill, and measure it on validation songs. "
        "Writes CHECKPOINT/recall.json; a checkpoint without it fills as with --recall 0.",
    )
    p.set_defaults(run=run_recall)
    p.add_argument("shards", type=Path, help="a folder that `midi-rwkv corpus` wrote")
    p.add_argument("checkpoint", type=Path, help="a checkpoint folder, such as RUN/checkpoint")
    p.add_argument("--regions", type=int, default=24, metavar="N", help="regions per source (default: 24)")
    p.add_argument("--measure", action="store_true", help="only measure the existing recall.json")


def run_recall(options: argparse.Namespace) -> None:
    import torch

    from midi_rwkv.fill.fit_recall import fit_recall, measure_recall
    from midi_rwkv.model.checkpoint import load_token_checkpoint

    if options.regions < 1:
        raise RequestError(f"--regions must be 1 or more, got {options.regions}")
    if not (options.shards / "valid.npz").exists():
        raise RequestError(f"{options.shards} holds no token shards (no valid.npz); make them with `midi-rwkv corpus`")
    torch.set_num_threads(1)
    checkpoint = load_token_checkpoint(options.checkpoint)
    if options.measure and checkpoint.recall is None:
        raise RequestError(f"{options.checkpoint} has no recall yet; leave out --measure to fit it")
    weights = checkpoint.recall
    if weights is None or not options.measure:
        weights = fit_recall(options.shards, checkpoint, options.regions, say=say)
    found = measure_recall(options.shards, checkpoint, weights, options.regions, say=say)
    say("| source | model alone | with recall |\n|---|---:|---:|")
    for source, (alone, mixed) in found.items():
        say(f"| {source} | {alone:.3f} | {mixed:.3f} |")
    means = [sum(column) / len(found) for column in zip(*found.values(), strict=True)]
    say(f"| mean | {means[0]:.3f} | {means[1]:.3f} |")
