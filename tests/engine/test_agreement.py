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
from numpy.typing import NDArray
from random_rwkv7 import Weights, random_tokens, random_weights, relative_error, rounded
from torch import Tensor

from midi_rwkv.engine.make import make_engine
from midi_rwkv.model import rwkv7
from midi_rwkv.model.rwkv7 import RWKV7, ModelState
from midi_rwkv.model.token_checkpoint import model_of

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
def engine_of(name: str, head_size: int, *, is_trunk: bool = False) -> Any:
    """An engine of the whole model, or of its trunk alone."""
    if name == "triton":
        pytest.importorskip("triton")
    weights = weights_of(head_size)
    if is_trunk:
        weights = {k: x for k, x in weights.items() if k not in ("emb.weight", "head.weight")}
    return make_engine(weights, head_size, **ENGINES[name])  # type: ignore[arg-type]


def limit_of(name: str) -> float:
    return GPU_LIMIT if name == "triton" and torch.cuda.is_available() else LIMIT


def random_vectors(*shape: int, seed: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def check(name: str, head_size: int, rows: int, length: int, *, is_trunk: bool = False) -> None:
    """A tuned initial state, a prompt, then steps with a token (of a trunk: a vector) of its own for each row."""
    engine = engine_of(name, head_size, is_trunk=is_trunk)
    model = exact(head_size, is_rounded=name.startswith("int8"))
    c = model.config
    wkv0 = np.random.default_rng(5).normal(size=(c.n_layer, c.n_head, head_size, head_size)).astype(np.float32)
    prompt: NDArray[Any]
    if is_trunk:
        prompt, columns = random_vectors(length, c.n_embd), random_vectors(3, rows, c.n_embd, seed=2)
        prefill, step, size = engine.prefill_vectors, engine.step_vectors, c.n_embd
    else:
        prompt, columns = random_tokens(length), random_tokens(3, rows, seed=2)
        prefill, step, size = engine.prefill, engine.step, c.vocab_size
    state = engine.new_state(rows, wkv0)
    read = prefill(prompt, state)
    for column in columns:
        stepped = step(column, state)
    assert read.shape == stepped.shape == (rows, size)
    whole = torch.from_numpy(np.concatenate([np.stack([prompt] * rows), columns.swapaxes(0, 1)], 1))
    before = model.new_state(rows, torch.from_numpy(wkv0))
    expected, after = model.hidden(whole.double() if is_trunk else whole, before, "reference")
    expected = expected if is_trunk else model.head(expected)
    assert relative_error(read, expected[:, length - 1]) < limit_of(name)
    assert relative_error(stepped, expected[:, -1]) < limit_of(name)
    for kind in ("att_shift", "ffn_shift", "wkv"):
        found = torch.as_tensor(getattr(state, kind)).cpu()
        assert relative_error(found, getattr(after, kind)) < limit_of(name), kind


@pytest.mark.parametrize("is_trunk", [False, True])
@pytest.mark.parametrize(("rows", "length"), READINGS)
@pytest.mark.parametrize("name", [name for name in ENGINES if name != "triton"])
def test_engines(name: str, rows: int, length: int, *, is_trunk: bool) -> None:
    check(name, 64, rows, length, is_trunk=is_trunk)


@pytest.mark.parametrize("is_trunk", [False, True])
@pytest.mark.parametrize("head_size", [16, 48, 128])
@pytest.mark.parametrize("name", ["numba", "int8", "torch"])
def test_engines_with_other_heads(name: str, head_size: int, *, is_trunk: bool) -> None:
    check(name, head_size, 5, 30, is_trunk=is_trunk)


@pytest.mark.parametrize("is_trunk", [False, True])
def test_the_triton_engine(*, is_trunk: bool) -> None:
    check("triton", 16, 2, 7, is_trunk=is_trunk)


@pytest.mark.parametrize("name", ENGINES)
def test_vectors_by_rows_that_come_and_go(name: str) -> None:
    """Rows are repeated, selected and joined between steps; each ends where one prefill of its own vectors ends."""
    engine = engine_of(name, 16, is_trunk=True)
    size = engine.config.n_embd
    prompt, given = random_vectors(9, size), random_vectors(4, 3, size, seed=2)
    state = engine.new_state()
    engine.prefill_vectors(prompt, state)
    state = state.repeat(3)
    engine.step_vectors(given[0], state)
    state = state.select([2, 0])
    engine.step_vectors(given[1, :2], state)
    state = state.concat([state.select([1]), state.copy()])  # row 0, row 2, row 0
    engine.step_vectors(given[2], state)
    found = engine.step_vectors(given[3], state)
    for row, first, second in ((0, 0, 1), (1, 2, 0), (2, 0, 1)):
        own = [*prompt, given[0, first], given[1, second], given[2, row], given[3, row]]
        alone = engine.new_state()
        expected = engine.prefill_vectors(np.stack(own), alone)
        assert relative_error(found[row], expected[0]) < limit_of(name)
        kept, wanted = (torch.as_tensor(x).cpu() for x in (state.wkv[:, row], alone.wkv[:, 0]))
        assert relative_error(kept, wanted) < limit_of(name)


@pytest.mark.parametrize("name", ENGINES)
def test_a_tokens_embedding_is_the_vector_that_it_stands_for(name: str) -> None:
    """A whole model reads vectors too; its head times the output is what it says of the token."""
    engine, weights = engine_of(name, 16), weights_of(16)
    tokens = random_tokens(7)
    head = (rounded(weights) if name.startswith("int8") else weights)["head.weight"]
    states = [engine.new_state() for _ in range(2)]
    read = engine.prefill_vectors(weights["emb.weight"][tokens[:-1]], states[0])
    assert relative_error(read @ head.T, engine.prefill(tokens[:-1], states[1])) < limit_of(name)
    out = engine.step_vectors(weights["emb.weight"][tokens[-1:]], states[0])
    assert relative_error(out @ head.T, engine.step(tokens[-1:], states[1])) < limit_of(name)


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
        ("numba", 48, 40),
        ("numba", 128, 40),  # a row of the state is more than fits the registers
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
