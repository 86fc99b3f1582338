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
    """The weights of RWKV-LM's names, packed."""
    parts: list[Floats] = []
    starts: list[int] = []
    for layer in range(n_layer):
        starts.append(sum(map(len, parts)))
        parts += _layer(weights, f"blocks.{layer}.", layer > 0)
    starts.append(sum(map(len, parts)))
    parts += [_flat(weights[f"ln_out.{x}"]) for x in ("weight", "bias")]
    parts.append(blocks(weights["head.weight"]))
    last = f"blocks.{n_layer - 1}.att."
    rank_w, rank_a, rank_g = (_padded(weights[f"{last}{x}1"].shape[1]) for x in "wag")
    rank_v = _padded(weights[f"{last}v1"].shape[1]) if n_layer > 1 else 0
    return PackedModel(
        _flat(_embedding(weights)),
        aligned(np.concatenate(parts)),
        np.array(starts, np.int64),
        (rank_w, rank_v, rank_a, rank_g),
        _padded(len(weights["head.weight"])),
    )


def _layer(weights: Mapping[str, Floats], block: str, mixes_values: bool) -> list[Floats]:
    att, ffn = block + "att.", block + "ffn."

    def vectors(*names: str) -> list[Floats]:
        return [_flat(weights[name]) for name in names]

    def adapter(letter: str) -> list[Floats]:
        return [blocks(weights[f"{att}{letter}{i}"].T) for i in (1, 2)]

    return [
        *vectors(block + "ln1.weight", block + "ln1.bias"),
        *vectors(att + "x_r"),
        blocks(weights[att + "receptance.weight"]),
        *vectors(att + "x_w"),
        *adapter("w"),
        *vectors(att + "x_k"),
        blocks(weights[att + "key.weight"]),
        *vectors(att + "x_v"),
        blocks(weights[att + "value.weight"]),
        *(adapter("v") + vectors(att + "v0") if mixes_values else []),
        *vectors(att + "x_a"),
        *adapter("a"),
        *vectors(att + "x_g"),
        *adapter("g"),
        *vectors(att + "w0", att + "a0", att + "k_k", att + "k_a", att + "r_k", att + "ln_x.weight", att + "ln_x.bias"),
        blocks(weights[att + "output.weight"]),
        *vectors(block + "ln2.weight", block + "ln2.bias", ffn + "x_k"),
        blocks(weights[ffn + "key.weight"]),
        blocks(weights[ffn + "value.weight"]),
    ]


def blocks(matrix: Floats) -> Floats:
    """A matrix (rows, cols) in blocks of 16 rows, each column by column, zeros filled in; flat."""
    rows, cols = matrix.shape
    whole = np.zeros((_padded(rows), _padded(cols)), np.float32)
    whole[:rows, :cols] = matrix
    return whole.reshape(-1, BLOCK, whole.shape[1]).transpose(0, 2, 1).reshape(-1)


def aligned(values: Floats) -> Floats:
    """A copy that begins at a multiple of 64 bytes, one line of the cache."""
    memory = np.empty(len(values) + BLOCK, np.float32)
    skip = -memory.ctypes.data // 4 % BLOCK
    memory[skip : skip + len(values)] = values
    return memory[skip : skip + len(values)]


def _embedding(weights: Mapping[str, Floats]) -> Floats:
    emb = weights["emb.weight"].astype(np.float64)
    emb = emb - emb.mean(1, keepdims=True)
    emb /= np.sqrt((emb**2).mean(1, keepdims=True) + 1e-5)
    return (emb * weights["blocks.0.ln0.weight"] + weights["blocks.0.ln0.bias"]).astype(np.float32)


def _flat(values: Floats) -> Floats:
    return np.ascontiguousarray(values, np.float32).reshape(-1)


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
