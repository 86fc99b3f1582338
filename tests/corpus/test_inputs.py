"""Inputs become chunks of files, whoever reads them."""

import io
import zipfile
from itertools import pairwise

import pytest

from midi_rwkv.corpus.checks import Filters, scan
from midi_rwkv.corpus.inputs import CHUNK_FILES, Source, chunks, find_sources, read_chunk


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
