"""Measures the kernels on the GPU of this machine: the recurrence, decoding and training, each as a Markdown table.

Every figure is a ratio or comes with what it is measured against in the same run: the time to move the bytes that must
move at the measured copy bandwidth, or the measured rate of a bfloat16 matrix product. check_kernels.py calls these.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from functools import partial
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

SHAPES = ((8, 4096, 12), (32, 2048, 6), (1, 32768, 12))  # B, T, H; heads of 64
MODELS = (("8 x 256", 8, 256, 803), ("12 x 384", 12, 384, 16000))
DEVICE = "cuda"
FAILED = "**failed**"


def row(cells: str, work: Callable[[], str]) -> str:
    """A row of a markdown table: the cells, then what `work` returns, or why it could not."""
    try:
        return f"| {cells} | {work()} |"
    except Exception as error:
        return f"| {cells} | {FAILED}: {type(error).__name__}: {' '.join(str(error).split())[:200]} |"


def milliseconds(work: Callable[[], Any], rounds: int = 20) -> float:
    """Median of the device's own clock, after a warm-up that also tunes and compiles."""
    for _ in range(3):
        work()
    torch.cuda.synchronize()
    times = []
    for _ in range(rounds):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)


def copy_bandwidth() -> float:
    """Bytes a millisecond, read and written, of a large copy."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    return 2 * source.numel() / milliseconds(lambda: target.copy_(source))


def matrix_rate() -> float:
    """Floating-point operations a millisecond of a large bfloat16 product."""
    n = 8192
    x = torch.randn(n, n, device=DEVICE, dtype=torch.bfloat16)
    return 2 * n**3 / milliseconds(lambda: x @ x)


def fla_forms() -> dict[str, Callable[..., Any]]:
    """flash-linear-attention's chunked RWKV-7 by its version and options, where it is installed.

    `safe_gate` (the decay lies in about [-5, 0), as RWKV-7's does) is its fastest path, in the versions that have it.
    """
    try:
        import fla
        from fla.ops.rwkv7 import chunk_rwkv7
    except ImportError:
        return {}
    name = f"flash-linear-attention {fla.__version__}"
    ways: list[tuple[str, dict[str, Any]]] = [("", {})]
    if "safe_gate" in signature(chunk_rwkv7).parameters:
        ways = [(f", safe_gate, chunks of {n}", {"safe_gate": True, "chunk_size": n}) for n in (16, 64)]

    def form_of(options: dict[str, Any]) -> Callable[..., Any]:
        def form(r: Tensor, log_decay: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
            return chunk_rwkv7(r, log_decay, k, v, a, b, scale=1.0, output_final_state=True, **options)

        return form

    return {name + told: form_of(options) for told, options in ways}


def recurrence_rows() -> Iterator[str]:
    """Forward, and forward and backward, of every form at SHAPES: milliseconds, and times the floor."""
    from midi_rwkv.kernels.wkv7_triton import wkv7_triton
    from midi_rwkv.kernels.wkv7_triton_sequential import wkv7_triton_sequential

    forms: dict[str, Callable[..., Any]] = {
        f"triton, chunks of {c}": lambda *x, c=c: wkv7_triton(*x, chunk=c) for c in (32, 64, 16)
    }
    mixed = "triton, chunks of 32, all but r in float32"  # what autocast alone would feed
    forms |= {mixed: forms["triton, chunks of 32"], "triton, sequential": wkv7_triton_sequential, **fla_forms()}
    bandwidth = copy_bandwidth()
    yield f"Copy bandwidth {bandwidth / 1e6:.0f} GB/s. bfloat16, as training feeds it; heads of 64.\n"
    yield "| B, T, H | form | forward ms | x floor | both ms | x floor |"
    yield "|---|---|---|---|---|---|"
    for batch, steps, heads in SHAPES:
        inputs = training_inputs(batch, steps, heads)
        wide = [inputs[0], *(x.detach().float().requires_grad_() for x in inputs[1:])]
        for name, form in forms.items():
            fed = wide if name == mixed else inputs
            yield row(f"{batch}, {steps}, {heads} | {name}", partial(_timed, form, fed, bandwidth))


def _timed(form: Callable[..., Any], inputs: list[Tensor], bandwidth: float) -> str:
    size = inputs[0].numel() * 2
    floors = 7 * size / bandwidth, (7 + 13) * size / bandwidth  # six read, y written; again, dy, six gradients
    grad = torch.randn_like(inputs[0])
    plain = [x.detach() for x in inputs]

    def both() -> None:
        form(*inputs)[0].backward(grad)
        for x in inputs:
            x.grad = None

    with torch.no_grad():
        forward = milliseconds(lambda: form(*plain))
    whole = milliseconds(both)
    return f"{forward:.3f} | {forward / floors[0]:.2f} | {whole:.3f} | {whole / floors[1]:.2f}"


def training_inputs(batch: int, steps: int, heads: int, size: int = 64) -> list[Tensor]:
    """r, log_decay, k, v, a, b in bfloat16 on the GPU, as RWKV-7 makes them, wanting gradients."""

    def normal() -> Tensor:
        return torch.randn(batch, steps, heads, size, device=DEVICE)

    removal = F.normalize(normal(), dim=-1)
    log_decay = -torch.exp(-F.softplus(normal()) - 0.5)
    inputs = (normal(), log_decay, normal(), normal(), -removal, removal * torch.sigmoid(normal()))
    return [x.bfloat16().requires_grad_() for x in inputs]


def random_model(n_layer: int, n_embd: int, vocabulary: int) -> Any:
    """A model of that shape with fresh weights, and they as the engines take them."""
    from midi_rwkv.model.config import ModelConfig
    from midi_rwkv.model.rwkv7 import RWKV7

    torch.manual_seed(0)
    return RWKV7(ModelConfig(n_layer=n_layer, n_embd=n_embd, vocab_size=vocabulary))


def decode_rows() -> Iterator[str]:
    """Tokens a second of the GPU engine, with and without a CUDA graph, against reading the weights once a step."""
    bandwidth = copy_bandwidth()
    yield "| model | candidates | tokens/s, graph | without | share of the bandwidth floor |"
    yield "|---|---|---|---|---|"
    for name, n_layer, n_embd, vocabulary in MODELS:
        weights = {k: v.detach().numpy() for k, v in random_model(n_layer, n_embd, vocabulary).state_dict().items()}
        for batch in (1, 8, 64):
            yield row(f"{name} | {batch}", partial(_decoded, weights, batch, bandwidth))


def _decoded(weights: dict[str, Any], batch: int, bandwidth: float) -> str:
    from midi_rwkv.engine.triton_engine import TritonEngine

    rates = []
    for graphs in (True, False):
        engine = TritonEngine(weights, 64, graphs=graphs)
        state, tokens = engine.new_state(batch), [1] * batch
        rates.append(1e3 * batch / milliseconds(partial(engine.step, tokens, state)))
    # The weights are read once; the states are read and written.
    moved = 2 * sum(x.size for k, x in weights.items() if x.ndim >= 2 and k != "emb.weight")
    moved += 2 * 4 * state.wkv.numel()
    share = rates[0] * moved / batch / (1e3 * bandwidth)
    return f"{rates[0]:,.0f} | {rates[1]:,.0f} | {share:.2f}"


def training_rows(rows: int = 16, steps: int = 2048) -> Iterator[str]:
    """Tokens a second of a training step (bfloat16 autocast, forward and backward), by form of the recurrence."""
    rate = matrix_rate()
    yield f"A bfloat16 product runs at {rate / 1e9:.0f} TFLOP/s here. {rows} rows of {steps} tokens.\n"
    yield "| model | form | tokens/s | share of the product's rate |"
    yield "|---|---|---|---|"
    for name, n_layer, n_embd, vocabulary in MODELS:
        model = random_model(n_layer, n_embd, vocabulary).to(DEVICE)
        ids = torch.randint(vocabulary, (rows, steps + 1), device=DEVICE)
        for backend in ("triton", "chunked"):

            def step(model: Any = model, ids: Tensor = ids, backend: str = backend) -> None:
                with torch.autocast(DEVICE, torch.bfloat16):
                    logits, _ = model(ids[:, :-1], backend=backend)
                    loss = F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())
                loss.backward()
                model.zero_grad()

            def rates(model: Any = model, step: Callable[[], None] = step) -> str:
                tokens = 1e3 * rows * steps / milliseconds(step, 10)
                work = 6 * sum(p.numel() for p in model.parameters()) * tokens / 1e3
                return f"{tokens:,.0f} | {work / rate:.3f}"

            yield row(f"{name} | {backend}", rates)
