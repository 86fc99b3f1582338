"""Pieces made by code, and a folder, a zip and a parquet file of them."""

import zipfile

import numpy as np
import pytest

BARS = 12


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
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
