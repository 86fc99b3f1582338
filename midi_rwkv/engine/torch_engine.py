"""The decoding engine in PyTorch, for where numba cannot run: `model/rwkv7.py` behind the engine's interface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from midi_rwkv.model.rwkv7 import ModelState
from midi_rwkv.model.token_checkpoint import model_of

from .engine import Floats, State, check_tokens, check_vectors, shape_of


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
        return self._logits(self._prefill(check_tokens(tokens, self.vocab_size), state))

    def step(self, tokens: ArrayLike, state: State) -> Floats:
        return self._logits(self._advance(check_tokens(tokens, self.vocab_size, state.batch)[:, None], state))

    def prefill_vectors(self, vectors: Floats, state: State) -> Floats:
        return self._prefill(check_vectors(vectors, self.config.n_embd), state).numpy()

    def step_vectors(self, vectors: Floats, state: State) -> Floats:
        return self._advance(check_vectors(vectors, self.config.n_embd, state.batch)[:, None], state).numpy()

    @torch.inference_mode()
    def _logits(self, h: Tensor) -> Floats:
        logits: Floats = self.model.head(h).numpy()
        return logits

    def _prefill(self, inputs: NDArray[Any], state: State) -> Tensor:
        """Advances every row by the same inputs: tokens (T,) or vectors (T, C). See `_advance`."""
        steps = max(1, self.block_tokens // state.batch)
        for start in range(0, len(inputs), steps):
            part = inputs[start : start + steps]
            h = self._advance(np.broadcast_to(part, (state.batch, *part.shape)).copy(), state)
        return h

    @torch.inference_mode()
    def _advance(self, inputs: NDArray[Any], state: State) -> Tensor:
        """Advances `state` by tokens (B, T) or vectors (B, T, C). Returns each row's last output (B, C)."""
        before = ModelState(*(torch.from_numpy(x) for x in (state.att_shift, state.ffn_shift, state.wkv)))
        h, after = self.model.hidden(torch.from_numpy(inputs), before)
        state.att_shift[:], state.ffn_shift[:] = after.att_shift.numpy(), after.ffn_shift.numpy()
        state.wkv[:] = after.wkv.numpy()
        return h[:, -1]
