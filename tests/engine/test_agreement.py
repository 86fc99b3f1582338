"""Every engine and every form of the recurrence against model/rwkv7.py in float64.

rwkv7.py itself is held to its equations by tests/model/test_rwkv7.py. Triton runs in its interpreter (conftest.py), or
on the GPU where there is one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from random_rwkv7 import Weights, random_tokens, random_weights, relative_error, rounded
from torch import Tensor

from midi_rwkv.engine.make import make_engine
from midi_rwkv.model import rwkv7
from midi_rwkv.model.checkpoint import model_of
from midi_rwkv.model.rwkv7 import RWKV7, ModelState

LIMIT = 1e-5
GPU_LIMIT = 1e-2  # matrices are bfloat16 there
ENGINES = {
    "numba": {"backend": "numba"},
    "numba, two threads": {"backend": "numba", "threads": 2},
    "int8": {"backend": "numba", "precision": "int8"},
    "int8, two threads": {"backend": "numba", "precision": "int8", "threads": 2},
    "torch": {"backend": "torch"},
    "triton": {"backend": "triton"},
}
SHAPES = {64: (2, 128), 16: (2, 48), 48: (3, 192), 128: (1, 256)}  # head size: layers, width
READINGS = [(1, 1), (1, 300), (3, 63), (4, 150), (8, 150)]  # rows, tokens of the prompt
FORMS = {
    "reference": "wkv7_reference",
    "chunked": "wkv7_chunked",
    "numba": "wkv7_numba",
    "triton": "wkv7_triton",
    "triton, token by token": "wkv7_triton_sequential",
}


@cache
def weights_of(head_size: int) -> Weights:
    layers, size = SHAPES[head_size]
    return random_weights(layers, size, head_size, seed=head_size)


@cache
def exact(head_size: int, *, is_rounded: bool = False) -> RWKV7:
    """The model in float64; is_rounded: of the weights that int8 stands for."""
    weights = weights_of(head_size)
    return model_of(rounded(weights) if is_rounded else weights).double().requires_grad_(requires_grad=False)


@cache
def engine_of(name: str, head_size: int) -> Any:
    if name == "triton":
        pytest.importorskip("triton")
    return make_engine(weights_of(head_size), head_size, **ENGINES[name])  # type: ignore[arg-type]


def check(name: str, head_size: int, rows: int, length: int) -> None:
    """A tuned initial state, a prompt, then steps with a token of its own for each row."""
    engine, model = engine_of(name, head_size), exact(head_size, is_rounded=name.startswith("int8"))
    c = model.config
    wkv0 = np.random.default_rng(5).normal(size=(c.n_layer, c.n_head, head_size, head_size)).astype(np.float32)
    prompt, columns = random_tokens(length), random_tokens(3, rows, seed=2)
    state = engine.new_state(rows, wkv0)
    read = engine.prefill(prompt, state)
    for column in columns:
        logits = engine.step(column, state)
    assert read.shape == logits.shape == (rows, c.vocab_size)
    whole = np.concatenate([np.tile(prompt, (rows, 1)), columns.T], 1)
    expected, after = model(torch.from_numpy(whole), model.new_state(rows, torch.from_numpy(wkv0)), "reference")
    limit = GPU_LIMIT if name == "triton" and torch.cuda.is_available() else LIMIT
    assert relative_error(read, expected[:, length - 1]) < limit
    assert relative_error(logits, expected[:, -1]) < limit
    for kind in ("att_shift", "ffn_shift", "wkv"):
        assert relative_error(torch.as_tensor(getattr(state, kind)).cpu(), getattr(after, kind)) < limit, kind


@pytest.mark.parametrize(("rows", "length"), READINGS)
@pytest.mark.parametrize("name", [name for name in ENGINES if name != "triton"])
def test_engines(name: str, rows: int, length: int) -> None:
    check(name, 64, rows, length)


@pytest.mark.parametrize("head_size", [16, 48, 128])
@pytest.mark.parametrize("name", ["numba", "int8", "torch"])
def test_engines_with_other_heads(name: str, head_size: int) -> None:
    check(name, head_size, 5, 30)


def test_the_triton_engine() -> None:
    check("triton", 16, 2, 7)


def test_activations_beyond_the_exponentials_range() -> None:
    """The exponential is clamped; sigmoids saturate where float32's would."""
    weights = dict(weights_of(64))
    weights["blocks.0.att.w0"] = np.full_like(weights["blocks.0.att.w0"], 300)
    weights["blocks.0.att.a0"] = np.full_like(weights["blocks.0.att.a0"], -300)
    engine = make_engine(weights, backend="numba")
    expected, _ = model_of(weights).double()(torch.tensor([[4]]))
    assert relative_error(engine.step([4], engine.new_state())[0], expected.detach()[0, 0]) < LIMIT


def form_of(name: str) -> Callable[..., tuple[Tensor, Tensor]]:
    if "triton" in name:
        pytest.importorskip("triton")
    module = import_module(f"midi_rwkv.kernels.{FORMS[name]}")
    form: Callable[..., tuple[Tensor, Tensor]] = getattr(module, FORMS[name])
    return lambda *tensors, backend: form(*tensors)  # noqa: ARG005 -- called as `wkv7` is


def run(model: RWKV7, dtype: torch.dtype, length: int) -> tuple[list[Tensor], list[Tensor]]:
    """Logits and state after some ids read from a random state; the gradients of parameters and state in a sum of both.

    length: tokens of each of two rows.
    """
    model = model.to(dtype).requires_grad_()
    ids = torch.from_numpy(random_tokens(2, length))
    generator = torch.Generator().manual_seed(3)
    zero = model.new_state(2)
    before = [torch.randn(x.shape, generator=generator) * 0.3 for x in (zero.att_shift, zero.ffn_shift, zero.wkv)]
    leaves = [x.to(dtype).requires_grad_() for x in before]
    logits, after = model(ids, ModelState(*leaves))
    results = [logits, after.att_shift, after.ffn_shift, after.wkv]
    total = logits.logsumexp(-1).mean() + after.wkv.square().mean()
    wanted = [*leaves, *(p for name, p in model.named_parameters() if "blocks" in name)]
    return [x.detach() for x in results], list(torch.autograd.grad(total, wanted, materialize_grads=True))


@cache
def expected_run(head_size: int, length: int) -> tuple[list[Tensor], list[Tensor]]:
    """In float64, by the form that is set now, which has to be the reference."""
    return run(model_of(weights_of(head_size)), torch.float64, length)


@pytest.mark.parametrize(
    ("name", "head_size", "length"),
    [
        *((name, 64, length) for name in ("reference", "chunked", "numba") for length in (1, 200)),
        *((name, 16, 20) for name in FORMS),  # small: Triton's interpreter takes milliseconds a step
    ],
)
def test_forms(name: str, head_size: int, length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rwkv7, "wkv7", form_of("reference"))
    results, gradients = expected_run(head_size, length)
    monkeypatch.setattr(rwkv7, "wkv7", form_of(name))
    got, got_gradients = run(model_of(weights_of(head_size)), torch.float32, length)
    for mine, wanted in zip(got, results, strict=True):
        assert relative_error(mine, wanted) < LIMIT
    for mine, wanted in zip(got_gradients, gradients, strict=True):
        assert float((mine.double() - wanted).norm()) < 1e-4 * max(1e-3, float(wanted.norm()))
