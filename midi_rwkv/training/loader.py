"""Makes training rows ahead of time in worker processes, in order, and measures how long the trainer waits for them.

Row i depends only on (seed, i). A step reads `batch_size` rows, of which each process takes every `size`-th.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from midi_rwkv.errors import RequestError
from midi_rwkv.model.config import TrainConfig

from .dataset import CONTEXT, FILL, TrainingRows
from .parallel import Group

AHEAD = 4  # steps that each worker prepares in advance


class Batch(NamedTuple):
    """This process's rows of one step, (B, T + 1) each, and the total weight of their targets that carry music."""

    ids: Tensor
    roles: Tensor
    starts: Tensor
    targets: float


class _Steps(Dataset[Batch]):
    """`steps[first_row]` is the batch that begins with that row."""

    def __init__(self, rows: TrainingRows, batch_size: int, rank: int, size: int, context_weight: float):
        self.rows, self.batch_size, self.rank, self.size = rows, batch_size, rank, size
        self.context_weight = context_weight

    def __getitem__(self, first_row: int) -> Batch:
        mine = [self.rows[i] for i in range(first_row + self.rank, first_row + self.batch_size, self.size)]
        ids, roles, starts = (np.stack(x) for x in zip(*mine, strict=True))
        fill, context = (int((roles[:, 1:] == role).sum()) for role in (FILL, CONTEXT))
        targets = fill + self.context_weight * context
        return Batch(torch.from_numpy(ids), torch.from_numpy(roles), torch.from_numpy(starts), targets)


def _leave_signals_to_the_trainer(_: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


class Loader:
    """Yields batches; iterate over it once. `waited` is the time spent waiting for rows so far, in seconds."""

    def __init__(
        self,
        rows: TrainingRows,
        config: TrainConfig,
        group: Group,
        *,
        first_row: int,
        steps: int,
        workers: int = 0,
    ):
        """Prepares the workers.

        Args:
            steps: the number of batches.
            workers: processes that make rows; with 0 the trainer makes them itself.

        Raises:
            RequestError: a step has fewer rows than there are processes.
        """
        batch_size = config.batch_size
        if batch_size < group.size:
            raise RequestError(f"--batch-size {batch_size} gives {group.size} processes no row each; use {group.size}")
        self.waited = 0.0
        fork = "fork" in multiprocessing.get_all_start_methods()  # shares the shards' arrays instead of copying them
        self._batches: DataLoader[Batch] = DataLoader(
            _Steps(rows, batch_size, group.rank, group.size, config.context_weight),
            batch_size=None,
            sampler=range(first_row, first_row + steps * batch_size, batch_size),
            num_workers=workers,
            prefetch_factor=AHEAD if workers else None,
            pin_memory=group.device.type == "cuda",
            multiprocessing_context="fork" if workers and fork else None,
            worker_init_fn=_leave_signals_to_the_trainer,
        )

    def __iter__(self) -> Iterator[Batch]:
        batches = iter(self._batches)
        while True:
            began = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - began
            if batch is None:
                return
            yield batch
