"""Compiles the kernels for a GPU, which need not be present, and prints registers, spills and shared memory.

    python scripts/compile_kernels.py                       # compute capability 9.0 (H100, H200), some minutes
    python scripts/compile_kernels.py --capability 80 --only scan_forward
    python scripts/compile_kernels.py --check               # exits with 1 if one would not run, or spills unexpectedly

A kernel that needs more than 255 registers per thread spills into local memory ("spilled", bytes per thread), which is
the first thing to check when a kernel is slow. The last columns count tensor-core instructions.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

warnings.filterwarnings("ignore", message="TRITON_DEFAULT_FP_FUSION")

# Pointers by name; the others are of the build's own dtype.
TYPES = dict.fromkeys(("starts", "lengths", "first", "mix_of"), "i32") | dict.fromkeys(("bounds", "segments"), "i64")
WIDE = {"decays", "state", "final", "grad_final", "grad_state", "kept", "scratch", "dstate"}  # float32 in every build
MATRICES = {"weight", "w2", "v2", "a2", "g2"}  # of decoding; the rest there is float32
SHARED_LIMIT = 232_448  # bytes a program, on compute capability 9.0
KINDS = {"bf16": ("bf16", "tf32"), "fp32": ("tf32x3", "tf32x3")}  # of the products, of the triangular system


@dataclass(frozen=True)
class Build:
    """One kernel for one set of constants."""

    module: str
    kernel: str
    dtype: str  # "bf16" or "fp32"
    size: int  # K = V
    chunk: int = 0
    warps: int = 4
    stages: int = 1
    spills: int = 0  # bytes a thread, at most, that are known and accepted
    constants: dict[str, Any] = field(default_factory=dict)


def builds() -> Iterator[Build]:
    """What runs on a GPU: every setting that autotuning tries for training's own shape, the first and the largest of
    the other shapes that are offered, the sequential form and decoding."""
    from midi_rwkv.kernels import wkv7_triton_chunk

    # dtype, K = V, chunk; spilled bytes a thread in `prepare`, `backward` and the scans
    shapes = (
        ("bf16", 64, 32, (256, 1200, 0)),
        ("bf16", 64, 16, (0, 512, 0)),
        ("bf16", 64, 64, (1200, 3000, 64)),
        ("bf16", 128, 16, (256, 3000, 256)),
        ("fp32", 64, 16, (256, 3000, 256)),
        ("fp32", 128, 16, (1200, 18_000, 2000)),
    )
    for dtype, size, chunk, (in_prepare, in_backward, in_scans) in shapes:
        for name in ("prepare", "backward", "scan_forward", "scan_backward"):
            settings = getattr(wkv7_triton_chunk, name).configs
            if (dtype, size, chunk) != ("bf16", 64, 32):
                largest = max(settings, key=lambda s: (s.num_stages, s.kwargs.get("BV", 0)))
                settings = [settings[0], largest] if largest is not settings[0] else settings[:1]
            accepted = {"prepare": in_prepare, "backward": in_backward}.get(name, in_scans)
            kind, solve = KINDS[dtype]
            fixed = {"K": size, "V": size, "L": chunk, "KIND": kind, "SOLVE": solve, "KEEP": True}
            for s in settings:
                yield Build(
                    "wkv7_triton_chunk", name, dtype, size, chunk, s.num_warps, s.num_stages, accepted, fixed | s.kwargs
                )
    for name in ("forward_tokens", "backward_tokens"):
        fixed = {"K": 64, "V": 64, "SEGMENT": 16, "KEEP": True}
        yield Build("wkv7_triton_sequential", name, "fp32", 64, constants=fixed)
    tile = {"KIND": "bf16", "ROWS": 16, "COLUMNS": 16, "DEPTH": 128}
    ranks = {"RW": 64, "PW": 64, "RV": 32, "PV": 32, "RA": 64, "PA": 64, "RG": 128, "PG": 128}
    for mix, square in ((True, False), (True, True), (False, False)):
        yield Build("decode_triton", "project", "bf16", 64, constants=tile | {"MIX": mix, "SQUARE": square})
    yield Build("decode_triton", "add", "bf16", 64, constants=tile)
    for first in (True, False):
        yield Build("decode_triton", "recur", "bf16", 64, constants=ranks | {"FIRST": first, "D": 64})


def compile_one(build: Build, capability: int) -> dict[str, Any]:
    """Registers and spilled bytes a thread, shared memory a program, tensor-core instructions."""
    import triton
    from triton.backends.compiler import GPUTarget

    found = getattr(import_module(f"midi_rwkv.kernels.{build.module}"), build.kernel)
    function = getattr(found, "fn", found) if build.module == "wkv7_triton_chunk" else found  # below the autotuner
    constants = {k: v for k, v in build.constants.items() if k in function.arg_names}
    whole_numbers = {"work", "H", "rows", "C", "N", "DEEP"}

    def type_of(name: str) -> str:
        if name in constants:
            return "constexpr"
        if name in whole_numbers:
            return "i32"
        wide = name not in MATRICES if build.module == "decode_triton" else name in WIDE
        return f"*{TYPES.get(name, 'fp32' if wide else build.dtype)}"

    types = {name: type_of(name) for name in function.arg_names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, t in enumerate(types.values()) if t.startswith("*")}
    source = triton.compiler.ASTSource(fn=function, signature=types, constexprs=constants, attrs=aligned)
    options = {"num_warps": build.warps, "num_stages": build.stages}
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    code = compiled.asm["ptx"]
    return {
        "kernel": build.kernel,
        "dtype": build.dtype,
        "size": build.size,
        "chunk": build.chunk or "",
        "columns": build.constants.get("BV", ""),
        "warps": build.warps,
        "stages": build.stages,
        **resource_usage(compiled.asm["cubin"]),
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


def wrong_with(build: Build, row: dict[str, Any]) -> str:
    """Why the kernel would not run, or what it spills beyond what is known; empty where all is well."""
    if row["shared"] > SHARED_LIMIT:
        return f"{row['shared']:,} bytes of shared memory, of {SHARED_LIMIT:,}"
    if row["spilled"] > build.spills:
        return f"{row['spilled']:,} bytes a thread spilled, at most {build.spills:,} expected"
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--capability", type=int, default=90)
    parser.add_argument("--only", help="one kernel's name")
    parser.add_argument("--check", action="store_true", help="exit with 1 if one would not run, or spills unexpectedly")
    options = parser.parse_args()
    import triton

    print(f"triton {triton.__version__}, compute capability {options.capability / 10}\n")
    faults, named = [], False
    for build in builds():
        if options.only not in (None, build.kernel):
            continue
        row = compile_one(build, options.capability)
        if not named:
            print(f"| {' | '.join(row)} |\n{'|---' * len(row)}|")
            named = True
        print(f"| {' | '.join(str(x) for x in row.values())} |", flush=True)
        if fault := wrong_with(build, row):
            faults.append(f"{build.kernel} ({build.dtype}, {build.size}, chunk {build.chunk}): {fault}")
    if options.check:
        print("\n".join(faults) or "all fit")
        raise SystemExit(1 if faults else 0)


if __name__ == "__main__":
    main()
