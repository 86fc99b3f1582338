"""Small training runs, for the tests of this folder."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from midi_rwkv.model.checkpoint import load_checkpoint
from midi_rwkv.model.config import ModelConfig, TrainConfig
from midi_rwkv.training.beginning import Machine
from midi_rwkv.training.trainer import Trainer

CONFIG = TrainConfig(seq_len=256, warmup_steps=1000, eval_steps=11 * 256, lr=3e-3)
CPU = Machine(device="cpu")
MODEL = ModelConfig(n_layer=1, n_embd=64, vocab_size=1)
TINY = ["--n-layer", "1", "--n-embd", "64", "--seq-len", "256", "--device", "cpu", "--no-compile", "--processes", "1"]


class StoppedError(Exception):
    """As if killed."""


def weights_of(run: Path) -> dict[str, np.ndarray]:
    """Those of a run's checkpoint."""
    return load_checkpoint(run).weights


def state_of(run: Path) -> dict[str, Any]:
    """What a run goes on from."""
    state: dict[str, Any] = torch.load(run / "state.pt", weights_only=True)
    return state


def curve_of(run: Path) -> list[dict[str, str]]:
    """Its lines, but for the speed."""
    with (run / "curve.csv").open() as f:
        return [{k: v for k, v in row.items() if k != "tokens_per_second"} for row in csv.DictReader(f)]


def killed_after(trainer: Trainer, steps: int, save_at: int) -> None:
    """Runs, saves before a step of the optimizer, and stops before a later one with nothing else saved."""
    train_step = trainer.train_step

    def some() -> float:
        if trainer.step == save_at:
            trainer.save()
        if trainer.step == steps:
            raise StoppedError
        return train_step()

    trainer.train_step = some  # type: ignore[method-assign]
    with pytest.raises(StoppedError):
        trainer.run()


def same_weights(one: dict[str, Any], two: dict[str, Any], kinds: Sequence[str] = ("model", "average")) -> bool:
    """Whether two states hold the same weights, bit for bit."""
    return all(torch.equal(one[kind][k], two[kind][k]) for kind in kinds for k in one[kind])
