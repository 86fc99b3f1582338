"""Muon (Keller Jordan, 2024, https://kellerjordan.github.io/posts/muon/) for 2-D weights.

What differs from PyTorch's own (2.9 and newer, `adjust_lr_fn="match_rms_adamw"`):

- Its matrices need not be bf16: on a processor without instructions for bf16, PyTorch's takes 20 s a step for a model
  of nine million parameters, this one half a second.
- Four iterations instead of five. Each has the polynomial that is best for where the singular values are by then, as
  in the Polar Express (Amsel et al., 2025, https://arxiv.org/abs/2505.16932), and they start from a closer bound of
  the largest one: the square root of the Gram matrix's Frobenius norm instead of the matrix's own.
- In float32, long matrices are iterated on in their Gram matrix alone; bf16 is too coarse for that, and quick without.
- Several processes share the matrices out among them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

# Of x -> a x + b x^3 + c x^5, each with the least max |1 - p(x)| over what the one before leaves of 0.003-1.
POLYNOMIALS = (
    (8.3837, -24.7659, 18.3571),
    (4.0434, -3.0114, 0.5695),
    (3.5056, -2.6267, 0.5257),
    (2.4901, -1.8343, 0.4368),
)
GRAM_RATIO = 2  # of a matrix's sides, from which the Gram matrix alone is less work


def has_fast_bf16(device: torch.device) -> bool:
    """Whether matrix products in bfloat16 are at least as fast as in float32 on the device."""
    if device.type != "cpu":
        return True
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, n, lambda: False)() for n in names)


def orthogonalized(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """Brings the singular values of `matrices` (N, A, B) close to 1 by Newton-Schulz iterations in `dtype`."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.flatten(1).norm(dim=1)[:, None, None].clamp(min=1e-7)
    if dtype is not torch.float32:
        x = x.to(dtype)
    gram = x @ x.mT
    bound = gram.float().flatten(1).norm(dim=1)[:, None, None].clamp(min=1e-14)
    gram, x = (gram / bound).to(dtype), (x / bound.sqrt()).to(dtype)
    if dtype is torch.float32 and x.shape[2] >= GRAM_RATIO * x.shape[1]:
        x = _turned(gram) @ x
    else:
        for number, (a, b, c) in enumerate(POLYNOMIALS):
            gram = gram if number == 0 else x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def _turned(gram: Tensor) -> Tensor:
    """What the iterations multiply a matrix with, from its Gram matrix (N, A, A)."""
    identity = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    total = identity.expand_as(gram)
    for number, (a, b, c) in enumerate(POLYNOMIALS):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c) + a * identity
        total = factor if number == 0 else factor @ total
        if number + 1 < len(POLYNOMIALS):
            gram = factor @ gram @ factor
    return total


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalized; the step's size is 0.2 sqrt(max(A, B)) lr, as large as AdamW's.

    Matrices of one shape are worked on together.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float,
        weight_decay: float = 0.1,
        *,
        momentum: float = 0.95,
        rank: int = 0,
        size: int = 1,
    ):
        """rank, size: of the process among those that share the work; each must take the same steps."""
        super().__init__(list(params), {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self._rank, self._size = rank, size

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step; a closure is not supported."""
        assert closure is None
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    shapes.setdefault(p.shape, []).append(p)
            updates = [(alike, self._update(alike, group)) for alike in shapes.values()]
            for alike, update in updates:
                torch._foreach_mul_(alike, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(alike, list(update), alpha=-group["lr"] * (0.2 * math.sqrt(max(update.shape[1:]))))

    def _update(self, alike: list[Tensor], group: dict[str, Any]) -> Tensor:
        """The orthogonalized momentum of matrices (A, B) of one shape: (N, A, B)."""
        for p in alike:
            if "momentum_buffer" not in self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        gradients = [p.grad for p in alike if p.grad is not None]
        buffers = [self.state[p]["momentum_buffer"] for p in alike]
        torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
        share = -(-len(alike) // self._size)
        mine = slice(self._rank * share, (self._rank + 1) * share)
        dtype = torch.bfloat16 if has_fast_bf16(alike[0].device) else torch.float32
        out = alike[0].new_zeros(share, *alike[0].shape)
        if buffers[mine]:
            nesterov = torch.stack(gradients[mine]).lerp_(torch.stack(buffers[mine]), group["momentum"])
            out[: len(nesterov)] = orthogonalized(nesterov, dtype).float()
        if self._size == 1:
            return out
        gathered = out.new_empty(self._size * share, *alike[0].shape)
        dist.all_gather(list(gathered.chunk(self._size)), out)
        return gathered[: len(alike)]
