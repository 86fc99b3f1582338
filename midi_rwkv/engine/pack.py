"""Packs the weights as the numba engine reads them: vectors in one array, matrices in another, in the order of use.

A matrix (rows, cols) is stored in blocks of 16 rows, each block column by column, with rows and columns padded with
zeros to multiples of 16. In int8 a row consists of integers from -127 to 127 and a scale; vectors are always float32.
An adapter of rank D is two matrices, (D, C) and (C, D). The order in a layer: ln1; x_r, receptance; x_w, w1, w2; x_k,
key; x_v, value, (v1, v2, v0: not in layer 0); x_a, a1, a2; x_g, g1, g2; w0, a0, k_k, k_a; r_k, ln_x; output; ln2;
ffn.x_k, ffn.key, ffn.value. After the last layer: ln_out, ln0 (for vectors; the embedding has it applied), and the
head, if there is one.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

Floats = NDArray[np.float32]
BLOCK = 16


@dataclass(frozen=True)
class Packed:
    """Weights in parts, such as layers."""

    vectors: Floats
    matrices: Floats | NDArray[np.int8]
    scales: Floats  # one per row of the matrices; empty for float32
    starts: NDArray[np.int64]  # (parts, 3): where in these three each part begins

    @property
    def nbytes(self) -> int:
        """The bytes of all parts, which a token reads."""
        return self.vectors.nbytes + self.matrices.nbytes + self.scales.nbytes


@dataclass(frozen=True)
class PackedModel(Packed):
    """An RWKV-7: a part for each layer, and what is after the last."""

    embedding: Floats  # (V, C), ln0 applied; none where the model has no embedding of its own
    ranks: tuple[int, int, int, int]  # of w, v, a, g, padded
    vocabulary: int  # padded; 0 without a head


def pack(weights: Mapping[str, Floats], n_layer: int, precision: str = "float32") -> PackedModel:
    """Packs the weights (by RWKV-LM's names) without a second copy. `precision` is that of the matrices."""
    parts = [_layer(weights, f"blocks.{layer}.", mixes_values=layer > 0) for layer in range(n_layer)]
    norms = [f"{norm}.{x}" for norm in ("ln_out", "blocks.0.ln0") for x in ("weight", "bias")]
    head = weights.get("head.weight")
    parts.append([Piece(weights[name]) for name in norms] + ([] if head is None else [Piece(head, is_matrix=True)]))
    packed = pack_parts(parts, precision)
    last = f"blocks.{n_layer - 1}.att."
    rank_w, rank_a, rank_g = (padded_size(weights[f"{last}{x}1"].shape[1]) for x in "wag")
    rank_v = padded_size(weights[f"{last}v1"].shape[1]) if n_layer > 1 else 0
    ln0 = weights["blocks.0.ln0.weight"].astype(np.float32), weights["blocks.0.ln0.bias"].astype(np.float32)
    embedding = np.empty((0, len(ln0[0])), np.float32) if head is None else normalised(weights["emb.weight"], ln0)
    vocabulary = 0 if head is None else padded_size(len(head))
    ranks = (rank_w, rank_v, rank_a, rank_g)
    return PackedModel(**vars(packed), embedding=embedding, ranks=ranks, vocabulary=vocabulary)


def pack_parts(parts: Sequence[Sequence[Piece]], precision: str) -> Packed:
    """Packs vectors and matrices one after another. `precision` is that of the matrices."""
    small = precision == "int8"
    sizes = np.array([np.sum([piece.sizes for piece in part], 0) for part in parts])
    ends = sizes.cumsum(0)
    vectors, rows = aligned(ends[-1, 0]), ends[-1, 2] if small else 0
    matrices = aligned(ends[-1, 1], np.int8 if small else np.float32)
    scales = aligned(rows)
    at = np.zeros(3, np.int64)
    for piece in itertools.chain(*parts):
        vector, matrix, scale = (
            x[i : i + n] for x, i, n in zip((vectors, matrices, scales), at, piece.sizes, strict=True)
        )
        if not piece.is_matrix:
            vector[:] = piece.values.reshape(-1)
        elif small:
            whole, scale[:] = quantised(piece.padded())
            into_blocks(whole, matrix)
        else:
            into_blocks(piece.padded(), matrix)
        at += piece.sizes
    return Packed(vectors, matrices, scales, ends - sizes)


@dataclass(frozen=True)
class Piece:
    """A vector, or a matrix (rows, cols) that is stored in blocks."""

    values: Floats
    is_matrix: bool = False

    @property
    def sizes(self) -> tuple[int, int, int]:
        """The padded size: numbers in a vector; numbers and rows in a matrix."""
        if not self.is_matrix:
            return self.values.size, 0, 0
        rows, cols = map(padded_size, self.values.shape)
        return 0, rows * cols, rows

    def padded(self) -> Floats:
        rows, cols = self.values.shape
        if rows % BLOCK == 0 and cols % BLOCK == 0:
            return self.values
        matrix = np.zeros((padded_size(rows), padded_size(cols)), np.float32)
        matrix[:rows, :cols] = self.values
        return matrix


def quantised(matrix: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Quantises (rows, cols) to integers from -127 to 127 and scales (rows,) that multiply them."""
    scales = (np.abs(matrix).max(1) / 127).astype(np.float32)
    whole = np.rint(matrix / np.where(scales > 0, scales, 1)[:, None])
    return np.clip(whole, -127, 127).astype(np.int8), scales


def into_blocks(matrix: NDArray[Any], out: NDArray[Any]) -> None:
    out.reshape(-1, matrix.shape[1], BLOCK)[:] = matrix.reshape(-1, BLOCK, matrix.shape[1]).transpose(0, 2, 1)


def _layer(weights: Mapping[str, Floats], block: str, *, mixes_values: bool) -> list[Piece]:
    att, ffn = block + "att.", block + "ffn."

    def vectors(*names: str) -> list[Piece]:
        return [Piece(weights[name]) for name in names]

    def matrix(name: str) -> Piece:
        return Piece(weights[name + ".weight"], is_matrix=True)

    def adapter(letter: str) -> list[Piece]:
        return [Piece(weights[f"{att}{letter}{i}"].T, is_matrix=True) for i in (1, 2)]

    return [
        *vectors(block + "ln1.weight", block + "ln1.bias", att + "x_r"),
        matrix(att + "receptance"),
        *vectors(att + "x_w"),
        *adapter("w"),
        *vectors(att + "x_k"),
        matrix(att + "key"),
        *vectors(att + "x_v"),
        matrix(att + "value"),
        *(adapter("v") + vectors(att + "v0") if mixes_values else []),
        *vectors(att + "x_a"),
        *adapter("a"),
        *vectors(att + "x_g"),
        *adapter("g"),
        *vectors(att + "w0", att + "a0", att + "k_k", att + "k_a", att + "r_k", att + "ln_x.weight", att + "ln_x.bias"),
        matrix(att + "output"),
        *vectors(block + "ln2.weight", block + "ln2.bias", ffn + "x_k"),
        matrix(ffn + "key"),
        matrix(ffn + "value"),
    ]


def aligned(count: int, dtype: DTypeLike = np.float32) -> NDArray[Any]:
    """Uninitialised memory for `count` numbers that begins at a multiple of 64 bytes, one cache line."""
    size = np.dtype(dtype).itemsize
    memory = np.empty(count + 64 // size, dtype)
    skip = -memory.ctypes.data // size % (64 // size)
    return memory[skip : skip + count]


def normalised(vectors: Floats, ln0: tuple[Floats, Floats]) -> Floats:
    """(N, C) with the first layer norm applied."""
    out = vectors.astype(np.float32)
    for rows in np.array_split(out, max(1, -(-len(out) // 1024))):  # views; float64 for some rows at a time
        x = rows.astype(np.float64)
        x -= x.mean(1, keepdims=True)
        x /= np.sqrt((x**2).mean(1, keepdims=True) + 1e-5)
        rows[:] = x * ln0[0] + ln0[1]
    return out


def padded_size(size: int) -> int:
    """The size, as a multiple of BLOCK."""
    return -(-size // BLOCK) * BLOCK
