"""A random RWKV-7 whose every parameter matters, what int8 makes of it, and how far results are apart."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from midi_rwkv.engine.pack import quantised

Floats = NDArray[np.float32]
Weights = dict[str, Floats]

VOCABULARY = 90  # not a multiple of 16
RANKS = (24, 16, 32, 40)  # of w, a, v, g; not all multiples of 16


def random_weights(layers: int = 2, size: int = 128, head_size: int = 64, seed: int = 0) -> Weights:
    """RWKV-LM's names -> float32 arrays."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int, scale: float = 1.0) -> Floats:
        return (rng.normal(size=shape) * scale).astype(np.float32)

    def norm(name: str) -> Weights:
        return {f"{name}.weight": 1 + normal(size, scale=0.1), f"{name}.bias": normal(size, scale=0.1)}

    weights = {"emb.weight": normal(VOCABULARY, size), **norm("blocks.0.ln0"), **norm("ln_out")}
    weights["head.weight"] = normal(VOCABULARY, size, scale=size**-0.5)
    for layer in range(layers):
        att, ffn = f"blocks.{layer}.att.", f"blocks.{layer}.ffn."
        weights |= {**norm(f"blocks.{layer}.ln1"), **norm(f"blocks.{layer}.ln2"), **norm(att + "ln_x")}
        for x in "rwkvag":
            weights[f"{att}x_{x}"] = rng.random((1, 1, size), np.float32)
        for x, rank in zip("wavg", RANKS, strict=True):
            if x == "v" and layer == 0:
                continue
            weights[f"{att}{x}1"] = normal(size, rank, scale=size**-0.5)
            weights[f"{att}{x}2"] = normal(rank, size, scale=rank**-0.5)
            if x != "g":
                weights[f"{att}{x}0"] = normal(1, 1, size)
        weights[att + "k_k"], weights[att + "k_a"] = 1 + normal(1, 1, size, scale=0.2), normal(1, 1, size)
        weights[att + "r_k"] = normal(size // head_size, head_size, scale=0.3)
        for x in ("receptance", "key", "value", "output"):
            weights[f"{att}{x}.weight"] = normal(size, size, scale=size**-0.5)
        weights[ffn + "x_k"] = rng.random((1, 1, size), np.float32)
        weights[ffn + "key.weight"] = normal(4 * size, size, scale=size**-0.5)
        weights[ffn + "value.weight"] = normal(size, 4 * size, scale=(4 * size) ** -0.5)
    return weights


def random_tokens(*shape: int, seed: int = 1) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, VOCABULARY, shape)


def rounded(weights: Weights) -> Weights:
    """The weights that int8 stands for: matrices rounded row by row, as they are applied to a column."""
    result = dict(weights)
    for name, x in weights.items():
        adapter = name.split(".")[-1] in ("w1", "w2", "v1", "v2", "a1", "a2", "g1", "g2")
        if adapter or (x.ndim == 2 and name.endswith(".weight") and name != "emb.weight"):
            whole, scales = quantised(x.T if adapter else x)
            result[name] = whole.T * scales if adapter else whole * scales[:, None]
    return result


def relative_error(got: object, expected: object) -> float:
    """Norm of the difference over the norm."""
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))
