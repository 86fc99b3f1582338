"""Small training runs, for the tests of this folder."""

import csv

import pytest
import torch

from midi_rwkv.model.checkpoint import load_checkpoint
from midi_rwkv.model.config import ModelConfig, TrainConfig
from midi_rwkv.training.parallel import Group
from midi_rwkv.training.trainer import Machine

CONFIG = TrainConfig(
    seq_len=256, batch_size=2, total_tokens=256 * 2 * 22, warmup_tokens=1000, lr=3e-3, eval_tokens=256 * 2 * 11,
    source_weights={"a": 1.0}, ema=0.5, bf16=False,
)  # fmt: skip
CPU = Machine(device="cpu")
MODEL = ModelConfig(n_layer=2, n_embd=64)
ONE = Group(0, 1, torch.device("cpu"))
TIMED = ("tokens_per_second", "waited")
TINY = ["--n-layer", "1", "--n-embd", "64", "--seq-len", "256", "--threads", "1", "--device", "cpu", "--float32"]


class StoppedError(Exception):
    """As if killed."""


def weights_of(run, name="checkpoint"):
    return load_checkpoint(run / name).weights


def curve_of(run):
    with (run / "curve.csv").open() as f:
        return [{k: v for k, v in row.items() if k not in TIMED} for row in csv.DictReader(f)]


def killed_after(trainer, steps, save_at):
    """Run, save at a step, and stop at a later one with nothing else saved."""
    train_step = trainer.train_step

    def some(*arguments):
        if trainer.step == save_at:
            trainer.save()
        if trainer.step == steps:
            raise StoppedError
        return train_step(*arguments)

    trainer.train_step = some
    with pytest.raises(StoppedError):
        trainer.run()
