"""The WKV recurrence of RWKV-7 on a CPU, compiled by numba: one sequential scan per head, forward and backward.

It has the signature and results of `wkv7_reference`, in float32 or float64. A state of 64 x 64 floats fits the
first-level cache, so a scan that touches it once per token beats the chunk-parallel matrix form, which does more
arithmetic and moves more memory. The inner loops over one row of the state are written as LLVM vectors
(numba_vectors.py).

The forward pass keeps the state before every `SEGMENT`-th token and the looked-up rows `a^T S`; the backward pass
runs a segment forward again from its first state, keeps that segment's states, and walks back through them.

Inside this file the state of a head is stored transposed, (V, K), so that a row is one value channel.
"""

# The recurrence takes the equation's seven tensors, in its order; a compiled scan its arrays.
# ruff: noqa: PLR0913

import functools
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch
from numba import njit, prange, types
from torch import Tensor
from torch.autograd.function import once_differentiable

from midi_rwkv.kernels.numba_vectors import LANES, Array, Emitter, Index, vector_kernel
from midi_rwkv.kernels.sequences import initial_state, sequence_bounds
from midi_rwkv.kernels.wkv7_reference import check_shapes

SEGMENT = 16  # tokens between two kept states


def wkv7_numba(
    r: Tensor,
    log_decay: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    state: Tensor | None = None,
    *,
    cu_seqlens: Tensor | None = None,
    threads: int = 1,
) -> tuple[Tensor, Tensor]:
    """`wkv7_reference` on the CPU; differentiable in every input, the initial state included.

    Inputs in bf16 or fp16 are computed in float32, and the outputs have r's dtype (the state: float32 or float64).
    `threads` above 1 spreads the heads of the batch over numba's thread pool.

    Raises:
        ValueError: shapes that do not belong together, K not a multiple of 16, or a tensor that is not on the CPU.
    """
    check_shapes(r, log_decay, k, v, a, b, state, cu_seqlens=cu_seqlens)
    batch, steps, _, key_size = r.shape
    if key_size % LANES:
        raise ValueError(f"K must be a multiple of {LANES} for wkv7_numba, given {key_size}; use wkv7_chunked")
    if r.device.type != "cpu":
        raise ValueError(f"wkv7_numba runs on the CPU, given tensors on {r.device}; use wkv7_triton or wkv7_chunked")
    compute = torch.float64 if r.dtype == torch.float64 else torch.float32
    bounds = sequence_bounds(batch, steps, cu_seqlens)
    state = initial_state(r, v, state, bounds)
    if steps == 0:
        return torch.empty_like(v), state
    inputs = (x.to(compute) for x in (r, log_decay.to(compute).exp(), k, v, a, b, state))
    y, final = _Wkv7Numba.apply(*inputs, bounds, threads)
    return y.to(r.dtype), final


class _Wkv7Numba(torch.autograd.Function):
    """(r, decay, k, v, a, b, state, bounds, threads) -> (y, final state); decay is not a logarithm here."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor]:
        *tensors, bounds, threads = args
        r, decay, k, v, a, b, state = (x.contiguous() for x in tensors)
        batch, steps, heads, key_size = r.shape
        value_size = v.shape[-1]
        keep = any(ctx.needs_input_grad)
        starts = np.array(bounds)
        segments = np.concatenate([[0], np.cumsum(-(-np.diff(starts) // SEGMENT))])  # where each sequence's begin
        y = torch.empty_like(v)
        # a^T S of every token, and one more per sequence that belongs to no token
        found = v.new_empty((batch * steps + len(state)) * heads, value_size)
        kept = r.new_empty(int(segments[-1]) * heads if keep else 0, value_size, key_size)
        final = state.transpose(-1, -2).clone(memory_format=torch.contiguous_format)  # (B, H, V, K)
        _use_threads(threads)
        scan = _compiled("forward", key_size, double=r.dtype == torch.float64, parallel=threads > 1)
        scan(*_flat(r, decay, k, v, a, b, final, y, found, kept), starts, segments, heads, value_size, keep)
        if keep:
            ctx.save_for_backward(r, decay, k, v, a, b, found, kept)
            ctx.places = starts, segments
            ctx.threads = threads
        return y, final.transpose(-1, -2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        r, decay, k, v, a, b, found, kept = ctx.saved_tensors
        grad_y = grads[0].contiguous()
        grad_state = grads[1].transpose(-1, -2).clone(memory_format=torch.contiguous_format)
        heads, key_size = r.shape[2:]
        outs = [torch.empty_like(x) for x in (r, decay, k, v, a, b)]
        _use_threads(ctx.threads)
        scan = _compiled("backward", key_size, double=r.dtype == torch.float64, parallel=ctx.threads > 1)
        tensors = (r, decay, k, v, a, b, found, kept, grad_y, grad_state, *outs)
        scan(*_flat(*tensors), *ctx.places, heads, v.shape[-1])
        return *outs, grad_state.transpose(-1, -2), None, None


def _use_threads(threads: int) -> None:
    """Sets numba's number of threads. This also changes OpenMP's, which torch shares, so that is restored."""
    if threads > 1:
        config: Any = numba.config
        before = torch.get_num_threads()
        numba.set_num_threads(min(threads, config.NUMBA_NUM_THREADS))
        torch.set_num_threads(before)


def _flat(*tensors: Tensor) -> list[Any]:
    return [x.detach().view(-1).numpy() for x in tensors]


@functools.cache
def _compiled(direction: str, key_size: int, *, double: bool, parallel: bool) -> Callable[..., None]:
    """The compiled scan for one head size; its serial and parallel forms are different functions."""
    make = _make_forward if direction == "forward" else _make_backward
    return make(key_size, double=double, parallel=parallel)


def _make_forward(key_size: int, *, double: bool, parallel: bool) -> Callable[..., None]:
    number = types.float64 if double else types.float32

    @vector_kernel
    def step(emit: Emitter, arrays: list[Array], at: list[Index]) -> None:
        """One token of one head: every row of the state, its output, and what the next token looks up in it."""
        state, r, decay, k, v, a, b, y, found = arrays
        state_at, key_at, next_key_at, value_at, found_at, next_found_at, value_size = at
        row_r, row_decay, row_k, row_b = (x.row(key_at, key_size) for x in (r, decay, k, b))
        row_a = a.row(next_key_at, key_size)
        with emit.span(value_size) as j:
            place = state_at + j * key_size
            row = state.row(place, key_size) * row_decay
            row = row + row_b * found.spread(found_at + j) + row_k * v.spread(value_at + j)
            state.put(place, row)
            y.put_one(value_at + j, (row * row_r).sum())
            found.put_one(next_found_at + j, (row * row_a).sum())

    def scan(r, decay, k, v, a, b, state, y, found, kept, starts, segments, heads, value_size, keep):  # type: ignore[no-untyped-def]
        size = value_size * key_size
        for head in prange((len(starts) - 1) * heads):
            n, h = head // heads, head % heads
            steps = starts[n + 1] - starts[n]
            first = starts[n] * heads + h
            first_found = (starts[n] + n) * heads + h * (steps + 1)
            first_kept = segments[n] * heads + h * (segments[n + 1] - segments[n])
            if steps > 0:
                for j in range(value_size):
                    total = number(0)
                    for i in range(key_size):
                        total += state[head * size + j * key_size + i] * a[first * key_size + i]
                    found[first_found * value_size + j] = total
            for t in range(steps):
                if keep and t % SEGMENT == 0:
                    start = (first_kept + t // SEGMENT) * size
                    for i in range(size):
                        kept[start + i] = state[head * size + i]
                at, after = first + t * heads, first + min(t + 1, steps - 1) * heads
                key_at, next_key_at, value_at = at * key_size, after * key_size, at * value_size
                found_at = (first_found + t) * value_size
                next_found_at = found_at + value_size
                places = (head * size, key_at, next_key_at, value_at, found_at, next_found_at, value_size)
                step((state, r, decay, k, v, a, b, y, found), places)

    signature = types.void(*[number[::1]] * 10, *[types.int64[::1]] * 2, *[types.intp] * 2, types.boolean)
    return njit(signature, parallel=parallel, nogil=True)(scan)


def _make_backward(key_size: int, *, double: bool, parallel: bool) -> Callable[..., None]:
    number = types.float64 if double else types.float32

    @vector_kernel
    def replay(emit: Emitter, arrays: list[Array], at: list[Index]) -> None:
        """The next state of one head from the one before it, with the looked-up rows known."""
        states, decay, k, v, b, found = arrays
        before_at, after_at, key_at, value_at, found_at, value_size = at
        row_decay, row_k, row_b = (x.row(key_at, key_size) for x in (decay, k, b))
        with emit.span(value_size) as j:
            row = states.row(before_at + j * key_size, key_size) * row_decay
            row = row + row_b * found.spread(found_at + j) + row_k * v.spread(value_at + j)
            states.put(after_at + j * key_size, row)

    @vector_kernel
    def step(emit: Emitter, arrays: list[Array], at: list[Index]) -> None:
        """One token of one head, backwards: turns the gradient of the state after it into that of the state before."""
        grad, states, r, decay, k, v, a, b, found, dy, dr, ddecay, dk, dv, da, db = arrays
        grad_at, before_at, after_at, key_at, value_at, found_at, value_size = at
        row_r, row_decay, row_k, row_a, row_b = (x.row(key_at, key_size) for x in (r, decay, k, a, b))
        sum_r, sum_decay, sum_k, sum_a, sum_b = (emit.sum(key_size) for _ in range(5))
        with emit.span(value_size) as j:
            before = states.row(before_at + j * key_size, key_size)
            after = states.row(after_at + j * key_size, key_size)
            output = dy.spread(value_at + j)
            row = grad.row(grad_at + j * key_size, key_size) + row_r * output
            looked_up = (row * row_b).sum()
            dv.put_one(value_at + j, (row * row_k).sum())
            sum_r.add(after * output)
            sum_k.add(row * v.spread(value_at + j))
            sum_b.add(row * found.spread(found_at + j))
            sum_decay.add(row * before)
            sum_a.add(before * looked_up)
            grad.put(grad_at + j * key_size, row * row_decay + row_a * looked_up)
        for total, out in ((sum_r, dr), (sum_decay, ddecay), (sum_k, dk), (sum_a, da), (sum_b, db)):
            out.put(key_at, total.row())

    def scan(  # type: ignore[no-untyped-def]
        r, decay, k, v, a, b, found, kept, dy, grad, dr, ddecay, dk, dv, da, db, starts, segments, heads, value_size
    ):  # fmt: skip
        size = value_size * key_size
        for head in prange((len(starts) - 1) * heads):
            n, h = head // heads, head % heads
            steps, count = starts[n + 1] - starts[n], segments[n + 1] - segments[n]
            first = starts[n] * heads + h
            first_found, first_kept = (starts[n] + n) * heads + h * (steps + 1), segments[n] * heads + h * count
            states = np.empty((SEGMENT + 1) * size, kept.dtype)
            for segment in range(count - 1, -1, -1):
                start, stop = segment * SEGMENT, min((segment + 1) * SEGMENT, steps)
                for i in range(size):
                    states[i] = kept[(first_kept + segment) * size + i]
                for t in range(start, stop):
                    at, found_at = first + t * heads, (first_found + t) * value_size
                    before = (t - start) * size
                    replay(
                        (states, decay, k, v, b, found),
                        (before, before + size, at * key_size, at * value_size, found_at, value_size),
                    )
                for t in range(stop - 1, start - 1, -1):
                    at, found_at = first + t * heads, (first_found + t) * value_size
                    before = (t - start) * size
                    places = (head * size, before, before + size, at * key_size, at * value_size, found_at, value_size)
                    step((grad, states, r, decay, k, v, a, b, found, dy, dr, ddecay, dk, dv, da, db), places)

    signature = types.void(*[number[::1]] * 16, *[types.int64[::1]] * 2, *[types.intp] * 2)
    return njit(signature, parallel=parallel, nogil=True)(scan)
