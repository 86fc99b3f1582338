"""One name for every form of the recurrence: `wkv7(..., backend=...)`."""

from __future__ import annotations

import torch
from torch import Tensor

from .wkv7_chunked import wkv7_chunked
from .wkv7_reference import wkv7_reference

BACKENDS = ("auto", "reference", "chunked", "numba")


def wkv7(
    r: Tensor,
    log_decay: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    state: Tensor | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """The WKV-7 recurrence over a sequence; shapes as in `wkv7_reference`.

    backend: "reference" (token by token, the definition), "chunked" (parallel within chunks; any device), "numba" (a
    compiled scan on the CPU), or "auto": the reference for a single token, else numba on a CPU and chunked elsewhere.
    (On one core, forward and backward at (B, T, H, K) = (4, 1024, 4, 64), numba is several times faster than chunked:
    docs/decisions.md.)
    """
    if backend == "auto":
        on_cpu = r.device.type == "cpu"
        backend = "reference" if r.shape[1] == 1 else "numba" if on_cpu else "chunked"
    if backend == "reference":
        return wkv7_reference(r, log_decay, k, v, a, b, state)
    if backend == "chunked":
        return wkv7_chunked(r, log_decay, k, v, a, b, state)
    if backend == "numba":
        from .wkv7_numba import wkv7_numba  # compiles at import

        return wkv7_numba(r, log_decay, k, v, a, b, state, threads=min(2, torch.get_num_threads()))
    raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
