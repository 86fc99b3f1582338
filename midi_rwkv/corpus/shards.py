"""Songs as arrays, and token shards, from which training samples are assembled without re-tokenizing.

A shard holds every song's cells (track x bar) as tokens with offsets, so that any window, region and track order can be
cut out of arrays. A source is one `<source>.npz`, and if it is large also `<source>.1.npz` and so on (`build.py` writes
them). Songs are read with symusic, which is fast, after `midi.read_midi` has checked that they can be read.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from midi_rwkv.errors import CorpusError
from midi_rwkv.files import whole_file
from midi_rwkv.score.midi import read_midi
from midi_rwkv.score.score import Bar, TimeSignature, bar_grid, bar_lines, lead_ticks, usual_lead
from midi_rwkv.tokens.tokenizer import TokenizedSong


@dataclass(frozen=True)
class CorpusSong:
    """A song as arrays: per track (n, 4) onset, pitch, duration, velocity in ticks and MIDI units."""

    name: str
    tracks: list[np.ndarray]
    programs: list[tuple[int, bool]]
    bars: tuple[Bar, ...]
    tempos: list[float]  # BPM per bar
    ticks_per_beat: int
    leads: list[int]  # ticks per track, see `score.lead_ticks`


def read_song(data: bytes, name: str, *, checked: bool = False) -> CorpusSong:
    """Parses MIDI bytes. Raises CorpusError if there is nothing playable in them.

    Our own reader comes first, because symusic may crash the process on damaged files. `checked` skips this for bytes
    that have passed it before.
    """
    from symusic import Score as SymusicScore

    if not checked:
        read_midi(data, name)
    try:
        score: Any = SymusicScore.from_midi(data)
    except RuntimeError as error:
        raise CorpusError(f"{name}: not a readable MIDI file ({error})") from error
    tracks, programs = [], []
    for track in score.tracks:
        if len(track.notes):
            notes = track.notes.numpy()
            tracks.append(np.stack([notes[k] for k in ("time", "pitch", "duration", "velocity")], 1).astype(np.int64))
            programs.append((int(track.program), bool(track.is_drum)))
    if not tracks:
        raise CorpusError(f"{name}: no notes")
    signatures = [TimeSignature(t.time, t.numerator, t.denominator) for t in score.time_signatures]
    lines = bar_lines(bar_grid(signatures, score.tpq, max(int(t[:, 0].max()) for t in tracks) + 1))
    leads = [lead_ticks(score.tpq, usual_lead(t[:, 0], lines, score.tpq)) for t in tracks]
    bars = bar_grid(signatures, score.tpq, max(int(t[:, 0].max()) + n for t, n in zip(tracks, leads, strict=True)) + 1)
    changes = sorted((t.time, t.qpm) for t in score.tempos)
    ticks = np.array([t for t, _ in changes])
    at = np.searchsorted(ticks, [b.start_ticks for b in bars], side="right") - 1
    tempos = [changes[i][1] if i >= 0 else 120.0 for i in at]
    return CorpusSong(name, tracks, programs, bars, tempos, score.tpq, leads)


def song_files(path: Path) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of every MIDI file in a zip or, recursively, in a folder, sorted by name."""
    if path.is_dir():
        for file in sorted(p for p in path.rglob("*") if p.suffix.lower() in (".mid", ".midi")):
            yield file.relative_to(path).as_posix(), file.read_bytes()
    else:
        with zipfile.ZipFile(path) as archive:
            for name in sorted(n for n in archive.namelist() if n.lower().endswith((".mid", ".midi"))):
                yield name, archive.read(name)


def write_shard(path: Path, songs: Sequence[tuple[str, TokenizedSong]]) -> None:
    """Writes one `.npz` with many songs (see `Shard`), completely or not at all. The same songs give the same bytes."""
    headers = sorted({h for _, s in songs for h in s.headers})
    number = {h: i for i, h in enumerate(headers)}
    with whole_file(path) as partial, partial.open("wb") as file:
        np.savez_compressed(
            file,
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


def shard_files(path: str | Path) -> list[Path]:
    """`a.npz` and its further parts `a.1.npz`, `a.2.npz` ..., as far as they exist."""
    files = [Path(path)]
    while (further := files[0].with_suffix(f".{len(files)}.npz")).exists():
        files.append(further)
    return files


def sources_in(folder: Path) -> list[str]:
    """The names of the training sources that have shards in a folder."""
    names = {f.name.split(".")[0] for f in folder.glob("*.npz")}
    return sorted(names - {"valid", "test"})


class Shard:
    """The songs of one `.npz` and its further parts; `shard[i]` is a `TokenizedSong` of views."""

    def __init__(self, path: str | Path):
        self._headers: list[tuple[int, ...]] = []
        parts = []
        for file in shard_files(path):
            with np.load(file) as z:
                part = {k: z[k] for k in z.files}
            ends = np.cumsum(part["header_lengths"])
            ids = [part["header_ids"][e - n : e] for e, n in zip(ends, part["header_lengths"], strict=True)]
            table = [tuple(int(i) for i in x) for x in ids]
            self._headers += [table[i] for i in part["bar_headers"]]
            parts.append(part)
        data = parts[0] if len(parts) == 1 else {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
        self.names = [str(n) for n in data["names"]]
        self._n_tracks, self._n_bars = data["n_tracks"].astype(np.int64), data["n_bars"].astype(np.int64)
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
        """The number of bars of each song."""
        return self._n_bars

    @property
    def n_tokens(self) -> int:
        """The number of tokens in all cells."""
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
