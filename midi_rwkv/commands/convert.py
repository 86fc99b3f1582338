"""RWKV-LM's `.pth` state dicts <-> checkpoint folders; RWKV-PEFT's `time_state` files <-> safetensors.

RWKV-LM's trainer also keeps value adapters (v0, v1, v2) in layer 0, where nothing uses them. Released checkpoints lack
them, and rwkv.cpp accepts only files without them. They are therefore optional when reading and never written.

State layout: RWKV-LM's kernels and tuned `time_state` files index a head's state as [value channel, key channel]. Ours
is (K, V) (kernels/README.md), so states are transposed.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from midi_rwkv.errors import CheckpointError
from midi_rwkv.files import whole_file
from midi_rwkv.model.checkpoint import load_checkpoint
from midi_rwkv.model.config import ModelConfig, config_of
from midi_rwkv.model.step_checkpoint import TRUNK
from midi_rwkv.model.token_checkpoint import TOKEN_FORMAT, load_token_checkpoint, read_tokenizer, save_token_checkpoint
from midi_rwkv.model.weights import FILES, parameter_shapes, read_record
from midi_rwkv.style.style import PLACES, Style, read_info, save_style

KINDS = (torch.bfloat16, torch.float16, torch.float32)


def load_pth(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.pth` by name. Raises CheckpointError for any other file."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError) as error:
        raise CheckpointError(f"{path} is not a PyTorch state dict; name an RWKV-LM or RWKV-PEFT .pth") from error
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise CheckpointError(f"{path} holds no plain state dict; name an RWKV-LM or RWKV-PEFT .pth")
    return state


def from_rwkv_lm(state: dict[str, Tensor]) -> tuple[ModelConfig, dict[str, Tensor]]:
    """The weights with our names and shapes, in their own number format.

    The unused adapters of layer 0 and tuned states are left out.
    """
    config = config_of(state)
    if not config.vocab_size:
        raise CheckpointError("emb.weight is missing: a trunk alone, not a whole RWKV-7 x070 state dict")
    expected = parameter_shapes(config)
    weights = {}
    for name, shape in expected.items():
        if name not in state or state[name].numel() != np.prod(shape):
            found = tuple(state[name].shape) if name in state else "nothing"
            raise CheckpointError(f"{name} should be {shape}, found {found}: not an RWKV-7 x070 state dict")
        if state[name].dtype not in KINDS:
            kinds = ", ".join(str(kind).removeprefix("torch.") for kind in KINDS)
            raise CheckpointError(f"{name} is of {state[name].dtype}; weights must be of {kinds}")
        weights[name] = state[name].reshape(shape)
    return config, weights


def time_state_of(state: dict[str, Tensor]) -> Tensor | None:
    """(L, H, K, V) from the `blocks.N.att.time_state` entries (H, V, K), or None if there are none."""
    layers = {int(m[1]): v for k, v in state.items() if (m := re.fullmatch(r"blocks\.(\d+)\.att\.time_state", k))}
    if not layers:
        return None
    if sorted(layers) != list(range(len(layers))):
        raise CheckpointError(f"time_state is there for layers {sorted(layers)} only; every layer needs one")
    return torch.stack([layers[i].float() for i in range(len(layers))]).mT.contiguous()


def to_time_state(wkv: Tensor) -> dict[str, Tensor]:
    """The entries of RWKV-PEFT from (L, H, K, V)."""
    return {f"blocks.{i}.att.time_state": s.mT.contiguous() for i, s in enumerate(wkv)}


def convert(
    source: Path,
    target: Path,
    *,
    tokenizer: str | None = None,
    overwrite: bool = False,
    bf16: bool = False,
) -> str:
    """Converts `source`, according to what it is, and returns a line that says what was done.

    Nothing is written after an error. Options that do not apply are refused.

    Args:
        tokenizer: the tokenizer.json for a model's .pth, which does not contain one.
        bf16: round the weights to bfloat16 instead of keeping their number format.
    """
    if not source.exists():
        raise CheckpointError(f"no such file or folder: {source}")
    if target.exists() and not overwrite:
        raise CheckpointError(f"{target} exists; choose another target or add --overwrite")
    given = [f"--{n}" for n, v in (("tokenizer", tokenizer), ("bf16", bf16)) if v]
    if source.is_dir():
        _refuse(given, ["--bf16"], f"{source} is a checkpoint folder")
        return _export(source, target, overwrite=overwrite, bf16=bf16)
    if source.suffix == ".safetensors":
        _refuse(given, [], f"{source} is a state")
        return _export_state(source, target, overwrite=overwrite)
    state = load_pth(source)
    wkv = time_state_of(state)
    if wkv is not None and "emb.weight" not in state:
        _refuse(given, [], f"{source} is a state")
        save_style(Style(target.stem, wkv=wkv.numpy()), target, overwrite=overwrite)
        return f"{target}: initial state, (layers, heads, K, V) = {tuple(wkv.shape)}"
    config, weights = from_rwkv_lm(state)
    if tokenizer is None:
        raise CheckpointError("an RWKV-LM .pth holds no tokenizer; add --tokenizer tokenizer.json (a MidiTok MMM file)")
    text, ids = read_tokenizer(Path(tokenizer))
    if ids != config.vocab_size:
        raise CheckpointError(f"{tokenizer} has {ids} ids, the model {config.vocab_size}; they do not belong together")
    beside = target.with_name(f"{target.name}-state.safetensors")
    if wkv is not None and beside.exists() and not overwrite:
        raise CheckpointError(f"{beside}, for the model's time_state, exists; choose another target or add --overwrite")
    save_token_checkpoint(target, config, weights, text, overwrite=overwrite, bf16=bf16)
    done = f"{target}: checkpoint, {config.n_layer} layers x {config.n_embd}, vocabulary {config.vocab_size}"
    if wkv is None:
        return done
    save_style(Style(beside.stem, wkv=wkv.numpy()), beside, overwrite=overwrite)
    return f"{done}; {beside}: its time_state, (layers, heads, K, V) = {tuple(wkv.shape)}"


def _refuse(given: Sequence[str], apply: Sequence[str], what: str) -> None:
    wrong = [option for option in given if option not in apply]
    if wrong:
        raise CheckpointError(f"{what}, to which {' and '.join(wrong)} cannot apply; leave it out")


def _export(source: Path, target: Path, *, overwrite: bool, bf16: bool) -> str:
    """Writes a checkpoint folder as RWKV-LM's state dict: a plain RWKV-7, or our model's trunk (no emb, no head)."""
    from safetensors.torch import load_file

    is_plain = read_record(source).get("format") == TOKEN_FORMAT
    checkpoint = load_token_checkpoint(source) if is_plain else load_checkpoint(source)  # raise errors that say why
    if checkpoint.config.arch != "rwkv7":
        raise CheckpointError(f"{source} is a {checkpoint.config.arch}; only an RWKV-7 becomes an RWKV-LM .pth")
    weights = load_file(checkpoint.path / FILES[2])
    if not is_plain:
        weights = {name.removeprefix(TRUNK): w for name, w in weights.items() if name.startswith(TRUNK)}
    if bf16:
        weights = {name: w.to(torch.bfloat16) for name, w in weights.items()}
    _save_pth(weights, target, overwrite=overwrite)
    kind = "RWKV-LM state dict" if is_plain else "RWKV-LM state dict of the trunk"
    return f"{target}: {kind}, {checkpoint.config.n_layer} layers x {checkpoint.config.n_embd}"


def _export_state(source: Path, target: Path, *, overwrite: bool) -> str:
    """Writes a style that is one state as RWKV-PEFT's time_state."""
    from safetensors import safe_open

    read_info(source)  # raises an error that says what is wrong
    with safe_open(source, framework="pt") as f:
        places, more = sorted({*f.keys()} & {*PLACES}), {*f.keys()} - {*PLACES}
        if len(places) > 1:
            raise CheckpointError(f"{source} holds {' and '.join(places)}; a time_state file has room for one")
        tuned = f.get_tensor(places[0])
    _save_pth(to_time_state(tuned), target, overwrite=overwrite)
    where = "before the prompt" if places == ["wkv"] else "right before the first cell to write, where it was tuned"
    left_out = "; the style's pieces and its changes to weights have no room in such a file" if more else ""
    return f"{target}: RWKV-PEFT time_state, {len(tuned)} layers; it belongs {where}{left_out}"


def _save_pth(state: dict[str, Tensor], target: Path, *, overwrite: bool) -> None:
    with whole_file(target, overwrite=overwrite) as partial:
        torch.save(state, partial)
