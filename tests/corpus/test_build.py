"""The corpus builder: the same shards whoever does the work; copies, broken files, splits, licences, bad input."""

import csv
import io
import subprocess
import sys
import zipfile
from itertools import pairwise

import numpy as np
import pytest

from midi_rwkv.commands.cli import main
from midi_rwkv.corpus import build as corpus_build
from midi_rwkv.corpus.build import CorpusConfig, build, transpose
from midi_rwkv.corpus.checks import Filters, Piece, judge, minhash, note_hash, scan, sort_pieces, steadiness, windows
from midi_rwkv.corpus.engines import Engine
from midi_rwkv.corpus.inputs import CHUNK_FILES, Source, chunks, find_sources, read_chunk
from midi_rwkv.corpus.shards import Shard, read_song, sources_in
from midi_rwkv.tokens.tokenizer import Tokenizer
from midi_rwkv.training.dataset import TrainingRows

BARS = 12


@pytest.fixture(scope="module")
def make(build_midi, note):
    """make(seed, shift=0, drums=False, bars=BARS) -> a piece of its own, as bytes."""

    def song(seed, *, shift=0, drums=False, bars=BARS, scale=1.0):
        rng = np.random.default_rng(seed)
        pitches = 60 + shift + np.cumsum(rng.integers(-4, 5, bars * 4)).clip(-20, 20)
        head = [(0, bytes.fromhex("ff58040402" + "1808"))]
        line = [e for k, p in enumerate(pitches) for e in note(int(k * 480 * scale), int(p), 200)]
        beat = [e for k in range(bars * 2) for e in note(int(k * 960 * scale), 36 + 2 * (k % 2), 100, channel=9)]
        return build_midi([head, line, *([beat] if drums else [])])

    return song


@pytest.fixture(scope="module")
def inputs(make, tmp_path_factory):
    """A folder, a zip and a parquet file: 100 + 30 + 20 files, some of them broken, short, or copies."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    root = tmp_path_factory.mktemp("inputs")
    (root / "folk" / "deep").mkdir(parents=True)
    for i in range(96):
        (root / "folk" / "deep" / f"{i:03}.mid").write_bytes(make(i, drums=i % 3 == 0))
    for name, data in {
        "copy.mid": make(0, drums=True),
        "moved.mid": make(5, shift=3),
        "broken.mid": b"MThd nonsense",
        "short.midi": make(1000, bars=2),
    }.items():
        (root / "folk" / name).write_bytes(data)
    (root / "folk" / "readme.txt").write_text("no music")
    (root / "folk" / "manifest.csv").write_text("id,licence\ndeep/001,CC0-1.0\n")
    with zipfile.ZipFile(root / "songs.zip", "w") as archive:
        for i in range(30):
            archive.writestr(f"{i:02}.mid", make(200 + i))
    columns = {"md5": [f"{i:x}" for i in range(20)], "music": [make(300 + i) for i in range(20)]}
    pq.write_table(pa.table({**columns, "license": ["MIT"] * 10 + [""] * 10}), root / "giga.parquet", row_group_size=7)
    return [str(root / "folk"), str(root / "songs.zip"), f"g={root / 'giga.parquet'}"]


def quiet(_: str) -> None:
    """Says nothing."""


CONFIG = CorpusConfig(valid=0.1, transpose=1, licences={"g": "CC-BY-4.0"})


@pytest.fixture(scope="module")
def built(inputs, tmp_path_factory):
    out = tmp_path_factory.mktemp("built") / "shards"
    lines = []
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
    assert any("tokens/s" in line for line in lines)


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
    folder, real, lines = tmp_path / "s", getattr(corpus_build, reading), []
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
    assert len(Shard(tmp_path / "out" / "s.npz")) == CHUNK_FILES


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


def test_shards_hold_the_pieces_and_their_transposed_copies(built, make):
    out, _ = built
    pieces = pieces_of(out)
    tokenizer = Tokenizer.load(out / "tokenizer.json")
    valid = Shard(out / "valid.npz")
    assert sorted(valid.names) == sorted(n for n, row in pieces.items() if row["split"] == "valid")
    assert len(valid) > 3
    shard = Shard(out / "songs.npz")
    train = [n for n, row in pieces.items() if row["split"] == "train" and row["source"] == "songs"]
    assert [n for n in shard.names if n.endswith(".mid")] == train
    assert len(shard) == 2 * len(train), "a copy each, in the training part alone"
    at = shard.names.index(train[0])
    move = int(shard.names[at + 1].removeprefix(train[0]))
    song = read_song(make(200 + int(train[0][6:8])), "x")
    for k, moved in ((at, song), (at + 1, transpose(song, move))):
        want = tokenizer.encode_arrays(
            moved.tracks, moved.programs, moved.bars, moved.tempos, ticks_per_beat=moved.ticks_per_beat
        )
        assert np.array_equal(shard[k].cells, want.cells)
        assert shard[k].headers == want.headers


def test_rows_are_drawn_from_whatever_sources_there_are(built):
    out, _ = built
    tokenizer = Tokenizer.load(out / "tokenizer.json")
    rows = TrainingRows(out, tokenizer, 256, seed=0)
    assert rows.weights.keys() == {"folk", "g", "songs"}
    assert rows.weights["folk"] > rows.weights["g"]
    assert rows[0][0].shape == (257,)
    with pytest.raises(ValueError, match="no shard for h"):
        TrainingRows(out, tokenizer, 256, seed=0, weights={"folk": 1.0, "h": 1.0})


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
    monkeypatch.setattr(corpus_build, "PART_IDS", 3000)
    build(inputs, tmp_path / "parts", config=CONFIG, say=quiet)
    assert (tmp_path / "parts" / "folk.3.npz").exists()
    assert sources_in(tmp_path / "parts") == ["folk", "g", "songs"]
    whole, parts = Shard(built[0] / "folk.npz"), Shard(tmp_path / "parts" / "folk.npz")
    assert whole.names == parts.names
    for i in range(0, len(whole), 7):
        assert np.array_equal(whole[i].cells, parts[i].cells)
        assert np.array_equal(whole[i].offsets, parts[i].offsets)
        assert whole[i].headers == parts[i].headers


def test_a_tokenizer_that_is_there_is_kept_and_shards_are_not_replaced_unasked(inputs, tmp_path, tokenizer):
    out = tmp_path / "out"
    out.mkdir()
    tokenizer.save(out / "tokenizer.json")
    before = (out / "tokenizer.json").read_bytes()
    lines = []
    build(inputs[1:2], out, say=lines.append)
    assert any(f"took the {tokenizer.vocab_size:,} tokens of {out}" in line for line in lines)
    assert (out / "tokenizer.json").read_bytes() == before
    with pytest.raises(ValueError, match=r"holds shards already .*--overwrite"):
        build(inputs[:1], out, say=quiet)
    build(inputs[2:], out, overwrite=True, say=quiet)
    assert sources_in(out) == ["g"]


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
    assert sorted(Shard(tmp_path / "out" / "valid.npz").names) == ["a/9.mid", "b/9.mid"]
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


def song_of(data):
    return read_song(data, "x")


def test_filters_say_why(make, build_midi, note):
    filters = Filters()
    assert judge(song_of(make(1)), filters) == ""
    assert judge(song_of(make(1, bars=4)), filters) == "too short: 4 bars, 16 notes"
    one = build_midi([[e for k in range(48) for e in note(k * 480, 60, 200)]])
    assert judge(song_of(one), filters) == "one note repeated: 100% of the notes"
    assert judge(song_of(make(1)), Filters(max_notes=40)) == "too long: 48 notes"
    rng = np.random.default_rng(0)
    free = np.sort(rng.integers(0, 480 * 48, 400))
    notes = [e for t in free for e in note(int(t), int(rng.integers(40, 80)), 1)]
    floating = build_midi([sorted(notes, key=lambda e: e[0])])
    assert steadiness(song_of(floating)) < 0.4
    assert judge(song_of(floating), filters).startswith("wrong bars: the notes keep to no beat (0.3")
    swing = [e for k in range(48) for e in note(k * 480 + (310 if k % 2 else 0), 50 + k % 9, 100)]
    assert judge(song_of(build_midi([swing])), filters) == ""
    metres = [(k // 2 * 3360 + k % 2 * 1920, bytes.fromhex(f"ff58040{4 - k % 2}021808")) for k in range(24)]  # 4/4 3/4
    restless = build_midi([metres, [e for k in range(96) for e in note(k * 480, 50 + k % 9, 100)]])
    assert judge(song_of(restless), filters).startswith("wrong bars: the metre changes")


def test_copies_are_seen_through_transposition_and_new_clothes(make):
    song = song_of(make(3))
    assert note_hash(song) == note_hash(song_of(make(3)))
    assert note_hash(song) != note_hash(song_of(make(3, shift=1)))
    assert np.array_equal(windows(song), windows(song_of(make(3, shift=5, drums=True, scale=1.5))))
    assert minhash(np.arange(3, dtype=np.uint32)) is None
    a, b = (minhash(windows(song_of(make(s)))) for s in (3, 4))
    assert (a == b).mean() < 0.1


def piece(name, numbers, split="", reason=""):
    hashes = np.array(numbers, np.uint32) * np.uint32(2654435761)
    return Piece(name, split, "", reason, 10, 100, name.encode(), minhash(hashes))


def test_related_pieces_never_part_and_copies_go():
    pieces = []
    for k in range(60):
        base = k * 1000
        pieces += [
            piece(f"s/{k}a", range(base, base + 200)),
            piece(f"s/{k}b", range(base + 50, base + 250)),  # 150 of 250 in common: related
            piece(f"s/{k}c", range(base + 5, base + 205)),  # nearly all in common: a copy
        ]
    result = sort_pieces(pieces, Filters(duplicate=0.8, related=0.4), {"valid": 0.2, "test": 0.2})
    assert all(r == f"near-duplicate of s/{k}a" for k, r in enumerate(result.reasons[2::3]))
    pairs = list(zip(result.splits[::3], result.splits[1::3], strict=True))
    assert all(a == b for a, b in pairs)
    counts = [sum(a == s for a, _ in pairs) for s in ("train", "valid", "test")]
    assert sum(counts) == 60
    assert all(n >= 5 for n in counts)
    another = piece("s/new", range(10**6, 10**6 + 99))
    more = sort_pieces([*pieces, another], Filters(duplicate=0.8, related=0.4), {"valid": 0.2, "test": 0.2})
    assert more.splits[:-1] == result.splits, "another piece changes no other's split"
    few = sort_pieces(pieces[:6], Filters(), {"valid": 0.001})
    assert "valid" in few.splits, "some piece is to be validated on"


def test_chunks_do_not_depend_on_who_reads_them(inputs):
    sources = find_sources(inputs)
    assert [s.name for s in sources] == ["folk", "songs", "g"]
    work = [c for s in sources for c in chunks(s)]
    assert [len(c.keys) for c in work if c.source == "folk"] == [CHUNK_FILES, 100 - CHUNK_FILES]
    files = [f for c in work for f in read_chunk(c)]
    assert len(files) == len({f.name for f in files}) == 150
    assert all(a.name < b.name for a, b in pairwise(f for f in files if f.name.startswith("folk/")))
    assert len(scan(work[0], Filters())) == CHUNK_FILES


def test_zips_within_folders_and_parquet_of_structs(make, tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("x/1.mid", make(1))
        archive.writestr("__MACOSX/x/1.mid", b"")
    (tmp_path / "more.zip").write_bytes(data.getvalue())
    pq.write_table(pa.table({"file": [{"bytes": make(2), "path": "p"}]}), tmp_path / "t.parquet")
    (tmp_path / "one.mid").write_bytes(make(3))
    files = [f for c in chunks(Source("s", tmp_path)) for f in read_chunk(c)]
    assert [f.name for f in files] == ["s/more/x/1.mid", "s/t/0000000", "s/one.mid"]
    assert [f.data for f in files] == [make(1), make(2), make(3)]
