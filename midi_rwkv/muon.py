"""Muon (Keller Jordan, 2024, https://kellerjordan.github.io/posts/muon/) for 2-D weights.

The same as PyTorch's own (2.9 and newer, `adjust_lr_fn="match_rms_adamw"`), but that its matrices need not be bf16: on
a processor without instructions for bf16, PyTorch's takes 20 s a step for a model of nine million parameters, this one
0.6 s.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


def has_fast_bf16(device: torch.device) -> bool:
    """Whether matrix products in bf16 are no slower than in float32 there."""
    if device.type != "cpu":
        return True
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, n, lambda: False)() for n in names)


def orthogonalized(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """Singular values brought near 1 by Newton-Schulz iterations, computed in `dtype`. matrix: (A, B)."""
    a, b, c = COEFFICIENTS
    x = matrix.to(dtype, copy=True)
    x = x.T if len(matrix) > matrix.shape[1] else x
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if len(matrix) > matrix.shape[1] else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalized; the step's size is 0.2 sqrt(max(A, B)) lr, as large as AdamW's. The state is
    interchangeable with PyTorch's Muon's."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.1, momentum: float = 0.95):
        super().__init__(list(params), {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step; a closure is not supported."""
        assert closure is None
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, group)

    def _update(self, p: Tensor, group: dict[str, Any]) -> None:
        assert p.grad is not None
        state = self.state[p]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(p.grad)
        buffer = state["momentum_buffer"].lerp_(p.grad, 1 - group["momentum"])
        dtype = torch.bfloat16 if has_fast_bf16(p.device) else torch.float32
        update = orthogonalized(p.grad.lerp(buffer, group["momentum"]), dtype)
        p.mul_(1 - group["lr"] * group["weight_decay"])
        p.add_(update, alpha=-group["lr"] * (0.2 * math.sqrt(max(p.shape))))
