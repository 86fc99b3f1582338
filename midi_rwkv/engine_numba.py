"""The decoding engine compiled by numba: RWKV-7 on a CPU core, without torch.

A token of a small model costs as long as its weights take to be read, so everything here serves the reading:
- All weights lie in one array in the order in which a token needs them. A matrix lies in blocks of 16 rows, a block
  column by column: the product reads memory strictly forwards, which doubles what a core gets out of it compared with
  several rows side by side, and its 16 sums stand in one vector at the end.
- A product takes four inputs (candidates, or tokens of a prompt) to each reading of a block.
- `advance` is the whole model for any number of rows and tokens: decoding is its case of one token, prefill its case
  of many. One compiled function takes about a second to compile, less than importing torch, and is kept on disk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from numba import types
from numpy.typing import ArrayLike

from . import engine_kernels
from .engine import Engine, Floats, Ids, State
from .engine_cache import compiled
from .engine_kernels import (
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
from .engine_pack import pack
from .kernels import numba_vectors

BLOCK_TOKENS = 128  # rows x tokens that prefill works on at once; their vectors fit the second-level cache
SOURCES = [__file__, engine_kernels.__file__, numba_vectors.__file__]

floats, integers = types.float32[::1], types.int64[::1]


@compiled(types.void(integers, floats, floats, integers, *[floats] * 5, *[types.intp] * 13), SOURCES)
def advance(  # type: ignore[no-untyped-def]
    ids, embedding, weights, starts, work, att_shift, ffn_shift, wkv, logits,
    first_layer, last_layer, rows, first_row, batch, steps, size, head_size, rank_w, rank_v, rank_a, rank_g, vocabulary,
):  # fmt: skip
    """Layers first_layer to last_layer - 1 for `batch` rows of the state from first_row on, `steps` tokens a row.

    The state's arrays have `rows` rows and are moved on in place. Layer 0 begins with the tokens `ids` (batch x steps);
    the last layer ends with the logits of each row's last token, unless `vocabulary` is 0. Between layers, x stands at
    the beginning of `work` and the first layer's values after it. `starts` says where the weights of each layer begin,
    and where those after the last. `vocabulary` and the ranks of the adapters are padded. The order of the weights is
    engine_pack.py's.
    """
    count, layers = batch * steps, len(starts) - 1
    full = count * size
    x, first_values, h = 0, full, 2 * full
    m = 3 * full + batch * size  # h has one token more a row
    r, w, k, v = m + full, m + 2 * full, m + 3 * full, m + 4 * full
    a, b, g, y = m + 5 * full, m + 6 * full, m + 7 * full, m + 8 * full
    hidden, low = m + 9 * full, m + 13 * full
    both, only, product = (weights, work), (work,), (weights, work, work)
    square = size * size

    if first_layer == 0:
        for n in range(count):
            for i in range(size):
                work[n * size + i] = embedding[ids[n] * size + i]

    for layer in range(first_layer, last_layer):
        at = starts[layer]
        shift = (layer * rows + first_row) * size

        enter((weights, work, att_shift), (at, x, h, shift, batch, steps, size))  # time mix
        at += 2 * size

        mix(both, (at, h, m, batch, steps, size))
        at += size
        matmul(product, (at, size, size, count, m, r))
        at += square

        mix(both, (at, h, m, batch, steps, size))
        at += size
        matmul(product, (at, rank_w, size, count, m, low))
        at += rank_w * size
        tanh(only, (low, count * rank_w))
        matmul(product, (at, size, rank_w, count, low, w))
        at += rank_w * size

        mix(both, (at, h, m, batch, steps, size))
        at += size
        matmul(product, (at, size, size, count, m, k))
        at += square

        mix(both, (at, h, m, batch, steps, size))
        at += size
        matmul(product, (at, size, size, count, m, v))
        at += square
        if layer == 0:
            for i in range(full):
                work[first_values + i] = work[v + i]
        else:
            matmul(product, (at, rank_v, size, count, m, low))
            at += rank_v * size
            matmul(product, (at, size, rank_v, count, low, b))
            at += rank_v * size
            mix_values(both, (at, v, first_values, b, count, size))
            at += size

        mix(both, (at, h, m, batch, steps, size))
        at += size
        matmul(product, (at, rank_a, size, count, m, low))
        at += rank_a * size
        matmul(product, (at, size, rank_a, count, low, a))
        at += rank_a * size

        mix(both, (at, h, m, batch, steps, size))
        at += size
        matmul(product, (at, rank_g, size, count, m, low))
        at += rank_g * size
        sigmoid(only, (low, count * rank_g))
        matmul(product, (at, size, rank_g, count, low, g))
        at += rank_g * size

        prepare(both, (at, w, k, a, b, count, size, head_size))
        at += 4 * size
        state = (layer * rows + first_row) * size * head_size
        places = (state, r, w, k, v, a, b, y, batch, steps, size, head_size)
        if head_size % 64 == 0:
            recurrence_64((wkv, work), places)
        else:
            recurrence_16((wkv, work), places)
        finish(both, (at, r, k, v, g, y, count, size, head_size))
        at += 3 * size
        matmul(product, (at, size, size, count, y, m))
        at += square
        add(only, (x, m, full))

        enter((weights, work, ffn_shift), (at, x, h, shift, batch, steps, size))  # channel mix
        at += 2 * size
        mix(both, (at, h, m, batch, steps, size))
        at += size
        matmul(product, (at, 4 * size, size, count, m, hidden))
        at += 4 * square
        relu_squared(only, (hidden, 4 * full))
        matmul(product, (at, size, 4 * size, count, hidden, m))
        add(only, (x, m, full))

    if last_layer == layers:
        at = starts[layers]
        leave(both, (at, x, m, batch, steps, size))
        matmul((weights, work, logits), (at + 2 * size, vocabulary, size, batch, m, first_row * vocabulary))


class NumbaEngine(Engine):
    """See `Engine`. With two threads, prefill is a pipeline of two halves of the layers, and a step halves its rows."""

    def __init__(self, weights: Mapping[str, Floats], head_size: int, threads: int = 1) -> None:
        super().__init__(weights, head_size)
        self.name = "numba"
        self.other = ThreadPoolExecutor(1) if threads > 1 else None
        self.packed = pack(weights, self.n_layer)
        self.nothing = np.empty(0, np.float32)

    def prefill(self, tokens: Sequence[int], state: State) -> Floats:
        ids = self.check_tokens(tokens)
        logits = self._logits(state.batch)
        steps = max(1, BLOCK_TOKENS // state.batch)
        pieces = [np.tile(ids[i : i + steps], state.batch) for i in range(0, len(ids), steps)]
        wanted = [None] * (len(pieces) - 1) + [logits]
        middle = self.n_layer // 2
        if self.other is None or len(pieces) == 1 or middle == 0:
            work = self._workspace(state.batch * steps, state.batch)
            for piece, out in zip(pieces, wanted, strict=True):
                self._advance(piece, state, work, out, (0, self.n_layer))
            return logits[:, : self.vocab_size]
        spaces = [self._workspace(state.batch * steps, state.batch) for _ in range(2)]
        upper: list[Future[None]] = []
        for i, (piece, out) in enumerate(zip(pieces, wanted, strict=True)):
            if i >= len(spaces):
                upper[i - len(spaces)].result()  # its workspace is free again
            work = spaces[i % len(spaces)]
            self._advance(piece, state, work, None, (0, middle))
            upper.append(self.other.submit(self._advance, piece, state, work, out, (middle, self.n_layer)))
        for future in upper:
            future.result()
        return logits[:, : self.vocab_size]

    def step(self, tokens: ArrayLike, state: State) -> Floats:
        ids = self.check_tokens(tokens, state.batch)
        logits = self._logits(state.batch)
        layers, half = (0, self.n_layer), (state.batch // 2 + 3) // 4 * 4  # products take rows by four
        if self.other is None or not 0 < half < state.batch:
            self._advance(ids, state, self._workspace(state.batch, state.batch), logits, layers)
        else:
            spaces = [self._workspace(state.batch, state.batch) for _ in range(2)]
            first = self.other.submit(self._advance, ids[:half], state, spaces[0], logits, layers, (0, half))
            self._advance(ids[half:], state, spaces[1], logits, layers, (half, state.batch))
            first.result()
        return logits[:, : self.vocab_size]

    def _logits(self, batch: int) -> Floats:
        return np.empty((batch, self.packed.vocabulary), np.float32)

    def _workspace(self, tokens: int, batch: int) -> Floats:
        return np.empty((16 * tokens + batch) * self.n_embd + tokens * max(self.packed.ranks), np.float32)

    def _advance(
        self,
        ids: Ids,
        state: State,
        work: Floats,
        logits: Floats | None,
        layers: tuple[int, int],
        rows: tuple[int, int] | None = None,
    ) -> None:
        """Move the state's rows first to last - 1 (None: all) on by `ids`, rows x tokens, through some layers.

        Logits, where they are wanted, are written into those rows of `logits`.
        """
        packed, (first, last) = self.packed, rows or (0, state.batch)
        out, vocabulary = (self.nothing, 0) if logits is None else (logits.reshape(-1), packed.vocabulary)
        advance(
            ids, packed.embedding, packed.weights, packed.starts, work,
            state.att_shift.reshape(-1), state.ffn_shift.reshape(-1), state.wkv.reshape(-1), out,
            *layers, state.batch, first, last - first, len(ids) // (last - first), self.n_embd, self.head_size,
            *packed.ranks, vocabulary,
        )  # fmt: skip
