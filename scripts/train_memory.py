"""Trains what a model makes of its memory of other pieces, and nothing else of it.

    python scripts/train_memory.py SHARDS CHECKPOINT OUT --minutes 60

Only the rows of the tables and the gates that belong to columns MEMORY_* change, so without a memory the model is what
it was, bit for bit. Fills are drawn from the shards as in training, each with a memory, half of them in settings in
which little of the song is shown. What is read before the first cell is read by the decoding engine, so that only the
cells go through the differentiable form. OUT is written every five minutes and at the end; CHECKPOINT may be an
earlier OUT.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from midi_rwkv.engine.make import make_engine
from midi_rwkv.engine.tables import StepTables
from midi_rwkv.model.checkpoint import load_checkpoint
from midi_rwkv.model.step_checkpoint import save_step_checkpoint, step_model_of
from midi_rwkv.model.steps import StepModel
from midi_rwkv.style.settings import LITTLE_SHOWN, SETTINGS
from midi_rwkv.style.tuning import Fill, fill_losses, read_fill
from midi_rwkv.tokens.attributes import AT_PITCH, AT_PLACE, MEMORY_COLUMNS, Column, Role
from midi_rwkv.tokens.pointers import MEMORY_GATES
from midi_rwkv.training.rows import RowSampler, TrainingRows

BATCH = 24  # fills
CONTEXT = 1024
LONGEST = 240  # steps of the cells
LITTLE_SHARE = 0.5
WARMUP_STEPS = 20
SAVE_EVERY = 300  # seconds


def draw(shards: Path, checkpoint_path: Path, seed: int, fills: Any) -> None:
    """Puts fills into a queue, for ever."""
    torch.set_num_threads(1)
    checkpoint = load_checkpoint(checkpoint_path)
    vocabulary = checkpoint.vocabulary
    engine = make_engine(checkpoint.trunk, checkpoint.config.head_size, precision="auto")
    tables = StepTables(checkpoint.weights, vocabulary.sizes)
    rows = TrainingRows(shards, vocabulary, CONTEXT, seed=seed)
    usual = RowSampler(vocabulary, memory_share=1.0)
    settings = [RowSampler(vocabulary, memory_share=1.0, question=SETTINGS[name]) for name in LITTLE_SHOWN]
    rng = np.random.default_rng(seed)
    while True:
        rows.sampler = settings[int(rng.integers(len(settings)))] if rng.random() < LITTLE_SHARE else usual
        sample = rows.sample(rng, CONTEXT)
        if sample is None:
            continue
        answer = sample[:, Column.ROLE] == Role.ANSWER
        cells = sample[int(answer.argmax()) :]
        if len(cells) <= LONGEST and (cells[:, Column.MEMORY_NEXT] > 0).any():
            fills.put(read_fill(engine, tables, vocabulary, sample, 0))


def memory_rows(model: StepModel) -> dict[str, Tensor]:
    """By the names of the weights that have some, which of their rows belong to the memory, bool."""
    sizes, found = model.sizes, {}
    for name, columns in (
        ("tables.weight", list(Column)),
        ("heads.around.0.weight", AT_PLACE),
        ("heads.around.1.weight", AT_PITCH),
    ):
        own = np.concatenate([(np.arange(sizes[c]) > 0) & (c in MEMORY_COLUMNS) for c in columns])  # 0 is always added
        found[name] = torch.from_numpy(own)
    for stage, gates in enumerate(MEMORY_GATES):
        own = np.zeros(len(model.heads.marks.gates[stage].weight), bool)
        own[gates] = True
        found[f"heads.marks.gates.{stage}.weight"] = torch.from_numpy(own)
    parameters = dict(model.named_parameters())
    for name, rows in found.items():
        found[name] = torch.nn.functional.pad(rows, (0, len(parameters[name]) - len(rows)))
    return found


def batches(fills: Any) -> Iterator[list[Fill]]:
    """Of about the same length, so that little is padded."""
    while True:
        some = sorted((fills.get() for _ in range(4 * BATCH)), key=lambda f: len(f.steps))
        for k in np.random.default_rng(len(some[-1].steps)).permutation(4).tolist():
            yield some[k * BATCH : (k + 1) * BATCH]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shards", type=Path)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--jobs", type=int, default=2, help="processes that draw")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    checkpoint = load_checkpoint(options.checkpoint)
    model = step_model_of(checkpoint).requires_grad_(requires_grad=False)
    rows = memory_rows(model)
    weights = {name: p for name, p in model.named_parameters() if name in rows}
    for p in weights.values():
        p.requires_grad_(requires_grad=True)
    optimizer = torch.optim.Adam(weights.values(), lr=options.lr, betas=(0.9, 0.99))
    context = multiprocessing.get_context("spawn")
    queue = context.Queue(8 * BATCH)
    for seed in range(options.jobs):
        where = options.shards, options.checkpoint, 1000 + seed, queue
        context.Process(target=draw, args=where, daemon=True).start()

    def save() -> None:
        seen = {"steps_seen": checkpoint.training.get("steps_seen", 0)}
        save_step_checkpoint(
            options.out,
            checkpoint.config,
            model.state_dict(),
            checkpoint.vocabulary,
            context=checkpoint.context,
            training=seen,
        )

    began, saved, window = time.monotonic(), time.monotonic(), []
    for step, fills in enumerate(batches(queue), 1):
        left = 1 - (time.monotonic() - began) / (60 * options.minutes)
        if left <= 0:
            break
        optimizer.param_groups[0]["lr"] = options.lr * min(1.0, step / WARMUP_STEPS) * min(1.0, 3 * left)
        nats, _ = fill_losses(model, fills)
        (nats.sum() / sum(f.notes for f in fills)).backward()
        for name, p in weights.items():
            assert p.grad is not None
            p.grad[~rows[name]] = 0
        optimizer.step()
        optimizer.zero_grad()
        window.append((float(nats.sum()), sum(f.notes for f in fills)))
        if step % 20 == 0:
            total, notes = np.sum(window, 0)
            window.clear()
            print(f"step {step}: {total / notes:.4f} nats a note, {left * options.minutes:.1f} min left", flush=True)
        if time.monotonic() - saved > SAVE_EVERY:
            save()
            saved = time.monotonic()
    save()


if __name__ == "__main__":
    main()
