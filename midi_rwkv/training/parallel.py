"""One process, or several that `torchrun` started: the rank, the device, and sums over all processes.

    torchrun --nproc-per-node 2 -m midi_rwkv train SHARDS RUN

torchrun sets RANK, WORLD_SIZE and LOCAL_RANK, the only environment variables that this module reads.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from midi_rwkv.errors import RequestError


@dataclass(frozen=True)
class Group:
    """A group of `size` processes, of which this is number `rank`, and this process's device."""

    rank: int
    size: int
    device: torch.device
    control: Any = None  # a gloo group for small sums on the CPU, which never waits for a GPU

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0

    def total(self, values: np.ndarray) -> np.ndarray:
        """The sum over the processes, in float64, the same in each."""
        if self.size == 1:
            return np.asarray(values, np.float64)
        tensor = torch.from_numpy(np.array(values, np.float64))
        dist.all_reduce(tensor, group=self.control)
        return tensor.numpy()

    def close(self) -> None:
        """Leaves the group, all processes at once: gloo aborts one that goes while another still needs it."""
        if self.size > 1:
            self.total(np.zeros(1))
            dist.destroy_process_group()


def device_kind(device: str) -> str:
    """torch's name for a device, which may be "auto". Raises RequestError for a GPU where there is none."""
    kind = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    if kind.startswith("cuda") and not torch.cuda.is_available():
        raise RequestError(f"--device {device}: there is no GPU that this torch ({torch.__version__}) can use; use cpu")
    return kind


def join(device: str = "auto") -> Group:
    """The group that this process belongs to. `device` is "auto" or a torch device ("cpu", "cuda").

    Raises:
        RequestError: the device does not exist.
    """
    kind = device_kind(device)
    rank, size, local = (int(os.environ.get(n, d)) for n, d in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0)))
    if size == 1:
        return Group(0, 1, torch.device(kind))
    if kind.startswith("cuda"):
        if local >= torch.cuda.device_count():
            raise RequestError(f"{local + 1} processes on {torch.cuda.device_count()} GPUs; lower --nproc-per-node")
        torch.cuda.set_device(local)
        dist.init_process_group("nccl")
        return Group(rank, size, torch.device("cuda", local), dist.new_group(backend="gloo"))
    dist.init_process_group("gloo")
    return Group(rank, size, torch.device("cpu"))
