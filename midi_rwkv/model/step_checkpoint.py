"""Checkpoint folders of step models: config.json, tokenizer.json and model.safetensors, read without torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from midi_rwkv.errors import CheckpointError
from midi_rwkv.files import whole_files
from midi_rwkv.tokens.attributes import AT_PITCH, AT_PLACE, IMPLIED_SIZES, Column, Vocabulary
from midi_rwkv.tokens.pointers import GATES

from .config import ModelConfig
from .weights import FILES, checked_shapes, read_tensors, trunk_shapes

if TYPE_CHECKING:
    import torch

    from .steps import StepModel

STEP_FORMAT = 5
TRUNK = "trunk."


@dataclass(frozen=True)
class StepCheckpoint:
    """A loaded checkpoint of a step model. `weights` are float32, by the names of `model.steps.StepModel`."""

    config: ModelConfig
    vocabulary: Vocabulary
    weights: dict[str, np.ndarray]
    _: KW_ONLY
    path: Path
    context: int  # steps that the model was trained to read
    training: dict[str, Any] = field(default_factory=dict)  # steps_seen and the TrainConfig
    version: str = ""

    @cached_property
    def trunk(self) -> dict[str, np.ndarray]:
        """The weights between tables and heads: an RWKV-7's by RWKV-LM's names, a Transformer's by our own."""
        return trunk_of(self.weights)


def trunk_of(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`StepCheckpoint.trunk` of some weights."""
    return {name.removeprefix(TRUNK): w for name, w in weights.items() if name.startswith(TRUNK)}


def step_model_of(checkpoint: StepCheckpoint) -> StepModel:
    """The checkpoint as a PyTorch module, ready for evaluation."""
    import torch

    from .steps import StepModel

    model = StepModel(checkpoint.config, checkpoint.vocabulary.sizes)
    model.load_state_dict({name: torch.from_numpy(w) for name, w in checkpoint.weights.items()})
    return model.eval()


def vocabulary_hash(vocabulary: Vocabulary) -> str:
    """A hash of what each attribute means."""
    tables = (vocabulary.micros, vocabulary.velocities, vocabulary.durations, vocabulary.tempos)
    text = json.dumps([vocabulary.tokens, vocabulary.sizes, *(t.tolist() for t in tables)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def save_step_checkpoint(
    folder: Path,
    config: ModelConfig,
    weights: Mapping[str, torch.Tensor],
    vocabulary: Vocabulary,
    *,
    context: int,
    training: Mapping[str, Any],
) -> None:
    """Writes a checkpoint folder, its weights in bfloat16: all of its files or none."""
    import torch
    from safetensors.torch import save

    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "format": STEP_FORMAT,
        "model": config.to_dict(),
        "context": context,
        "tokenizer": vocabulary_hash(vocabulary),
        "training": dict(training),
    }
    data = save({k: v.detach().to("cpu", torch.bfloat16).contiguous() for k, v in weights.items()})
    with whole_files([folder / name for name in FILES], overwrite=True) as (config_file, tokenizer_file, weights_file):
        config_file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        vocabulary.save(tokenizer_file)
        weights_file.write_bytes(data)


def load_step_checkpoint(folder: Path, record: Mapping[str, Any]) -> StepCheckpoint:
    """What `save_step_checkpoint` wrote. record: its config.json. Raises CheckpointError if it cannot be used."""
    try:
        config = ModelConfig.from_dict(record["model"])
        context, training, made_with = record["context"], record["training"], record["tokenizer"]
        vocabulary = Vocabulary.load(folder / FILES[1])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{folder}: config.json or tokenizer.json is damaged ({error}); copy them again"
        ) from error
    if made_with != vocabulary_hash(vocabulary):
        raise CheckpointError(
            f"{folder}: tokenizer.json does not belong to these weights; restore the one it came with"
        )
    path = folder / FILES[2]
    weights = checked_shapes(path, read_tensors(path), step_shapes(config, vocabulary.sizes))
    version = str(record.get("version", ""))
    return StepCheckpoint(config, vocabulary, weights, path=folder, context=context, training=training, version=version)


def step_shapes(config: ModelConfig, sizes: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every parameter of a step model."""
    C = config.n_embd
    columns = (Column.MICRO, Column.PITCH, Column.VELOCITY, Column.DURATION)
    classes = [1 + sizes[Column.POSITION], *(sizes[c] - 1 for c in columns)]
    shapes: dict[str, tuple[int, ...]] = {"tables.weight": (sum(sizes) + sum(IMPLIED_SIZES), C)}
    shapes.update({f"heads.out.{i}.weight": (n, C) for i, n in enumerate(classes)})
    shapes.update({f"heads.given.{i}.weight": (n, C) for i, n in enumerate(classes[:-1])})
    for i, around in enumerate((AT_PLACE, AT_PITCH)):
        shapes[f"heads.around.{i}.weight"] = (sum(sizes[c] for c in around), C)
    shapes.update({f"heads.marks.gates.{i}.weight": (n, C) for i, n in enumerate(GATES)})
    shapes.update({f"heads.up.{i}.weight": (2 * C, C) for i in range(len(columns))})
    shapes.update({f"heads.down.{i}.weight": (C, 2 * C) for i in range(len(columns))})
    shapes.update({TRUNK + name: shape for name, shape in trunk_shapes(config).items()})
    return shapes
