"""One name for every form of the recurrence: `wkv7(..., backend=...)`."""

# The recurrence takes the equation's seven tensors, in its order.
# ruff: noqa: PLR0913

from __future__ import annotations

import logging
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from midi_rwkv.errors import MissingPackageError

from .wkv7_chunked import wkv7_chunked
from .wkv7_reference import wkv7_reference

BACKENDS = ("auto", "reference", "chunked", "numba", "triton")

log = logging.getLogger(__name__)


def wkv7(
    r: Tensor,
    log_decay: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    state: Tensor | None = None,
    *,
    cu_seqlens: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """The WKV-7 recurrence over a sequence; shapes as in `wkv7_reference`.

    Args:
        backend: "reference" (token by token, the definition), "chunked" (parallel within chunks; any device), "numba"
            (a compiled scan on the CPU), "triton" (chunk-parallel on a GPU's tensor cores), or "auto": the reference
            for a single token, else numba on a CPU and triton on a GPU where they can run, else chunked. The choice of
            "auto" and the reason are logged once (logger "midi_rwkv.kernels.dispatch", level INFO).

    Raises:
        ValueError: an unknown backend, or a requested one that cannot run these tensors; and as `wkv7_reference`.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, given {backend!r}")
    if backend == "auto":
        backend, why = choose(r, v)
        _say(backend, why)
    if backend == "reference":
        return wkv7_reference(r, log_decay, k, v, a, b, state, cu_seqlens=cu_seqlens)
    if backend == "chunked":
        return wkv7_chunked(r, log_decay, k, v, a, b, state, cu_seqlens=cu_seqlens)
    if backend == "numba":
        from .wkv7_numba import wkv7_numba  # compiles at import

        threads = min(2, torch.get_num_threads())
        return wkv7_numba(r, log_decay, k, v, a, b, state, cu_seqlens=cu_seqlens, threads=threads)
    if find_spec("triton") is None:
        raise MissingPackageError("backend='triton' needs Triton, which is not installed: pip install triton")
    from .wkv7_triton import wkv7_triton

    return wkv7_triton(r, log_decay, k, v, a, b, state, cu_seqlens=cu_seqlens)


def choose(r: Tensor, v: Tensor) -> tuple[str, str]:
    """The choice of "auto" for tensors of this shape, dtype and device, and the reason."""
    key_size, value_size = r.shape[-1], v.shape[-1]
    if r.shape[1] == 1:
        return "reference", "a single token"
    if r.device.type == "cpu":
        if find_spec("numba") is None:
            return "chunked", "on a CPU, but numba is not installed"
        if key_size % 16 or value_size % 16:
            sizes = f"{key_size} x {value_size}"
            return "chunked", f"on a CPU, and numba's scan takes heads of a multiple of 16 channels, not {sizes}"
        return "numba", "on a CPU"
    if r.device.type != "cuda":
        return "chunked", f"on {r.device.type}, for which there is no kernel"
    if find_spec("triton") is None:
        return "chunked", "on a GPU, but Triton is not installed"
    if not {key_size, value_size} <= {16, 32, 64, 128} or r.dtype == torch.float64:
        return "chunked", f"on a GPU, and Triton's kernels take no heads of {key_size} x {value_size} in {r.dtype}"
    return "triton", "on a GPU"


@cache
def _say(backend: str, why: str) -> None:
    log.info("wkv7: %s, %s", backend, why)
