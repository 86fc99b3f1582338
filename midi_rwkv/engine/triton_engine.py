"""Decodes on a GPU: prompts through the Triton training kernels, then one CUDA graph per token.

A step of a small model is some sixty launches that take less time than issuing them, and a CUDA graph issues them at
once. There is one graph, with its own buffers, for each number of candidates and kind of input (tokens or vectors). The
state that is stepped keeps its tensors in these buffers, so that nothing is copied between steps; another state of the
same number of rows displaces it.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from midi_rwkv.errors import RequestError
from midi_rwkv.kernels.decode_triton import LayerWeights, step_head, step_layer
from midi_rwkv.model.rows import Rows
from midi_rwkv.model.rwkv7 import ModelState
from midi_rwkv.model.token_checkpoint import model_of

from .engine import Floats, State, check_tokens, check_vectors, shape_of


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

    inputs: Tensor  # tokens (B,) or vectors (B, C)
    state: DeviceState
    out: Tensor  # of tokens the logits (B, V), of vectors the last layer's normalised output (B, C)
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
        self.ln0 = blocks[0].ln0
        self.packed = [LayerWeights(block.state_dict(), self.dtype) for block in blocks]
        if self.vocab_size:
            self.embedding = self.ln0(self.model.emb.weight)
            self.head = self.model.head.weight.to(self.dtype)
        self.buffers: dict[tuple[torch.dtype, int], _Buffers] = {}  # by the inputs' dtype and the rows

    def new_state(self, batch: int = 1, wkv0: Floats | None = None) -> DeviceState:
        state = State.new(self.config, batch, wkv0)
        return DeviceState(
            *(torch.tensor(x, device=self.device) for x in (state.att_shift, state.ffn_shift, state.wkv))
        )

    @torch.inference_mode()
    def prefill(self, tokens: Sequence[int], state: DeviceState) -> Floats:
        h = self._prefill(check_tokens(tokens, self.vocab_size), state)
        logits: Floats = self.model.head(h).cpu().numpy()
        return logits

    def step(self, tokens: ArrayLike, state: DeviceState) -> Floats:
        return self._step(check_tokens(tokens, self.vocab_size, state.batch), state)

    @torch.inference_mode()
    def prefill_vectors(self, vectors: Floats, state: DeviceState) -> Floats:
        return self._prefill(check_vectors(vectors, self.config.n_embd), state).cpu().numpy()

    def step_vectors(self, vectors: Floats, state: DeviceState) -> Floats:
        return self._step(check_vectors(vectors, self.config.n_embd, state.batch), state)

    def _prefill(self, inputs: NDArray[Any], state: DeviceState) -> Tensor:
        """Advances every row by the same tokens (T,) or vectors (T, C). Returns the last output of each row (B, C)."""
        given = torch.as_tensor(inputs, device=self.device)
        for part in given.split(max(1, self.block_tokens // state.batch)):  # type: ignore[no-untyped-call]
            h, after = self.model.hidden(part.expand(state.batch, *part.shape), state)
            for old, new in zip(state.tensors, (after.att_shift, after.ffn_shift, after.wkv), strict=True):
                old.copy_(new)
        return h[:, -1]

    @torch.inference_mode()
    def _step(self, inputs: NDArray[Any], state: DeviceState) -> Floats:
        """Advances each row by a token or a vector of its own."""
        given = torch.as_tensor(inputs)
        buffers = self._buffers(given.dtype, state.batch)
        buffers.inputs.copy_(given)
        self._move_in(buffers, state)
        if buffers.graph is None:
            self._launch(buffers)
        else:
            buffers.graph.replay()
        return buffers.out.cpu().numpy()

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

    def _buffers(self, kind: torch.dtype, batch: int) -> _Buffers:
        if (kind, batch) not in self.buffers:
            size = self.config.n_embd
            inputs = torch.zeros((batch, size) if kind.is_floating_point else batch, dtype=kind, device=self.device)
            out = torch.empty(batch, size if kind.is_floating_point else self.vocab_size, device=self.device)
            buffers = self.buffers[kind, batch] = _Buffers(inputs, self.new_state(batch), out)
            if self.graphs:
                side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
                side.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(side):  # compile and warm up outside the capture
                    for _ in range(3):
                        self._launch(buffers)
                torch.cuda.current_stream().wait_stream(side)
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph):
                    self._launch(buffers)
                buffers.graph = graph
        return self.buffers[kind, batch]

    def _launch(self, buffers: _Buffers) -> None:
        inputs = buffers.inputs
        x = self.ln0(inputs) if inputs.is_floating_point() else F.embedding(inputs, self.embedding)
        first_values = torch.empty_like(x)
        for layer, att_shift, ffn_shift, wkv in zip(self.packed, *buffers.state.tensors, strict=True):
            step_layer(layer, x, att_shift, ffn_shift, wkv, first_values)
        ln_out = self.model.ln_out
        if inputs.is_floating_point():
            buffers.out.copy_(ln_out(x))
        else:
            step_head(x, ln_out.weight, ln_out.bias, self.head, buffers.out)
