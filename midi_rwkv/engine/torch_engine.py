"""The decoding engine in PyTorch, for where numba cannot run: the same weights, states and results.

Matrices are kept transposed: on a CPU a vector times a matrix (in, out) reads memory forwards, which took little more
than half the time of `F.linear` on (out, in).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor

from midi_rwkv.kernels.wkv7_chunked import wkv7_chunked
from midi_rwkv.kernels.wkv7_reference import wkv7_reference

from .engine import Engine, Floats, Ids, State


class TorchEngine(Engine):
    """See `Engine`. `threads` are torch's, for the whole process."""

    block_tokens = 256  # rows x tokens that prefill works on at once

    def __init__(self, weights: Mapping[str, Floats], head_size: int, threads: int = 1, device: str = "cpu") -> None:
        super().__init__(weights, head_size)
        self.name = "torch"
        torch.set_num_threads(threads)
        tensors = {name: torch.tensor(np.asarray(x, np.float32), device=device) for name, x in weights.items()}
        ln0 = tensors["blocks.0.ln0.weight"], tensors["blocks.0.ln0.bias"]
        self.embedding = F.layer_norm(tensors["emb.weight"], (self.n_embd,), *ln0)
        self.outer = {name: x for name, x in tensors.items() if not name.startswith("blocks.")}
        self.layers: list[dict[str, Tensor]] = []
        for layer in range(self.n_layer):
            prefix = f"blocks.{layer}."
            own = {name[len(prefix) :]: x for name, x in tensors.items() if name.startswith(prefix)}
            shapes = ("x_r", "x_w", "x_k", "x_v", "x_a", "x_g")
            own["mixes"] = torch.stack([own[f"att.{x}"].view(-1) for x in shapes])[:, None, None]  # (6, 1, 1, C)
            for name in ("att.receptance", "att.key", "att.value", "att.output", "ffn.key", "ffn.value"):
                own[f"{name}.weight"] = own[f"{name}.weight"].T.contiguous()
            self.layers.append(own)
        self.head = self.outer["head.weight"].T.contiguous()

    def prefill(self, tokens: Sequence[int], state: Any) -> Floats:
        ids = self.check_tokens(tokens)
        steps = max(1, self.block_tokens // state.batch)
        for start in range(0, len(ids), steps):
            logits = self._advance(np.tile(ids[start : start + steps], (state.batch, 1)), state)
        return logits

    def step(self, tokens: ArrayLike, state: Any) -> Floats:
        return self._advance(self.check_tokens(tokens, state.batch)[:, None], state)

    @torch.inference_mode()
    def _advance(self, ids: Ids, state: State) -> Floats:
        """Move `state` on by ids (B, T) -> logits of each row's last token (B, V)."""
        arrays = (state.att_shift, state.ffn_shift, state.wkv)
        logits, *after = self.forward(torch.from_numpy(ids), *(torch.from_numpy(x) for x in arrays))
        for array, tensor in zip(arrays, after, strict=True):
            array[:] = tensor.numpy()
        return logits.numpy()

    def forward(
        self, ids: Tensor, att_shift: Tensor, ffn_shift: Tensor, wkv: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """ids (B, T) and the state before them -> logits of the last token (B, V), and the state after it."""
        x = self.embedding[ids]  # (B, T, C)
        values = None
        att_shifts, ffn_shifts, wkvs = [], [], []
        for layer, own in enumerate(self.layers):
            h = self._norm(x, own, "ln1")
            att_shifts.append(h[:, -1])
            out, values, state = self._time_mix(h, own, values, att_shift[layer], wkv[layer])
            wkvs.append(state)
            x = x + out
            h = self._norm(x, own, "ln2")
            ffn_shifts.append(h[:, -1])
            mixed = h + _shift(h, ffn_shift[layer]) * own["ffn.x_k"]
            x = x + F.relu(mixed @ own["ffn.key.weight"]).square() @ own["ffn.value.weight"]
        last = self._norm(x[:, -1], self.outer, "ln_out")
        return last @ self.head, torch.stack(att_shifts), torch.stack(ffn_shifts), torch.stack(wkvs)

    def _time_mix(
        self, h: Tensor, own: dict[str, Tensor], first_values: Tensor | None, before: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """h (B, T, C), what preceded it (B, C), state (B, H, K, V) -> output, the first layer's values, state."""
        batch, steps, size = h.shape
        heads = (batch, steps, self.n_head, self.head_size)
        xr, xw, xk, xv, xa, xg = h + _shift(h, before) * own["mixes"]

        r, k, v = xr @ own["att.receptance.weight"], xk @ own["att.key.weight"], xv @ own["att.value.weight"]
        w = own["att.w0"] + torch.tanh(xw @ own["att.w1"]) @ own["att.w2"]
        log_decay = torch.sigmoid(w) * -math.exp(-0.5)
        if first_values is None:
            first_values = v
        else:
            v = v + (first_values - v) * torch.sigmoid(own["att.v0"] + xv @ own["att.v1"] @ own["att.v2"])
        rate = torch.sigmoid(own["att.a0"] + xa @ own["att.a1"] @ own["att.a2"])
        gate = torch.sigmoid(xg @ own["att.g1"]) @ own["att.g2"]
        kk = F.normalize((k * own["att.k_k"]).view(heads), dim=-1)
        k = (k * (1 + (rate - 1) * own["att.k_a"])).view(heads)
        r, v_heads = r.view(heads), v.view(heads)
        y, state = self.form(steps)(r, log_decay.view(heads), k, v_heads, -kk, kk * rate.view(heads), state)
        y = F.group_norm(y.reshape(-1, size), self.n_head, own["att.ln_x.weight"], own["att.ln_x.bias"], 64e-5)
        y = y.view(heads) + (r * k * own["att.r_k"]).sum(-1, keepdim=True) * v_heads
        return (y.view(h.shape) * gate) @ own["att.output.weight"], first_values, state

    def form(self, steps: int) -> Callable[..., tuple[Tensor, Tensor]]:
        """The form of the recurrence that takes so many tokens."""
        return wkv7_reference if steps == 1 else wkv7_chunked

    def _norm(self, x: Tensor, own: dict[str, Tensor], name: str) -> Tensor:
        return F.layer_norm(x, (self.n_embd,), own[f"{name}.weight"], own[f"{name}.bias"])


def _shift(h: Tensor, before: Tensor) -> Tensor:
    """The previous token's h less this one's; `before` (B, C) precedes the first."""
    return torch.cat([before[:, None], h[:, :-1]], 1) - h
