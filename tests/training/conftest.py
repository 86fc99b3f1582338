"""Note shards for the tests of this folder."""

from pathlib import Path

import pytest
from song import random_song, repeating_song, vocabulary

from midi_rwkv.corpus.note_shards import ChordedSong, write_note_shard
from midi_rwkv.tokens.chords import find_chords
from midi_rwkv.tokens.notes import SongNotes


def write(folder: Path, songs: dict[str, list[SongNotes]]) -> Path:
    """A shard of these songs for each source, and the tokenizer."""
    for name, mine in songs.items():
        chorded = [ChordedSong(s, find_chords(s, vocabulary())) for s in mine]
        write_note_shard(folder / f"{name}.npz", [(f"{name}/{i}.mid", s) for i, s in enumerate(chorded)])
    vocabulary().save(folder / "tokenizer.json")
    return folder


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sources `a` and `games` of one song that repeats itself, the one that is measured too."""
    return write(tmp_path_factory.mktemp("shards"), {n: [repeating_song(24)] for n in ("a", "games", "valid")})


@pytest.fixture(scope="session")
def varied_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sources of several songs each, and a few songs to measure on."""
    songs = {
        name: [random_song(10 * k + i, bars=20) for i in range(5)] + [repeating_song()]
        for k, name in enumerate(("games", "pop909", "valid"))
    }
    return write(tmp_path_factory.mktemp("varied"), songs)
