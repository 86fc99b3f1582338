"""Shards of songs as notes: every song's cells in a few arrays, from which training samples are cut.

A source is one `<source>.npz`, or where it is large also `<source>.1.npz` and so on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from midi_rwkv.errors import CorpusError
from midi_rwkv.files import whole_file
from midi_rwkv.tokens.attributes import DRUMS, Vocabulary
from midi_rwkv.tokens.chords import SongChords, find_chords
from midi_rwkv.tokens.notes import SongNotes, TrackArray, encode_arrays
from midi_rwkv.tokens.packed import PackedSongs, pack

from .shards import CorpusSong, shard_files

_KEPT = 64  # songs a shard keeps at hand


@dataclass(frozen=True)
class ChordedSong:
    """A song as notes, and its chords."""

    notes: SongNotes
    chords: SongChords


def load_vocabulary(folder: Path) -> Vocabulary:
    """The vocabulary of a folder of shards. Raises CorpusError where there is none."""
    path = folder / "tokenizer.json"
    if not path.exists():
        raise CorpusError(f"{folder} holds no note shards (no tokenizer.json); make them with `midi-rwkv corpus`")
    try:
        return Vocabulary.load(path)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorpusError(f"{path} is damaged or of another version ({error}); build shards in a new folder") from error


def encode_song(vocabulary: Vocabulary, song: CorpusSong) -> ChordedSong:
    """A file's notes and chords."""
    notes = encode_arrays(
        vocabulary,
        [
            TrackArray(notes, DRUMS if is_drum else program, lead)
            for notes, (program, is_drum), lead in zip(song.tracks, song.programs, song.leads, strict=True)
        ],
        song.bars,
        song.tempos,
        ticks_per_beat=song.ticks_per_beat,
    )
    return ChordedSong(notes, find_chords(notes, vocabulary))


def write_note_shard(path: Path, songs: Sequence[tuple[str, ChordedSong]]) -> None:
    """One `.npz` for many songs, whole or not at all. The same songs give the same bytes."""
    chords = [s.chords for _, s in songs]
    with whole_file(path) as partial, partial.open("wb") as file:
        arrays: dict[str, Any] = {
            "names": np.array([n for n, _ in songs]),
            **pack([s.notes for _, s in songs]),
            "n_beats": np.array([len(c.beats) for c in chords], np.int32),
            "chords": np.concatenate([c.beats for c in chords]),
            "beats": np.concatenate([np.diff(c.offsets) for c in chords]).astype(np.uint8),
        }
        np.savez_compressed(file, **arrays)


class NoteShard:
    """What `write_note_shard` wrote, further parts too: `shard[i]` is a `SongNotes`, `shard.chords(i)` its chords."""

    def __init__(self, path: str | Path):
        parts = []
        for file in shard_files(path):
            with np.load(file) as z:
                parts.append({k: z[k] for k in z.files})
        data = parts[0] if len(parts) == 1 else {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
        self.names = [str(n) for n in data["names"]]
        self._data = data
        self._songs = PackedSongs(data)
        self.n_bars = self._songs.n_bars
        self._bar_at, self._beat_at = (
            np.concatenate([[0], np.cumsum(n)]) for n in (self.n_bars, data["n_beats"].astype(np.int64))
        )
        self.song = lru_cache(maxsize=_KEPT)(self._songs.__getitem__)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def n_notes(self) -> int:
        return len(self._data["notes"])

    def __getitem__(self, i: int) -> SongNotes:
        song: SongNotes = self.song(i)
        return song

    def chords(self, i: int) -> SongChords:
        """The chords of song i."""
        beats = self._data["beats"][slice(*self._bar_at[i : i + 2])]
        columns = self._data["chords"][slice(*self._beat_at[i : i + 2])]
        return SongChords(columns, np.concatenate([[0], np.cumsum(beats, dtype=np.int64)]))
