"""MIDI files -> token shards, one `.npz` a source, from which training samples are assembled without re-tokenizing.

A shard holds every song's cells (track x bar) as ids with offsets, so any window, region and track order can be cut out
of arrays. Songs are read with symusic, which is quick; `midi.read_midi` is for files that are to be edited.
"""

from __future__ import annotations

import argparse
import sys
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .score import Bar, TimeSignature, bar_grid
from .tokenizer import TokenizedSong, Tokenizer, base_tokenizer, train_tokenizer

BPE_TRAINING_SONGS = 2500


@dataclass(frozen=True)
class CorpusSong:
    """A song as arrays: per track (n, 4) onset, pitch, duration, velocity in ticks and MIDI units."""

    name: str
    tracks: list[np.ndarray]
    programs: list[tuple[int, bool]]
    bars: tuple[Bar, ...]
    tempos: list[float]  # BPM a bar
    ticks_per_beat: int


def read_song(data: bytes, name: str) -> CorpusSong:
    """Parse MIDI bytes. ValueError when nothing playable is in them."""
    from symusic import Score as SymusicScore

    try:
        score: Any = SymusicScore.from_midi(data)
    except RuntimeError as error:
        raise ValueError(f"{name}: not a readable MIDI file ({error})") from error
    tracks, programs = [], []
    for track in score.tracks:
        if len(track.notes):
            notes = track.notes.numpy()
            tracks.append(np.stack([notes[k] for k in ("time", "pitch", "duration", "velocity")], 1).astype(np.int64))
            programs.append((int(track.program), bool(track.is_drum)))
    if not tracks:
        raise ValueError(f"{name}: no notes")
    signatures = [TimeSignature(t.time, t.numerator, t.denominator) for t in score.time_signatures]
    bars = bar_grid(signatures, score.tpq, max(int(t[:, 0].max()) for t in tracks) + 1)
    changes = sorted((t.time, t.qpm) for t in score.tempos)
    ticks = np.array([t for t, _ in changes])
    at = np.searchsorted(ticks, [b.start_ticks for b in bars], side="right") - 1
    tempos = [changes[i][1] if i >= 0 else 120.0 for i in at]
    return CorpusSong(name, tracks, programs, bars, tempos, score.tpq)


def song_files(path: Path) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of every MIDI file in a zip or, recursively, a folder; sorted by name."""
    if path.is_dir():
        for file in sorted(p for p in path.rglob("*") if p.suffix.lower() in (".mid", ".midi")):
            yield file.relative_to(path).as_posix(), file.read_bytes()
    else:
        with zipfile.ZipFile(path) as archive:
            for name in sorted(n for n in archive.namelist() if n.lower().endswith((".mid", ".midi"))):
                yield name, archive.read(name)


def read_songs(path: Path) -> Iterator[CorpusSong]:
    """Every readable song of a zip or folder; the others are named on stderr."""
    for name, data in song_files(path):
        try:
            yield read_song(data, name)
        except ValueError as error:
            print(f"skipped {error}", file=sys.stderr)


def learn_tokenizer(paths: Sequence[Path], vocab_size: int, seed: int = 0) -> Tokenizer:
    """BPE over the cells of at most `BPE_TRAINING_SONGS` songs, spread evenly over the sources."""
    base = base_tokenizer()
    rng = np.random.default_rng(seed)
    texts: list[str] = []
    for path in paths:
        files = list(song_files(path))
        take = min(len(files), BPE_TRAINING_SONGS // len(paths) + 1)
        for i in sorted(rng.choice(len(files), take, replace=False)):
            try:
                song = read_song(files[i][1], files[i][0])
            except ValueError:
                continue
            for notes, (_, is_drum) in zip(song.tracks, song.programs, strict=True):
                texts += [t for t in base.cell_texts(notes, song.bars, song.ticks_per_beat, is_drum) if t]
            texts += [base.header_text(bar, song.ticks_per_beat) for bar in song.bars]
    return train_tokenizer(texts, vocab_size)


def write_shard(path: Path, songs: Sequence[tuple[str, TokenizedSong]]) -> None:
    """One `.npz` for many songs. Arrays: see `Shard`."""
    headers = sorted({h for _, s in songs for h in s.headers})
    number = {h: i for i, h in enumerate(headers)}
    np.savez_compressed(
        path,
        names=np.array([n for n, _ in songs]),
        n_tracks=np.array([s.n_tracks for _, s in songs], np.int32),
        n_bars=np.array([s.n_bars for _, s in songs], np.int32),
        programs=np.concatenate([s.programs for _, s in songs]).astype(np.uint16),
        bar_headers=np.array([number[h] for _, s in songs for h in s.headers], np.uint16),
        header_ids=np.array([i for h in headers for i in h], np.uint16),
        header_lengths=np.array([len(h) for h in headers], np.uint16),
        tempos=np.concatenate([s.tempos for _, s in songs]).astype(np.uint16),
        cells=np.concatenate([s.cells for _, s in songs]).astype(np.uint16),
        cell_lengths=np.concatenate([np.diff(s.offsets) for _, s in songs]).astype(np.uint16),
    )


class Shard:
    """The songs of one `.npz`; `shard[i]` is a `TokenizedSong` of views."""

    def __init__(self, path: str | Path):
        with np.load(path) as z:
            data = {k: z[k] for k in z.files}
        self.names = [str(n) for n in data["names"]]
        self._n_tracks, self._n_bars = data["n_tracks"].astype(np.int64), data["n_bars"].astype(np.int64)
        ends = np.cumsum(data["header_lengths"])
        table = [
            tuple(int(i) for i in data["header_ids"][e - n : e])
            for e, n in zip(ends, data["header_lengths"], strict=True)
        ]
        self._headers = [table[i] for i in data["bar_headers"]]
        self._programs, self._tempos = data["programs"].astype(np.int32), data["tempos"].astype(np.int32)
        self._cells = data["cells"]
        self._offsets = np.concatenate([[0], np.cumsum(data["cell_lengths"], dtype=np.int64)])
        self._track_at = np.concatenate([[0], np.cumsum(self._n_tracks)])
        self._bar_at = np.concatenate([[0], np.cumsum(self._n_bars)])
        self._cell_at = np.concatenate([[0], np.cumsum(self._n_tracks * self._n_bars)])

    def __len__(self) -> int:
        return len(self.names)

    @property
    def n_bars(self) -> np.ndarray:
        """Bars of each song."""
        return self._n_bars

    @property
    def n_tokens(self) -> int:
        """Ids in all cells."""
        return len(self._cells)

    def __getitem__(self, i: int) -> TokenizedSong:
        tracks = slice(self._track_at[i], self._track_at[i + 1])
        bars = slice(self._bar_at[i], self._bar_at[i + 1])
        offsets = self._offsets[self._cell_at[i] : self._cell_at[i + 1] + 1]
        return TokenizedSong(
            programs=self._programs[tracks],
            headers=tuple(self._headers[bars]),
            tempos=self._tempos[bars],
            cells=self._cells[offsets[0] : offsets[-1]],
            offsets=offsets - offsets[0],
        )


def tokenize(path: Path, tokenizer: Tokenizer) -> list[tuple[str, TokenizedSong]]:
    """Every readable song of a zip or folder as ids."""
    return [
        (s.name, tokenizer.encode_arrays(s.tracks, s.programs, s.bars, s.tempos, s.ticks_per_beat))
        for s in read_songs(path)
    ]


def build(corpus: Path, out: Path, vocab_size: int) -> None:
    """`<corpus>/<source>.train.zip` and `valid.zip` -> `<out>/tokenizer.json`, `<source>.npz`, `valid.npz`.

    An existing tokenizer in `out` is kept, so that a checkpoint's own tokenizer can be put there first.
    """
    out.mkdir(parents=True, exist_ok=True)
    sources = sorted(corpus.glob("*.train.zip"))
    if not sources:
        raise ValueError(f"no <source>.train.zip in {corpus}")
    target = out / "tokenizer.json"
    if not target.exists():
        learn_tokenizer(sources, vocab_size).save(target)
    tokenizer = Tokenizer.load(target)
    for path in [*sources, corpus / "valid.zip"]:
        songs = tokenize(path, tokenizer)
        name = path.name.removesuffix(".train.zip").removesuffix(".zip")
        write_shard(out / f"{name}.npz", songs)
        print(f"{name}: {len(songs)} songs, {sum(len(s.cells) for _, s in songs):,} tokens", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m midi_rwkv.corpus CORPUS OUT`"""
    parser = argparse.ArgumentParser(prog="midi_rwkv.corpus", description=build.__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--vocab-size", type=int, default=4096)
    options = parser.parse_args(arguments)
    build(options.corpus, options.out, options.vocab_size)


if __name__ == "__main__":
    main()
