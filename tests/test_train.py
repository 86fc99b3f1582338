"""Training learns, resumes exactly, and survives being killed."""

import csv
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from midi_rwkv.checkpoint import load_checkpoint
from midi_rwkv.cli import main
from midi_rwkv.config import ARCHS, ModelConfig, TrainConfig
from midi_rwkv.train import Trainer, learning_rate

CONFIG = TrainConfig(
    seq_len=256, batch_size=2, total_tokens=256 * 2 * 12, warmup_tokens=1000, lr=3e-3, eval_tokens=10**9,
    source_weights={"a": 1.0},
)  # fmt: skip
MODEL = ModelConfig(n_layer=2, n_embd=64)


def weights_of(run):
    return load_checkpoint(run / "checkpoint").weights


@pytest.mark.parametrize("arch", ARCHS)
def test_the_loss_falls_and_a_resumed_run_is_the_same_run(arch, shards, tmp_path):
    model = replace(MODEL, arch=arch, ffn_size=0)
    Trainer(shards, tmp_path / "whole", model, CONFIG, "cpu").run()
    with (tmp_path / "whole" / "curve.csv").open() as f:
        [valid] = [r for r in csv.DictReader(f) if r["kind"] == "valid"]
    assert (
        float(valid["loss"]) < 0.8 * np.log(1024) * 2.2
    )  # a note is two ids or so; an untrained model is at log(vocabulary)

    class StoppedError(Exception):
        pass

    trainer = Trainer(shards, tmp_path / "parts", model, CONFIG, "cpu")
    batches = trainer.batches

    def some():
        for i, batch in enumerate(batches()):
            if i == 5:
                trainer.save()
                raise StoppedError
            yield batch

    trainer.batches = some
    with pytest.raises(StoppedError):
        trainer.run()
    assert weights_of(tmp_path / "parts")["emb.weight"].shape == (1024, 64)
    Trainer(shards, tmp_path / "parts", model, CONFIG, "cpu").run()
    whole, parts = weights_of(tmp_path / "whole"), weights_of(tmp_path / "parts")
    assert all(np.array_equal(whole[k], parts[k]) for k in whole)
    other = next(a for a in ARCHS if a != arch)
    with pytest.raises(ValueError, match="another model; name a new run folder, or the same --preset and --arch"):
        Trainer(shards, tmp_path / "parts", replace(model, arch=other, ffn_size=0), CONFIG, "cpu")


def test_the_command_trains_a_transformer(shards, tmp_path):
    options = "--arch transformer --n-layer 1 --n-embd 64 --seq-len 256 --batch-size 1 --total-tokens 512 --threads 1"
    assert main(["train", str(shards), str(tmp_path / "run"), *options.split(), "--device", "cpu"]) == 0
    checkpoint = load_checkpoint(tmp_path / "run" / "checkpoint")
    assert (checkpoint.config.arch, checkpoint.config.n_layer) == ("transformer", 1)
    assert checkpoint.training["tokens_seen"] == 512


def test_another_model_does_not_resume(shards, tmp_path):
    trainer = Trainer(shards, tmp_path, MODEL, CONFIG, "cpu")
    trainer.save()
    with pytest.raises(ValueError, match="another model"):
        Trainer(shards, tmp_path, replace(MODEL, n_layer=3), CONFIG, "cpu")


def test_a_new_run_starts_from_a_checkpoints_weights(shards, tmp_path):
    first = Trainer(shards, tmp_path / "first", MODEL, CONFIG, "cpu")
    with torch.no_grad():
        first.model.head.weight.fill_(0.5)
    first.save()
    folder = tmp_path / "first" / "checkpoint"
    second = Trainer(shards, tmp_path / "second", MODEL, CONFIG, "cpu", start=folder)
    assert torch.equal(second.model.head.weight, first.model.head.weight)
    assert second.tokens == 0
    with pytest.raises(ValueError, match="use its preset"):
        Trainer(shards, tmp_path / "third", replace(MODEL, n_layer=3), CONFIG, "cpu", start=folder)


def test_adamw_trains_too(shards, tmp_path):
    trainer = Trainer(shards, tmp_path, MODEL, replace(CONFIG, optimizer="adamw", total_tokens=1024), "cpu")
    before = trainer.model.head.weight.clone()
    trainer.run()
    assert not torch.equal(before, trainer.model.head.weight)


def test_learning_rate_is_warmed_up_held_and_decayed():
    config = TrainConfig(total_tokens=1000, warmup_tokens=100, decay_fraction=0.3, lr=1.0)
    rates = [learning_rate(config, t) for t in (0, 49, 99, 500, 700, 850, 1000)]
    assert rates == pytest.approx([0.01, 0.5, 1.0, 1.0, 1.0, 0.5, 0.0])


def test_missing_shards_are_named(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer.json")
    with pytest.raises(ValueError, match="no shard for a"):
        Trainer(tmp_path, tmp_path / "run", MODEL, CONFIG, "cpu")


@pytest.mark.slow
def test_kill_9_at_any_moment_leaves_a_checkpoint_that_resumes(shards, tmp_path):
    command = [sys.executable, "-m", "midi_rwkv.train", str(shards), str(tmp_path), "--threads", "1", "--n-layer", "2"]
    command += [
        "--n-embd",
        "64",
        "--seq-len",
        "256",
        "--batch-size",
        "1",
        "--save-seconds",
        "0",
        "--total-tokens",
        "100000",
    ]
    rng = np.random.default_rng(0)
    for _ in range(5):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        time.sleep(6 + 3 * rng.random())
        process.kill()
        process.wait()
        if (tmp_path / "state.pt").exists():
            assert torch.load(tmp_path / "state.pt", weights_only=True)["tokens"] > 0
        if (tmp_path / "checkpoint" / "config.json").exists():
            load_checkpoint(tmp_path / "checkpoint")
    assert (tmp_path / "state.pt").exists()
