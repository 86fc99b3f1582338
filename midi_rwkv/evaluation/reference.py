"""The evaluation's knowledge of the training data: every run of notes in it.

It is built once from note shards (`midi-rwkv corpus`) into a folder, and then mapped from disk by every process.
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

from midi_rwkv.corpus.note_shards import NoteShard
from midi_rwkv.corpus.shards import shard_files, sources_in
from midi_rwkv.errors import CorpusError
from midi_rwkv.files import whole_file
from midi_rwkv.tokens.attributes import MICROS_PER_POSITION
from midi_rwkv.tokens.notes import AT, UNITS_PER_QUARTER, SongNotes

from .metrics import runs


@dataclass(frozen=True)
class Reference:
    """A built reference, mapped from disk. `runs`: sorted hashes (`metrics.runs`) of all runs in the training songs."""

    runs: np.ndarray

    @classmethod
    def load(cls, folder: Path) -> Reference:
        return cls(np.load(folder / "runs.npy", mmap_mode="r"))


def build_reference(shards: Path, folder: Path, say: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Builds `folder` unless it exists for the same shards. Returns what it was made from, as JSON.

    All training sources of the shards are read, those that a model was not trained on too.

    Raises:
        CorpusError: the folder holds no note shards of training songs.
    """
    files = _training_files(shards)
    crc = songs = 0
    for part in (part for file in files for part in shard_files(file)):
        crc = zlib.crc32(part.read_bytes(), crc)
        with np.load(part) as arrays:
            songs += len(arrays["names"])
    made_from: dict[str, Any] = {"sources": [f.stem for f in files], "shards": f"{crc:08x}", "songs": songs}
    marker = folder / "made_from.json"
    if marker.exists() and json.loads(marker.read_text(encoding="utf-8")) == made_from:
        return made_from
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    say(f"listing the runs of {songs:,} training songs")
    found = [np.unique(np.concatenate(list(shard_runs(NoteShard(file))))) for file in files]
    with whole_file(folder / "runs.npy") as partial, partial.open("wb") as out:
        np.save(out, np.unique(np.concatenate(found)))
    with whole_file(marker) as partial:  # written last, as a mark that the folder is complete
        partial.write_text(json.dumps(made_from), encoding="utf-8")
    return made_from


def _training_files(shards: Path) -> list[Path]:
    """The first file of each training source. Raises CorpusError unless there are some, all of notes."""
    files = [shards / f"{name}.npz" for name in sources_in(shards)]
    if not files or not all(map(_holds_notes, files)):
        raise CorpusError(
            f"{shards} holds no note shards of training songs; name a folder that `midi-rwkv corpus` wrote"
        )
    return files


def _holds_notes(file: Path) -> bool:
    with np.load(file) as arrays:
        return "notes" in arrays.files


def shard_runs(shard: NoteShard) -> Iterator[np.ndarray]:
    """The runs of notes of each track of each song."""
    for i in range(len(shard)):
        yield from song_runs(shard[i])


def song_runs(song: SongNotes) -> Iterator[np.ndarray]:
    """The runs of notes of each track. A bar counts as long as it is, whatever its metre: a pickup, for one; only of
    bars of more than 16 quarters, which the positions don't cover, the length is not known."""
    bar, track = np.divmod(np.repeat(np.arange(len(song.offsets) - 1), np.diff(song.offsets)), song.n_tracks)
    starts = np.concatenate([[0], np.cumsum(song.lengths, dtype=np.int64)])  # positions
    units = MICROS_PER_POSITION * (starts[bar] + song.notes[:, AT.position]) + song.notes[:, AT.micro]
    onsets, pitches = units / UNITS_PER_QUARTER, song.notes[:, AT.pitch].astype(np.int64)
    for t in range(song.n_tracks):
        yield runs(pitches[track == t], onsets[track == t])
