"""Trains small runs that differ in one thing, and makes one table per question: nats per note on validation fills.

    python scripts/experiments.py SHARDS OUT --group order              # train what is missing, one after another
    python scripts/experiments.py SHARDS OUT --group rate --tokens 2000000 --seeds 0,1 --n-layer 4 --n-embd 128
    python scripts/experiments.py SHARDS OUT --table                    # OUT/experiments.md from the results so far

`--n-layer` and `--n-embd` set the size of all runs except those of the group shape. A run that two groups share is
trained once. Runs resume where they stopped. In a group whose variants differ in time per token (shape, arch), each is
trained for as long as `--tokens` of the first take; the speeds are measured beforehand, in turn, on this machine.
SHARDS is a folder of `midi-rwkv corpus`.

Beside the mean over sources of nats per note, each run reports the loss on cells whose notes also occur literally in
the prompt (repeats), and on all others.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from script_helpers.tables import markdown

from midi_rwkv.files import whole_file
from midi_rwkv.model.config import TrainConfig
from midi_rwkv.tokens.prompt import ORDERS


@dataclass(frozen=True)
class Variant:
    """What a run has that the others of its group don't: overrides of TrainConfig and ModelConfig."""

    name: str
    train: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)

    def settings(self, **common: Any) -> str:
        """What tells its run from others, whatever it is called."""
        return json.dumps({"train": self.train, "model": self.model, **common}, sort_keys=True)


def weights_by(power: float, shards: Path) -> dict[str, float]:
    """Source weights in proportion to (tokens of the source) ** power."""
    from midi_rwkv.corpus.shards import Shard, sources_in

    found = {name: Shard(shards / f"{name}.npz").n_tokens for name in sources_in(shards)}
    total = sum(n**power for n in found.values())
    return {name: round(n**power / total, 4) for name, n in found.items()}


def groups(shards: Path) -> dict[str, list[Variant]]:
    """Every question with its variants; the first is what the rest is measured against."""
    return {
        "order": [Variant(x, {"order": x}) for x in ORDERS],
        "rate": [
            Variant("2e-3"),
            Variant("1e-3", {"lr": 1e-3}),
            Variant("4e-3", {"lr": 4e-3}),
            Variant("2e-3, decayed over the whole run", {"decay_fraction": 1.0}),
        ],
        "batch": [Variant(f"{n} rows of 1,024", {"batch_size": n}) for n in (4, 1, 2, 8)],
        "sources": [
            Variant("musical use"),
            Variant("proportional", {"source_weights": weights_by(1.0, shards)}),
            Variant("square root", {"source_weights": weights_by(0.5, shards)}),
        ],
        "shape": [
            Variant("8 x 256", model=size(8, 256)),
            Variant("4 x 384", model=size(4, 384)),
            Variant("14 x 192", model=size(14, 192)),
            Variant("6 x 192", model=size(6, 192)),
            Variant("4 x 128", model=size(4, 128)),
            Variant("2 x 192", model=size(2, 192)),
        ],
        "heads": [Variant("of 64"), Variant("of 32", model={"head_size": 32})],
        "arch": [Variant("rwkv7"), Variant("transformer", model={"arch": "transformer"})],
    }


def size(n_layer: int, n_embd: int) -> dict[str, Any]:
    return {"n_layer": n_layer, "n_embd": n_embd}


AT_EQUAL_TIME = ("shape", "arch")


def make_trainer(variant: Variant, shards: Path, run: Path, config: Any) -> Any:
    """A trainer, new or going on, of one variant."""
    from midi_rwkv.evaluation.transformer import TransformerTrainer
    from midi_rwkv.model.config import ModelConfig
    from midi_rwkv.training.trainer import Trainer

    model = ModelConfig(**variant.model)
    kind = TransformerTrainer if model.arch == "transformer" else Trainer
    return kind(shards, run, model, replace(config, **variant.train))


def step_seconds(variants: Sequence[Variant], shards: Path, out: Path, config: Any) -> list[float]:
    """Seconds a token of each variant, the least of five steps taken in turn."""
    trainers = [make_trainer(v, shards, out / "speed" / v.name, config) for v in variants]
    batches = [iter(t.batches()) for t in trainers]
    best = [np.inf] * len(variants)
    for round_number in range(6):
        for i, (trainer, rows) in enumerate(zip(trainers, batches, strict=True)):
            batch = next(rows)
            began = time.perf_counter()
            trainer.train_step(batch, batch.targets)
            if round_number:
                best[i] = min(best[i], time.perf_counter() - began)
    return [b / (t.config.batch_size * t.config.seq_len) for b, t in zip(best, trainers, strict=True)]


def literal_cells(ids: np.ndarray, roles: np.ndarray, fill_end: int, separators: frozenset[int]) -> np.ndarray:
    """Which ids of a sample's fill belong to a cell whose notes occur in the same ids before it; ids, roles: (T,).

    separators: ids that begin or end a cell in the context.
    """
    from midi_rwkv.training.dataset import FILL

    out = np.zeros(len(ids), bool)
    seen: set[tuple[int, ...]] = set()
    cell: list[int] = []
    filling: list[int] = []  # places of the fill that is being read
    for at, (i, role) in enumerate(zip(ids.tolist(), roles.tolist(), strict=True)):
        if role == FILL:
            filling.append(at)
            if i == fill_end:
                notes = tuple(ids[filling[:-1]].tolist())
                out[filling] = bool(notes) and notes in seen
                seen.add(notes)
                filling = []
        elif i in separators:
            seen.add(tuple(cell))
            cell = []
        else:
            cell.append(i)
    return out


def repeats(trainer: Any) -> dict[str, float]:
    """Nats per note of literal repeats and of all other cells, over all validation fills."""
    import torch

    from midi_rwkv.training.dataset import FILL
    from midi_rwkv.training.losses import wanted_nats

    tokenizer = trainer.tokenizer
    special = ("Program", "Bar_None", "TimeSig", "Infill", "FillBar", "Context", "Song", "Track", "AC", "Tempo", "BOS")
    named = [i for i, parts in enumerate(tokenizer.expansions) if tokenizer.base_names[parts[0]].startswith(special)]
    end, separators = trainer.rows.sampler.tokens.fill_end, frozenset(named)
    nats, notes = np.zeros(2), np.zeros(2)
    with torch.no_grad(), trainer.autocast():
        for ids, roles, _ in trainer.valid_batches:
            literal = np.stack([literal_cells(i, r, end, separators) for i, r in zip(ids, roles, strict=True)])
            for kind, wanted in enumerate((literal, (roles == FILL) & ~literal)):
                found, _ = wanted_nats(trainer.model, ids, wanted)
                nats[kind] += float(found.double().sum())
                notes[kind] += float(tokenizer.notes_per_id[ids[wanted]].sum())
    return {
        "repeats": round(nats[0] / max(1, notes[0]), 4),
        "other": round(nats[1] / max(1, notes[1]), 4),
        "literal_notes": int(notes[0]),
        "notes": int(notes.sum()),
    }


@dataclass(frozen=True)
class Plan:
    """What the runs of all groups have in common. model, batch_size: of all variants that do not differ in it."""

    shards: Path
    out: Path
    tokens: int
    seeds: Sequence[int]
    model: dict[str, Any] = field(default_factory=dict)
    batch_size: int = TrainConfig.batch_size

    def variants(self, group: str) -> list[Variant]:
        common = {"batch_size": self.batch_size}
        every = groups(self.shards)[group]
        return [replace(v, model={**self.model, **v.model}, train={**common, **v.train}) for v in every]


def run_group(name: str, plan: Plan) -> None:
    """Train and measure what OUT/results.jsonl does not have yet."""
    shards, out, tokens = plan.shards, plan.out, plan.tokens
    config = TrainConfig(
        seq_len=1024, total_tokens=tokens, warmup_tokens=tokens // 20, eval_tokens=tokens, save_seconds=120
    )
    variants = plan.variants(name)
    budgets = [tokens] * len(variants)
    if name in AT_EQUAL_TIME:
        seconds = step_seconds(variants, shards, out, config)
        budgets = [round(tokens * seconds[0] / s) for s in seconds]
    for seed in plan.seeds:
        for variant, budget in zip(variants, budgets, strict=True):
            settings = variant.settings(tokens=tokens, seed=seed)
            same = [r for r in read_results(out) if r["settings"] == settings]
            named = {"group": name, "variant": variant.name}
            if any(r["group"] == name for r in same):
                continue
            if same:
                add_result(out, {**same[0], **named})
                continue
            key = f"{name}/{variant.name}/{tokens}/{seed}"
            own = replace(config, total_tokens=budget, warmup_tokens=budget // 20, eval_tokens=budget, seed=seed)
            trainer = make_trainer(variant, shards, out / "runs" / key, own)
            began = time.monotonic()
            trainer.run()
            record = {
                **named,
                "settings": settings,
                "tokens": trainer.tokens,
                "seed": seed,
                "seconds": round(time.monotonic() - began),
                "parameters": sum(p.numel() for p in trainer.model.parameters()),
                "nats": trainer.evaluate(),
                **repeats(trainer),
            }
            add_result(out, record)
            print(f"{key}: {record['nats']:.4f} nats per note, {record['seconds']} s", flush=True)


def add_result(out: Path, record: dict[str, Any]) -> None:
    with (out / "results.jsonl").open("a") as file:
        file.write(json.dumps(record) + "\n")


def read_results(out: Path) -> list[dict[str, Any]]:
    path = out / "results.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def table(out: Path) -> str:
    """Markdown, a table a group; means over seeds, with their spread where there are several."""
    results, lines = read_results(out), []
    for name in dict.fromkeys(r["group"] for r in results):
        mine = [r for r in results if r["group"] == name]
        rows = []
        for variant in dict.fromkeys(r["variant"] for r in mine):
            runs = [r for r in mine if r["variant"] == variant]
            nats = [r["nats"] for r in runs]
            spread = f" ± {(max(nats) - min(nats)) / 2:.3f} ({len(nats)})" if len(nats) > 1 else ""
            rest = [f"{np.mean([r[k] for r in runs]):.3f}" for k in ("repeats", "other")]
            size = [f"{runs[0][k]:,}" for k in ("tokens", "parameters")]
            rows.append([variant, *size, f"{np.mean(nats):.3f}{spread}", *rest])
        head = ["variant", "tokens", "parameters", "nats per note", "repeats", "other"]
        lines += [f"\n### {name}\n", markdown(head, rows)]
    return "\n".join(lines).strip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shards", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--group", action="append", default=[], help="the question; repeat for several")
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--seeds", default="0")
    parser.add_argument(
        "--batch-size", type=int, default=TrainConfig.batch_size, help="rows per step, in all groups except batch"
    )
    parser.add_argument("--n-layer", type=int)
    parser.add_argument("--n-embd", type=int)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.group:
        import torch

        torch.set_num_threads(options.threads)
    names = list(groups(options.shards)) if options.group else []
    for name in options.group:
        if name not in names:
            parser.error(f"--group must be one of {', '.join(names)}, given {name!r}")
        model = {k: v for k in ("n_layer", "n_embd") if (v := getattr(options, k))}
        seeds = [int(s) for s in options.seeds.split(",")]
        run_group(name, Plan(options.shards, options.out, options.tokens, seeds, model, options.batch_size))
    if options.table:
        with whole_file(options.out / "experiments.md") as partial:
            partial.write_text(table(options.out))
        print(table(options.out))


if __name__ == "__main__":
    main()
