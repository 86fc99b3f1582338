"""WKV-7 in Triton, chunk-parallel on tensor cores: training on a GPU, differentiable in every input and the state.

The kernels are wkv7_triton_chunk.py's; here they become operators that torch knows (`torch.library`), with gradients
and shapes for `torch.compile`. On a CPU they run only in Triton's interpreter (TRITON_INTERPRET=1 before the import),
which is for tests.
"""

# Signatures of the recurrence, and of the operators that torch derives from them.
# ruff: noqa: ARG001, FBT001, PLR0913

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .sequences import cut, initial_state, sequence_bounds
from .wkv7_reference import check_shapes
from .wkv7_triton_chunk import INTERPRETED, amount_of_work, backward, prepare, scan_backward, scan_forward, triton

KINDS = {torch.bfloat16: "bf16", torch.float16: "tf32", torch.float32: "tf32x3", torch.float64: "fp64"}
CHUNKS = (16, 32, 64)
SIZES = (16, 32, 64, 128)


def wkv7_triton(
    r: Tensor,
    log_decay: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    state: Tensor | None = None,
    *,
    cu_seqlens: Tensor | None = None,
    chunk: int = 0,
) -> tuple[Tensor, Tensor]:
    """`wkv7_reference` on a GPU; differentiable in every input, the initial state included.

    Products are done in bfloat16 for bfloat16 inputs, else in a float32 of sufficient precision (TF32 for float16,
    three TF32 products for float32), all accumulated in float32; float64 stays float64. y has r's dtype; the states are
    float32 (float64).

    `chunk` is the number of tokens per chunk: 16, 32 or 64, or 0 for the longest whose backward kernel hardly spills.
    On a GPU, only bfloat16 with K and V up to 64 may take more than 16: the others spill, or need more shared memory
    than there is. No decay may fall below exp(-88 / chunk) per token, because quotients by it would leave float32's
    range; RWKV-7's stays above exp(-0.61), which 64 tokens allow (kernels/README.md).

    Raises:
        ValueError: shapes that do not belong together, sizes other than 16, 32, 64, 128, dtypes that have no kernel, or
            tensors that Triton cannot reach.
    """
    check_shapes(r, log_decay, k, v, a, b, state, cu_seqlens=cu_seqlens)
    batch, steps, _, key_size = r.shape
    value_size = v.shape[-1]
    if key_size not in SIZES or value_size not in SIZES:
        raise ValueError(f"K and V must each be one of {SIZES} for wkv7_triton, given {key_size} and {value_size}")
    if r.dtype not in KINDS:
        raise ValueError(f"r must be one of {', '.join(str(d) for d in KINDS)}, given {r.dtype}")
    small = max(key_size, value_size) <= 64 and r.dtype == torch.bfloat16
    chunk = chunk or (32 if small else 16)
    if chunk not in CHUNKS:
        raise ValueError(f"chunk must be one of {CHUNKS}, given {chunk}")
    if chunk > 16 and not small and not INTERPRETED.value:
        raise ValueError(
            f"chunk must be 16 on a GPU for {r.dtype} and heads of {max(key_size, value_size)}, given {chunk}; "
            "only bfloat16 with heads of at most 64 takes 32 or 64"
        )
    if r.device.type != "cuda" and not INTERPRETED.value:
        raise ValueError(f"wkv7_triton runs on a GPU, given tensors on {r.device}; use wkv7_numba or wkv7_chunked")
    bounds = sequence_bounds(batch, steps, cu_seqlens)
    state = initial_state(r, v, state, bounds)
    chunks = cut(bounds, chunk, r.device)
    keep = torch.is_grad_enabled() and any(x.requires_grad for x in (r, log_decay, k, v, a, b, state))
    inputs = [x.contiguous() for x in (r, log_decay, k, v, a, b, state)]
    y, final, *_ = wkv7_forward(*inputs, chunks.starts, chunks.lengths, chunks.first, chunk, keep)
    return y, final


@torch.library.custom_op("midi_rwkv::wkv7_forward", mutates_args=())
def wkv7_forward(
    r: Tensor,
    log_decay: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    state: Tensor,
    starts: Tensor,
    lengths: Tensor,
    first: Tensor,
    chunk: int,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """y, the final state, and what the backward pass needs: decays, moves, reads, states (empty unless `keep`)."""
    y, final, decays, moves, reads, states = _outputs(r, v, state, starts, keep)
    heads, key_size, value_size = r.shape[2], r.shape[3], v.shape[3]
    adds = _kept(r).new_empty(len(starts), heads, key_size, value_size)
    shape = _shape(r, v, chunk, len(starts), len(state))
    if len(starts):
        prepare[(len(starts), heads)](
            r, log_decay, k, v, a, b, starts, lengths, decays, moves, adds, reads, y, **shape, SOLVE=_solver(r)
        )  # fmt: skip

    def grid(tuned: dict[str, Any]) -> tuple[int, int, int]:
        return triton.cdiv(value_size, tuned["BV"]), heads, len(state)

    scan_forward[grid](
        decays, moves, adds, reads, state, starts, lengths, first, y, states, final, **shape, KEEP=keep
    )  # fmt: skip
    return y, final, decays, moves, reads, states


@torch.library.custom_op("midi_rwkv::wkv7_backward", mutates_args=())
def wkv7_backward(
    r: Tensor,
    log_decay: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    state: Tensor,
    decays: Tensor,
    moves: Tensor,
    reads: Tensor,
    states: Tensor,
    grad_y: Tensor,
    grad_final: Tensor,
    starts: Tensor,
    lengths: Tensor,
    first: Tensor,
    chunk: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of r, log_decay, k, v, a, b and the initial state."""
    grads = [torch.empty_like(x) for x in (r, log_decay, k, v, a, b)]
    grad_state, grad_states = torch.empty_like(state), torch.empty_like(states)
    heads, value_size = r.shape[2], v.shape[3]
    shape = _shape(r, v, chunk, len(starts), len(state))

    def grid(tuned: dict[str, Any]) -> tuple[int, int, int]:
        return triton.cdiv(value_size, tuned["BV"]), heads, len(state)

    scan_backward[grid](
        decays, moves, reads, grad_y, grad_final, starts, lengths, first, grad_states, grad_state, **shape
    )  # fmt: skip
    if len(starts):
        backward[(len(starts), heads)](
            r, log_decay, k, v, a, b, states, grad_states, grad_y, starts, lengths, *grads, **shape, SOLVE=_solver(r)
        )  # fmt: skip
    dr, dlog_decay, dk, dv, da, db = grads
    return dr, dlog_decay, dk, dv, da, db, grad_state


def _shape(r: Tensor, v: Tensor, chunk: int, chunks: int, sequences: int) -> dict[str, Any]:
    heads = r.shape[2]
    work = amount_of_work(chunks, sequences, heads)
    return {"work": work, "H": heads, "K": r.shape[3], "V": v.shape[3], "L": chunk, "KIND": KINDS[r.dtype]}


def _solver(r: Tensor) -> str:
    """The kind of product for the triangular system, a step more precise than the rest, because its errors spread."""
    kind = KINDS[r.dtype]
    return {"bf16": "tf32", "tf32": "tf32x3"}.get(kind, kind)


def _outputs(r: Tensor, v: Tensor, state: Tensor, starts: Tensor, keep: bool) -> tuple[Tensor, ...]:
    heads, key_size, value_size = r.shape[2], r.shape[3], v.shape[3]
    chunks = len(starts)
    kept = _kept(r)
    return (
        torch.empty_like(v, dtype=r.dtype),
        torch.empty_like(state),
        state.new_empty(chunks, heads, key_size),
        kept.new_empty(chunks, heads, key_size, key_size),
        kept.new_empty(r.shape),
        kept.new_empty(chunks if keep else 0, heads, key_size, value_size),
    )


def _kept(r: Tensor) -> Tensor:
    """An example of what is kept between kernels: r's dtype, but not float16, whose range a state may leave."""
    return r.new_empty(0, dtype=torch.float32 if r.dtype == torch.float16 else r.dtype)


@wkv7_forward.register_fake
def _(r, log_decay, k, v, a, b, state, starts, lengths, first, chunk, keep):
    return _outputs(r, v, state, starts, keep)


@wkv7_backward.register_fake
def _(r, log_decay, k, v, a, b, state, *rest):
    return tuple(torch.empty_like(x) for x in (r, log_decay, k, v, a, b, state))


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, starts, lengths, first, chunk, _ = inputs
    ctx.save_for_backward(*tensors, *output[2:], starts, lengths, first)
    ctx.chunk = chunk


def _gradients(ctx: Any, grad_y: Tensor, grad_final: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    *tensors, starts, lengths, first = ctx.saved_tensors
    grads = wkv7_backward(
        *tensors, grad_y.contiguous(), grad_final.contiguous(), starts, lengths, first, ctx.chunk
    )  # fmt: skip
    return (*grads, None, None, None, None, None)


torch.library.register_autograd("midi_rwkv::wkv7_forward", _gradients, setup_context=_setup)
