"""WKV-7 in chunk-parallel PyTorch, on any device, differentiable in every input and the initial state.

Within a chunk, write S_t = diag(W_t) U_t, where W_t is the cumulative decay since the chunk's start. With
    a~_t = a_t W_{t-1},  r~_t = r_t W_t,  b~_t = b_t / W_t,  k~_t = k_t / W_t
the removals u_t = a~_t^T U_{t-1} solve a unit lower triangular system,
    (I - tril(a~ b~^T, -1)) u = a~ S_0 + tril(a~ k~^T, -1) v,
by substitution; then y = r~ S_0 + tril(r~ b~^T) u + tril(r~ k~^T) v, and the chunk's effect on the state is the
affine map S_L = M S_0 + N, so only one small matrix product per chunk is sequential.

RWKV-7's decay never falls below exp(-exp(-0.5)) = 0.545 per step, so over 32 steps 1 / W stays under 3e8, which is
safe in float32.
"""

# The recurrence takes the equation's seven tensors, in its order.
# ruff: noqa: PLR0913

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from .sequences import by_sequence
from .wkv7_reference import check_shapes


def wkv7_chunked(
    r: Tensor,
    log_decay: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    state: Tensor | None = None,
    *,
    cu_seqlens: Tensor | None = None,
    chunk: int = 32,
) -> tuple[Tensor, Tensor]:
    """r, log_decay, k, v, a, b: (B, T, H, K); state: (B, H, K, V) or None for zeros -> y (B, T, H, V), final state.

    Computes in float32 (float64 for float64 inputs), with the results of `wkv7_reference`. Packed sequences are
    computed one by one.
    """
    check_shapes(r, log_decay, k, v, a, b, state, cu_seqlens=cu_seqlens)
    if cu_seqlens is not None:
        form = functools.partial(wkv7_chunked, chunk=chunk)
        return by_sequence(form, (r, log_decay, k, v, a, b), state, cu_seqlens)
    given = r.dtype
    dtype = torch.float64 if given == torch.float64 else torch.float32
    B, T, H, K = r.shape
    V = v.shape[-1]
    if T == 0:
        return torch.empty_like(v), r.new_zeros(B, H, K, V, dtype=dtype) if state is None else state.to(dtype)
    L = min(chunk, T)
    pad = -T % L
    n = (T + pad) // L

    def split(x: Tensor) -> Tensor:
        x = F.pad(x.to(dtype), (0, 0, 0, 0, 0, pad)) if pad else x.to(dtype)
        return x.view(B, n, L, H, x.shape[-1]).permute(0, 3, 1, 2, 4)  # (B, H, n, L, K)

    r, log_decay, k, v, a, b = (split(x) for x in (r, log_decay, k, v, a, b))
    total = log_decay.cumsum(3)
    decay = total.exp()
    a_in, r_in = a * (total - log_decay).exp(), r * decay
    inverse = (-total).exp()
    bk_out = torch.cat([b * inverse, k * inverse], 3)  # (B, H, n, 2L, K)
    scores_a = a_in @ bk_out.mT  # (B, H, n, L, 2L)
    scores_r = r_in @ bk_out.mT
    a_b, a_k = scores_a[..., :L].tril(-1), scores_a[..., L:].tril(-1)
    eye = torch.eye(L, dtype=dtype, device=r.device)
    solved = torch.linalg.solve_triangular(eye - a_b, torch.cat([a_in, a_k @ v], -1), upper=False, unitriangular=True)
    p, q = solved[..., :K], solved[..., K:]  # u = p S_0 + q
    last = total[..., -1:, :]
    b_end, k_end = b * (last - total).exp(), k * (last - total).exp()
    m = b_end.mT @ p + torch.diag_embed(last.squeeze(-2).exp())  # (B, H, n, K, K)
    add = b_end.mT @ q + k_end.mT @ v  # (B, H, n, K, V)
    s = torch.zeros(B, H, K, V, dtype=dtype, device=r.device) if state is None else state.to(dtype)
    starts = []
    for i in range(n):
        starts.append(s)
        s = torch.baddbmm(add[:, :, i].reshape(B * H, K, V), m[:, :, i].reshape(B * H, K, K), s.reshape(B * H, K, V))
        s = s.view(B, H, K, V)
    s0 = torch.stack(starts, 2)
    u = p @ s0 + q
    y = r_in @ s0 + scores_r[..., :L].tril() @ u + scores_r[..., L:].tril() @ v
    return y.permute(0, 2, 3, 1, 4).reshape(B, T + pad, H, V)[:, :T].to(given), s
