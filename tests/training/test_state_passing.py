"""Training piece by piece against training on the whole."""

import pytest
import torch
import torch.nn.functional as F

from midi_rwkv.model.config import ModelConfig
from midi_rwkv.model.packing import PackedRWKV7
from midi_rwkv.model.rwkv7 import RWKV7, ModelState
from midi_rwkv.training.state_passing import backward_in_pieces

STEPS = 23
LIMIT = 1e-5  # the model keeps its states, and some steps on the way, in float32


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = RWKV7(ModelConfig(n_layer=2, n_embd=32, head_size=16, vocab_size=40)).double()
    for parameter in model.parameters():  # fresh models hold many zeros, whose gradients would say little
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture
def ids():
    return torch.randint(40, (2, STEPS + 1), generator=torch.Generator().manual_seed(1))


def shares(ids):
    targets = ids[:, 1:]
    return lambda logits, place: F.cross_entropy(logits.flatten(0, 1), targets[:, place].flatten(), reduction="sum")


def gradients(model) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def random_state(model) -> ModelState:
    generator = torch.Generator().manual_seed(2)
    state = model.new_state(2)
    tensors = (state.att_shift, state.ffn_shift, state.wkv)
    return ModelState(*(torch.randn(x.shape, generator=generator).double().requires_grad_() for x in tensors))


@pytest.mark.parametrize("piece", [1, 5, 22, 23, 100])
def test_exact_pieces_are_the_whole(model, ids, piece: int):
    whole_state, state = random_state(model), random_state(model)
    logits, _ = model(ids[:, :-1], whole_state)
    loss = shares(ids)(logits, slice(0, STEPS))
    loss.backward()
    expected = gradients(model)
    model.zero_grad()

    assert backward_in_pieces(model, ids[:, :-1], shares(ids), piece, state=state) == pytest.approx(loss.item())
    assert gradients(model).keys() == expected.keys()
    for name, grad in gradients(model).items():
        assert (grad - expected[name]).norm() < LIMIT * expected[name].norm(), name
    for name in ("att_shift", "ffn_shift", "wkv"):
        grad, other = (getattr(s, name).grad for s in (state, whole_state))
        assert (grad - other).norm() < LIMIT * other.norm(), name


@pytest.mark.parametrize("piece", [3, 8])
def test_packed_samples_in_pieces(model, ids, piece: int):
    starts = torch.zeros(2, STEPS, dtype=torch.bool)
    starts[0, [0, 8, 9]] = starts[1, 13] = True
    logits, _ = PackedRWKV7(model)(ids[:, :-1], starts=starts)
    shares(ids)(logits, slice(0, STEPS)).backward()
    expected = gradients(model)
    model.zero_grad()
    backward_in_pieces(model, ids[:, :-1], shares(ids), piece, starts=starts)
    for name, grad in gradients(model).items():
        assert (grad - expected[name]).norm() < LIMIT * expected[name].norm(), name


def test_pieces_of_nothing_are_refused(model, ids):
    with pytest.raises(ValueError, match="at least one token, given 0"):
        backward_in_pieces(model, ids, shares(ids), 0)
    with pytest.raises(ValueError, match=r"of ids \(2, 0\)"):
        backward_in_pieces(model, ids[:, :0], shares(ids), 4)
