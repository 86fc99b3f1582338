"""What a training run begins with: its machine, its shards, and the state or the checkpoint that it goes on from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from midi_rwkv.corpus.note_shards import load_vocabulary
from midi_rwkv.errors import CorpusError, RequestError
from midi_rwkv.model.checkpoint import load_checkpoint
from midi_rwkv.model.config import ModelConfig, TrainConfig
from midi_rwkv.model.step_checkpoint import StepCheckpoint, step_shapes
from midi_rwkv.tokens.attributes import Vocabulary

from .compiled import check_compiled
from .parallel import device_kind
from .run_files import read_state
from .source_weights import chosen_weights


@dataclass(frozen=True, kw_only=True)
class Machine:
    """How a machine executes the steps of a run. The weights do not depend on it, up to rounding.

    Attributes:
        device: "auto" or a torch device.
        compiled: train through torch.compile (compiled.py).
    """

    device: str = "auto"
    compiled: bool = False


THIS_MACHINE = Machine()


def open_shards(shards: Path, config: TrainConfig) -> Vocabulary:
    """The vocabulary of a folder of shards. Raises CorpusError where they are not all there."""
    vocabulary = load_vocabulary(shards)
    chosen_weights(shards, config.source_weights)
    if not (shards / "valid.npz").exists():
        raise CorpusError(f"{shards} has no valid.npz to measure on; build it with `midi-rwkv corpus --valid 0.05`")
    return vocabulary


def state_to_read(folder: Path, config: TrainConfig, origin: Path | None) -> Path | None:
    """The state that a run goes on from: its own, or for a new branch that of its origin; None where there is none."""
    own = folder / "state.pt"
    if own.exists():
        return own
    return origin / "state.pt" if origin is not None and config.decay_steps else None


def read_run(path: Path, model: ModelConfig, sizes: tuple[int, ...], device: torch.device) -> dict[str, Any]:
    """A state. Raises CheckpointError where it cannot be read, RequestError where it is another model's."""
    state = read_state(path, device)
    if state["model_config"] != model.to_dict() or tuple(state["sizes"]) != sizes:
        raise RequestError(
            f"{path} holds another model; name a new run folder, or the same --n-layer, --n-embd, --arch"
        )
    return state


def read_start(folder: Path, model: ModelConfig, sizes: tuple[int, ...]) -> StepCheckpoint:
    """The checkpoint that a run begins with. Raises RequestError where it is another model's."""
    checkpoint = load_checkpoint(folder)
    if step_shapes(checkpoint.config, checkpoint.vocabulary.sizes) != step_shapes(model, sizes):
        raise RequestError(f"{folder} holds another model; name the same --n-layer, --n-embd and --arch")
    return checkpoint


def check_run(
    shards: Path, folder: Path, model: ModelConfig, config: TrainConfig, *, machine: Machine, origin: Path | None
) -> None:
    """Raises what a Trainer of these would raise, before several processes are started that each have one."""
    sizes = open_shards(shards, config).sizes
    device_kind(machine.device)
    if machine.compiled:
        check_compiled(model.arch, machine.device)
    path = state_to_read(folder, config, origin)
    if path is not None:
        read_run(path, model, sizes, torch.device("cpu"))
    elif origin is not None:
        read_start(origin, model, sizes)
