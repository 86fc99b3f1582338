"""The engine of a Transformer of steps, which is compared with RWKV-7 models."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from midi_rwkv.engine.engine import Floats, check_vectors
from midi_rwkv.errors import CheckpointError, StyleError
from midi_rwkv.model.step_checkpoint import StepCheckpoint
from midi_rwkv.model.transformer import KeyValueCache, Transformer


class TransformerEngine:
    """Reads vectors as an `Engine` does: PyTorch, float32. `threads` are torch's, for the whole process."""

    name = "transformer"
    vocab_size = 0
    block_tokens = 128  # vectors of a row that prefill reads at once

    def __init__(self, model: Transformer, threads: int = 1) -> None:
        torch.set_num_threads(threads)
        self.model = model

    def new_state(self, batch: int = 1, wkv0: Floats | None = None) -> KeyValueCache:
        """An empty cache. Raises StyleError for a tuned initial state, which a Transformer does not have."""
        if wkv0 is not None:
            raise StyleError("a Transformer has no initial state to tune; leave the style out")
        return self.model.new_state(batch)

    def prefill_vectors(self, vectors: Floats, state: KeyValueCache) -> Floats:
        """Reads the same vectors (T, C) into every row. Returns the output after the last one, (B, C)."""
        x = check_vectors(vectors, self.model.config.n_embd)
        for start in range(0, len(x), self.block_tokens):
            part = x[start : start + self.block_tokens]
            h = self._advance(np.broadcast_to(part, (state.batch, *part.shape)).copy(), state)
        return h

    def step_vectors(self, vectors: Floats, state: KeyValueCache) -> Floats:
        """Reads one vector per row, (B, C). Returns the output (B, C)."""
        return self._advance(check_vectors(vectors, self.model.config.n_embd, state.batch)[:, None], state)

    @torch.inference_mode()
    def _advance(self, vectors: Floats, state: KeyValueCache) -> Floats:
        """Moves `state` on by vectors (B, T, C). Returns each row's last output (B, C)."""
        h, _ = self.model.hidden(torch.from_numpy(vectors), state)
        output: Floats = h[:, -1].numpy()
        return output


def engine_of(checkpoint: StepCheckpoint, threads: int = 1) -> Any:
    """The engine of a Transformer's checkpoint. Raises CheckpointError for an RWKV-7, which is `make_engine`'s."""
    if checkpoint.config.arch != "transformer":
        raise CheckpointError(f"{checkpoint.path} is an {checkpoint.config.arch}; name a Transformer's checkpoint")
    model = Transformer(checkpoint.config)
    model.load_state_dict({name: torch.from_numpy(w) for name, w in checkpoint.trunk.items()})
    return TransformerEngine(model.eval(), threads)
