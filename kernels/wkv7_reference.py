"""The WKV recurrence of RWKV-7 (x070), token by token in plain PyTorch: the definition of every other form.

    S_t = diag(exp(log_decay_t)) S_{t-1}  +  b_t (a_t^T S_{t-1})  +  k_t v_t^T        (K, V)
    y_t = S_t^T r_t                                                                    (V,)

It runs on any device with any floating dtype (float64 is the definition proper), and autograd differentiates it in
every input, including the initial state. It keeps every intermediate state for the backward pass, so use it on short
sequences.
"""

# The recurrence takes the equation's seven tensors, in its order.
# ruff: noqa: PLR0913

import torch
from torch import Tensor

from .sequences import by_sequence


def wkv7_reference(
    r: Tensor,
    log_decay: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    state: Tensor | None = None,
    *,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Runs the recurrence over a batch of sequences.

    Args:
        r: receptance, (B, T, H, K).
        log_decay: natural logarithm of the per-channel decay, (B, T, H, K), not above 0; RWKV-7's is `-exp(w)`.
        k: key, (B, T, H, K).
        v: value, (B, T, H, V).
        a: what is looked up for removal, (B, T, H, K); RWKV-7 gives `-kk`, the negated normalised removal key.
        b: where the looked-up value is added back, (B, T, H, K); RWKV-7 gives `kk * in_context_learning_rate`.
        state: the state before the first token, (B, H, K, V); zeros if None.
        cu_seqlens: where sequences of different lengths, packed in one row (B = 1), begin, and the last one's end,
            (N + 1,); the states are then (N, H, K, V).

    Returns:
        y (B, T, H, V) and the state after the last token (B, H, K, V).

    Raises:
        ValueError: the shapes do not fit together.
    """
    check_shapes(r, log_decay, k, v, a, b, state, cu_seqlens=cu_seqlens)
    if cu_seqlens is not None:
        return by_sequence(wkv7_reference, (r, log_decay, k, v, a, b), state, cu_seqlens)
    batch, steps, heads, key_size = r.shape
    if state is None:
        state = r.new_zeros(batch, heads, key_size, v.shape[-1])
    decay = log_decay.exp()
    outputs = []
    for t in range(steps):
        found = (state * a[:, t, :, :, None]).sum(-2, keepdim=True)  # (B, H, 1, V), a^T S
        state = (
            decay[:, t, :, :, None] * state + b[:, t, :, :, None] * found + k[:, t, :, :, None] * v[:, t, :, None, :]
        )  # (B, H, K, V)
        outputs.append((state * r[:, t, :, :, None]).sum(-2))  # (B, H, V), S^T r
    y = torch.stack(outputs, 1) if outputs else torch.empty_like(v)
    return y, state


def check_shapes(
    r: Tensor,
    log_decay: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    state: Tensor | None,
    *,
    cu_seqlens: Tensor | None = None,
) -> None:
    """Raises ValueError, naming the tensor, unless all are (B, T, H, K), v (B, T, H, V) and state (B or N, H, K, V)."""
    if r.ndim != 4:
        raise ValueError(f"r must have 4 dimensions (B, T, H, K), given {tuple(r.shape)}")
    for name, tensor in (("log_decay", log_decay), ("k", k), ("a", a), ("b", b)):
        if tensor.shape != r.shape:
            raise ValueError(f"{name} must have r's shape {tuple(r.shape)}, given {tuple(tensor.shape)}")
    if v.ndim != 4 or v.shape[:3] != r.shape[:3]:
        raise ValueError(f"v must have shape {(*r.shape[:3], 'V')}, given {tuple(v.shape)}")
    batch, _, heads, key_size = r.shape
    expected = (batch if cu_seqlens is None else len(cu_seqlens) - 1, heads, key_size, v.shape[-1])
    if state is not None and state.shape != expected:
        raise ValueError(f"state must have shape {expected}, given {tuple(state.shape)}")
