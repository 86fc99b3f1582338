"""Training learns, resumes exactly, survives being killed, and is the same on one process and on several."""

import csv
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from copy import copy, deepcopy
from dataclasses import replace
from shutil import which

import numpy as np
import pytest
import torch

from midi_rwkv.commands.cli import main
from midi_rwkv.commands.train import main as train_command
from midi_rwkv.files import whole_file
from midi_rwkv.model.checkpoint import load_checkpoint, save_checkpoint
from midi_rwkv.model.config import ARCHS, ModelConfig, TrainConfig
from midi_rwkv.score.midi import read_midi
from midi_rwkv.tokens.tokenizer import base_tokenizer
from midi_rwkv.training.dataset import CONTEXT, FILL, TrainingRows
from midi_rwkv.training.loader import Loader
from midi_rwkv.training.muon import Muon
from midi_rwkv.training.optim import WeightAverage, learning_rate
from midi_rwkv.training.parallel import Group, join
from midi_rwkv.training.run_files import Curve
from midi_rwkv.training.start import starting_weights
from midi_rwkv.training.trainer import Trainer

CONFIG = TrainConfig(
    seq_len=256, batch_size=2, total_tokens=256 * 2 * 22, warmup_tokens=1000, lr=3e-3, eval_tokens=256 * 2 * 11,
    source_weights={"a": 1.0}, average="decay", bf16=False,
)  # fmt: skip
MODEL = ModelConfig(n_layer=2, n_embd=64)
ONE = Group(0, 1, torch.device("cpu"))
TIMED = ("tokens_per_second", "waited")
TINY = ["--n-layer", "1", "--n-embd", "64", "--seq-len", "256", "--threads", "1", "--device", "cpu", "--float32"]


class StoppedError(Exception):
    """As if killed."""


def weights_of(run, name="checkpoint"):
    return load_checkpoint(run / name).weights


def curve_of(run):
    with (run / "curve.csv").open() as f:
        return [{k: v for k, v in row.items() if k not in TIMED} for row in csv.DictReader(f)]


def killed_after(trainer, steps, save_at):
    """Run, save at a step, and stop at a later one with nothing else saved."""
    train_step = trainer.train_step

    def some(*arguments):
        if trainer.step == save_at:
            trainer.save()
        if trainer.step == steps:
            raise StoppedError
        return train_step(*arguments)

    trainer.train_step = some
    with pytest.raises(StoppedError):
        trainer.run()


@pytest.mark.parametrize("arch", ARCHS)
def test_the_loss_falls_and_a_resumed_run_is_the_same_run(arch, shards, tmp_path):
    model = replace(MODEL, arch=arch, ffn_size=0)
    Trainer(shards, tmp_path / "whole", model, CONFIG, device="cpu").run()
    curve = curve_of(tmp_path / "whole")
    assert [r["kind"] for r in curve] == ["valid", "train", "valid", "valid average"]
    assert [int(r["tokens"]) // 512 for r in curve] == [11, 20, 22, 22]
    # A note is two ids or so; an untrained model is at log(vocabulary).
    assert float(curve[2]["loss"]) < 0.8 * np.log(1024) * 2.2
    assert json.loads(curve[2]["by_source"]).keys() == {"a"}

    parts = tmp_path / "parts"
    killed_after(Trainer(shards, parts, model, CONFIG, device="cpu"), steps=9, save_at=5)
    killed_after(
        Trainer(shards, parts, model, CONFIG, device="cpu", workers=1), steps=19, save_at=18
    )  # in the decay phase
    Trainer(shards, parts, model, CONFIG, device="cpu").run()
    for name in ("checkpoint", "checkpoint-average"):
        whole, again = weights_of(tmp_path / "whole", name), weights_of(parts, name)
        assert all(np.array_equal(whole[k], again[k]) for k in whole)
    assert curve_of(parts) == curve, "the same losses, to the last digit"
    Trainer(shards, parts, model, CONFIG, device="cpu").run()
    assert [r["kind"] for r in curve_of(parts)].count("valid") == 2, "a finished run is left as it is"
    other = next(a for a in ARCHS if a != arch)
    with pytest.raises(ValueError, match="another model; name a new run folder, or the same --preset and --arch"):
        Trainer(shards, parts, replace(model, arch=other, ffn_size=0), CONFIG, device="cpu")


def test_the_command_trains_a_transformer(shards, tmp_path):
    options = [*TINY, "--arch", "transformer", "--batch-size", "1", "--total-tokens", "512"]
    options += ["--average", "ema", "--ema", "0.5", "--source-weights", "a=1,games=0.5"]
    assert main(["train", str(shards), str(tmp_path / "run"), *options]) == 0
    checkpoint = load_checkpoint(tmp_path / "run" / "checkpoint")
    assert (checkpoint.config.arch, checkpoint.config.n_layer) == ("transformer", 1)
    assert (checkpoint.training["tokens_seen"], checkpoint.training["bf16"]) == (512, False)
    assert checkpoint.training["source_weights"] == {"a": 1.0, "games": 0.5}
    assert load_checkpoint(tmp_path / "run" / "checkpoint-average").training["average"] == "ema"


def test_a_model_of_another_prompt_order_fills(shards, build_midi, note, tmp_path):
    """From training to a file, the paper's order throughout."""
    run, song = tmp_path / "run", tmp_path / "song.mid"
    options = [*TINY, "--order", "tracks", "--batch-size", "1", "--total-tokens", "512"]
    assert main(["train", str(shards), str(run), *options]) == 0
    assert load_checkpoint(run / "checkpoint").prompt == "tracks"
    tracks = [[e for b in range(32) for e in note(b * 480, 60 + c + b % 5, 240, channel=c)] for c in (0, 1)]
    song.write_bytes(build_midi(tracks))
    new = str(tmp_path / "new.mid")
    options = ["--bars", "3-4", "--checkpoint", str(run / "checkpoint"), "--density", "2-4", "-o", new]
    assert main(["infill", str(song), *options]) == 0
    filled = read_midi(new)
    assert all(2 <= len(filled.notes_in(t, b)) <= 4 for t in (0, 1) for b in (2, 3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seq-len", "100"], "--seq-len must be 160 or more, got 100"),
        (["--workers", "-1"], "--workers must be 0 or more"),
        (["--optimizer", "sgd"], "optimizer must be muon or adamw"),
        (["--n-embd", "100"], "n_embd must be a multiple"),
        (["--source-weights", "a"], "--source-weights must be like games=1,pop909=0.5, got 'a'"),
        (["--source-weights", "a=0"], "must be above 0"),
        (["--source-weights", "z=1"], "no shard for z"),
    ],
)
def test_bad_options_are_named_and_nothing_is_written(options, message, shards, tmp_path, capsys):
    assert main(["train", str(shards), str(tmp_path / "run"), *TINY, *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_another_model_optimizer_or_a_damaged_state_does_not_resume(shards, tmp_path):
    trainer = Trainer(shards, tmp_path, MODEL, CONFIG, device="cpu")
    trainer.save()
    with pytest.raises(ValueError, match="another model"):
        Trainer(shards, tmp_path, replace(MODEL, n_layer=3), CONFIG, device="cpu")
    with pytest.raises(ValueError, match="another optimizer"):
        Trainer(shards, tmp_path, MODEL, replace(CONFIG, optimizer="adamw"), device="cpu")
    data = (tmp_path / "state.pt").read_bytes()
    (tmp_path / "state.pt").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"state.pt is damaged .*; name a new run folder"):
        Trainer(shards, tmp_path, MODEL, CONFIG, device="cpu")


def test_a_new_run_starts_from_a_checkpoints_weights(shards, tmp_path):
    first = Trainer(shards, tmp_path / "first", MODEL, CONFIG, device="cpu")
    with torch.no_grad():
        first.model.head.weight.fill_(0.5)
    first.save()
    folder = tmp_path / "first" / "checkpoint"
    second = Trainer(shards, tmp_path / "second", MODEL, CONFIG, device="cpu", start=folder)
    assert torch.equal(second.model.head.weight, first.model.head.weight)
    assert second.tokens == 0
    with pytest.raises(ValueError, match="use its preset"):
        Trainer(shards, tmp_path / "third", replace(MODEL, n_layer=3), CONFIG, device="cpu", start=folder)


def test_a_run_may_start_from_a_checkpoint_with_other_merges(checkpoint_folder, tokenizer, shards, tmp_path, capsys):
    checkpoint, base = load_checkpoint(checkpoint_folder), base_tokenizer()
    config = replace(checkpoint.config, vocab_size=base.vocab_size)
    split, new = starting_weights(checkpoint, config, base)
    assert (new, split["blocks.0.att.x_r"].dtype) == (0, torch.float32)
    merged = replace(checkpoint, config=config, tokenizer=base, weights={k: v.numpy() for k, v in split.items()})
    back, new = starting_weights(merged, checkpoint.config, tokenizer)
    assert new == tokenizer.vocab_size - base.vocab_size > 100
    for name in ("emb.weight", "head.weight"):
        for i, stands_for in enumerate(tokenizer.expansions):
            rows = torch.stack([split[name][base.expansions.index((b,))] for b in stands_for])
            assert torch.allclose(back[name][i], rows.mean(0)), (name, i)
            if len(stands_for) == 1:
                assert torch.equal(back[name][i], torch.from_numpy(checkpoint.weights[name][i]))
    save_checkpoint(tmp_path / "merged", config, split, base)
    run = Trainer(shards, tmp_path / "run", checkpoint.config, CONFIG, device="cpu", start=tmp_path / "merged")
    assert (
        f"another tokenizer: 803 ids keep the weights of {tmp_path / 'merged'}, {new:,} are new"
        in capsys.readouterr().out
    )
    assert torch.allclose(run.model.emb.weight, back["emb.weight"], atol=1e-2)  # bf16 on disk
    changed = replace(checkpoint, tokenizer=copy(tokenizer))
    changed.tokenizer.grid = "beat"
    with pytest.raises(ValueError, match="another vocabulary than the shards; build them with its tokenizer"):
        starting_weights(changed, config, base)


def test_adamw_trains_too(shards, tmp_path):
    trainer = Trainer(shards, tmp_path, MODEL, replace(CONFIG, optimizer="adamw", total_tokens=1024), device="cpu")
    before = trainer.model.head.weight.clone()
    trainer.run()
    assert not torch.equal(before, trainer.model.head.weight)


@pytest.mark.parametrize("context_weight", [1.0, 0.25])
def test_a_step_in_parts_has_the_same_gradients(shards, tmp_path, context_weight):
    config = replace(CONFIG, batch_size=3, bf16=False, context_weight=context_weight)
    found = []
    for at_once, piece in ((0, 0), (1, 0), (2, 0), (2, 100)):
        folder = tmp_path / f"{at_once}-{piece}"
        trainer = Trainer(shards, folder, MODEL, config, device="cpu", rows_at_once=at_once, piece=piece)
        batch = next(iter(trainer.batches()))
        nats = trainer.gradients(batch, batch.targets)
        found.append((nats, trainer.model.head.weight.grad))
    for nats, gradient in found[1:]:
        assert float(nats) == pytest.approx(float(found[0][0]), rel=1e-6)
        torch.testing.assert_close(gradient, found[0][1], rtol=1e-4, atol=1e-7)


def test_what_a_step_counts_is_its_fills_and_a_share_of_its_context(shards, tokenizer):
    rows = TrainingRows(shards, tokenizer, 256, seed=3, weights={"a": 1.0})
    batch = next(iter(Loader(rows, 2, first_row=0, steps=1, group=ONE, context_weight=0.25)))
    fill, context = (int((batch.roles[:, 1:] == role).sum()) for role in (FILL, CONTEXT))
    assert fill > 0 < context
    assert batch.targets == fill + 0.25 * context
    with pytest.raises(ValueError, match="context_weight must lie in 0-1, got 2"):
        replace(CONFIG, context_weight=2)


def test_a_folder_without_shards_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="holds no token shards"):
        Trainer(tmp_path / "nosuch", tmp_path / "run", MODEL, CONFIG, device="cpu")
    assert not (tmp_path / "run").exists()


def test_pieces_are_for_an_rwkv7(shards, tmp_path):
    with pytest.raises(ValueError, match="--piece is for one process and an RWKV-7"):
        Trainer(shards, tmp_path, replace(MODEL, arch="transformer"), CONFIG, device="cpu", piece=64)


def test_the_rows_of_a_step_are_the_same_however_many_processes_share_them(shards, tokenizer):
    rows = TrainingRows(shards, tokenizer, 256, seed=3, weights={"a": 1.0})
    whole = list(Loader(rows, 5, first_row=10, steps=3, group=ONE))
    assert len(whole) == 3
    for size, workers in ((2, 0), (3, 2)):
        shares = [
            list(Loader(rows, 5, first_row=10, steps=3, group=Group(r, size, ONE.device), workers=workers))
            for r in range(size)
        ]
        for step, batch in enumerate(whole):
            assert sum(s[step].targets for s in shares) == batch.targets
            for rank, share in enumerate(shares):
                assert torch.equal(share[step].ids, batch.ids[rank::size])
                assert torch.equal(share[step].starts, batch.starts[rank::size])
    with pytest.raises(ValueError, match="--batch-size 2 gives 3 processes no row each; use 3"):
        Loader(rows, 2, first_row=0, steps=1, group=Group(0, 3, ONE.device))


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
@pytest.mark.parametrize("shape", [(48, 32), (32, 96)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_muon_is_pytorchs(shape, dtype, monkeypatch):
    """In bf16 to the last bit; in float32 as near as bf16 is to it."""
    monkeypatch.setattr("midi_rwkv.training.muon.has_fast_bf16", lambda device: dtype == torch.bfloat16)
    generator = torch.Generator().manual_seed(0)
    starts = [torch.randn(s, generator=generator) for s in (shape, shape, shape[::-1])]
    ours, theirs = ([torch.nn.Parameter(x.clone()) for x in starts] for _ in range(2))
    mine = Muon(ours, 0.02, 0.1)
    other = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    for _ in range(4):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn(p.shape, generator=generator)
            q.grad = p.grad.clone()
        mine.step()
        other.step()
    mine.load_state_dict(deepcopy(other.state_dict()))  # a run that began with PyTorch's goes on
    mine.step()
    other.step()
    for start, p, q in zip(starts, ours, theirs, strict=True):
        if dtype == torch.bfloat16:
            assert torch.equal(p, q)
        else:
            assert 0 < (p - q).norm() < 0.02 * (q - start).norm()


@pytest.mark.slow
@pytest.mark.skipif(not (which("g++") or which("clang++")), reason="no C++ compiler")
def test_a_compiled_run_is_the_same_run(shards, tmp_path):
    """Up to rounding; and one that began compiled goes on uncompiled."""
    config = replace(CONFIG, total_tokens=512 * 8, eval_tokens=512 * 4, average="none")
    Trainer(shards, tmp_path / "plain", MODEL, config, device="cpu").run()
    killed_after(Trainer(shards, tmp_path / "mixed", MODEL, config, device="cpu", compiled=True), steps=6, save_at=5)
    Trainer(shards, tmp_path / "mixed", MODEL, config, device="cpu").run()
    plain, mixed = (curve_of(tmp_path / name) for name in ("plain", "mixed"))
    for a, b in zip(plain, mixed, strict=True):
        assert float(b["loss"]) == pytest.approx(float(a["loss"]), abs=2e-3)
    with pytest.raises(ValueError, match="--compile is for an RWKV-7; leave it out for --arch transformer"):
        Trainer(shards, tmp_path / "other", replace(MODEL, arch="transformer", ffn_size=0), config, compiled=True)


def test_compiling_without_a_compiler_is_one_line(shards, tmp_path, capsys):
    from torch._inductor import config

    with config.patch({"cpp.cxx": "no-such-compiler"}):
        assert main(["train", str(shards), str(tmp_path / "run"), "--compile", *TINY]) == 2
    said = capsys.readouterr().err
    assert "--compile needs a C++ compiler (g++ or clang++); install one, or leave it out" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_averages_are_what_they_say():
    for kind, want in (("ema", 0.25 * 1 + 0.25 * 2 + 0.5 * 3), ("decay", 2.5)):
        config = TrainConfig(average=kind, ema=0.5, total_tokens=100, decay_fraction=0.5)
        model = torch.nn.Linear(1, 1)
        average = WeightAverage(model, config)
        for tokens, value in ((50, 1.0), (75, 2.0), (100, 3.0)):
            torch.nn.init.constant_(model.weight, value)
            average.update(model, tokens)
        assert average.model.weight.item() == pytest.approx(want)
    with pytest.raises(ValueError, match="average must be one of"):
        TrainConfig(average="swa")


def test_files_are_whole_or_as_they_were(tmp_path):
    path = tmp_path / "a"
    path.write_text("before")

    def fail():
        with whole_file(path) as partial:
            partial.write_text("half")
            raise StoppedError

    with pytest.raises(StoppedError):
        fail()
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert path.read_text() == "before"
    curve = Curve(tmp_path / "curve.csv")
    for tokens in (1, 2, 3):
        curve.log({"tokens": tokens, "kind": "train", "loss": 1.0})
    curve.cut(2)
    assert [r["tokens"] for r in curve.rows()] == ["1", "2"]


def test_learning_rate_is_warmed_up_held_and_decayed():
    config = TrainConfig(total_tokens=1000, warmup_tokens=100, decay_fraction=0.3, lr=1.0)
    rates = [learning_rate(config, t) for t in (0, 49, 99, 500, 700, 850, 1000)]
    assert rates == pytest.approx([0.01, 0.5, 1.0, 1.0, 1.0, 0.5, 0.0])


def test_missing_shards_and_gpus_are_named(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer.json")
    with pytest.raises(ValueError, match="no shard for a"):
        Trainer(tmp_path, tmp_path / "run", MODEL, CONFIG, device="cpu")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="there is no GPU"):
            join("cuda")


@pytest.mark.slow
def test_kill_9_at_any_moment_loses_no_more_than_an_interval_and_breaks_nothing(shards, tmp_path):
    """Ten kills of a run that saves after every step: whatever moment it is, the state and the checkpoint load, and
    the run ends with the weights and the curve of one that nobody disturbed."""
    steps = 100
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
    for attempt in range(10):
        before = state.stat().st_mtime_ns if state.exists() else 0
        process = start(run)
        while not (state.exists() and state.stat().st_mtime_ns > before):  # until it trains, then at random
            assert process.is_alive(), "it ended before it was killed"
            time.sleep(0.005)
        time.sleep(0.3 * rng.random())
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
    options = [*TINY, "--batch-size", "3", "--total-tokens", str(256 * 3 * 60), "--lr", "1e-3", "--average", "ema"]
    here = {**os.environ, "OMP_NUM_THREADS": "1"}
    python = [sys.executable, "-m"]
    two = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "midi_rwkv", "train"]
    for name, command in (("one", ["midi_rwkv", "train"]), ("two", two)):
        subprocess.run([*python, *command, str(shards), str(tmp_path / name), *options], check=True, env=here)
    one, two = curve_of(tmp_path / "one"), curve_of(tmp_path / "two")
    assert [(r["kind"], r["tokens"]) for r in one] == [(r["kind"], r["tokens"]) for r in two]
    assert len(one) == 5
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
        _, err = process.communicate(timeout=60)
        assert process.returncode != 0
        if not launch:
            assert "saved at" in err
        assert load_checkpoint(run / "checkpoint").training["tokens_seen"] > 0
