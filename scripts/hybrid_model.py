"""RWKV-7 with one layer of sliding-window attention, for experiments.py: what exact recall of the near past is worth.

After BASED ("Simple linear attention language models balance the recall-throughput tradeoff", arXiv 2402.18668), which
sets a small window beside linear attention. The window layer takes the place of one time mix; the rest is RWKV-7. It
trains and is measured; it has no step form, for it is not in the product unless it wins.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from midi_rwkv.model.config import ModelConfig
from midi_rwkv.model.packing import Packing
from midi_rwkv.model.rwkv7 import RWKV7
from midi_rwkv.model.transformer import Attention, rotation

WINDOW = 256  # tokens that a token sees, itself included


class WindowAttention(nn.Module):
    """Called as a time mix is; the recurrent state goes through untouched."""

    def __init__(self, config: ModelConfig, window: int):
        super().__init__()
        self.attention, self.window, self.head_size = Attention(config), window, config.head_size
        bound = (3 / config.n_embd) ** 0.5
        for projection in (self.attention.query, self.attention.key, self.attention.value):
            nn.init.uniform_(projection.weight, -bound, bound)
        nn.init.zeros_(self.attention.output.weight)

    def forward(
        self,
        x: Tensor,
        v_first: Tensor,
        shift: Tensor,
        state: Tensor,
        *,
        backend: str,
        packing: Packing | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, T, C) -> output (B, T, C), v_first and state as given. Positions count from a packed sample's start."""
        batch, steps, _ = x.shape
        place = torch.arange(steps, device=x.device).expand(batch, steps)
        back = place[:, :, None] - place[:, None]  # (B, T, T)
        mask = (back >= 0) & (back < self.window)
        if packing is not None:
            sample = packing.starts.cumsum(1)
            mask &= sample[:, :, None] == sample[:, None]
            place = place - place.where(packing.starts, 0).cummax(1).values
        q, k, v = self.attention.project(x, *rotation(place, self.head_size))
        return self.attention(q, k, v, mask[:, None]), v_first, state


class HybridRWKV7(RWKV7):
    """RWKV-7 whose middle layer attends to the last `window` tokens instead of its recurrence."""

    def __init__(self, config: ModelConfig, window: int = WINDOW):
        super().__init__(config)
        self.layers()[config.n_layer // 2].att = WindowAttention(config, window)  # type: ignore[assignment]
