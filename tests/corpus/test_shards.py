"""Folders and zips of MIDI files; and, where the corpus is at hand, real songs through the real command."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from midi_rwkv.corpus.shards import read_song, song_files
from midi_rwkv.score.midi import read_midi

ROOT = Path(__file__).parents[2]
CORPUS = ROOT.parent / "shared" / "corpus"


@pytest.fixture(scope="module")
def songs(build_midi, note):
    head = [(0, bytes.fromhex("ff58040302" + "1808")), (0, bytes.fromhex("ff510307a120"))]
    out = {}
    for i in range(6):
        melody = [e for b in range(9) for k in range(3) for e in note(b * 1440 + k * 480, 55 + (i + b * k) % 12, 400)]
        drums = [e for b in range(9) for e in note(b * 1440, 36, 100, channel=9)]
        out[f"{i:04}.mid"] = build_midi([head, melody, drums])
    return out


def test_the_quick_reader_agrees_with_the_editing_one(songs):
    song, score = read_song(songs["0003.mid"], "x"), read_midi(songs["0003.mid"])
    assert song.bars == score.bars
    assert song.programs == [(t.program, t.is_drum) for t in score.tracks]
    assert all(np.array_equal(a, np.array(t.notes)) for a, t in zip(song.tracks, score.tracks, strict=True))


def test_folders_are_read_like_zips(songs, tmp_path):
    for name, data in songs.items():
        (tmp_path / name).write_bytes(data)
    assert dict(song_files(tmp_path)) == songs


@pytest.mark.slow
@pytest.mark.skipif(not (CORPUS / "valid.zip").exists(), reason="the corpus is not at hand")
def test_real_songs_through_the_command():
    """A sample of the validation songs, over all sources; the script fails unless every point of it holds."""
    script = [sys.executable, str(ROOT / "scripts" / "try_corpus.py"), str(CORPUS / "valid.zip"), "--limit", "26"]
    done = subprocess.run(script, capture_output=True, text=True)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not (CORPUS / "valid.zip").exists(), reason="the corpus is not at hand")
def test_the_checkpoint_that_ships_on_real_songs(script, tmp_path):
    """Three songs of each source through the real command, on two processes, twice: the same report, and a model that
    has learnt something."""
    script("check_fill")  # try_corpus imports it as its neighbour
    with zipfile.ZipFile(CORPUS / "valid.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".mid")]
        archive.extractall(tmp_path / "valid", script("try_corpus").choose_files(names, 39))
    reports = []
    for name in ("once", "again"):
        out = tmp_path / name
        command = [sys.executable, "-m", "midi_rwkv", "evaluate", str(tmp_path / "valid"), "--out", str(out)]
        command += ["--cases", "10", "--bars", "4", "--settings", "song,drums", "--baselines", "copy before"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert (out / "report.html").exists()
        reports.append((out / "report.json").read_bytes())
    assert reports[0] == reports[1]
    song, drums = json.loads(reports[0])["groups"]
    assert (song["cases"], drums["cases"]) == (10, 4)
    for group in (song, drums):
        model, ceiling = group["systems"]["base (rwkv7)"], group["systems"]["original"]
        assert model["nats_per_note"]["mean"] < 6  # knowing nothing costs about 13
        assert 0.02 < model["onset_f1"]["mean"] < 1 == ceiling["onset_f1"]["mean"]
