"""Losses: nats of the tokens that carry music, for training, validation and tuning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from midi_rwkv.model.rwkv7 import RWKV7, ModelState

from .dataset import CONTEXT, FILL, NOT_MUSIC


class LanguageModel(Protocol):
    """An RWKV-7, or the Transformer that it is compared with."""

    head: nn.Linear

    def hidden(self, x: Tensor, state: Any = None, /) -> tuple[Tensor, Any]:
        """The last layer's output (B, T, C) for ids (B, T) after a state, and the state after them."""


def music_nats(
    model: nn.Module, ids: Tensor, roles: Tensor, *, starts: Tensor | None = None, context_weight: float = 1.0
) -> Tensor:
    """Sum of nats over the target tokens that carry music; differentiable.

    Args:
        model: a model whose forward takes `starts` (packing.py).
        ids, roles, starts: (B, T + 1). `starts` is where packed samples begin; None is one sample per row.
        context_weight: weight of a context token; a fill token has 1.
    """
    logits, _ = model(ids[:, :-1], starts=None if starts is None else starts[:, :-1])
    return targets_nats(logits, music_targets(ids, roles), target_weights(roles, context_weight))


def music_targets(ids: Tensor, roles: Tensor) -> Tensor:
    """(B, T) targets of the tokens, -100 where the target is not music. ids, roles: (B, T + 1)."""
    return ids[:, 1:].masked_fill(roles[:, 1:] == NOT_MUSIC, -100)


def target_weights(roles: Tensor, context_weight: float) -> Tensor | None:
    """(B, T) weight of each target for `targets_nats`, or None if all are equal. roles: (B, T + 1)."""
    if context_weight == 1:
        return None
    return torch.ones(roles[:, 1:].shape, device=roles.device).masked_fill(roles[:, 1:] == CONTEXT, context_weight)


def targets_nats(logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Sum of nats, each times its weight.

    All positions go through the head, because selecting the music first would make a new shape, and new buffers, in
    every step.

    Args:
        logits: (B, T, V).
        targets: (B, T), -100 where there is no target.
        weights: (B, T); None is 1.
    """
    flat, wanted = logits.float().flatten(0, 1), targets.flatten()
    if weights is None:
        return F.cross_entropy(flat, wanted, ignore_index=-100, reduction="sum")
    return F.cross_entropy(flat, wanted, ignore_index=-100, reduction="none") @ weights.flatten()


def wanted_nats(
    model: LanguageModel, ids: np.ndarray, wanted: np.ndarray, state: ModelState | None = None
) -> tuple[Tensor, Tensor]:
    """Nats of the wanted ids and the row of each, both (N,); differentiable. ids, wanted: (B, T + 1).

    state: what an RWKV-7 has read before, for each row; None: nothing.
    """
    logits, mask = wanted_logits(model, ids, wanted, state)
    targets = torch.from_numpy(ids[:, 1:]).to(mask.device)[mask]
    return F.cross_entropy(logits, targets, reduction="none"), mask.nonzero()[:, 0]


def wanted_logits(
    model: LanguageModel, ids: np.ndarray, wanted: np.ndarray, state: ModelState | None = None
) -> tuple[Tensor, Tensor]:
    """(N, vocabulary) logits for each wanted token before the model reads it, and (B, T) where these tokens are."""
    device = model.head.weight.device
    tokens, mask = torch.from_numpy(ids).to(device), torch.from_numpy(wanted[:, 1:]).to(device)
    h, _ = model.hidden(tokens[:, :-1], state)
    return model.head(h[mask]).float(), mask


def by_row(nats: Tensor, rows: Tensor, count: int) -> np.ndarray:
    """(count,) sums over each row of the nats from `wanted_nats`."""
    return np.bincount(rows.cpu().numpy(), nats.detach().double().cpu().numpy(), count)


@torch.no_grad()
def fill_nats(
    model: LanguageModel,
    batches: Sequence[tuple[np.ndarray, np.ndarray, list[int]]],
    wkv: Tensor | None = None,
    samples: int | None = None,
) -> np.ndarray:
    """Nats of each validation sample's fill, the closing tokens included. (samples,)

    wkv: an RWKV-7's initial state (L, H, K, V), None: zeros. samples: how many there are, where `batches` is but a
    part of them; the others get 0.
    """
    out = np.zeros(sum(len(b[2]) for b in batches) if samples is None else samples)
    for ids, roles, numbers in batches:
        state = None
        if wkv is not None:
            assert isinstance(model, RWKV7)
            state = model.new_state(len(ids), wkv)
        out[numbers] = by_row(*wanted_nats(model, ids, roles == FILL, state), len(numbers))
    return out
