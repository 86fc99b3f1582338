"""Songs as arrays, and the files that shards of them are in: a source is one `<source>.npz`, and if it is large also
`<source>.1.npz` and so on.

Songs are read with symusic, which is fast, after `midi.read_midi` has checked that they can be read.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from midi_rwkv.errors import CorpusError
from midi_rwkv.score.midi import read_midi
from midi_rwkv.score.score import Bar, TimeSignature, bar_grid, bar_lines, lead_ticks, usual_lead


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
