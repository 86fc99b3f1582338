"""Muon: what it does to matrices, and that it goes where PyTorch's goes."""

from copy import deepcopy

import pytest
import torch

from midi_rwkv.training.muon import Muon, orthogonalized


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
@pytest.mark.parametrize("shape", [(48, 32), (32, 96)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_muon_goes_where_pytorchs_goes(shape, dtype, monkeypatch):
    """Its iterations leave the singular values closer to 1, so the steps are alike rather than the same."""
    monkeypatch.setattr("midi_rwkv.training.muon.has_fast_bf16", lambda _: dtype == torch.bfloat16)
    generator = torch.Generator().manual_seed(0)
    starts = [torch.randn(s, generator=generator) for s in (shape, shape, shape[::-1])]
    ours, theirs = ([torch.nn.Parameter(x.clone()) for x in starts] for _ in range(2))
    mine = Muon(ours, 0.02, 0.1)
    other = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    for step in range(5):
        if step == 4:
            mine.load_state_dict(deepcopy(other.state_dict()))  # a run that began with PyTorch's goes on
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn(p.shape, generator=generator)
            q.grad = p.grad.clone()
        mine.step()
        other.step()
    for start, p, q in zip(starts, ours, theirs, strict=True):
        moved, expected = (x.detach() - start for x in (p, q))
        assert torch.cosine_similarity(moved.flatten(), expected.flatten(), dim=0) > 0.97
        assert moved.norm() == pytest.approx(float(expected.norm()), rel=0.25)


def test_orthogonalized_matrices_are_nearly_so() -> None:
    torch.manual_seed(0)
    for shape in ((64, 64), (64, 256), (256, 64)):
        left = torch.linalg.qr(torch.randn(shape[0], 64))[0]
        right = torch.linalg.qr(torch.randn(shape[1], 64))[0]
        values = torch.logspace(0, -2, 64)
        [turned] = orthogonalized(((left * values) @ right.T)[None], torch.float32)
        found = torch.linalg.svdvals(turned)[:64]
        assert found.max() < 1.25
        assert found.min() > 0.7


def test_muon_moves_along_the_gradients_singular_vectors() -> None:
    weight = torch.nn.Parameter(torch.zeros(8, 8))
    weight.grad = torch.diag(torch.linspace(1, 2, 8))
    Muon([weight], lr=0.1, weight_decay=0.0).step()
    assert torch.allclose(weight.detach(), torch.diag(weight.detach().diag()), atol=1e-5)
    assert (weight.detach().diag() < 0).all()
