"""The evaluation's knowledge of the training data: a note n-gram, the confidence of copies, and every run of notes.

It is built once from token shards into a folder, and then mapped from disk by every process.
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from midi_rwkv.corpus.shards import Shard, shard_files
from midi_rwkv.errors import CorpusError
from midi_rwkv.files import whole_file
from midi_rwkv.model.checkpoint import Checkpoint, tokenizer_hash
from midi_rwkv.model.config import TrainConfig
from midi_rwkv.score.score import POSITIONS_PER_BEAT
from midi_rwkv.tokens.tokenizer import Kind, TokenizedSong, Tokenizer
from midi_rwkv.training.dataset import TrainingRows

from .baselines import calibrate
from .metrics import runs
from .ngram import NGram, sampled_stream


@dataclass(frozen=True)
class Reference:
    """A built reference, mapped from disk.

    Attributes:
        ngram: counted on as many tokens as the checkpoint was trained on, drawn by the same sampler and seed.
        confidence: of copies, see `baselines.calibrate`.
        runs: sorted hashes (`metrics.runs`) of all runs of notes in the training songs.
    """

    ngram: NGram
    confidence: dict[str, np.ndarray]
    runs: np.ndarray

    @classmethod
    def load(cls, folder: Path) -> Reference:
        confidence = json.loads((folder / "confidence.json").read_text(encoding="utf-8"))
        return cls(
            NGram.load(folder / "ngram"),
            {kind: np.array(values) for kind, values in confidence.items()},
            np.load(folder / "runs.npy", mmap_mode="r"),
        )


def build_reference(
    shards: Path, checkpoint: Checkpoint, folder: Path, say: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Builds `folder` unless it exists for the same shards and checkpoint. Returns what it was made from, as JSON.

    Raises:
        CorpusError: the shards were tokenized with another tokenizer than the checkpoint's.
    """
    tokenizer = Tokenizer.load(shards / "tokenizer.json") if (shards / "tokenizer.json").exists() else None
    if tokenizer is None or tokenizer_hash(tokenizer) != tokenizer_hash(checkpoint.tokenizer):
        raise CorpusError(
            f"{shards} has not the checkpoint's tokenizer; put {checkpoint.path / 'tokenizer.json'} there and build "
            "the shards again with `midi-rwkv corpus`"
        )
    training = {"tokens_seen": 0, **TrainConfig().to_dict(), **checkpoint.training}
    rows = TrainingRows(
        shards, tokenizer, training["seq_len"], seed=training["seed"], weights=training["source_weights"] or None
    )
    crc = 0
    for name in rows.weights:
        for file in shard_files(shards / f"{name}.npz"):
            crc = zlib.crc32(file.read_bytes(), crc)
    made_from: dict[str, Any] = {
        "tokenizer": tokenizer_hash(tokenizer),
        "ngram_ids": training["tokens_seen"] or training["total_tokens"],
        "seq_len": training["seq_len"],
        "seed": training["seed"],
        "source_weights": rows.weights,
        "shards": f"{crc:08x}",
        "songs": sum(len(s) for s in rows.shards),
        "corpus_ids": sum(s.n_tokens for s in rows.shards),
    }
    marker = folder / "made_from.json"
    if marker.exists() and json.loads(marker.read_text(encoding="utf-8")) == made_from:
        return made_from
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    say(f"counting the n-gram on {made_from['ngram_ids']:,} ids")
    ids, counted = sampled_stream(rows, made_from["ngram_ids"])
    NGram(ids, counted, tokenizer.vocab_size).save(folder / "ngram")
    say("calibrating the copies")
    _write_json(folder / "confidence.json", calibrate(rows.shards, tokenizer))
    say(f"listing the runs of {made_from['songs']:,} training songs")
    found = [np.unique(np.concatenate(list(shard_runs(shard, tokenizer)))) for shard in rows.shards]
    with whole_file(folder / "runs.npy") as partial, partial.open("wb") as out:
        np.save(out, np.unique(np.concatenate(found)))
    _write_json(marker, made_from)  # written last, as a mark that the folder is complete
    return made_from


def shard_runs(shard: Shard, tokenizer: Tokenizer) -> Iterator[np.ndarray]:
    """The runs of notes of each track of each song."""
    sizes = np.array([len(e) for e in tokenizer.expansions])
    starts = np.concatenate([[0], np.cumsum(sizes)])
    flat = np.array([b for e in tokenizer.expansions for b in e])
    for i in range(len(shard)):
        song = shard[i]
        # Base tokens of all cells, one after another, and the cell each belongs to.
        count = sizes[song.cells]
        cell = np.repeat(np.repeat(np.arange(len(song.offsets) - 1), np.diff(song.offsets)), count)
        within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        base = flat[np.repeat(starts[song.cells], count) + within]
        kind, value = tokenizer.base_kind[base], tokenizer.base_value[base]
        is_position = kind == Kind.POSITION
        position = value[np.maximum.accumulate(np.where(is_position, np.arange(len(base)), 0))] if len(base) else value
        note = kind == Kind.PITCH
        bar, track = np.divmod(cell[note], song.n_tracks)
        onset = (_bar_starts(song, tokenizer)[bar] + position[note]) / POSITIONS_PER_BEAT
        for t in range(song.n_tracks):
            yield runs(value[note][track == t], onset[track == t])


def _write_json(path: Path, value: Any) -> None:
    with whole_file(path) as partial:
        partial.write_text(json.dumps(value), encoding="utf-8")


def _bar_starts(song: TokenizedSong, tokenizer: Tokenizer) -> np.ndarray:
    """Each bar's start in positions, from its time signature."""
    length = {}
    for header in set(song.headers):
        names = [tokenizer.base_names[b] for i in header for b in tokenizer.expansions[i]]
        numerator, denominator = next(n for n in names if n.startswith("TimeSig_"))[8:].split("/")
        length[header] = POSITIONS_PER_BEAT * 4 * int(numerator) / int(denominator)
    return np.concatenate([[0], np.cumsum([length[h] for h in song.headers])[:-1]])
