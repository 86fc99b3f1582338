"""What a style is tuned on and measured on: fills of the pieces, drawn and read."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from midi_rwkv.errors import StyleError

from .pieces import Piece, memory_of_others
from .settings import draw_in_settings

if TYPE_CHECKING:
    from midi_rwkv.model.step_checkpoint import StepCheckpoint
    from midi_rwkv.model.steps import StepModel

    from .tuning import Check, Fill, Tuning

MOST_FOLDS = 5
PARTS = {1: 4, 2: 2}  # number of files -> parts into which each file's bars are divided
TUNE_FILLS, HELD_OUT_FILLS = 200, 80
CONTEXT = 1536  # at most this many steps of the model are read for a fill


@dataclass(frozen=True)
class PersonalizeProgress:
    """Progress: `part` is "reading" (`done` of `total` fills) or "tuning" (with a `check`)."""

    part: str
    done: int
    total: int
    seconds_left: float
    check: Check | None = None


def prepare(
    pieces: Sequence[Piece],
    checkpoint: StepCheckpoint,
    model: StepModel,
    *,
    seed: int = 0,
    on_progress: Callable[[PersonalizeProgress], None] = lambda _: None,
) -> Tuning:
    """Draws the fills in all settings, reads their contexts, and measures the base model on the held-out fills.

    A fill remembers the other pieces; those that are held out are also drawn without, which is what the base model has.
    """
    import torch

    from midi_rwkv.engine.make import MOST_THREADS, make_engine
    from midi_rwkv.engine.tables import StepTables

    from .tuning import LEARNING_RATES, STEPS, Tuning, read_fill

    parts = [_parts(len(p.score.bars), PARTS.get(len(pieces), 1)) for p in pieces]
    units = [(piece, part) for piece, own in zip(pieces, parts, strict=True) for part in own]
    vocabulary, budget = checkpoint.vocabulary, min(CONTEXT, checkpoint.context)
    tables = StepTables(checkpoint.weights, vocabulary.sizes)
    engine = make_engine(
        checkpoint.trunk, checkpoint.config.head_size, threads=min(MOST_THREADS, torch.get_num_threads())
    )
    memory = memory_of_others(units, vocabulary)
    began = time.monotonic()
    fills: list[Fill] = []
    held_out: list[Fill] = []
    plain: list[Fill] = []  # those that are held out, without a memory
    ways = ((fills, TUNE_FILLS, False, memory), (held_out, HELD_OUT_FILLS, True, memory))
    total = TUNE_FILLS + 2 * HELD_OUT_FILLS
    for into, count, held, remembered in (*ways, (plain, HELD_OUT_FILLS, True, None)):
        for setting, unit, sample in draw_in_settings(
            units, vocabulary, count=count, seed=seed, held_out=held, budget=budget, memory=remembered
        ):
            into.append(read_fill(engine, tables, vocabulary, sample, unit, setting=setting))
            done = len(fills) + len(held_out) + len(plain)
            on_progress(PersonalizeProgress("reading", done, total, (time.monotonic() - began) / done * (total - done)))
    able = sorted({f.unit for f in fills} & {f.unit for f in held_out})
    if len(able) < 2:
        raise StyleError("there is too little in the files to hold something out; give longer pieces, or more of them")
    folds = [able[k::MOST_FOLDS] for k in range(min(MOST_FOLDS, len(able)))]
    fills, held_out, plain = ([f for f in some if f.unit in able] for some in (fills, held_out, plain))
    return Tuning(model, fills, held_out, plain, folds, seed, STEPS, LEARNING_RATES)


def _parts(n_bars: int, count: int) -> list[tuple[int, int]]:
    """`count` consecutive runs of bars that together make up the piece."""
    edges = np.linspace(0, n_bars, min(count, max(1, n_bars // 2)) + 1).round().astype(int)
    return [(int(lo), int(hi)) for lo, hi in pairwise(edges)]
