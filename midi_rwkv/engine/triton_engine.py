"""Decodes on a GPU: prompts through the Triton training kernels, then one CUDA graph per token.

A step of a small model is some sixty launches that take less time than issuing them, and a CUDA graph issues them at
once. There is one graph, with its own buffers, for each number of candidates. The state that is stepped keeps its
tensors in these buffers, so that nothing is copied between steps; another state of the same number of rows displaces
it.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor

from midi_rwkv.errors import RequestError
from midi_rwkv.kernels.decode_triton import LayerWeights, step_head, step_layer
from midi_rwkv.model.checkpoint import model_of
from midi_rwkv.model.rows import Rows
from midi_rwkv.model.rwkv7 import ModelState

from .engine import Floats, State, check_tokens, shape_of


@dataclass
class DeviceState(ModelState, Rows):
    """The model's state on the GPU, by rows."""

    @property
    def batch(self) -> int:
        return self.wkv.shape[1]

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.att_shift, self.ffn_shift, self.wkv

    def select(self, rows: ArrayLike) -> DeviceState:
        taken = torch.as_tensor(np.asarray(rows, dtype=np.int64), device=self.wkv.device)
        return DeviceState(*(x.index_select(1, taken) for x in self.tensors))

    @classmethod
    def concat(cls, states: Sequence[DeviceState]) -> DeviceState:
        return cls(*(torch.cat(parts, 1) for parts in zip(*(s.tensors for s in states), strict=True)))


@dataclass
class _Buffers:
    """The buffers of a step with this many rows, and its graph."""

    ids: Tensor  # (B,)
    state: DeviceState
    logits: Tensor  # (B, V)
    graph: Any = None
    tenant: weakref.ref[DeviceState] | None = None  # the state whose tensors these are


class TritonEngine:
    """An `Engine` on a GPU, with matrices in bfloat16. In Triton's interpreter it uses float32 and no graphs."""

    name = "triton"
    block_tokens = 256  # rows x tokens that prefill processes at once

    def __init__(self, weights: Mapping[str, Floats], head_size: int, threads: int = 1, *, graphs: bool = True) -> None:
        """Loads the weights.

        Args:
            graphs: capture CUDA graphs; False launches one kernel after another, for comparison.

        Raises:
            RequestError: the kernels do not support heads of this size.
        """
        if head_size not in (16, 32, 64, 128):
            raise RequestError(f"the triton engine takes heads of 16, 32, 64 or 128 channels, these have {head_size}")
        self.config = shape_of(weights, head_size)
        self.vocab_size = self.config.vocab_size
        torch.set_num_threads(threads)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.dtype = torch.bfloat16 if self.device == "cuda" else torch.float32
        self.graphs = graphs and self.device == "cuda"
        self.model = model_of(weights).to(self.device).requires_grad_(requires_grad=False)
        blocks = self.model.layers()
        self.embedding = blocks[0].ln0(self.model.emb.weight)
        self.packed = [LayerWeights(block.state_dict(), self.dtype) for block in blocks]
        self.head = self.model.head.weight.to(self.dtype)
        self.buffers: dict[int, _Buffers] = {}

    def new_state(self, batch: int = 1, wkv0: Floats | None = None) -> DeviceState:
        state = State.new(self.config, batch, wkv0)
        return DeviceState(
            *(torch.tensor(x, device=self.device) for x in (state.att_shift, state.ffn_shift, state.wkv))
        )

    @torch.inference_mode()
    def prefill(self, tokens: Sequence[int], state: DeviceState) -> Floats:
        ids = torch.as_tensor(check_tokens(tokens, self.vocab_size), device=self.device).expand(state.batch, -1)
        for part in ids.split(max(1, self.block_tokens // state.batch), 1):  # type: ignore[no-untyped-call]
            h, after = self.model.hidden(part, state)
            for old, new in zip(state.tensors, (after.att_shift, after.ffn_shift, after.wkv), strict=True):
                old.copy_(new)
        logits: Floats = self.model.head(h[:, -1]).cpu().numpy()
        return logits

    @torch.inference_mode()
    def step(self, tokens: ArrayLike, state: DeviceState) -> Floats:
        ids = check_tokens(tokens, self.vocab_size, state.batch)
        buffers = self._buffers(state.batch)
        buffers.ids.copy_(torch.as_tensor(ids))
        self._move_in(buffers, state)
        if buffers.graph is None:
            self._step(buffers)
        else:
            buffers.graph.replay()
        return buffers.logits.cpu().numpy()

    def _move_in(self, buffers: _Buffers, state: DeviceState) -> None:
        """Makes the buffers the state's own tensors. The state that had them before gets copies."""
        if state.wkv is buffers.state.wkv:
            return
        before = buffers.tenant() if buffers.tenant else None
        if before is not None and before.wkv is buffers.state.wkv:
            before.att_shift, before.ffn_shift, before.wkv = (x.clone() for x in before.tensors)
        for own, given in zip(buffers.state.tensors, state.tensors, strict=True):
            own.copy_(given)
        state.att_shift, state.ffn_shift, state.wkv = buffers.state.tensors
        buffers.tenant = weakref.ref(state)

    def _buffers(self, batch: int) -> _Buffers:
        if batch not in self.buffers:
            ids = torch.zeros(batch, dtype=torch.int64, device=self.device)
            logits = torch.empty(batch, self.vocab_size, device=self.device)
            buffers = self.buffers[batch] = _Buffers(ids, self.new_state(batch), logits)
            if self.graphs:
                side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
                side.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(side):  # compile and warm up outside the capture
                    for _ in range(3):
                        self._step(buffers)
                torch.cuda.current_stream().wait_stream(side)
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph):
                    self._step(buffers)
                buffers.graph = graph
        return self.buffers[batch]

    def _step(self, buffers: _Buffers) -> None:
        x = F.embedding(buffers.ids, self.embedding)
        first_values = torch.empty_like(x)
        for layer, att_shift, ffn_shift, wkv in zip(self.packed, *buffers.state.tensors, strict=True):
            step_layer(layer, x, att_shift, ffn_shift, wkv, first_values)
        ln_out = self.model.ln_out
        step_head(x, ln_out.weight, ln_out.bias, self.head, buffers.logits)
