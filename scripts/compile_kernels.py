"""What Triton's compiler makes of the kernels for a GPU that need not be there: registers, spills, shared memory.

    python scripts/compile_kernels.py                       # compute capability 9.0 (H100, H200), a minute
    python scripts/compile_kernels.py --capability 80 --only scan_forward

A kernel that needs more than 255 registers a thread spills into local memory ("spilled", bytes a thread): the first
thing to look at before a slow kernel is timed. The last columns count tensor-core instructions.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

warnings.filterwarnings("ignore", message="TRITON_DEFAULT_FP_FUSION")

INTEGERS = {"starts", "lengths", "first"}
WIDE = {"decays", "state", "final", "grad_final", "grad_state"}  # float32 whatever the inputs are


@dataclass(frozen=True)
class Build:
    """One kernel for one set of constants."""

    kernel: str
    dtype: str  # "bf16" or "fp32"
    size: int  # K = V
    chunk: int
    warps: int
    columns: int = 0  # of a scan


def builds() -> list[Build]:
    """The variants that training meets: both head sizes, every chunk length that is offered, float32."""
    out = []
    for dtype, size, chunk in (("bf16", 64, 32), ("bf16", 64, 64), ("bf16", 128, 32), ("fp32", 64, 16)):
        out += [Build(name, dtype, size, chunk, 8) for name in ("prepare", "backward")]
        out += [Build(name, dtype, size, chunk, 4, 32) for name in ("scan_forward", "scan_backward")]
    return out


def compile_one(build: Build, capability: int) -> dict[str, Any]:
    """Registers and spilled bytes a thread, shared memory a program, tensor-core instructions."""
    import triton
    from triton.backends.compiler import GPUTarget

    from midi_rwkv.kernels import wkv7_triton_chunk

    function = getattr(wkv7_triton_chunk, build.kernel).fn
    kind, solver = {"bf16": ("bf16", "tf32"), "fp32": ("tf32x3", "tf32x3")}[build.dtype]
    constants = {
        "K": build.size,
        "V": build.size,
        "L": build.chunk,
        "KIND": kind,
        "SOLVE": solver,
        "KEEP": True,
        "BV": build.columns,
    }
    constants = {k: v for k, v in constants.items() if k in function.arg_names}

    def type_of(name: str) -> str:
        if name in constants:
            return "constexpr"
        if name == "H":
            return "i32"
        return "*i32" if name in INTEGERS else "*fp32" if name in WIDE else f"*{build.dtype}"

    types = {name: type_of(name) for name in function.arg_names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, t in enumerate(types.values()) if t.startswith("*")}
    source = triton.compiler.ASTSource(fn=function, signature=types, constexprs=constants, attrs=aligned)
    options = {"num_warps": build.warps, "num_stages": 1}
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    usage = resource_usage(compiled.asm["cubin"])
    code = compiled.asm["ptx"]
    return {
        **build.__dict__,
        **usage,
        "shared": compiled.metadata.shared,
        "wgmma": code.count("wgmma.mma_async"),
        "mma": code.count("mma.sync"),
    }


def resource_usage(binary: bytes) -> dict[str, int]:
    """What the tool that comes with Triton says of a compiled kernel."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        said = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True)
    found = dict(re.findall(r"(REG|STACK):(\d+)", said.stdout))
    return {"registers": int(found["REG"]), "spilled": int(found["STACK"])}


def to_table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    names = list(rows[0])
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    return "\n".join(lines + [f"| {' | '.join(str(row[n]) for n in names)} |" for row in rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--capability", type=int, default=90)
    parser.add_argument("--only", help="one kernel's name")
    options = parser.parse_args()
    chosen = [b for b in builds() if options.only in (None, b.kernel)]
    print(to_table([compile_one(b, options.capability) for b in chosen]))


if __name__ == "__main__":
    main()
