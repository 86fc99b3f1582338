"""How many processes a machine trains with, and starting them."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from midi_rwkv.model.config import ModelConfig, TrainConfig

BASE_MEMORY = 600 << 20  # bytes of a process without activations
VALUES = 90  # numbers kept for the backward pass, for each step, layer and channel


def processes_here(model: ModelConfig, config: TrainConfig, device: str) -> int:
    """One for each physical core, as many as memory allows; one on a GPU, or where torchrun started this process."""
    from joblib import cpu_count

    if "RANK" in os.environ or not on_cpu(device):
        return 1
    fit = _available_memory() // memory_of(model, config)
    return max(1, min(int(cpu_count(only_physical_cores=True)), fit))


def on_cpu(device: str) -> bool:
    """Whether a device, "auto" or torch's name for it, is the CPU here."""
    import torch

    return device == "cpu" or (device == "auto" and not torch.cuda.is_available())


def memory_of(model: ModelConfig, config: TrainConfig) -> int:
    """Bytes that a process needs, roughly, from measurements of 8 x 256 and 4 x 384."""
    return BASE_MEMORY + 4 * VALUES * config.rows * config.seq_len * model.n_layer * model.n_embd


def _available_memory() -> int:
    """Bytes, without what other programs use."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) << 10
    except (OSError, StopIteration):
        return sys.maxsize


def launch(processes: int, arguments: Sequence[str]) -> None:
    """`midi-rwkv train` with these arguments in so many processes, by torchrun. They have said themselves why they
    stopped, where SystemExit is raised."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    # Behind "--", since torchrun would take an option such as --start for the beginning of one of its own.
    command = ["-m", "--", "midi_rwkv", "train", *arguments, "--processes", "1"]
    try:
        torchrun(["--standalone", f"--nproc-per-node={processes}", *command])
    except SignalException:
        raise SystemExit(130) from None
    except ChildFailedError as failed:
        raise SystemExit(max(1, failed.get_first_failure()[1].exitcode)) from None
