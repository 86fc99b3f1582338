"""The initial parameters of an RWKV-7."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from .rwkv7 import RWKV7


@torch.no_grad()
def initialise(model: RWKV7) -> None:
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
    C, L = model.config.n_embd, model.config.n_layer
    bound = 0.5 / math.sqrt(C)
    i = (torch.arange(C) / C).view(1, 1, C)
    i_full = (torch.arange(C) / (C - 1)).view(1, 1, C)
    if model.config.vocab_size:
        model.emb.weight.uniform_(-1e-4, 1e-4)
        nn.init.orthogonal_(model.head.weight, gain=0.5 * math.sqrt(max(1.0, model.config.vocab_size / C)))
    for layer, block in enumerate(model.layers()):
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
