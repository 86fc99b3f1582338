"""What training costs on a CPU: the recurrence in its forms, a whole training step, and a song longer than memory.

    python scripts/benchmark_training.py                # one thread, about three minutes
    python scripts/benchmark_training.py --threads 2
    python scripts/benchmark_training.py --only song    # peak memory; a process of its own each

Ratios of medians, contenders in turn in one run. The song is 30,000 random tokens, forward and backward, piece by piece
(midi_rwkv/training/state_passing.py) and, where memory allows, whole.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
import torch.nn.functional as F

SHAPES = {"8 x 256": (4, 1024, 4), "12 x 384": (4, 1024, 6)}  # B, T, H of one layer's recurrence
MODELS = {"8 x 256": (8, 256, 803), "12 x 384": (12, 384, 16000)}
SONG = 30_000
MEMORY = 16 << 30
Key = TypeVar("Key")


def in_turn(work: Mapping[Key, Callable[[], Any]], rounds: int) -> dict[Key, float]:
    """Median seconds of each, every round all of them, after one round that doesn't count."""
    times: dict[Key, list[float]] = {name: [] for name in work}
    for round_number in range(rounds + 1):
        for name, do in work.items():
            began = time.perf_counter()
            do()
            if round_number:
                times[name].append(time.perf_counter() - began)
    return {name: statistics.median(t) for name, t in times.items()}


def recurrence(rounds: int) -> str:
    """Forward and backward of a layer's recurrence, float32: milliseconds and times the chunked form."""
    from kernel_inputs import make_inputs

    from midi_rwkv.kernels.dispatch import wkv7

    lines = ["| recurrence of | numba ms | chunked ms | chunked / numba |", "|---|---|---|---|"]
    for name, (batch, steps, heads) in SHAPES.items():
        inputs = [x.float().requires_grad_() for x in make_inputs(batch, steps, heads, 64)]

        def both(backend: str, inputs: list[torch.Tensor] = inputs) -> None:
            y, state = wkv7(*inputs, backend=backend)
            (y.sum() + state.sum()).backward()

        found = in_turn({b: lambda b=b, both=both: both(b) for b in ("numba", "chunked")}, rounds)
        numba, chunked = (1e3 * found[b] for b in ("numba", "chunked"))
        lines.append(f"| {name} | {numba:.0f} | {chunked:.0f} | {chunked / numba:.1f} |")
    return "\n".join(lines)


def make_step(name: str, rows: int, steps: int, compiled: bool = False) -> Callable[[str], None]:
    """A training step (forward and backward) of one of MODELS, given the form of the recurrence."""
    from midi_rwkv.model.config import ModelConfig
    from midi_rwkv.model.rwkv7 import make_model
    from midi_rwkv.training.compiled import compile_blocks

    n_layer, n_embd, vocabulary = MODELS[name]
    torch.manual_seed(0)
    model = make_model(ModelConfig(n_layer=n_layer, n_embd=n_embd, vocab_size=vocabulary))
    if compiled:
        compile_blocks(model)
    ids = torch.randint(vocabulary, (rows, steps + 1))

    def step(backend: str) -> None:
        logits, _ = model(ids[:, :-1], backend=backend)
        F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
        model.zero_grad()

    return step


def training(rounds: int) -> str:
    """A whole training step: tokens a second by form of the recurrence."""
    lines = ["| model | numba tokens/s | chunked tokens/s | numba / chunked |", "|---|---|---|---|"]
    rows, steps = 2, 1024
    for name in MODELS:
        step = make_step(name, rows, steps)
        found = in_turn({b: lambda b=b, step=step: step(b) for b in ("numba", "chunked")}, rounds)
        numba, chunked = (rows * steps / found[b] for b in ("numba", "chunked"))
        lines.append(f"| {name} | {numba:,.0f} | {chunked:,.0f} | {numba / chunked:.2f} |")
    return "\n".join(lines)


def compiled(rounds: int) -> str:
    """The same step as `train` takes it: in bf16 where the processor has instructions for it, and with --compile."""
    from midi_rwkv.training.muon import has_fast_bf16

    name, steps = "8 x 256", 2048
    bf16 = [False, True] if has_fast_bf16(torch.device("cpu")) else [False]
    work = {}
    for is_compiled in (False, True):
        step = make_step(name, 1, steps, is_compiled)
        for quick in bf16:

            def take(step: Callable[[str], None] = step, quick: bool = quick) -> None:
                with torch.autocast("cpu", torch.bfloat16, enabled=quick):
                    step("numba")

            work["bf16" if quick else "float32", is_compiled] = take
    found = in_turn(work, rounds)
    lines = ["| 8 x 256, a row of 2,048 | tokens/s | with --compile | times |", "|---|---|---|---|"]
    for dtype in dict.fromkeys(d for d, _ in work):
        plain, quicker = (steps / found[dtype, c] for c in (False, True))
        lines.append(f"| {dtype} | {plain:,.0f} | {quicker:,.0f} | {quicker / plain:.2f} |")
    return "\n".join(lines)


def song_alone(piece: int, exact: bool) -> None:
    """Print the seconds and peak memory (MiB) of forward and backward on SONG tokens in this process."""
    from midi_rwkv.model.config import ModelConfig
    from midi_rwkv.model.rwkv7 import make_model
    from midi_rwkv.training.state_passing import backward_in_pieces

    n_layer, n_embd, vocabulary = MODELS["8 x 256"]
    model = make_model(ModelConfig(n_layer=n_layer, n_embd=n_embd, vocab_size=vocabulary))
    ids = torch.randint(vocabulary, (1, SONG + 1))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))  # rather an error here than a machine that swaps
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    began = time.perf_counter()
    backward_in_pieces(
        model,
        ids[:, :-1],
        lambda logits, place: F.cross_entropy(logits.flatten(0, 1), ids[:, 1:][:, place].flatten(), reduction="sum"),
        piece,
        exact=exact,
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{time.perf_counter() - began:.0f} {before:.0f} {peak:.0f}")


def song() -> str:
    """Each way in a process of its own."""
    lines = [f"| {SONG:,} tokens, 8 x 256 | seconds | memory before, MiB | peak, MiB |", "|---|---|---|---|"]
    ways = {
        "pieces of 1,024, exact": (1024, "1"),
        "pieces of 1,024, truncated": (1024, "0"),
        "pieces of 4,096, exact": (4096, "1"),
        "whole": (SONG, "0"),
    }
    for name, (piece, exact) in ways.items():
        command = [sys.executable, __file__, "--alone", f"{piece},{exact}", "--threads", str(torch.get_num_threads())]
        said = subprocess.run(command, capture_output=True, text=True)
        figures = said.stdout.split() if said.returncode == 0 else ["", "", "over 16,384"]
        lines.append(f"| {name} | {' | '.join(figures)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("recurrence", "training", "compiled", "song"))
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.alone:
        piece, exact = options.alone.split(",")
        song_alone(int(piece), exact == "1")
        return
    print(f"{options.threads} thread(s), float32 unless said otherwise\n")
    for name, table in (("recurrence", recurrence), ("training", training), ("compiled", compiled)):
        if options.only in (None, name):
            print(table(options.rounds) + "\n", flush=True)
    if options.only in (None, "song"):
        print(song())


if __name__ == "__main__":
    main()
