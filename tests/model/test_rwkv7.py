"""The PyTorch model: sequence form = step form = float64 reference, states included; gradients reach the initial
state."""

from functools import cache

import pytest
import torch

from midi_rwkv.model.config import ModelConfig
from midi_rwkv.model.rwkv7 import RWKV7, ModelState

CONFIG = ModelConfig(n_layer=2, n_embd=128, vocab_size=97)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    model = RWKV7(CONFIG)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model.eval()


@pytest.fixture(scope="module")
def reference(model):
    """reference(T) -> ids, and what the float64 reference makes of them from `random_state`."""

    @cache
    @torch.no_grad()
    def run(length):
        ids = torch.randint(0, 97, (2, length), generator=torch.Generator().manual_seed(length))
        return ids, *exact(model)(ids, random_state(torch.float64), backend="reference")

    return run


def exact(model):
    """The same model in float64."""
    double = RWKV7(CONFIG).double()
    double.load_state_dict({k: v.double() for k, v in model.state_dict().items()})
    return double.eval()


def error(got, want):
    return float((got.double() - want).norm() / want.norm())


def random_state(dtype):
    torch.manual_seed(3)
    zero = RWKV7(CONFIG).new_state(2)
    return ModelState(*(torch.randn_like(x).to(dtype) * 0.3 for x in (zero.att_shift, zero.ffn_shift, zero.wkv)))


@pytest.mark.parametrize("backend", ["auto", "chunked", "numba", "reference"])
@pytest.mark.parametrize("length", [1, 63, 1000])
@torch.no_grad()
def test_sequence_form_equals_the_float64_reference(model, reference, length, backend):
    ids, want, want_state = reference(length)
    got, state = model(ids, random_state(torch.float32), backend=backend)
    assert error(got, want) < 1e-5
    for name in ("att_shift", "ffn_shift", "wkv"):
        assert error(getattr(state, name), getattr(want_state, name)) < 1e-5


@torch.no_grad()
def test_step_form_equals_the_sequence_form_and_state_carries_over(model):
    ids = torch.randint(0, 97, (2, 70), generator=torch.Generator().manual_seed(0))
    want, want_state = exact(model)(ids, backend="reference")
    logits, state = model(ids[:, :31])
    assert error(logits[:, -1], want[:, 30]) < 1e-5
    for t in range(31, 70):
        step, state = model.step(ids[:, t], state)
        assert error(step, want[:, t]) < 1e-5
    assert error(state.wkv, want_state.wkv) < 1e-5


def test_gradients_reach_the_initial_state_and_agree(model):
    ids = torch.randint(0, 97, (2, 40), generator=torch.Generator().manual_seed(0))
    gradients = []
    for net, dtype, backend in ((exact(model), torch.float64, "reference"), (model, torch.float32, "auto")):
        state = random_state(dtype)
        state.wkv.requires_grad_()
        logits, _ = net(ids, state, backend=backend)
        logits.logsumexp(-1).mean().backward()
        gradients.append((state.wkv.grad, net.blocks[1].att.w0.grad))
    for want, got in zip(*gradients, strict=True):
        assert want.abs().max() > 0
        assert error(got, want) < 1e-4


def test_unknown_backend(model):
    with pytest.raises(ValueError, match="backend must be one of"):
        model(torch.zeros(1, 4, dtype=torch.long), backend="cuda")


def test_a_gpu_recurrence_is_fed_in_the_numbers_of_the_products():
    """On the meta device, which stands for any but the CPU; there the numbers stay as wide as they are made."""
    for device, expected in (("meta", {torch.bfloat16}), ("cpu", {torch.bfloat16, torch.float32})):
        block = RWKV7(CONFIG).bfloat16().to(device).layers()[0]
        x = torch.zeros(1, 3, CONFIG.n_embd, dtype=torch.bfloat16, device=device)
        inputs, _, _ = block.att.before(x, None, x[:, 0], None)
        assert {t.dtype for t in inputs} == expected
