"""Checkpoint folders (config.json, tokenizer.json, model.safetensors), and reading and writing RWKV-LM's files.

Torch is imported only for `.pth` files: the weights of a folder are read as numpy arrays.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from midi_rwkv.errors import CheckpointError
from midi_rwkv.files import whole_files
from midi_rwkv.tokens.tokenizer import Tokenizer

from .config import ModelConfig, config_of
from .recall_mix import RecallWeights
from .step_checkpoint import STEP_FORMAT, StepCheckpoint, load_step_checkpoint, vocabulary_hash
from .weights import FILES, checked_shapes, parameter_shapes, read_tensors

if TYPE_CHECKING:
    import torch

    from .rwkv7 import RWKV7

FORMAT_VERSION = 1
RECALL_FILE = "recall.json"
DEFAULT_CHECKPOINT = Path(__file__).parents[1] / "checkpoints" / "base"


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint. `weights` are float32, by RWKV-LM's names (a Transformer's by our own)."""

    config: ModelConfig
    tokenizer: Tokenizer
    weights: dict[str, np.ndarray]
    prompt: str  # one of prompt.ORDERS, or "paper"
    _: KW_ONLY
    path: Path
    context: int  # tokens that the model was trained to read
    training: dict[str, Any] = field(default_factory=dict)  # tokens_seen and the TrainConfig, as far as known
    recall: RecallWeights | None = None  # fitted to these weights (`midi-rwkv recall`)
    version: str = ""  # of the weights, such as "2", from config.json

    @property
    def trunk(self) -> dict[str, np.ndarray]:
        """What an engine is made of."""
        return self.weights

    def model(self) -> RWKV7:
        """The checkpoint as a PyTorch module. Raises CheckpointError for a Transformer (evaluation/transformer.py)."""
        if self.config.arch != "rwkv7":
            raise CheckpointError(f"{self.path} is a {self.config.arch}; name an RWKV-7's checkpoint")
        return model_of(self.weights)


AnyCheckpoint = Checkpoint | StepCheckpoint


def model_of(weights: Mapping[str, np.ndarray]) -> RWKV7:
    """An RWKV-7 of these weights (RWKV-LM's names, float32), which are copied, ready for evaluation.

    What else an RWKV-LM .pth may hold (layer 0's value adapters, a tuned state) is left out.
    """
    import torch

    from .rwkv7 import RWKV7

    model = RWKV7(config_of(weights), fresh=False)
    model.load_state_dict({name: torch.from_numpy(weights[name]) for name in model.state_dict()})
    return model.eval()


def tokenizer_hash(tokenizer: Tokenizer) -> str:
    """A hash of what each token means: the vocabulary and the merges, but not the file's layout."""
    text = json.dumps([tokenizer.base_names, tokenizer.expansions, tokenizer.grid])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def checkpoint_hash(checkpoint: AnyCheckpoint) -> str:
    """A hash of the weights and the vocabulary, to which a style belongs."""
    if isinstance(checkpoint, StepCheckpoint):
        of_vocabulary = vocabulary_hash(checkpoint.vocabulary)
    else:
        of_vocabulary = tokenizer_hash(checkpoint.tokenizer)
    digest = hashlib.sha256(of_vocabulary.encode())
    for name in sorted(checkpoint.weights):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(checkpoint.weights[name]).data)
    return digest.hexdigest()[:16]


def save_checkpoint(  # noqa: PLR0913 -- a public call, options by name
    folder: str | Path,
    config: ModelConfig,
    weights: Mapping[str, torch.Tensor],
    tokenizer: Tokenizer,
    *,
    training: Mapping[str, Any] | None = None,
    prompt: str = "bars",
    overwrite: bool = True,
    bf16: bool = True,
) -> None:
    """Writes a checkpoint folder: all of its files or none.

    Args:
        bf16: round the weights to bfloat16; otherwise they are written as they are.

    Raises:
        FileExistsError: a file exists and `overwrite` is False.
    """
    import torch
    from safetensors.torch import save

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    training = dict(training or {})
    record = {
        "format": FORMAT_VERSION,
        "model": config.to_dict(),
        "prompt": prompt,
        "context": training.get("seq_len", 2048),
        "tokenizer": tokenizer_hash(tokenizer),
        "training": training,
    }
    data = save({k: (v.to(torch.bfloat16) if bf16 else v).contiguous() for k, v in weights.items()})
    with whole_files([folder / name for name in FILES], overwrite=overwrite) as (
        config_file,
        tokenizer_file,
        weights_file,
    ):
        config_file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        tokenizer.save(tokenizer_file)
        weights_file.write_bytes(data)  # safetensors' own save_file would make it readable only by its owner


def load_checkpoint(path: str | Path | None = None) -> AnyCheckpoint:
    """Loads a checkpoint folder, or the one that ships. Raises CheckpointError if it cannot be used."""
    folder = DEFAULT_CHECKPOINT if path is None else Path(path)
    if folder.is_file():
        folder = folder.parent
    files = [folder / name for name in FILES]
    for file in files:
        if not file.is_file():
            raise CheckpointError(
                f"{folder} is not a checkpoint: {file.name} is missing; name a folder with all three files"
            )
    try:
        record = json.loads(files[0].read_text(encoding="utf-8"))
        form = record.get("format")
    except (ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{folder}: config.json or tokenizer.json is damaged ({error}); copy them again"
        ) from error
    return load_step_checkpoint(folder, record) if form == STEP_FORMAT else _load_tokens(folder, record)


def load_token_checkpoint(path: str | Path | None = None) -> Checkpoint:
    """`load_checkpoint` where only a model of tokens will do. Raises CheckpointError for a model of steps."""
    return of_tokens(load_checkpoint(path))


def of_tokens(checkpoint: AnyCheckpoint) -> Checkpoint:
    """The checkpoint. Raises CheckpointError for a model of steps."""
    if isinstance(checkpoint, StepCheckpoint):
        raise CheckpointError(
            f"{checkpoint.path} is a model of steps, and this works with a model of tokens alone so far; name another"
        )
    return checkpoint


def _load_tokens(folder: Path, record: Mapping[str, Any]) -> Checkpoint:
    files = [folder / name for name in FILES]
    try:
        config = ModelConfig.from_dict(record["model"])
        made_with, prompt, context = record["tokenizer"], record["prompt"], record["context"]
        tokenizer = Tokenizer.load(files[1])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{folder}: config.json or tokenizer.json is damaged ({error}); copy them again"
        ) from error
    if record.get("format") != FORMAT_VERSION:
        raise CheckpointError(
            f"{folder}: format {record.get('format')}, this version reads {FORMAT_VERSION}; update one"
        )
    if made_with != tokenizer_hash(tokenizer) or tokenizer.vocab_size != config.vocab_size:
        raise CheckpointError(
            f"{folder}: tokenizer.json does not belong to these weights; restore the one it came with"
        )
    weights = checked_shapes(files[2], read_tensors(files[2]), parameter_shapes(config))
    training = record.get("training", {})
    recall = read_recall(folder / RECALL_FILE)
    version = str(record.get("version", ""))
    return Checkpoint(
        config,
        tokenizer,
        weights,
        prompt,
        path=folder,
        context=context,
        training=training,
        recall=recall,
        version=version,
    )


def read_recall(path: Path) -> RecallWeights | None:
    """A checkpoint's recall weights, or None if it has none."""
    if not path.exists():
        return None
    try:
        return RecallWeights.load(path)
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{path} is damaged or of another version ({error}); copy it again, or delete it to fill without"
        ) from error
