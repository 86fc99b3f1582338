"""A packed row gives what its samples give one by one: logits, loss, gradients, the state after it."""

import pytest
import torch
from torch import Tensor, nn

from midi_rwkv.evaluation.transformer import Transformer
from midi_rwkv.model.config import ARCHS, ModelConfig
from midi_rwkv.model.packing import PackedRWKV7, packed_hidden
from midi_rwkv.model.rwkv7 import RWKV7, ModelState
from midi_rwkv.training.dataset import CONTEXT, FILL
from midi_rwkv.training.losses import music_nats

LENGTHS = ((1, 37, 2, 40), (50, 30))  # of the samples in each row; T = 80


def make(arch: str, *, double: bool = False) -> RWKV7 | Transformer:
    torch.manual_seed(1)
    kind = RWKV7 if arch == "rwkv7" else Transformer
    model = kind(ModelConfig(n_layer=2, n_embd=128, vocab_size=97, arch=arch))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model.double() if double else model


def read_packed(
    model: RWKV7 | Transformer, ids: Tensor, starts: Tensor | None, backend: str
) -> tuple[Tensor, ModelState | None]:
    """Logits, and an RWKV-7's state after them."""
    if isinstance(model, Transformer):
        return model(ids, starts=starts)[0], None
    h, state = packed_hidden(model, ids, starts, backend=backend)
    return model.head(h), state


def trained(model: RWKV7 | Transformer) -> nn.Module:
    """The module that the trainer calls."""
    return PackedRWKV7(model) if isinstance(model, RWKV7) else model


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
    ("arch", "backend", "double", "tolerance"),
    [
        ("rwkv7", "reference", True, 1e-12),
        ("rwkv7", "numba", True, 1e-12),
        ("rwkv7", "chunked", True, 1e-9),
        ("rwkv7", "auto", False, 1e-5),
        ("transformer", "", False, 1e-5),
    ],
)
def test_packed_rows_are_the_samples_one_by_one(arch: str, backend: str, *, double: bool, tolerance: float) -> None:
    model = make(arch, double=double)
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
    if arch == "rwkv7":
        for name in ("att_shift", "ffn_shift", "wkv"):
            last = torch.cat([getattr(alone[i][1], name) for i in (3, 5)], 1)
            assert error(getattr(state, name), last) < tolerance


@pytest.mark.parametrize("backend", ["numba", "chunked", "reference"])
@torch.no_grad()
def test_what_stands_before_a_rows_first_start_goes_on_from_the_state(backend: str) -> None:
    model = make("rwkv7", double=True)
    assert isinstance(model, RWKV7)
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
    model = make("rwkv7")
    assert isinstance(model, RWKV7)
    ids, starts, _ = rows()
    expected, _ = packed_hidden(model, ids, starts)
    assert torch.equal(packed_hidden(model, model.emb.weight[ids], starts)[0], expected)


@pytest.mark.parametrize("arch", ARCHS)
@torch.no_grad()
def test_the_loss_of_a_packed_row_does_not_depend_on_what_stands_before_a_sample(arch: str) -> None:
    model = trained(make(arch))
    ids, starts, _ = rows()
    roles = torch.full(ids.shape, CONTEXT)
    roles[0, :41] = 0  # row 0: only the last sample counts; its first id is no target
    roles[1] = 0
    other = ids.clone()
    other[0, :40] = ids[0, :40].flip(0)
    assert torch.equal(music_nats(model, ids, roles, starts=starts), music_nats(model, other, roles, starts=starts))
    assert not torch.equal(music_nats(model, ids, roles), music_nats(model, other, roles))


@torch.no_grad()
def test_what_the_context_counts_in_the_loss() -> None:
    model = trained(make("rwkv7"))
    ids, starts, _ = rows()
    roles = torch.full(ids.shape, CONTEXT)
    roles[:, 20:60], roles[1, :20] = FILL, 0
    fill, context = (
        float(music_nats(model, ids, roles.masked_fill(roles != role, 0), starts=starts)) for role in (FILL, CONTEXT)
    )
    for weight in (0.0, 0.25, 1.0):
        weighted = float(music_nats(model, ids, roles, starts=starts, context_weight=weight))
        assert weighted == pytest.approx(fill + weight * context, rel=1e-5)


def test_a_transformer_takes_starts_or_a_state() -> None:
    model = make("transformer")
    assert isinstance(model, Transformer)
    ids, starts, _ = rows()
    with pytest.raises(ValueError, match="not both"):
        model(ids, model.new_state(2), starts=starts)
