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
    """Whether matrix products in bfloat16 are at least as fast as in float32 on the device."""
    if device.type != "cpu":
        return True
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, n, lambda: False)() for n in names)


def orthogonalized(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """Brings the singular values of `matrices` (N, A, B) close to 1 by Newton-Schulz iterations in `dtype`."""
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.to(dtype)
    x = x.mT if tall else x
    x = x / x.flatten(1).norm(dim=1)[:, None, None].clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalized; the step's size is 0.2 sqrt(max(A, B)) lr, as large as AdamW's. The state is
    interchangeable with PyTorch's Muon's. Matrices of one shape are worked on together."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float, weight_decay: float = 0.1, momentum: float = 0.95):
        super().__init__(list(params), {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step; a closure is not supported."""
        assert closure is None
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    shapes.setdefault(p.shape, []).append(p)
            for alike in shapes.values():
                self._update(alike, group)

    def _update(self, alike: list[Tensor], group: dict[str, Any]) -> None:
        """A step of matrices (A, B) of one shape."""
        for p in alike:
            if "momentum_buffer" not in self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        gradients = [p.grad for p in alike if p.grad is not None]
        buffers = [self.state[p]["momentum_buffer"] for p in alike]
        torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
        nesterov = torch.stack(gradients).lerp_(torch.stack(buffers), group["momentum"])
        dtype = torch.bfloat16 if has_fast_bf16(nesterov.device) else torch.float32
        update = orthogonalized(nesterov, dtype).float()
        torch._foreach_mul_(alike, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(alike, list(update), alpha=-group["lr"] * (0.2 * math.sqrt(max(update.shape[1:]))))
