"""How well a checkpoint predicts held-out fills, against n-gram models on the same tokens.

    python scripts/music_report.py SHARDS [--checkpoint DIR] [--per-source 24] [--out report.json]

Prints nats per note on the valid fills of `dataset.validation_samples` (the fill's ids and its closing tokens, nothing
else), per source and as the mean over sources. Every model is a probability over the whole vocabulary:

- unigram: relative frequency, add one.
- 5-gram: interpolated modified Kneser-Ney (Chen and Goodman 1999, section 3) on the last four ids of the prompt.
- 5-gram, all cells: the same over every cell of the training songs, laid out as fills; each seen once, unweighted.
- checkpoint: the whole prompt as context, fp32.

Unigram and 5-gram count as many ids as the checkpoint has seen, drawn as the trainer draws them: rows 0, 1, ... of
`dataset.TrainingRows` with the seed, row length and source weights in its config.json. These are the very rows it was
trained on, unless its row length changed on the way. As in its loss, only ids that carry music are predicted. The fills
drawn depend on the row length too: figures of checkpoints of different lengths are of different fills.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from midi_rwkv.corpus.shards import Shard
from midi_rwkv.evaluation.ngram import ORDER, NGram, fill_grams, sampled_stream
from midi_rwkv.model.checkpoint import load_checkpoint
from midi_rwkv.model.config import TrainConfig
from midi_rwkv.score.score import Cell
from midi_rwkv.tokens.prompt import PromptTokens
from midi_rwkv.tokens.tokenizer import Tokenizer
from midi_rwkv.training.dataset import Sample, TrainingRows, to_batches, validation_samples

BLOCK_BARS = 4  # of "all cells": a track that rests for a whole block is not asked for


def all_cells_stream(shards: Sequence[Shard], tokens: PromptTokens) -> tuple[np.ndarray, np.ndarray]:
    """Every song once, as if all of its cells were to be filled: bar by bar, in each bar the tracks of its block."""
    parts, counted = [], []
    for shard in shards:
        for song in (shard[i] for i in range(len(shard))):
            ids: list[int] = [tokens.pad] * (ORDER - 1)
            music = [False] * (ORDER - 1)
            lengths = np.diff(song.offsets).reshape(song.n_bars, song.n_tracks)
            for bar in range(song.n_bars):
                start = bar - bar % BLOCK_BARS
                ids += song.headers[bar]
                music += [False] * len(song.headers[bar])
                for t in np.flatnonzero(lengths[start : start + BLOCK_BARS].sum(0)).tolist():
                    cell = song.cell(Cell(t, bar)).tolist()
                    ids += [int(song.programs[t]), tokens.fill_start, *cell, tokens.fill_end]
                    music += [False, False] + [True] * (len(cell) + 1)
            parts.append(np.array(ids, np.uint16))
            counted.append(np.array(music))
    return np.concatenate(parts), np.concatenate(counted)


def deviation_from_one(model: NGram, contexts: np.ndarray) -> float:
    """The largest |sum of P(. | context) - 1| over contexts (N, at least order - 1)."""
    worst = 0.0
    for context in contexts[:, -(model.order - 1) :] if model.order > 1 else contexts[:1, :0]:
        grams = np.concatenate([np.tile(context, (model.vocab_size, 1)), np.arange(model.vocab_size)[:, None]], 1)
        worst = max(worst, abs(float(model.probability(grams).sum()) - 1))
    return worst


def checkpoint_nats(path: Path, samples: Sequence[Sample], pad: int) -> np.ndarray:
    """Nats of each sample's fill under the checkpoint, fp32 (samples,)."""
    from midi_rwkv.training.losses import fill_nats

    return fill_nats(load_checkpoint(path).model(), to_batches(samples, pad, rows=4))


def markdown(rows: Sequence[Sequence[Any]]) -> str:
    """A table; the first row is its head, the first column text, floats have three digits."""
    cells = [[f"{v:.3f}" if isinstance(v, float) else str(v) for v in row] for row in rows]
    cells.insert(1, ["---"] + ["---:"] * (len(rows[0]) - 1))
    return "\n".join("| " + " | ".join(row) + " |" for row in cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", type=Path, help="a folder made by `python -m midi_rwkv.corpus`")
    parser.add_argument("--checkpoint", type=Path, help="a checkpoint folder; without it only the n-grams")
    parser.add_argument("--per-source", type=int, default=24, help="fills of each source (default 24)")
    parser.add_argument("--ngram-tokens", type=int, help="ids to count (default: as many as the checkpoint has seen)")
    parser.add_argument("--all-cells", action="store_true", help="also the 5-gram over all cells of the training songs")
    parser.add_argument("--out", type=Path, help="write the figures here too, as JSON")
    args = parser.parse_args()

    training: dict[str, Any] = {"tokens_seen": TrainConfig().total_tokens, **TrainConfig().to_dict()}
    if args.checkpoint:
        load_checkpoint(args.checkpoint)
        training.update(json.loads((args.checkpoint / "config.json").read_text(encoding="utf-8"))["training"])
    tokens = args.ngram_tokens or training["tokens_seen"]
    tokenizer = Tokenizer.load(args.shards / "tokenizer.json")
    drawn = validation_samples(
        Shard(args.shards / "valid.npz"), tokenizer, training["seq_len"], per_source=args.per_source
    )
    samples, sources = [s for _, s, _ in drawn], np.array([s for s, _, _ in drawn])
    notes = np.array([n for _, _, n in drawn])
    rows = TrainingRows(
        args.shards, tokenizer, training["seq_len"], seed=training["seed"], weights=training["source_weights"] or None
    )
    grams, owner = fill_grams(samples)
    nats: dict[str, np.ndarray] = {}
    deviation: dict[str, float] = {}

    def measure(name: str, model: NGram) -> None:
        nats[name] = np.bincount(owner, -np.log(model.probability(grams)), len(samples))
        deviation[name] = deviation_from_one(model, grams[:: max(1, len(grams) // 20), :-1])

    ids, counted = sampled_stream(rows, tokens)
    measure("unigram", NGram(ids, counted, tokenizer.vocab_size, 1))
    measure(f"{ORDER}-gram", NGram(ids, counted, tokenizer.vocab_size))
    stream = {"ids": len(ids), "predicted": int(counted.sum())}
    if args.all_cells:
        ids, counted = all_cells_stream(rows.shards, rows.sampler.tokens)
        measure(f"{ORDER}-gram, all cells", NGram(ids, counted, tokenizer.vocab_size))
        stream |= {"all cells: ids": len(ids), "all cells: predicted": int(counted.sum())}
    if args.checkpoint:
        nats["checkpoint"] = checkpoint_nats(args.checkpoint, samples, rows.pad)

    table: list[list[Any]] = [["source", "fills", "notes", *nats]]
    for source in np.unique(sources).tolist():
        of = sources == source
        per_note = [float(n[of].sum() / notes[of].sum()) for n in nats.values()]
        table.append([source, int(of.sum()), int(notes[of].sum()), *per_note])
    means = [float(np.mean([row[3 + i] for row in table[1:]])) for i in range(len(nats))]
    table.append(["mean over sources", len(samples), int(notes.sum()), *means])
    print(markdown(table))
    worst = max(deviation.values())
    print(f"\nNats per note; fills and rows of at most {training['seq_len']} ids. Counted: {stream}.")
    print(f"The n-grams' probabilities sum to 1 within {worst:.1e}.")
    if args.out:
        report = {"table": table, "stream": stream, "training": training, "deviation_from_one": deviation}
        args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
