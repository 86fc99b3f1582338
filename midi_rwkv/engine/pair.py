"""One token of one candidate on two threads: numba_engine.py's `advance`, cut into parts that either thread claims.

A matrix is cut by rows, the recurrence by heads. Vectors are so short that each thread computes them for itself.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import cache

import numpy as np
from numba import types
from numba.extending import register_jitable

from midi_rwkv.engine import layers as engine_kernels
from midi_rwkv.engine import team as engine_team
from midi_rwkv.kernels import numba_vectors

from .cache import compiled
from .engine import Floats, State
from .layers import (
    NUMBERS,
    add,
    enter,
    finish,
    leave,
    matmul,
    mix,
    mix_values,
    prepare,
    recurrence_16,
    recurrence_64,
    relu_squared,
    sigmoid,
    tanh,
)
from .pack import PackedModel
from .team import DONE, FIRST_PART, POSTED, claim, new_team, post, release, watch

PARTS = 8  # of a large matrix
TRIAL = 8  # steps
CYCLES = (256, 8192)  # steps from one trial to the next, at least and at most
PATIENCE = 20_000  # of the follower: so often it looks for something to do, some tenths of a millisecond
SOURCES = [__file__, engine_kernels.__file__, engine_team.__file__, numba_vectors.__file__]


@cache
def together(precision: str) -> Callable[..., int]:
    """The compiled `_together` for matrices of this precision."""
    floats, integers = types.float32[::1], types.int64[::1]
    arrays = (floats, floats, NUMBERS[precision][::1], floats, types.int64[:, ::1], *[floats] * 6, integers)
    return compiled(types.int64(*arrays, *[types.intp] * 10), SOURCES)(_together)


@register_jitable
def after(place, rows, cols):  # type: ignore[no-untyped-def]
    return place[0] + rows * cols, place[1] + rows


@register_jitable
def some_rows(arrays, place, shape, part, parts):  # type: ignore[no-untyped-def]
    """`matmul` for a part of the matrix's rows -> the first of them and how many. shape: rows, cols, x, out."""
    rows, cols, x, out = shape
    first, last = rows * part // parts // 16 * 16, rows * (part + 1) // parts // 16 * 16
    matmul(arrays, (place[0] + first * cols, place[1] + first, last - first, cols, 1, x, out + first))
    return first, last - first


@register_jitable
def advance_together(  # type: ignore[no-untyped-def]
    vectors, matrices, scales, starts, own, shared, att_shift, ffn_shift, wkv, logits, team,
    begin, patience, size, head_size, rank_w, rank_v, rank_a, rank_g, vocabulary,
):  # fmt: skip
    """One token, run by each thread. `shared` begins with its embedding; `own` belongs to the thread alone.

    `begin` is the number of the token's first part; returns the next token's, or -1 where `patience` ran out. For the
    rest see `_advance`.
    """
    layers, heads = starts.shape[0] - 1, size // head_size
    x, first_values, r, w, k, v = 0, size, 2 * size, 3 * size, 4 * size, 5 * size  # in `shared`
    a, b, g, y, m, hidden = 6 * size, 7 * size, 8 * size, 9 * size, 10 * size, 11 * size
    low = 15 * size
    h, m_r, m_w, m_k, m_v, m_a, m_g = 0, 2 * size, 3 * size, 4 * size, 5 * size, 6 * size, 7 * size  # in `own`
    own_low = 8 * size
    low_v, low_a, low_g = rank_w, rank_w + rank_v, rank_w + rank_v + rank_a
    nothing = scales[:0]
    mine, ours, mixed = (vectors, own), (vectors, shared), (matrices, scales, nothing, own, shared)
    inner = (matrices, scales, nothing, shared, shared)

    for layer in range(layers):
        at, receptance, shift = starts[layer, 0], (starts[layer, 1], starts[layer, 2]), layer * size
        w1 = after(receptance, size, size)
        w2 = after(w1, rank_w, size)
        key = after(w2, size, rank_w)
        value = after(key, size, size)
        v1 = after(value, size, size)
        v2 = after(v1, rank_v, size)
        a1 = after(v2, size, rank_v) if layer else v1
        a2 = after(a1, rank_a, size)
        g1 = after(a2, size, rank_a)
        g2 = after(g1, rank_g, size)
        output = after(g2, size, rank_g)
        ffn_key = after(output, size, size)
        ffn_value = after(ffn_key, 4 * size, size)

        for i in range(size):  # time mix
            own[m_r + i], own[m_k + i] = shared[x + i], att_shift[shift + i]
        enter((vectors, own, own), (at, m_r, h, m_k, 1, 1, size))
        at += 2 * size
        for to in (m_r, m_w, m_k, m_v):
            mix(mine, (at, h, to, 1, 1, size))
            at += size
        v0 = at
        at += size if layer else 0
        for to in (m_a, m_g):
            mix(mine, (at, h, to, 1, 1, size))
            at += size
        part = claim(team, begin, 7)
        while part >= 0:
            if part == 0:
                matmul(mixed, (*w1, rank_w, size, 1, m_w, low))
                if layer:
                    matmul(mixed, (*v1, rank_v, size, 1, m_v, low + low_v))
                matmul(mixed, (*a1, rank_a, size, 1, m_a, low + low_a))
                matmul(mixed, (*g1, rank_g, size, 1, m_g, low + low_g))
            elif part < 3:
                some_rows(mixed, receptance, (size, size, m_r, r), part - 1, 2)
            elif part < 5:
                some_rows(mixed, key, (size, size, m_k, k), part - 3, 2)
            else:
                some_rows(mixed, value, (size, size, m_v, v), part - 5, 2)
            release(team)
            part = claim(team, begin, 7)
        if watch(team, DONE, begin + 7, patience) < 0:
            return -1
        begin += 7

        for i in range(rank_w + rank_v + rank_a + rank_g):
            own[own_low + i] = shared[low + i]
        tanh((own,), (own_low, rank_w))
        sigmoid((own,), (own_low + low_g, rank_g))
        part = claim(team, begin, heads)
        while part >= 0:
            if part == 0:  # here, because now nobody needs what it was
                for i in range(size):
                    att_shift[shift + i] = own[h + size + i]
            some_rows(mixed, w2, (size, rank_w, own_low, w), part, heads)
            first, count = some_rows(mixed, a2, (size, rank_a, own_low + low_a, a), part, heads)
            some_rows(mixed, g2, (size, rank_g, own_low + low_g, g), part, heads)
            if layer:
                some_rows(mixed, v2, (size, rank_v, own_low + low_v, b), part, heads)
                mix_values(ours, (v0 + first, v + first, first_values + first, b + first, 1, count))
            else:
                for i in range(first, first + count):
                    shared[first_values + i] = shared[v + i]
            prepare(ours, (at, w, k, a, b, 1, size, head_size, part, 1))
            places = (shift * head_size, r, w, k, v, a, b, y, 1, 1, size, head_size, part, 1)
            if head_size % 64 == 0:
                recurrence_64((wkv, shared), places)
            else:
                recurrence_16((wkv, shared), places)
            finish(ours, (at + 4 * size, r, k, v, g, y, 1, size, head_size, part, 1))
            release(team)
            part = claim(team, begin, heads)
        if watch(team, DONE, begin + heads, patience) < 0:
            return -1
        begin += heads
        at += 7 * size

        part = claim(team, begin, PARTS)
        while part >= 0:
            first, count = some_rows(inner, output, (size, size, y, m), part, PARTS)
            add((shared,), (x + first, m + first, count))
            release(team)
            part = claim(team, begin, PARTS)
        if watch(team, DONE, begin + PARTS, patience) < 0:
            return -1
        begin += PARTS

        for i in range(size):  # channel mix
            own[m_r + i], own[m_k + i] = shared[x + i], ffn_shift[shift + i]
        enter((vectors, own, own), (at, m_r, h, m_k, 1, 1, size))
        mix(mine, (at + 2 * size, h, m_r, 1, 1, size))
        part = claim(team, begin, PARTS)
        while part >= 0:
            first, count = some_rows(mixed, ffn_key, (4 * size, size, m_r, hidden), part, PARTS)
            relu_squared((shared,), (hidden + first, count))
            release(team)
            part = claim(team, begin, PARTS)
        if watch(team, DONE, begin + PARTS, patience) < 0:
            return -1
        begin += PARTS

        part = claim(team, begin, PARTS)
        while part >= 0:
            if part == 0:
                for i in range(size):
                    ffn_shift[shift + i] = own[h + size + i]
            first, count = some_rows(inner, ffn_value, (size, 4 * size, hidden, m), part, PARTS)
            add((shared,), (x + first, m + first, count))
            release(team)
            part = claim(team, begin, PARTS)
        if watch(team, DONE, begin + PARTS, patience) < 0:
            return -1
        begin += PARTS

    head = (starts[layers, 1], starts[layers, 2])
    for i in range(size):
        own[m_r + i] = shared[x + i]
    leave(mine, (starts[layers, 0], m_r, h, 1, 1, size))
    part = claim(team, begin, PARTS)
    while part >= 0:
        some_rows((matrices, scales, nothing, own, logits), head, (vocabulary, size, h, 0), part, PARTS)
        release(team)
        part = claim(team, begin, PARTS)
    return begin + PARTS if watch(team, DONE, begin + PARTS, patience) >= 0 else -1


def _together(  # type: ignore[no-untyped-def]
    embedding, vectors, matrices, scales, starts, own, shared, att_shift, ffn_shift, wkv, logits, team,
    token, begin, patience, size, head_size, rank_w, rank_v, rank_a, rank_g, vocabulary,
):  # fmt: skip
    """Lead through a token -> the next one's first part; or, where `token` is -1, follow through one after another.

    A follower leaves when nothing happens for as often as it looks, or when the team is dismissed.
    """
    while True:
        if token < 0:
            begin = watch(team, POSTED, begin, patience)
            if begin < 0:
                return begin
        else:
            for i in range(size):
                shared[i] = embedding[token * size + i]
            post(team, begin)
        begin = advance_together(
            vectors, matrices, scales, starts, own, shared, att_shift, ffn_shift, wkv, logits, team,
            begin, patience, size, head_size, rank_w, rank_v, rank_a, rank_g, vocabulary,
        )  # fmt: skip
        if token >= 0 or begin < 0:
            return begin


class Pair:
    """Steps of one state of one row, with whatever a thread of `pool` contributes; it may come late or not at all."""

    def __init__(self, packed: PackedModel, head_size: int, precision: str, *, state: State, pool: Executor) -> None:
        self.packed, self.pool, self.run = packed, pool, together(precision)
        self.state = (state.att_shift, state.ffn_shift, state.wkv)
        self.sizes = (state.att_shift.shape[-1], head_size, *packed.ranks, packed.vocabulary)
        self.shared = np.empty(15 * self.sizes[0] + sum(packed.ranks), np.float32)
        self.logits = np.empty(packed.vocabulary, np.float32)
        self.team, self.next_part = new_team(), FIRST_PART
        self.follower: Future[int] | None = None

    def serves(self, state: State) -> bool:
        """Whether this is the state, and its arrays are still the same."""
        return all(x is y for x, y in zip(self.state, (state.att_shift, state.ffn_shift, state.wkv), strict=True))

    def step(self, token: int) -> Floats:
        """Logits (V,), padded."""
        if self.follower is None or self.follower.done():
            self.follower = self.pool.submit(self._take_part, -1, self.next_part, PATIENCE)
        self.next_part = self._take_part(token, self.next_part, 2**62)
        return self.logits.copy()

    def dismiss(self) -> None:
        """The follower leaves as soon as it looks."""
        self.team[POSTED] = -1

    def _take_part(self, token: int, begin: int, patience: int) -> int:
        packed, size = self.packed, self.sizes[0]
        own = np.empty(8 * size + sum(packed.ranks), np.float32)
        flat = [x.reshape(-1) for x in self.state]
        return self.run(
            packed.embedding, packed.vectors, packed.matrices, packed.scales, packed.starts, own, self.shared, *flat,
            self.logits, self.team, token, begin, patience, *self.sizes,
        )  # fmt: skip


class Pace:
    """Whether two threads are quicker than one at present: each has a short trial now and then, the better the rest.

    Where others use the cores, a thread is stopped in the middle of a part, and the other one waits for milliseconds;
    so a trial that two threads have lost is repeated later and later.
    """

    def __init__(self) -> None:
        self.step, self.together, self.cycle = 0, True, CYCLES[0]
        self.seconds = {True: 0.0, False: 0.0}

    def note(self, seconds: float) -> None:
        """What a step took, done as `together` said."""
        self.seconds[self.together] += seconds
        self.step += 1
        if self.step == TRIAL:
            self.together = False
        elif self.step == 2 * TRIAL:
            self.together = self.seconds[True] < self.seconds[False]
            self.cycle = CYCLES[0] if self.together else min(2 * self.cycle, CYCLES[1])
        elif self.step == self.cycle:
            self.step, self.together, self.seconds = 0, True, {True: 0.0, False: 0.0}
