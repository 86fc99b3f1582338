"""Which rows a step has, and what they count."""

from dataclasses import replace

import pytest
import torch
from training_runs import CONFIG, ONE

from midi_rwkv.training.dataset import CONTEXT, FILL, TrainingRows
from midi_rwkv.training.loader import Loader
from midi_rwkv.training.parallel import Group


def test_what_a_step_counts_is_its_fills_and_a_share_of_its_context(shards, tokenizer):
    rows = TrainingRows(shards, tokenizer, 256, seed=3, weights={"a": 1.0})
    batch = next(iter(Loader(rows, replace(CONFIG, context_weight=0.25), ONE, first_row=0, steps=1)))
    fill, context = (int((batch.roles[:, 1:] == role).sum()) for role in (FILL, CONTEXT))
    assert fill > 0 < context
    assert batch.targets == fill + 0.25 * context
    with pytest.raises(ValueError, match="context_weight must lie in 0-1, got 2"):
        replace(CONFIG, context_weight=2)


def test_the_rows_of_a_step_are_the_same_however_many_processes_share_them(shards, tokenizer):
    rows = TrainingRows(shards, tokenizer, 256, seed=3, weights={"a": 1.0})
    five = replace(CONFIG, batch_size=5)
    whole = list(Loader(rows, five, ONE, first_row=10, steps=3))
    assert len(whole) == 3
    for size, workers in ((2, 0), (3, 2)):
        shares = [
            list(Loader(rows, five, Group(r, size, ONE.device), first_row=10, steps=3, workers=workers))
            for r in range(size)
        ]
        for step, batch in enumerate(whole):
            assert sum(s[step].targets for s in shares) == batch.targets
            for rank, share in enumerate(shares):
                assert torch.equal(share[step].ids, batch.ids[rank::size])
                assert torch.equal(share[step].starts, batch.starts[rank::size])
    with pytest.raises(ValueError, match="--batch-size 2 gives 3 processes no row each; use 3"):
        Loader(rows, CONFIG, Group(0, 3, ONE.device), first_row=0, steps=1)
