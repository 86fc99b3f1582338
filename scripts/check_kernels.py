"""Compares every form of the WKV recurrence with its definition in float64, and then measures the speed, in one table.

    python scripts/check_kernels.py OUT                          # on a GPU, within 8 minutes: OUT/kernels.md
    python scripts/check_kernels.py OUT --only checks,decode
    TRITON_INTERPRET=1 python scripts/check_kernels.py OUT --only checks,rounding --small    # without a GPU

The table grows row by row. A row that fails says so, and the next one follows. The last line names the parts for which
there was no time. The script exits with 1 if a row failed or an error is over its limit (1e-4 in float32, 1e-2 in
bfloat16, norm of the difference over the norm).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from script_helpers import kernel_inputs, kernel_timings

PARTS = ("checks", "rounding", "recurrence", "decode", "training")
OVER = "**over the limit**"


@dataclass(frozen=True)
class Case:
    """One form on one shape."""

    form: str  # "chunked", "sequential", or the chunk length of wkv7_triton
    batch: int
    steps: int
    size: int
    kind: str
    dtype: torch.dtype
    packed: bool = False

    @property
    def row(self) -> tuple[str, int, torch.dtype, int, bool]:
        """The key of the case's row in the table."""
        return self.form, self.size, self.dtype, self.steps, self.packed


def cases(*, small: bool) -> Iterator[Case]:
    """small: what the interpreter can do in a minute; else all that `wkv7_triton` takes on a GPU. The cases of a row
    follow one another."""
    dtypes = (torch.bfloat16, torch.float32)
    if small:
        for dtype in dtypes:
            yield Case("16", 1, 33, 16, "both ends", dtype)
            yield Case("64", 1, 100, 64, "repeated keys", dtype)
        yield Case("sequential", 1, 20, 16, "plain", torch.float32)
        yield Case("32", 1, 40, 16, "plain", torch.float32, packed=True)
        return
    for steps in (64, 1000, 1, 15, 63):
        for dtype in dtypes:
            form = "16" if dtype == torch.float32 else "32"
            yield from (Case(form, batch, steps, 64, kind, dtype) for batch in (1, 3) for kind in kernel_inputs.KINDS)
    for form, size, dtype in (
        ("16", 64, torch.bfloat16),
        ("64", 64, torch.bfloat16),
        ("16", 128, torch.bfloat16),
        ("16", 128, torch.float32),
    ):
        yield Case(form, 1, 200, size, "repeated keys", dtype)
        yield Case(form, 1, 200, size, "both ends", dtype, packed=True)
    for form in ("chunked", "sequential"):
        yield Case(form, 1, 200, 64, "both ends", torch.float32, packed=True)
    for kind in ("plain", "slowest decay"):
        yield Case("32", 1, 4096, 64, kind, torch.bfloat16)


@contextmanager
def first_setting_alone() -> Iterator[None]:
    """Disables autotuning, because on a cold GPU compiling every setting for every shape takes minutes."""
    from midi_rwkv.kernels import wkv7_triton_chunk

    kernels = [getattr(wkv7_triton_chunk, n) for n in ("prepare", "scan_forward", "scan_backward", "backward")]
    settings = [kernel.configs for kernel in kernels]
    for kernel in kernels:
        kernel.configs = kernel.configs[:1]
    try:
        yield
    finally:
        for kernel, all_of_them in zip(kernels, settings, strict=True):
            kernel.configs = all_of_them


def worst_error(case: Case, device: str) -> tuple[str, float]:
    """The result with the largest error, and this error."""
    from midi_rwkv.kernels.wkv7_chunked import wkv7_chunked
    from midi_rwkv.kernels.wkv7_reference import wkv7_reference
    from midi_rwkv.kernels.wkv7_triton import wkv7_triton
    from midi_rwkv.kernels.wkv7_triton_sequential import wkv7_triton_sequential

    forms: dict[str, Callable[..., Any]] = {"chunked": wkv7_chunked, "sequential": wkv7_triton_sequential}
    form = forms.get(case.form, wkv7_triton)
    options: dict[str, Any] = {} if case.form in forms else {"form_options": {"chunk": int(case.form)}}
    states = 0
    if case.packed:
        third = case.steps // 3
        ends = torch.tensor([0, third, third, case.steps - 1, case.steps])
        options["cu_seqlens"], states = ends, 4
    inputs = kernel_inputs.make_inputs(
        (case.batch, case.steps, 2, case.size), kind=case.kind, seed=case.steps, states=states
    )
    with nullcontext() if case.steps == 4096 else first_setting_alone():
        errors = kernel_inputs.errors_of(form, wkv7_reference, inputs, case.dtype, device, **options)
    return max(errors.items(), key=lambda item: item[1])


def check_rows(device: str, *, small: bool) -> Iterator[str]:
    """Markdown, the worst of each form, size, dtype and length."""
    yield "| form | head size | dtype | T | packed | worst of all kinds | in | kind |"
    yield "|---" * 8 + "|"
    for key, group in groupby(cases(small=small), key=lambda case: case.row):
        form, size, dtype, steps, packed = key
        cells = f"{form} | {size} | {str(dtype).removeprefix('torch.')} | {steps} | {'yes' if packed else ''}"
        yield kernel_timings.row(cells, partial(_worst_of, list(group), device))


def _worst_of(alike: list[Case], device: str) -> str:
    found = [(*worst_error(case, device), case) for case in alike]
    name, error, case = max(found, key=lambda item: item[1])
    return f"{error:.1e}{'' if error < kernel_inputs.LIMITS[case.dtype] else f' {OVER}'} | {name} | {case.kind}"


def rounding_rows(*, small: bool) -> Iterator[str]:
    """Markdown: what it costs to round the recurrence's inputs to bfloat16, whatever computes it (float64 here)."""
    from midi_rwkv.kernels.wkv7_reference import wkv7_reference

    yield (
        "| inputs | "
        + " | ".join(f"{part}, {n} in bfloat16" for part in ("y", "gradients") for n in ("r", "all"))
        + " |"
    )
    yield "|---" * 5 + "|"
    for kind in kernel_inputs.KINDS[:1] if small else kernel_inputs.KINDS:
        yield kernel_timings.row(kind, partial(_rounding, wkv7_reference, kind, 40 if small else 400))


def _rounding(form: Callable[..., Any], kind: str, steps: int) -> str:
    exact = kernel_inputs.make_inputs((1, steps, 2, 64), kind=kind, seed=1)
    grads = [torch.randn(x.shape, dtype=torch.float64) for x in (exact[3], exact[6])]
    expected = kernel_inputs.run(form, exact, torch.float64, grads)
    errors = []
    for count in (1, 6):
        rounded = [x.bfloat16().double() if i < count else x for i, x in enumerate(exact)]
        found = kernel_inputs.relative_errors(kernel_inputs.run(form, rounded, torch.float64, grads), expected)
        errors.append((found["y"], max(e for name, e in found.items() if name.startswith("d"))))
    return " | ".join(f"{errors[k][of]:.1e}" for of in (0, 1) for k in (0, 1))


def main() -> None:
    began = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", default=",".join(PARTS), help=f"comma-separated: {', '.join(PARTS)}")
    parser.add_argument("--small", action="store_true", help="few and small shapes")
    parser.add_argument("--minutes", type=float, default=7.5, help="begin no row after this long (default: 7.5)")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = options.only.split(",")
    if wrong := [part for part in chosen if part not in PARTS]:
        parser.error(f"--only takes {', '.join(PARTS)}, given {wrong[0]!r}")
    if device == "cpu" and not {*chosen} <= {"checks", "rounding"}:
        parser.error("timings need a GPU that torch can use; without one, use --only checks,rounding --small")
    options.out.mkdir(parents=True, exist_ok=True)
    rows_of: dict[str, Callable[[], Iterator[str]]] = {
        "checks": lambda: check_rows(device, small=options.small),
        "rounding": lambda: rounding_rows(small=options.small),
        "recurrence": kernel_timings.recurrence_rows,
        "decode": kernel_timings.decode_rows,
        "training": kernel_timings.training_rows,
    }
    name = torch.cuda.get_device_name() if device == "cuda" else "Triton's interpreter"
    passed = True
    with (options.out / "kernels.md").open("w", encoding="utf-8") as file:

        def say(line: str) -> None:
            print(line, flush=True)
            print(line, file=file, flush=True)  # keep what there is, in case a later row ends the process

        say(f"{name}, torch {torch.__version__}")
        for number, part in enumerate(chosen):
            say(f"\n## {part}\n")
            for line in rows_of[part]():
                say(line)
                passed &= OVER not in line and kernel_timings.FAILED not in line
                if time.monotonic() - began > 60 * options.minutes:
                    say(f"\nStopped after {options.minutes:g} minutes, in: {', '.join(chosen[number:])}.")
                    raise SystemExit(0 if passed else 1)
            print(f"({time.monotonic() - began:.0f} s)", flush=True)
    raise SystemExit(0 if passed else 1)


if __name__ == "__main__":
    main()
