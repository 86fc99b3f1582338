"""The optimizer, the learning rate's course, and the average of the weights."""

from copy import deepcopy

import pytest
import torch

from midi_rwkv.model.config import TrainConfig
from midi_rwkv.training.muon import Muon
from midi_rwkv.training.optim import learning_rate, moving_average


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


def test_learning_rate_is_warmed_up_held_and_decayed():
    config = TrainConfig(total_tokens=1000, warmup_tokens=100, decay_fraction=0.3, lr=1.0)
    rates = [learning_rate(config, t) for t in (0, 49, 99, 500, 700, 850, 1000)]
    assert rates == pytest.approx([0.01, 0.5, 1.0, 1.0, 1.0, 0.5, 0.0])


def test_the_moving_average_is_what_it_says():
    model = torch.nn.Linear(1, 1)
    average = moving_average(model, 0.5)
    for value in (1.0, 2.0, 3.0):
        torch.nn.init.constant_(model.weight, value)
        average.update_parameters(model)
    assert float(average.module.state_dict()["weight"]) == pytest.approx(0.25 * 1 + 0.25 * 2 + 0.5 * 3)
