"""Every form of the WKV recurrence against its definition, and the definition against a loop over single numbers."""

import itertools
import logging

import numpy as np
import pytest
import torch

from midi_rwkv.kernels import dispatch
from midi_rwkv.kernels.dispatch import wkv7
from midi_rwkv.kernels.sequences import cut, sequence_bounds
from midi_rwkv.kernels.wkv7_chunked import wkv7_chunked
from midi_rwkv.kernels.wkv7_numba import wkv7_numba
from midi_rwkv.kernels.wkv7_reference import wkv7_reference

FORMS = [wkv7_numba, wkv7_chunked]
KINDS = ("plain", "repeated keys", "fastest decay", "slowest decay", "both ends")


@pytest.fixture(autouse=True)
def _nan_in_fresh_memory():
    """`torch.empty` is filled with NaN, so that a result which reads what nobody wrote is seen."""
    torch.use_deterministic_algorithms(mode=True)
    yield
    torch.use_deterministic_algorithms(mode=False)


@pytest.fixture(scope="module")
def cases(script):
    return script("script_helpers.kernel_inputs")


def test_reference_is_the_equation(cases):
    inputs = cases.make_inputs((2, 5, 2, 3))
    r, log_decay, k, v, a, b, state = (x.numpy() for x in inputs)
    y, final = wkv7_reference(*inputs)
    for n, h in np.ndindex(2, 2):
        s = state[n, h].copy()
        for t in range(5):
            old = s.copy()
            for i, j in np.ndindex(3, 3):
                found = sum(a[n, t, h, c] * old[c, j] for c in range(3))
                s[i, j] = np.exp(log_decay[n, t, h, i]) * old[i, j] + b[n, t, h, i] * found
                s[i, j] += k[n, t, h, i] * v[n, t, h, j]
            for j in range(3):
                assert y[n, t, h, j] == pytest.approx(sum(s[i, j] * r[n, t, h, i] for i in range(3)))
        np.testing.assert_allclose(final[n, h], s, rtol=1e-12)


def test_reference_gradients(cases):
    inputs = [x.requires_grad_() for x in cases.make_inputs((1, 4, 1, 3))]
    assert torch.autograd.gradcheck(wkv7_reference, inputs)


def test_reference_starts_from_zeros_and_continues(cases):
    *inputs, state = cases.make_inputs((1, 9, 2, 4))
    whole, final = wkv7_reference(*inputs)
    zeros, _ = wkv7_reference(*inputs, torch.zeros_like(state))
    first, between = wkv7_reference(*(x[:, :4] for x in inputs))
    second, last = wkv7_reference(*(x[:, 4:] for x in inputs), between)
    torch.testing.assert_close(whole, zeros)
    torch.testing.assert_close(whole, torch.cat([first, second], 1))
    torch.testing.assert_close(final, last)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [1, 15, 63, 64])
@pytest.mark.parametrize("form", FORMS)
def test_forms_agree_with_the_reference(cases, form, steps: int, kind: str):
    inputs = cases.make_inputs((2, steps, 2, 32), kind, seed=steps)
    for dtype in (torch.float64, torch.float32):
        errors = cases.errors_of(form, wkv7_reference, inputs, dtype)
        assert max(errors.values()) < cases.LIMITS[dtype], (dtype, errors)


def test_long_sequence_of_full_heads(cases):
    inputs = cases.make_inputs((1, 1000, 1, 64))
    for form in FORMS:
        errors = cases.errors_of(form, wkv7_reference, inputs, torch.float32)
        assert max(errors.values()) < 1e-4, (form.__name__, errors)


@pytest.mark.parametrize("form", FORMS)
def test_values_may_have_another_size_than_keys(cases, form):
    r, log_decay, k, v, a, b, state = cases.make_inputs((1, 37, 2, 32))
    inputs = [r, log_decay, k, v[..., :16].contiguous(), a, b, state[..., :16].contiguous()]
    errors = cases.errors_of(form, wkv7_reference, inputs, torch.float32)
    assert max(errors.values()) < 1e-4, errors


@pytest.mark.parametrize("form", [wkv7_reference, *FORMS])
def test_packed_sequences_are_those_run_one_by_one(cases, form):
    ends = torch.tensor([0, 1, 1, 34, 100])  # one of them is empty
    inputs = cases.make_inputs((1, 100, 2, 32), states=4)
    leaves = [x.clone().requires_grad_() for x in inputs]
    y, final = form(*leaves, cu_seqlens=ends)
    (y.square().sum() + final.square().sum()).backward()
    for n, (start, stop) in enumerate(itertools.pairwise(ends)):
        own = [x[:, start:stop].clone().requires_grad_() for x in inputs[:6]]
        state = inputs[6][n : n + 1].clone().requires_grad_()
        one, last = wkv7_reference(*own, state)
        (one.square().sum() + last.square().sum()).backward()
        torch.testing.assert_close(y[:, start:stop], one)
        torch.testing.assert_close(final[n : n + 1], last)
        torch.testing.assert_close(leaves[6].grad[n : n + 1], state.grad)
        for whole, part in zip(leaves[:6], own, strict=True):
            grad = torch.zeros_like(part) if part.grad is None else part.grad
            torch.testing.assert_close(whole.grad[:, start:stop], grad)


def test_chunks_of_packed_sequences():
    chunks = cut((0, 5, 5, 25), 16, torch.device("cpu"))
    assert chunks.starts.tolist() == [0, 5, 21]
    assert chunks.lengths.tolist() == [5, 16, 4]
    assert chunks.first.tolist() == [0, 1, 1, 3]
    assert sequence_bounds(2, 3, None) == (0, 3, 6)
    assert sequence_bounds(2, 0, None) == (0, 0, 0)


@pytest.mark.parametrize(
    ("ends", "message"),
    [([0, 3], "rise from 0"), ([0, 6, 5, 9], "rise from 0"), ([0.0, 9.0], "whole numbers"), ([9], "whole numbers")],
)
def test_wrong_sequence_bounds(ends: list[float], message: str):
    with pytest.raises(ValueError, match=message):
        sequence_bounds(1, 9, torch.tensor(ends))
    with pytest.raises(ValueError, match="B must be 1"):
        sequence_bounds(2, 9, torch.tensor([0, 9]))


def test_numba_on_two_threads_leaves_torch_its_threads(cases):
    torch.set_num_threads(1)
    inputs = cases.make_inputs((2, 33, 3, 16))
    grads = (torch.randn(2, 33, 3, 16).double(), torch.randn(2, 3, 16, 16).double())
    serial = cases.run(wkv7_numba, inputs, torch.float32, grads)
    for one, two in zip(serial, cases.run(wkv7_numba, inputs, torch.float32, grads, threads=2), strict=True):
        torch.testing.assert_close(one, two)
    assert torch.get_num_threads() == 1


def test_numba_without_gradients_keeps_the_initial_state(cases):
    inputs = [x.float() for x in cases.make_inputs((1, 20, 1, 16))]
    before = inputs[-1].clone()
    y, final = wkv7_numba(*inputs)
    expected, expected_final = wkv7_reference(*inputs)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(final, expected_final, rtol=1e-4, atol=1e-5)
    assert torch.equal(inputs[-1], before)


def test_numba_in_half_precision_and_of_no_tokens(cases):
    inputs = [x.bfloat16() for x in cases.make_inputs((1, 20, 1, 16))]
    y, final = wkv7_numba(*inputs)
    assert y.dtype == torch.bfloat16
    assert final.dtype == torch.float32
    y, final = wkv7_numba(*(x[:, :0] for x in inputs[:-1]), inputs[-1])
    assert y.shape == (1, 0, 1, 16)
    assert torch.equal(final, inputs[-1])


def test_errors_name_the_tensor(cases):
    r, log_decay, k, v, a, b, state = cases.make_inputs((1, 3, 1, 16))
    with pytest.raises(ValueError, match="k must have r's shape"):
        wkv7_reference(r, log_decay, k[:, :2], v, a, b)
    with pytest.raises(ValueError, match="state must have shape"):
        wkv7_numba(r, log_decay, k, v, a, b, state=state[:, :, :8])
    with pytest.raises(ValueError, match="multiple of 16"):
        wkv7_numba(*(x[..., :8] for x in (r, log_decay, k, v, a, b)))


def test_dispatch_says_once_what_it_took_and_why(cases, caplog):
    dispatch._say.cache_clear()
    inputs = [x.float() for x in cases.make_inputs((1, 5, 1, 16))]
    narrow = [x.float() for x in cases.make_inputs((1, 5, 1, 8))]
    with caplog.at_level(logging.INFO, dispatch.log.name):
        for given in (inputs, inputs, narrow, [x[:, :1] for x in inputs[:6]]):
            wkv7(*given)
    said = [record.getMessage() for record in caplog.records]
    assert [line.split(",")[0] for line in said] == ["wkv7: numba", "wkv7: chunked", "wkv7: reference"]
    assert "multiple of 16 channels, not 8" in said[1]


def test_dispatch_refuses_what_cannot_run(cases, monkeypatch):
    inputs = cases.make_inputs((1, 5, 1, 8))
    with pytest.raises(
        ValueError, match="backend must be one of auto, reference, chunked, numba, triton, given 'cuda'"
    ):
        wkv7(*inputs, backend="cuda")
    with pytest.raises(ValueError, match="multiple of 16"):
        wkv7(*inputs, backend="numba")
    monkeypatch.setattr(dispatch, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match="not installed"):
        wkv7(*inputs, backend="triton")


@pytest.mark.parametrize("backend", ["reference", "chunked", "numba"])
def test_dispatch_runs_each(cases, backend: str):
    inputs = cases.make_inputs((1, 20, 1, 16), states=2)
    ends = torch.tensor([0, 7, 20])
    expected = wkv7_reference(*inputs, cu_seqlens=ends)
    for got, one in zip(wkv7(*inputs, cu_seqlens=ends, backend=backend), expected, strict=True):
        torch.testing.assert_close(got, one)
