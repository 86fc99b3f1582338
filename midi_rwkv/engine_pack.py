"""The weights as the numba engine reads them: one array, in the order in which a token needs them.

A matrix (rows, cols) lies in blocks of 16 rows, a block column by column, rows and columns filled up to multiples of
16 with zeros. An adapter of rank D is two matrices, (D, C) and (C, D). The order in a layer: ln1; x_r, receptance;
x_w, w1, w2; x_k, key; x_v, value, (v1, v2, v0: not in layer 0); x_a, a1, a2; x_g, g1, g2; w0, a0, k_k, k_a;
r_k, ln_x; output; ln2; ffn.x_k, ffn.key, ffn.value. After the last layer: ln_out, head.
ln0 is worked into the embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
BLOCK = 16


@dataclass(frozen=True)
class PackedModel:
    embedding: Floats  # (V * C,), ln0 applied
    weights: Floats
    starts: NDArray[np.int64]  # where each layer begins, and what follows the last
    ranks: tuple[int, int, int, int]  # of w, v, a, g, padded
    vocabulary: int  # padded


def pack(weights: Mapping[str, Floats], n_layer: int) -> PackedModel:
    """The weights of RWKV-LM's names, packed; no second copy of them is made on the way."""
    starts: list[int] = []
    pieces: list[Piece] = []
    for layer in range(n_layer):
        starts.append(sum(piece.size for piece in pieces))
        pieces += _layer(weights, f"blocks.{layer}.", layer > 0)
    starts.append(sum(piece.size for piece in pieces))
    pieces += [Piece(weights["ln_out.weight"]), Piece(weights["ln_out.bias"]), Piece(weights["head.weight"], True)]
    packed = aligned(sum(piece.size for piece in pieces))
    at = 0
    for piece in pieces:
        piece.write(packed[at : at + piece.size])
        at += piece.size
    last = f"blocks.{n_layer - 1}.att."
    rank_w, rank_a, rank_g = (_padded(weights[f"{last}{x}1"].shape[1]) for x in "wag")
    rank_v = _padded(weights[f"{last}v1"].shape[1]) if n_layer > 1 else 0
    vocabulary = _padded(len(weights["head.weight"]))
    return PackedModel(_embedding(weights), packed, np.array(starts), (rank_w, rank_v, rank_a, rank_g), vocabulary)


@dataclass(frozen=True)
class Piece:
    """A vector, or a matrix (rows, cols) that is to be cut into blocks."""

    values: Floats
    is_matrix: bool = False

    @property
    def size(self) -> int:
        if self.is_matrix:
            return _padded(self.values.shape[0]) * _padded(self.values.shape[1])
        return self.values.size

    def write(self, out: Floats) -> None:
        """Write the piece, packed, into `size` numbers."""
        if not self.is_matrix:
            out[:] = self.values.reshape(-1)
            return
        rows, cols = self.values.shape
        matrix = self.values
        if rows % BLOCK or cols % BLOCK:
            matrix = np.zeros((_padded(rows), _padded(cols)), np.float32)
            matrix[:rows, :cols] = self.values
        out.reshape(-1, matrix.shape[1], BLOCK)[:] = matrix.reshape(-1, BLOCK, matrix.shape[1]).transpose(0, 2, 1)


def _layer(weights: Mapping[str, Floats], block: str, mixes_values: bool) -> list[Piece]:
    att, ffn = block + "att.", block + "ffn."

    def vectors(*names: str) -> list[Piece]:
        return [Piece(weights[name]) for name in names]

    def matrix(name: str) -> Piece:
        return Piece(weights[name + ".weight"], True)

    def adapter(letter: str) -> list[Piece]:
        return [Piece(weights[f"{att}{letter}{i}"].T, True) for i in (1, 2)]

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


def aligned(count: int) -> Floats:
    """Uninitialised memory for so many numbers that begins at a multiple of 64 bytes, one line of the cache."""
    memory = np.empty(count + BLOCK, np.float32)
    skip = -memory.ctypes.data // 4 % BLOCK
    return memory[skip : skip + count]


def _embedding(weights: Mapping[str, Floats]) -> Floats:
    """The embedding with the first layer norm worked in, flat."""
    emb = weights["emb.weight"].astype(np.float32)
    for rows in np.array_split(emb, -(-len(emb) // 1024)):  # views; float64 for some rows at a time
        x = rows.astype(np.float64)
        x -= x.mean(1, keepdims=True)
        x /= np.sqrt((x**2).mean(1, keepdims=True) + 1e-5)
        rows[:] = x * weights["blocks.0.ln0.weight"] + weights["blocks.0.ln0.bias"]
    return emb.reshape(-1)


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
