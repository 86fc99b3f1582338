"""The Triton engine's states and refusals; what it computes is test_agreement.py's."""

import numpy as np
import pytest
from random_rwkv7 import random_weights

from midi_rwkv.engine.make import make_engine


def test_rows_are_selected_and_joined() -> None:
    pytest.importorskip("triton")
    engine = make_engine(random_weights(1, 32, 16), 16, backend="triton")
    state = engine.new_state().repeat(2)
    engine.prefill([1, 2], state)
    state = state.concat([state.select([1]), state])
    engine.step([5, 6, 5], state)
    assert state.batch == 3
    wkv = state.wkv.cpu().numpy()
    assert np.array_equal(wkv[:, 0], wkv[:, 2])
    assert not np.array_equal(wkv[:, 0], wkv[:, 1])


def test_states_take_turns_in_the_triton_engine(monkeypatch):
    """A state lives in the buffers that a step writes; another one of as many rows must not change it."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("triton")
    engine = make_engine(random_weights(1, 64, 32), 32, backend="triton")
    alone, one, other = (engine.new_state() for _ in range(3))
    expected = [engine.step([token], alone) for token in (3, 9)]
    turns = [[engine.step([token], state) for state in (one, other)] for token in (3, 9)]
    for logits, own in zip(turns, expected, strict=True):
        assert all(np.array_equal(x, own) for x in logits)
    before = [x.clone() for x in one.tensors]
    copies = []
    monkeypatch.setattr(torch.Tensor, "clone", lambda self, **_: copies.append(self))
    engine.step([7], other)  # it is in the buffers already: nothing is copied
    assert not copies
    monkeypatch.undo()
    assert all(torch.equal(x, y) for x, y in zip(one.tensors, before, strict=True))


def test_the_triton_engine_says_why_it_cannot_run(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ValueError, match="no GPU that torch can use; use backend='auto'"):
        make_engine(random_weights(1, 64, 32), 32, backend="triton")
    monkeypatch.setattr("midi_rwkv.engine.make.find_spec", lambda _: None)
    with pytest.raises(ValueError, match="triton is not installed"):
        make_engine(random_weights(1, 64, 32), 32, backend="triton")
