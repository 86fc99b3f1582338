"""Every form of the WKV recurrence against its definition, and the definition against a loop over single numbers."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from midi_rwkv.kernels.wkv7_chunked import wkv7_chunked
from midi_rwkv.kernels.wkv7_numba import wkv7_numba
from midi_rwkv.kernels.wkv7_reference import wkv7_reference

NAMES = ("y", "final state", "dr", "dlog_decay", "dk", "dv", "da", "db", "dstate")


@pytest.fixture(autouse=True)
def _nan_in_fresh_memory():
    """`torch.empty` is filled with NaN, so that a result which reads what nobody wrote is seen."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def make_inputs(batch: int, steps: int, heads: int, size: int, kind: str = "plain", seed: int = 0) -> list[Tensor]:
    """r, log_decay, k, v, a, b, state in float64, as RWKV-7 makes them."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    shape = (batch, steps, heads, size)
    r, k, v, state = normal(*shape), normal(*shape), normal(*shape), normal(batch, heads, size, size)
    log_decay = -torch.exp(-F.softplus(normal(*shape) * 3) - 0.5)
    removal = F.normalize(normal(*shape), dim=-1)
    rate = torch.sigmoid(normal(*shape) * 3)
    if kind == "repeated keys":  # a note that is struck again and again
        removal = removal[:, :1].expand(shape).contiguous()
        rate, log_decay = torch.ones(shape, dtype=torch.float64), log_decay * 0
    if kind == "fastest decay":
        log_decay = torch.full(shape, -float(np.exp(-0.5)), dtype=torch.float64)
    return [r, log_decay, k, v, -removal, removal * rate, state]


def run(form, inputs: list[Tensor], dtype: torch.dtype, grads: tuple[Tensor, Tensor], **options) -> list[Tensor]:
    leaves = [x.detach().to(dtype, copy=True).requires_grad_() for x in inputs]
    y, state = form(*leaves, **options)
    torch.autograd.backward([y, state], [g.to(dtype) for g in grads])
    return [y.detach(), state.detach()] + [x.grad for x in leaves]


def relative_errors(got: list[Tensor], expected: list[Tensor]) -> dict[str, float]:
    pairs = zip(NAMES, got, expected, strict=True)
    return {name: float((g.double() - e).norm() / e.norm().clamp_min(1e-3)) for name, g, e in pairs}


def test_reference_is_the_equation():
    inputs = make_inputs(2, 5, 2, 3)
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


def test_reference_gradients():
    inputs = [x.requires_grad_() for x in make_inputs(1, 4, 1, 3)]
    assert torch.autograd.gradcheck(wkv7_reference, inputs)


def test_reference_starts_from_zeros_and_continues():
    *inputs, state = make_inputs(1, 9, 2, 4)
    whole, final = wkv7_reference(*inputs)
    zeros, _ = wkv7_reference(*inputs, torch.zeros_like(state))
    first, between = wkv7_reference(*(x[:, :4] for x in inputs))
    second, last = wkv7_reference(*(x[:, 4:] for x in inputs), between)
    torch.testing.assert_close(whole, zeros)
    torch.testing.assert_close(whole, torch.cat([first, second], 1))
    torch.testing.assert_close(final, last)


@pytest.mark.parametrize("kind", ["plain", "repeated keys", "fastest decay"])
@pytest.mark.parametrize("steps", [1, 15, 63, 64])
@pytest.mark.parametrize("form", [wkv7_numba, wkv7_chunked])
def test_forms_agree_with_the_reference(form, steps: int, kind: str):
    batch, heads, size = 2, 2, 32
    inputs = make_inputs(batch, steps, heads, size, kind, seed=steps)
    grads = (torch.randn(batch, steps, heads, size).double(), torch.randn(batch, heads, size, size).double())
    expected = run(wkv7_reference, inputs, torch.float64, grads)
    for dtype, limit in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
        errors = relative_errors(run(form, inputs, dtype, grads), expected)
        assert max(errors.values()) < limit, (dtype, errors)


def test_long_sequence_of_full_heads():
    inputs = make_inputs(1, 1000, 1, 64)
    grads = (torch.randn(1, 1000, 1, 64).double(), torch.randn(1, 1, 64, 64).double())
    expected = run(wkv7_reference, inputs, torch.float64, grads)
    for form in (wkv7_numba, wkv7_chunked):
        errors = relative_errors(run(form, inputs, torch.float32, grads), expected)
        assert max(errors.values()) < 1e-4, (form.__name__, errors)


def test_numba_on_two_threads_leaves_torch_its_threads():
    torch.set_num_threads(1)
    inputs = make_inputs(2, 33, 3, 16)
    grads = (torch.randn(2, 33, 3, 16).double(), torch.randn(2, 3, 16, 16).double())
    serial = run(wkv7_numba, inputs, torch.float32, grads)
    for one, two in zip(serial, run(wkv7_numba, inputs, torch.float32, grads, threads=2), strict=True):
        torch.testing.assert_close(one, two)
    assert torch.get_num_threads() == 1


def test_numba_without_gradients_keeps_the_initial_state():
    inputs = [x.float() for x in make_inputs(1, 20, 1, 16)]
    before = inputs[-1].clone()
    y, final = wkv7_numba(*inputs)
    expected, expected_final = wkv7_reference(*inputs)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(final, expected_final, rtol=1e-4, atol=1e-5)
    assert torch.equal(inputs[-1], before)


def test_numba_in_half_precision_and_of_no_tokens():
    inputs = [x.bfloat16() for x in make_inputs(1, 20, 1, 16)]
    y, final = wkv7_numba(*inputs)
    assert y.dtype == torch.bfloat16
    assert final.dtype == torch.float32
    y, final = wkv7_numba(*(x[:, :0] for x in inputs[:-1]), inputs[-1])
    assert y.shape == (1, 0, 1, 16)
    assert torch.equal(final, inputs[-1])


def test_errors_name_the_tensor():
    r, log_decay, k, v, a, b, state = make_inputs(1, 3, 1, 16)
    with pytest.raises(ValueError, match="k must have r's shape"):
        wkv7_reference(r, log_decay, k[:, :2], v, a, b)
    with pytest.raises(ValueError, match="state must have shape"):
        wkv7_numba(r, log_decay, k, v, a, b, state[:, :, :8])
    with pytest.raises(ValueError, match="multiple of 16"):
        wkv7_numba(*(x[..., :8] for x in (r, log_decay, k, v, a, b)))
