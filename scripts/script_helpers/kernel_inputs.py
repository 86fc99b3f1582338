"""Inputs for the WKV recurrence, plain and adversarial, and how far a form's results are from the definition's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

NAMES = ("y", "final state", "dr", "dlog_decay", "dk", "dv", "da", "db", "dstate")
KINDS = ("plain", "repeated keys", "fastest decay", "slowest decay", "both ends")
LIMITS = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 1e-2}
Form = Callable[..., tuple[Tensor, Tensor]]


def make_inputs(shape: Sequence[int], kind: str = "plain", *, seed: int = 0, states: int = 0) -> list[Tensor]:
    """r, log_decay, k, v, a, b (B, T, H, K), state (`states` or B, H, K, K) in float64, as RWKV-7 makes them.

    shape: (B, T, H, K).

    kind: one of KINDS. "repeated keys" is a note struck again and again: one removal key, always removed whole, no
    decay. "both ends" mixes the fastest decay with the slowest, and rates of 0 with rates of 1, channel by channel.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    batch, _, heads, size = shape
    r, k, v, state = normal(*shape), normal(*shape), normal(*shape), normal(states or batch, heads, size, size)
    log_decay = -torch.exp(-F.softplus(normal(*shape) * 3) - 0.5)
    removal = F.normalize(normal(*shape), dim=-1)
    rate = torch.sigmoid(normal(*shape) * 3)
    fastest = -float(np.exp(-0.5))
    if kind == "repeated keys":
        removal = removal[:, :1].expand(shape).contiguous()
        rate, log_decay = torch.ones(shape, dtype=torch.float64), log_decay * 0
    elif kind == "fastest decay":
        log_decay = torch.full(shape, fastest, dtype=torch.float64)
    elif kind == "slowest decay":
        log_decay, rate = torch.full(shape, -1e-6, dtype=torch.float64), rate * 1e-3
    elif kind == "both ends":
        log_decay = torch.where(normal(*shape) > 0, fastest, -1e-6)
        rate = (normal(*shape) > 0).double()
    elif kind != "plain":
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, given {kind!r}")
    return [r, log_decay, k, v, -removal, removal * rate, state]


def run(
    form: Form, inputs: Sequence[Tensor], dtype: torch.dtype, grads: Sequence[Tensor], **options: Any
) -> list[Tensor]:
    """The form's outputs and gradients, in the order of NAMES. grads: of y and of the final state."""
    leaves = [x.detach().to(dtype, copy=True).requires_grad_() for x in inputs]
    y, state = form(*leaves, **options)
    torch.autograd.backward([y, state], [g.to(x) for g, x in zip(grads, (y, state), strict=True)])
    return [y.detach(), state.detach()] + [x.grad for x in leaves if x.grad is not None]


def relative_errors(got: Sequence[Tensor], expected: Sequence[Tensor]) -> dict[str, float]:
    """Norm of the difference over the norm, for each of NAMES."""
    pairs = zip(NAMES, got, expected, strict=True)
    return {name: float((g.double() - e).norm() / e.norm().clamp_min(1e-3)) for name, g, e in pairs}


def errors_of(
    form: Form,
    reference: Form,
    inputs: Sequence[Tensor],
    dtype: torch.dtype,
    device: str = "cpu",
    seed: int = 0,
    **options: Any,
) -> dict[str, float]:
    """A form in `dtype` against the reference in float64, given the same (rounded) numbers.

    options go to both, those that only the form knows under "form_options".
    """
    own = options.pop("form_options", {})
    generator = torch.Generator().manual_seed(seed)
    rounded = [x.to(device, dtype).double() for x in inputs]
    shapes = (inputs[3].shape, inputs[6].shape)
    grads = [torch.randn(*s, generator=generator, dtype=torch.float64).to(device, dtype).double() for s in shapes]
    expected = run(reference, rounded, torch.float64, grads, **options)
    return relative_errors(run(form, rounded, dtype, grads, **options, **own), expected)
