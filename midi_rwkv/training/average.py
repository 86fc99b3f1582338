"""The average of a run's weights. While the learning rate is held, they swing around better ones; their average over
about the last eighth of the run is near those, and costs no training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from midi_rwkv.model.steps import StepModel

SHARE = 8  # the window is a run's age by this


class RunAverage(AveragedModel):
    """`update_parameters(model)` after each step of the optimizer; `module` is the averaged model."""

    module: StepModel

    def __init__(self, model: StepModel):
        super().__init__(model, multi_avg_fn=_blend)


@torch.no_grad()
def _blend(average: Sequence[Tensor], weights: Sequence[Tensor], count: Tensor | int) -> None:
    torch._foreach_lerp_(list(average), list(weights), min(1.0, SHARE / (int(count) + 1)))
