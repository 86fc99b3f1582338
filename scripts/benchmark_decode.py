"""Decoding speed, as ratios in one run: ours (float32, int8; one, two threads), PyTorch, the bandwidth floor.

    python scripts/benchmark_decode.py [--shape small|base|both] [--rounds 9] [--only-ours]

Every contender works in turn, a burst of steps each, over several rounds, and the medians are compared, so that
whatever else the machine does meets all of them. Weights are random: speed does not depend on them. The floor of a
step is its weights' bytes over the fastest forward reading of as many bytes by as many threads in the same run;
a small model may fit the last-level cache, so the same is shown for a buffer that cannot. PyTorch runs on one thread.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

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

    from midi_rwkv.engine.torch_engine import TorchEngine

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


def stream(size: int, threads: int = 1) -> Callable[[], object]:
    """Read `size` bytes once, forwards; each of two threads its half."""
    from numba import njit

    from midi_rwkv.engine.pack import aligned
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

    run = njit(lambda data, out, count: read((data, out), (count,)), nogil=True)
    data = aligned(size // 1024 * 256)
    data[:] = 1
    parts = [(half, np.empty(128, np.float32), len(half)) for half in np.split(data, threads)]
    run(parts[0][0], parts[0][1], 0)
    if threads == 1:
        return lambda: run(*parts[0])
    other = ThreadPoolExecutor(1)

    def both() -> None:
        future = other.submit(run, *parts[1])
        run(*parts[0])
        future.result()

    return both


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


def our_contenders(weights: Weights, prompt: np.ndarray) -> tuple[dict[str, Callable[[], object]], dict[str, int]]:
    """Steps of one row and of eight, and prefill, in each precision on one and two threads; bytes a token reads."""
    from midi_rwkv.engine.numba_engine import NumbaEngine

    contenders: dict[str, Callable[[], object]] = {}
    size = {}
    for precision in ("float32", "int8"):
        for threads in (1, 2):
            engine = NumbaEngine(weights, 64, threads, precision)
            size[precision] = engine.packed.nbytes
            one, eight = engine.new_state(), engine.new_state(8)
            name = f"{precision}, {threads} thread{'s' * (threads > 1)}"
            contenders |= {
                f"stream as many bytes: {name}": stream(engine.packed.nbytes, threads),
                name: partial(engine.step, [7], one),
                f"{name}, 8 rows": partial(engine.step, [7] * 8, eight),
                f"{name}, prefill": partial(engine.prefill, prompt, one),
            }
    return contenders, size


def torch_contenders(weights: Weights, prompt: np.ndarray) -> dict[str, Callable[[], object]]:
    from midi_rwkv.engine.make import make_engine

    careful = make_engine(weights, backend="torch")
    one, eight = careful.new_state(), careful.new_state(8)
    contenders: dict[str, Callable[[], object]] = {
        "PyTorch, with care": lambda: careful.step([7], one),
        "PyTorch, naive": naive_step(weights),
        "PyTorch, with care, 8 rows": lambda: careful.step([7] * 8, eight),
        "PyTorch, prefill": lambda: careful.prefill(prompt, one),
    }
    try:
        contenders["PyTorch, torch.compile"] = compiled_step(weights)
    except Exception as error:  # torch raises many kinds where it finds no compiler
        print(f"torch.compile left out: {str(error).splitlines()[0]}")
    return contenders


def benchmark(title: str, weights: Weights, rounds: int, seconds: float, only_ours: bool) -> None:
    prompt = np.arange(512) % len(weights["head.weight"])
    contenders, size = our_contenders(weights, prompt)
    large = 256 << 20
    contenders |= {"stream 256 MiB": stream(large), "stream 256 MiB on 2 threads": stream(large, 2)}
    if not only_ours:
        contenders |= torch_contenders(weights, prompt)
    times = measure(contenders, rounds, seconds)

    def ratio(slow: str, fast: str) -> float:
        """How many times faster, by calls: the median over the rounds."""
        return statistics.median(b / a for a, b in zip(times[fast], times[slow], strict=True))

    sizes = ", ".join(f"{precision} {n / 1e6:.1f} MB" for precision, n in size.items())
    print(f"\n{title}: a token reads {sizes}; medians of {rounds} rounds")
    print(f"{'':42}{'ms a call':>10}{'fastest':>9}{'tokens/s':>10}{'share of floor':>15}")
    for name, own in times.items():
        middle = statistics.median(own)
        line = f"{name:42}{middle * 1e3:10.3f}{min(own) * 1e3:9.3f}"
        if name.startswith("stream"):
            count = large if "256" in name else size["int8" if "int8" in name else "float32"]
            print(f"{line}{count / middle / 1e9:10.1f} GB/s")
            continue
        tokens = 8 if "8 rows" in name else len(prompt) if "prefill" in name else 1
        floor = f"stream as many bytes: {name}"
        print(f"{line}{tokens / middle:10.0f}" + (f"{ratio(floor, name):15.2f}" if floor in times else ""))
    one = {precision: f"{precision}, 1 thread" for precision in size}
    two = {precision: f"{precision}, 2 threads" for precision in size}
    for which in ("", ", 8 rows", ", prefill"):
        what = which.strip(", ") or "1 row"
        print(f"{what}: int8 {ratio(one['float32'] + which, one['int8'] + which):.2f} x float32", end="")
        for precision in size:
            print(f"; 2 threads {ratio(one[precision] + which, two[precision] + which):.2f} x 1 in {precision}", end="")
        print()
    for threads in (one, two):
        for name in threads.values():
            eight, read = 8 * ratio(name, f"{name}, 8 rows"), len(prompt) * ratio(name, f"{name}, prefill")
            print(f"{name}: 8 rows {eight:.2f} x the single rate, prefill {read:.1f} x", end="")
            print("" if only_ours else f"; 1 row {ratio('PyTorch, with care', name):.1f} x careful PyTorch, ", end="")
            print("" if only_ours else f"{ratio('PyTorch, naive', name):.1f} x naive", end="")
            compiled = "PyTorch, torch.compile"
            print(f", {ratio(compiled, name):.1f} x torch.compile" if compiled in times else "")


SHAPES = {
    "small": ("8 x 256, vocabulary 803 (ships)", (8, 256, 803, (32, 32, 32, 64))),
    "base": ("12 x 384, vocabulary 16,000 (the paper's)", (12, 384, 16_000, (64, 64, 32, 64))),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=[*SHAPES, "both"], default="both")
    parser.add_argument("--rounds", type=int, default=9, help="how often every contender has its turn (default 9)")
    parser.add_argument("--seconds", type=float, default=0.2, help="of each turn (default 0.2)")
    parser.add_argument("--only-ours", action="store_true", help="leave PyTorch out")
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    print(f"load of the machine before: {', '.join(f'{x:.1f}' for x in os.getloadavg())}")
    for shape in SHAPES if args.shape == "both" else [args.shape]:
        title, sizes = SHAPES[shape]
        benchmark(title, random_weights(*sizes), args.rounds, args.seconds, args.only_ours)


if __name__ == "__main__":
    main()
