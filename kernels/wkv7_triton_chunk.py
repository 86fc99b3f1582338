"""The Triton kernels of `wkv7_triton`: four launches, two of which walk through time.

Within a chunk of L tokens, with W_t the cumulative decay since its start, as in wkv7_chunked.py:

    a~ = a W_{t-1}   r~ = r W_t   b^ = b / W_t   k^ = k / W_t   b_ = b W_L / W_t   k_ = k W_L / W_t      (L, K)
    T = (I - tril(a~ b^', -1))^-1   (L, L)
    u = T (a~ S + tril(a~ k^', -1) v)   what is removed                                                    (L, V)
    y = r~ S + tril(r~ b^') u + tril(r~ k^') v                                                             (L, V)
    S' = diag(W_L) S + b_' u + k_' v                                                                       (K, V)

`prepare` computes, for all chunks at once, everything that does not need S: with p = T a~ and q = T tril(a~ k^', -1) v,

    reads = r~ + tril(r~ b^') p        y_own = tril(r~ b^') q + tril(r~ k^') v        y = reads S + y_own
    moves = b_' p                      adds = b_' q + k_' v                            S' = diag(W_L) S + moves S + adds

`scan_forward` then takes the state through the chunks with two small products per chunk, separately for blocks of
columns of V. `scan_backward` takes the state's gradient back, dS = diag(W_L) dS' + moves' dS' + reads' dy. `backward`
computes every chunk's gradients from the state before it and the state's gradient after it.

Tokens past a chunk's end are read as zeros, including log_decay, so that they do not change the state. Offsets are
int64. `KIND` is the kind of product: "bf16", "tf32", "tf32x3" (float32 accuracy on tensor cores) or "fp64".
"""

# A Triton kernel takes pointers, sizes and switches one by one; it is tuned by `work`.
# ruff: noqa: ARG001, FBT003, PLR0913

import os
import warnings
from typing import Any

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # triton 3.9 warns of a default that the next version changes
    import triton
    import triton.language as tl

INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")
BLOCK = tl.constexpr(16)  # rows that the triangular system is solved in one by one
# The arguments that autotuning depends on. `work` is the `amount_of_work`, which no kernel reads.
TUNED_FOR = ["K", "V", "L", "KIND", "work"]


def configs(warps: tuple[int, ...], stages: tuple[int, ...], **sizes: tuple[int, ...]) -> list[Any]:
    """The candidates of autotuning; in the interpreter, which cannot measure, only the first."""
    options: list[dict[str, int]] = [{}]
    for name, values in sizes.items():
        options = [{**option, name: value} for option in options for value in values]
    found = [triton.Config(o, num_warps=w, num_stages=s) for o in options for w in warps for s in stages]
    return found[:1] if INTERPRETED.value else found


def amount_of_work(chunks: int, sequences: int, heads: int) -> int:
    """A number for batch x length, so that a choice tuned on one token is not used for a training step.

    It combines two figures, each in powers of four up to 4^7: the number of programs that process all chunks at once
    (chunks x heads), and of those that walk through time (sequences x heads).
    """

    def bucket(programs: int) -> int:
        return min(7, programs.bit_length() // 2)

    return 8 * bucket(chunks * heads) + bucket(sequences * heads)


@triton.jit
def rounded(x):
    """The nearest bfloat16, as float32, for the interpreter, whose own conversion truncates."""
    bits = x.to(tl.float32).to(tl.uint32, bitcast=True)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def put(pointer, at, x, inside):
    """Stores x in the pointer's number format."""
    if INTERPRETED and pointer.dtype.element_ty == tl.bfloat16:
        x = rounded(x)
    tl.store(pointer + at, x, mask=inside)


@triton.jit
def dot(x, y, KIND: tl.constexpr):
    """The matrix product of two tiles, accumulated in float32 (float64 for "fp64")."""
    if KIND == "fp64":
        return tl.dot(x.to(tl.float64), y.to(tl.float64), out_dtype=tl.float64, input_precision="ieee")
    elif KIND == "bf16":
        if INTERPRETED:  # the interpreter's product of bfloat16 multiplies their bits as integers
            return tl.dot(rounded(x), rounded(y))
        else:
            return tl.dot(x.to(tl.bfloat16), y.to(tl.bfloat16))
    else:
        return tl.dot(x.to(tl.float32), y.to(tl.float32), input_precision=KIND)


@triton.jit
def operand(x, KIND: tl.constexpr):
    """x rounded as `dot` rounds it, so that an operand that is used twice has the same value both times."""
    if KIND == "bf16":
        return rounded(x) if INTERPRETED else x.to(tl.bfloat16)
    else:
        return x


@triton.jit
def lower(x, L: tl.constexpr, DIAGONAL: tl.constexpr):
    """x with zeros above the diagonal, and also on it unless DIAGONAL."""
    row, column = tl.arange(0, L)[:, None], tl.arange(0, L)[None, :]
    if DIAGONAL:
        return tl.where(row >= column, x, 0.0)
    else:
        return tl.where(row > column, x, 0.0)


@triton.jit
def solve(A, L: tl.constexpr, KIND: tl.constexpr):
    """(I - A)^-1 of a strictly lower triangular A (L, L), by substitution.

    Row by row within blocks of 16 on the diagonal, all blocks at once, then block row by block row. The doubling series
    (I + A)(I + A^2)(I + A^4)... would be shorter, and loses all digits when keys repeat (kernels/README.md).
    """
    BLOCKS: tl.constexpr = L // BLOCK
    at, other = tl.arange(0, BLOCKS)[:, None, None, None], tl.arange(0, BLOCKS)[None, None, :, None]
    split = tl.reshape(A, (BLOCKS, BLOCK, BLOCKS, BLOCK))
    within = tl.sum(tl.where(at == other, split, 0.0), 2)  # (BLOCKS, 16, 16)
    row, column = tl.arange(0, BLOCK)[None, :, None], tl.arange(0, BLOCK)[None, None, :]
    inverse = tl.where(row == column, 1.0, 0.0).to(A.dtype) + tl.zeros_like(within)
    for i in range(1, BLOCK):
        factors = tl.sum(tl.where(row == i, within, 0.0), 1)  # (BLOCKS, 16)
        found = tl.sum(factors[:, :, None] * inverse, 1)
        inverse = tl.where(row == i, inverse + found[:, None, :], inverse)
    first = tl.reshape(tl.where(at == other, inverse[:, :, None, :], 0.0), (L, L))
    if BLOCKS == 1:
        return first
    else:
        block_row, block_column = tl.arange(0, L)[:, None] // BLOCK, tl.arange(0, L)[None, :] // BLOCK
        below = dot(first, tl.where(block_row > block_column, A, 0.0), KIND)
        whole = first
        for i in tl.static_range(1, BLOCKS):
            whole = tl.where(block_row == i, first + dot(below, whole, KIND), whole)
        return whole


@triton.jit
def offsets(start, head, H, L: tl.constexpr, SIZE: tl.constexpr):
    """(L, SIZE) offsets of a chunk's vectors of one head in (tokens, H, SIZE)."""
    token = start.to(tl.int64) + tl.arange(0, L)
    return (token * H + head)[:, None] * SIZE + tl.arange(0, SIZE)[None, :]


@triton.jit
def read(pointer, at, inside, KIND: tl.constexpr):
    """Loads a chunk in the number format of the computation."""
    x = tl.load(pointer + at, mask=inside, other=0.0)
    return x.to(tl.float64) if KIND == "fp64" else x.to(tl.float32)


@triton.autotune(configs((8, 4), (1,)), key=TUNED_FOR)
@triton.jit(do_not_specialize=["work"])
def prepare(
    r, log_decay, k, v, a, b, starts, lengths, decays, moves, adds, reads, y,
    work, H, K: tl.constexpr, V: tl.constexpr, L: tl.constexpr, KIND: tl.constexpr, SOLVE: tl.constexpr,
):  # fmt: skip
    """Per chunk and head: W_L -> decays (C, H, K), moves (C, H, K, K), adds (C, H, K, V), reads, y_own -> y."""
    chunk, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    start, length = tl.load(starts + chunk), tl.load(lengths + chunk)
    inside = tl.arange(0, L)[:, None] < length
    keys, values = offsets(start, head, H, L, K), offsets(start, head, H, L, V)
    step = read(log_decay, keys, inside, KIND)
    total = tl.cumsum(step, 0)
    whole = tl.sum(step, 0)
    row = chunk * H + head
    tl.store(decays + row * K + tl.arange(0, K), tl.exp(whole))

    value_b, value_k = read(b, keys, inside, KIND), read(k, keys, inside, KIND)
    inverse = tl.exp(-total)
    b_out, k_out = tl.trans(value_b * inverse), tl.trans(value_k * inverse)  # (K, L)
    a_in = read(a, keys, inside, KIND) * tl.exp(total - step)
    T = solve(lower(dot(a_in, b_out, KIND), L, False), L, SOLVE)
    p = dot(T, a_in, SOLVE)  # (L, K)
    value_v = read(v, values, inside, KIND)
    q = dot(T, dot(lower(dot(a_in, k_out, KIND), L, False), value_v, KIND), SOLVE)  # (L, V)

    r_in = read(r, keys, inside, KIND) * tl.exp(total)
    r_b = lower(dot(r_in, b_out, KIND), L, True)
    put(reads, keys, r_in + dot(r_b, p, KIND), inside)
    own = dot(r_b, q, KIND) + dot(lower(dot(r_in, k_out, KIND), L, True), value_v, KIND)
    put(y, values, own, inside)

    left = tl.exp(whole[None, :] - total)
    b_end, k_end = tl.trans(value_b * left), tl.trans(value_k * left)
    key = tl.arange(0, K)[:, None]
    put(moves, row * K * K + key * K + tl.arange(0, K)[None, :], dot(b_end, p, KIND), True)
    added = dot(b_end, q, KIND) + dot(k_end, value_v, KIND)
    put(adds, row * K * V + key * V + tl.arange(0, V)[None, :], added, True)


@triton.autotune(
    configs((4,), (1, 3), BV=(32, 16, 64)),
    key=TUNED_FOR,
    restore_value=["y"],  # the kernel adds to y, and tuning runs it many times
)
@triton.jit(do_not_specialize=["work"])
def scan_forward(
    decays, moves, adds, reads, state, starts, lengths, first, y, states, final,
    work, H, K: tl.constexpr, V: tl.constexpr, L: tl.constexpr, KIND: tl.constexpr, KEEP: tl.constexpr,
    BV: tl.constexpr,
):  # fmt: skip
    """Per sequence and BV columns of a head's state: y += reads S; `states` (C, H, K, V) before each chunk."""
    block, head, sequence = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2)
    key, column = tl.arange(0, K)[:, None], block * BV + tl.arange(0, BV)[None, :]
    inside_v = column < V
    place = (sequence * H + head) * K * V + key * V + column
    S = read(state, place, inside_v, KIND)
    for chunk in range(tl.load(first + sequence), tl.load(first + sequence + 1)):
        start, length = tl.load(starts + chunk), tl.load(lengths + chunk)
        inside = tl.arange(0, L)[:, None] < length
        row = chunk * H + head
        tile = row * K * V + key * V + column
        if KEEP:
            put(states, tile, S, inside_v)
        seen = tl.load(reads + offsets(start, head, H, L, K), mask=inside, other=0.0)
        token = start.to(tl.int64) + tl.arange(0, L)[:, None]
        out = (token * H + head) * V + column
        own = read(y, out, inside & inside_v, KIND)
        put(y, out, own + dot(seen, S, KIND), inside & inside_v)
        move = tl.load(moves + row * K * K + key * K + tl.arange(0, K)[None, :])
        decay = tl.load(decays + row * K + tl.arange(0, K))
        S = decay[:, None] * S + dot(move, S, KIND) + read(adds, tile, inside_v, KIND)
    put(final, place, S, inside_v)


@triton.autotune(configs((4,), (1, 3), BV=(32, 16, 64)), key=TUNED_FOR)
@triton.jit(do_not_specialize=["work"])
def scan_backward(
    decays, moves, reads, grad_y, grad_final, starts, lengths, first, grad_states, grad_state,
    work, H, K: tl.constexpr, V: tl.constexpr, L: tl.constexpr, KIND: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    """As `scan_forward`, from the last chunk on: grad_states (C, H, K, V) after each, grad_state before the first."""
    block, head, sequence = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2)
    key, column = tl.arange(0, K)[:, None], block * BV + tl.arange(0, BV)[None, :]
    inside_v = column < V
    place = (sequence * H + head) * K * V + key * V + column
    dS = read(grad_final, place, inside_v, KIND)
    begin, end = tl.load(first + sequence), tl.load(first + sequence + 1)
    for back in range(end - begin):
        chunk = end - 1 - back
        start, length = tl.load(starts + chunk), tl.load(lengths + chunk)
        inside = tl.arange(0, L)[:, None] < length
        row = chunk * H + head
        put(grad_states, row * K * V + key * V + column, dS, inside_v)
        seen = tl.load(reads + offsets(start, head, H, L, K), mask=inside, other=0.0)
        token = start.to(tl.int64) + tl.arange(0, L)[:, None]
        dy = tl.load(grad_y + (token * H + head) * V + column, mask=inside & inside_v, other=0.0)
        move = tl.load(moves + row * K * K + key * K + tl.arange(0, K)[None, :])
        decay = tl.load(decays + row * K + tl.arange(0, K))
        dS = decay[:, None] * dS + dot(tl.trans(move), dS, KIND) + dot(tl.trans(seen), dy, KIND)
    put(grad_state, place, dS, inside_v)


@triton.autotune(configs((8, 4), (1,)), key=TUNED_FOR)
@triton.jit(do_not_specialize=["work"])
def backward(
    r, log_decay, k, v, a, b, states, grad_states, grad_y, starts, lengths, dr, dlog_decay, dk, dv, da, db,
    work, H, K: tl.constexpr, V: tl.constexpr, L: tl.constexpr, KIND: tl.constexpr, SOLVE: tl.constexpr,
):  # fmt: skip
    """Per chunk and head: the gradients of its inputs. `d` before a name is the loss's gradient in it."""
    chunk, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    start, length = tl.load(starts + chunk), tl.load(lengths + chunk)
    inside = tl.arange(0, L)[:, None] < length
    keys, values = offsets(start, head, H, L, K), offsets(start, head, H, L, V)
    row = chunk * H + head
    tile = row * K * V + tl.arange(0, K)[:, None] * V + tl.arange(0, V)[None, :]
    step = read(log_decay, keys, inside, KIND)
    total = tl.cumsum(step, 0)
    whole = tl.sum(step, 0)
    left = tl.exp(whole[None, :] - total)

    a_in = operand(read(a, keys, inside, KIND) * tl.exp(total - step), KIND)
    value_b, value_k = read(b, keys, inside, KIND), read(k, keys, inside, KIND)
    b_out, k_out = operand(value_b * tl.exp(-total), KIND), operand(value_k * tl.exp(-total), KIND)
    value_v = tl.load(v + values, mask=inside, other=0.0)
    dy = tl.load(grad_y + values, mask=inside, other=0.0)
    S, dS = tl.load(states + tile), tl.load(grad_states + tile)

    T = solve(lower(dot(a_in, tl.trans(b_out), KIND), L, False), L, SOLVE)
    a_k = lower(dot(a_in, tl.trans(k_out), KIND), L, False)
    u = dot(T, dot(a_in, S, KIND) + dot(a_k, value_v, KIND), SOLVE)  # (L, V)
    r_in = operand(read(r, keys, inside, KIND) * tl.exp(total), KIND)
    r_b = lower(dot(r_in, tl.trans(b_out), KIND), L, True)
    du = dot(tl.trans(r_b), dy, KIND) + dot(value_b * left, dS, KIND)
    dz = dot(tl.trans(T), du, SOLVE)  # of what T is applied to
    r_k = lower(dot(r_in, tl.trans(k_out), KIND), L, True)
    grad = dot(tl.trans(r_k), dy, KIND) + dot(value_k * left, dS, KIND) + dot(tl.trans(a_k), dz, KIND)
    put(dv, values, grad, inside)

    grad_b = lower(dot(dz, tl.trans(u), KIND), L, False)  # of tril(a~ b^'), then of tril(a~ k^')
    grad_k = lower(dot(dz, tl.trans(value_v), KIND), L, False)
    grad_in = dot(dz, tl.trans(S), KIND) + dot(grad_b, b_out, KIND) + dot(grad_k, k_out, KIND)
    put(da, keys, grad_in * tl.exp(total - step), inside)
    grad_before = grad_in * a_in  # of the logarithm of W_{t-1}
    out_b, out_k = dot(tl.trans(grad_b), a_in, KIND), dot(tl.trans(grad_k), a_in, KIND)

    grad_b = lower(dot(dy, tl.trans(u), KIND), L, True)  # of tril(r~ b^'), then of tril(r~ k^')
    grad_k = lower(dot(dy, tl.trans(value_v), KIND), L, True)
    grad_in = dot(dy, tl.trans(S), KIND) + dot(grad_b, b_out, KIND) + dot(grad_k, k_out, KIND)
    put(dr, keys, grad_in * tl.exp(total), inside)
    out_b += dot(tl.trans(grad_b), r_in, KIND)
    out_k += dot(tl.trans(grad_k), r_in, KIND)
    grad_total = grad_in * r_in - out_b * b_out - out_k * k_out  # of the logarithm of W_t

    end_b, end_k = dot(u, tl.trans(dS), KIND) * left, dot(value_v, tl.trans(dS), KIND) * left
    put(db, keys, out_b * tl.exp(-total) + end_b, inside)
    put(dk, keys, out_k * tl.exp(-total) + end_k, inside)
    end = end_b * value_b + end_k * value_k
    grad_whole = tl.sum(end, 0) + tl.exp(whole) * tl.sum(dS.to(step.dtype) * S.to(step.dtype), 1)
    later = tl.cumsum(grad_total - end + grad_before, 0, reverse=True) - grad_before
    put(dlog_decay, keys, later + grad_whole[None, :], inside)
