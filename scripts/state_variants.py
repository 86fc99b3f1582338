"""Two variants of state tuning, after "State Tuning: State-based Test-Time Scaling on RWKV-7" (arXiv 2504.05097).

They are for compare_styles.py (methods state-kernel, state-decorrelated) and not in the product unless they win;
see docs/personalize.md for the figures. The paper upscales the state carried through a sequence, of a model that
it then trains; here, where only what is learned for a style may change, its two ideas are applied to the tuned state.

- kernel: beside the K x V state, each head has an M x V state (M = 2 K) that is read through Gaussian kernel features
  of the receptance against M support vectors, phi_m(r) = exp(-|r - u_m|^2 / (2 s^2)), and stays as it is throughout the
  run. Support vectors are receptances met in the fills, s^2 their mean squared distance.
- decorrelated: the state is R^T S' with S' learned, and R follows the rule of decorrelated backpropagation,
  R <- R - eps (C - diag(C)) R with C the correlation of the decorrelated receptances of the run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from midi_rwkv.kernels.dispatch import wkv7
from midi_rwkv.model import packing as packing_module
from midi_rwkv.style.tuning import Fill, Tuning, fill_losses, fills_nats

DECORRELATION_RATE = 1e-2


@dataclass
class Receptances:
    """Stands in for the model's recurrence: hands each layer's receptances on, adds what is read from another state."""

    n_layer: int
    extra: Any = None  # (layer, r (B, T, H, K)) -> (B, T, H, V)
    seen: list[Tensor] = field(default_factory=list)
    watching: bool = False
    layer: int = 0

    def __call__(self, r: Tensor, *rest: Any, **options: Any) -> tuple[Tensor, Tensor]:
        y, final = wkv7(r, *rest, **options)
        if self.watching:
            self.seen.append(r.detach())
        if self.extra is not None:
            y = y + self.extra(self.layer, r)
        self.layer = (self.layer + 1) % self.n_layer
        return y, final


def make_variant(name: str, tuning: Tuning) -> Tuning:
    """`tuning` as its variant. ValueError for an unknown name."""
    kinds: dict[str, type[Tuning]] = {"kernel": KernelTuning, "decorrelated": DecorrelatedTuning}
    if name not in kinds:
        raise ValueError(f"the variant must be one of {', '.join(kinds)}, got {name!r}")
    given = (tuning.model, tuning.fills, tuning.held_out, tuning.folds, tuning.seed, tuning.steps, tuning.rates)
    return kinds[name](*given)


class KernelTuning(Tuning):
    """The state of a head is (K + M) x V: the first K rows as ever, the others behind the kernel features."""

    def __post_init__(self) -> None:
        c = self.model.config
        self.hook = Receptances(c.n_layer)
        packing_module.wkv7 = self.hook
        some = [self.fills[i] for i in np.random.default_rng(self.seed).permutation(len(self.fills))[:16]]
        seen = watch(self.model, self.hook, some)  # (L, N, H, K)
        chosen = torch.linspace(0, seen.shape[1] - 1, 2 * c.head_size).long()
        self.support = seen[:, chosen].transpose(1, 2)  # (L, H, M, K)
        self.width = (torch.cdist(self.support, self.support) ** 2).mean((2, 3))  # (L, H)
        super().__post_init__()
        shape = (c.n_layer, c.n_head, c.head_size + 2 * c.head_size, c.head_size)
        self.states = [[torch.zeros(shape, requires_grad=True) for _ in self.folds] for _ in self.rates]
        groups = [{"params": row, "lr": lr, "rate": lr} for row, lr in zip(self.states, self.rates, strict=True)]
        self.optimizer = torch.optim.Adam(groups, betas=(0.9, 0.98))
        self.best_states = [torch.zeros(shape) for _ in self.folds]

    def losses(self, fills: Sequence[Fill], added: Tensor) -> Tensor:
        with self.reading(added) as plain:
            return fill_losses(self.model, fills, plain)[0]

    def all_nats(self, fills: Sequence[Fill], added: Tensor) -> np.ndarray:
        with self.reading(added) as plain:
            return fills_nats(self.model, fills, plain)

    @contextmanager
    def reading(self, added: Tensor) -> Iterator[Tensor]:
        """While the further state is read; gives the plain one."""
        K = self.model.config.head_size

        def extra(layer: int, r: Tensor) -> Tensor:
            far = ((r.unsqueeze(3) - self.support[layer]) ** 2).sum(-1)  # (B, T, H, M)
            features = torch.exp(-far / (2 * self.width[layer].unsqueeze(-1)))
            return torch.einsum("bthm,hmv->bthv", features, added[layer, :, K:])

        self.hook.extra, self.hook.layer = extra, 0
        yield added[:, :, :K]
        self.hook.extra = None


class DecorrelatedTuning(Tuning):
    """The state is R^T S', R following the receptances."""

    def __post_init__(self) -> None:
        c = self.model.config
        self.hook = Receptances(c.n_layer)
        packing_module.wkv7 = self.hook
        self.R = torch.eye(c.head_size).repeat(c.n_layer, c.n_head, 1, 1)
        some = [self.fills[i] for i in np.random.default_rng(self.seed).permutation(len(self.fills))[:32]]
        seen = watch(self.model, self.hook, some)
        seen = seen / seen.pow(2).mean((1, 3), keepdim=True).sqrt()
        C = torch.einsum("lnhi,lnhj->lhij", seen, seen) / seen.shape[1]
        for _ in range(2000):  # to rest, rather than a little with every step: the receptances hardly change
            now = self.R @ C @ self.R.mT
            off = now - torch.diag_embed(torch.diagonal(now, dim1=2, dim2=3))
            self.R = self.R - DECORRELATION_RATE * off @ self.R
        super().__post_init__()

    def losses(self, fills: Sequence[Fill], added: Tensor) -> Tensor:
        return fill_losses(self.model, fills, self.R.mT @ added)[0]

    def all_nats(self, fills: Sequence[Fill], added: Tensor) -> np.ndarray:
        return fills_nats(self.model, fills, self.R.mT @ added)


def watch(model: Any, hook: Receptances, fills: Sequence[Fill]) -> Tensor:
    """Receptances at the fills' own ids, (L, N, H, K)."""
    found = []
    for fill in fills:
        hook.seen, hook.watching, hook.layer = [], True, 0
        fills_nats(model, [fill])
        hook.watching = False
        found.append(torch.stack([r[0] for r in hook.seen]))  # (L, T, H, K)
    return torch.cat(found, 1)
