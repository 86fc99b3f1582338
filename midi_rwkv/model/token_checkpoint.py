"""A plain RWKV-7 over token ids, as RWKV-LM, RWKV-PEFT and the paper's repository have them, in a checkpoint folder.

`midi-rwkv convert` makes one of a `.pth`, and engines decode it. It cannot fill: its prompts are not ours. The
tokenizer is MidiTok's; its file is kept as it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from midi_rwkv.errors import CheckpointError
from midi_rwkv.files import whole_files

from .config import ModelConfig, config_of
from .weights import FILES, checked_shapes, parameter_shapes, read_record, read_tensors

if TYPE_CHECKING:
    import torch

    from .rwkv7 import RWKV7

TOKEN_FORMAT = 1


@dataclass(frozen=True)
class TokenCheckpoint:
    """A loaded checkpoint. `weights` are float32, by RWKV-LM's names."""

    config: ModelConfig
    weights: dict[str, np.ndarray]
    path: Path

    def model(self) -> RWKV7:
        """The checkpoint as a PyTorch module."""
        return model_of(self.weights)


def model_of(weights: Mapping[str, np.ndarray]) -> RWKV7:
    """An RWKV-7 of these weights (RWKV-LM's names, float32), which are copied, ready for evaluation.

    What else an RWKV-LM .pth may hold (layer 0's value adapters, a tuned state) is left out.
    """
    import torch

    from .rwkv7 import RWKV7

    model = RWKV7(config_of(weights), fresh=False)
    model.load_state_dict({name: torch.from_numpy(weights[name]) for name in model.state_dict()})
    return model.eval()


def read_tokenizer(path: Path) -> tuple[str, int]:
    """A tokenizer.json of MidiTok's: its text, and how many ids it has. Raises CheckpointError for another file."""
    try:
        text = path.read_text(encoding="utf-8")
        trained = json.loads(json.loads(text)["_model"])
        added = [token["id"] for token in trained["added_tokens"]]
        return text, 1 + max([*trained["model"]["vocab"].values(), *added])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is no MidiTok MMM tokenizer ({error}); name a tokenizer.json") from error


def save_token_checkpoint(
    folder: Path,
    config: ModelConfig,
    weights: Mapping[str, torch.Tensor],
    tokenizer: str,
    *,
    overwrite: bool,
    bf16: bool,
) -> None:
    """Writes a checkpoint folder: all of its files or none.

    Args:
        tokenizer: the text of its tokenizer.json.
        bf16: round the weights to bfloat16; otherwise they are written as they are.

    Raises:
        FileExistsError: a file exists and `overwrite` is False.
    """
    import torch
    from safetensors.torch import save

    folder.mkdir(parents=True, exist_ok=True)
    record = {"format": TOKEN_FORMAT, "model": config.to_dict(), "tokenizer": _digest(tokenizer)}
    data = save({k: (v.to(torch.bfloat16) if bf16 else v).contiguous() for k, v in weights.items()})
    files = [folder / name for name in FILES]
    with whole_files(files, overwrite=overwrite) as (config_file, tokenizer_file, weights_file):
        config_file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        tokenizer_file.write_text(tokenizer, encoding="utf-8")
        weights_file.write_bytes(data)  # safetensors' own save_file would make it readable only by its owner


def load_token_checkpoint(folder: Path) -> TokenCheckpoint:
    """What `save_token_checkpoint` wrote. Raises CheckpointError if it cannot be used."""
    record = read_record(folder)
    text, size = read_tokenizer(folder / FILES[1])
    try:
        config = ModelConfig.from_dict(record["model"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder}: config.json is damaged ({error}); copy it again") from error
    if record.get("format") != TOKEN_FORMAT:
        raise CheckpointError(
            f"{folder}: format {record.get('format')}, where a plain RWKV-7 has {TOKEN_FORMAT}; name another"
        )
    if record.get("tokenizer") != _digest(text) or size != config.vocab_size:
        raise CheckpointError(
            f"{folder}: tokenizer.json does not belong to these weights; restore the one it came with"
        )
    path = folder / FILES[2]
    return TokenCheckpoint(config, checked_shapes(path, read_tensors(path), parameter_shapes(config)), folder)


def _digest(tokenizer: str) -> str:
    return hashlib.sha256(json.dumps(json.loads(tokenizer), sort_keys=True).encode()).hexdigest()[:16]
