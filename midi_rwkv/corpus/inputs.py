"""The inputs of a corpus: folders, zips and parquet files of MIDI, divided into chunks that any process can read.

A chunk names files and holds no music, so it is small to send. Its reader must be able to open its path (on a cluster,
a shared folder). Chunks depend only on the files, never on the number of processes.
"""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from midi_rwkv.errors import CorpusError, packages_for

CHUNK_FILES = 64
MIDI_SUFFIXES = (".mid", ".midi", ".kar")
# Columns of a parquet file that may name its files; the first that exists is used.
NAME_COLUMNS = ("name", "file_name", "filename", "path", "file", "id", "md5")
LICENCE_COLUMNS = ("licence", "license")


class File(NamedTuple):
    """A MIDI file read from an input."""

    name: str  # SOURCE/..., unique in the corpus
    data: bytes
    licence: str
    lost: bool = False  # a process died on it, so it is not read again


@dataclass(frozen=True)
class Source:
    """One input.

    Attributes:
        split: where all its pieces go, or "" for a split by piece.
        name: "" if each file's folder names its source.
    """

    name: str
    path: Path
    split: str = ""
    licence: str = ""
    licences: Mapping[str, str] = field(default_factory=dict)  # by file, from a manifest


@dataclass(frozen=True)
class Chunk:
    """Some files of one source, in order: files of a "folder", members of a "zip" or row groups of a "parquet"."""

    source: str
    split: str
    kind: str
    path: str
    prefix: str
    keys: tuple[str, ...]
    licences: tuple[str, ...]  # one per key; for a parquet file without a licence column, one for all
    journal: str = ""  # where to record which file is about to be read, or ""
    lost: frozenset[int] = frozenset()  # places of the files on which a process died


def find_sources(inputs: Sequence[str], licences: Mapping[str, str] | None = None) -> list[Source]:
    """The sources for texts of the form `[NAME=]PATH`.

    A folder of `<source>.train.zip` files is a corpus that is already split: its `valid.zip` and `test.zip` hold one
    folder per source. A `manifest.csv` beside them (columns id, licence) gives the licences.

    Args:
        licences: by source, for files without one in a manifest.

    Raises:
        CorpusError: a path is missing, or two inputs have the same name.
    """
    licences = dict(licences or {})
    found: list[Source] = []
    for text in inputs:
        name, equals, rest = text.partition("=")
        path = Path(rest if equals else text)
        if not path.exists():
            raise CorpusError(f"{path} does not exist")
        ready = sorted(path.glob("*.train.zip")) if path.is_dir() else []
        if ready:
            told = read_manifest(path / "manifest.csv")
            for file in ready:
                source = file.name.removesuffix(".train.zip")
                found.append(Source(source, file, "train", licences.get(source, ""), told))
            held_out = [(path / f"{split}.zip", split) for split in ("valid", "test")]
            found += [Source("", file, split, "", told) for file, split in held_out if file.exists()]
            continue
        source = name if equals else path.name if path.is_dir() else path.stem.removesuffix(".train")
        if not path.is_dir() and path.suffix.lower() not in (".zip", ".parquet", *MIDI_SUFFIXES):
            raise CorpusError(f"{path} is no folder, .zip, .parquet or MIDI file")
        told = read_manifest((path if path.is_dir() else path.parent) / "manifest.csv")
        found.append(Source(source, path, "", licences.get(source, ""), told))
    names = [s.name for s in found if s.name]
    for n in names:
        if names.count(n) > 1:
            raise CorpusError(f"two inputs are called {n}; name one of them otherwise: OTHER=PATH")
        if n in ("valid", "test") or not n.replace("_", "").replace("-", "").isalnum():
            raise CorpusError(
                f"{n!r} cannot name a source (letters, digits, - and _; not valid or test); use NAME=PATH"
            )
    unknown = sorted(set(licences) - set(names))
    if unknown:
        raise CorpusError(f"--licence {unknown[0]}=...: there is no such source; there is {', '.join(sorted(names))}")
    return found


def read_manifest(path: Path) -> dict[str, str]:
    """The licences in a manifest.csv by id (file name without suffix); empty if there is no manifest."""
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        if not {"id", "licence"} <= set(rows.fieldnames or ()):
            return {}
        return {row["id"]: row["licence"] for row in rows}


def chunks(source: Source) -> Iterator[Chunk]:
    """The source's files in the order of their names. Raises CorpusError if a zip or parquet file is broken."""
    path = source.path
    if not path.is_dir():
        yield from _chunks_of(source, path, "")
        return
    loose: list[str] = []
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        inside = file.relative_to(path).as_posix()
        if file.suffix.lower() in MIDI_SUFFIXES:
            loose.append(inside)
        elif file.suffix.lower() in (".zip", ".parquet"):
            yield from _chunks_of(source, file, inside.rsplit(".", 1)[0])
    yield from _cut(source, "folder", path, "", loose)


def _chunks_of(source: Source, path: Path, prefix: str) -> Iterator[Chunk]:
    if path.suffix.lower() in MIDI_SUFFIXES:
        yield from _cut(source, "folder", path.parent, prefix, [path.name])
    elif path.suffix.lower() == ".zip":
        try:
            with zipfile.ZipFile(path) as archive:
                names = sorted(n for n in archive.namelist() if n.lower().endswith(MIDI_SUFFIXES))
        except zipfile.BadZipFile as error:
            raise CorpusError(f"{path} is not a readable zip ({error})") from error
        yield from _cut(source, "zip", path, prefix, [n for n in names if not n.startswith("__MACOSX/")])
    else:
        table = open_parquet(path)
        column_of(table.schema_arrow, path)
        for group in range(table.num_row_groups):
            yield Chunk(source.name, source.split, "parquet", str(path), prefix, (str(group),), (source.licence,))


def _cut(source: Source, kind: str, path: Path, prefix: str, names: Sequence[str]) -> Iterator[Chunk]:
    for at in range(0, len(names), CHUNK_FILES):
        keys = tuple(names[at : at + CHUNK_FILES])
        told = tuple(source.licences.get(k.rsplit(".", 1)[0], source.licence) for k in keys)
        yield Chunk(source.name, source.split, kind, str(path), prefix, keys, told)


def read_chunk(chunk: Chunk) -> Iterator[File]:
    """The chunk's files, each of which is recorded in the chunk's journal first."""
    for place, file in enumerate(_files(chunk)):
        if place in chunk.lost:
            yield file._replace(lost=True)
            continue
        if chunk.journal:
            Path(chunk.journal).write_text(f"{place} {file.name}", encoding="utf-8", errors="replace")
        yield file


def read_journal(path: str) -> tuple[int, str]:
    """Place and name of the file that was read last, or (-1, "")."""
    try:
        place, _, name = Path(path).read_text(encoding="utf-8").partition(" ")
    except OSError:
        return -1, ""
    return int(place), name


def _files(chunk: Chunk) -> Iterator[File]:
    if chunk.kind == "zip":
        with zipfile.ZipFile(chunk.path) as archive:
            for key, licence in zip(chunk.keys, chunk.licences, strict=True):
                yield File(_name(chunk, key), archive.read(key), licence)
    elif chunk.kind == "folder":
        for key, licence in zip(chunk.keys, chunk.licences, strict=True):
            yield File(_name(chunk, key), (Path(chunk.path) / key).read_bytes(), licence)
    else:
        yield from _read_rows(chunk)


def _name(chunk: Chunk, key: str) -> str:
    inside = f"{chunk.prefix}/{key}" if chunk.prefix else key
    return inside if not chunk.source or inside.startswith(f"{chunk.source}/") else f"{chunk.source}/{inside}"


def open_parquet(path: Path | str) -> Any:
    """A pyarrow ParquetFile. Raises CorpusError if the file is broken, MissingPackageError without pyarrow."""
    with packages_for(f"reading {path}"):
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    try:
        return ParquetFile(path)
    except (ArrowException, OSError) as error:
        raise CorpusError(f"{path} is not a readable parquet file ({error})") from error


def column_of(schema: Any, path: Path | str) -> str:
    """The column with the MIDI files: the first that holds bytes, or a struct with a field `bytes`."""
    import pyarrow as pa

    for f in schema:
        inner = {g.name for g in f.type} if pa.types.is_struct(f.type) else set()
        if pa.types.is_binary(f.type) or pa.types.is_large_binary(f.type) or "bytes" in inner:
            return str(f.name)
    raise CorpusError(f"{path} has no column of bytes; it has {', '.join(schema.names)}")


def _read_rows(chunk: Chunk) -> Iterator[File]:
    table = open_parquet(chunk.path)
    column = column_of(table.schema_arrow, chunk.path)
    names = next((n for n in NAME_COLUMNS if n in table.schema_arrow.names and n != column), None)
    licences = next((n for n in LICENCE_COLUMNS if n in table.schema_arrow.names), None)
    wanted = [n for n in (column, names, licences) if n]
    for group in map(int, chunk.keys):
        first = sum(table.metadata.row_group(g).num_rows for g in range(group))
        for row, values in enumerate(table.read_row_group(group, wanted).to_pylist(), first):
            data = values[column]
            if isinstance(data, dict):
                data = data["bytes"]
            key = f"{row:07}" + (f"-{values[names]}" if names else "")
            licence = str((licences and values[licences]) or chunk.licences[0])
            yield File(_name(chunk, key), data or b"", licence)
