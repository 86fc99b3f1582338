"""Training through torch.compile: all of a block before the recurrence, and all after it, becomes a few loops each.

This helps on a CPU with fast matrix products, where the operations between them take most of a step. torch.compile
needs a C++ compiler on the machine (on a GPU it needs Triton, which PyTorch brings). The recurrence itself remains the
kernel of `kernels/`. Evaluation is not compiled (`uncompiled`), because its rows have many lengths, and each would be
compiled separately.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import nn

from midi_rwkv.errors import RequestError
from midi_rwkv.model.rwkv7 import RWKV7


def compile_blocks(model: nn.Module) -> None:
    """Makes the blocks compile at first use, in place. Raises RequestError for a Transformer or without a compiler."""
    if not isinstance(model, RWKV7):
        raise RequestError("--compile is for an RWKV-7; leave it out for --arch transformer")
    import torch._functorch.config as functorch
    from torch._inductor import cpp_builder, exc

    if next(model.parameters()).device.type == "cpu":
        try:
            cpp_builder.get_cpp_compiler()
        except exc.InvalidCxxCompiler:
            raise RequestError(
                "--compile needs a C++ compiler (g++ or clang++); install one, or leave it out"
            ) from None

    functorch.enable_autograd_cache = False  # writing to it crashes PyTorch 2.13 on a CPU
    for block in model.layers():
        for name in ("before", "after"):
            setattr(block, name, torch.compile(getattr(block, name)))


def uncompiled() -> AbstractContextManager[object]:
    """Runs compiled parts uncompiled within the block."""
    stance: AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
    return stance
