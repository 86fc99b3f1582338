"""Runs that are killed, stopped, or shared by several processes."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from training_runs import TINY, curve_of, weights_of

from midi_rwkv.commands.train import main as train_command
from midi_rwkv.model.checkpoint import load_checkpoint
from midi_rwkv.training.run_files import Curve


@pytest.mark.slow
def test_kill_9_at_any_moment_loses_no_more_than_an_interval_and_breaks_nothing(shards, tmp_path):
    """Six kills of a run that saves after every step, each at some moment of a step: whatever moment it is, the state
    and the checkpoint load, and the run ends with the weights and the curve of one that nobody disturbed."""
    steps = 60
    options = [*TINY, "--batch-size", "1", "--total-tokens", str(256 * steps), "--save-seconds", "0"]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["midi_rwkv.training.trainer"])

    def start(run):
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
        tokens = torch.load(state, weights_only=True)["tokens"]
        assert seen < tokens < 256 * steps, f"kill {attempt}"
        seen = tokens
        logged = max([int(r["tokens"]) for r in Curve(run / "curve.csv").rows()], default=0)
        assert logged <= tokens + 256, "no more is lost than the step after the last save"
        if tokens == 256 and not (run / "checkpoint" / "config.json").exists():
            continue  # only the very first checkpoint may be missing, and is not half there either
        there = load_checkpoint(run / "checkpoint").training["tokens_seen"]
        assert tokens - 256 <= there <= tokens, "the checkpoint is of the last state or the one before"
    for folder in (run, tmp_path / "whole"):
        process = start(folder)
        process.join()
        assert process.exitcode == 0
    whole, killed = weights_of(tmp_path / "whole"), weights_of(run)
    assert all(np.array_equal(whole[k], killed[k]) for k in whole)
    assert curve_of(tmp_path / "whole") == curve_of(run)


@pytest.mark.slow
def test_two_processes_give_the_curve_of_one(shards, tmp_path):
    options = [*TINY, "--batch-size", "3", "--total-tokens", str(256 * 3 * 20), "--lr", "1e-3", "--ema", "0.99"]
    here = {**os.environ, "OMP_NUM_THREADS": "1"}
    python = [sys.executable, "-m"]
    two = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "midi_rwkv", "train"]
    for name, command in (("one", ["midi_rwkv", "train"]), ("two", two)):
        subprocess.run([*python, *command, str(shards), str(tmp_path / name), *options], check=True, env=here)
    one, two = curve_of(tmp_path / "one"), curve_of(tmp_path / "two")
    assert [(r["kind"], r["tokens"]) for r in one] == [(r["kind"], r["tokens"]) for r in two]
    assert len(one) == 3
    for a, b in zip(one, two, strict=True):
        assert float(a["loss"]) == pytest.approx(float(b["loss"]), rel=2e-3)


@pytest.mark.slow
def test_ctrl_c_saves_in_one_process_and_in_two(shards, tmp_path):
    options = [*TINY, "--batch-size", "2", "--total-tokens", "10000000"]
    two = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    for name, launch in (("one", []), ("two", two)):
        run = tmp_path / name
        command = [sys.executable, "-m", *launch, "midi_rwkv", "train", str(shards), str(run), *options]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline().startswith("tokens="), "it trains"
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=300)
        assert process.returncode != 0
        if not launch:
            assert "saved at" in err
        assert load_checkpoint(run / "checkpoint").training["tokens_seen"] > 0
