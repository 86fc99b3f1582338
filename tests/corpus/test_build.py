"""The corpus builder: the same shards whoever does the work; broken files, licences, bad input."""

import csv
import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from midi_rwkv.commands.cli import main
from midi_rwkv.corpus import build as corpus_build
from midi_rwkv.corpus.build import CorpusConfig, build
from midi_rwkv.corpus.engines import Engine
from midi_rwkv.corpus.inputs import CHUNK_FILES, read_chunk
from midi_rwkv.corpus.note_shards import NoteShard, encode_song
from midi_rwkv.corpus.shards import read_song, sources_in
from midi_rwkv.tokens.attributes import Vocabulary, make_vocabulary
from midi_rwkv.training.rows import TrainingRows


def quiet(_: str) -> None:
    """Says nothing."""


CONFIG = CorpusConfig(valid=0.1, licences={"g": "CC-BY-4.0"})


@pytest.fixture(scope="module")
def built(inputs, tmp_path_factory):
    out = tmp_path_factory.mktemp("built") / "shards"
    lines: list[str] = []
    build(inputs, out, config=CONFIG, say=lines.append)
    return out, lines


def pieces_of(out):
    with (out / "pieces.csv").open() as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def contents(folder):
    return {f.name: f.read_bytes() for f in sorted(folder.iterdir())}


def test_what_is_kept_and_what_is_left_out(built):
    out, lines = built
    pieces = pieces_of(out)
    assert len(pieces) == 150
    left_out = {name: row["left_out"] for name, row in pieces.items() if row["left_out"]}
    assert left_out.pop("folk/broken.mid").startswith("broken: is truncated")
    assert left_out == {
        "folk/short.midi": "too short: 2 bars, 8 notes",
        "folk/deep/000.mid": "duplicate of folk/copy.mid",
        "folk/moved.mid": "near-duplicate of folk/deep/005.mid",
    }
    assert sorted(f.name for f in out.iterdir()) == [
        "folk.npz", "g.npz", "pieces.csv", "songs.npz", "tokenizer.json", "valid.npz",
    ]  # fmt: skip
    assert sources_in(out) == ["folk", "g", "songs"]
    assert any("read 150 files" in line for line in lines)
    assert any("notes/s" in line for line in lines)


DEADLY = (  # symusic 0.5.9 reads beyond the end of these: one has a long delta without its end, one half a chunk
    "4d546864000000060001000201e04d54726b0000002a00ff03055069616e6f00ff510307a12000ff58040402180800901f24278f803c4014f0"
    "02012f004d54720000000c00993d5009893d4000ff2f00",
    "4d546864000000060001000201e04d54726b0000002a00ff03055069616e6f00ff510307a12000ff58040402180800903c508360803c4014f0"
    "0201f700ff2f004d54726b6600000c00993d09893d4000ff2f00",
)


def test_files_that_kill_a_reader_are_skipped_by_ours(make, tmp_path):
    """Through the real command: what is under test is that no process dies."""
    folder = tmp_path / "s"
    folder.mkdir()
    for i in range(3):
        (folder / f"{i}.mid").write_bytes(make(i))
    for i, data in enumerate(DEADLY):
        (folder / f"bad{i}.mid").write_bytes(bytes.fromhex(data))
    command = [sys.executable, "-m", "midi_rwkv", "corpus", str(folder), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "left out 2: broken" in done.stdout
    assert sorted(pieces_of(tmp_path / "out")) == ["s/0.mid", "s/1.mid", "s/2.mid", "s/bad0.mid", "s/bad1.mid"]


@pytest.mark.parametrize("reading", ["scan", "encode"])
def test_a_worker_that_dies_is_one_skipped_file(make, tmp_path, monkeypatch, reading):
    """Whatever kills it, and in whichever reading; with one worker as with several."""
    folder, real = tmp_path / "s", getattr(corpus_build, reading)
    lines: list[str] = []
    folder.mkdir()
    for i in range(CHUNK_FILES + 3):
        (folder / f"{i:03}.mid").write_bytes(make(i))

    def dies(chunk, *rest):
        import os
        import signal

        for file in read_chunk(chunk):
            if file.name in ("s/001.mid", "s/003.mid", "s/065.mid") and not file.lost:
                os.kill(os.getpid(), signal.SIGKILL)
        return real(chunk, *rest)

    monkeypatch.setattr(corpus_build, reading, dies)
    build(
        [str(folder)],
        tmp_path / "out",
        config=CorpusConfig(valid=0),
        engine=Engine(jobs=2 if reading == "scan" else 1),
        say=lines.append,
    )
    skipped = sorted(line for line in lines if line.startswith("skipped"))
    assert skipped == [f"skipped s/{n}.mid: reading it ended the process" for n in ("001", "003", "065")]
    pieces = pieces_of(tmp_path / "out")
    assert len(pieces) == CHUNK_FILES + 3
    assert {n for n, row in pieces.items() if "ended the process" in row["left_out"]} == {
        "s/001.mid", "s/003.mid", "s/065.mid",
    }  # fmt: skip
    assert len(NoteShard(tmp_path / "out" / "s.npz")) == CHUNK_FILES


def test_shards_that_somebody_else_built_meanwhile_stay(make, tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "1.mid").write_bytes(make(1))
    out = tmp_path / "out"

    def meanwhile(line):
        if line.startswith("wrote"):
            out.mkdir()
            (out / "s.npz").write_bytes(b"theirs")

    with pytest.raises(ValueError, match="holds shards already"):
        build([str(tmp_path / "s")], out, config=CorpusConfig(valid=0), say=meanwhile)
    assert contents(out) == {"s.npz": b"theirs"}
    assert sorted(f.name for f in tmp_path.iterdir()) == ["out", "s"]


def test_licences_are_kept_by_file(built):
    pieces = pieces_of(built[0])
    assert pieces["folk/deep/001.mid"]["licence"] == "CC0-1.0"
    assert pieces["folk/deep/002.mid"]["licence"] == "unknown"
    assert pieces["g/0000003-3"]["licence"] == "MIT"
    assert pieces["g/0000015-f"]["licence"] == "CC-BY-4.0"


def test_shards_hold_the_pieces(built, make):
    out, _ = built
    pieces = pieces_of(out)
    vocabulary = Vocabulary.load(out / "tokenizer.json")
    valid = NoteShard(out / "valid.npz")
    assert sorted(valid.names) == sorted(n for n, row in pieces.items() if row["split"] == "valid")
    assert len(valid) > 3
    shard = NoteShard(out / "songs.npz")
    train = [n for n, row in pieces.items() if row["split"] == "train" and row["source"] == "songs"]
    assert shard.names == train
    for i in range(0, len(train), 5):
        want = encode_song(vocabulary, read_song(make(200 + int(train[i][6:8])), "x"))
        assert np.array_equal(shard[i].notes, want.notes.notes)
        assert np.array_equal(shard[i].offsets, want.notes.offsets)
        assert np.array_equal(shard[i].headers, want.notes.headers)
        assert [shard.chords(i).in_bar(b) for b in range(12)] == [want.chords.in_bar(b) for b in range(12)]


def test_rows_are_drawn_from_whatever_sources_there_are(built):
    out, _ = built
    vocabulary = Vocabulary.load(out / "tokenizer.json")
    rows = TrainingRows(out, vocabulary, 256, seed=0)
    assert rows.weights.keys() == {"folk", "g", "songs"}
    assert rows.weights["folk"] > rows.weights["g"]
    assert len(rows[0][0]) == 257
    with pytest.raises(ValueError, match="no shard for h"):
        TrainingRows(out, vocabulary, 256, seed=0, weights={"folk": 1.0, "h": 1.0})


@pytest.mark.slow
def test_four_processes_write_the_same_bytes(built, inputs, tmp_path):
    build(
        inputs,
        tmp_path / "four",
        config=CONFIG,
        engine=Engine(jobs=4),
        say=quiet,
    )
    assert contents(tmp_path / "four") == contents(built[0])


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "package"), [("dask", "distributed"), ("ray", "ray")])
def test_a_cluster_of_two_workers_writes_the_same_bytes(kind, package, built, inputs, tmp_path):
    pytest.importorskip(package)
    build(
        inputs,
        tmp_path / kind,
        config=CONFIG,
        engine=Engine(kind, jobs=2),
        say=quiet,
    )
    assert contents(tmp_path / kind) == contents(built[0])


@pytest.mark.slow
def test_a_dask_cluster_at_an_address_and_none(inputs, built, tmp_path):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        engine = Engine("dask", address=cluster.scheduler_address)
        build(inputs, tmp_path / "out", config=CONFIG, engine=engine, say=quiet)
    assert contents(tmp_path / "out") == contents(built[0])


def test_a_large_source_is_written_in_parts(inputs, built, tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_build, "PART_NOTES", 1000)
    build(inputs, tmp_path / "parts", config=CONFIG, say=quiet)
    assert (tmp_path / "parts" / "folk.3.npz").exists()
    assert sources_in(tmp_path / "parts") == ["folk", "g", "songs"]
    whole, parts = NoteShard(built[0] / "folk.npz"), NoteShard(tmp_path / "parts" / "folk.npz")
    assert whole.names == parts.names
    for i in range(0, len(whole), 7):
        assert np.array_equal(whole[i].notes, parts[i].notes)
        assert np.array_equal(whole[i].offsets, parts[i].offsets)
        assert np.array_equal(whole[i].headers, parts[i].headers)
        assert np.array_equal(whole.chords(i).beats, parts.chords(i).beats)


def test_a_tokenizer_that_is_there_is_kept_and_shards_are_not_replaced_unasked(inputs, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    params = make_vocabulary().params
    (out / "tokenizer.json").write_text(json.dumps(params, indent=1))
    before = (out / "tokenizer.json").read_bytes()
    lines: list[str] = []
    build(inputs[1:2], out, say=lines.append)
    assert f"took {out / 'tokenizer.json'}, which was there" in lines
    assert (out / "tokenizer.json").read_bytes() == before
    with pytest.raises(ValueError, match=r"holds shards already .*--overwrite"):
        build(inputs[:1], out, say=quiet)
    build(inputs[2:], out, overwrite=True, say=quiet)
    assert sources_in(out) == ["g"]
    (out / "tokenizer.json").write_text(json.dumps({"midi_rwkv": {"grid": "beat"}}))  # of tokens, as once
    kept = contents(out)
    with pytest.raises(ValueError, match=r"is damaged or of another version .*; build shards in a new folder"):
        build(inputs[1:2], out, overwrite=True, say=quiet)
    assert contents(out) == kept


def test_a_corpus_that_is_split_already_stays_so(make, tmp_path):
    root = tmp_path / "corpus"
    root.mkdir()
    for name, members in {
        "a.train.zip": {f"a/{i}.mid": make(i) for i in range(5)},
        "b.train.zip": {f"b/{i}.mid": make(10 + i) for i in range(5)},
        "valid.zip": {"a/9.mid": make(2, shift=1), "b/9.mid": make(50)},
    }.items():
        with zipfile.ZipFile(root / name, "w") as archive:
            for member, data in members.items():
                archive.writestr(member, data)
    (root / "manifest.csv").write_text("id,licence\na/1,CC0\nb/9,MIT\n")
    build([str(root)], tmp_path / "out", say=quiet)
    assert sorted(NoteShard(tmp_path / "out" / "valid.npz").names) == ["a/9.mid", "b/9.mid"]
    pieces = pieces_of(tmp_path / "out")
    assert pieces["a/2.mid"]["left_out"] == "near-duplicate of a/9.mid", "the held-out piece is the one that stays"
    assert (pieces["a/1.mid"]["licence"], pieces["b/9.mid"]["licence"]) == ("CC0", "MIT")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere does not exist"),
        (["text"], "text is no folder, .zip, .parquet or MIDI file"),
        (["bad.zip"], "bad.zip is not a readable zip"),
        (["bad.parquet"], "bad.parquet is not a readable parquet file"),
        (["ints.parquet"], "ints.parquet has no column of bytes; it has n"),
        (["empty"], "no MIDI files in empty"),
        (["broken"], "nothing is left to train on of 1 files; first: broken/x.mid (broken: "),
        (["valid=empty"], "'valid' cannot name a source"),
        (["empty", "empty"], "two inputs are called empty"),
        (["empty", "--licence", "x=MIT"], "there is no such source"),
        (["empty", "--licence", "MIT"], "--licence must be SOURCE=TEXT"),
        (["empty", "--valid", "1"], "valid and test must be shares"),
        (["empty", "--min-steady", "2"], "min_steady must lie in 0-1"),
        (["empty", "--jobs", "0"], "jobs must be 1 or more"),
        (["empty", "--address", "tcp://x:1"], "an address needs an engine"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(arguments, message, tmp_path, monkeypatch, capsys):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    monkeypatch.chdir(tmp_path)
    for name in ("text", "bad.zip", "bad.parquet"):
        (tmp_path / name).write_text("nothing of the kind")
    pq.write_table(pa.table({"n": [1]}), tmp_path / "ints.parquet")
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "x.mid").write_bytes(b"MThd nonsense")
    before = sorted(p.name for p in tmp_path.iterdir())
    at = 2 if arguments[1:2] == ["empty"] else 1
    assert main(["corpus", *arguments[:at], "out", *arguments[at:]]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == before
