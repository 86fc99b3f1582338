"""Builds note shards from any number of MIDI files: read, judge, split, encode, write.

    midi-rwkv corpus INPUT ... OUT

Every file is read twice, in chunks, by as many processes as requested. The first reading judges it and computes its
sketch. Then copies are left out and splits are drawn, for all pieces at once. The second reading encodes the pieces
that are kept. Chunks and their order depend only on the inputs, and results are taken in that order, so the shards are
the same, byte for byte, wherever the work is done. Memory holds one sketch per piece and one part of a shard.
"""

from __future__ import annotations

import csv
import functools
import json
import os
import shutil
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from midi_rwkv.errors import CorpusError, RequestError, packages_for
from midi_rwkv.files import whole_files
from midi_rwkv.model.config import Config
from midi_rwkv.tokens.attributes import Vocabulary, make_vocabulary

from .checks import Filters, Piece, Sorted, scan, sort_pieces
from .engines import Engine
from .inputs import Chunk, chunks, find_sources, read_chunk
from .note_shards import ChordedSong, encode_song, load_vocabulary, write_note_shard
from .shards import read_song

PART_NOTES = 8_000_000  # about this many per file, and in memory


@dataclass(frozen=True, kw_only=True)
class CorpusConfig(Config):
    """The options of a build.

    Attributes:
        valid, test: shares of the pieces that have no split yet.
    """

    valid: float = 0.05
    test: float = 0.0
    filters: Filters = field(default_factory=Filters)
    licences: dict[str, str] = field(default_factory=dict)  # by source, for files without one in a manifest

    def __post_init__(self) -> None:
        if not (self.valid >= 0 and self.test >= 0 and self.valid + self.test < 1):
            raise RequestError(f"valid and test must be shares that leave some, got {self.valid} and {self.test}")


@functools.cache
def _vocabulary(params: str) -> Vocabulary:
    """The vocabulary of a tokenizer's JSON. Made once per process."""
    return Vocabulary(json.loads(params))


Encoded = tuple[int, str, ChordedSong]  # place in the chunk, name


def encode(chunk: Chunk, places: Collection[int], params: str) -> tuple[list[Encoded], float]:
    """Encodes the files of a chunk whose places are given. `params` is the tokenizer's JSON.

    Returns the songs and the worker's `peak_memory`.
    """
    out: list[Encoded] = []
    for place, file in enumerate(read_chunk(chunk)):
        if place in places and not file.lost:
            song = read_song(file.data, file.name, checked=True)
            out.append((place, file.name, encode_song(_vocabulary(params), song)))
    return out, peak_memory()


class ShardWriter:
    """Writes songs to `<name>.npz`, `<name>.1.npz` ..., with at most one part in memory."""

    def __init__(self, folder: Path, name: str):
        self.folder, self.name, self.parts = folder, name, 0
        self.songs: list[tuple[str, ChordedSong]] = []
        self.notes = self.total = self.count = 0

    def add(self, name: str, song: ChordedSong) -> None:
        self.songs.append((name, song))
        self.notes += len(song.notes.notes)
        self.total += len(song.notes.notes)
        self.count += 1
        if self.notes >= PART_NOTES:
            self.flush()

    def flush(self) -> None:
        if self.songs:
            suffix = f".{self.parts}" if self.parts else ""
            write_note_shard(self.folder / f"{self.name}{suffix}.npz", self.songs)
            self.songs, self.notes, self.parts = [], 0, self.parts + 1

    def close(self) -> str:
        """Writes the remaining songs. Returns a line that says what was written."""
        self.flush()
        return f"{self.name}: {self.count:,} songs, {self.total:,} notes"


@contextmanager
def _whole_folder(out: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yields a folder beside `out`, whose files move there when all are complete: all or none.

    Old shards are removed only then. A kill leaves that folder (`.*.partial`) behind.
    """
    if out.exists() and not out.is_dir():
        raise CorpusError(f"{out} is a file; the last argument names the folder to write")

    def written() -> set[Path]:
        found = {*out.glob("*.npz"), *out.glob("pieces.csv")}
        if found and not overwrite:
            raise CorpusError(f"{out} holds shards already ({min(found).name} ...); use --overwrite to replace them")
        return found

    written()
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(".partial", f".{out.name[:100]}-", out.parent))
    try:
        yield folder
        out.mkdir(exist_ok=True)
        old = written()  # another process may have built there in the meantime
        files = sorted(folder.iterdir())
        with whole_files([out / file.name for file in files], overwrite=overwrite) as partials:
            for file, partial in zip(files, partials, strict=True):
                os.replace(file, partial)
        for file in old - {out / file.name for file in files}:
            file.unlink()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Reading:
    """The result of the first reading: the pieces in order, the (chunk, place) of each, and its split."""

    work: Sequence[Chunk]
    pieces: Sequence[Piece]
    places: Sequence[tuple[int, int]]
    sorted_: Sorted


def build(
    inputs: Sequence[str],
    out: Path,
    *,
    config: CorpusConfig | None = None,
    engine: Engine | None = None,
    overwrite: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Builds `<source>.npz`, `valid.npz`, `test.npz`, `pieces.csv` and `tokenizer.json` in a folder.

    pieces.csv has one line per file: its split, licence and size, or why it was left out. An existing tokenizer in
    `out` is kept, so that a checkpoint's own can be put there first.

    Args:
        inputs: see `find_sources`.
        say: receives one line per phase and source.

    Raises:
        CorpusError: an input cannot be read, or nothing is left; `out` is then unchanged.
    """
    with packages_for("corpus"):  # fail now rather than after all files have been read
        import datasketch  # noqa: F401
    config, engine = config or CorpusConfig(), engine or Engine()
    work = [c for source in find_sources(inputs, config.licences) for c in chunks(source)]
    if not work:
        raise CorpusError(f"no MIDI files in {', '.join(inputs)}")
    lost: set[str] = set()

    def on_lost(name: str) -> None:
        lost.add(name)
        say(f"skipped {name}: reading it ended the process")

    with _whole_folder(out, overwrite=overwrite) as folder, engine.started(on_lost):
        reading = _read(engine, work, config, say)
        if (out / "tokenizer.json").exists():
            vocabulary = load_vocabulary(out)
            say(f"took {out / 'tokenizer.json'}, which was there")
        else:
            vocabulary = make_vocabulary()
            vocabulary.save(folder / "tokenizer.json")
        began = time.perf_counter()
        total = _encode(engine, reading, vocabulary.params, folder, say=say)
        say(f"wrote {total:,} notes, {_rate(total, began)} notes/s")
        _write_pieces(folder / "pieces.csv", reading, lost)


def _read(engine: Engine, work: Sequence[Chunk], config: CorpusConfig, say: Callable[[str], None]) -> Reading:
    """The first reading: judges every file, leaves out copies, and draws splits."""
    began = time.perf_counter()
    read = list(engine.run(scan, [(c, config.filters) for c in work]))
    pieces = [p for part in read for p in part]
    places = [(c, k) for c, part in enumerate(read) for k in range(len(part))]
    say(f"read {len(pieces):,} files, {_rate(len(pieces), began)} files/s, {peak_memory():.0f} MiB")
    sorted_ = sort_pieces(pieces, config.filters, {"valid": config.valid, "test": config.test})
    for reason, count in Counter(r.split(":")[0].split(" of ")[0] for r in sorted_.reasons if r).most_common():
        say(f"left out {count:,}: {reason}")
    if "train" not in sorted_.splits:
        raise CorpusError(f"nothing is left to train on of {len(pieces)} files; first: {_first(pieces, sorted_)}")
    return Reading(work, pieces, places, sorted_)


def _encode(
    engine: Engine, reading: Reading, params: dict[str, Any], folder: Path, *, say: Callable[[str], None]
) -> int:
    """The second reading: writes each piece that is kept to the shards of its source or split. Returns their notes."""
    splits = reading.sorted_.splits
    wanted: dict[int, set[int]] = defaultdict(set)  # places by chunk
    number = {}
    for i, (chunk, place) in enumerate(reading.places):
        number[chunk, place] = i
        if splits[i]:
            wanted[chunk].add(place)
    jobs = [(reading.work[c], wanted[c], json.dumps(params, ensure_ascii=False)) for c in sorted(wanted)]
    held_out = {split: ShardWriter(folder, split) for split in ("valid", "test")}
    writer: ShardWriter | None = None
    total = 0
    peak = 0.0
    for c, (songs, held) in zip(sorted(wanted), engine.run(encode, jobs), strict=True):
        peak = max(peak, held)
        for place, name, song in songs:
            i = number[c, place]
            total += len(song.notes.notes)
            if splits[i] != "train":
                held_out[splits[i]].add(name, song)
                continue
            source = reading.pieces[i].source
            if writer is None or writer.name != source:  # chunks come source by source
                if writer is not None:
                    say(writer.close())
                writer = ShardWriter(folder, source)
            writer.add(name, song)
    for last in (writer, *held_out.values()):
        if last is not None and last.count:
            say(last.close())
    say(f"at most {peak_memory():.0f} MiB of memory here, {peak:.0f} MiB in a worker")
    return total


def _write_pieces(path: Path, reading: Reading, lost: Collection[str]) -> None:
    splits, reasons = reading.sorted_.splits, reading.sorted_.reasons
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["name", "source", "split", "licence", "bars", "notes", "left_out"])
        for p, split, reason in zip(reading.pieces, splits, reasons, strict=True):
            if not reason and p.name in lost:
                split, reason = "", "broken: encoding it ended the process"
            writer.writerow([p.name, p.source, split, p.licence or "unknown", p.bars, p.notes, reason])


def _first(pieces: Sequence[Piece], sorted_: Sorted) -> str:
    return next((f"{p.name} ({r})" for p, r in zip(pieces, sorted_.reasons, strict=True) if r), "all are held out")


def _rate(count: int, began: float) -> str:
    return f"{count / max(1e-9, time.perf_counter() - began):,.0f}"


def peak_memory() -> float:
    """The peak memory of this process in MiB, or 0 if the system does not report it."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0.0
    return next(int(x.split()[1]) for x in status.read_text().splitlines() if x.startswith("VmHWM")) / 1024
