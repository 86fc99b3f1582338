"""A model that reads and writes steps: tables in front of the RWKV-7 trunk, a chain of heads behind it.

In: the vector of a step is the sum of a table's row for each of its columns, and for what the columns imply and a state
would otherwise have to track (where in the beat, which beat, which pitch class).

Out: one hidden vector says what the next note is, attribute by attribute: its place (or that the cell ends), then
micro-timing, pitch, velocity and duration, each given the ones before. The probability of a note is their product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from midi_rwkv.tokens.attributes import DRUMS, IMPLIED_SIZES, POSITIONS_PER_QUARTER, Column

from .config import ModelConfig
from .packing import packed_hidden
from .rwkv7 import RWKV7, ModelState

END, SAME, FIRST_POSITION = 0, 1, 2  # of the place head


def implied_columns(steps: Tensor) -> Tensor:
    """`IMPLIED_SIZES`, (..., 3). steps: (..., columns)."""
    position, pitch = steps[..., Column.POSITION], steps[..., Column.PITCH]
    has_position, pitched = position > 0, (pitch > 0) & (pitch <= DRUMS)
    within = torch.where(has_position, 1 + (position - 1) % POSITIONS_PER_QUARTER, 0)
    quarter = torch.where(has_position, 1 + (position - 1) // POSITIONS_PER_QUARTER, 0)
    return torch.stack([within, quarter, torch.where(pitched, 1 + (pitch - 1) % 12, 0)], -1)


class Tables(nn.Module):
    """Steps (B, T, columns) -> vectors (B, T, C)."""

    offsets: Tensor

    def __init__(self, sizes: Sequence[int], n_embd: int):
        super().__init__()
        rows = [*sizes, *IMPLIED_SIZES]
        self.weight = nn.Parameter(torch.empty(sum(rows), n_embd))
        self.register_buffer("offsets", torch.tensor([0, *rows[:-1]]).cumsum(0), persistent=False)
        nn.init.uniform_(self.weight, -1e-4, 1e-4)  # ln0 makes the sum unit

    def forward(self, steps: Tensor) -> Tensor:
        rows = torch.cat([steps, implied_columns(steps)], -1).long() + self.offsets
        return F.embedding_bag(rows.flatten(0, 1), self.weight, mode="sum").view(*steps.shape[:2], -1)


class Heads(nn.Module):
    """The chain: place, micro-timing, pitch, velocity, duration."""

    def __init__(self, sizes: Sequence[int], n_embd: int):
        super().__init__()
        C = n_embd
        classes = [
            FIRST_POSITION + sizes[Column.POSITION] - 1,
            *(sizes[c] - 1 for c in (Column.MICRO, Column.PITCH, Column.VELOCITY, Column.DURATION)),
        ]
        self.classes = classes
        self.out = nn.ModuleList(nn.Linear(C, n, bias=False) for n in classes)
        self.given = nn.ModuleList(nn.Embedding(n, C) for n in classes[:-1])
        self.up = nn.ModuleList(nn.Linear(C, 2 * C, bias=False) for _ in classes[1:])
        self.down = nn.ModuleList(nn.Linear(2 * C, C, bias=False) for _ in classes[1:])
        for layer in self.out:
            nn.init.normal_(cast(nn.Linear, layer).weight, std=0.5 / C**0.5)
        for table in self.given:
            nn.init.normal_(cast(nn.Embedding, table).weight, std=0.5)
        for layer in self.down:
            nn.init.zeros_(cast(nn.Linear, layer).weight)

    def stage(self, number: int, z: Tensor) -> Tensor:
        """Logits of an attribute, (N, classes). z: (N, C), the hidden vector and what is given of the ones before."""
        if number == 0:
            return cast(Tensor, self.out[0](z))
        up, down = (cast(nn.Linear, layers[number - 1]).weight for layers in (self.up, self.down))
        return cast(Tensor, self.out[number](self.between(z, up, down)))

    @staticmethod
    def between(z: Tensor, up: Tensor, down: Tensor) -> Tensor:
        """What a stage makes of the hidden vector and what is given, (N, C)."""
        inner = torch.relu(F.linear(F.layer_norm(z, z.shape[-1:]), up)).square()
        return F.layer_norm(z + F.linear(inner, down), z.shape[-1:])

    def nats(self, h: Tensor, targets: Tensor) -> Tensor:
        """What each attribute costs, (N, 5). h (N, C), targets (N, 5) as `layout.targets_of` gives them."""
        place = F.cross_entropy(self.stage(0, h).float(), targets[:, 0], reduction="none")
        is_note = (targets[:, 0] > END).nonzero()[:, 0]
        z, wanted = h[is_note], targets[is_note]
        columns = []
        for number in range(1, 5):
            given = wanted[:, 0] if number == 1 else wanted[:, number - 1] - 1
            z = z + self.given[number - 1](given)
            classes = wanted[:, number] - 1  # -1 where the attribute is not there: a drum's duration
            columns.append(F.cross_entropy(self.stage(number, z).float(), classes, reduction="none", ignore_index=-1))
        rest = torch.zeros(len(h), 4, device=h.device).index_copy(0, is_note, torch.stack(columns, 1))
        return torch.cat([place[:, None], rest], 1)


class StepModel(nn.Module):
    """Tables, trunk and heads."""

    def __init__(self, config: ModelConfig, sizes: Sequence[int]):
        super().__init__()
        self.config, self.sizes = config, tuple(sizes)
        self.tables, self.heads = Tables(sizes, config.n_embd), Heads(sizes, config.n_embd)
        self.trunk = RWKV7(replace(config, vocab_size=0))

    def hidden(self, steps: Tensor, state: ModelState | None = None, starts: Tensor | None = None) -> Tensor:
        """steps (B, T, columns) -> the trunk's normalised output (B, T, C).

        starts: (B, T), True at a packed sample's first step, where everything before is forgotten.
        """
        return packed_hidden(self.trunk, self.tables(steps), starts, state)[0]
