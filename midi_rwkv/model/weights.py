"""The weights' file of a checkpoint, and the shapes that a model's parameters have. Nothing here needs torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from midi_rwkv.errors import CheckpointError

from .config import ModelConfig

FILES = ("config.json", "tokenizer.json", "model.safetensors")


def read_record(folder: Path) -> dict[str, Any]:
    """A checkpoint folder's config.json. Raises CheckpointError unless all three files are there."""
    for name in FILES:
        if not (folder / name).is_file():
            raise CheckpointError(
                f"{folder} is not a checkpoint: {name} is missing; name a folder with all three files"
            )
    try:
        record = json.loads((folder / FILES[0]).read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{folder}: config.json is damaged ({error}); copy it again") from error
    if not isinstance(record, dict):
        raise CheckpointError(f"{folder}: config.json is damaged (no object); copy it again")
    return record


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """A safetensors file as float32 arrays."""
    from safetensors import SafetensorError, deserialize

    try:
        tensors = deserialize(path.read_bytes())  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged ({error}); copy the checkpoint again") from error
    weights = {}
    for name, info in tensors:
        raw = info["data"]
        if info["dtype"] == "BF16":
            array = (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)
        elif info["dtype"] in ("F32", "F16"):
            array = np.frombuffer(raw, np.float32 if info["dtype"] == "F32" else np.float16).astype(np.float32)
        else:
            raise CheckpointError(f"{path}: {name} is {info['dtype']}; weights must be BF16, F16 or F32")
        weights[name] = array.reshape(info["shape"])
    return weights


def checked_shapes(
    path: Path, weights: dict[str, np.ndarray], expected: dict[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    """The weights. Raises CheckpointError unless they are those expected."""
    for name in sorted(set(expected) | set(weights)):
        if name not in weights or name not in expected or weights[name].shape != expected[name]:
            found = weights[name].shape if name in weights else "nothing"
            raise CheckpointError(
                f"{path}: {name} should be {expected.get(name, 'absent')}, found {found}; wrong config.json?"
            )
    return weights


def parameter_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every parameter of an RWKV-7 of tokens, or of a trunk alone where there is no vocabulary."""
    C, V = config.n_embd, config.vocab_size
    ends: dict[str, tuple[int, ...]] = {"emb.weight": (V, C), "head.weight": (V, C)} if V else {}
    return ends | trunk_shapes(config)


def trunk_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every parameter of a trunk, which has neither embedding nor head."""
    return _transformer_shapes(config) if config.arch == "transformer" else _rwkv_shapes(config)


def _transformer_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    C, F, D = config.n_embd, config.ffn_size, config.head_size
    shapes: dict[str, tuple[int, ...]] = {"norm_in.weight": (C,), "norm_out.weight": (C,)}
    for i in range(config.n_layer):
        shapes.update({f"blocks.{i}.att.{n}.weight": (C, C) for n in ("query", "key", "value", "output")})
        shapes.update({f"blocks.{i}.att.{n}_norm.weight": (D,) for n in ("query", "key")})
        shapes.update({f"blocks.{i}.ffn.{n}.weight": (F, C) for n in ("gate", "up")})
        shapes.update(
            {f"blocks.{i}.ffn.down.weight": (C, F)} | {f"blocks.{i}.{n}_norm.weight": (C,) for n in ("att", "ffn")}
        )
    return shapes


def _rwkv_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    C, H = config.n_embd, config.n_head
    shapes: dict[str, tuple[int, ...]] = {}
    norms = ["ln_out", "blocks.0.ln0"]
    for i in range(config.n_layer):
        block = f"blocks.{i}"
        norms += [f"{block}.ln1", f"{block}.ln2", f"{block}.att.ln_x"]
        names = ["x_r", "x_w", "x_k", "x_v", "x_a", "x_g", "w0", "a0", "k_k", "k_a"]
        ranks = {"w": config.decay_rank, "a": config.iclr_rank, "g": config.gate_rank}
        if i:
            names.append("v0")
            ranks["v"] = config.value_rank
        shapes.update({f"{block}.att.{n}": (1, 1, C) for n in names})
        for n, rank in ranks.items():
            shapes[f"{block}.att.{n}1"], shapes[f"{block}.att.{n}2"] = (C, rank), (rank, C)
        shapes[f"{block}.att.r_k"] = (H, config.head_size)
        shapes.update({f"{block}.att.{n}.weight": (C, C) for n in ("receptance", "key", "value", "output")})
        shapes[f"{block}.ffn.x_k"] = (1, 1, C)
        shapes[f"{block}.ffn.key.weight"], shapes[f"{block}.ffn.value.weight"] = (4 * C, C), (C, 4 * C)
    for norm in norms:
        shapes[f"{norm}.weight"] = shapes[f"{norm}.bias"] = (C,)
    return shapes
