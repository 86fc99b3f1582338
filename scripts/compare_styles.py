"""Compares ways to learn a style, on folders STYLE/tune and STYLE/test of MIDI files, in four settings.

    python scripts/compare_styles.py styles.zip OUT --methods base,style,lora-4 --counts 5 --seeds 0,1,2
    python scripts/compare_styles.py styles.zip OUT --methods lora-32@60+last   # 60 steps, the last one kept
    python scripts/compare_styles.py styles.zip OUT --table            # OUT/table.md from the results so far
    python scripts/compare_styles.py styles.zip OUT --more valid.zip   # all styles on all, on paths between, on valid

Methods: base; style (as `personalize` makes it), of which "tuned" is what is tuned without the memory and "memory" is
the memory without it; and the recipes of midi_rwkv/style/adapters.py. Every method learns from the first COUNT pieces
of `tune`, in name order, and is measured on the same fills of the test pieces: `--fills` of them in each setting of
midi_rwkv/style/settings.py. Results are added to OUT/results.jsonl one by one, and those that exist are not computed
again.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
import zipfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from script_helpers.style_fills import MeasuredFill, frozen_model, style_names, test_fills
from script_helpers.style_paths import more
from script_helpers.style_tables import per_note, read_results, tables

from midi_rwkv.files import whole_file

TEST_FILLS = 40  # per setting
OF_STYLE = ("style", "tuned", "memory")


@dataclass(frozen=True)
class Job:
    style: str
    count: int
    method: str
    seed: int

    @property
    def key(self) -> str:
        return f"{self.style}/{self.count}/{self.method}/{self.seed}"


def do(job: Job, folder: Path, out: Path, per_setting: int = TEST_FILLS) -> list[dict[str, Any]]:
    """Runs one method on one style. Returns its record; for a style also those of its parts."""
    from midi_rwkv.model.checkpoint import load_checkpoint
    from midi_rwkv.style.adapters import Recipe, adapt
    from midi_rwkv.style.pieces import read_pieces
    from midi_rwkv.style.tuning import fills_nats

    checkpoint = load_checkpoint()
    files = sorted((folder / job.style / "tune").glob("*.mid"))[: job.count]
    tests = test_fills(folder, job.style, per_setting, 0)
    read = [f.read for f in tests]
    began = time.monotonic()
    if job.method == "base":
        return [_record(job, tests, fills_nats(frozen_model(), read))]
    if job.method in OF_STYLE:
        tuning, more = _tune(job, files, out)
        remembering = [f.read for f in test_fills(folder, job.style, per_setting, job.count)]
        nats = {
            "style": tuning.nats(remembering if tuning.remembers else read),
            "tuned": tuning.nats(read),
            "memory": fills_nats(frozen_model(), remembering),
        }
        return [_record(replace(job, method=name), tests, nats[name], **more) for name in OF_STYLE]
    else:
        recipe = Recipe.parse(job.method)
        adapted = adapt(recipe, checkpoint, read_pieces(files)[0], seed=job.seed)
        more = {
            "seconds": round(time.monotonic() - began, 1),
            "steps": adapted.steps,
            "parameters": adapted.parameters,
            "curve": [(step, round(nats, 4)) for step, nats in adapted.curve],
        }
        nats = adapted.nats([f.sample for f in tests], read)
    return [_record(job, tests, nats, **more)]


def _record(job: Job, tests: Sequence[MeasuredFill], nats: np.ndarray, **more: Any) -> dict[str, Any]:
    return {
        "key": job.key,
        **job.__dict__,
        **more,
        "nats": [round(float(x), 4) for x in nats],
        "notes": [f.read.notes for f in tests],
        "settings": [f.setting for f in tests],
        "pieces": [f.piece for f in tests],
    }


def _tune(job: Job, files: Sequence[Path], out: Path) -> tuple[Any, dict[str, Any]]:
    """The tuning of a style, which is kept in OUT/styles, and what the records say of it."""
    from midi_rwkv.model.checkpoint import load_checkpoint
    from midi_rwkv.style.pieces import read_pieces
    from midi_rwkv.style.preparing import prepare
    from midi_rwkv.style.style import Style, save_style
    from midi_rwkv.tokens.notes import encode

    began = time.monotonic()
    checkpoint, pieces = load_checkpoint(), read_pieces(files)[0]
    tuning = prepare(pieces, checkpoint, frozen_model(), seed=job.seed)
    tuning.run()
    run, pairs = tuning.best_adapter.arrays()
    songs = [(encode(checkpoint.vocabulary, p.score), 1.0) for p in pieces] if tuning.remembers else []
    path = out / "styles" / f"{job.style}-{job.count}-{job.seed}.safetensors"
    save_style(Style(path.stem, run=run, pairs=pairs, pieces=songs), path, overwrite=True)
    return tuning, {
        "seconds": round(time.monotonic() - began, 1),
        "remembers": tuning.remembers,
        "steps": tuning.best_step,
        "rate": tuning.best_rate,
        "scale": tuning.scale,
        "held_out": [tuning.before, tuning.best],
        "curve": tuning.curve,
        "parameters": sum(a.size + b.size for a, b in pairs.values()) + run.size,
    }


def start() -> None:
    import torch

    torch.set_num_threads(1)


def run(jobs: Sequence[Job], folder: Path, out: Path, processes: int, per_setting: int) -> None:
    path = out / "results.jsonl"
    known = {r["key"] for r in read_results(out)}
    todo = [j for j in jobs if j.key not in known]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, start) as pool, path.open("a") as file:
        for future in as_completed([pool.submit(do, j, folder, out, per_setting) for j in todo]):
            for record in future.result():
                file.write(json.dumps(record) + "\n")
                file.flush()
                print(
                    f"{record['key']}: {per_note(record):.4f} nats a note, {record.get('seconds', 0):.0f} s", flush=True
                )


def write(path: Path, text: str) -> None:
    with whole_file(path) as partial:
        partial.write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("styles", type=Path, help="a folder or zip of STYLE/tune, STYLE/test")
    parser.add_argument("out", type=Path)
    parser.add_argument("--methods", default="base,style")
    parser.add_argument("--counts", default="5")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--fills", type=int, default=TEST_FILLS, help=f"per setting (default: {TEST_FILLS})")
    parser.add_argument("--only", help="only these styles")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--more", type=Path, metavar="VALID.zip")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    options.out.mkdir(parents=True, exist_ok=True)
    folder = options.styles
    if folder.is_file():
        folder = options.out / "midi"
        if not folder.exists():
            with zipfile.ZipFile(options.styles) as archive:
                archive.extractall(folder)
    if options.table:
        write(options.out / "table.md", tables(options.out))
    elif options.more:
        start()
        text = more(folder, options.out, options.more, int(options.counts), options.fills)
        write(options.out / "more.md", text)
    else:
        names = options.only.split(",") if options.only else style_names(folder)
        methods, counts, seeds = options.methods.split(","), options.counts.split(","), options.seeds.split(",")
        jobs = [
            Job(style, 0 if method == "base" else int(count), method, int(seed))
            for count, seed, style, method in product(counts, seeds, names, methods)
            if method != "base" or (count, seed) == (counts[0], seeds[0])
        ]
        run(jobs, folder, options.out, options.jobs, options.fills)


if __name__ == "__main__":
    main()
