"""RWKV-7 in plain PyTorch, for benchmark_model.py: how fast the equations are when nobody minds the speed."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F


def naive_step(weights: Mapping[str, np.ndarray]) -> Callable[[], object]:
    """One token in plain PyTorch, the way the equations read: a tensor a line, every matrix times every vector."""
    w = {name: torch.from_numpy(x).squeeze() for name, x in weights.items()}
    layers = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
    size = weights["emb.weight"].shape[1]
    heads = size // 64
    att_shift, ffn_shift = torch.zeros(layers, size), torch.zeros(layers, size)
    wkv = torch.zeros(layers, heads, 64, 64)

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(x, (size,), w[name + ".weight"], w[name + ".bias"])

    def time_mix(x: torch.Tensor, i: int, v_first: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        p = f"blocks.{i}.att."
        xx = att_shift[i] - x
        att_shift[i] = x
        xr, xw, xk, xv, xa, xg = (x + xx * w[f"{p}x_{n}"] for n in "rwkvag")
        r, k, v = w[p + "receptance.weight"] @ xr, w[p + "key.weight"] @ xk, w[p + "value.weight"] @ xv
        decay = -F.softplus(-(w[p + "w0"] + torch.tanh(xw @ w[p + "w1"]) @ w[p + "w2"])) - 0.5
        decay = torch.exp(-torch.exp(decay))
        if i == 0:
            v_first = v
        else:
            v = v + (v_first - v) * torch.sigmoid(w[p + "v0"] + (xv @ w[p + "v1"]) @ w[p + "v2"])
        a = torch.sigmoid(w[p + "a0"] + (xa @ w[p + "a1"]) @ w[p + "a2"])
        g = torch.sigmoid(xg @ w[p + "g1"]) @ w[p + "g2"]
        kk = F.normalize((k * w[p + "k_k"]).view(heads, 64), dim=-1)
        k = k * (1 + (a - 1) * w[p + "k_a"])
        r, k, v, decay, a = (t.view(heads, 64) for t in (r, k, v, decay, a))
        vk = k.unsqueeze(2) @ v.unsqueeze(1)
        ab = (kk * a).unsqueeze(2) @ (-kk.unsqueeze(1) @ wkv[i])
        wkv[i] = wkv[i] * decay.unsqueeze(2) + ab + vk
        y = (r.unsqueeze(1) @ wkv[i]).view(1, size)
        y = F.group_norm(y, heads, w[p + "ln_x.weight"], w[p + "ln_x.bias"], 64e-5).view(size)
        y = y + ((r * k * w[p + "r_k"].view(heads, 64)).sum(-1, keepdim=True) * v).view(size)
        return w[p + "output.weight"] @ (y * g), v_first

    def step() -> torch.Tensor:
        with torch.no_grad():
            x = norm(w["emb.weight"][7], "blocks.0.ln0")
            v_first = x
            for i in range(layers):
                out, v_first = time_mix(norm(x, f"blocks.{i}.ln1"), i, v_first)
                x = x + out
                h = norm(x, f"blocks.{i}.ln2")
                mixed = h + (ffn_shift[i] - h) * w[f"blocks.{i}.ffn.x_k"]
                ffn_shift[i] = h
                k = torch.relu(w[f"blocks.{i}.ffn.key.weight"] @ mixed) ** 2
                x = x + w[f"blocks.{i}.ffn.value.weight"] @ k
            return w["head.weight"] @ norm(x, "ln_out")

    return step
