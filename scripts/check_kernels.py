"""Every form of the WKV recurrence against its definition in float64, then how fast it all is: one call, one table.

    python scripts/check_kernels.py OUT                          # on a GPU, under 10 minutes: OUT/kernels.md
    python scripts/check_kernels.py OUT --only checks,decode
    TRITON_INTERPRET=1 python scripts/check_kernels.py OUT --only checks --small    # without a GPU

Exits 1 where an error is over its limit (1e-4 in float32, 1e-2 in bfloat16, norm of the difference over the norm).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kernel_inputs
import kernel_timings
import torch

PARTS = ("checks", "recurrence", "decode", "training")


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


def cases(small: bool) -> Iterator[Case]:
    """small: what the interpreter can do in a minute; else the full grid."""
    dtypes = (torch.float32, torch.bfloat16)
    if small:
        for dtype in dtypes:
            yield Case("16", 1, 33, 16, "both ends", dtype)
            yield Case("64", 1, 100, 64, "repeated keys", dtype)
        yield Case("sequential", 1, 20, 16, "plain", torch.float32)
        yield Case("32", 1, 40, 16, "plain", torch.float32, packed=True)
        return
    for steps in (1, 15, 63, 64, 1000, 4096):
        kinds = kernel_inputs.KINDS if steps <= 1000 else ("plain", "slowest decay")
        for batch in (1, 3):
            for kind in kinds:
                for dtype in dtypes:
                    yield Case("16" if dtype == torch.float32 else "32", batch, steps, 64, kind, dtype)
    for form in ("16", "32", "64"):
        for size in (64, 128):
            if not (form == "64" and size == 128):
                for dtype in dtypes:
                    yield Case(form, 1, 200, size, "repeated keys", dtype)
                    yield Case(form, 1, 200, size, "both ends", dtype, packed=True)
    for form in ("chunked", "sequential"):
        yield Case(form, 1, 200, 64, "both ends", torch.float32, packed=True)


def worst_error(case: Case, device: str) -> tuple[str, float]:
    """Which result is furthest from the reference's, and how far."""
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
    inputs = kernel_inputs.make_inputs(case.batch, case.steps, 2, case.size, case.kind, case.steps, states)
    errors = kernel_inputs.errors_of(form, wkv7_reference, inputs, case.dtype, device, **options)
    return max(errors.items(), key=lambda item: item[1])


def check_table(device: str, small: bool) -> tuple[str, bool]:
    """Markdown, the worst of each form, size, dtype and length; and whether all is within the limits."""
    worst: dict[tuple[Any, ...], tuple[float, str, str, float]] = {}
    for case in cases(small):
        name, error = worst_error(case, device)
        key = (case.form, case.size, str(case.dtype).removeprefix("torch."), case.steps, case.packed)
        found = (error, name, case.kind, kernel_inputs.LIMITS[case.dtype])
        worst[key] = max(worst.get(key, found), found)
    lines = ["| form | head size | dtype | T | packed | worst of all kinds | in | kind |", "|---" * 8 + "|"]
    for (form, size, dtype, steps, packed), (error, name, kind, limit) in worst.items():
        mark = "" if error < limit else " **over the limit**"
        place = "yes" if packed else ""
        lines.append(f"| {form} | {size} | {dtype} | {steps} | {place} | {error:.1e}{mark} | {name} | {kind} |")
    return "\n".join(lines), all(error < limit for error, _, _, limit in worst.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", default=",".join(PARTS), help=f"comma-separated: {', '.join(PARTS)}")
    parser.add_argument("--small", action="store_true", help="few and small shapes")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = options.only.split(",")
    if wrong := [part for part in chosen if part not in PARTS]:
        parser.error(f"--only takes {', '.join(PARTS)}, given {wrong[0]!r}")
    if device == "cpu" and chosen != ["checks"]:
        parser.error("timings need a GPU that torch can use; without one, use --only checks --small")
    options.out.mkdir(parents=True, exist_ok=True)
    name = torch.cuda.get_device_name() if device == "cuda" else "Triton's interpreter"
    text, passed = f"{name}, torch {torch.__version__}\n", True
    for part in chosen:
        began = time.monotonic()
        if part == "checks":
            table, passed = check_table(device, options.small)
        else:
            table = getattr(kernel_timings, f"{part}_table")()
        text += f"\n## {part}\n\n{table}\n"
        (options.out / "kernels.md").write_text(text)  # what there is, should a later part fail
        print(f"{part}: {time.monotonic() - began:.0f} s\n{table}\n", flush=True)
    raise SystemExit(0 if passed else 1)


if __name__ == "__main__":
    main()
