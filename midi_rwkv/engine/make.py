"""Chooses the engine for some weights, and the heads: `make_engine`, `make_heads`. Neither torch nor numba is imported
before they are called."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from midi_rwkv.errors import RequestError
from midi_rwkv.model.config import check_threads

from .engine import Engine, Floats
from .heads import Heads, NoteHeads

BACKENDS = ("auto", "numba", "torch", "triton")
PRECISIONS = ("auto", "float32", "int8")
MOST_THREADS = 2  # of the numba engine

log = logging.getLogger(__name__)


def make_engine(
    weights: Mapping[str, Floats],
    head_size: int = 64,
    *,
    backend: str = "auto",
    threads: int = 1,
    on_choice: Callable[[str], None] = log.info,
    precision: str = "float32",
) -> Engine[Any]:
    """An engine over `weights`, which are float32 arrays by RWKV-LM's names: a whole RWKV-7's, or its trunk's alone
    (no emb.weight, no head.weight), for vectors.

    Args:
        backend: "numba", "torch", "triton" (on a GPU; never chosen by "auto"), or "auto", which is numba unless it is
            not installed or the model's shape does not suit it.
        threads: 1-2 for numba; up to the number of cores for torch.
        precision: of the matrices: "float32", "int8" (with one scale per row, a quarter of the memory, numba only), or
            "auto", which is int8 where available.
        on_choice: receives the chosen engine and the reason.

    Raises:
        RequestError: an unknown backend or precision, more threads than can be used, a Transformer's weights, or
            a choice that cannot run them.
    """
    if backend not in BACKENDS:
        raise RequestError(f"backend must be one of {', '.join(BACKENDS)}, given {backend!r}")
    if precision not in PRECISIONS:
        raise RequestError(f"precision must be one of {', '.join(PRECISIONS)}, given {precision!r}")
    if precision == "int8" and backend in ("torch", "triton"):
        raise RequestError(f"int8 is for the numba engine, given {backend}; use precision='float32'")
    if "blocks.0.att.query.weight" in weights:
        raise RequestError("these are a Transformer's weights, which only `evaluate` runs; name an RWKV-7's checkpoint")
    if backend == "triton":
        return _triton(weights, head_size, threads, on_choice)
    reason = "as asked" if backend == "torch" else _no_numba(head_size)
    if not reason:
        return _numba(weights, head_size, threads, precision, on_choice)
    if backend == "numba":
        raise RequestError(f"the numba engine cannot run here: {reason}; use backend='torch'")
    if precision == "int8":
        raise RequestError(f"int8 needs the numba engine, but {reason}; use precision='float32'")
    from .torch_engine import TorchEngine

    check_threads(threads)
    on_choice(f"decoding with torch: {reason}")
    return TorchEngine(weights, head_size, threads)


def make_heads(
    weights: Mapping[str, Floats], sizes: Sequence[int], *, backend: str = "auto", precision: str = "float32"
) -> Heads:
    """The heads of a step model's `weights` (by their names in its checkpoint), for the engine that `make_engine` makes
    of the same backend and precision: compiled with numba, in NumPy beside another engine.
    """
    size = len(weights["heads.out.0.weight"][0])
    if backend not in ("auto", "numba") or _no_numba(size):
        return NoteHeads(weights, sizes)
    from .numba_heads import NumbaHeads

    return NumbaHeads(weights, sizes, "int8" if precision == "auto" else precision)


def _numba(
    weights: Mapping[str, Floats], head_size: int, threads: int, precision: str, on_choice: Callable[[str], None]
) -> Engine[Any]:
    from .numba_engine import NumbaEngine

    check_threads(threads, most=MOST_THREADS)
    precision = "int8" if precision == "auto" else precision
    on_choice("decoding with numba" + (" in int8" if precision == "int8" else ""))
    return NumbaEngine(weights, head_size, threads, precision)


def _triton(
    weights: Mapping[str, Floats], head_size: int, threads: int, on_choice: Callable[[str], None]
) -> Engine[Any]:
    if reason := _no_triton():
        raise RequestError(f"the triton engine cannot run here: {reason}; use backend='auto'")
    from .triton_engine import TritonEngine

    on_choice("decoding with triton, as asked")
    check_threads(threads)
    return TritonEngine(weights, head_size, threads)


def _no_numba(head_size: int) -> str:
    """The reason why the numba engine cannot run, or ""."""
    if find_spec("numba") is None:
        return "numba is not installed"
    if head_size % 16:
        return f"its heads must have a multiple of 16 channels, these have {head_size}"
    return ""


def _no_triton() -> str:
    """The reason why the triton engine cannot run, or ""."""
    if find_spec("triton") is None:
        return "triton is not installed"
    import torch

    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    return "" if torch.cuda.is_available() or interpreted else "there is no GPU that torch can use"
