"""The runs of notes that stand for the training data, and what is found to be copied from it."""

import json
import shutil

import numpy as np
import pytest
from evaluated import cases_of, records_of, small, write_shard
from song import vocabulary

from midi_rwkv import Note, Score, Track
from midi_rwkv.corpus.note_shards import NoteShard
from midi_rwkv.evaluation.metrics import RUN_NOTES, runs
from midi_rwkv.evaluation.reference import Reference, build_reference, shard_runs
from midi_rwkv.evaluation.systems import ORIGINAL
from midi_rwkv.score.score import TimeSignature
from midi_rwkv.tokens.notes import encode

BAR = 1920


def write(path, scores):
    write_shard(path, [(f"{path.stem}/{i}", encode(vocabulary(), score)) for i, score in enumerate(scores)])


def runs_of(track):
    pitches, onsets = np.array([(n.pitch, n.onset_ticks) for n in track.notes], np.int64).reshape(-1, 2).T
    return runs(pitches, onsets / 480)


@pytest.fixture(scope="module")
def scores():
    """A training corpus: random tunes, of which the second halves repeat the first."""
    rng = np.random.default_rng(3)
    songs = []
    for i in range(6):
        half = [Note(b * BAR + k * 480, int(rng.integers(48, 84)), 240, 80) for b in range(12) for k in range(4)]
        lead = (*half, *(n._replace(onset_ticks=n.onset_ticks + 12 * BAR) for n in half))
        kit = tuple(Note(b * 960, 36 + 2 * (b % 2), 120, 100) for b in range(48))
        tracks = (Track("a", i, lead), Track("kit", 0, kit, is_drum=True))
        songs.append(Score(480, tracks, (TimeSignature(0, 4, 4),), end_ticks=24 * BAR))
    return songs


@pytest.fixture(scope="module")
def shards(scores, tmp_path_factory):
    """Two sources to train on, one of them in two parts, and songs to validate with."""
    folder = tmp_path_factory.mktemp("shards")
    for name, some in (("a", scores[:2]), ("a.1", scores[2:4]), ("b", scores[4:5]), ("valid", scores[5:])):
        write(folder / f"{name}.npz", some)
    vocabulary().save(folder / "tokenizer.json")
    return folder


def test_runs_of_a_shard_are_those_of_the_songs_notes(tmp_path):
    """In any metre, after a pickup, with chords, drums, silent bars and tracks, and notes on thirds of a beat."""
    rng = np.random.default_rng(5)
    songs = []
    metres = [(4, 4), (3, 4), (6, 8), (5, 4), (4, 4)]
    for i, (n, d) in enumerate(metres):
        length = 480 * 4 * n // d
        end = 20 * length
        onsets = np.unique(rng.integers(0, end // 160, 90)) * 160
        lead = {(int(t), int(p)) for t in onsets for p in rng.integers(40, 80, rng.integers(1, 4))}
        kit = {(t, int(rng.choice([36, 38, 42]))) for t in range(4 * length, 9 * length, 240)}
        few = {(k * length, 60 + k) for k in range(RUN_NOTES - 1)}
        tracks = tuple(
            Track(name, i, tuple(Note(t, p, 120, 80) for t, p in sorted(notes)), is_drum=name == "kit")
            for name, notes in (("lead", lead), ("silent", set()), ("kit", kit), ("few", few))
        )
        signatures = [TimeSignature(0, n, d)]
        if i == 3:
            signatures.append(TimeSignature(10 * length, 3, 4))
        if i == 4:  # a pickup, and a bar that is cut short
            signatures = [TimeSignature(0, 1, 4), TimeSignature(480, 4, 4), TimeSignature(480 + 2880, 3, 4)]
        songs.append(Score(480, tracks, tuple(signatures), end_ticks=end))
    songs.insert(1, Score(480, (Track("silent", 0, ()),), (TimeSignature(0, 4, 4),), end_ticks=BAR))
    write(tmp_path / "a.npz", songs)
    found = list(shard_runs(NoteShard(tmp_path / "a.npz")))
    own = [track for song in songs for track in song.tracks]
    assert len(found) == len(own)
    for hashes, track in zip(found, own, strict=True):
        expected = runs_of(track)
        np.testing.assert_array_equal(hashes, expected)
        assert len(expected) == max(0, len(track.notes) - RUN_NOTES + 1)
    assert sum(map(len, found)) > 500


def test_a_played_tune_has_the_runs_of_its_ticks(tmp_path):
    """Off the grid, and some notes before the bar lines that they belong to."""
    rng = np.random.default_rng(0)
    onsets = np.maximum(0, np.arange(200) * 240 + rng.integers(-36, 37, 200) // 2 * 2)
    notes = tuple(Note(int(t), int(p), 200, 80) for t, p in zip(onsets, rng.integers(40, 80, 200), strict=True))
    played = Score(480, (Track("a", 0, notes),), (TimeSignature(0, 4, 4),))
    assert played.lead_ticks(played.tracks[0]) > 0
    write(tmp_path / "a.npz", [played])
    [found] = shard_runs(NoteShard(tmp_path / "a.npz"))
    np.testing.assert_array_equal(found, runs_of(played.tracks[0]))


def test_a_reference_holds_the_runs_of_the_training_songs(shards, scores, tmp_path):
    made_from = build_reference(shards, tmp_path / "reference")
    loaded = Reference.load(tmp_path / "reference")
    assert (np.diff(loaded.runs.astype(object)) > 0).all()  # sorted, each once
    own = [runs_of(t) for s in scores[:5] for t in s.tracks]
    np.testing.assert_array_equal(loaded.runs, np.unique(np.concatenate(own)))
    assert json.loads((tmp_path / "reference" / "made_from.json").read_text()) == made_from
    assert (made_from["sources"], made_from["songs"]) == (["a", "b"], 5)


def test_a_reference_is_reused_and_made_anew_for_other_shards(shards, scores, tmp_path):
    said: list[str] = []
    mine = shutil.copytree(shards, tmp_path / "shards")
    made_from = build_reference(mine, tmp_path / "reference", said.append)
    assert said == ["listing the runs of 5 training songs"]
    (tmp_path / "reference" / "runs.npy").write_bytes(b"touched")
    assert build_reference(mine, tmp_path / "reference", said.append) == made_from
    assert len(said) == 1
    assert (tmp_path / "reference" / "runs.npy").read_bytes() == b"touched"
    write(mine / "a.1.npz", scores[2:3])
    assert build_reference(mine, tmp_path / "reference", said.append)["songs"] == 4
    assert len(said) == 2
    assert len(Reference.load(tmp_path / "reference").runs) > 100


def test_a_reference_half_made_is_made_anew(shards, tmp_path, monkeypatch):
    """Stopped before its end, it has no marker."""

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("midi_rwkv.evaluation.reference.shard_runs", stop)
        with pytest.raises(KeyboardInterrupt):
            build_reference(shards, tmp_path / "reference")
    assert (tmp_path / "reference").exists()
    build_reference(shards, tmp_path / "reference")
    assert len(Reference.load(tmp_path / "reference").runs) > 100


def test_a_folder_without_note_shards_is_refused(shards, tmp_path):
    """None at all, none to train on, or shards of tokens, as earlier versions wrote them."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "valid").mkdir()
    shutil.copy(shards / "valid.npz", tmp_path / "valid")
    (tmp_path / "tokens").mkdir()
    np.savez(tmp_path / "tokens" / "a.npz", names=np.array(["a/1"]), cells=np.zeros(3, np.uint16))
    for name in ("empty", "valid", "tokens", "gone"):
        with pytest.raises(
            ValueError, match=rf"{name} holds no note shards of training songs; name a folder that `mid"
        ):
            build_reference(tmp_path / name, tmp_path / "reference")
    assert not (tmp_path / "reference").exists()


def test_copies_of_training_music_are_found(songs, note_shards, tiny, tmp_path):
    """The originals of one of the sources are in the shards, those of the other are not."""
    out = tmp_path / "out"
    small(songs, out, tiny, cases=8, bars=(4,), shards=note_shards, fills_only=True)
    found = {case.source: set() for case in cases_of(out)}
    for case in cases_of(out):
        found[case.source].add(records_of(out, ORIGINAL)[case.id]["metrics"].get("copies_training"))
    assert {source: values - {None} for source, values in found.items()} == {"folk": {1.0}, "pop": {0.0}}
