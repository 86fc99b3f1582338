"""The decoding engine in PyTorch, for where numba cannot run: `model/rwkv7.py` behind the engine's interface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike

from midi_rwkv.model.checkpoint import model_of
from midi_rwkv.model.rwkv7 import ModelState

from .engine import Floats, Ids, State, check_tokens, shape_of


class TorchEngine:
    """An `Engine` in PyTorch. `threads` are torch's, for the whole process."""

    name = "torch"
    block_tokens = 256  # rows x tokens that prefill processes at once

    def __init__(self, weights: Mapping[str, Floats], head_size: int, threads: int = 1) -> None:
        self.config = shape_of(weights, head_size)
        self.vocab_size = self.config.vocab_size
        torch.set_num_threads(threads)
        self.model = model_of(weights)

    def new_state(self, batch: int = 1, wkv0: Floats | None = None) -> State:
        return State.new(self.config, batch, wkv0)

    def prefill(self, tokens: Sequence[int], state: State) -> Floats:
        ids = check_tokens(tokens, self.vocab_size)
        steps = max(1, self.block_tokens // state.batch)
        for start in range(0, len(ids), steps):
            logits = self._advance(np.tile(ids[start : start + steps], (state.batch, 1)), state)
        return logits

    def step(self, tokens: ArrayLike, state: State) -> Floats:
        return self._advance(check_tokens(tokens, self.vocab_size, state.batch)[:, None], state)

    @torch.inference_mode()
    def _advance(self, ids: Ids, state: State) -> Floats:
        """Advances `state` by ids (B, T). Returns the logits of each row's last token (B, V)."""
        before = ModelState(*(torch.from_numpy(x) for x in (state.att_shift, state.ffn_shift, state.wkv)))
        h, after = self.model.hidden(torch.from_numpy(ids), before)
        state.att_shift[:], state.ffn_shift[:] = after.att_shift.numpy(), after.ffn_shift.numpy()
        state.wkv[:] = after.wkv.numpy()
        logits: Floats = self.model.head(h[:, -1]).numpy()
        return logits
