"""RWKV-LM's `.pth` state dicts <-> checkpoint folders; RWKV-PEFT's `time_state` files <-> safetensors.

State layout: RWKV-LM's kernels index a head's state as [value channel, key channel], and so do tuned `time_state`s;
ours is (K, V) (kernels/README.md), so these are transposed on the way.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .checkpoint import CheckpointError, load_checkpoint, parameter_shapes, save_checkpoint
from .config import ModelConfig
from .files import whole_file
from .prompt import ORDERS
from .style import Style, read_info, save_style
from .tokenizer import Tokenizer

UNUSED_IN_LAYER_0 = ("v0", "v1", "v2")


def load_pth(path: Path) -> dict[str, Tensor]:
    """Tensors of a `.pth`, by name. CheckpointError when it is none."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError) as error:
        raise CheckpointError(f"{path} is not a PyTorch state dict; name an RWKV-LM or RWKV-PEFT .pth") from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise CheckpointError(f"{path} holds no plain state dict; name an RWKV-LM or RWKV-PEFT .pth")
    return state


def config_of(state: dict[str, Tensor]) -> ModelConfig:
    """The model's shape, read off RWKV-LM's parameter names and shapes."""
    try:
        vocab_size, n_embd = state["emb.weight"].shape
        n_layer = 1 + max(int(m[1]) for k in state if (m := re.match(r"blocks\.(\d+)\.", k)))
        decay, iclr, value, gate = (state[f"blocks.{n_layer - 1}.att.{c}1"].shape[1] for c in "wavg")
        head_size = state["blocks.0.att.r_k"].shape[1]
    except (KeyError, ValueError, IndexError) as error:
        raise CheckpointError(f"this is no RWKV-7 x070 state dict ({error} is missing or odd)") from error
    return ModelConfig(
        n_layer=n_layer,
        n_embd=n_embd,
        vocab_size=vocab_size,
        head_size=head_size,
        decay_rank=decay,
        iclr_rank=iclr,
        value_rank=value,
        gate_rank=gate,
    )


def from_rwkv_lm(state: dict[str, Tensor]) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Our names, shapes and dtype (float32). What layer 0 carries but never uses, and tuned states, are left out."""
    config = config_of(state)
    expected = parameter_shapes(config)
    weights = {}
    for name, shape in expected.items():
        if name not in state or state[name].numel() != np.prod(shape):
            found = tuple(state[name].shape) if name in state else "nothing"
            raise CheckpointError(f"{name} should be {shape}, found {found}: not an RWKV-7 x070 state dict")
        weights[name] = state[name].float().reshape(shape)
    return config, weights


def to_rwkv_lm(weights: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """As RWKV-LM saves it: bf16, with the value adapters that it also keeps, unused, in layer 0."""
    state = {k: v.to(torch.bfloat16) for k, v in weights.items()}
    shapes = {
        "v0": (1, 1, config.n_embd),
        "v1": (config.n_embd, config.value_rank),
        "v2": (config.value_rank, config.n_embd),
    }
    for name in UNUSED_IN_LAYER_0:
        state[f"blocks.0.att.{name}"] = torch.zeros(shapes[name], dtype=torch.bfloat16)
    return state


def time_state_of(state: dict[str, Tensor]) -> Tensor | None:
    """(L, H, K, V) from the `blocks.N.att.time_state` entries (H, V, K), or None where there are none."""
    layers = {int(m[1]): v for k, v in state.items() if (m := re.fullmatch(r"blocks\.(\d+)\.att\.time_state", k))}
    if not layers:
        return None
    if sorted(layers) != list(range(len(layers))):
        raise CheckpointError(f"time_state is there for layers {sorted(layers)} only; every layer needs one")
    return torch.stack([layers[i].float() for i in range(len(layers))]).mT.contiguous()


def to_time_state(wkv: Tensor) -> dict[str, Tensor]:
    """RWKV-PEFT's entries from (L, H, K, V)."""
    return {f"blocks.{i}.att.time_state": s.mT.contiguous() for i, s in enumerate(wkv)}


def convert(
    source: Path, target: Path, *, tokenizer: str | None = None, overwrite: bool = False, order: str = ORDERS[0]
) -> str:
    """Convert by what `source` is; returns a line that says what was done. Nothing is written on an error.

    order: of the prompt in which a .pth of ours was trained, one of `prompt.ORDERS`.
    """
    from safetensors import safe_open

    if not source.exists():
        raise CheckpointError(f"no such file or folder: {source}")
    if target.exists() and not overwrite:
        raise CheckpointError(f"{target} exists; choose another target or add --overwrite")
    if source.is_dir():
        checkpoint = load_checkpoint(source)
        if checkpoint.config.arch != "rwkv7":
            raise CheckpointError(f"{source} is a {checkpoint.config.arch}; only an RWKV-7 becomes an RWKV-LM .pth")
        weights = {k: torch.from_numpy(v) for k, v in checkpoint.weights.items()}
        _save_pth(to_rwkv_lm(weights, checkpoint.config), target, overwrite)
        return f"{target}: RWKV-LM state dict, {checkpoint.config.n_layer} layers x {checkpoint.config.n_embd}"
    if source.suffix == ".safetensors":
        read_info(source)  # says what is wrong with it
        with safe_open(source, framework="pt") as f:
            places = sorted(f.keys())
            if len(places) > 1:
                raise CheckpointError(f"{source} holds {' and '.join(places)}; a time_state file has room for one")
            tuned = f.get_tensor(places[0])
        _save_pth(to_time_state(tuned), target, overwrite)
        where = "before the prompt" if places == ["wkv"] else "right before Context_Middle, where it was tuned"
        return f"{target}: RWKV-PEFT time_state, {len(tuned)} layers; it belongs {where}"
    state = load_pth(source)
    wkv = time_state_of(state)
    if wkv is not None and "emb.weight" not in state:
        save_style(Style(target.stem, wkv=wkv.numpy()), target, overwrite=overwrite)
        return f"{target}: initial state, (layers, heads, K, V) = {tuple(wkv.shape)}"
    config, weights = from_rwkv_lm(state)
    if tokenizer is None:
        raise CheckpointError("an RWKV-LM .pth holds no tokenizer; add --tokenizer tokenizer.json (a MidiTok MMM file)")
    loaded = Tokenizer.load(tokenizer)
    if loaded.vocab_size != config.vocab_size:
        raise CheckpointError(
            f"{tokenizer} has {loaded.vocab_size} ids, the model {config.vocab_size}; they do not belong together"
        )
    prompt = order if "Context_Middle" in loaded else "paper"
    save_checkpoint(target, config, weights, loaded, prompt=prompt, overwrite=overwrite)
    return f"{target}: checkpoint, {config.n_layer} layers x {config.n_embd}, vocabulary {config.vocab_size}"


def _save_pth(state: dict[str, Tensor], target: Path, overwrite: bool) -> None:
    with whole_file(target, overwrite=overwrite) as partial:
        torch.save(state, partial)
