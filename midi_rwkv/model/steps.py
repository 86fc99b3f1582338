"""A model that reads and writes steps: tables in front of the trunk, an RWKV-7, and a chain of heads behind it.

In: the vector of a step is the sum of a table's row for each of its columns, and for what the columns imply and a state
would otherwise have to track (where in the beat, which beat, which pitch class; what stands around it).

Out: one hidden vector says what the next note is, attribute by attribute: its place (or that the cell ends), then
micro-timing, pitch, velocity and duration, each given the ones before, and given what stands around the place and the
pitch that were chosen (tokens/surroundings.py) and what that points at (marks.py). The probability of a note is their
product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from midi_rwkv.errors import StyleError
from midi_rwkv.tokens.attributes import (
    AT_PITCH,
    AT_PLACE,
    DRUMS,
    IMPLIED_SIZES,
    INTERVALS,
    PITCH_CLASSES,
    POSITIONS_PER_QUARTER,
    Column,
)
from midi_rwkv.tokens.pointers import END, FIRST_POSITION

from .config import ModelConfig
from .marks import Marks
from .packing import packed_hidden
from .rwkv7 import RWKV7, ModelState
from .transformer import Transformer


def implied_columns(steps: Tensor) -> Tensor:
    """`IMPLIED_SIZES`, (..., 6). steps: (..., columns)."""
    position, pitch = steps[..., Column.POSITION], steps[..., Column.PITCH]
    has_position, pitched = position > 0, (pitch > 0) & (pitch <= DRUMS)
    within = torch.where(has_position, 1 + (position - 1) % POSITIONS_PER_QUARTER, 0)
    quarter = torch.where(has_position, 1 + (position - 1) // POSITIONS_PER_QUARTER, 0)
    there, has_there = steps[..., Column.THERE_PITCH], steps[..., Column.THERE_VELOCITY] > 0
    other = torch.where(has_there, 2, 3)
    alike = torch.where(steps[..., Column.NEXT_THERE] > 0, torch.where((there == pitch) & has_there, 1, other), 0)
    before, lowest = steps[..., Column.BEFORE], steps[..., Column.LOWEST]
    interval = torch.where((before > 0) & (pitch > 0), 1 + INTERVALS + (pitch - before).clamp(-INTERVALS, INTERVALS), 0)
    degree = torch.where(pitched & (lowest > 0), 1 + (pitch - lowest) % 12, 0)
    pitch_class = torch.where(pitched, 1 + (pitch - 1) % 12, 0)
    return torch.stack([within, quarter, pitch_class, alike * has_position, interval, degree], -1)


class ColumnTables(nn.Module):
    """The sum of a row for each of some columns of a step, and of one for each pitch class of CHROMA."""

    offsets: Tensor

    def __init__(self, columns: Sequence[Column], rows: Sequence[int], n_embd: int):
        """rows: how many each column has, and after them what `rows_of` is given beyond the columns."""
        super().__init__()
        self.columns = [c for c in columns if c != Column.CHROMA]
        starts = torch.tensor([0, *rows[:-1]]).cumsum(0)
        self.weight = nn.Parameter(torch.empty(sum(rows), n_embd))
        bits = list(columns).index(Column.CHROMA) if Column.CHROMA in columns else None
        self.bits = None if bits is None else slice(int(starts[bits]), int(starts[bits]) + rows[bits])
        keep = [i for i in range(len(rows)) if i != bits]
        self.register_buffer("offsets", starts[keep], persistent=False)

    def forward(self, steps: Tensor) -> Tensor:
        """steps (N, columns), all of a step's -> (N, C)."""
        return self.rows_of(steps, steps[:, self.columns])

    def rows_of(self, steps: Tensor, indices: Tensor) -> Tensor:
        """The same, indices (N, ...) being those of the rows to add, but for CHROMA's."""
        out = F.embedding_bag(indices.long() + self.offsets, self.weight, mode="sum")
        if self.bits is not None:
            pitch_classes = torch.arange(PITCH_CLASSES, device=steps.device)
            sounds = (steps[:, Column.CHROMA, None] >> pitch_classes) & 1
            out = out + sounds.to(self.weight.dtype) @ self.weight[self.bits]
        return out


class Tables(ColumnTables):
    """Steps (B, T, columns) -> vectors (B, T, C)."""

    def __init__(self, sizes: Sequence[int], n_embd: int):
        super().__init__(list(Column), [*sizes, *IMPLIED_SIZES], n_embd)
        nn.init.uniform_(self.weight, -1e-4, 1e-4)  # ln0 makes the sum unit

    def forward(self, steps: Tensor) -> Tensor:
        flat = steps.flatten(0, 1)
        indices = torch.cat([flat[:, self.columns], implied_columns(flat)], -1)
        return self.rows_of(flat, indices).view(*steps.shape[:2], -1)


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
        self.around = nn.ModuleList(ColumnTables(c, [sizes[x] for x in c], C) for c in (AT_PLACE, AT_PITCH))
        self.marks = Marks(C)
        self.up = nn.ModuleList(nn.Linear(C, 2 * C, bias=False) for _ in classes[1:])
        self.down = nn.ModuleList(nn.Linear(2 * C, C, bias=False) for _ in classes[1:])
        for layer in self.out:
            nn.init.normal_(cast(nn.Linear, layer).weight, std=0.5 / C**0.5)
        for table in self.given:
            nn.init.normal_(cast(nn.Embedding, table).weight, std=0.5)
        for layer in (*self.down, *self.around):
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

    def nats(self, h: Tensor, targets: Tensor, following: Tensor, places: Tensor) -> Tensor:
        """What each attribute costs, (N, 5).

        h (N, C); targets (N, 5) as `layout.targets_of` gives them; following (N, columns): the steps that come next,
        for what stands around them; places (N, 6): `pointers.places_known`.
        """
        place = F.cross_entropy(self.marks(0, h, self.stage(0, h), places).float(), targets[:, 0], reduction="none")
        is_note = (targets[:, 0] > END).nonzero()[:, 0]
        z, wanted, following = h[is_note], targets[is_note], following[is_note]
        columns = []
        for number in range(1, 5):
            given = wanted[:, 0] if number == 1 else wanted[:, number - 1] - 1
            z = z + self.given[number - 1](given)
            if number in (1, 3):
                z = z + self.around[number // 2](following)
            classes = wanted[:, number] - 1  # -1 where the attribute is not there: a drum's duration
            logits = self.marks(number, z, self.stage(number, z), following).float()
            columns.append(F.cross_entropy(logits, classes, reduction="none", ignore_index=-1))
        rest = torch.zeros(len(h), 4, device=h.device).index_copy(0, is_note, torch.stack(columns, 1))
        return torch.cat([place[:, None], rest], 1)


class StepModel(nn.Module):
    """Tables, trunk and heads."""

    def __init__(self, config: ModelConfig, sizes: Sequence[int]):
        super().__init__()
        self.config, self.sizes = config, tuple(sizes)
        self.tables, self.heads = Tables(sizes, config.n_embd), Heads(sizes, config.n_embd)
        trunk = replace(config, vocab_size=0)
        self.trunk = Transformer(trunk) if config.arch == "transformer" else RWKV7(trunk)

    def hidden(self, steps: Tensor, state: ModelState | None = None, starts: Tensor | None = None) -> Tensor:
        """steps (B, T, columns) -> the trunk's normalised output (B, T, C).

        state: what an RWKV-7 has read before, in each row. starts: (B, T), True at a packed sample's first step, where
        everything before is forgotten. Raises StyleError for a Transformer's state.
        """
        if isinstance(self.trunk, Transformer):
            if state is not None:
                raise StyleError("a Transformer has no initial state to tune; leave the style out")
            return self.trunk.hidden(self.tables(steps), starts=starts)[0]
        return packed_hidden(self.trunk, self.tables(steps), starts, state)[0]
