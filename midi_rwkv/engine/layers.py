"""The steps of a token's way through RWKV-7, written as vectors; numba_engine.py puts them together.

Each is a kernel of flat float32 arrays and offsets into them. `work` is the engine's workspace, `count` = batch x steps
the number of tokens in it, `size` the model's width C, and `w_at` where a kernel's weights begin.
"""

import math
from collections.abc import Callable

from midi_rwkv.kernels.numba_vectors import LANES, Array, Emitter, Index, Row, vector_kernel


@vector_kernel
def matmul(emit: Emitter, arrays: list[Array], at: list[Index]) -> None:
    """out (count, rows) = x (count, cols) times a packed matrix (rows, cols); rows and cols are multiples of 16.

    If the matrix is int8, its rows are multiplied by `scales`, and the first four inputs leave the converted numbers in
    `block` (cols, 16) for the others.
    """
    matrices, scales, block, x, out = arrays
    start, scale_at, rows, cols, count, x_at, out_at = at
    small = matrices.is_int8

    def dots(
        row: Index, first: Index, inputs: int, *, unroll: int = 1, later: bool = False, ahead: bool = False
    ) -> None:
        sums = [[emit.sum() for _ in range(unroll)] for _ in range(inputs)]
        with emit.span(cols, unroll) as c:
            for u in range(unroll):
                inside = (c + u) * LANES
                place = start + row * cols + inside
                if ahead and not small:
                    matrices.prefetch(place + cols * LANES)
                column = block.row(inside) if later and small else matrices.row(place)
                if small and inputs > 1 and not later:
                    block.put(inside, column)
                for n in range(inputs):
                    sums[n][u].add(column * x.spread(x_at + (first + n) * cols + c + u))
        for n in range(inputs):
            total = sums[n][0].row()
            for more in sums[n][1:]:
                total = total + more.row()
            out.put(out_at + (first + n) * rows + row, total * scales.row(scale_at + row) if small else total)

    fours = count // 4
    others = emit.maximum(fours, 1) - 1
    rest = emit.maximum(others, 1) - 1
    with emit.span(rows, LANES) as row:
        with emit.span(fours - others) as n:
            dots(row, n, inputs=4)
        with emit.span(others - rest) as n:  # this block is in the cache by now; fetch the next one meanwhile
            dots(row, n * 4 + 4, inputs=4, later=True, ahead=True)
        with emit.span(rest) as n:
            dots(row, n * 4 + 8, inputs=4, later=True)
        with emit.span(count - fours * 4) as n:
            dots(row, fours * 4 + n, inputs=1, unroll=4)


def normalise(emit: Emitter, weights: Array, w_at: Index, x: Array, places: tuple[Index, Index], size: Index) -> None:
    """Layer norm of one vector of x. Its scale and bias follow each other in the weights. places: x, out."""
    x_at, out_at = places
    total, squares = emit.sum(), emit.sum()
    with emit.span(size, LANES) as i:
        total.add(x.row(x_at + i))
    mean = total.row().sum() / size.number()
    with emit.span(size, LANES) as i:
        rest = x.row(x_at + i) - mean
        squares.add(rest * rest)
    scale = emit.one() / (squares.row().sum() / size.number() + 1e-5).sqrt()
    with emit.span(size, LANES) as i:
        x.put(out_at + i, (x.row(x_at + i) - mean) * scale * weights.row(w_at + i) + weights.row(w_at + size + i))


@vector_kernel
def enter(emit: Emitter, arrays: list[Array], at: list[Index]) -> None:
    """x (batch, steps, size) normalised -> h (batch, steps + 1, size). h[:, 0] is the previous call's last token."""
    weights, work, shift = arrays
    w_at, x_at, h_at, shift_at, batch, steps, size = at
    with emit.span(batch) as row:
        first, last = h_at + row * (steps + 1) * size, shift_at + row * size
        with emit.span(size, LANES) as i:
            work.put(first + i, shift.row(last + i))
        with emit.span(steps) as t:
            normalise(emit, weights, w_at, work, (x_at + (row * steps + t) * size, first + (t + 1) * size), size)
        with emit.span(size, LANES) as i:
            shift.put(last + i, work.row(first + steps * size + i))


@vector_kernel
def leave(emit: Emitter, arrays: list[Array], at: list[Index]) -> None:
    """The last token of each row of x (batch, steps, size), normalised -> out (batch, size)."""
    weights, work = arrays
    w_at, x_at, out_at, batch, steps, size = at
    with emit.span(batch) as row:
        normalise(emit, weights, w_at, work, (x_at + ((row + 1) * steps - 1) * size, out_at + row * size), size)


@vector_kernel
def mix(emit: Emitter, arrays: list[Array], at: list[Index]) -> None:
    """Token shift: h (batch, steps + 1, size) -> each token mixed with the one before it (batch, steps, size)."""
    weights, work = arrays
    w_at, h_at, out_at, batch, steps, size = at
    with emit.span(batch) as row, emit.span(steps) as t, emit.span(size, LANES) as i:
        here = h_at + (row * (steps + 1) + t) * size + i
        before, now = work.row(here), work.row(here + size)
        work.put(out_at + (row * steps + t) * size + i, now + (before - now) * weights.row(w_at + i))


def in_place(function: Callable[[Row], Row]) -> Callable[..., None]:
    @vector_kernel
    def kernel(emit: Emitter, arrays: list[Array], at: list[Index]) -> None:
        (work,), (x_at, size) = arrays, at
        with emit.span(size, LANES) as i:
            work.put(x_at + i, function(work.row(x_at + i)))

    return kernel


tanh = in_place(Row.tanh)
sigmoid = in_place(Row.sigmoid)
relu_squared = in_place(lambda x: x.at_least(0.0) * x.at_least(0.0))


@vector_kernel
def add(emit: Emitter, arrays: list[Array], at: list[Index]) -> None:
    """x += y"""
    (work,), (x_at, y_at, size) = arrays, at
    with emit.span(size, LANES) as i:
        work.put(x_at + i, work.row(x_at + i) + work.row(y_at + i))


@vector_kernel
def mix_values(emit: Emitter, arrays: list[Array], at: list[Index]) -> None:
    """v += (v_first - v) * sigmoid(v0 + gate), for `count` tokens."""
    weights, work = arrays
    w_at, v_at, first_at, gate_at, count, size = at
    with emit.span(count) as n, emit.span(size, LANES) as i:
        here = n * size + i
        v = work.row(v_at + here)
        gate = (weights.row(w_at + i) + work.row(gate_at + here)).sigmoid()
        work.put(v_at + here, v + (work.row(first_at + here) - v) * gate)


@vector_kernel
def prepare(emit: Emitter, arrays: list[Array], at: list[Index]) -> None:
    """Prepares the inputs of the recurrence for `count` tokens, with the weights w0, a0, k_k, k_a.

    In place: w becomes the decay, k the key that is stored, a the removal key -kk, and b (written) kk * rate.
    decay = exp(-exp(-softplus(-z) - 0.5)) = exp(-exp(-0.5) * sigmoid(z))
    """
    weights, work = arrays
    w_at, w, k, a, b, count, size, head_size = at
    with emit.span(count) as n, emit.span(size, head_size) as head:
        squares = emit.sum()
        with emit.span(head_size, LANES) as i:
            here = head + i
            kk = work.row(k + n * size + here) * weights.row(w_at + size * 2 + here)
            squares.add(kk * kk)
        scale = emit.one() / squares.row().sum().sqrt().at_least(1e-12)
        with emit.span(head_size, LANES) as i:
            channel = head + i
            here = n * size + channel
            decay = ((weights.row(w_at + channel) + work.row(w + here)).sigmoid() * -math.exp(-0.5)).exp()
            rate = (weights.row(w_at + size + channel) + work.row(a + here)).sigmoid()
            key = work.row(k + here)
            kk = key * weights.row(w_at + size * 2 + channel) * scale
            work.put(w + here, decay)
            work.put(k + here, key * ((rate - 1.0) * weights.row(w_at + size * 3 + channel) + 1.0))
            work.put(a + here, -kk)
            work.put(b + here, kk * rate)


def recurrence(width: int) -> Callable[..., None]:
    """The recurrence (kernels/wkv7_reference.py), `width` value channels at a time."""

    @vector_kernel
    def kernel(emit: Emitter, arrays: list[Array], at: list[Index]) -> None:
        wkv, work = arrays
        state_at, r, w, k, v, a, b, y, batch, steps, size, head_size = at
        with emit.span(batch) as row, emit.span(size, head_size) as head, emit.span(head_size, width) as column:
            state = state_at + (row * size + head) * head_size + column
            first = row * steps * size + head
            found = emit.sum(width)  # a^T S for the next token
            with emit.span(head_size) as i:
                found.add(wkv.row(state + i * head_size, width) * work.spread(a + first + i))
            with emit.span(steps) as t:
                here = first + t * size
                values, looked_up = work.row(v + here + column, width), found.row()
                output, coming = emit.sum(width), emit.sum(width)
                with emit.span(head_size) as i:
                    place, key = state + i * head_size, here + i
                    channel = wkv.row(place, width) * work.spread(w + key)
                    channel = channel + looked_up * work.spread(b + key) + values * work.spread(k + key)
                    wkv.put(place, channel)
                    output.add(channel * work.spread(r + key))
                    coming.add(channel * work.spread(a + key + size))  # past the last token this is read but never used
                work.put(y + here + column, output.row())
                found.set(coming.row())

    return kernel


recurrence_64, recurrence_16 = recurrence(64), recurrence(16)


@vector_kernel
def finish(emit: Emitter, arrays: list[Array], at: list[Index]) -> None:
    """(group norm of y + bonus) * gate, in place of y; weights r_k, ln_x's scale, its bias."""
    weights, work = arrays
    w_at, r, k, v, g, y, count, size, head_size = at
    with emit.span(count) as n, emit.span(size, head_size) as head:
        total, squares, bonus = emit.sum(), emit.sum(), emit.sum()
        first = n * size + head
        with emit.span(head_size, LANES) as i:
            total.add(work.row(y + first + i))
            r_k = weights.row(w_at + head + i)
            bonus.add(work.row(r + first + i) * work.row(k + first + i) * r_k)
        mean, weight = total.row().sum() / head_size.number(), bonus.row().sum()
        with emit.span(head_size, LANES) as i:
            rest = work.row(y + first + i) - mean
            squares.add(rest * rest)
        scale = emit.one() / (squares.row().sum() / head_size.number() + 64e-5).sqrt()
        with emit.span(head_size, LANES) as i:
            here, channel = first + i, w_at + head + i
            row = (work.row(y + here) - mean) * scale * weights.row(channel + size) + weights.row(channel + size * 2)
            work.put(y + here, (row + weight * work.row(v + here)) * work.row(g + here))
