"""Decoding speed, as ratios in one run: ours, PyTorch written naively and with care, and the memory bandwidth floor.

    python scripts/benchmark_decode.py [--shape small|base|both] [--rounds 9] [--threads 1]

Every contender works in turn, a burst of steps each, over several rounds, and the medians are compared, so that
whatever else the machine does meets all of them. Weights are random: speed does not depend on them. The floor of a
step is its weights' bytes over the fastest forward reading of as many bytes that this core does in the same run;
a small model may fit the last-level cache, so the same is shown for a buffer that cannot.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Mapping

import numpy as np

Weights = Mapping[str, np.ndarray]


def random_weights(layers: int, size: int, vocabulary: int, ranks: tuple[int, int, int, int]) -> dict[str, np.ndarray]:
    """A random RWKV-7 of heads of 64 in RWKV-LM's names; ranks of w, a, v, g."""
    rng = np.random.default_rng(0)

    def matrix(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, np.float32) * np.float32(shape[-1] ** -0.5)

    weights = {"emb.weight": matrix(vocabulary, size), "head.weight": matrix(vocabulary, size)}
    norms, sizes = ["ln_out", "blocks.0.ln0"], {"ffn.key": (4 * size, size), "ffn.value": (size, 4 * size)}
    for i in range(layers):
        block, att = f"blocks.{i}.", f"blocks.{i}.att."
        norms += [block + "ln1", block + "ln2", att + "ln_x"]
        for name in ("x_r", "x_w", "x_k", "x_v", "x_a", "x_g", "w0", "a0", "v0", "k_k", "k_a"):
            weights[att + name] = rng.random((1, 1, size), np.float32)
        weights[block + "ffn.x_k"] = rng.random((1, 1, size), np.float32)
        weights[att + "r_k"] = matrix(size // 64, 64)
        for name, rank in zip("wavg", ranks, strict=True):
            weights[f"{att}{name}1"], weights[f"{att}{name}2"] = matrix(size, rank), matrix(rank, size)
        for name in ("receptance", "key", "value", "output"):
            weights[f"{att}{name}.weight"] = matrix(size, size)
        for name, shape in sizes.items():
            weights[f"{block}{name}.weight"] = matrix(*shape)
    for name in norms:
        weights[f"{name}.weight"], weights[f"{name}.bias"] = np.ones(size, np.float32), np.zeros(size, np.float32)
    return weights


def naive_step(weights: Weights) -> Callable[[], object]:
    """One token in plain PyTorch, the way the equations read: a tensor a line, every matrix times every vector."""
    import torch
    import torch.nn.functional as F

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


def compiled_step(weights: Weights) -> Callable[[], object]:
    """The careful PyTorch step under torch.compile. Raises whatever torch does where there is no C++ compiler."""
    import torch

    from midi_rwkv.engine_torch import TorchEngine

    engine = TorchEngine(weights, 64, torch.get_num_threads())
    forward = torch.compile(engine.forward, dynamic=False)
    start = engine.new_state()
    kept = [torch.from_numpy(x) for x in (start.att_shift, start.ffn_shift, start.wkv)]
    ids = torch.tensor([[7]])

    def step() -> object:
        nonlocal kept
        with torch.inference_mode():
            logits, *kept = forward(ids, *kept)
        return logits

    step()
    return step


def stream(size: int) -> Callable[[], object]:
    """Read `size` bytes once, forwards."""
    from numba import njit

    from midi_rwkv.engine_pack import aligned
    from midi_rwkv.kernels.numba_vectors import vector_kernel

    @vector_kernel
    def read(emit, arrays, at):  # type: ignore[no-untyped-def]
        data, out = arrays
        sums = [emit.sum() for _ in range(8)]
        with emit.span(at[0], 128) as i:
            for n, total in enumerate(sums):
                total.add(data.row(i + 16 * n))
        for n, total in enumerate(sums):
            out.put(16 * n, total.row())

    run = njit(lambda data, out, count: read((data, out), (count,)))
    data, out = aligned(size // 512 * 128), np.empty(128, np.float32)
    data[:] = 1
    run(data, out, 0)
    return lambda: run(data, out, len(data))


def burst(work: Callable[[], object], seconds: float) -> float:
    """Seconds a call, over about `seconds` of calls that follow a first, unmeasured one."""
    work()
    calls, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds or calls < 3:
        work()
        calls += 1
    return spent / calls


def measure(contenders: Mapping[str, Callable[[], object]], rounds: int, seconds: float) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, work in contenders.items():
            times[name].append(burst(work, seconds))
    return times


def benchmark(title: str, weights: Weights, threads: int, rounds: int, seconds: float) -> None:
    from midi_rwkv.engine import make_engine
    from midi_rwkv.engine_numba import NumbaEngine

    ours, careful = NumbaEngine(weights, 64, threads), make_engine(weights, backend="torch", threads=threads)
    weight_bytes = ours.packed.nbytes
    prompt = np.arange(512) % ours.vocab_size
    states = {(e, b): e.new_state(b) for e in (ours, careful) for b in (1, 8)}
    contenders: dict[str, Callable[[], object]] = {
        "stream, as many bytes": stream(weight_bytes),
        "ours": lambda: ours.step([7], states[ours, 1]),
        "PyTorch, with care": lambda: careful.step([7], states[careful, 1]),
        "PyTorch, naive": naive_step(weights),
        "ours, 8 rows": lambda: ours.step([7] * 8, states[ours, 8]),
        "PyTorch, with care, 8 rows": lambda: careful.step([7] * 8, states[careful, 8]),
        "ours, prefill of 512": lambda: ours.prefill(prompt, states[ours, 1]),
        "PyTorch, prefill of 512": lambda: careful.prefill(prompt, states[careful, 1]),
    }
    try:
        contenders["PyTorch, torch.compile"] = compiled_step(weights)
    except Exception as error:  # torch raises many kinds where it finds no compiler
        print(f"torch.compile left out: {str(error).splitlines()[0]}")
    large = 256 << 20
    contenders["stream, 256 MiB"] = stream(large)

    times = measure(contenders, rounds, seconds)
    middle = {name: statistics.median(x) for name, x in times.items()}
    tokens = {name: 8 if "8 rows" in name else 512 if "prefill" in name else 1 for name in times}
    print(f"\n{title}: {weight_bytes / 1e6:.1f} MB of weights a token, {threads} thread(s), float32, {rounds} rounds")
    print(f"{'':28}{'ms a call':>10}{'tokens/s':>10}{'times naive':>12}{'with care':>10}{'share of floor':>15}")
    for name, seconds_a_call in middle.items():
        each = seconds_a_call / tokens[name]
        if name.startswith("stream"):
            size = large if "256" in name else weight_bytes
            print(f"{name:28}{seconds_a_call * 1e3:10.3f}{size / seconds_a_call / 1e9:10.1f} GB/s")
            continue

        def ratio(other: str, each: float = each, name: str = name) -> float:
            return statistics.median(b * tokens[name] / a for a, b in zip(times[name], times[other], strict=True))

        share = f"{ratio('stream, as many bytes'):15.2f}" if tokens[name] == 1 else ""
        line = f"{name:28}{seconds_a_call * 1e3:10.3f}{1 / each:10.0f}"
        print(f"{line}{ratio('PyTorch, naive'):12.2f}{ratio('PyTorch, with care'):10.2f}{share}")
    decode = middle["ours"]
    print(f"ours: prefill {decode * 512 / middle['ours, prefill of 512']:.1f} x the decode rate, ", end="")
    print(f"8 rows {decode * 8 / middle['ours, 8 rows']:.1f} x the single rate; ", end="")
    if "PyTorch, torch.compile" in middle:
        print(f"{middle['PyTorch, torch.compile'] / decode:.2f} x torch.compile; ", end="")
    floor = large / middle["stream, 256 MiB"]
    print(f"{weight_bytes / floor / decode:.2f} of the floor if the weights lay in main memory")


SHAPES = {
    "small": ("8 x 256, vocabulary 4,096 (ships)", (8, 256, 4096, (32, 32, 32, 64))),
    "base": ("12 x 384, vocabulary 16,000 (the paper's)", (12, 384, 16_000, (64, 64, 32, 64))),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=[*SHAPES, "both"], default="both")
    parser.add_argument("--rounds", type=int, default=9, help="how often every contender has its turn (default 9)")
    parser.add_argument("--seconds", type=float, default=0.3, help="of each turn (default 0.3)")
    parser.add_argument("--threads", type=int, default=1, choices=(1, 2))
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    print(f"load of the machine before: {', '.join(f'{x:.1f}' for x in os.getloadavg())}")
    for shape in SHAPES if args.shape == "both" else [args.shape]:
        title, sizes = SHAPES[shape]
        benchmark(title, random_weights(*sizes), args.threads, args.rounds, args.seconds)


if __name__ == "__main__":
    main()
