"""RWKV-7 in PyTorch against its equations in float64 numpy, one token at a time; its state; its numbers on a GPU.

The engines and the forms of the recurrence are held to this model by tests/engine/test_agreement.py.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from random_rwkv7 import Weights, random_tokens, random_weights, relative_error

from midi_rwkv.model.config import ModelConfig
from midi_rwkv.model.rwkv7 import RWKV7
from midi_rwkv.model.token_checkpoint import model_of

Doubles = NDArray[np.float64]


class Definition:
    """RWKV-7 x070 in float64, one row, one token at a time."""

    def __init__(self, weights: Weights, head_size: int) -> None:
        self.w = {name: x.astype(np.float64).squeeze() for name, x in weights.items()}
        self.head_size, self.size = head_size, weights["emb.weight"].shape[1]
        self.layers = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
        self.heads = self.size // head_size
        self.att_shift = np.zeros((self.layers, self.size))
        self.ffn_shift = np.zeros((self.layers, self.size))
        self.wkv = np.zeros((self.layers, self.heads, head_size, head_size))

    def norm(self, x: Doubles, name: str) -> Doubles:
        x = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
        return x * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def step(self, token: int) -> Doubles:
        x, first_values = self.norm(self.w["emb.weight"][token], "blocks.0.ln0"), None
        for layer in range(self.layers):
            h = self.norm(x, f"blocks.{layer}.ln1")
            out, first_values = self.time_mix(h, layer, first_values)
            x = x + out
            h, ffn = self.norm(x, f"blocks.{layer}.ln2"), f"blocks.{layer}.ffn."
            mixed = h + (self.ffn_shift[layer] - h) * self.w[ffn + "x_k"]
            x = x + self.w[ffn + "value.weight"] @ np.maximum(self.w[ffn + "key.weight"] @ mixed, 0) ** 2
            self.ffn_shift[layer] = h
        return self.w["head.weight"] @ self.norm(x, "ln_out")

    def time_mix(self, h: Doubles, layer: int, first_values: Doubles | None) -> tuple[Doubles, Doubles]:
        w = {name.split("att.")[1]: x for name, x in self.w.items() if name.startswith(f"blocks.{layer}.att.")}
        shifted = self.att_shift[layer] - h
        xr, xw, xk, xv, xa, xg = (h + shifted * w[f"x_{x}"] for x in "rwkvag")
        self.att_shift[layer] = h
        r, k, v = w["receptance.weight"] @ xr, w["key.weight"] @ xk, w["value.weight"] @ xv
        z = w["w0"] + np.tanh(xw @ w["w1"]) @ w["w2"]
        decay = np.exp(-np.exp(-np.log1p(np.exp(-z)) - 0.5))
        if first_values is None:
            first_values = v
        else:
            v = v + (first_values - v) * sigmoid(w["v0"] + xv @ w["v1"] @ w["v2"])
        a = sigmoid(w["a0"] + xa @ w["a1"] @ w["a2"])
        g = sigmoid(xg @ w["g1"]) @ w["g2"]
        kk = (k * w["k_k"]).reshape(self.heads, -1)
        kk /= np.maximum(np.linalg.norm(kk, axis=1, keepdims=True), 1e-12)
        k = k * (1 + (a - 1) * w["k_a"])
        r, k, v, a, decay = (x.reshape(self.heads, -1) for x in (r, k, v, a, decay))
        y = np.empty_like(v)
        for i in range(self.heads):
            s = self.wkv[layer, i]
            s = decay[i][:, None] * s + np.outer(kk[i] * a[i], -kk[i] @ s) + np.outer(k[i], v[i])
            self.wkv[layer, i], y[i] = s, s.T @ r[i]
        y = (y - y.mean(1, keepdims=True)) / np.sqrt(y.var(1, keepdims=True) + 64e-5)
        y = y.reshape(-1) * w["ln_x.weight"] + w["ln_x.bias"]
        y = y.reshape(self.heads, -1) + (r * k * w["r_k"]).sum(1, keepdims=True) * v
        return w["output.weight"] @ (y.reshape(-1) * g), first_values


def sigmoid(x: Doubles) -> Doubles:
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("head_size", [64, 16, 24])
@torch.no_grad()
def test_the_model_is_its_equations(head_size: int) -> None:
    weights = random_weights(3, 192, head_size, seed=head_size)
    model, definition, ids = model_of(weights).double(), Definition(weights, head_size), random_tokens(40)
    expected = [definition.step(token) for token in ids.tolist()]
    logits, state = model(torch.from_numpy(ids)[None], backend="reference")
    assert relative_error(logits[0], expected) < 1e-6  # decays and removal keys are float32 in any model
    for kind in ("att_shift", "ffn_shift", "wkv"):
        assert relative_error(getattr(state, kind)[:, 0], getattr(definition, kind)) < 1e-6


@torch.no_grad()
def test_the_state_carries_over_and_a_token_at_a_time_is_the_sequence() -> None:
    model, ids = model_of(random_weights()), torch.from_numpy(random_tokens(2, 70))
    expected, after = model(ids)
    first, state = model(ids[:, :31])
    steps = [first]
    for t in range(31, 70):
        logits, state = model(ids[:, t : t + 1], state)
        steps.append(logits)
    assert relative_error(torch.cat(steps, 1), expected) < 1e-5
    for kind in ("att_shift", "ffn_shift", "wkv"):
        assert relative_error(getattr(state, kind), getattr(after, kind)) < 1e-5


@torch.no_grad()
def test_vectors_take_the_place_of_ids() -> None:
    model, ids = model_of(random_weights()), torch.from_numpy(random_tokens(2, 20))
    expected, _ = model.hidden(ids)
    got, _ = model.hidden(model.emb.weight[ids])
    assert torch.equal(got, expected)


def test_an_initial_state_is_in_every_row() -> None:
    wkv0 = torch.randn(2, 2, 64, 64)
    state = model_of(random_weights()).new_state(3, wkv0)
    assert all(torch.equal(state.wkv[:, row], wkv0) for row in range(3))
    assert not state.att_shift.any()


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(ValueError, match="backend must be one of"):
        model_of(random_weights())(torch.zeros(1, 4, dtype=torch.long), backend="cuda")


def test_a_gpu_recurrence_is_fed_in_the_numbers_of_the_products() -> None:
    """On the meta device, which stands for any but the CPU; there the numbers stay as wide as they are made."""
    config = ModelConfig(n_layer=2, n_embd=128, vocab_size=97)
    for device, expected in (("meta", {torch.bfloat16}), ("cpu", {torch.bfloat16, torch.float32})):
        block = RWKV7(config).bfloat16().to(device).layers()[0]
        x = torch.zeros(1, 3, config.n_embd, dtype=torch.bfloat16, device=device)
        inputs, _, _ = block.att.before(x, x, None)
        assert {t.dtype for t in inputs} == expected
