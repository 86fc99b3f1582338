"""The WKV recurrence of RWKV-7 on a CPU, compiled by numba: one sequential scan per head, forward and backward.

It has the signature and results of `wkv7_reference`, in float32 or float64. A state of 64 x 64 floats fits the
first-level cache, so a scan that touches it once per token beats the chunk-parallel matrix form, which does more
arithmetic and moves more memory. The inner loops over one row of the state are written as LLVM vectors
(numba_vectors.py).

The forward pass keeps the state before every `SEGMENT`-th token and the looked-up rows `a^T S`; the backward pass
runs a segment forward again from its first state, keeps that segment's states, and walks back through them.
"""

# The recurrence takes the equation's seven tensors, in its order; a compiled scan its arrays.
# ruff: noqa: PLR0913

import functools
import math
from collections.abc import Callable, Iterable
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
AHEAD = 3  # tokens
WIDTH = 64  # value channels of the state that are worked on at a time


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
        ValueError: shapes that do not belong together, K or V not a multiple of 16, or a tensor that is not on the CPU.
    """
    check_shapes(r, log_decay, k, v, a, b, state, cu_seqlens=cu_seqlens)
    batch, steps, _, key_size = r.shape
    if key_size % LANES or v.shape[-1] % LANES:
        given = f"{key_size} and {v.shape[-1]}"
        raise ValueError(f"K and V must be a multiple of {LANES} for wkv7_numba, given {given}; use wkv7_chunked")
    if r.device.type != "cpu":
        raise ValueError(f"wkv7_numba runs on the CPU, given tensors on {r.device}; use wkv7_triton or wkv7_chunked")
    compute = torch.float64 if r.dtype == torch.float64 else torch.float32
    bounds = sequence_bounds(batch, steps, cu_seqlens)
    state = initial_state(r, v, state, bounds)
    if steps == 0:
        return torch.empty_like(v), state
    inputs = (x.to(compute) for x in (r, log_decay, k, v, a, b, state))
    y, final = _Wkv7Numba.apply(*inputs, bounds, threads)
    return y.to(r.dtype), final


class _Wkv7Numba(torch.autograd.Function):
    """(r, log_decay, k, v, a, b, state, bounds, threads) -> (y, final state)."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor]:
        *tensors, bounds, threads = args
        r, log_decay, k, v, a, b, state = (x.contiguous() for x in tensors)
        batch, steps, heads, key_size = r.shape
        value_size = v.shape[-1]
        keep = any(ctx.needs_input_grad)
        starts = np.array(bounds)
        segments = np.concatenate([[0], np.cumsum(-(-np.diff(starts) // SEGMENT))])  # where each sequence's begin
        y = torch.empty_like(v)
        # a^T S of every token, and one more per sequence that belongs to no token
        found = v.new_empty((batch * steps + len(state)) * heads, value_size)
        kept = r.new_empty(int(segments[-1]) * heads if keep else 0, key_size, value_size)
        final = state.clone()  # (N, H, K, V)
        _use_threads(threads)
        scan = _compiled("forward", key_size, value_size, double=r.dtype == torch.float64, parallel=threads > 1)
        scan(*_flat(r, log_decay, k, v, a, b, final, y, found, kept), starts, segments, heads, keep)
        if keep:
            ctx.save_for_backward(r, log_decay, k, v, a, b, found, kept)
            ctx.places = starts, segments
            ctx.threads = threads
        return y, final

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        r, log_decay, k, v, a, b, found, kept = ctx.saved_tensors
        grad_y = grads[0].contiguous()
        grad_state = grads[1].clone(memory_format=torch.contiguous_format)
        heads, key_size = r.shape[2:]
        outs = [torch.empty_like(x) for x in (r, log_decay, k, v, a, b)]
        _use_threads(ctx.threads)
        scan = _compiled("backward", key_size, v.shape[-1], double=r.dtype == torch.float64, parallel=ctx.threads > 1)
        tensors = (r, log_decay, k, v, a, b, found, kept, grad_y, grad_state, *outs)
        scan(*_flat(*tensors), *ctx.places, heads)
        return *outs, grad_state, None, None


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
def _compiled(direction: str, key_size: int, value_size: int, *, double: bool, parallel: bool) -> Callable[..., None]:
    """The compiled scan for one head size; its serial and parallel forms are different functions."""
    make = _make_forward if direction == "forward" else _make_backward
    return make(key_size, value_size, double=double, parallel=parallel)


@vector_kernel
def copy(emit: Emitter, arrays: list[Array], at: list[Index]) -> None:
    """`size` numbers, a multiple of LANES; a plain loop in numba takes ten times as long."""
    source, target = arrays
    source_at, target_at, size = at
    with emit.span(size, LANES) as i:
        target.put(target_at + i, source.row(source_at + i))


def _make_forward(key_size: int, value_size: int, *, double: bool, parallel: bool) -> Callable[..., None]:
    number, exponential = types.float64 if double else types.float32, _exponential(key_size, double=double)
    size = key_size * value_size

    @vector_kernel
    def look(emit: Emitter, arrays: list[Array], at: list[Index]) -> None:
        """What the first token of a sequence looks up."""
        state, a, found = arrays
        state_at, key_at, found_at = at
        for part, length in _parts(value_size):
            lookups = emit.sum(length)
            with emit.span(key_size) as i:
                lookups.add(state.row(state_at + i * value_size + part, length) * a.spread(key_at + i))
            found.put(found_at + part, lookups.row())

    @vector_kernel
    def step(emit: Emitter, arrays: list[Array], at: list[Index]) -> None:
        """One token of one head: the state after it, its output, and what the next token looks up."""
        state, r, log_decay, decay, k, v, a, b, y, found = arrays
        state_at, key_at, next_key_at, value_at, found_at, heads = at
        _prefetch((r, log_decay, k, a, b), key_at + heads * (AHEAD * key_size), key_size)
        _prefetch((v,), value_at + heads * (AHEAD * value_size), value_size)
        for part, length in _parts(value_size):
            values, known = v.row(value_at + part, length), found.row(found_at + part, length)
            outputs, lookups = emit.sum(length), emit.sum(length)
            with emit.span(key_size) as i:
                place = state_at + i * value_size + part
                row = state.row(place, length) * decay.spread(i)
                row = row + known * b.spread(key_at + i) + values * k.spread(key_at + i)
                state.put(place, row)
                outputs.add(row * r.spread(key_at + i))
                lookups.add(row * a.spread(next_key_at + i))
            y.put(value_at + part, outputs.row())
            found.put(found_at + value_size + part, lookups.row())

    def scan(r, log_decay, k, v, a, b, state, y, found, kept, starts, segments, heads, keep):  # type: ignore[no-untyped-def]
        for head in prange((len(starts) - 1) * heads):
            n, h = head // heads, head % heads
            steps = starts[n + 1] - starts[n]
            first = starts[n] * heads + h
            first_found = (starts[n] + n) * heads + h * (steps + 1)
            first_kept = segments[n] * heads + h * (segments[n + 1] - segments[n])
            decay = np.empty(key_size, r.dtype)
            if steps > 0:
                look((state, a, found), (head * size, first * key_size, first_found * value_size))
            for t in range(steps):
                if keep and t % SEGMENT == 0:
                    copy((state, kept), (head * size, (first_kept + t // SEGMENT) * size, size))
                at, after = first + t * heads, first + min(t + 1, steps - 1) * heads
                exponential(log_decay, at * key_size, decay, 0)
                places = (head * size, at * key_size, after * key_size, at * value_size, (first_found + t) * value_size)
                step((state, r, log_decay, decay, k, v, a, b, y, found), (*places, heads))

    signature = types.void(*[number[::1]] * 10, *[types.int64[::1]] * 2, types.intp, types.boolean)
    return njit(signature, parallel=parallel, nogil=True)(scan)


def _make_backward(key_size: int, value_size: int, *, double: bool, parallel: bool) -> Callable[..., None]:
    number, exponential = types.float64 if double else types.float32, _exponential(key_size, double=double)
    size, line = key_size * value_size, 64 // (8 if double else 4)
    replay, output, step = (make(key_size, value_size) for make in (_make_replay, _make_output, _make_step))

    def scan(r, log_decay, k, v, a, b, found, kept, dy, grad, dr, dlog, dk, dv, da, db, starts, segments, heads):  # type: ignore[no-untyped-def]
        for head in prange((len(starts) - 1) * heads):
            n, h = head // heads, head % heads
            steps, count = starts[n + 1] - starts[n], segments[n + 1] - segments[n]
            first = starts[n] * heads + h
            first_found, first_kept = (starts[n] + n) * heads + h * (steps + 1), segments[n] * heads + h * count
            states = np.empty((SEGMENT + 1) * size + line, kept.dtype)
            origin = -(states.ctypes.data // states.itemsize) % line  # a vector must not lie across two cache lines
            decay, dfound = np.empty(SEGMENT * key_size, kept.dtype), np.empty(value_size, kept.dtype)
            for segment in range(count - 1, -1, -1):
                start, stop = segment * SEGMENT, min((segment + 1) * SEGMENT, steps)
                copy((kept, states), ((first_kept + segment) * size, origin, size))
                for t in range(start, stop):
                    key_at, value_at = (first + t * heads) * key_size, (first + t * heads) * value_size
                    before, decay_at = origin + (t - start) * size, (t - start) * key_size
                    exponential(log_decay, key_at, decay, decay_at)
                    found_at = (first_found + t) * value_size
                    places = (before, decay_at, key_at, value_at, found_at, heads)
                    replay((states, log_decay, decay, k, v, b, found), places)
                for t in range(stop - 1, start - 1, -1):
                    key_at, value_at = (first + t * heads) * key_size, (first + t * heads) * value_size
                    before, decay_at = origin + (t - start) * size, (t - start) * key_size
                    found_at = (first_found + t) * value_size
                    after = (head * size, before + size, key_at, value_at, heads)
                    output((grad, states, r, k, b, dy, dr, dv, dfound), after)
                    around = (head * size, before, decay_at, key_at, value_at, found_at, heads)
                    step((grad, states, decay, v, a, found, dfound, dlog, dk, da, db), around)

    signature = types.void(*[number[::1]] * 16, *[types.int64[::1]] * 2, types.intp)
    return njit(signature, parallel=parallel, nogil=True)(scan)


def _make_replay(key_size: int, value_size: int) -> Callable[..., None]:
    @vector_kernel
    def replay(emit: Emitter, arrays: list[Array], at: list[Index]) -> None:
        """The next state of one head from the one before it, with the looked-up values known."""
        states, log_decay, decay, k, v, b, found = arrays
        before_at, decay_at, key_at, value_at, found_at, heads = at
        _prefetch((log_decay, k, b), key_at + heads * (AHEAD * key_size), key_size)
        _prefetch((v,), value_at + heads * (AHEAD * value_size), value_size)
        for part, length in _parts(value_size):
            values, known = v.row(value_at + part, length), found.row(found_at + part, length)
            with emit.span(key_size) as i:
                place = before_at + i * value_size + part
                row = states.row(place, length) * decay.spread(decay_at + i)
                row = row + known * b.spread(key_at + i) + values * k.spread(key_at + i)
                states.put(place + key_size * value_size, row)

    return replay


def _make_output(key_size: int, value_size: int) -> Callable[..., None]:
    @vector_kernel
    def output(emit: Emitter, arrays: list[Array], at: list[Index]) -> None:
        """The first half of a token, backwards: from its output's gradient to those of r, v and what it looked up."""
        grad, states, r, k, b, dy, dr, dv, dfound = arrays
        grad_at, after_at, key_at, value_at, heads = at
        _prefetch((r, dr), key_at - heads * (AHEAD * key_size), key_size)
        _prefetch((dy, dv), value_at - heads * (AHEAD * value_size), value_size)
        for part, length in _parts(value_size):
            outputs, values, lookups = dy.row(value_at + part, length), emit.sum(length), emit.sum(length)
            with emit.span(key_size, LANES) as i:
                sums = emit.row_sums()
                for channel in range(LANES):
                    place = (i + channel) * value_size + part
                    row = grad.row(grad_at + place, length) + outputs * r.spread(key_at + i + channel)
                    grad.put(grad_at + place, row)
                    values.add(row * k.spread(key_at + i + channel))
                    lookups.add(row * b.spread(key_at + i + channel))
                    sums.add(states.row(after_at + place, length) * outputs)
                dr.put(key_at + i, sums.row() if part == 0 else dr.row(key_at + i) + sums.row())
            dv.put(value_at + part, values.row())
            dfound.put(part, lookups.row())

    return output


def _make_step(key_size: int, value_size: int) -> Callable[..., None]:
    @vector_kernel
    def step(emit: Emitter, arrays: list[Array], at: list[Index]) -> None:
        """The second half: the gradients of the other keys, and that of the state before the token."""
        grad, states, decay, v, a, found, dfound, *outs = arrays
        grad_at, before_at, decay_at, key_at, value_at, found_at, heads = at
        _prefetch((a, *outs), key_at - heads * (AHEAD * key_size), key_size)
        for part, length in _parts(value_size):
            values, known = v.row(value_at + part, length), found.row(found_at + part, length)
            lookups = dfound.row(part, length)
            with emit.span(key_size, LANES) as i:
                sums = [emit.row_sums() for _ in outs]
                for channel in range(LANES):
                    place = (i + channel) * value_size + part
                    before, row = states.row(before_at + place, length), grad.row(grad_at + place, length)
                    for total, other in zip(
                        sums, (row * before, row * values, before * lookups, row * known), strict=True
                    ):
                        total.add(other)
                    row = row * decay.spread(decay_at + i + channel) + lookups * a.spread(key_at + i + channel)
                    grad.put(grad_at + place, row)
                decays = decay.row(decay_at + i)
                for number, (total, out) in enumerate(zip(sums, outs, strict=True)):
                    gradient = total.row() * decays if number == 0 else total.row()
                    out.put(key_at + i, gradient if part == 0 else out.row(key_at + i) + gradient)

    return step


def _prefetch(arrays: Iterable[Array], at: Index, length: int) -> None:
    for array in arrays:
        for line in range(0, length, LANES):
            array.prefetch(at + line)


def _parts(size: int) -> list[tuple[int, int]]:
    """Where parts of a row begin that fit the registers, and their lengths."""
    return [(at, min(WIDTH, size - at)) for at in range(0, size, WIDTH)]


def _exponential(key_size: int, *, double: bool) -> Callable[..., None]:
    """A numba function that raises e to `key_size` numbers."""
    if double:

        def one_by_one(x, at, out, out_at):  # type: ignore[no-untyped-def]
            for i in range(key_size):
                out[out_at + i] = math.exp(x[at + i])

        simple: Callable[..., None] = njit(one_by_one)
        return simple

    @vector_kernel
    def exponential(emit: Emitter, arrays: list[Array], at: list[Index]) -> None:  # noqa: ARG001
        x, out = arrays
        out.put(at[1], x.row(at[0], key_size).exp())

    in_vectors: Callable[..., None] = njit(lambda x, at, out, out_at: exponential((x, out), (at, out_at)))
    return in_vectors
