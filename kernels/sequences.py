"""Sequences of different lengths that are packed one after another, and how they are cut into chunks.

`cu_seqlens` is the field's name for cumulative sequence lengths: (N + 1,) whole numbers from 0 to the number of tokens;
sequence n is tokens cu_seqlens[n] to cu_seqlens[n + 1] - 1 of the one row (B = 1) that holds them all.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor


def sequence_bounds(batch: int, steps: int, cu_seqlens: Tensor | None) -> tuple[int, ...]:
    """The N + 1 offsets at which sequences begin among the batch x steps tokens, and at which the last ends.

    Without `cu_seqlens` each row of the batch is a sequence. Keep `cu_seqlens` on the CPU, because reading it from a
    GPU waits for the device.

    Raises:
        ValueError: more than one row with cu_seqlens, or numbers that don't rise from 0 to `steps`.
    """
    if cu_seqlens is None:
        return tuple(range(0, batch * steps + 1, steps)) if steps else (0,) * (batch + 1)
    if batch != 1:
        raise ValueError(f"with cu_seqlens all sequences lie in one row: B must be 1, given {batch}")
    if cu_seqlens.ndim != 1 or len(cu_seqlens) < 2 or cu_seqlens.is_floating_point():
        raise ValueError(
            f"cu_seqlens must be N + 1 whole numbers, given shape {tuple(cu_seqlens.shape)} of {cu_seqlens.dtype}"
        )
    bounds = tuple(int(x) for x in cu_seqlens.tolist())
    if bounds[0] != 0 or bounds[-1] != steps or any(a > b for a, b in itertools.pairwise(bounds)):
        raise ValueError(f"cu_seqlens must rise from 0 to the number of tokens, {steps}; given {list(bounds)}")
    return bounds


def initial_state(r: Tensor, v: Tensor, state: Tensor | None, bounds: tuple[int, ...]) -> Tensor:
    """(N, H, K, V) state before each sequence, zeros if None. It is float32, or float64 if r is."""
    dtype = torch.float64 if r.dtype == torch.float64 else torch.float32
    if state is None:
        return r.new_zeros(len(bounds) - 1, r.shape[2], r.shape[3], v.shape[3], dtype=dtype)
    return state.to(dtype)


def by_sequence(
    form: Callable[..., tuple[Tensor, Tensor]], tensors: tuple[Tensor, ...], state: Tensor | None, cu_seqlens: Tensor
) -> tuple[Tensor, Tensor]:
    """Runs a form that does not support packing on one sequence after another. Returns y and the final states.

    `tensors` are r, log_decay, k, v, a, b, each (1, T, H, K or V); `state` is (N, H, K, V) or None.
    """
    batch, steps, heads, key_size = tensors[0].shape
    bounds = sequence_bounds(batch, steps, cu_seqlens)
    value_size = tensors[3].shape[-1]
    if state is None:
        state = tensors[0].new_zeros(len(bounds) - 1, heads, key_size, value_size)
    outputs, finals = [], []
    for n, (start, stop) in enumerate(itertools.pairwise(bounds)):
        y, final = form(*(x[:, start:stop] for x in tensors), state[n : n + 1])
        outputs.append(y)
        finals.append(final)
    return torch.cat(outputs, 1), torch.cat(finals)


@dataclass(frozen=True)
class Chunks:
    """N sequences cut into C chunks of at most `size` tokens; all tensors are int32 on the device."""

    size: int
    starts: Tensor  # (C,) first token
    lengths: Tensor  # (C,) tokens, 1 to `size`
    first: Tensor  # (N + 1,) where each sequence's chunks begin


@lru_cache(64)
def cut(bounds: tuple[int, ...], size: int, device: torch.device) -> Chunks:
    """The chunks of the sequences between `bounds`, cached because a training run asks for the same ones again."""
    ends = torch.tensor(bounds)
    counts = (ends.diff() + size - 1) // size
    first = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    sequence = torch.repeat_interleave(torch.arange(len(counts)), counts)
    starts = ends[sequence] + size * (torch.arange(len(sequence)) - first[sequence])
    lengths = (ends[sequence + 1] - starts).clamp_max(size)
    return Chunks(size, *(x.to(device, torch.int32) for x in (starts, lengths, first)))
