"""The learning-rate schedule, the optimizers, and the average of the weights."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from midi_rwkv.model.config import TrainConfig

from .muon import Muon


def learning_rate(config: TrainConfig, tokens: int) -> float:
    """The learning rate after a number of tokens: warm-up, hold, and linear decay to zero."""
    warm = min(1.0, (tokens + 1) / config.warmup_tokens)
    left = (config.total_tokens - tokens) / (config.decay_fraction * config.total_tokens)
    return config.lr * min(warm, 1.0, max(0.0, left))


def make_optimizers(model: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Muon for the square-ish matrices inside the blocks, AdamW for the rest."""
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    matrices = [p for n, p in named if n.startswith("blocks.") and n.endswith(".weight") and p.ndim == 2]
    taken = {id(p) for p in matrices}
    rest = [(n, p) for n, p in named if id(p) not in taken]
    decayed = [p for n, p in rest if p.ndim == 2 and not n.endswith("r_k")]
    plain = [p for n, p in rest if p.ndim != 2 or n.endswith("r_k")]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [
        torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=1e-10, fused=True),
        Muon(matrices, config.lr, config.weight_decay),
    ]


def moving_average(model: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of the weights of all steps, in `.module`."""
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))  # type: ignore[no-untyped-call]
