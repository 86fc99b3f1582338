"""Several samples in one row, each as if it stood alone: where a sample starts, what was before is forgotten.

`starts` (B, T), bool, is True at each sample's first token. There the wkv state is zero, and the token shift sees a
zero vector. A row whose first token is no start goes on from the state it was given. (Something else than zeros at a
start, a trained initial state, would come in at the same places: see `_by_segment`.)
"""

from __future__ import annotations

import torch
from torch import Tensor

from .kernels.dispatch import wkv7

FORGET = -1e4  # a log decay whose exponential is 0 in every precision


def wkv7_packed(
    r: Tensor,
    log_decay: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    state: Tensor | None,
    starts: Tensor,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """`wkv7` with the state cleared at every start; shapes as there, starts (B, T).

    A sequential form decays to nothing and removes nothing at a start, which is exact and costs nothing. The chunked
    form divides by cumulative decays: it gets the samples as rows of their own.
    """
    if backend == "chunked" or (backend == "auto" and r.device.type != "cpu"):
        return _by_segment(r, log_decay, k, v, a, b, state, starts, backend)
    at = starts[:, :, None, None]
    return wkv7(r, log_decay.masked_fill(at, FORGET), k, v, a.masked_fill(at, 0.0), b, state, backend)


def _by_segment(
    r: Tensor,
    log_decay: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    state: Tensor | None,
    starts: Tensor,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """A row a sample, padded to the longest; the padding (no decay, no key, no removal) leaves the state as it is."""
    B, T, H = r.shape[:3]
    begins = starts.clone()
    begins[:, 0] = True
    segment = begins.flatten().cumsum(0) - 1  # (B T,)
    first = begins.flatten().nonzero()[:, 0]  # (N,)
    place = torch.arange(B * T, device=r.device) - first[segment]
    rows, width = len(first), int(place.max()) + 1

    def spread(x: Tensor) -> Tensor:
        return x.new_zeros(rows, width, H, x.shape[-1]).index_put((segment, place), x.flatten(0, 1))

    leading = segment.view(B, T)[:, 0]
    initial = None
    if state is not None:
        carried = state.masked_fill(starts[:, 0, None, None, None], 0.0)
        initial = state.new_zeros(rows, *state.shape[1:]).index_put((leading,), carried)
    y, final = wkv7(*(spread(x) for x in (r, log_decay, k, v, a, b)), initial, backend)
    return y[segment, place].view(B, T, H, -1), final[segment.view(B, T)[:, -1]]
