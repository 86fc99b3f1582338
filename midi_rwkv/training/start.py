"""The weights a new run begins with, from a checkpoint whose tokenizer may have other merges than the run's shards."""

from __future__ import annotations

import numpy as np
import torch

from midi_rwkv.errors import CheckpointError
from midi_rwkv.model.checkpoint import Checkpoint
from midi_rwkv.model.config import ModelConfig
from midi_rwkv.tokens.tokenizer import Tokenizer

BY_ID = ("emb.weight", "head.weight")  # (vocabulary, C)


def starting_weights(
    checkpoint: Checkpoint, config: ModelConfig, tokenizer: Tokenizer
) -> tuple[dict[str, torch.Tensor], int]:
    """The checkpoint's weights for a model of shape `config` that reads `tokenizer`'s ids, and how many of its ids the
    checkpoint does not know.

    An id that stands for the same base tokens in both keeps its rows of embedding and head; one that only the run has
    begins at the mean of its base tokens' rows. CheckpointError where the models' shapes or the base tokens differ.
    """
    ours = tokenizer.expansions
    if {**checkpoint.config.to_dict(), "vocab_size": len(ours)} != config.to_dict():
        raise CheckpointError(f"{checkpoint.path} is {checkpoint.config}, the run is {config}; use its preset")
    theirs = checkpoint.tokenizer
    if (theirs.base_names, theirs.grid) != (tokenizer.base_names, tokenizer.grid):
        raise CheckpointError(
            f"{checkpoint.path} has another vocabulary than the shards; build them with its tokenizer.json"
        )
    id_of = {expansion: i for i, expansion in enumerate(theirs.expansions)}
    sources = [[id_of[e]] if e in id_of else [id_of[(base,)] for base in e] for e in ours]
    weights = dict(checkpoint.weights)
    for name in BY_ID:
        weights[name] = np.stack([weights[name][source].mean(0) for source in sources])
    new = sum(e not in id_of for e in ours)
    return {name: torch.from_numpy(values) for name, values in weights.items()}, new
