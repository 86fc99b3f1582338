"""Measures the model's speed on a CPU: decoding, a model of steps, the recurrence, and a training step.

    python scripts/benchmark_model.py                        # all of it, about ten minutes
    python scripts/benchmark_model.py --only decoding --rounds 9

The figures are ratios of medians. The contenders take turns, one burst each, over several rounds, so that other load on
the machine affects all of them. Weights are random. The floor of a decoding step is the time to read its weights' bytes
at the fastest forward reading in the same run. A small model may fit into the last-level cache, so the floor is also
shown for a buffer that does not. PyTorch decodes on one thread.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from script_helpers.tables import markdown

from midi_rwkv.model.config import ModelConfig
from midi_rwkv.model.rwkv7 import RWKV7

PARTS = ("decoding", "steps", "recurrence", "training")
SHAPES = {"8 x 256": (4, 1024, 4), "12 x 384": (4, 1024, 6)}  # B, T, H of one layer's recurrence
Key = TypeVar("Key")
MODELS = {"8 x 256": (8, 256, 803), "12 x 384": (12, 384, 16000)}  # a small one, the paper's
STEP_SHAPES = {"8 x 256": (8, 256), "4 x 384": (4, 384)}  # of models of steps
LARGE = 256 << 20  # bytes that no cache holds
PROMPT = 512
Weights = Mapping[str, np.ndarray]


def random_model(name: str) -> RWKV7:
    """A model with random weights, on which the speed does not depend."""
    n_layer, n_embd, vocabulary = MODELS[name]
    torch.manual_seed(0)
    model = RWKV7(ModelConfig(n_layer=n_layer, n_embd=n_embd, vocab_size=vocabulary))
    return model


def stream(size: int) -> Callable[[], object]:
    """Reads `size` bytes once, forwards, on one thread."""
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
    data, out = aligned(size // 1024 * 256), np.empty(128, np.float32)
    data[:] = 1
    run(data, out, 0)
    return lambda: run(data, out, len(data))


def burst(work: Callable[[], object], seconds: float) -> float:
    """Seconds per call, over about `seconds` of calls after a first one that is not measured."""
    work()
    calls, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds or calls < 3:
        work()
        calls += 1
    return spent / calls


def measure(contenders: Mapping[Key, Callable[[], object]], rounds: int) -> dict[Key, list[float]]:
    """Seconds per call in each round, by contender."""
    times: dict[Key, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, work in contenders.items():
            times[name].append(burst(work, 0.2))
    return times


def our_contenders(weights: Weights, prompt: Sequence[int]) -> tuple[dict[str, Callable[[], object]], dict[str, int]]:
    """Our contenders, and the bytes that a token reads.

    They are steps of one row and of eight, and prefill, in each precision; eight rows and prefill also on two threads.
    """
    from midi_rwkv.engine.numba_engine import NumbaEngine

    contenders: dict[str, Callable[[], object]] = {}
    size = {}
    for precision in ("float32", "int8"):
        for threads in (1, 2):
            engine = NumbaEngine(weights, 64, threads, precision)
            one, eight = engine.new_state(), engine.new_state(8)
            name = precision if threads == 1 else f"{precision}, 2 threads"
            if threads == 1:
                size[precision] = engine.packed.nbytes
                contenders[f"stream as many bytes: {name}"] = stream(engine.packed.nbytes)
                contenders[name] = partial(engine.step, [7], one)
            contenders[f"{name}, 8 rows"] = partial(engine.step, [7] * 8, eight)
            contenders[f"{name}, prefill"] = partial(engine.prefill, prompt, one)
    return contenders, size


def torch_contenders(weights: Weights, prompt: Sequence[int]) -> dict[str, Callable[[], object]]:
    from script_helpers.naive_rwkv7 import naive_step

    from midi_rwkv.engine.make import make_engine

    engine = make_engine(weights, backend="torch")
    one, eight = engine.new_state(), engine.new_state(8)
    return {
        "PyTorch": partial(engine.step, [7], one),
        "PyTorch, naive": naive_step(weights),
        "PyTorch, 8 rows": partial(engine.step, [7] * 8, eight),
        "PyTorch, prefill": partial(engine.prefill, prompt, one),
    }


def decoding(name: str, rounds: int) -> str:
    """Our decoding and PyTorch's: the share of the bandwidth floor, and how many times faster ours is."""
    weights = {k: v.detach().numpy() for k, v in random_model(name).state_dict().items()}
    prompt = [i % MODELS[name][2] for i in range(PROMPT)]
    ours, size = our_contenders(weights, prompt)
    times = measure({**ours, "stream 256 MiB": stream(LARGE), **torch_contenders(weights, prompt)}, rounds)

    def ratio(slow: str, fast: str) -> float:
        """How many times faster a call is: the median over the rounds."""
        return statistics.median(b / a for a, b in zip(times[fast], times[slow], strict=True))

    sizes = ", ".join(f"{precision} {n / 1e6:.1f} MB" for precision, n in size.items())
    rows = []
    for contender, own in times.items():
        middle = statistics.median(own)
        if contender.startswith("stream"):
            count = LARGE if "256" in contender else size[contender.split(": ")[1]]
            rows.append([contender, middle * 1e3, f"{count / middle / 1e9:.1f} GB/s", ""])
            continue
        tokens = 8 if "8 rows" in contender else PROMPT if "prefill" in contender else 1
        floor = f"stream as many bytes: {contender}"
        share = f"{ratio(floor, contender):.2f}" if floor in times else ""
        rows.append([contender, middle * 1e3, f"{tokens / middle:.0f}", share])
    lines = [f"A token reads {sizes}; medians of {rounds} rounds.\n"]
    lines.append(markdown([name, "ms a call", "tokens/s", "share of the floor"], rows))
    for precision in size:
        told = [f"{ratio('PyTorch', precision):.1f} x PyTorch", f"{ratio('PyTorch, naive', precision):.1f} x naive"]
        told.append(f"8 rows {8 * ratio(precision, f'{precision}, 8 rows'):.2f} x the rate of one")
        for what in ("8 rows", "prefill"):
            two = ratio(f"{precision}, {what}", f"{precision}, 2 threads, {what}")
            told.append(f"{what} on two threads {two:.2f} x one")
        lines.append(f"\n{precision}: {', '.join(told)}.")
    for what in ("", ", 8 rows", ", prefill"):
        lines.append(f"int8{what}: {ratio('float32' + what, 'int8' + what):.2f} x float32.")
    return "\n".join(lines)


def step_contenders(n_layer: int, n_embd: int) -> dict[tuple[str, str, int], Callable[[], object]]:
    """By what is done, precision and threads: a model of steps, beside one of 803 tokens with the same trunk."""
    from midi_rwkv.engine.heads import STAGES, Heads
    from midi_rwkv.engine.make import make_heads
    from midi_rwkv.engine.numba_engine import NumbaEngine
    from midi_rwkv.model.steps import StepModel
    from midi_rwkv.tokens.attributes import Column, make_vocabulary

    model = StepModel(ModelConfig(n_layer=n_layer, n_embd=n_embd), make_vocabulary().sizes)
    whole = {k: v.numpy() for k, v in RWKV7(model.config).requires_grad_(requires_grad=False).state_dict().items()}
    trunk = {k: w for k, w in whole.items() if k not in ("emb.weight", "head.weight")}
    ends = {k: v.numpy() for k, v in model.requires_grad_(requires_grad=False).state_dict().items()}
    vectors = np.random.default_rng(0).normal(size=(PROMPT, n_embd)).astype(np.float32)
    tokens = list(range(PROMPT))

    def note(heads: Heads, z: np.ndarray) -> None:
        for stage in range(STAGES):
            heads.logits(stage, z, np.ones((len(z), 3 if stage == 0 else len(Column)), np.int16))

    contenders: dict[tuple[str, str, int], Callable[[], object]] = {}
    for precision in ("float32", "int8"):
        heads = make_heads(ends, model.sizes, precision=precision)
        for threads in (1, 2):
            of_tokens, of_steps = (NumbaEngine(w, 64, threads, precision) for w in (whole, trunk))
            one, eight = of_steps.new_state(), of_steps.new_state(8)
            work: dict[str, Callable[[], object]] = {
                "a token": partial(of_tokens.step, [7], one),
                "8 tokens, one each row": partial(of_tokens.step, [7] * 8, eight),
                "prefill of tokens": partial(of_tokens.prefill, tokens, one),
                "a step": partial(of_steps.step_vectors, vectors[:1], one),
                "8 steps, one each row": partial(of_steps.step_vectors, vectors[:8], eight),
                "prefill of steps": partial(of_steps.prefill_vectors, vectors, one),
                "heads, a note": partial(note, heads, vectors[:1]),
                "heads, 8 notes": partial(note, heads, vectors[:8]),
            }
            known = work if threads == 1 else [name for name in work if "8 " in name or "prefill" in name]
            contenders.update({(n, precision, threads): work[n] for n in known if threads == 1 or "heads" not in n})
    return contenders


def steps(rounds: int) -> str:
    """A model of steps: milliseconds a call, and for prefill tokens or steps per second."""
    tables = []
    for name, shape in STEP_SHAPES.items():
        times = measure(step_contenders(*shape), rounds)
        columns = [(precision, threads) for threads in (1, 2) for precision in ("float32", "int8")]
        rows = []
        for what in dict.fromkeys(key[0] for key in times):
            found = [statistics.median(times[what, *c]) if (what, *c) in times else None for c in columns]
            shown = [
                "" if t is None else f"{PROMPT / t:,.0f}/s" if "prefill" in what else f"{1e3 * t:.2f}" for t in found
            ]
            rows.append([what, *shown])
        head = [f"{precision}{', 2 threads' * (threads == 2)}" for precision, threads in columns]
        tables.append(markdown([f"{name}: ms", *head], rows))
    return "\n\n".join(tables)


def in_turn(work: Mapping[Key, Callable[[], Any]], rounds: int) -> dict[Key, float]:
    """The median seconds of each contender. Each round runs all of them; the first round does not count."""
    times: dict[Key, list[float]] = {name: [] for name in work}
    for round_number in range(rounds + 1):
        for name, do in work.items():
            began = time.perf_counter()
            do()
            if round_number:
                times[name].append(time.perf_counter() - began)
    return {name: statistics.median(t) for name, t in times.items()}


def recurrence(rounds: int) -> str:
    """Forward and backward of a layer's recurrence in float32: milliseconds, and the ratio to the chunked form."""
    from script_helpers.kernel_inputs import make_inputs

    from midi_rwkv.kernels.dispatch import wkv7

    rows = []
    for name, (batch, steps, heads) in SHAPES.items():
        inputs = [x.float().requires_grad_() for x in make_inputs((batch, steps, heads, 64))]

        def both(backend: str, inputs: list[torch.Tensor] = inputs) -> None:
            y, state = wkv7(*inputs, backend=backend)
            (y.sum() + state.sum()).backward()

        found = in_turn({b: partial(both, b) for b in ("numba", "chunked")}, rounds)
        numba, chunked = (1e3 * found[b] for b in ("numba", "chunked"))
        rows.append([name, f"{numba:.0f}", f"{chunked:.0f}", f"{chunked / numba:.1f}"])
    return markdown(["recurrence of", "numba ms", "chunked ms", "chunked / numba"], rows)


def make_step(shape: tuple[int, int], steps: int, *, is_compiled: bool) -> Callable[[], None]:
    """Forward and backward of a row of random steps, all of which are predicted. shape: layers and channels."""
    from midi_rwkv.model.steps import StepModel
    from midi_rwkv.tokens.attributes import make_vocabulary
    from midi_rwkv.tokens.pointers import END, places_known
    from midi_rwkv.training.compiled import compile_blocks, compile_heads

    vocabulary = make_vocabulary()
    model = StepModel(ModelConfig(n_layer=shape[0], n_embd=shape[1]), vocabulary.sizes)
    if is_compiled:
        assert isinstance(model.trunk, RWKV7)
        compile_blocks(model.trunk)
        compile_heads(model.heads)
    row = torch.stack([torch.randint(n, (steps + 1,)) for n in vocabulary.sizes], -1)
    first, *others = model.heads.classes
    targets = torch.stack(
        [torch.randint(END + 1, first, (steps,)), *(torch.randint(1, n + 1, (steps,)) for n in others)], -1
    )
    places = torch.from_numpy(places_known(row[:-1].numpy(), vocabulary.nothing))

    def step() -> None:
        h = model.hidden(row[None, :-1])[0]
        torch.autograd.backward(model.heads.nats(h, targets, row[1:], places).sum())
        model.zero_grad()

    return step


def training(rounds: int) -> str:
    """The step as `train` does it: in bfloat16 if the processor has instructions for it, and with --compile."""
    from midi_rwkv.training.muon import has_fast_bf16

    steps = 2048
    bf16 = [False, True] if has_fast_bf16(torch.device("cpu")) else [False]

    def take(step: Callable[[], None], quick: bool) -> None:  # noqa: FBT001 -- an argument of `partial`
        with torch.autocast("cpu", torch.bfloat16, enabled=quick):
            step()

    rows = []
    for name, shape in STEP_SHAPES.items():
        made = {is_compiled: make_step(shape, steps, is_compiled=is_compiled) for is_compiled in (False, True)}
        found = in_turn({(q, c): partial(take, step, q) for c, step in made.items() for q in bf16}, rounds)
        for quick in bf16:
            plain, quicker = (steps / found[quick, c] for c in (False, True))
            kind = "bf16" if quick else "float32"
            rows.append([f"{name}, {kind}", f"{plain:,.0f}", f"{quicker:,.0f}", f"{quicker / plain:.2f}"])
    return markdown(["training, a row of 2,048", "steps/s", "with --compile", "times"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="threads for training (decoding compares one and two)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of every contender (default: 5)")
    parser.add_argument("--only", choices=PARTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"load of the machine before: {', '.join(f'{x:.1f}' for x in os.getloadavg())}")
    print(f"{options.threads} thread(s), float32 unless said otherwise\n")
    work: dict[str, Callable[[], str]] = {
        "decoding": lambda: "\n\n".join(decoding(name, options.rounds) for name in MODELS),
        "steps": lambda: steps(options.rounds),
        "recurrence": lambda: recurrence(options.rounds),
        "training": lambda: training(options.rounds),
    }
    for part in PARTS:
        if options.only in (None, part):
            print(work[part]() + "\n", flush=True)


if __name__ == "__main__":
    main()
