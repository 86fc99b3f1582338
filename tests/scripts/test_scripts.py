"""What the scripts count and measure, on small inputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest


@pytest.mark.parametrize("name", [p.stem for p in sorted(Path(__file__).parents[2].glob("scripts/*.py"))])
def test_every_script_finds_what_it_imports(script, name):
    assert script(name).__doc__


@pytest.fixture(scope="module")
def corpus_run(script):
    script("check_fill")  # try_corpus imports it as its neighbour
    return script("try_corpus")


def test_song_as_mido_sees_it(corpus_run, build_midi, note):
    """A pickup of one beat, then 3/4, then 4/4 that begins inside a bar; two channels in one chunk."""
    metres = [
        (0, b"\xff\x58\x04\x01\x02\x18\x08"),
        (480, b"\xff\x58\x04\x03\x02\x18\x08"),
        (480 + 1440 + 480, b"\xff\x58\x04\x04\x02\x18\x08"),
    ]
    notes = sorted([*note(0, 60, 480, channel=3), *note(2400, 62, 240), *note(4400, 64, 240)])
    song = corpus_run.read_song(build_midi([metres, notes]))
    assert song.tracks == [(1, 0), (1, 3)]
    assert song.onsets[1, 0].tolist() == [2400, 4400]
    assert song.bars == [(0, 480), (480, 1920), (1920, 2400), (2400, 4320), (4320, 6240)]
    assert song.first_bar_number == 0


def test_regions_name_what_they_mask(corpus_run):
    tracks = [(1, 0), (2, 1), (3, 9)]
    bars = [(i * 1920, (i + 1) * 1920) for i in range(12)]
    song = corpus_run.Song(tracks, {t: np.array([0]) for t in tracks}, bars, 1)
    sizes = set()
    for seed in range(60):
        arguments, chosen, start, end = corpus_run.choose_region(song, np.random.default_rng(seed))
        low, _, high = arguments[1].partition("-")
        assert (start, end) == ((int(low) - 1) * 1920, int(high or low) * 1920)
        assert end - start <= 8 * 1920
        named = [int(n) for n in arguments[3].split(",")] if "--tracks" in arguments else [1, 2, 3]
        assert [tracks[n - 1] for n in named] == chosen
        sizes.add(len(chosen))
    assert sizes == {1, 2, 3}


def test_files_are_spread_over_the_sources(corpus_run):
    names = [f"big/{i:03}.mid" for i in range(100)] + ["small/1.mid", "small/2.mid", "mid/1.mid"]
    chosen = corpus_run.choose_files(names, 11)
    assert [sum(n.startswith(s) for n in chosen) for s in ("big/", "small/", "mid/")] == [8, 2, 1]
    assert len(set(chosen)) == 11
    assert corpus_run.choose_files(names, 10**9) == sorted(names)


def test_a_curve_is_drawn(script, tmp_path):
    """Runs apart, sources where they are known; a run without an evaluation is one clear line."""
    plot, path = script("pictures"), tmp_path / "curve.csv"
    lines = ["run,tokens,kind,loss,by_source", "first,1000000,valid,5.0,", "first,1500000,train,1.2,"]
    path.write_text("\n".join([*lines, 'second,2000000,valid,4.0,"{""a"": 3.5, ""b"": 4.5}"', ""]))
    points = plot.read_curve(path)
    assert points == [("first", 1.0, 5.0, {}), ("second", 2.0, 4.0, {"a": 3.5, "b": 4.5})]
    plot.save(plot.draw_curve(points), tmp_path / "curve.png", dpi=50)
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    path.write_text("\n".join([lines[0], lines[2], ""]))
    with pytest.raises(ValueError, match="has no evaluation yet"):
        plot.read_curve(path)


def test_the_time_of_a_fill_is_told_by_part(script, checkpoint_folder):
    use = script("benchmark_use")
    spent, notes = use.shares(use.EXAMPLE, "8", str(checkpoint_folder))
    assert notes > 0
    assert 0 < sum(spent[part] for part in ("reading", "steps", "choosing")) < spent["whole"]
    assert 0 < spent["first"] < spent["whole"]


@pytest.mark.slow
def test_the_timings_of_the_kernels_run(script, monkeypatch):
    """In Triton's interpreter, with made-up times: all but what only a GPU can do."""
    timings = script("script_helpers.kernel_timings")
    monkeypatch.setattr(timings, "DEVICE", "cpu")
    monkeypatch.setattr(timings, "SHAPES", ((1, 20, 1),))
    monkeypatch.setattr(timings, "MODELS", (("tiny", 1, 64, 40),))
    for name in ("copy_bandwidth", "matrix_rate"):
        monkeypatch.setattr(timings, name, lambda: 1e9)

    def once(work, _=1):
        work()
        return 1.0

    monkeypatch.setattr(timings, "milliseconds", once)
    assert [row.split("|")[2].strip() for row in list(timings.recurrence_rows())[3:]] == [
        *(f"triton, chunks of {n}" for n in (32, 64, 16)),
        "triton, chunks of 32, all but r in float32",
        "triton, sequential",
    ]
    assert "| tiny | 64 | 64,000 |" in "\n".join(timings.decode_rows())
    assert "| tiny | triton | 20,000 |" in "\n".join(timings.training_rows(1, 20))


@pytest.mark.slow
def test_the_kernels_are_checked_by_a_script(script, monkeypatch, tmp_path, capsys):
    kernels = script("check_kernels")
    every = list(kernels.cases(small=False))
    assert {c.steps for c in every} >= {1, 15, 63, 64, 1000, 4096}
    few = [c for c in kernels.cases(small=True) if c.size == 16 and c.steps < 40]
    monkeypatch.setattr(kernels, "cases", lambda **_: iter(few))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)

    def run(*options: str) -> tuple[object, list[str]]:
        monkeypatch.setattr("sys.argv", ["check_kernels.py", str(tmp_path), *options])
        with pytest.raises(SystemExit) as ended:
            kernels.main()
        return ended.value.code, (tmp_path / "kernels.md").read_text().splitlines()

    code, lines = run("--only", "checks,rounding", "--small")
    assert code == 0
    assert sum(line.startswith(("| 16 |", "| sequential |")) for line in lines) == len(few)
    assert any(line.startswith("| plain |") for line in lines)
    assert run()[0] == 2
    assert "timings need a GPU" in capsys.readouterr().err


def test_a_kernel_that_fails_is_a_row_and_the_time_is_kept(script, monkeypatch, tmp_path):
    kernels = script("check_kernels")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)

    def error_of(case, _):
        if case.form == "64":
            raise RuntimeError("out of resource: shared memory, Required: 262144, Hardware limit: 232448")
        return "dk", 1e-7

    monkeypatch.setattr(kernels, "worst_error", error_of)
    for minutes, rows in (("9", 6), ("0", 0)):
        monkeypatch.setattr(
            "sys.argv", ["check_kernels.py", str(tmp_path), "--only", "checks", "--small", "--minutes", minutes]
        )
        with pytest.raises(SystemExit) as ended:
            kernels.main()
        lines = (tmp_path / "kernels.md").read_text().splitlines()
        assert sum(" dk " in line or "**failed**: RuntimeError: out of resource" in line for line in lines) == rows
        assert ended.value.code == (1 if rows else 0)
    assert lines[-1] == "Stopped after 0 minutes, in: checks."


def test_the_kernels_are_checked_where_a_gpu_can_run_them(script):
    for case in script("check_kernels").cases(small=False):
        wide = case.size > 64 or str(case.dtype) == "torch.float32"
        assert case.form in ("16", "chunked", "sequential") or not wide


@pytest.mark.slow
def test_kernels_compile_without_a_gpu(script):
    """For compute capability 9.0; in a process of its own, where Triton is not interpreted."""
    import os
    import subprocess
    import sys

    path = script("compile_kernels").__file__
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, path, "--only", "scan_forward", "--check"]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    rows = [[cell.strip() for cell in line.split("|")] for line in said.splitlines() if line.startswith("| scan")]
    assert {row[2] for row in rows} == {"bf16", "fp32"}
    assert {row[7] for row in rows} == {"1", "3"}  # stages
    assert said.endswith("all fit\n")


def test_a_kernel_too_big_for_the_gpu_is_named(script):
    compiled = script("compile_kernels")
    build = compiled.Build("wkv7_triton_chunk", "backward", "fp32", 64, 64, spills=100)
    assert "262,144 bytes of shared memory, of 232,448" in compiled.wrong_with(build, {"shared": 262_144, "spilled": 0})
    assert "200 bytes a thread spilled, at most 100" in compiled.wrong_with(build, {"shared": 1, "spilled": 200})
    assert compiled.wrong_with(build, {"shared": 1, "spilled": 100}) == ""


def test_chords_are_compared_beat_by_beat(script, build_midi, note):
    """A minor is told where the block chords say C, and F where they do; a bar without a block is not counted."""
    measure = script("measure_chords")
    name = (0, b"\xff\x03\x06Chords")
    blocks = [e for tick, root in ((0, 48), (3840, 53)) for p in (0, 4, 7) for e in note(tick, root + p, 1920)]
    played = [
        e
        for tick, root in ((0, 45), (1920, 45), (3840, 41))
        for p in (0, 3 + (root == 41), 7)
        for e in note(tick, root + p, 1920)
    ]
    truth = measure.read_midi(build_midi([[name, *sorted(blocks, key=lambda e: e[0])]]))
    song = measure.read_midi(build_midi([sorted(played, key=lambda e: e[0])]))
    rows = measure.agreement(truth, song, measure.load_vocabulary())
    assert [r[:2] for r in rows] == [(False, False)] * 4 + [(True, True)] * 4
