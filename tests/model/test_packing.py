"""A packed row gives what its samples give one by one: logits, gradients, the state after it."""

import pytest
import torch
from torch import Tensor

from midi_rwkv.model.config import ModelConfig
from midi_rwkv.model.packing import packed_hidden
from midi_rwkv.model.rwkv7 import RWKV7, ModelState

LENGTHS = ((1, 37, 2, 40), (50, 30))  # of the samples in each row; T = 80


def make(*, double: bool = False) -> RWKV7:
    torch.manual_seed(1)
    model = RWKV7(ModelConfig(n_layer=2, n_embd=128, vocab_size=97))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model.double() if double else model


def read_packed(model: RWKV7, ids: Tensor, starts: Tensor | None, backend: str) -> tuple[Tensor, ModelState]:
    """Logits, and the state after them."""
    h, state = packed_hidden(model, ids, starts, backend=backend)
    return model.head(h), state


def rows() -> tuple[Tensor, Tensor, list[tuple[int, slice]]]:
    ids = torch.randint(0, 97, (2, 80), generator=torch.Generator().manual_seed(0))
    starts = torch.zeros(2, 80, dtype=torch.bool)
    samples = []
    for row, lengths in enumerate(LENGTHS):
        at = 0
        for n in lengths:
            starts[row, at] = True
            samples.append((row, slice(at, at + n)))
            at += n
    return ids, starts, samples


def error(got: Tensor, want: Tensor) -> float:
    got, want = got.detach().double(), want.detach().double()
    return float((got - want).norm() / want.norm())


@pytest.mark.parametrize(
    ("backend", "double", "tolerance"),
    [("reference", True, 1e-12), ("numba", True, 1e-12), ("chunked", True, 1e-9), ("auto", False, 1e-5)],
)
def test_packed_rows_are_the_samples_one_by_one(backend: str, *, double: bool, tolerance: float) -> None:
    model = make(double=double)
    ids, starts, samples = rows()
    names = [n for n, _ in model.named_parameters()]
    packed, state = read_packed(model, ids, starts, backend)
    grads = torch.autograd.grad(packed.logsumexp(-1).square().sum(), list(model.parameters()), allow_unused=True)
    alone = [read_packed(model, ids[row : row + 1, at], None, backend) for row, at in samples]
    for (row, at), (logits, _) in zip(samples, alone, strict=True):
        assert error(packed[row, at], logits[0]) < tolerance
    total = torch.stack([logits.logsumexp(-1).square().sum() for logits, _ in alone]).sum()
    for name, got, want in zip(
        names, grads, torch.autograd.grad(total, list(model.parameters()), allow_unused=True), strict=True
    ):
        if want is None or not want.any():
            assert got is None or float(got.abs().max()) < 1e-6, name
        else:
            assert error(got, want) < 20 * tolerance, name
    for name in ("att_shift", "ffn_shift", "wkv"):
        last = torch.cat([getattr(alone[i][1], name) for i in (3, 5)], 1)
        assert error(getattr(state, name), last) < tolerance


@pytest.mark.parametrize("backend", ["numba", "chunked", "reference"])
@torch.no_grad()
def test_what_stands_before_a_rows_first_start_goes_on_from_the_state(backend: str) -> None:
    model = make(double=True)
    ids, starts, _ = rows()
    starts[0, 0] = False  # row 0 goes on, row 1 begins
    zero = model.new_state(2)
    state = ModelState(*(torch.randn_like(x).double() for x in (zero.att_shift, zero.ffn_shift, zero.wkv)))
    got, _ = packed_hidden(model, ids, starts, state, backend=backend)
    kept = ModelState(state.att_shift[:, :1], state.ffn_shift[:, :1], state.wkv[:, :1])
    assert error(got[:1, :1], model.hidden(ids[:1, :1], kept, backend)[0]) < 1e-10
    assert error(got[1:, :50], model.hidden(ids[1:, :50], None, backend)[0]) < 1e-10


@torch.no_grad()
def test_vectors_take_the_place_of_ids() -> None:
    model = make()
    ids, starts, _ = rows()
    expected, _ = packed_hidden(model, ids, starts)
    assert torch.equal(packed_hidden(model, model.emb.weight[ids], starts)[0], expected)
