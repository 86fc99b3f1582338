"""Runs that are killed, stopped, or shared by several processes."""

import multiprocessing
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from training_runs import TINY, curve_of, same_weights, state_of, weights_of

from midi_rwkv.commands.train import main as train_command
from midi_rwkv.training.run_files import Curve

MANY = TINY[:-2]  # the number of processes is the last
COMMAND = [sys.executable, "-m", "midi_rwkv", "train"]


@pytest.mark.slow
def test_kill_9_at_any_moment_loses_no_more_than_an_interval_and_breaks_nothing(shards: Path, tmp_path: Path) -> None:
    """Six kills of a run that saves after every step, each at some moment of a step: whatever moment it is, the state
    loads, and the run ends with the weights and the curve of one that nobody disturbed."""
    end = 60 * 256
    options = [*TINY, "--total", str(end), "--save-seconds", "0"]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["midi_rwkv.training.trainer"])

    def start(run: Path) -> multiprocessing.process.BaseProcess:
        process = context.Process(target=train_command, args=([str(shards), str(run), *options],))
        process.start()
        return process

    run = tmp_path / "killed"
    state = run / "state.pt"
    rng = np.random.default_rng()
    seen = 0
    for attempt in range(6):
        before = state.stat().st_mtime_ns if state.exists() else 0
        process = start(run)
        while not (state.exists() and state.stat().st_mtime_ns > before):  # until it trains, then at random
            assert process.is_alive(), "it ended before it was killed"
            time.sleep(0.005)
        time.sleep(0.05 * rng.random())
        process.kill()
        process.join()
        steps = state_of(run)["steps"]
        assert seen < steps < end, f"kill {attempt}"
        seen = steps
        logged = max([int(r["tokens"]) for r in Curve(run / "curve.csv").rows()], default=0)
        assert logged <= steps + 256, "no more is lost than the step after the last save"
    for folder in (run, tmp_path / "whole"):
        process = start(folder)
        process.join()
        assert process.exitcode == 0
    whole, killed = weights_of(tmp_path / "whole"), weights_of(run)
    assert all(np.array_equal(whole[k], killed[k]) for k in whole)
    assert same_weights(state_of(tmp_path / "whole"), state_of(run))
    assert curve_of(tmp_path / "whole") == curve_of(run)


@pytest.mark.slow
def test_two_processes_give_the_curve_of_one_and_one_goes_on_where_two_stopped(shards: Path, tmp_path: Path) -> None:
    def train(name: str, steps: int, processes: int, *launch: str) -> None:
        """Steps of the optimizer, of two rows each."""
        own = ["--rows", str(2 // processes), "--total", str(2 * 256 * steps), "--eval-steps", str(2 * 256 * 11)]
        shared = [] if launch else ["--processes", str(processes)]
        subprocess.run([*(launch or COMMAND), str(shards), str(tmp_path / name), *MANY, *own, *shared], check=True)

    train("one", 22, 1)
    train("two", 22, 2)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    train("both", 13, 2, *torchrun, "midi_rwkv", "train")
    train("both", 22, 1)
    one = curve_of(tmp_path / "one")
    assert [(r["kind"], int(r["tokens"]) // 512) for r in one] == [("valid", 11), ("train", 20), ("valid", 22)]
    for name in ("two", "both"):
        other = [r for r in curve_of(tmp_path / name) if int(r["tokens"]) != 13 * 512]  # where it ended at first
        for a, b in zip(one, other, strict=True):
            assert (a["kind"], a["tokens"]) == (b["kind"], b["tokens"])
            assert float(b["loss"]) == pytest.approx(float(a["loss"]), rel=5e-3)
        state = state_of(tmp_path / name)
        assert (state["step"], state["row"], state["steps"]) == (22, 44, 44 * 256)
        assert weights_of(tmp_path / name)


@pytest.mark.slow
@pytest.mark.parametrize("processes", ["1", "2"])
def test_sigterm_saves_and_the_same_command_goes_on(processes: str, shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [*COMMAND, str(shards), str(run), *MANY, "--processes", processes]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("tokens="), "it trains"
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130
    assert err.count("midi-rwkv: stopped; saved at") == 1
    assert "Traceback" not in err
    stopped = state_of(run)["steps"]
    assert stopped > 0
    end = stopped + 2 * 256
    done = subprocess.run([*command, "--total", str(end)], check=True, capture_output=True, text=True)
    assert f"going on at {stopped:,} steps" in done.stdout
    assert state_of(run)["steps"] == end


@pytest.mark.slow
def test_what_goes_wrong_in_one_of_several_processes_ends_the_command_without_a_traceback(
    shards: Path, tmp_path: Path
) -> None:
    """Here a folder that cannot be made, which each finds out by itself."""
    (tmp_path / "file").touch()
    command = [*COMMAND, str(shards), str(tmp_path / "file" / "run"), *MANY, "--processes", "2", "--total", "256"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert "midi-rwkv: error: " in done.stderr
    assert "Traceback" not in done.stderr
