"""A trunk without embedding or head: the numba engine reads vectors and gives what the heads read."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from song import random_song, vocabulary

from midi_rwkv.engine.numba_engine import NumbaEngine
from midi_rwkv.model.config import ModelConfig
from midi_rwkv.model.steps import StepModel
from midi_rwkv.tokens.layout import Window, prompt_steps


@pytest.fixture(scope="module")
def model() -> StepModel:
    torch.manual_seed(0)
    made = StepModel(ModelConfig(n_layer=2, n_embd=64, vocab_size=1), vocabulary().sizes)
    for p in made.parameters():
        if p.ndim > 1 and not p.any():
            torch.nn.init.normal_(p, std=0.05)
    return made.eval()


@pytest.mark.parametrize(("precision", "far"), [("float32", 1e-3), ("int8", 0.2)])
@pytest.mark.parametrize("threads", [1, 2])
def test_prefill_and_steps_are_the_models(model: StepModel, precision: str, far: float, threads: int) -> None:
    weights = {k.removeprefix("trunk."): v.numpy() for k, v in model.state_dict().items() if k.startswith("trunk.")}
    engine = NumbaEngine(weights, 64, threads, precision)
    song = random_song(0, bars=24)
    steps = torch.from_numpy(prompt_steps(vocabulary(), song, Window(5, 7, 0, 24), [0], [(0, 5), (0, 6)]))
    with torch.no_grad():
        vectors = model.tables(steps[None])[0].numpy()
        expected = model.hidden(steps[None])[0].numpy()
    state = engine.new_state(1)
    assert engine.prefill_vectors(vectors[:-8], state)[0] == pytest.approx(expected[-9], abs=far)
    state = state.repeat(5)
    for at in range(-8, 0):
        found = engine.step_vectors(np.tile(vectors[at], (5, 1)), state)
        assert found[3] == pytest.approx(expected[at], abs=far)
