"""Checkpoint folders (config.json, tokenizer.json, model.safetensors): the one that ships, or another."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from midi_rwkv.errors import CheckpointError
from midi_rwkv.tokens.attributes import Vocabulary

from .step_checkpoint import STEP_FORMAT, StepCheckpoint, load_step_checkpoint, vocabulary_hash
from .token_checkpoint import TOKEN_FORMAT
from .weights import FILES, read_record

DEFAULT_CHECKPOINT = Path(__file__).parents[1] / "checkpoints" / "base"


def load_checkpoint(path: str | Path | None = None) -> StepCheckpoint:
    """Loads a checkpoint folder, or the one that ships. Raises CheckpointError if it cannot be used."""
    folder = DEFAULT_CHECKPOINT if path is None else Path(path)
    if folder.is_file():
        folder = folder.parent
    record = read_record(folder)
    form = record.get("format")
    if form == TOKEN_FORMAT:
        raise CheckpointError(
            f"{folder} is a plain RWKV-7 over tokens, which engines decode and which cannot fill; name a checkpoint "
            "that `midi-rwkv train` made"
        )
    if form != STEP_FORMAT:
        raise CheckpointError(f"{folder}: format {form}, this version reads {STEP_FORMAT}; update one")
    return load_step_checkpoint(folder, record)


def load_vocabulary() -> Vocabulary:
    """The vocabulary of the checkpoint that ships, without its weights."""
    return Vocabulary.load(DEFAULT_CHECKPOINT / FILES[1])


def checkpoint_hash(checkpoint: StepCheckpoint) -> str:
    """A hash of the weights and the vocabulary, to which a style belongs."""
    digest = hashlib.sha256(vocabulary_hash(checkpoint.vocabulary).encode())
    for name in sorted(checkpoint.weights):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(checkpoint.weights[name]).data)
    return digest.hexdigest()[:16]
