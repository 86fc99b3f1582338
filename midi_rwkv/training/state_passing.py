"""Trains on sequences that do not fit into memory, piece by piece, passing the recurrent state from one to the next.

The past of a recurrent model is its state, so a long song needs the activations of only one piece at a time. The first
pass goes through the pieces without gradients and keeps the state before each. The second pass goes backwards: each
piece runs again with gradients, and the gradient of the state after it, which comes from the later piece, is passed on
to the state before it. The gradients are those of the whole sequence, at the cost of a second forward pass.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from midi_rwkv.model.packing import packed_hidden
from midi_rwkv.model.rwkv7 import RWKV7, ModelState

PieceLoss = Callable[[Tensor, slice], Tensor]


def backward_in_pieces(
    model: RWKV7,
    ids: Tensor,
    loss_of_piece: PieceLoss,
    piece: int,
    *,
    state: ModelState | None = None,
    starts: Tensor | None = None,
) -> float:
    """Adds the gradients of a sum of losses over the pieces of `ids` (B, T) to the model's parameters.

    Args:
        loss_of_piece: from the logits (B, t, V) of a piece and its place in 0..T to the piece's share of the loss, a
            scalar. For a mean, divide by the number of targets in the whole, not in the piece.
        piece: tokens per piece.
        state: the state before the first piece; its tensors get gradients if they require them.
        starts: (B, T), where packed samples begin (packing.py).

    Returns:
        The sum of the shares.

    Raises:
        ValueError: a piece has less than one token, or there are no tokens.
    """
    if piece < 1 or not ids.numel():
        raise ValueError(f"pieces must have at least one token, given {piece}, of ids {tuple(ids.shape)}")
    places = [slice(start, min(start + piece, ids.shape[1])) for start in range(0, ids.shape[1], piece)]
    state = model.new_state(len(ids)) if state is None else state
    first, before = state, []
    with torch.no_grad():
        for place in places:
            before.append(state)
            if place is not places[-1]:
                _, state = packed_hidden(model, ids[:, place], _cut(starts, place), state)
    total, after = 0.0, None
    for place, kept in zip(reversed(places), reversed(before), strict=True):
        start = _leaf(kept)
        h, end = packed_hidden(model, ids[:, place], _cut(starts, place), start)
        share = loss_of_piece(model.head(h), place)
        total += float(share.detach())
        if after is None:
            torch.autograd.backward(share)
        else:
            torch.autograd.backward([share, *_tensors(end)], [None, *after])
        after = [torch.zeros_like(x) if x.grad is None else x.grad for x in _tensors(start)]
    for given, grad in zip(_tensors(first), after or [], strict=True):
        if given.requires_grad:
            torch.autograd.backward(given, grad)
    return total


def _tensors(state: ModelState) -> tuple[Tensor, Tensor, Tensor]:
    return state.att_shift, state.ffn_shift, state.wkv


def _cut(starts: Tensor | None, place: slice) -> Tensor | None:
    return None if starts is None else starts[:, place]


def _leaf(state: ModelState) -> ModelState:
    """A copy without history that gathers gradients."""
    return ModelState(*(x.detach().requires_grad_() for x in _tensors(state)))
