"""What is added to the logits of the heads at the classes that are pointed at (tokens/pointers.py)."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from midi_rwkv.tokens.attributes import DRUMS, MEMORY, PITCH_CLASSES, THERE, Column
from midi_rwkv.tokens.pointers import (
    BEFORE_REACH,
    EDGES,
    FIRST_POSITION,
    GATES,
    PITCH_PARTS,
    PITCH_STAGE,
    POINTED_PLACES,
    STRUCK,
    THERE_REACH,
)


class Marks(nn.Module):
    """The gates of every stage."""

    def __init__(self, n_embd: int):
        super().__init__()
        self.gates = nn.ModuleList(nn.Linear(n_embd, n, bias=False) for n in GATES)
        for gate in self.gates:
            nn.init.zeros_(cast(nn.Linear, gate).weight)

    def forward(self, stage: int, z: Tensor, logits: Tensor, known: Tensor) -> Tensor:
        """The logits (N, classes) with what is pointed at. z: (N, C).

        known: of the place (N, 6), `pointers.places_known`; of the others (N, columns), the steps that come next.
        """
        gates = cast(Tensor, self.gates[stage](z)).to(logits.dtype)
        classes = logits.shape[1]
        if stage == 0:
            n = POINTED_PLACES
            logits = _pointed(logits, gates[:, :n], known[:, :n])
            return logits + _from_base(gates[:, n:], known[:, n:] + FIRST_POSITION + 1, classes)
        there = known[:, THERE[stage - 1], None].long() - 1
        if stage != PITCH_STAGE:
            more = [STRUCK[stage]] if stage in STRUCK else []
            return _pointed(logits, gates, torch.cat([there, known[:, [*more, MEMORY[stage - 1]]].long() - 1], 1))
        second, from_there, from_before, *from_edges, sounding, memory = torch.split(gates, list(PITCH_PARTS), 1)
        logits = _pointed(logits, second, known[:, Column.THERE_SECOND, None].long() - 1)
        logits = _pointed(logits, memory, known[:, [Column.MEMORY_PITCH, Column.MEMORY_SECOND]].long() - 1)
        before = known[:, Column.BEFORE, None].long() - 1
        logits = logits + _from_base(from_there, there - THERE_REACH, classes, there >= 0)
        logits = logits + _from_base(from_before, before - BEFORE_REACH, classes, before >= 0)
        every = torch.arange(PITCH_CLASSES, device=z.device)
        pitch_classes = sounding * ((known[:, Column.CHROMA, None] >> every) & 1)
        for gate, column in zip(from_edges, EDGES, strict=True):
            edge = known[:, column, None].long()
            pitch_classes = pitch_classes + gate.gather(1, (every - edge + 1) % PITCH_CLASSES) * (edge > 0)
        pitched = pitch_classes[:, torch.arange(DRUMS, device=z.device) % PITCH_CLASSES]
        return logits + F.pad(pitched, (0, classes - DRUMS))


def _pointed(logits: Tensor, gates: Tensor, classes: Tensor) -> Tensor:
    """Adds gates (N, k) to the logits of classes (N, k); -1 for none."""
    return logits.scatter_add(1, classes.clamp(min=0), gates * (classes >= 0))


def _from_base(gates: Tensor, first: Tensor, classes: int, known: Tensor | None = None) -> Tensor:
    """Gates (N, k) as those of k classes from `first` (N, 1) on: (N, classes), 0 outside, and where `known` (N, 1) is
    False."""
    index = torch.arange(classes, device=gates.device) - first
    inside = (index >= 0) & (index < gates.shape[1])
    inside = inside if known is None else inside & known
    return gates.gather(1, index.clamp(0, gates.shape[1] - 1)) * inside
