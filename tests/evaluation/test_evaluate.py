"""evaluate() and its command: repeatable, resumable, and one line where it cannot."""

import json
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from evaluated import MODEL, cases_of, group_of, module, records_of, small

from midi_rwkv.evaluation.evaluate import records_path
from midi_rwkv.evaluation.systems import COPIES, ORIGINAL, UNFOLLOWED


@pytest.fixture
def evaluated(monkeypatch):
    """(system, case id) of every case that is evaluated from now on."""
    from midi_rwkv.evaluation import measure as measure

    calls, original = [], measure.evaluate_case

    def spy(system, case, score):
        calls.append((system.setup.name, case.id))
        return original(system, case, score)

    monkeypatch.setattr(measure, "evaluate_case", spy)
    return calls


def test_the_same_evaluation_elsewhere_gives_the_same_report(done, command, tmp_path):
    code, out, err = command(out=tmp_path / "again")
    assert code == 0, err
    assert "20 cases; " in out
    assert "report.html" in out
    for name in ("report.json", "cases.json", "reference/made_from.json"):
        assert (tmp_path / "again" / name).read_bytes() == (done / name).read_bytes()
    for system in (MODEL, UNFOLLOWED, *COPIES, ORIGINAL):
        assert records_of(tmp_path / "again", system) == records_of(done, system)
        assert f"{system}: 20 of 20 cases" in err
    assert not list((tmp_path / "again").rglob("*.partial"))


@pytest.mark.slow
def test_two_processes_write_what_one_does(done, command, tmp_path, monkeypatch):
    out = shutil.copytree(done, tmp_path / "out")
    records_path(out, MODEL).unlink()
    (out / "report.json").unlink()
    monkeypatch.setattr(module, "ProcessPoolExecutor", ProcessPoolExecutor)
    code, _, err = command("--jobs", 2, "--no-html", out=out)
    assert code == 0, err
    assert (out / "report.json").read_bytes() == (done / "report.json").read_bytes()


def test_an_evaluation_that_was_killed_goes_on(done, command, tmp_path, evaluated):
    """In the middle of a line of the model's records; the systems after it had not begun."""
    out = shutil.copytree(done, tmp_path / "out")
    path = records_path(out, MODEL)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:8]) + lines[8][: len(lines[8]) // 2])
    for system in (UNFOLLOWED, *COPIES):
        records_path(out, system).unlink()
    (out / "report.json").unlink()
    code, _, err = command(out=out)
    assert code == 0, err
    assert (out / "report.json").read_bytes() == (done / "report.json").read_bytes()
    assert records_of(out) == records_of(done)  # the cut line is gone
    finished = {json.loads(line)["case"] for line in lines[1:8]}
    missing = {c.id for c in cases_of(done)} - finished
    assert sorted(case for system, case in evaluated if system == MODEL) == sorted(missing)
    assert len(evaluated) == len(missing) + 20 * (len(COPIES) + 1)  # the original's are all there


def test_a_finished_evaluation_is_not_done_again(done, command, tmp_path, evaluated):
    out = shutil.copytree(done, tmp_path / "out")
    assert command(out=out)[0] == 0
    assert evaluated == []
    for name in ("report.json", "report.md", "cost.json", "report.html"):
        assert (out / name).read_bytes() == (done / name).read_bytes()


def test_more_cases_need_the_new_ones_alone(done, command, tmp_path, evaluated):
    out = shutil.copytree(done, tmp_path / "out")
    assert command("--cases", 7, "--no-html", out=out)[0] == 0
    assert {case for _, case in evaluated} == {c.id for c in cases_of(out)} - {c.id for c in cases_of(done)}
    assert {case for _, case in evaluated if case.startswith("song")} == {"song/2/0006"}


def test_a_folder_of_another_evaluation_is_refused(done, songs, command, tiny, tmp_path):
    """Another seed, other sampling, another checkpoint of that name, other files."""
    other = shutil.copytree(tiny, tmp_path / "tiny")
    weights = (other / "model.safetensors").read_bytes()
    (other / "model.safetensors").write_bytes(weights[:-2] + bytes([weights[-2] ^ 1, weights[-1]]))
    files = shutil.copytree(songs, tmp_path / "songs")
    (files / "pop" / "one.mid").unlink()
    out = shutil.copytree(done, tmp_path / "out")
    for arguments, changed in (
        (("--seed", 4), {}),
        (("--temperature", 0.9), {}),
        ((), {"checkpoint": other}),
        ((), {"files": files}),
    ):
        code, said, err = command(*arguments, out=out, **changed)
        assert (code, said) == (2, "")
        assert "holds an evaluation of other files or of another tiny (rwkv7); name another folder" in err
        assert err.count("\n") == 1
    assert (out / "report.json").read_bytes() == (done / "report.json").read_bytes()
    assert records_of(out) == records_of(done)


def test_fills_alone_have_neither_nats_nor_cost(songs, tiny, tmp_path):
    report = small(songs, tmp_path / "out", tiny, fills_only=True)
    assert "nats_per_note" not in group_of(tmp_path / "out", "song")["systems"][MODEL]
    assert report["groups"][0]["systems"][MODEL]["onset_f1"]
    assert not (tmp_path / "out" / "cost.json").exists()
    with pytest.raises(ValueError, match="holds an evaluation of other files or of another"):
        small(songs, tmp_path / "out", tiny)


def test_bars_that_sound_are_refused_and_compared_as_music(songs, tiny, tmp_path):
    """The same cases unknown and shown; no nats where they are shown; originals without a difference to themselves."""
    settings = ["song", "rewrite", "all", "rewrite-all"]
    report = small(songs, tmp_path / "out", tiny, settings=settings)
    records = records_of(tmp_path / "out")
    shown = {c: r for c, r in records.items() if c.startswith("rewrite")}
    assert len(shown) == len(records) / 2 == 6
    assert all("nats_per_note" not in r["metrics"] for r in shown.values())
    assert any("nats_per_note" in r["metrics"] for r in records.values())
    unknown = [records[c.replace("rewrite-all", "all").replace("rewrite", "song")] for c in shown]
    assert any(r["notes"] != u["notes"] for r, u in zip(shown.values(), unknown, strict=True))
    music = report["musical"][MODEL]["music"]
    assert {asked: found["cases"] for asked, found in music.items()} == {"unknown": 6, "rewrite": 6}
    for measure in ("repeated", "leaps_out"):
        originals = {found["measures"][measure]["originals"] for found in music.values()}
        assert len(originals) == 1  # of the same cases
    text = (tmp_path / "out" / "report.md").read_text()
    assert f"### {MODEL}, music. As a composer meets it" in text
    assert "told from originals" not in text  # by four songs


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--bars", "x"], "--bars must be numbers like 2,4,8, got 'x'"),
        (["--bars", "2,0"], "at least one case and one bar"),
        (["--bars", "6"], "no song that can be filled: 18 bars or more are needed"),
        (["--jobs", "0"], "jobs must be 1 or more, got 0"),
        (["--cases", "0"], "at least one case and one bar"),
        (["--settings", "nonsense"], "settings must be among song, near,"),
        (["--settings", "song,nonsense"], "got nonsense"),
        (["--baselines", "copy"], "baselines must be among nothing followed, copy before,"),
        (["--shards", "gone"], "gone holds no note shards of training songs; name a folder"),
        (["--checkpoint", "gone"], "gone is not a checkpoint: config.json is missing"),
        (["--style", "gone.safetensors"], "name a .safetensors file"),
        (["--temperature", "0"], "temperature must lie in"),
        (["--follow", "2"], "follow must lie in"),
    ],
)
def test_bad_options_are_one_line_and_write_nothing(command, tmp_path, arguments, words):
    code, out, err = command(*arguments, out=tmp_path / "out")
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_bad_files_are_one_line_and_write_nothing(command, songs, tmp_path, tmp_path_factory):
    from safetensors.numpy import save_file

    folder = tmp_path_factory.mktemp("bad")
    (folder / "empty").mkdir()
    save_file({"wkv": np.zeros((2, 1, 64, 32), np.float32)}, folder / "narrow.safetensors")
    save_file({"state": np.zeros((2, 1, 64, 64), np.float32)}, folder / "nameless.safetensors")
    (folder / "text.safetensors").write_text("no tensors")
    for changed, arguments, words in (
        ({"files": folder / "gone"}, [], "no such file or folder"),
        ({"files": folder / "empty"}, [], "has no song that can be filled"),
        ({"files": songs / "pop" / "one.mid"}, [], "name the folder it lies in"),
        ({"checkpoint": folder}, [], "is not a checkpoint"),
        ({}, ["--style", folder / "narrow.safetensors"], "holds 'wkv' of shape (2, 1, 64, 32); for"),
        ({}, ["--style", folder / "nameless.safetensors"], "is no style: it holds neither"),
        ({}, ["--style", folder / "text.safetensors"], "cannot be read as a style"),
    ):
        code, out, err = command(*arguments, out=tmp_path / "out", **changed)
        assert (code, out) == (2, ""), words
        assert words in err
        assert err.count("\n") == 1
        assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("mine")
    code, _, err = command(out=tmp_path / "file")
    assert code == 2
    assert "is a file; --out names a folder" in err
    assert (tmp_path / "file").read_text() == "mine"


def test_a_missing_extra_is_named_with_its_remedy(command, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mir_eval", None)
    code, out, err = command(out=tmp_path / "out")
    assert (code, out) == (2, "")
    assert err == (
        "midi-rwkv: error: evaluate needs mir_eval, which is not installed: pip install 'midi-rwkv[evaluate]'\n"
    )
    assert list(tmp_path.iterdir()) == []
