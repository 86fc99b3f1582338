"""The chain of heads (heads.py) through the kernels of the numba engine, in one compiled function.

Measured on one thread of an Intel Xeon with AVX-512 beside other load, microseconds, the shortest of 240 calls:

    model, candidates    trunk float32   int8    heads in NumPy   float32   int8
    8 x 256, 1                    2824   1027               799       333    130
    8 x 256, 4                    3360   1609               900       317    220
    4 x 384, 1                    2969    961              1278       944    245
    4 x 384, 4                    3568   1623              3665      1069    480

NumPy spends 45 microseconds a stage on its calls alone, and its products compete for cores with the engine's threads.
Here a call costs 7, so the heads are no part of the engine: five calls are 3 % of a note, and a choice is made between
any two of them. What remains is reading the weights, 19 % of the trunk's at 8 x 256 and 36 % at 4 x 384. int8 costs no
nats that could be measured (0.0006 a note fewer, standard error 0.0004; 78 fills of 13 sources, a small model).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache

import numpy as np
from numba import types

from midi_rwkv.native import compiled

from .engine import Floats
from .heads import STAGES, Heads
from .layers import add, leave, relu_squared
from .numba_engine import MATRIX_TYPES, SOURCES, floats, project
from .pack import BLOCK, Piece, pack_parts, padded_size


@cache
def compiled_stage(precision: str) -> Callable[..., None]:
    """The compiled `_stage` for matrices of this precision."""
    arrays = (floats, floats, MATRIX_TYPES[precision][::1], *[floats] * 4)
    return compiled(types.void(*arrays, *[types.intp] * 6), [*SOURCES, __file__])(_stage)


def _stage(  # type: ignore[no-untyped-def]  # noqa: PLR0913 -- numba compiles no records of arrays
    z, norm, matrices, scales, block, work, out, first, first_scale, count, size, inner, classes
):
    """The logits of an attribute: z (count, size) -> out (count, classes), padded.

    The attribute's matrices begin at `first`, their scales at `first_scale`. `inner` is the width between up and down,
    0 for the place, which has neither. `norm` is the weight and bias of a layer norm that needs none: ones and zeros.
    """
    full = count * size
    x, h, hidden = 0, full, 2 * full
    place, product = (first, first_scale), (matrices, scales, block, work, work)
    for i in range(full):
        work[i] = z[i]
    if inner > 0:
        leave((norm, work), (0, x, h, count, 1, size))
        place = project(product, place, (inner, size, count, h, hidden))
        relu_squared((work,), (hidden, count * inner))
        place = project(product, place, (size, inner, count, hidden, h))
        add((work,), (h, x, full))
        leave((norm, work), (0, h, x, count, 1, size))
    project((matrices, scales, block, work, out), place, (classes, size, count, x, 0))


class NumbaHeads(Heads):
    """The width C must be a multiple of 16."""

    def __init__(self, weights: Mapping[str, Floats], sizes: Sequence[int], precision: str = "float32") -> None:
        """precision: of the matrices, "float32" or "int8"."""
        super().__init__(weights, sizes)
        names = [["out.0"], *([f"up.{i}", f"down.{i}", f"out.{i + 1}"] for i in range(STAGES - 1))]
        matrices = [[weights[f"heads.{name}.weight"] for name in part] for part in names]
        self._packed = pack_parts([[Piece(m, is_matrix=True) for m in part] for part in matrices], precision)
        self._classes = [len(part[-1]) for part in matrices]
        self._inner = [len(part[0]) if len(part) > 1 else 0 for part in matrices]
        self._size = matrices[0][0].shape[1]
        self._norm = np.repeat(np.array([1, 0], np.float32), self._size)
        self._stage = compiled_stage(precision)

    def unmarked(self, stage: int, z: Floats) -> Floats:
        packed, count, size, inner = self._packed, len(z), self._size, self._inner[stage]
        out = np.empty((count, padded_size(self._classes[stage])), np.float32)
        block = np.empty(BLOCK * max(size, inner) if packed.matrices.itemsize == 1 else 0, np.float32)
        self._stage(
            np.ascontiguousarray(z, np.float32).reshape(-1), self._norm, packed.matrices, packed.scales, block,
            np.empty(count * (2 * size + inner), np.float32), out.reshape(-1),
            *packed.starts[stage, 1:], count, size, inner, out.shape[1],
        )  # fmt: skip
        return out[:, : self._classes[stage]]
