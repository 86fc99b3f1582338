"""WKV-7 in Triton, token by token: the simple kernel that `wkv7_triton` has to beat.

A program takes one head of one sequence through time, with its whole state in registers. The backward pass goes back 16
tokens at a time: it walks forward through them again from a kept state, stores the state before each, and then walks
back.
"""

# A Triton kernel takes pointers, sizes and switches one by one.
# ruff: noqa: FBT003, PLR0913

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .sequences import initial_state, sequence_bounds
from .wkv7_reference import check_shapes
from .wkv7_triton_chunk import INTERPRETED, put, tl, triton

SEGMENT = 16  # tokens between two kept states


@triton.jit
def forward_tokens(
    r, log_decay, k, v, a, b, state, bounds, segments, y, kept, final,
    H, K: tl.constexpr, V: tl.constexpr, SEGMENT: tl.constexpr, KEEP: tl.constexpr,
):  # fmt: skip
    """One program per head and sequence. kept (segments, H, K, V): the state before every SEGMENT-th token."""
    head, sequence = tl.program_id(0).to(tl.int64), tl.program_id(1)
    key, value = tl.arange(0, K), tl.arange(0, V)
    tile = key[:, None] * V + value[None, :]
    place = (sequence * H + head) * K * V + tile
    S = tl.load(state + place)
    start, stop = tl.load(bounds + sequence), tl.load(bounds + sequence + 1)
    for t in range(stop - start):
        if KEEP and t % SEGMENT == 0:
            segment = tl.load(segments + sequence) + t // SEGMENT
            tl.store(kept + (segment * H + head) * K * V + tile, S)
        keys, values = ((start + t) * H + head) * K + key, ((start + t) * H + head) * V + value
        found = tl.sum(S * tl.load(a + keys).to(S.dtype)[:, None], 0)  # (V,)
        S = S * tl.exp(tl.load(log_decay + keys).to(S.dtype))[:, None]
        S += tl.load(b + keys).to(S.dtype)[:, None] * found[None, :]
        S += tl.load(k + keys).to(S.dtype)[:, None] * tl.load(v + values).to(S.dtype)[None, :]
        put(y, values, tl.sum(S * tl.load(r + keys).to(S.dtype)[:, None], 0), True)
    tl.store(final + place, S)


@triton.jit
def backward_tokens(
    r, log_decay, k, v, a, b, bounds, segments, kept, scratch, grad_y, grad_final,
    dr, dlog_decay, dk, dv, da, db, dstate,
    H, K: tl.constexpr, V: tl.constexpr, SEGMENT: tl.constexpr,
):  # fmt: skip
    """As `forward_tokens`, backwards. scratch (sequences, H, SEGMENT, K, V): the states before a segment's tokens."""
    head, sequence = tl.program_id(0).to(tl.int64), tl.program_id(1)
    key, value = tl.arange(0, K), tl.arange(0, V)
    tile = key[:, None] * V + value[None, :]
    place = (sequence * H + head) * K * V + tile
    own = scratch + (sequence * H + head) * SEGMENT * K * V + tile
    dS = tl.load(grad_final + place)
    start, stop = tl.load(bounds + sequence), tl.load(bounds + sequence + 1)
    count = tl.load(segments + sequence + 1) - tl.load(segments + sequence)
    for back in range(count):
        first = (count - 1 - back) * SEGMENT
        length = tl.minimum(SEGMENT, stop - start - first)
        S = tl.load(kept + ((tl.load(segments + sequence) + count - 1 - back) * H + head) * K * V + tile)
        for t in range(length):
            tl.store(own + t * K * V, S)
            keys = ((start + first + t) * H + head) * K + key
            values = ((start + first + t) * H + head) * V + value
            found = tl.sum(S * tl.load(a + keys).to(S.dtype)[:, None], 0)
            S = S * tl.exp(tl.load(log_decay + keys).to(S.dtype))[:, None]
            S += tl.load(b + keys).to(S.dtype)[:, None] * found[None, :]
            S += tl.load(k + keys).to(S.dtype)[:, None] * tl.load(v + values).to(S.dtype)[None, :]
        tl.debug_barrier()
        for step in range(length):
            t = length - 1 - step
            keys = ((start + first + t) * H + head) * K + key
            values = ((start + first + t) * H + head) * V + value
            before = tl.load(own + t * K * V)
            dy, row_v = tl.load(grad_y + values).to(S.dtype), tl.load(v + values).to(S.dtype)
            row_a, row_b = tl.load(a + keys).to(S.dtype), tl.load(b + keys).to(S.dtype)
            decay = tl.exp(tl.load(log_decay + keys).to(S.dtype))
            put(dr, keys, tl.sum(S * dy[None, :], 1), True)
            dS += tl.load(r + keys).to(S.dtype)[:, None] * dy[None, :]
            found = tl.sum(before * row_a[:, None], 0)
            put(dk, keys, tl.sum(dS * row_v[None, :], 1), True)
            put(dv, values, tl.sum(dS * tl.load(k + keys).to(S.dtype)[:, None], 0), True)
            put(db, keys, tl.sum(dS * found[None, :], 1), True)
            put(dlog_decay, keys, tl.sum(dS * before, 1) * decay, True)
            dfound = tl.sum(dS * row_b[:, None], 0)
            put(da, keys, tl.sum(before * dfound[None, :], 1), True)
            dS = dS * decay[:, None] + row_a[:, None] * dfound[None, :]
            S = before
        tl.debug_barrier()
    tl.store(dstate + place, dS)


class _Sequential(torch.autograd.Function):
    """(r, log_decay, k, v, a, b, state, bounds) -> (y, final state)."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor]:
        *tensors, bounds = args
        r, v, state = tensors[0], tensors[3], tensors[6]
        heads, key_size, value_size = r.shape[2], r.shape[3], v.shape[3]
        keep = any(ctx.needs_input_grad)
        ends = torch.tensor(bounds)
        counts = (ends.diff() + SEGMENT - 1) // SEGMENT
        segments = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        kept = state.new_empty(int(segments[-1]) if keep else 0, heads, key_size, value_size)
        y, final = torch.empty_like(v, dtype=r.dtype), torch.empty_like(state)
        places = ends.to(r.device), segments.to(r.device)
        shape = {"H": heads, "K": key_size, "V": value_size, "SEGMENT": SEGMENT}
        forward_tokens[(heads, len(state))](*tensors, *places, y, kept, final, **shape, KEEP=keep)
        if keep:
            ctx.save_for_backward(*tensors, *places, kept)
            ctx.shape = shape
        return y, final

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        *tensors, bounds, segments, kept = ctx.saved_tensors
        state = tensors.pop()
        outs = [torch.empty_like(x) for x in (*tensors, state)]
        scratch = state.new_empty(*state.shape[:2], SEGMENT, *state.shape[2:])
        grad_y, grad_final = (g.contiguous() for g in grads)
        backward_tokens[(state.shape[1], len(state))](
            *tensors, bounds, segments, kept, scratch, grad_y, grad_final, *outs, **ctx.shape
        )  # fmt: skip
        return *outs, None


def wkv7_triton_sequential(
    r: Tensor,
    log_decay: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    state: Tensor | None = None,
    *,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`wkv7_reference` on a GPU, in float32 (float64 inputs stay so); K and V are powers of two.

    Raises:
        ValueError: shapes that do not belong together, or tensors that Triton cannot reach.
    """
    check_shapes(r, log_decay, k, v, a, b, state, cu_seqlens=cu_seqlens)
    if r.device.type != "cuda" and not INTERPRETED.value:
        raise ValueError(f"wkv7_triton_sequential runs on a GPU, given tensors on {r.device}; use wkv7_numba")
    bounds = sequence_bounds(r.shape[0], r.shape[1], cu_seqlens)
    state = initial_state(r, v, state, bounds)
    y, final = _Sequential.apply(*(x.contiguous() for x in (r, log_decay, k, v, a, b, state)), bounds)
    return y, final
