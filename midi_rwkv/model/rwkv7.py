"""RWKV-7 (x070) in PyTorch, exactly: RWKV-LM's state dicts load and save, and its parameter names are kept.

    model = RWKV7(ModelConfig(n_layer=8, n_embd=256, vocab_size=803))
    logits, state = model(ids)                    # (B, T) -> (B, T, V): a whole sequence at once
    logits, state = model(next_ids, state)        # continue from there with one token or many

What is unusual about RWKV-7, for a reader who knows Transformers:
- There is no attention. Each head carries a matrix S (K x V); a token decays it channel by channel, removes what is
  stored under its normalised key kk, at an in-context learning rate a, and stores k -> v. kernels/README.md has the
  equation, `kernels/wkv7_reference.py` the loop.
- Token shift: every projection reads a learned mix of this token's vector and the previous one's.
- Value residual: layers after the first mix their values with the first layer's.
- The channel mix is a squared-ReLU MLP, also token-shifted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from midi_rwkv.kernels.dispatch import wkv7

from .config import ModelConfig
from .initialise import initialise


@dataclass
class ModelState:
    """The recurrent state after some tokens: all that the model remembers."""

    att_shift: Tensor  # (L, B, C) last input of each time mix
    ffn_shift: Tensor  # (L, B, C) last input of each channel mix
    wkv: Tensor  # (L, B, H, K, V)


class Recurrence(NamedTuple):
    """The inputs of the recurrence, (B, T, H, K) each: see `wkv7_reference`."""

    r: Tensor
    log_decay: Tensor
    k: Tensor
    v: Tensor
    a: Tensor
    b: Tensor


def previous_tokens(x: Tensor, last: Tensor, starts: Tensor | None = None) -> Tensor:
    """(B, T, C) the vector before each token's own, from x (B, T, C) and the vector that preceded it (B, C).

    It is zero where `starts` (B, T) is True.
    """
    previous = torch.cat([last.to(x.dtype).unsqueeze(1), x[:, :-1]], 1)
    return previous if starts is None else previous.masked_fill(starts.unsqueeze(-1), 0.0)


class TimeMix(nn.Module):
    """The recurrent half of a block: the part `before` the recurrence and the part `after` it."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        C, self.n_head, self.head_size = config.n_embd, config.n_head, config.head_size

        def vector() -> nn.Parameter:
            return nn.Parameter(torch.empty(1, 1, C))

        def low_rank(rank: int) -> tuple[nn.Parameter, nn.Parameter]:
            return nn.Parameter(torch.empty(C, rank)), nn.Parameter(torch.empty(rank, C))

        self.x_r, self.x_w, self.x_k, self.x_v, self.x_a, self.x_g = (vector() for _ in range(6))  # token shift
        self.w0, self.a0, self.k_k, self.k_a = (vector() for _ in range(4))
        if layer > 0:
            self.v0 = vector()
        self.w1, self.w2 = low_rank(config.decay_rank)
        self.a1, self.a2 = low_rank(config.iclr_rank)
        self.g1, self.g2 = low_rank(config.gate_rank)
        if layer > 0:
            self.v1, self.v2 = low_rank(config.value_rank)
        self.r_k = nn.Parameter(torch.empty(config.n_head, config.head_size))
        self.receptance, self.key, self.value, self.output = (nn.Linear(C, C, bias=False) for _ in range(4))
        self.ln_x = nn.GroupNorm(config.n_head, C, eps=64e-5)

    def before(self, x: Tensor, previous: Tensor, v_first: Tensor | None) -> tuple[Recurrence, Tensor, Tensor]:
        """x and each token's previous one, (B, T, C) -> inputs of the recurrence, v_first, and the output's gate."""
        heads = (*x.shape[:2], self.n_head, self.head_size)
        xx = previous - x
        xr, xw, xk, xv, xa, xg = (
            torch.addcmul(x, xx, m) for m in (self.x_r, self.x_w, self.x_k, self.x_v, self.x_a, self.x_g)
        )
        r, k, v = self.receptance(xr), self.key(xk), self.value(xv)  # (B, T, C)
        # RWKV-LM's w = -softplus(-z) - 0.5 and log decay -exp(w), in two operations.
        log_decay = torch.sigmoid(self.w0 + (torch.tanh(xw @ self.w1) @ self.w2).float()) * -math.exp(-0.5)
        if v_first is None:
            v_first = v
        else:
            v = v + (v_first - v) * torch.sigmoid(self.v0 + (xv @ self.v1) @ self.v2)
        a = torch.sigmoid(self.a0 + (xa @ self.a1) @ self.a2).view(heads)
        gate = torch.sigmoid(xg @ self.g1) @ self.g2
        kk = F.normalize((k * self.k_k).view(heads).float(), dim=-1)
        k = k.view(heads) * (1 + (a - 1) * self.k_a.view(heads[2:]))
        inputs = Recurrence(r.view(heads), log_decay.view(heads), k, v.view(heads), -kk, kk * a)
        if r.device.type != "cpu":
            # Autocast leaves only r in bfloat16. On a GPU the recurrence is bound by memory, so all six are rounded, as
            # in RWKV-LM; kernels/NOTES.md has the cost in accuracy.
            inputs = Recurrence(*(t.to(r.dtype) for t in inputs))
        return inputs, v_first, gate

    def after(self, y: Tensor, inputs: Recurrence, gate: Tensor) -> Tensor:
        """The recurrence's y (B, T, H, V), normalised, with a bonus for each token's own value, gated: (B, T, C)."""
        B, T, H, V = y.shape
        y = self.ln_x(y.reshape(B * T, H * V)).view(y.shape)
        y = y + (inputs.r * inputs.k * self.r_k).sum(-1, keepdim=True) * inputs.v
        return cast(Tensor, self.output(y.reshape(B, T, H * V) * gate))


class ChannelMix(nn.Module):
    """The feed-forward half of a block."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.x_k = nn.Parameter(torch.empty(1, 1, config.n_embd))
        self.key = nn.Linear(config.n_embd, 4 * config.n_embd, bias=False)
        self.value = nn.Linear(4 * config.n_embd, config.n_embd, bias=False)

    def forward(self, x: Tensor, previous: Tensor) -> Tensor:
        """x and each token's previous one, (B, T, C) -> (B, T, C)."""
        k = self.key(torch.addcmul(x, previous - x, self.x_k))
        return cast(Tensor, self.value(torch.relu(k).square()))


class Block(nn.Module):
    """A pre-norm residual block; the first also normalises the embedding (ln0)."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        if layer == 0:
            self.ln0 = nn.LayerNorm(config.n_embd)
        self.ln1, self.ln2 = nn.LayerNorm(config.n_embd), nn.LayerNorm(config.n_embd)
        self.att, self.ffn = TimeMix(config, layer), ChannelMix(config)

    def before(
        self, x: Tensor, last: Tensor, v_first: Tensor | None, starts: Tensor | None = None
    ) -> tuple[Recurrence, Tensor, Tensor, Tensor]:
        """All that precedes the recurrence: its inputs, v_first, the output's gate, and the time mix's last input.

        x (B, T, C); last (B, C), the time mix's input before it; starts (B, T): where the token shift sees zeros.
        """
        h = self.ln1(x)
        return *self.att.before(h, previous_tokens(h, last, starts), v_first), h[:, -1].float()

    def after(
        self, x: Tensor, mixed: tuple[Tensor, Recurrence, Tensor], last: Tensor, starts: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """All that follows it: the block's output (B, T, C), and the channel mix's last input.

        x: the block's input; mixed: what the recurrence made, its inputs, and the gate; last: as for `before`.
        """
        x = x + self.att.after(*mixed)
        h = self.ln2(x)
        return x + self.ffn(h, previous_tokens(h, last, starts)), h[:, -1].float()


class RWKV7(nn.Module):
    """Embedding, blocks, head. With a vocabulary of 0 it is the trunk alone, of which only `hidden` is used."""

    def __init__(self, config: ModelConfig, *, fresh: bool = True) -> None:
        """With `fresh` the model is initialised for training; False is for weights that are loaded afterwards."""
        super().__init__()
        self.config = config
        if config.vocab_size:
            self.emb = nn.Embedding(config.vocab_size, config.n_embd)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.ln_out = nn.LayerNorm(config.n_embd)
        if config.vocab_size:
            self.head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        if fresh:
            initialise(self)

    def layers(self) -> list[Block]:
        """The blocks, with their type."""
        return cast("list[Block]", list(self.blocks))

    def new_state(self, batch: int = 1, wkv0: Tensor | None = None) -> ModelState:
        """The state before any token: zeros, or `wkv0` (L, H, K, V) in every row, a tuned initial state."""
        c = self.config
        shift = self.ln_out.weight.new_zeros(c.n_layer, batch, c.n_embd, dtype=torch.float32)
        wkv = shift.new_zeros(c.n_layer, batch, c.n_head, c.head_size, c.head_size)
        return ModelState(shift, shift.clone(), wkv if wkv0 is None else wkv + wkv0[:, None])

    def hidden(self, x: Tensor, state: ModelState | None = None, backend: str = "auto") -> tuple[Tensor, ModelState]:
        """The last layer's normalised output (B, T, C), and the state after it.

        Args:
            x: tokens (B, T), or vectors (B, T, C) in place of their embeddings.
            state: the state before them; None for none.
            backend: of the recurrence (`kernels/dispatch.py`).
        """
        x = x if x.is_floating_point() else self.emb(x)
        state = self.new_state(len(x)) if state is None else state
        x, v_first = self.layers()[0].ln0(x), None
        att_shift, ffn_shift, wkvs = [], [], []
        for i, block in enumerate(self.layers()):
            inputs, v_first, gate, last = block.before(x, state.att_shift[i], v_first)
            att_shift.append(last)
            y, wkv = wkv7(*inputs, state.wkv[i], backend=backend)
            wkvs.append(wkv)
            x, last = block.after(x, (y, inputs, gate), state.ffn_shift[i])
            ffn_shift.append(last)
        return self.ln_out(x), ModelState(torch.stack(att_shift), torch.stack(ffn_shift), torch.stack(wkvs))

    def forward(self, ids: Tensor, state: ModelState | None = None, backend: str = "auto") -> tuple[Tensor, ModelState]:
        """ids (B, T) -> logits (B, T, V) and the state after them; as `hidden`."""
        h, state = self.hidden(ids, state, backend)
        return self.head(h), state
