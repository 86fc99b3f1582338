"""Training through torch.compile: all of a block before the recurrence, and all after it, becomes a few loops each.

This helps on a CPU with fast matrix products, where the operations between them take most of a step. torch.compile
needs a C++ compiler on the machine (on a GPU it needs Triton, which PyTorch brings). The recurrence itself remains the
kernel of `kernels/`. Evaluation is not compiled (`uncompiled`), because its rows have many lengths, and each would be
compiled separately.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

from midi_rwkv.errors import RequestError
from midi_rwkv.model.rwkv7 import RWKV7
from midi_rwkv.model.steps import Heads

from .launch import on_cpu


def check_compiled(arch: str, device: str) -> None:
    """Raises RequestError for a Transformer, and without a compiler. device: "auto" or torch's name for one."""
    if arch != "rwkv7":
        raise RequestError("--compile is for an RWKV-7; leave it out for --arch transformer")
    if not can_compile(device):
        raise RequestError("--compile needs a C++ compiler (g++ or clang++); install one, or leave it out")


def compile_blocks(model: RWKV7) -> None:
    """Makes the blocks compile at first use, in place."""
    import torch._functorch.config as functorch

    functorch.enable_autograd_cache = False  # writing to it crashes PyTorch 2.13 on a CPU
    for block in model.layers():
        for name in ("before", "after"):
            setattr(block, name, torch.compile(getattr(block, name)))


def can_compile(device: str) -> bool:
    """Whether a device, "auto" or torch's name for it, can be trained through torch.compile here."""
    return not on_cpu(device) or _has_compiler()


def _has_compiler() -> bool:
    from torch._inductor import cpp_builder, exc

    try:
        cpp_builder.get_cpp_compiler()
    except exc.InvalidCxxCompiler:
        return False
    return True


def compile_heads(heads: Heads) -> None:
    """The same for what stands between the heads; one function serves all of them and any number of notes."""
    heads.between = torch.compile(heads.between, dynamic=True)  # type: ignore[method-assign]


def uncompiled() -> AbstractContextManager[object]:
    """Runs compiled parts uncompiled within the block."""
    stance: AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
    return stance
