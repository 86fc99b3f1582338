"""The decoding engine compiled by numba, which runs RWKV-7 on a CPU core without torch.

A token of a small model takes as long as reading its weights, so everything here serves the reading:

- The matrices are in one array, in the order in which a token needs them. A matrix is stored in blocks of 16 rows, each
  block column by column. The product therefore reads memory strictly forwards, which doubles the bandwidth of a core
  compared with several rows side by side, and its 16 sums are in one vector at the end.
- A product uses four inputs (candidates, or tokens of a prompt) per reading of a block.
- `advance` is the whole model for any number of rows and tokens: decoding is the case of one token, prefill the case of
  many. One compiled function takes about a second to compile, less than importing torch, and is kept on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import types
from numpy.typing import ArrayLike

from midi_rwkv.kernels import numba_vectors
from midi_rwkv.native import compiled, jitable

from . import layers
from .engine import Floats, State, check_tokens, check_vectors, shape_of
from .layers import (
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
from .pack import BLOCK, pack

SOURCES = [__file__, layers.__file__, numba_vectors.__file__]
MATRIX_TYPES = {"float32": types.float32, "int8": types.int8}  # by precision

floats = types.float32[::1]


@cache
def advance(precision: str) -> Callable[..., None]:
    """The compiled `_advance` for matrices of this precision."""
    arrays = (floats, floats, MATRIX_TYPES[precision][::1], floats, types.int64[:, ::1], *[floats] * 6)
    return compiled(types.void(*arrays, *[types.intp] * 13), SOURCES)(_advance)


@jitable
def project(arrays: Any, place: Any, shape: Any) -> Any:
    """`matmul` by the matrix at `place` in (matrices, scales). Returns the place of the next one."""
    rows, cols, count, x, out = shape
    matmul(arrays, (place[0], place[1], rows, cols, count, x, out))
    return place[0] + rows * cols, place[1] + rows


def _advance(  # type: ignore[no-untyped-def]  # noqa: PLR0913 -- numba compiles no records of arrays
    inputs, vectors, matrices, scales, starts, block, work, att_shift, ffn_shift, wkv, out,
    first_layer, last_layer, rows, first_row, batch, steps, size, head_size, rank_w, rank_v, rank_a, rank_g, vocabulary,
):  # fmt: skip
    """Layers first_layer to last_layer - 1 for `batch` rows of the state from first_row on, `steps` tokens per row.

    The state's arrays have `rows` rows and are updated in place. Layer 0 begins with `inputs` (batch x
    steps), the tokens' embeddings, to which ln0 has been applied, or with a vocabulary of 0 any vectors. The last layer
    ends with `out`, if there is one: the logits of each row's last token, or with a vocabulary of 0 the normalised
    output. Between layers, x is at the beginning of `work`, followed by the first layer's values.
    `starts` are the places where the weights of each layer begin, and those after the last. `block` is `matmul`'s.
    `vocabulary` and the ranks of the adapters are padded. The order of the weights is pack.py's.
    """
    count, layers = batch * steps, starts.shape[0] - 1
    full = count * size
    x, first_values, h = 0, full, 2 * full
    m = 3 * full + batch * size  # h has one more token per row
    r, w, k, v = m + full, m + 2 * full, m + 3 * full, m + 4 * full
    a, b, g, y = m + 5 * full, m + 6 * full, m + 7 * full, m + 8 * full
    hidden, low = m + 9 * full, m + 13 * full
    both, only, product = (vectors, work), (work,), (matrices, scales, block, work, work)

    if first_layer == 0:
        entry = x if vocabulary > 0 else h
        for i in range(full):
            work[entry + i] = inputs[i]
        if vocabulary == 0:
            leave(both, (starts[layers, 0] + 2 * size, entry, x, count, 1, size))  # ln0, of every vector

    for layer in range(first_layer, last_layer):
        at, place = starts[layer, 0], (starts[layer, 1], starts[layer, 2])
        shift = (layer * rows + first_row) * size

        enter((vectors, work, att_shift), (at, x, h, shift, batch, steps, size))  # time mix
        at += 2 * size

        mix(both, (at, h, m, batch, steps, size))
        at += size
        place = project(product, place, (size, size, count, m, r))

        mix(both, (at, h, m, batch, steps, size))
        at += size
        place = project(product, place, (rank_w, size, count, m, low))
        tanh(only, (low, count * rank_w))
        place = project(product, place, (size, rank_w, count, low, w))

        mix(both, (at, h, m, batch, steps, size))
        at += size
        place = project(product, place, (size, size, count, m, k))

        mix(both, (at, h, m, batch, steps, size))
        at += size
        place = project(product, place, (size, size, count, m, v))
        if layer == 0:
            for i in range(full):
                work[first_values + i] = work[v + i]
        else:
            place = project(product, place, (rank_v, size, count, m, low))
            place = project(product, place, (size, rank_v, count, low, b))
            mix_values(both, (at, v, first_values, b, count, size))
            at += size

        mix(both, (at, h, m, batch, steps, size))
        at += size
        place = project(product, place, (rank_a, size, count, m, low))
        place = project(product, place, (size, rank_a, count, low, a))

        mix(both, (at, h, m, batch, steps, size))
        at += size
        place = project(product, place, (rank_g, size, count, m, low))
        sigmoid(only, (low, count * rank_g))
        place = project(product, place, (size, rank_g, count, low, g))

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
        place = project(product, place, (size, size, count, y, m))
        add(only, (x, m, full))

        enter((vectors, work, ffn_shift), (at, x, h, shift, batch, steps, size))  # channel mix
        at += 2 * size
        mix(both, (at, h, m, batch, steps, size))
        at += size
        place = project(product, place, (4 * size, size, count, m, hidden))
        relu_squared(only, (hidden, 4 * full))
        place = project(product, place, (size, 4 * size, count, hidden, m))
        add(only, (x, m, full))

    if last_layer == layers and out.shape[0] > 0:
        at, place = starts[layers, 0], (starts[layers, 1], starts[layers, 2])
        leave(both, (at, x, m, batch, steps, size))
        if vocabulary > 0:
            final = (matrices, scales, block, work, out)
            project(final, place, (vocabulary, size, batch, m, first_row * vocabulary))
        else:
            for i in range(batch * size):
                out[first_row * size + i] = work[m + i]


class Output(NamedTuple):
    """What is wanted of each row's last input."""

    values: Floats  # (B, vocabulary) logits of tokens, or (B, C) what heads read of vectors; empty: neither
    vocabulary: int = 0  # padded; 0 where the inputs are vectors


class NumbaEngine:
    """An `Engine`. With two threads, prefill is a pipeline of two halves of the layers, and a step halves its rows."""

    name = "numba"
    block_tokens = 128  # rows x tokens that prefill processes at once; their vectors fit the second-level cache

    def __init__(
        self, weights: Mapping[str, Floats], head_size: int, threads: int = 1, precision: str = "float32"
    ) -> None:
        self.config = shape_of(weights, head_size)
        self.vocab_size = self.config.vocab_size
        self.other = ThreadPoolExecutor(1) if threads > 1 else None
        self.advance = advance(precision)
        self.packed = pack(weights, self.config.n_layer, precision)
        self.embedding = self.packed.embedding

    def new_state(self, batch: int = 1, wkv0: Floats | None = None) -> State:
        return State.new(self.config, batch, wkv0)

    def prefill(self, tokens: Sequence[int], state: State) -> Floats:
        out = self._logits(state.batch)
        self._prefill(self.embedding[check_tokens(tokens, self.vocab_size)], state, out)
        return out.values[:, : self.vocab_size]

    def step(self, tokens: ArrayLike, state: State) -> Floats:
        out = self._logits(state.batch)
        self._step(self.embedding[check_tokens(tokens, self.vocab_size, state.batch)], state, out)
        return out.values[:, : self.vocab_size]

    def prefill_vectors(self, vectors: Floats, state: State) -> Floats:
        out = self._hidden(state.batch)
        self._prefill(check_vectors(vectors, self.config.n_embd), state, out)
        return out.values

    def step_vectors(self, vectors: Floats, state: State) -> Floats:
        out = self._hidden(state.batch)
        self._step(check_vectors(vectors, self.config.n_embd, state.batch), state, out)
        return out.values

    def _logits(self, batch: int) -> Output:
        vocabulary = self.packed.vocabulary
        return Output(np.empty((batch, vocabulary), np.float32), vocabulary)

    def _hidden(self, batch: int) -> Output:
        return Output(np.empty((batch, self.config.n_embd), np.float32))

    def _prefill(self, inputs: Floats, state: State, out: Output) -> None:
        """Advances every row of `state` by the same inputs (T, C)."""
        steps = max(1, self.block_tokens // state.batch)
        pieces = [np.tile(inputs[i : i + steps], (state.batch, 1)) for i in range(0, len(inputs), steps)]
        nothing = Output(np.empty(0, np.float32), out.vocabulary)
        wanted = [nothing] * (len(pieces) - 1) + [out]
        n_layer, middle = self.config.n_layer, self.config.n_layer // 2
        if self.other is None or len(pieces) == 1 or middle == 0:
            work = self._workspace(state.batch * steps, state.batch)
            for piece, last in zip(pieces, wanted, strict=True):
                self._advance(piece, state, work, last, (0, n_layer))
            return
        spaces = [self._workspace(state.batch * steps, state.batch) for _ in range(2)]
        upper: list[Future[None]] = []
        for i, (piece, last) in enumerate(zip(pieces, wanted, strict=True)):
            if i >= len(spaces):
                upper[i - len(spaces)].result()  # its workspace is free again
            work = spaces[i % len(spaces)]
            self._advance(piece, state, work, nothing, (0, middle))
            upper.append(self.other.submit(self._advance, piece, state, work, last, (middle, n_layer)))
        for future in upper:
            future.result()

    def _step(self, inputs: Floats, state: State, out: Output) -> None:
        """Advances each row of `state` by an input of its own, (B, C)."""
        layers, half = (0, self.config.n_layer), (state.batch // 2 + 3) // 4 * 4  # products use four rows at a time
        if self.other is None or not 0 < half < state.batch:
            self._advance(inputs, state, self._workspace(state.batch, state.batch), out, layers)
        else:
            spaces = [self._workspace(state.batch, state.batch) for _ in range(2)]
            first = self.other.submit(self._advance, inputs[:half], state, spaces[0], out, layers, (0, half))
            self._advance(inputs[half:], state, spaces[1], out, layers, (half, state.batch))
            first.result()

    def _workspace(self, tokens: int, batch: int) -> Floats:
        return np.empty((16 * tokens + batch) * self.config.n_embd + tokens * max(self.packed.ranks), np.float32)

    def _advance(
        self,
        inputs: Floats,
        state: State,
        work: Floats,
        out: Output,
        layers: tuple[int, int],
        rows: tuple[int, int] | None = None,
    ) -> None:
        """Advances the state's rows first to last - 1 (None: all) by `inputs` (rows x tokens, C), through some layers.

        What is wanted of the last inputs is written into those rows of `out`.
        """
        packed, (first, last) = self.packed, rows or (0, state.batch)
        block = np.empty(BLOCK * 4 * self.config.n_embd if packed.matrices.itemsize == 1 else 0, np.float32)
        self.advance(
            inputs.reshape(-1), packed.vectors, packed.matrices, packed.scales, packed.starts, block, work,
            state.att_shift.reshape(-1), state.ffn_shift.reshape(-1), state.wkv.reshape(-1), out.values.reshape(-1),
            *layers, state.batch, first, last - first, len(inputs) // (last - first),
            self.config.n_embd, self.config.head_size,
            *packed.ranks, out.vocabulary,
        )  # fmt: skip
