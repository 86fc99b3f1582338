"""Packs several samples into one row, each as if it were alone: where a sample starts, the past is forgotten.

`starts` (B, T), bool, is True at each sample's first token. There the wkv state is zero, and the token shift sees a
zero vector. A row whose first token is not a start continues from the state that it was given.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from midi_rwkv.kernels.dispatch import wkv7


@dataclass(frozen=True)
class Packing:
    """The places of samples in rows, in the form that the kernels need. It is computed once and used by all layers."""

    starts: Tensor  # (B, T)
    cu_seqlens: Tensor  # (N + 1,) on the CPU: where each segment begins among the B x T tokens
    leading: Tensor  # (B,) the first segment of each row, which may continue from a state
    last: Tensor  # (B,) the last segment of each row, whose state is returned

    @classmethod
    def of(cls, starts: Tensor) -> Packing:
        """The packing for `starts`. A segment is a sample, or the part of a row before its first start."""
        begins = starts.cpu().clone()
        begins[:, 0] = True
        places = begins.flatten().nonzero()[:, 0]
        ends = begins.sum(1).cumsum(0)
        device = starts.device
        leading = (ends - begins.sum(1)).to(device)
        cu_seqlens = torch.cat([places, places.new_tensor([begins.numel()])])
        return cls(starts, cu_seqlens, leading, (ends - 1).to(device))


def wkv7_packed(
    r: Tensor,
    log_decay: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    state: Tensor | None,
    *,
    packing: Packing | None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """`wkv7` with the state cleared at every start; shapes as there. packing None: no starts, so the same as `wkv7`."""
    if packing is None:
        return wkv7(r, log_decay, k, v, a, b, state, backend=backend)
    B, T = r.shape[:2]
    initial = None
    if state is not None:
        carried = state.masked_fill(packing.starts[:, 0, None, None, None], 0.0)  # (B, H, K, V)
        segments = len(packing.cu_seqlens) - 1
        initial = state.new_zeros(segments, *state.shape[1:]).index_copy(0, packing.leading, carried)
    r, log_decay, k, v, a, b = (x.reshape(1, B * T, *x.shape[2:]) for x in (r, log_decay, k, v, a, b))
    y, final = wkv7(r, log_decay, k, v, a, b, initial, cu_seqlens=packing.cu_seqlens, backend=backend)
    return y.view(B, T, *y.shape[2:]), final[packing.last]
