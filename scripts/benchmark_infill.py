"""The main job as its users feel it: wall time of the first run ever and of later ones, peak memory, and where the
time goes.

    python scripts/benchmark_infill.py [SONG] [--bars 8-12] [--runs 5] [--checkpoint DIR]

"First ever" starts with an empty compile cache, later runs find it. Where the time goes is measured inside one process,
over the same fill, everything warm.
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
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from midi_rwkv import Region, load_checkpoint, read_midi
from midi_rwkv.fill.arguments import parse_bars
from midi_rwkv.fill.infill import Infiller
from midi_rwkv.fill.recall import CellMemory, SongMemory
from midi_rwkv.fill.sample import CellState, CellWriter

EXAMPLE = Path(__file__).parents[1] / "app" / "examples" / "pop_band.mid"


def run(command: list[str], cache: str) -> tuple[float, float]:
    """(seconds, MiB at the peak) of one process."""
    began = time.perf_counter()
    process = subprocess.Popen(command, env={**os.environ, "NUMBA_CACHE_DIR": cache}, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return time.perf_counter() - began, usage.ru_maxrss / 1024


def shares(song: Path, bars: str, checkpoint: str | None) -> tuple[dict[str, float], int]:
    """Seconds of one warm call for one candidate, as a whole and in its parts, and how many tokens it wrote."""
    infiller = Infiller(load_checkpoint(checkpoint))
    score = read_midi(song)
    region = Region.rectangle(range(len(score.tracks)), parse_bars([bars], score))
    infiller(score, region, seed=1)
    spent: dict[str, float] = defaultdict(float)
    calls: dict[str, int] = defaultdict(int)

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            began = time.perf_counter()
            result = function(*arguments)
            spent[name] += time.perf_counter() - began
            calls[name] += 1
            return result

        return call

    for owner, attribute, name in (
        (infiller.engine, "prefill", "reading"),
        (infiller.engine, "step", "steps"),
        (CellState, "allowed", "grammar"),
        (CellState, "take", "grammar"),
        (CellMemory, "mix", "mixing"),
        (CellMemory, "take", "mixing"),
        (SongMemory, "__init__", "looking up"),
        (SongMemory, "cell", "looking up"),
        (SongMemory, "write", "looking up"),
        (CellWriter, "choose", "choosing"),
    ):
        setattr(owner, attribute, timed(name, getattr(owner, attribute)))
    timed("whole", infiller)(score, region, None, 1, 1)
    return spent, calls["choosing"]


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
            run([sys.executable, "-c", "import midi_rwkv.commands.cli, midi_rwkv.engine.numba_engine"], folder)[0]
            for _ in later
        ]
        helps = [run([sys.executable, "-m", "midi_rwkv", "--help"], folder)[0] for _ in later]
    spent, tokens = shares(options.song, options.bars, options.checkpoint)
    print("| what | measured |")
    print("|---|---|")
    print(f"| first run ever | {first[0]:.2f} s, {first[1]:.0f} MiB |")
    later_s, later_mib = statistics.median(t for t, _ in later), max(m for _, m in later)
    print(f"| later runs, median of {options.runs} | {later_s:.2f} s, {later_mib:.0f} MiB |")
    print(f"| of which imports (numba among them) | {statistics.median(imports):.2f} s |")
    print(f"| `midi-rwkv --help` | {statistics.median(helps):.2f} s |")
    print(f"| a warm call, {tokens} tokens written | {spent['whole']:.2f} s |")
    print(f"| of which reading context and given cells | {spent['reading']:.3f} s |")
    print(f"| of which decoding: steps of the model, and choosing | {spent['steps'] + spent['choosing']:.3f} s |")
    decoding = (spent["steps"] + spent["choosing"]) / 100
    print(f"| share of the grammar in decoding | {spent['grammar'] / decoding:.1f} % |")
    drawing = spent["choosing"] - spent["grammar"] - spent["mixing"]
    print(f"| share of drawing the token | {drawing / decoding:.1f} % |")
    recall = (spent["mixing"] + spent["looking up"]) / spent["whole"]
    print(f"| share of recall in the warm call | {100 * recall:.1f} % |")
    print(f"| this process at its peak | {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB |")


if __name__ == "__main__":
    main()
