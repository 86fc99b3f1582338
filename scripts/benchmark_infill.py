"""The main job as its users feel it: wall time of the first run ever and of later ones, peak memory, and where the
time goes.

    python scripts/benchmark_infill.py [SONG] [--bars 8-12] [--runs 5] [--checkpoint DIR]

"First ever" starts with an empty compile cache, later runs find it. The share of the grammar and the sampling is
measured inside one process, over the same fill: time in `CellWriter.choose` against time in the engine's steps.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import midi_rwkv.infill as flow
from midi_rwkv import Region, load_checkpoint, read_midi
from midi_rwkv.cli import parse_bars
from midi_rwkv.sample import CellWriter

EXAMPLE = Path(__file__).parents[1] / "app" / "examples" / "pop_band.mid"


def run(command: list[str], cache: str) -> tuple[float, float]:
    """(seconds, MiB at the peak) of one process."""
    began = time.perf_counter()
    process = subprocess.Popen(command, env={**os.environ, "NUMBA_CACHE_DIR": cache}, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return time.perf_counter() - began, usage.ru_maxrss / 1024


def shares(song: Path, bars: str, checkpoint: str | None) -> tuple[int, float, float, float]:
    """(tokens written, seconds in steps, seconds choosing, seconds of the whole call) for one candidate, everything
    warm."""
    spent = {"step": 0.0, "choose": 0.0}
    tokens = 0
    infiller = flow.Infiller(load_checkpoint(checkpoint))
    score = read_midi(song)
    region = Region.rectangle(range(len(score.tracks)), parse_bars([bars], score))
    infiller(score, region, seed=1)
    step, choose = infiller.engine.step, CellWriter.choose

    def timed_step(*arguments):  # type: ignore[no-untyped-def]
        began = time.perf_counter()
        result = step(*arguments)
        spent["step"] += time.perf_counter() - began
        return result

    def timed_choose(self, logits):  # type: ignore[no-untyped-def]
        nonlocal tokens
        tokens += 1
        began = time.perf_counter()
        result = choose(self, logits)
        spent["choose"] += time.perf_counter() - began
        return result

    infiller.engine.step = timed_step  # type: ignore[method-assign]
    CellWriter.choose = timed_choose  # type: ignore[method-assign]
    began = time.perf_counter()
    infiller(score, region, seed=1)
    return tokens, spent["step"], spent["choose"], time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("song", nargs="?", type=Path, default=EXAMPLE)
    parser.add_argument("--bars", default="8-12")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--checkpoint")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "midi_rwkv",
            "infill",
            str(options.song),
            "--bars",
            options.bars,
            "--seed",
            "1",
        ]
        command += ["--overwrite", "-o", str(Path(folder) / "out.mid")]
        command += ["--checkpoint", options.checkpoint] if options.checkpoint else []
        first = run(command, folder)
        later = [run(command, folder) for _ in range(options.runs)]
        imports = [
            run([sys.executable, "-c", "import midi_rwkv.cli, midi_rwkv.engine_numba"], folder)[0] for _ in later
        ]
        helps = [run([sys.executable, "-m", "midi_rwkv", "--help"], folder)[0] for _ in later]
    tokens, steps, choosing, whole = shares(options.song, options.bars, options.checkpoint)
    print("| what | measured |")
    print("|---|---|")
    print(f"| first run ever | {first[0]:.2f} s, {first[1]:.0f} MiB |")
    later_s, later_mib = statistics.median(t for t, _ in later), max(m for _, m in later)
    print(f"| later runs, median of {options.runs} | {later_s:.2f} s, {later_mib:.0f} MiB |")
    print(f"| of which imports (numba among them) | {statistics.median(imports):.2f} s |")
    print(f"| `midi-rwkv --help` | {statistics.median(helps):.2f} s |")
    print(f"| tokens written, in {whole:.2f} s of a warm call | {tokens} |")
    print(f"| steps of the model | {steps:.3f} s |")
    print(f"| grammar and sampling | {choosing:.3f} s, {100 * choosing / steps:.1f} % of the steps |")
    print(f"| this process at its peak | {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB |")


if __name__ == "__main__":
    main()
