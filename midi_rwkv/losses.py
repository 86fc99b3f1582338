"""What a model's answers cost: nats of the ids that carry music, for training, validation and tuning."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .dataset import FILL, NOT_MUSIC
from .model import RWKV7, ModelState
from .transformer import Transformer


def music_nats(model: nn.Module, ids: Tensor, roles: Tensor, starts: Tensor | None = None) -> Tensor:
    """Sum of nats over the target ids that carry music; differentiable. ids, roles, starts: (B, T + 1).

    starts: where packed samples begin; None: a sample a row. model: as `make_model` gives it, or wrapped.
    """
    logits, _ = model(ids[:, :-1], starts=None if starts is None else starts[:, :-1])
    return targets_nats(logits, music_targets(ids, roles))


def music_targets(ids: Tensor, roles: Tensor) -> Tensor:
    """What each token is to predict, -100 where it is no music: (B, T). ids, roles: (B, T + 1)."""
    return ids[:, 1:].masked_fill(roles[:, 1:] == NOT_MUSIC, -100)


def targets_nats(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum of nats. logits (B, T, V), targets (B, T) with -100 where nothing is asked.

    All rows of one shape through the head: picking out the music first makes a new shape, and new buffers, every step.
    """
    return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum")


def wanted_nats(
    model: RWKV7 | Transformer, ids: np.ndarray, wanted: np.ndarray, state: ModelState | None = None
) -> tuple[Tensor, Tensor]:
    """Nats of the wanted ids and the row of each, both (N,); differentiable. ids, wanted: (B, T + 1).

    state: what an RWKV-7 has read before, for each row; None: nothing.
    """
    logits, mask = wanted_logits(model, ids, wanted, state)
    targets = torch.from_numpy(ids[:, 1:]).to(mask.device)[mask]
    return F.cross_entropy(logits, targets, reduction="none"), mask.nonzero()[:, 0]


def wanted_logits(
    model: RWKV7 | Transformer, ids: np.ndarray, wanted: np.ndarray, state: ModelState | None = None
) -> tuple[Tensor, Tensor]:
    """What the model says of each wanted id before it reads it, (N, vocabulary), and where they stand, (B, T)."""
    device = model.head.weight.device
    tokens, mask = torch.from_numpy(ids).to(device), torch.from_numpy(wanted[:, 1:]).to(device)
    if isinstance(model, RWKV7):
        h, _ = model.hidden(tokens[:, :-1], state)
    else:
        h, _ = model.hidden(tokens[:, :-1])
    return model.head(h[mask]).float(), mask


def by_row(nats: Tensor, rows: Tensor, count: int) -> np.ndarray:
    """Sums over each of `count` rows, (count,), of what `wanted_nats` gives."""
    return np.bincount(rows.cpu().numpy(), nats.detach().double().cpu().numpy(), count)


@torch.no_grad()
def fill_nats(
    model: RWKV7 | Transformer,
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
