"""Nats per note of a checkpoint on held-out fills, against n-grams on the same tokens, or in int8 against float32.

    python scripts/measure_nats.py SHARDS [--checkpoint DIR] [--per-source 24] [--out report.json]
    python scripts/measure_nats.py SHARDS --precisions [--checkpoint DIR] [--per-source 16]

The fills are those of `dataset.validation_samples` (SHARDS/valid.npz). Only the fill's tokens and its closing tokens
count, and all sources have the same weight. Every model is a probability over the whole vocabulary:

- unigram: relative frequency, add one.
- 5-gram: interpolated modified Kneser-Ney (Chen and Goodman 1999, section 3) on the last four tokens of the prompt.
- 5-gram, all cells: the same, counted once on every cell of the training songs, laid out as fills and unweighted.
- checkpoint: with the whole prompt as context, in float32.
- with --precisions: the compiled engine in each precision, with the prompt prefilled and the rest stepped.

Unigram and 5-gram are counted on as many tokens as the checkpoint has seen, drawn as in training: rows 0, 1, ... of
`dataset.TrainingRows` with the seed, row length and source weights in its config.json. These are the rows it was
trained on, unless its row length changed during training. As in its loss, only tokens that carry music are predicted.
The fills also depend on the row length, so checkpoints with different row lengths are measured on different fills.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from script_helpers.tables import markdown

from midi_rwkv.corpus.shards import Shard
from midi_rwkv.engine.engine import TokenEngine
from midi_rwkv.engine.make import make_engine
from midi_rwkv.evaluation.ngram import ORDER, NGram, fill_grams, sampled_stream
from midi_rwkv.evaluation.transformer import module_of
from midi_rwkv.files import whole_file
from midi_rwkv.model.checkpoint import Checkpoint, load_checkpoint
from midi_rwkv.model.config import TrainConfig
from midi_rwkv.score.score import Cell
from midi_rwkv.tokens.prompt import PromptTokens
from midi_rwkv.tokens.tokenizer import Tokenizer
from midi_rwkv.training.dataset import FILL, Sample, TrainingRows, to_batches, validation_samples
from midi_rwkv.training.losses import fill_nats

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


def engine_nats(engine: TokenEngine[Any], sample: Sample) -> float:
    """Negative log likelihood of the fill, in nats."""
    ids, state, total = sample.ids, engine.new_state(), 0.0
    first = sample.roles.index(FILL)
    logits = engine.prefill(ids[:first], state)[0]
    for token, role in zip(ids[first:], sample.roles[first:], strict=True):
        if role == FILL:
            x = logits.astype(np.float64)
            total += float(np.log(np.exp(x - x.max()).sum()) + x.max() - x[token])
        logits = engine.step([token], state)[0]
    return total


def by_source(
    nats: Mapping[str, np.ndarray], sources: np.ndarray, notes: np.ndarray
) -> tuple[list[list[Any]], np.ndarray]:
    """Rows of a table, a source each and their mean at the end; and nats per note, (sources, models)."""
    rows: list[list[Any]] = []
    for source in np.unique(sources).tolist():
        of = sources == source
        per_note = [float(n[of].sum() / notes[of].sum()) for n in nats.values()]
        rows.append([source, int(of.sum()), int(notes[of].sum()), *per_note])
    table = np.array([row[3:] for row in rows])
    rows.append(["mean over sources", len(sources), int(notes.sum()), *table.mean(0).tolist()])
    return rows, table


def compare_precisions(
    checkpoint: Checkpoint, samples: Sequence[Sample], sources: np.ndarray, notes: np.ndarray
) -> None:
    """Prints a table, and how far int8 is from float32."""
    nats = {}
    for precision in ("float32", "int8"):
        engine = make_engine(checkpoint.weights, checkpoint.config.head_size, backend="numba", precision=precision)
        nats[precision] = np.array([engine_nats(engine, sample) for sample in samples])
    rows, table = by_source(nats, sources, notes)
    print(markdown(["source", "fills", "notes", *nats], rows))
    apart = table[:, 1] - table[:, 0]
    error = apart.std(ddof=1) / len(apart) ** 0.5 if len(apart) > 1 else float("nan")
    print(f"\nint8 costs {apart.mean():+.4f} nats per note (standard error {error:.4f}, worst {apart.max():+.4f}).")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", type=Path, help="a folder that `midi-rwkv corpus` wrote")
    parser.add_argument("--checkpoint", type=Path, help="a checkpoint folder (default: the one that ships)")
    parser.add_argument("--per-source", type=int, default=24, help="fills per source (default: 24)")
    parser.add_argument(
        "--ngram-tokens", type=int, help="tokens to count (default: as many as the checkpoint has seen)"
    )
    parser.add_argument("--all-cells", action="store_true", help="also the 5-gram over all cells of the training songs")
    parser.add_argument("--precisions", action="store_true", help="compare int8 with float32 instead of n-grams")
    parser.add_argument("--out", type=Path, help="also write the figures here as JSON")
    args = parser.parse_args()

    checkpoint = load_checkpoint(args.checkpoint)
    training: dict[str, Any] = {**TrainConfig().to_dict(), **checkpoint.training}
    tokenizer = Tokenizer.load(args.shards / "tokenizer.json")
    valid = Shard(args.shards / "valid.npz")
    drawn = validation_samples(
        valid, tokenizer, training["seq_len"], per_source=args.per_source, order=checkpoint.prompt
    )
    samples, sources = [s for _, s, _ in drawn], np.array([s for s, _, _ in drawn])
    notes = np.array([n for _, _, n in drawn])
    if args.precisions:
        compare_precisions(checkpoint, samples, sources, notes)
        return
    rows = TrainingRows(
        args.shards,
        tokenizer,
        training["seq_len"],
        seed=training["seed"],
        weights=training["source_weights"] or None,
        order=checkpoint.prompt,
    )
    grams, owner = fill_grams(samples)
    nats: dict[str, np.ndarray] = {}
    deviation: dict[str, float] = {}

    def measure(name: str, model: NGram) -> None:
        nats[name] = np.bincount(owner, -np.log(model.probability(grams)), len(samples))
        deviation[name] = deviation_from_one(model, grams[:: max(1, len(grams) // 20), :-1])

    tokens = args.ngram_tokens or training.get("tokens_seen", training["total_tokens"])
    ids, counted = sampled_stream(rows, tokens)
    measure("unigram", NGram(ids, counted, tokenizer.vocab_size, 1))
    measure(f"{ORDER}-gram", NGram(ids, counted, tokenizer.vocab_size))
    stream = {"tokens": len(ids), "predicted": int(counted.sum())}
    if args.all_cells:
        ids, counted = all_cells_stream(rows.shards, rows.sampler.tokens)
        measure(f"{ORDER}-gram, all cells", NGram(ids, counted, tokenizer.vocab_size))
        stream |= {"all cells: tokens": len(ids), "all cells: predicted": int(counted.sum())}
    nats["checkpoint"] = fill_nats(module_of(checkpoint), to_batches(samples, rows.pad, rows=4))

    head = ["source", "fills", "notes", *nats]
    table, _ = by_source(nats, sources, notes)
    print(markdown(head, table))
    worst = max(deviation.values())
    print(f"\nNats per note; fills and rows of at most {training['seq_len']} tokens. Counted: {stream}.")
    print(f"The n-grams' probabilities sum to 1 within {worst:.1e}.")
    if args.out:
        report = {"table": [head, *table], "stream": stream, "training": training, "deviation_from_one": deviation}
        with whole_file(args.out) as partial:
            partial.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
