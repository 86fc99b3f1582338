"""Decoding with the Transformer that RWKV-7 is measured against: PyTorch, float32, a cache of keys and values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike

from midi_rwkv.errors import StyleError
from midi_rwkv.model.config import ModelConfig
from midi_rwkv.model.transformer import KeyValueCache, Transformer

from .engine import Engine, Floats, Ids


class AttentionEngine(Engine):
    """See `Engine`. `threads` are torch's, for the whole process."""

    def __init__(self, weights: Mapping[str, Floats], head_size: int, threads: int = 1) -> None:
        self.name = "attention"
        torch.set_num_threads(threads)
        self.vocab_size, n_embd = weights["emb.weight"].shape
        n_layer = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
        ffn_size = len(weights["blocks.0.ffn.gate.weight"])
        config = ModelConfig(
            n_layer=n_layer,
            n_embd=n_embd,
            vocab_size=self.vocab_size,
            head_size=head_size,
            arch="transformer",
            ffn_size=ffn_size,
        )
        self.model = Transformer(config).eval()
        self.model.load_state_dict({name: torch.from_numpy(x) for name, x in weights.items()})

    def new_state(self, batch: int = 1, wkv0: Floats | None = None) -> KeyValueCache:
        if wkv0 is not None:
            raise StyleError("a Transformer has no initial state to tune; leave the style out")
        return self.model.new_state(batch)

    def prefill(self, tokens: Sequence[int], state: KeyValueCache) -> Floats:
        return self._advance(np.tile(self.check_tokens(tokens), (state.batch, 1)), state)

    def step(self, tokens: ArrayLike, state: KeyValueCache) -> Floats:
        return self._advance(self.check_tokens(tokens, state.batch)[:, None], state)

    @torch.inference_mode()
    def _advance(self, ids: Ids, state: KeyValueCache) -> Floats:
        """Move `state` on by ids (B, T) -> logits of each row's last token (B, V)."""
        h, _ = self.model.hidden(torch.from_numpy(ids), state)
        return self.model.head(h[:, -1]).numpy()
