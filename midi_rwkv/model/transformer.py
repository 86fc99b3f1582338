"""A decoder-only Transformer of vectors, as a trunk in place of the RWKV-7 that it is compared with.

Pre-norm blocks with RMSNorm, rotary position embeddings (arXiv 2104.09864), SwiGLU (arXiv 2002.05202), RMSNorm on
queries and keys (arXiv 2302.05442), PyTorch's `scaled_dot_product_attention`. Its memory is a cache of keys and values
that grows with every vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor, nn

from .config import ModelConfig
from .rows import Rows

ROPE_BASE = 10_000.0


@dataclass
class KeyValueCache(Rows):
    """The keys and values of the vectors so far. Rows may have read different numbers of them."""

    keys: Tensor  # (L, B, H, room, D), rotated
    values: Tensor  # (L, B, H, room, D)
    lengths: Tensor  # (B,) vectors read, int64

    @property
    def batch(self) -> int:
        return len(self.lengths)

    def select(self, rows: ArrayLike) -> KeyValueCache:
        taken = torch.from_numpy(np.asarray(rows, np.int64)).to(self.lengths.device)
        return KeyValueCache(self.keys[:, taken], self.values[:, taken], self.lengths[taken])

    @classmethod
    def concat(cls, states: Sequence[KeyValueCache]) -> KeyValueCache:
        room = max(s.keys.shape[3] for s in states)
        for s in states:
            s.grow_to(room)
        kinds = ((s.keys for s in states), (s.values for s in states))
        keys, values = (torch.cat(list(kind), 1) for kind in kinds)
        return cls(keys, values, torch.cat([s.lengths for s in states]))

    def grow_to(self, room: int) -> None:
        """Makes room for so many vectors a row."""
        more = (0, 0, 0, max(0, room - self.keys.shape[3]))
        self.keys, self.values = F.pad(self.keys, more), F.pad(self.values, more)


def rotation(positions: Tensor, head_size: int) -> tuple[Tensor, Tensor]:
    """positions (B, T) -> cosines and sines (B, 1, T, head_size / 2)."""
    rates = ROPE_BASE ** (-torch.arange(0, head_size, 2, device=positions.device) / head_size)
    angles = positions[:, None, :, None] * rates
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns each pair (i, i + D / 2) of x (B, H, T, D) by its position's angle."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


class Attention(nn.Module):
    """Causal multi-head self-attention."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.n_head, self.head_size = config.n_head, config.head_size
        C = config.n_embd
        self.query, self.key, self.value, self.output = (nn.Linear(C, C, bias=False) for _ in range(4))
        self.query_norm, self.key_norm = nn.RMSNorm(config.head_size, 1e-6), nn.RMSNorm(config.head_size, 1e-6)

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, T, C) -> rotated queries and keys, values: each (B, H, T, D)."""
        heads = (*x.shape[:2], self.n_head, self.head_size)
        q, k, v = (m(x).view(heads).transpose(1, 2) for m in (self.query, self.key, self.value))
        wide = torch.promote_types(v.dtype, torch.float32)  # autocast leaves bf16 here
        q, k = (rotate(norm(x.to(wide)), cos, sin) for norm, x in ((self.query_norm, q), (self.key_norm, k)))
        return q.to(v.dtype), k.to(v.dtype), v

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """(B, H, T, D) -> (B, T, C). mask (B, 1, T, S), True where to look; None: causal."""
        y = F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None)
        return cast(Tensor, self.output(y.transpose(1, 2).flatten(2)))


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        C, size = config.n_embd, config.ffn_size
        self.gate, self.up = nn.Linear(C, size, bias=False), nn.Linear(C, size, bias=False)
        self.down = nn.Linear(size, C, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.down(F.silu(self.gate(x)) * self.up(x)))


class TransformerBlock(nn.Module):
    """Attention and feed-forward part, each with a norm before it."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.att_norm, self.ffn_norm = nn.RMSNorm(config.n_embd, 1e-6), nn.RMSNorm(config.n_embd, 1e-6)
        self.att, self.ffn = Attention(config), FeedForward(config)


class Transformer(nn.Module):
    """The blocks between two norms: vectors in, vectors out."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.norm_in = nn.RMSNorm(config.n_embd, 1e-6)
        self.blocks = nn.ModuleList(TransformerBlock(config) for _ in range(config.n_layer))
        self.norm_out = nn.RMSNorm(config.n_embd, 1e-6)
        self.initialise()

    def layers(self) -> list[TransformerBlock]:
        """The blocks, by their type."""
        return cast("list[TransformerBlock]", list(self.blocks))

    def new_state(self, batch: int = 1) -> KeyValueCache:
        """An empty cache."""
        c = self.config
        empty = self.norm_out.weight.new_zeros(c.n_layer, batch, c.n_head, 0, c.head_size)
        return KeyValueCache(empty, empty.clone(), torch.zeros(batch, dtype=torch.int64, device=empty.device))

    def hidden(
        self, x: Tensor, state: KeyValueCache | None = None, starts: Tensor | None = None
    ) -> tuple[Tensor, KeyValueCache | None]:
        """x (B, T, C) -> the last layer's normalised output (B, T, C), and `state`, which is changed in place.

        starts: (B, T), True at a packed sample's first vector: nothing looks further back, and positions count from it.
        """
        if state is not None and starts is not None:
            raise ValueError("starts is for training rows: give it or a state, not both")
        B, T, _ = x.shape
        steps = torch.arange(T, device=x.device).expand(B, T)
        positions = steps if state is None else steps + state.lengths[:, None]
        mask = None
        if starts is not None:
            positions = steps - steps.where(starts, 0).cummax(1).values
            sample = starts.cumsum(1)  # (B, T)
            mask = ((sample[:, :, None] == sample[:, None]) & (steps[:, :, None] >= steps[:, None]))[:, None]
        cos, sin = rotation(positions, self.config.head_size)
        if state is not None:
            end = int(state.lengths.max()) + T
            if end > state.keys.shape[3]:
                state.grow_to(max(end, 3 * state.keys.shape[3] // 2))
            mask = (torch.arange(end, device=x.device) <= positions[:, :, None])[:, None]
            rows = torch.arange(B, device=x.device)[:, None]
        x = self.norm_in(x)
        for i, block in enumerate(self.layers()):
            q, k, v = block.att.project(block.att_norm(x), cos, sin)
            if state is not None:
                for cache, new in ((state.keys[i], k), (state.values[i], v)):
                    cache[rows, :, positions] = new.transpose(1, 2)
                k, v = state.keys[i, :, :, :end], state.values[i, :, :, :end]
            x = x + block.att(q, k, v, mask)
            x = x + block.ffn(block.ffn_norm(x))
        if state is not None:
            state.lengths += T
        return self.norm_out(x), state

    @torch.no_grad()
    def initialise(self) -> None:
        """Matrices uniform with deviation 1 / sqrt(C); what a block adds to the stream is zero at first."""
        bound = (3 / self.config.n_embd) ** 0.5
        for block in self.layers():
            for m in (block.att.query, block.att.key, block.att.value, block.ffn.gate, block.ffn.up):
                m.weight.uniform_(-bound, bound)
            for m in (block.att.output, block.ffn.down):
                m.weight.zero_()
