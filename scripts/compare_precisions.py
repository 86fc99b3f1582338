"""What int8 weights cost in nats per note, on valid fills that both precisions read alike.

    python scripts/compare_precisions.py valid.zip [--checkpoint DIR] [--per-source 20]

The fills are those of `dataset.validation_samples`. The engine's own logits are scored: the prompt is prefilled, the
rest stepped, and every id of the fill (and what closes its cells) counts by its negative log likelihood, in nats,
divided by the fills' notes. Sources count alike.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from midi_rwkv.corpus.shards import Shard, read_song, song_files, write_shard
from midi_rwkv.engine.engine import Engine
from midi_rwkv.engine.make import make_engine
from midi_rwkv.model.checkpoint import load_checkpoint
from midi_rwkv.training.dataset import FILL, Sample, validation_samples


def nats(engine: Engine, sample: Sample) -> float:
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


def compare(engines: dict[str, Engine], samples: list[tuple[str, Sample, int]]) -> None:
    """Print nats per note of each source and engine, and each engine's difference from the first."""
    sources = sorted({source for source, _, _ in samples})
    losses = {
        name: np.array([nats(engine, sample) for _, sample, _ in samples], np.float64)
        for name, engine in engines.items()
    }
    rows = []
    print(f"{'nats per note':24}{'fills':>6}{'notes':>7}" + "".join(f"{name:>12}" for name in engines))
    for source in sources:
        mine = np.array([s == source for s, _, _ in samples])
        notes = sum(n for s, _, n in samples if s == source)
        rows.append([x[mine].sum() / notes for x in losses.values()])
        print(f"{source:24}{mine.sum():6}{notes:7}" + "".join(f"{x:12.4f}" for x in rows[-1]))
    table = np.array(rows)
    print(f"{'mean of sources':24}{len(samples):6}{'':7}" + "".join(f"{x:12.4f}" for x in table.mean(0)))
    apart = table - table[:, :1]
    print(f"{'less the first':37}" + "".join(f"{x:+12.4f}" for x in apart.mean(0)))
    print(f"{'its standard error':37}" + "".join(f"{x:12.4f}" for x in apart.std(0, ddof=1) / len(table) ** 0.5))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, help="a zip or folder of MIDI files, one folder a source")
    parser.add_argument("--checkpoint", type=Path, help="another model than the one that ships")
    parser.add_argument("--per-source", type=int, default=20, help="fills of each source (default 20)")
    args = parser.parse_args()
    checkpoint = load_checkpoint(args.checkpoint)
    encode = checkpoint.tokenizer.encode_arrays
    songs = [(name, read_song(data, name)) for name, data in song_files(args.files)]
    cells = [
        (name, encode(s.tracks, s.programs, s.bars, s.tempos, ticks_per_beat=s.ticks_per_beat, leads=s.leads))
        for name, s in songs
    ]
    with tempfile.TemporaryDirectory() as folder:
        write_shard(Path(folder) / "valid.npz", cells)
        shard = Shard(Path(folder) / "valid.npz")
    samples = validation_samples(shard, checkpoint.tokenizer, checkpoint.context, per_source=args.per_source)
    head_size = checkpoint.config.head_size
    engines = {p: make_engine(checkpoint.weights, head_size, backend="numba", precision=p) for p in ("float32", "int8")}
    compare(engines, samples)


if __name__ == "__main__":
    main()
