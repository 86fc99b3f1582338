"""What a style tunes: a state of the model, and changes of low rank to the weights that write.

Both serve from the first cell on. What stands before it is read by the model as it ships, so it is read once while the
style is tuned, and strength 0 is that model bit for bit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from midi_rwkv.model.steps import StepModel

from .style import Style

RANK = 4  # of a fold's change to a matrix
_ADAPTED = re.compile(
    r"(trunk\.blocks\.\d+\.(att\.(receptance|key|value|output)|ffn\.(key|value))|tables|heads\..+)\.weight"
)


@dataclass(frozen=True)
class Adapter:
    """state: (L, H, K, V), added to what a fill's cells begin with. pairs: by the weight's name a (r, in) and b
    (out, r), whose product b @ a is added to the weight (out, in)."""

    state: Tensor
    pairs: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @classmethod
    def begin(cls, model: StepModel, seed: int, rank: int = RANK) -> Adapter:
        """One that changes nothing yet, to be tuned."""
        c, device = model.config, model.tables.weight.device
        generator = torch.Generator().manual_seed(seed)
        pairs = {}
        for name, weight in model.named_parameters():
            if _ADAPTED.fullmatch(name):
                rows, columns = weight.shape
                a = torch.randn(rank, columns, generator=generator) / columns**0.5
                pairs[name] = a.to(device).requires_grad_(), torch.zeros(rows, rank, device=device, requires_grad=True)
        shape = (c.n_layer, c.n_head, c.head_size, c.head_size)
        return cls(torch.zeros(shape, device=device, requires_grad=True), pairs)

    @classmethod
    def of(cls, style: Style) -> Adapter:
        """That of a style that was tuned; of one without a state ValueError."""
        if style.run is None:
            raise ValueError(f"{style.name} has no state that is added before the first cell")
        pairs = {name: (torch.from_numpy(a), torch.from_numpy(b)) for name, (a, b) in style.pairs.items()}
        return cls(torch.from_numpy(style.run), pairs)

    @property
    def tensors(self) -> list[Tensor]:
        """All that is tuned, the state first."""
        return [self.state, *(x for pair in self.pairs.values() for x in pair)]

    def weights(self, model: StepModel) -> dict[str, Tensor]:
        """The model's changed weights, by name."""
        plain = dict(model.named_parameters())
        return {name: plain[name] + b @ a for name, (a, b) in self.pairs.items()}

    def detached(self) -> Adapter:
        """A copy as it is now."""
        return Adapter(
            self.state.detach().clone(),
            {name: (a.detach().clone(), b.detach().clone()) for name, (a, b) in self.pairs.items()},
        )

    def scaled(self, scale: float) -> Adapter:
        """All changes times a factor."""
        return Adapter(scale * self.state, {name: (a, scale * b) for name, (a, b) in self.pairs.items()})

    def load(self, kept: Sequence[Tensor]) -> None:
        """Takes over `tensors` that were kept."""
        with torch.no_grad():
            for own, other in zip(self.tensors, kept, strict=True):
                own.copy_(other)

    def arrays(self) -> tuple[np.ndarray, dict[str, tuple[np.ndarray, np.ndarray]]]:
        """The state and the pairs in NumPy."""
        pairs = {name: (a.cpu().numpy(), b.cpu().numpy()) for name, (a, b) in self.pairs.items()}
        return self.state.cpu().numpy(), pairs


def mean_of(adapters: Sequence[Adapter]) -> Adapter:
    """The mean of the states and of the changes; the rank is the sum of theirs."""
    pairs = {
        name: (
            torch.cat([x.pairs[name][0] for x in adapters]),
            torch.cat([x.pairs[name][1] for x in adapters], 1) / len(adapters),
        )
        for name in adapters[0].pairs
    }
    return Adapter(torch.stack([x.state for x in adapters]).mean(0), pairs)
