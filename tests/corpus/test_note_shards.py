"""`midi-rwkv corpus`: MIDI files to shards of notes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from midi_rwkv.commands.cli import main
from midi_rwkv.corpus.note_shards import NoteShard
from midi_rwkv.corpus.shards import sources_in
from midi_rwkv.score.midi import read_midi
from midi_rwkv.tokens.attributes import Vocabulary
from midi_rwkv.tokens.notes import encode


@pytest.fixture
def songs(tmp_path: Path, build_midi: Callable[..., bytes], note: Callable[..., list[tuple[int, bytes]]]) -> Path:
    """A folder of 12 songs, a line and drums each."""
    folder = tmp_path / "folk"
    folder.mkdir()
    for seed in range(12):
        rng = np.random.default_rng(seed)
        pitches = 60 + np.cumsum(rng.integers(-4, 5, 48)).clip(-20, 20)
        line = [e for k, p in enumerate(pitches) for e in note(k * 480 + int(rng.integers(0, 9)), int(p), 200)]
        beat = [e for k in range(24) for e in note(k * 960, 36 + 2 * (k % 2), 100, channel=9)]
        (folder / f"{seed}.mid").write_bytes(build_midi([line, beat]))
    return folder


def test_the_shards_hold_the_songs_notes(songs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "shards"
    assert not main(["corpus", str(songs), str(out), "--valid", "0.2"])
    assert "notes/s" in capsys.readouterr().out
    assert sources_in(out) == ["folk"]
    vocabulary = Vocabulary.load(out / "tokenizer.json")
    found = 0
    for name in ("folk", "valid"):
        shard = NoteShard(out / f"{name}.npz")
        for i, file in enumerate(shard.names):
            song = encode(vocabulary, read_midi(songs.parent / file))
            assert np.array_equal(shard[i].notes, song.notes)
            assert shard.chords(i).in_bar(0)
            found += 1
    assert found == 12
