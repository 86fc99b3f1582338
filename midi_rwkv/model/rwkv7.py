"""RWKV-7 x070, to the letter, so that RWKV-LM's state dicts load and save.

What is unusual about RWKV-7, for a reader who knows Transformers:
- no attention: each head carries a matrix S (K x V) through time; a step decays it by channel, removes what is stored
  under the normalised key kk (at an in-context learning rate a), and stores k -> v. See kernels/README.md.
- token shift: every projection reads a learned mix of this token and the previous one.
- value residual: layers past the first mix their values with the first layer's.
- the channel mix is a squared-ReLU MLP, also token-shifted.

Parameter names are RWKV-LM's ("blocks.0.att.x_r"), which is why they are terse.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import ModelConfig
from .packing import Packing, wkv7_packed
from .transformer import Transformer


@dataclass
class ModelState:
    """The recurrent state after some tokens: all that the model remembers."""

    att_shift: Tensor  # (L, B, C) last input of each time mix
    ffn_shift: Tensor  # (L, B, C) last input of each channel mix
    wkv: Tensor  # (L, B, H, K, V)


def token_shift(x: Tensor, last: Tensor, starts: Tensor | None = None) -> Tensor:
    """x (B, T, C), last (B, C) -> the previous token's vector minus this one's; before a start (B, T) it is zero."""
    previous = torch.cat([last.unsqueeze(1), x[:, :-1]], 1)
    return (previous if starts is None else previous.masked_fill(starts.unsqueeze(-1), 0.0)) - x


class TimeMix(nn.Module):
    """The recurrent half of a block. `*1`, `*2` are low-rank adapters (C, rank), (rank, C); the rest (1, 1, C)."""

    x_r: Tensor
    x_w: Tensor
    x_k: Tensor
    x_v: Tensor
    x_a: Tensor
    x_g: Tensor
    w0: Tensor
    w1: Tensor
    w2: Tensor
    a0: Tensor
    a1: Tensor
    a2: Tensor
    v1: Tensor
    v2: Tensor
    g1: Tensor
    g2: Tensor
    k_k: Tensor
    k_a: Tensor

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        self.layer, self.head_size, self.n_head = layer, config.head_size, config.n_head
        C = config.n_embd
        for name in ("x_r", "x_w", "x_k", "x_v", "x_a", "x_g", "w0", "a0", "k_k", "k_a"):
            self.register_parameter(name, nn.Parameter(torch.empty(1, 1, C)))
        ranks = [("w", config.decay_rank), ("a", config.iclr_rank), ("g", config.gate_rank)]
        if layer > 0:
            self.v0 = nn.Parameter(torch.empty(1, 1, C))
            ranks.append(("v", config.value_rank))
        for name, rank in ranks:
            self.register_parameter(f"{name}1", nn.Parameter(torch.empty(C, rank)))
            self.register_parameter(f"{name}2", nn.Parameter(torch.empty(rank, C)))
        self.r_k = nn.Parameter(torch.empty(config.n_head, config.head_size))
        self.receptance, self.key, self.value, self.output = (nn.Linear(C, C, bias=False) for _ in range(4))
        self.ln_x = nn.GroupNorm(config.n_head, C, eps=64e-5)

    def forward(
        self,
        x: Tensor,
        v_first: Tensor | None,
        shift: Tensor,
        state: Tensor | None,
        *,
        backend: str,
        packing: Packing | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, T, C) -> output (B, T, C), v_first (B, T, C), final wkv state (B, H, K, V)."""
        inputs, v_first, gate = self.before(x, v_first, shift, packing.starts if packing else None)
        r, log_decay, k, v, a, b = inputs
        y, final = wkv7_packed(r, log_decay, k, v, a, b, state, packing=packing, backend=backend)
        return self.after(y, r, k, v, gate=gate), v_first, final

    def before(
        self, x: Tensor, v_first: Tensor | None, shift: Tensor, starts: Tensor | None
    ) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
        """What the recurrence takes (six tensors, each (B, T, H, K)), v_first and the output's gate (B, T, C)."""
        heads = (*x.shape[:2], self.n_head, self.head_size)
        xx = token_shift(x, shift, starts)
        xr, xw, xk, xv, xa, xg = (
            torch.addcmul(x, xx, m) for m in (self.x_r, self.x_w, self.x_k, self.x_v, self.x_a, self.x_g)
        )
        r, k, v = self.receptance(xr), self.key(xk), self.value(xv)  # (B, T, C)
        # RWKV-LM's w = -softplus(-z) - 0.5 and log decay -exp(w), in two operations
        log_decay = torch.sigmoid(self.w0 + (torch.tanh(xw @ self.w1) @ self.w2).float()) * -math.exp(-0.5)
        if v_first is None:
            v_first = v
        else:
            v = v + (v_first - v) * torch.sigmoid(self.v0 + (xv @ self.v1) @ self.v2)
        a = torch.sigmoid(self.a0 + (xa @ self.a1) @ self.a2).view(heads)
        gate = torch.sigmoid(xg @ self.g1) @ self.g2
        kk = F.normalize((k * self.k_k).view(heads).float(), dim=-1)
        k = k.view(heads) * (1 + (a - 1) * self.k_a.view(heads[2:]))
        inputs: tuple[Tensor, ...] = (r.view(heads), log_decay.view(heads), k, v.view(heads), -kk, kk * a)
        if r.device.type != "cpu":
            # Autocast leaves r alone in bfloat16. A GPU's recurrence waits for memory, so all six are rounded, as in
            # RWKV-LM; what that costs is in kernels/NOTES.md.
            inputs = tuple(x.to(r.dtype) for x in inputs)
        return inputs, v_first, gate

    def after(self, y: Tensor, r: Tensor, k: Tensor, v: Tensor, *, gate: Tensor) -> Tensor:
        """The recurrence's y, (B, T, H, V), normalised, with each token's own value, gated: (B, T, C)."""
        B, T, H, V = y.shape
        y = self.ln_x(y.reshape(B * T, H * V)).view(y.shape)
        y = y + (r * k * self.r_k).sum(-1, keepdim=True) * v
        return self.output(y.reshape(B, T, H * V) * gate)


class ChannelMix(nn.Module):
    """The feed-forward half of a block."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.x_k = nn.Parameter(torch.empty(1, 1, config.n_embd))
        self.key = nn.Linear(config.n_embd, 4 * config.n_embd, bias=False)
        self.value = nn.Linear(4 * config.n_embd, config.n_embd, bias=False)

    def forward(self, x: Tensor, shift: Tensor, starts: Tensor | None = None) -> Tensor:
        return self.value(torch.relu(self.key(torch.addcmul(x, token_shift(x, shift, starts), self.x_k))).square())


class Block(nn.Module):
    """Pre-norm residual block; the first also normalises the embedding (ln0)."""

    def __init__(self, config: ModelConfig, layer: int):
        super().__init__()
        if layer == 0:
            self.ln0 = nn.LayerNorm(config.n_embd)
        self.ln1, self.ln2 = nn.LayerNorm(config.n_embd), nn.LayerNorm(config.n_embd)
        self.att, self.ffn = TimeMix(config, layer), ChannelMix(config)


class RWKV7(nn.Module):
    """Sequence form: `forward` over (B, T); step form: the same with T = 1 and the state handed on."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.emb = nn.Embedding(config.vocab_size, config.n_embd)
        self.blocks = nn.ModuleList(Block(config, i) for i in range(config.n_layer))
        self.ln_out = nn.LayerNorm(config.n_embd)
        self.head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.initialise()

    def layers(self) -> list[Block]:
        """The blocks, by their type."""
        return cast("list[Block]", list(self.blocks))

    def new_state(self, batch: int = 1, wkv0: Tensor | None = None) -> ModelState:
        """The state before any token: zeros, or `wkv0` (L, H, K, V), a tuned initial state, in each row."""
        c, like = self.config, self.ln_out.weight
        shift = like.new_zeros(c.n_layer, batch, c.n_embd, dtype=torch.float32)
        wkv = like.new_zeros(c.n_layer, batch, c.n_head, c.head_size, c.head_size, dtype=torch.float32)
        return ModelState(shift, shift.clone(), wkv if wkv0 is None else wkv + wkv0[:, None])

    def hidden(
        self, ids: Tensor, state: ModelState | None = None, backend: str = "auto", starts: Tensor | None = None
    ) -> tuple[Tensor, ModelState]:
        """ids (B, T) -> the last layer's normalised output (B, T, C), and the state after the last token.

        starts: (B, T), True at a packed sample's first token, where everything before is forgotten (packing.py).
        """
        state = self.new_state(len(ids)) if state is None else state
        packing = None if starts is None else Packing.of(starts)
        x = self.emb(ids)
        x = self.layers()[0].ln0(x)
        v_first = None
        att_shift, ffn_shift, wkv = [], [], []
        for i, block in enumerate(self.layers()):
            h = block.ln1(x)
            shift = state.att_shift[i].to(h.dtype)
            out, v_first, final = block.att(h, v_first, shift, state.wkv[i], backend=backend, packing=packing)
            att_shift.append(h[:, -1].float())
            wkv.append(final)
            x = x + out
            h = block.ln2(x)
            x = x + block.ffn(h, state.ffn_shift[i].to(h.dtype), starts)
            ffn_shift.append(h[:, -1].float())
        return self.ln_out(x), ModelState(torch.stack(att_shift), torch.stack(ffn_shift), torch.stack(wkv))

    def forward(
        self, ids: Tensor, state: ModelState | None = None, backend: str = "auto", starts: Tensor | None = None
    ) -> tuple[Tensor, ModelState]:
        """ids (B, T) -> logits (B, T, vocabulary), state. Pass the state on to continue. starts: as in `hidden`."""
        h, state = self.hidden(ids, state, backend, starts)
        return self.head(h), state

    def step(self, ids: Tensor, state: ModelState) -> tuple[Tensor, ModelState]:
        """One token a row: ids (B,) -> logits (B, vocabulary), state. Constant memory."""
        logits, state = self.forward(ids.unsqueeze(1), state, backend="reference")
        return logits[:, 0], state

    @torch.no_grad()
    def initialise(self) -> None:
        """RWKV-LM's x070 initialisation. i runs over channels as 0..1; d = layer / (n_layer - 1); e = 1 - layer /
        n_layer.

        | parameter | value |
        |---|---|
        | emb | uniform +-1e-4 (ln0 makes it unit) |
        | head | orthogonal, gain 0.5 sqrt(V / C) |
        | x_r, x_g | 1 - i^(0.2 e);  x_w, x_a: 1 - i^(0.9 e);  x_k, x_v: 1 - i^(0.7 e) |
        | w0 | -6.5 + 5 i^(0.85 + sqrt(d)): slow to fast decays;  a0: 0;  v0: 1 |
        | w1, a1, v1, g1 | 0;  w2, a2, v2, g2: orthogonal, gain 0.1 |
        | k_k | 0.85;  k_a: 1;  r_k: 0 |
        | receptance, value | uniform +-0.5 / sqrt(C);  key: a tenth of it;  output: 0 |
        | ffn | x_k: 1 - i^(e^4);  key: uniform +-0.5 / sqrt(C);  value: 0 |
        """
        c = self.config
        C, L = c.n_embd, c.n_layer
        bound = 0.5 / math.sqrt(C)
        i = (torch.arange(C) / C).view(1, 1, C)
        i_full = (torch.arange(C) / (C - 1)).view(1, 1, C)
        self.emb.weight.uniform_(-1e-4, 1e-4)
        nn.init.orthogonal_(self.head.weight, gain=0.5 * math.sqrt(max(1.0, c.vocab_size / C)))
        for layer, block in enumerate(self.layers()):
            d, e = layer / max(1, L - 1), 1 - layer / L
            att, ffn = block.att, block.ffn
            for name, power in (("r", 0.2), ("w", 0.9), ("k", 0.7), ("v", 0.7), ("a", 0.9), ("g", 0.2)):
                getattr(att, f"x_{name}").copy_(1 - i ** (power * e))
            att.w0.copy_(-6.5 + 5 * i_full ** (0.85 + math.sqrt(d)))
            att.a0.zero_()
            for name in "wagv" if layer else "wag":
                getattr(att, f"{name}1").zero_()
                nn.init.orthogonal_(getattr(att, f"{name}2"), gain=0.1)
            if layer:
                att.v0.fill_(1.0)
            att.k_k.fill_(0.85)
            att.k_a.fill_(1.0)
            att.r_k.zero_()
            att.receptance.weight.uniform_(-bound, bound)
            att.key.weight.uniform_(-bound / 10, bound / 10)
            att.value.weight.uniform_(-bound, bound)
            att.output.weight.zero_()
            ffn.x_k.copy_(1 - i ** (e**4))
            ffn.key.weight.uniform_(-bound, bound)
            ffn.value.weight.zero_()


def make_model(config: ModelConfig) -> RWKV7 | Transformer:
    """A freshly initialised model of the configured architecture."""
    return RWKV7(config) if config.arch == "rwkv7" else Transformer(config)
