"""How weights move: the learning rate's course, the optimizers, and the average of the weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_multi_avg_fn

from midi_rwkv.errors import RequestError
from midi_rwkv.model.config import TrainConfig

from .muon import Muon


def learning_rate(config: TrainConfig, tokens: int) -> float:
    """Warm-up, hold, linear decay to zero, as a function of the tokens seen."""
    warm = min(1.0, (tokens + 1) / config.warmup_tokens)
    left = (config.total_tokens - tokens) / (config.decay_fraction * config.total_tokens)
    return config.lr * min(warm, 1.0, max(0.0, left))


def make_optimizers(model: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Muon for the square-ish matrices inside the blocks, AdamW for the rest; or AdamW for all."""
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    matrices = [p for n, p in named if n.startswith("blocks.") and n.endswith(".weight") and p.ndim == 2]
    if config.optimizer == "adamw":
        muon: list[nn.Parameter] = []
    elif config.optimizer == "muon":
        muon = matrices
    else:
        raise RequestError(f"optimizer must be muon or adamw, got {config.optimizer}")
    taken = {id(p) for p in muon}
    rest = [(n, p) for n, p in named if id(p) not in taken]
    decayed = [p for n, p in rest if p.ndim == 2 and not n.endswith("r_k")]
    plain = [p for n, p in rest if p.ndim != 2 or n.endswith("r_k")]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=1e-10, fused=True)
    ]
    if muon:
        optimizers.append(Muon(muon, config.lr, config.weight_decay))
    return optimizers


class WeightAverage:
    """The average that `config.average` asks for: of all steps, exponentially, or plainly of the decay phase's."""

    def __init__(self, model: nn.Module, config: TrainConfig):
        self.config = config
        if config.average == "ema":
            self._model = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema))
        else:
            self._model = AveragedModel(model, multi_avg_fn=get_swa_multi_avg_fn())

    def update(self, model: nn.Module, tokens: int) -> None:
        """Take in the weights after a step; tokens: seen by then."""
        c = self.config
        if c.average == "ema" or tokens > (1 - c.decay_fraction) * c.total_tokens:
            self._model.update_parameters(model)

    @property
    def started(self) -> bool:
        """Whether any step has been taken in."""
        return int(self._model.n_averaged) > 0

    @property
    def model(self) -> Any:
        """A model with the averaged weights."""
        return self._model.module

    def state_dict(self) -> dict[str, Any]:
        return self._model.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._model.load_state_dict(state)
