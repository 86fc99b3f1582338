"""Decodes one token of RWKV-7 for a batch of candidates, in five launches per layer.

`project` normalises, shifts and multiplies; `recur` does everything between the first products of a time mix and its
last; `add` multiplies and adds to the residual. A launch needs every channel of the one before, and programs cannot
wait for one another, so without a barrier across the GPU no more can be fused:

    project   layer norm, token shift, six lerps; receptance, key, value and the adapters' first halves in one product
    recur     (per row and head) the adapters' second halves, value residual, key normalisation, state, group norm, gate
    add       the output matrix, onto the residual
    project   layer norm, token shift, lerp, key matrix, squared ReLU
    add       the value matrix, onto the residual

Vectors and states are float32, matrices float32 or bfloat16. Excess rows of a tile are masked.
"""

# A Triton kernel takes its pointers and sizes one by one.
# ruff: noqa: PLR0913

from typing import Any

import torch
from torch import Tensor

from .wkv7_triton_chunk import dot, tl, triton

ROWS, COLUMNS, DEPTH = 16, 16, 128  # of a tile; tl.dot needs at least 16, and small tiles spread a layer over the GPU


@triton.jit
def project(
    x, shift, scale, bias, mixes, mix_of, weight, out, normed, rows, C, N,
    MIX: tl.constexpr, SQUARE: tl.constexpr, KIND: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """out (rows, N) = f(lerp(layer norm of x (rows, C), shift (rows, C))) times weight (N, C).

    `mix_of` (N / COLUMNS,) says which lerp of `mixes` (M, C) a tile's outputs need. `normed` (rows, C) is the layer
    norm, which is the next token's shift. Without MIX there is no shift; with SQUARE, f ends with a squared ReLU.
    """
    tile, row_tile = tl.program_id(0), tl.program_id(1)
    row = row_tile * ROWS + tl.arange(0, ROWS)[:, None]
    column = tile * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    there = row < rows
    total = tl.zeros((ROWS, 1), tl.float32)
    for start in range(0, C, DEPTH):
        i = start + tl.arange(0, DEPTH)[None, :]
        total += tl.sum(tl.load(x + row * C + i, mask=there & (i < C), other=0.0), 1, keep_dims=True)
    mean = total / C
    squares = tl.zeros((ROWS, 1), tl.float32)
    for start in range(0, C, DEPTH):
        i = start + tl.arange(0, DEPTH)[None, :]
        rest = tl.load(x + row * C + i, mask=there & (i < C), other=0.0) - mean
        squares += tl.sum(tl.where(i < C, rest * rest, 0.0), 1, keep_dims=True)
    factor = 1.0 / tl.sqrt(squares / C + 1e-5)
    mix_at = tl.load(mix_of + tile) * C if MIX else 0
    product = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, C, DEPTH):
        i = start + tl.arange(0, DEPTH)[None, :]
        inside = there & (i < C)
        h = (tl.load(x + row * C + i, mask=inside, other=0.0) - mean) * factor
        h = h * tl.load(scale + i, mask=i < C, other=0.0) + tl.load(bias + i, mask=i < C, other=0.0)
        if MIX:
            if tile == 0:
                tl.store(normed + row * C + i, h, mask=inside)
            before = tl.load(shift + row * C + i, mask=inside, other=0.0)
            h += (before - h) * tl.load(mixes + mix_at + i, mask=i < C, other=0.0)
        j = start + tl.arange(0, DEPTH)[:, None]
        product += dot(h, tl.load(weight + column * C + j, mask=(column < N) & (j < C), other=0.0), KIND)
    if SQUARE:
        product = tl.maximum(product, 0.0)
        product = product * product
    tl.store(out + row * N + column, product, mask=there & (column < N))


@triton.jit
def add(
    y, weight, x, normed, shift, rows, C, DEEP,
    KIND: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """x (rows, C) += y (rows, DEEP) times weight (C, DEEP). Also copies normed to shift, which has been read by now."""
    tile, row_tile = tl.program_id(0), tl.program_id(1)
    row = row_tile * ROWS + tl.arange(0, ROWS)[:, None]
    column = tile * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    there = row < rows
    product = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, DEEP, DEPTH):
        i, j = start + tl.arange(0, DEPTH)[None, :], start + tl.arange(0, DEPTH)[:, None]
        part = tl.load(y + row * DEEP + i, mask=there & (i < DEEP), other=0.0)
        product += dot(part, tl.load(weight + column * DEEP + j, mask=(column < C) & (j < DEEP), other=0.0), KIND)
    inside = there & (column < C)
    at = row * C + column
    tl.store(x + at, tl.load(x + at, mask=inside, other=0.0) + product, mask=inside)
    tl.store(shift + at, tl.load(normed + at, mask=inside, other=0.0), mask=inside)


@triton.jit
def adapter(low, at, weight, column, C, RANK: tl.constexpr, PADDED: tl.constexpr):
    """low (RANK,) from `at` on, times some columns of weight (RANK, C)."""
    i = tl.arange(0, PADDED)
    hidden = tl.load(low + at + i, mask=i < RANK, other=0.0)
    part = tl.load(weight + i[:, None] * C + column[None, :], mask=i[:, None] < RANK, other=0.0).to(tl.float32)
    return hidden, part


@triton.jit
def recur(
    z, vectors, w2, v2, a2, g2, first_values, state, out, C, N,
    FIRST: tl.constexpr, D: tl.constexpr,
    RW: tl.constexpr, RV: tl.constexpr, RA: tl.constexpr, RG: tl.constexpr,
    PW: tl.constexpr, PV: tl.constexpr, PA: tl.constexpr, PG: tl.constexpr,
):  # fmt: skip
    """One program per row and head of D channels: from z (rows, N), `project`'s output, to the gated output (rows, C).

    z holds receptance, key, value (C each), then the low ranks of w, v, a, g. vectors (8, C): w0, v0, a0, k_k, k_a,
    r_k, and the group norm's scale and bias. state (rows, H, D, D) is updated in place. FIRST is layer 0, which stores
    its values.
    """
    row, head = tl.program_id(0), tl.program_id(1)
    i = tl.arange(0, D)
    channel = head * D + i
    r, k, v = (
        tl.load(z + row * N + channel),
        tl.load(z + row * N + C + channel),
        tl.load(z + row * N + 2 * C + channel),
    )
    at = row * N + 3 * C
    hidden, part = adapter(z, at, w2, channel, C, RW, PW)
    w = tl.sum((2.0 * tl.sigmoid(2.0 * hidden) - 1.0)[:, None] * part, 0) + tl.load(vectors + channel)  # tanh
    decay = tl.exp(-0.6065306597126334 * tl.sigmoid(w))
    if FIRST:
        tl.store(first_values + row * C + channel, v)
    else:
        hidden, part = adapter(z, at + RW, v2, channel, C, RV, PV)
        gate = tl.sigmoid(tl.sum(hidden[:, None] * part, 0) + tl.load(vectors + C + channel))
        v += (tl.load(first_values + row * C + channel) - v) * gate
    hidden, part = adapter(z, at + RW + RV, a2, channel, C, RA, PA)
    rate = tl.sigmoid(tl.sum(hidden[:, None] * part, 0) + tl.load(vectors + 2 * C + channel))
    kk = k * tl.load(vectors + 3 * C + channel)
    kk = kk / tl.maximum(tl.sqrt(tl.sum(kk * kk, 0)), 1e-12)
    k = k * (1.0 + (rate - 1.0) * tl.load(vectors + 4 * C + channel))

    place = state + (row * (C // D) + head) * D * D + i[:, None] * D + i[None, :]
    S = tl.load(place)
    found = -tl.sum(S * kk[:, None], 0)
    S = S * decay[:, None] + (kk * rate)[:, None] * found[None, :] + k[:, None] * v[None, :]
    tl.store(place, S)
    y = tl.sum(S * r[:, None], 0)

    rest = y - tl.sum(y, 0) / D
    y = rest / tl.sqrt(tl.sum(rest * rest, 0) / D + 64e-5)
    y = y * tl.load(vectors + 6 * C + channel) + tl.load(vectors + 7 * C + channel)
    y += tl.sum(r * k * tl.load(vectors + 5 * C + channel), 0) * v
    hidden, part = adapter(z, at + RW + RV + RA, g2, channel, C, RG, PG)
    tl.store(out + row * C + channel, y * tl.sum(tl.sigmoid(hidden)[:, None] * part, 0))


class LayerWeights:
    """A layer's weights in the form that the launches read, on one device."""

    def __init__(self, weights: dict[str, Tensor], dtype: torch.dtype) -> None:
        """`weights` are float32, by RWKV-LM's names within a block ("att.x_r"); `dtype` is that of the matrices."""
        att = {name.removeprefix("att."): x for name, x in weights.items() if name.startswith("att.")}
        size = att["x_r"].numel()
        self.first = "v1" not in att
        empty = att["w1"].new_zeros(size, 0)
        low = [att["w1"], empty if self.first else att["v1"], att["a1"], att["g1"]]
        # Each matrix has its own lerp and a tile only one, so each matrix is padded to whole tiles.
        parts = [att["receptance.weight"], att["key.weight"], att["value.weight"], *(x.T for x in low)]
        self.widths = [-(-len(x) // COLUMNS) * COLUMNS for x in parts]
        self.enter = torch.cat(_filled(parts, self.widths)).to(dtype)  # (N, C)
        order = [0, 2, 3, 1, 3, 4, 5]  # which of x_r, x_w, x_k, x_v, x_a, x_g each part takes
        self.mixes = torch.stack([att[f"x_{x}"].view(-1) for x in "rwkvag"])
        tiles = [n for n, width in zip(order, self.widths, strict=True) for _ in range(width // COLUMNS)]
        self.mix_of = torch.tensor(tiles, dtype=torch.int32, device=self.mixes.device)
        second = [att["w2"], att.get("v2", empty.T), att["a2"], att["g2"]]
        self.second = [x.contiguous().to(dtype) for x in _filled(second, self.widths[3:])]  # each (rank, C)
        zeros = torch.zeros_like(att["w0"])
        named = [att["w0"], att.get("v0", zeros), att["a0"], att["k_k"], att["k_a"], att["r_k"]]
        self.vectors = torch.stack([x.reshape(-1) for x in (*named, att["ln_x.weight"], att["ln_x.bias"])])
        self.output = att["output.weight"].to(dtype)
        self.norms = [weights[f"ln{n}.{x}"] for n in (1, 2) for x in ("weight", "bias")]
        self.ffn_mix = weights["ffn.x_k"].view(1, -1)
        self.key, self.value = weights["ffn.key.weight"].to(dtype), weights["ffn.value.weight"].to(dtype)
        self.one_mix = torch.zeros(-(-len(self.key) // COLUMNS), dtype=torch.int32, device=self.key.device)


def _filled(matrices: list[Tensor], heights: list[int]) -> list[Tensor]:
    """Each matrix, padded with rows of zeros to its height."""
    return [torch.cat([x, x.new_zeros(n - len(x), x.shape[1])]) for x, n in zip(matrices, heights, strict=True)]


def _tiles(rows: int, columns: int) -> tuple[int, int]:
    return triton.cdiv(columns, COLUMNS), triton.cdiv(rows, ROWS)


def step_layer(
    layer: LayerWeights, x: Tensor, att_shift: Tensor, ffn_shift: Tensor, wkv: Tensor, first_values: Tensor
) -> None:
    """Runs a token through one layer. x (B, C), the shifts (B, C) and wkv (B, H, K, V), all float32, change in place.

    first_values (B, C) is written by layer 0 and read by the others.
    """
    rows, size = x.shape
    kind = _kind(layer.enter)
    tile: dict[str, Any] = {"KIND": kind, "ROWS": ROWS, "COLUMNS": COLUMNS, "DEPTH": DEPTH}
    ranks = dict(zip("WVAG", layer.widths[3:], strict=True))
    low = {f"R{n}": rank for n, rank in ranks.items()}
    padded = {f"P{n}": triton.next_power_of_2(max(16, rank)) for n, rank in ranks.items()}
    z, normed, out = x.new_empty(rows, len(layer.enter)), torch.empty_like(x), torch.empty_like(x)
    project[_tiles(rows, len(layer.enter))](
        x, att_shift, *layer.norms[:2], layer.mixes, layer.mix_of, layer.enter, z, normed, rows, size, len(layer.enter),
        MIX=True, SQUARE=False, **tile,
    )  # fmt: skip
    recur[(rows, wkv.shape[1])](
        z, layer.vectors, *layer.second, first_values, wkv, out, size, len(layer.enter),
        FIRST=layer.first, D=wkv.shape[-1], **low, **padded,
    )  # fmt: skip
    add[_tiles(rows, size)](out, layer.output, x, normed, att_shift, rows, size, size, **tile)
    hidden = x.new_empty(rows, len(layer.key))
    project[_tiles(rows, len(layer.key))](
        x, ffn_shift, *layer.norms[2:], layer.ffn_mix, layer.one_mix, layer.key, hidden, normed, rows, size,
        len(layer.key), MIX=True, SQUARE=True, **tile,
    )  # fmt: skip
    add[_tiles(rows, size)](hidden, layer.value, x, normed, ffn_shift, rows, size, len(layer.key), **tile)


def step_head(x: Tensor, scale: Tensor, bias: Tensor, head: Tensor, logits: Tensor) -> None:
    """Logits (B, V): x (B, C), normalised, times head (V, C)."""
    rows, size = x.shape
    project[_tiles(rows, len(head))](
        x, x, scale, bias, x, x, head, logits, logits, rows, size, len(head),
        MIX=False, SQUARE=False, KIND=_kind(head), ROWS=ROWS, COLUMNS=COLUMNS, DEPTH=DEPTH,
    )  # fmt: skip


def _kind(matrix: Tensor) -> str:
    return "bf16" if matrix.dtype == torch.bfloat16 else "tf32x3"
