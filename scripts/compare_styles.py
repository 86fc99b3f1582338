"""Compares state tuning with other ways to learn a style, on folders STYLE/tune and STYLE/test of MIDI files.

    python scripts/compare_styles.py styles.zip OUT --methods base,state,lora-4 --counts 5 --seeds 0,1,2
    python scripts/compare_styles.py styles.zip OUT --methods lora-32@60     # 60 steps instead of 20
    python scripts/compare_styles.py styles.zip OUT --table            # OUT/table.md from the results so far
    python scripts/compare_styles.py styles.zip OUT --more valid.zip   # all styles on all, on paths between, on valid

Every method learns from the first COUNT pieces of `tune`, in name order, and is measured on the same fills of the test
pieces. Results are added to OUT/results.jsonl one by one, and those that exist are not computed again.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from script_helpers.tables import markdown

from midi_rwkv.files import whole_file

TEST_FILLS, TEST_SEED = 60, 1000
VALID_FILLS = 8  # per source
STRENGTHS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Job:
    style: str
    count: int
    method: str
    seed: int

    @property
    def key(self) -> str:
        return f"{self.style}/{self.count}/{self.method}/{self.seed}"


def style_names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if (p / "tune").is_dir())


def drawn(pieces: Sequence[Any], count: int) -> list[np.ndarray]:
    """Samples of pieces, (n, columns) each, with the context that a fill would read."""
    from midi_rwkv.model.checkpoint import load_checkpoint
    from midi_rwkv.style.pieces import draw_fills

    checkpoint = load_checkpoint()
    units = [(p, (0, len(p.score.bars))) for p in pieces]
    found = draw_fills(
        units, checkpoint.vocabulary, count=count, seed=TEST_SEED, held_out=True, budget=checkpoint.context
    )
    return [sample for _, sample in found]


def read_all(samples: Sequence[np.ndarray]) -> list[Any]:
    """The samples, with everything before the first cell read."""
    from midi_rwkv.engine.make import make_engine
    from midi_rwkv.engine.tables import StepTables
    from midi_rwkv.model.checkpoint import load_checkpoint
    from midi_rwkv.style.tuning import read_fill

    checkpoint = load_checkpoint()
    engine = make_engine(checkpoint.trunk, checkpoint.config.head_size)
    tables = StepTables(checkpoint.weights, checkpoint.vocabulary.sizes)
    return [read_fill(engine, tables, checkpoint.vocabulary, sample, unit=0) for sample in samples]


@lru_cache(1)
def test_samples(folder: Path, style: str) -> list[np.ndarray]:
    """Of the test pieces."""
    from midi_rwkv.style.pieces import read_pieces

    return drawn(read_pieces([folder / style / "test"])[0], TEST_FILLS)


@lru_cache(1)
def test_fills(folder: Path, style: str) -> list[Any]:
    return read_all(test_samples(folder, style))


@lru_cache(1)
def frozen_model() -> Any:
    from midi_rwkv.model.checkpoint import load_checkpoint
    from midi_rwkv.model.step_checkpoint import step_model_of

    return step_model_of(load_checkpoint()).requires_grad_(requires_grad=False)


def do(job: Job, folder: Path, out: Path) -> dict[str, Any]:
    """Runs one method on one style."""
    from midi_rwkv.model.checkpoint import load_checkpoint
    from midi_rwkv.style.adapters import STEPS, adapt
    from midi_rwkv.style.personalize import prepare
    from midi_rwkv.style.pieces import read_pieces
    from midi_rwkv.style.style import Style, save_style
    from midi_rwkv.style.tuning import fills_nats

    checkpoint = load_checkpoint()
    files = sorted((folder / job.style / "tune").glob("*.mid"))[: job.count]
    began = time.monotonic()
    more: dict[str, Any] = {}
    if job.method == "base":
        seconds = 0.0
        nats = fills_nats(frozen_model(), test_fills(folder, job.style))
    elif job.method == "state":
        tuning = prepare(read_pieces(files)[0], checkpoint, frozen_model(), seed=job.seed)
        tuning.run()
        seconds = time.monotonic() - began
        path = out / "styles" / f"{job.style}-{job.count}-{job.seed}.safetensors"
        save_style(Style(path.stem, run=tuning.best_state.numpy()), path)
        nats = tuning.nats(test_fills(folder, job.style))
        more = {
            "steps": tuning.best_step,
            "rate": tuning.best_rate,
            "scale": tuning.scale,
            "held_out": [tuning.before, tuning.best],
            "parameters": tuning.states[0][0].numel(),
        }
    else:
        method, _, steps = job.method.partition("@")
        adapted = adapt(method, checkpoint, read_pieces(files)[0], seed=job.seed, steps=int(steps or STEPS))
        seconds = time.monotonic() - began
        nats = adapted.nats(test_samples(folder, job.style))
        more = {"steps": adapted.steps, "parameters": adapted.parameters, "held_out": list(adapted.held_out)}
    return {
        "key": job.key,
        **job.__dict__,
        "seconds": round(seconds, 1),
        **more,
        "nats": [round(float(x), 4) for x in nats],
        "notes": [f.notes for f in test_fills(folder, job.style)],
    }


def start() -> None:
    import torch

    torch.set_num_threads(1)


def run(jobs: Sequence[Job], folder: Path, out: Path, processes: int) -> None:
    path = out / "results.jsonl"
    known = {r["key"] for r in read_results(out)}
    todo = [j for j in jobs if j.key not in known]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, start) as pool, path.open("a") as file:
        for future in as_completed([pool.submit(do, j, folder, out) for j in todo]):
            record = future.result()
            file.write(json.dumps(record) + "\n")
            file.flush()
            per_note = sum(record["nats"]) / sum(record["notes"])
            print(f"{record['key']}: {per_note:.4f} nats a note, {record['seconds']:.0f} s", flush=True)


def read_results(out: Path) -> list[dict[str, Any]]:
    path = out / "results.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def per_note(record: dict[str, Any]) -> float:
    return float(sum(record["nats"]) / sum(record["notes"]))


def table(out: Path) -> str:
    """Markdown: one table per number of pieces, then the cost of each method."""
    results = read_results(out)
    base = {r["style"]: r for r in results if r["method"] == "base"}
    styles = sorted(base)
    lines = []
    for count in sorted({r["count"] for r in results if r["method"] != "base"}):
        bases = [per_note(base[s]) for s in styles]
        rows = [["base", *(f"{b:.4f}" for b in bases), f"{np.mean(bases):.4f}"]]
        for method in dict.fromkeys(r["method"] for r in results if r["method"] != "base"):
            cells, gains = [], []
            for style, b in zip(styles, bases, strict=True):
                own = [
                    per_note(r) - b for r in results if (r["style"], r["count"], r["method"]) == (style, count, method)
                ]
                if not own:
                    cells.append("")
                    continue
                gains.append(np.mean(own))
                cells.append(f"{gains[-1]:+.4f}" + interval(own))
            if gains:
                rows.append([method, *cells, f"{np.mean(gains):+.4f}"])
        lines += [f"\n{count} pieces\n", markdown(["method", *styles, "mean"], rows)]
    rows = []
    for method in dict.fromkeys(r["method"] for r in results if r["method"] != "base"):
        runs = [r for r in results if r["method"] == method and r["count"] == 5]
        if runs:
            seconds, steps = (np.median([r.get(k, 0) for r in runs]) for k in ("seconds", "steps"))
            rows.append([method, f"{runs[0].get('parameters', 0):,}", f"{seconds:.0f}", f"{steps:.0f}"])
    lines += ["", markdown(["method", "parameters", "median seconds", "median steps"], rows)]
    lines += ["\npaired over test fills, mean of the seeds: fills that got better, and p (Wilcoxon)\n"]
    lines.append(markdown(["count, method against", *styles], list(paired(results, base, styles))))
    return "\n".join(lines) + "\n"


def paired(results: list[dict[str, Any]], base: dict[str, Any], styles: Sequence[str]) -> Iterator[list[str]]:
    from scipy.stats import wilcoxon

    def mean_nats(style: str, count: int, method: str) -> np.ndarray | None:
        if method == "base":
            return np.array(base[style]["nats"])
        own = [r["nats"] for r in results if (r["style"], r["count"], r["method"]) == (style, count, method)]
        return np.mean(own, 0) if own else None

    counts = sorted({r["count"] for r in results if r["method"] != "base"})
    others = ["base", *dict.fromkeys(r["method"] for r in results if r["method"] not in ("base", "state"))]
    for count, other in product(counts, others):
        cells = []
        for style in styles:
            a, b = mean_nats(style, count, "state"), mean_nats(style, count, other)
            if a is None or b is None:
                cells.append("")
                continue
            better, p = float((a < b).mean()), float(wilcoxon(a, b).pvalue)
            cells.append(f"{100 * better:.0f} %, {p:.2g}")
        if any(cells):
            yield [f"{count}, state against {other}", *cells]


def interval(values: Sequence[float]) -> str:
    """Half the width of the mean's 95 % interval."""
    from scipy.stats import sem, t

    if len(values) < 2:
        return ""
    return f" ± {t.ppf(0.975, len(values) - 1) * sem(values):.4f}"


def grid(title: str, heads: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table under a title."""
    return f"\n{title}\n\n{markdown(['', *map(str, heads)], rows)}\n"


def more(folder: Path, out: Path, valid: Path, count: int) -> str:
    """Every style on every style's fills, along the path from the base and between styles, and on `valid`."""
    import torch

    from midi_rwkv.model.checkpoint import load_checkpoint
    from midi_rwkv.style.style import load_style
    from midi_rwkv.style.tuning import fills_nats

    checkpoint, model, styles = load_checkpoint(), frozen_model(), style_names(folder)
    states: dict[str, list[Any]] = {}
    for style in styles:
        found = [load_style(p, checkpoint).run for p in sorted((out / "styles").glob(f"{style}-{count}-*.safetensors"))]
        states[style] = [torch.from_numpy(run) for run in found if run is not None]

    def losses(fills: Sequence[Any], *chosen: Any) -> list[str]:
        """Against the base, one for each state; a list of states: their mean."""
        plain, notes = fills_nats(model, fills).sum(), sum(f.notes for f in fills)
        sums = [
            np.mean([fills_nats(model, fills, s).sum() for s in (c if isinstance(c, list) else [c])]) for c in chosen
        ]
        return [f"{(x - plain) / notes:+.4f}" for x in sums]

    columns, paths, between = [], [], []
    for k, style in enumerate(styles):
        fills, own = test_fills(folder, style), states[style][0]
        other = styles[(k + 1) % len(styles)]
        columns.append(losses(fills, *(states[s] for s in styles)))
        paths.append([style, *losses(fills, *(w * own for w in STRENGTHS))])
        between.append([f"{style} to {other}", *losses(fills, *((1 - w) * own + w * states[other][0] for w in SHARES))])
        print(style, flush=True)
    fills, plain = valid_fills(valid)
    seeds = f"mean of {len(states[styles[0]])} seeds"
    return "".join(
        [
            grid(
                f"nats a note against the base: the row's style ({count} pieces, {seeds}) on the column's test fills",
                styles,
                [[s, *row] for s, row in zip(styles, zip(*columns, strict=True), strict=True)],
            ),
            grid("the style at strengths", STRENGTHS, paths),
            grid(
                "one style mixed with the next, by the second's share, on the first one's test fills", SHARES, between
            ),
            grid(f"on {plain}", ["against the base"], [[s, *losses(fills, states[s])] for s in styles]),
        ]
    )


def valid_fills(valid: Path) -> tuple[list[Any], str]:
    """Fills of every source's first pieces, and what to call them."""
    from midi_rwkv.style.pieces import read_pieces

    sources: dict[str, list[Path]] = {}
    fills = []
    with zipfile.ZipFile(valid) as archive, tempfile.TemporaryDirectory() as temporary:
        archive.extractall(temporary)
        for path in sorted(Path(temporary).rglob("*.mid")):
            sources.setdefault(path.parent.name, []).append(path)
        for paths in sources.values():
            fills += read_all(drawn(read_pieces(paths[:VALID_FILLS])[0], VALID_FILLS))
    return fills, f"{len(fills)} fills of {len(sources)} sources of {valid.name}"


def write(path: Path, text: str) -> None:
    with whole_file(path) as partial:
        partial.write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("styles", type=Path, help="a folder or zip of STYLE/tune, STYLE/test")
    parser.add_argument("out", type=Path)
    parser.add_argument("--methods", default="base,state")
    parser.add_argument("--counts", default="5")
    parser.add_argument("--seeds", default="0")
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
        write(options.out / "table.md", table(options.out))
    elif options.more:
        start()
        write(options.out / "more.md", more(folder, options.out, options.more, int(options.counts)))
    else:
        names = options.only.split(",") if options.only else style_names(folder)
        methods, counts, seeds = options.methods.split(","), options.counts.split(","), options.seeds.split(",")
        jobs = [
            Job(style, 0 if method == "base" else int(count), method, int(seed))
            for count, seed, style, method in product(counts, seeds, names, methods)
            if method != "base" or (count, seed) == (counts[0], seeds[0])
        ]
        run(jobs, folder, options.out, options.jobs)


if __name__ == "__main__":
    main()
