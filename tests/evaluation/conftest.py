"""Made-up songs, a tiny checkpoint, and one evaluation of everything that the tests look at."""

import json
import shutil

import numpy as np
import pytest
from evaluated import BAR, OPTIONS, in_this_process, write_shard
from song import vocabulary

import midi_rwkv
from midi_rwkv.commands.cli import main
from midi_rwkv.corpus.note_shards import encode_song
from midi_rwkv.corpus.shards import read_song, song_files


@pytest.fixture(autouse=True)
def no_processes():
    with in_this_process():
        yield


@pytest.fixture(scope="session")
def songs(build_midi, note, tmp_path_factory):
    """Two sources of two songs each, sixteen bars of lead, bass and, in one source, drums; one lead is often silent."""
    rng = np.random.default_rng(1)
    folder = tmp_path_factory.mktemp("songs")
    metre = [(0, bytes.fromhex("ff580404021808"))]
    for i, name in enumerate(("folk/one", "folk/two", "pop/one", "pop/two")):
        lead, bass, kit = [], [], []
        for b in range(16):
            for beat in range(4):
                at = b * BAR + beat * 480
                if name != "folk/two" or not 4 <= b < 14:
                    pitch = 60 + int(rng.integers(0, 12))
                    lead += note(at, pitch, 240)
                    if beat == 2:
                        lead = sorted([*lead, *note(at, pitch + 4, 240)], key=lambda event: event[0])
                kit += note(at, 36 + 2 * (beat % 2), 60, 90, 9)
            bass += note(b * BAR, 36 + (b * (i + 2)) % 7, 900, channel=1)
        tracks = [metre, lead, [(0, b"\xc1\x21"), *bass], *([kit] if name.startswith("pop") else [])]
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / f"{name}.mid").write_bytes(build_midi(tracks))
    return folder


@pytest.fixture(scope="session")
def tiny(checkpoint_folder, tmp_path_factory):
    """The tiny checkpoint under a name of its own; it reads whole songs."""
    folder = shutil.copytree(checkpoint_folder, tmp_path_factory.mktemp("trained") / "tiny")
    record = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**record, "context": 4096}))
    return folder


@pytest.fixture(scope="session")
def note_shards(songs, tmp_path_factory):
    """A folder of note shards: the songs of the source `folk` to train on, and all songs to validate with."""
    folder = tmp_path_factory.mktemp("shards")
    read = [(name, read_song(data, name, checked=True)) for name, data in song_files(songs)]
    encoded = [(name, encode_song(vocabulary(), song).notes) for name, song in read]
    write_shard(folder / "folk.npz", [(name, song) for name, song in encoded if name.startswith("folk")])
    write_shard(folder / "valid.npz", encoded)
    vocabulary().save(folder / "tokenizer.json")
    return folder


@pytest.fixture(scope="session")
def done(songs, note_shards, tiny, tmp_path_factory):
    """The folder of an evaluation of everything."""
    out = tmp_path_factory.mktemp("evaluation") / "out"
    with in_this_process():
        report = midi_rwkv.evaluate(songs, out, checkpoint=tiny, shards=note_shards, **OPTIONS)
    assert json.loads((out / "report.json").read_text()) == json.loads(json.dumps(report))
    return out


@pytest.fixture
def command(songs, note_shards, tiny, capsys):
    """command("--seed", 3, out=...) -> (exit code, stdout, stderr) of `midi-rwkv evaluate` with the options above."""

    def call(*arguments, out, files=songs, checkpoint=tiny):
        options = ["--shards", note_shards, "--cases", 6, "--bars", 2, "--seed", 3, "--jobs", 1, "--no-audio"]
        whole = ["evaluate", files, "--out", out, "--checkpoint", checkpoint, *options, *arguments]
        return main([str(a) for a in whole]), *capsys.readouterr()

    return call
