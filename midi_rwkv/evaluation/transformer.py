"""A decoder-only Transformer of the same size, its engine and its trainer, for comparison with RWKV-7.

Pre-norm blocks with RMSNorm, rotary position embeddings (arXiv 2104.09864), SwiGLU (arXiv 2002.05202), RMSNorm on
queries and keys (arXiv 2302.05442), PyTorch's `scaled_dot_product_attention`, untied embeddings as in the RWKV-7 here.
Its memory is a cache of keys and values that grows with every token.
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

from midi_rwkv.engine.engine import Floats, Ids, check_tokens
from midi_rwkv.errors import StyleError
from midi_rwkv.model.checkpoint import Checkpoint
from midi_rwkv.model.config import ModelConfig
from midi_rwkv.model.rows import Rows
from midi_rwkv.model.rwkv7 import RWKV7
from midi_rwkv.training.trainer import Trainer

ROPE_BASE = 10_000.0


@dataclass
class KeyValueCache(Rows):
    """The keys and values of the tokens so far. Rows may have read different numbers of tokens."""

    keys: Tensor  # (L, B, H, room, D), rotated
    values: Tensor  # (L, B, H, room, D)
    lengths: Tensor  # (B,) tokens read, int64

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
        """Make room for so many tokens a row."""
        more = (0, 0, 0, max(0, room - self.keys.shape[3]))
        self.keys, self.values = F.pad(self.keys, more), F.pad(self.values, more)


def rotation(positions: Tensor, head_size: int) -> tuple[Tensor, Tensor]:
    """positions (B, T) -> cosines and sines (B, 1, T, head_size / 2)."""
    rates = ROPE_BASE ** (-torch.arange(0, head_size, 2, device=positions.device) / head_size)
    angles = positions[:, None, :, None] * rates
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (i, i + D / 2) of x (B, H, T, D) by its position's angle."""
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
    def __init__(self, config: ModelConfig):
        super().__init__()
        self.att_norm, self.ffn_norm = nn.RMSNorm(config.n_embd, 1e-6), nn.RMSNorm(config.n_embd, 1e-6)
        self.att, self.ffn = Attention(config), FeedForward(config)


class Transformer(nn.Module):
    """`hidden` and `forward` as RWKV7's; the state is a `KeyValueCache`, or None in training."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.emb = nn.Embedding(config.vocab_size, config.n_embd)
        self.blocks = nn.ModuleList(TransformerBlock(config) for _ in range(config.n_layer))
        self.norm_out = nn.RMSNorm(config.n_embd, 1e-6)
        self.head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.initialise()

    def layers(self) -> list[TransformerBlock]:
        """The blocks, by their type."""
        return cast("list[TransformerBlock]", list(self.blocks))

    def new_state(self, batch: int = 1) -> KeyValueCache:
        """An empty cache."""
        c = self.config
        empty = self.head.weight.new_zeros(c.n_layer, batch, c.n_head, 0, c.head_size)
        return KeyValueCache(empty, empty.clone(), torch.zeros(batch, dtype=torch.int64, device=empty.device))

    def hidden(
        self, ids: Tensor, state: KeyValueCache | None = None, starts: Tensor | None = None
    ) -> tuple[Tensor, KeyValueCache | None]:
        """ids (B, T) -> the last layer's normalised output (B, T, C), and `state`, which is changed in place.

        starts: (B, T), True at a packed sample's first token: nothing looks further back, and positions count from it.
        """
        if state is not None and starts is not None:
            raise ValueError("starts is for training rows: give it or a state, not both")
        B, T = ids.shape
        steps = torch.arange(T, device=ids.device).expand(B, T)
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
            mask = (torch.arange(end, device=ids.device) <= positions[:, :, None])[:, None]
            rows = torch.arange(B, device=ids.device)[:, None]
        x = self.emb(ids)
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

    def forward(
        self, ids: Tensor, state: KeyValueCache | None = None, starts: Tensor | None = None
    ) -> tuple[Tensor, KeyValueCache | None]:
        """ids (B, T) -> logits (B, T, vocabulary), state. starts: as in `hidden`."""
        h, state = self.hidden(ids, state, starts)
        return self.head(h), state

    @torch.no_grad()
    def initialise(self) -> None:
        """Embedding normal with deviation 0.02, head 0.5 / sqrt(C), matrices uniform with deviation 1 / sqrt(C); what a
        block adds to the stream is zero at first."""
        C = self.config.n_embd
        self.emb.weight.normal_(0, 0.02)
        self.head.weight.normal_(0, 0.5 / C**0.5)
        for block in self.layers():
            for m in (block.att.query, block.att.key, block.att.value, block.ffn.gate, block.ffn.up):
                m.weight.uniform_(-((3 / C) ** 0.5), (3 / C) ** 0.5)
            for m in (block.att.output, block.ffn.down):
                m.weight.zero_()


class TransformerTrainer(Trainer):
    """A Trainer of Transformers."""

    def make_model(self) -> nn.Module:
        return Transformer(self.model_config)


class TransformerEngine:
    """See `TokenEngine`: PyTorch, float32. `threads` are torch's, for the whole process."""

    name = "transformer"
    block_tokens = 128

    def __init__(self, model: Transformer, threads: int = 1) -> None:
        torch.set_num_threads(threads)
        self.model, self.vocab_size = model, model.config.vocab_size

    def new_state(self, batch: int = 1, wkv0: Floats | None = None) -> KeyValueCache:
        if wkv0 is not None:
            raise StyleError("a Transformer has no initial state to tune; leave the style out")
        return self.model.new_state(batch)

    def prefill(self, tokens: Sequence[int], state: KeyValueCache) -> Floats:
        return self._advance(np.tile(check_tokens(tokens, self.vocab_size), (state.batch, 1)), state)

    def step(self, tokens: ArrayLike, state: KeyValueCache) -> Floats:
        return self._advance(check_tokens(tokens, self.vocab_size, state.batch)[:, None], state)

    @torch.inference_mode()
    def _advance(self, ids: Ids, state: KeyValueCache) -> Floats:
        """Move `state` on by ids (B, T) -> logits of each row's last token (B, V)."""
        h, _ = self.model.hidden(torch.from_numpy(ids), state)
        logits: Floats = self.model.head(h[:, -1]).numpy()
        return logits


def module_of(checkpoint: Checkpoint) -> RWKV7 | Transformer:
    """A checkpoint's weights as a PyTorch module of its architecture, ready for evaluation."""
    if checkpoint.config.arch != "transformer":
        return checkpoint.model()
    model = Transformer(checkpoint.config)
    model.load_state_dict({name: torch.from_numpy(x) for name, x in checkpoint.weights.items()})
    return model.eval()
