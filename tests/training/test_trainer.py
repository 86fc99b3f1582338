"""Training learns, resumes exactly, and starts from a checkpoint."""

import json
from dataclasses import replace
from shutil import which

import numpy as np
import pytest
import torch
from training_runs import CONFIG, CPU, MODEL, curve_of, killed_after, weights_of

from midi_rwkv.corpus.shards import write_shard
from midi_rwkv.evaluation.transformer import TransformerTrainer
from midi_rwkv.model.config import ARCHS
from midi_rwkv.score.score import Note, Score, TimeSignature, Track
from midi_rwkv.tokens.vocabulary import base_tokenizer
from midi_rwkv.training.run_files import Curve
from midi_rwkv.training.trainer import Machine, Trainer

TRAINERS = {"rwkv7": Trainer, "transformer": TransformerTrainer}


@pytest.mark.parametrize("arch", ARCHS)
def test_the_loss_falls_and_a_resumed_run_is_the_same_run(arch, shards, tmp_path):
    model = replace(MODEL, arch=arch, ffn_size=0)
    TRAINERS[arch](shards, tmp_path / "whole", model, CONFIG, machine=CPU).run()
    curve = curve_of(tmp_path / "whole")
    assert [r["kind"] for r in curve] == ["valid", "train", "valid", "valid average"]
    assert [int(r["tokens"]) // 512 for r in curve] == [11, 20, 22, 22]
    # A note is two ids or so; an untrained model is at log(vocabulary).
    assert float(curve[2]["loss"]) < 0.8 * np.log(1024) * 2.2
    assert json.loads(curve[2]["by_source"]).keys() == {"a"}

    parts = tmp_path / "parts"
    killed_after(TRAINERS[arch](shards, parts, model, CONFIG, machine=CPU), steps=9, save_at=5)
    killed_after(
        TRAINERS[arch](shards, parts, model, CONFIG, machine=Machine(device="cpu", workers=1)), steps=19, save_at=18
    )  # in the decay phase
    TRAINERS[arch](shards, parts, model, CONFIG, machine=CPU).run()
    for name in ("checkpoint", "checkpoint-average"):
        whole, again = weights_of(tmp_path / "whole", name), weights_of(parts, name)
        assert all(np.array_equal(whole[k], again[k]) for k in whole)
    assert curve_of(parts) == curve, "the same losses, to the last digit"
    TRAINERS[arch](shards, parts, model, CONFIG, machine=CPU).run()
    assert [r["kind"] for r in curve_of(parts)].count("valid") == 2, "a finished run is left as it is"
    other = next(a for a in ARCHS if a != arch)
    with pytest.raises(ValueError, match="another model; name a new run folder, or the same --preset and --arch"):
        TRAINERS[other](shards, parts, replace(model, arch=other, ffn_size=0), CONFIG, machine=CPU)


def test_another_model_or_a_damaged_state_does_not_resume(shards, tmp_path):
    trainer = Trainer(shards, tmp_path, MODEL, CONFIG, machine=CPU)
    trainer.save()
    with pytest.raises(ValueError, match="another model"):
        Trainer(shards, tmp_path, replace(MODEL, n_layer=3), CONFIG, machine=CPU)
    data = (tmp_path / "state.pt").read_bytes()
    (tmp_path / "state.pt").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"state.pt is damaged .*; name a new run folder"):
        Trainer(shards, tmp_path, MODEL, CONFIG, machine=CPU)


def test_a_new_run_starts_from_a_checkpoints_weights(shards, tmp_path):
    first = Trainer(shards, tmp_path / "first", MODEL, CONFIG, machine=CPU)
    with torch.no_grad():
        first.model.get_parameter("head.weight").fill_(0.5)
    first.save()
    folder = tmp_path / "first" / "checkpoint"
    second = Trainer(shards, tmp_path / "second", MODEL, CONFIG, machine=CPU, start=folder)
    assert torch.equal(second.model.get_parameter("head.weight"), first.model.get_parameter("head.weight"))
    assert second.tokens == 0
    with pytest.raises(ValueError, match="use its preset"):
        Trainer(shards, tmp_path / "third", replace(MODEL, n_layer=3), CONFIG, machine=CPU, start=folder)


def test_a_checkpoint_of_another_vocabulary_starts_no_run(checkpoint_folder, tmp_path):
    base = base_tokenizer()
    notes = tuple(Note(b * 1920 + k * 480, 60 + k, 240, 80) for b in range(24) for k in range(4))
    score = Score(480, (Track("a", 0, notes),), (TimeSignature(0, 4, 4),))
    for name in ("a", "valid"):
        write_shard(tmp_path / f"{name}.npz", [("a/0", base.encode(score))])
    base.save(tmp_path / "tokenizer.json")
    with pytest.raises(ValueError, match="has another vocabulary than the shards; build them with its tokenizer"):
        Trainer(tmp_path, tmp_path / "run", MODEL, CONFIG, machine=CPU, start=checkpoint_folder)


@pytest.mark.parametrize("context_weight", [1.0, 0.25])
def test_a_step_in_parts_has_the_same_gradients(shards, tmp_path, context_weight):
    config = replace(CONFIG, batch_size=3, bf16=False, context_weight=context_weight)
    found = []
    for at_once, piece in ((0, 0), (1, 0), (2, 0), (2, 100)):
        folder = tmp_path / f"{at_once}-{piece}"
        trainer = Trainer(
            shards, folder, MODEL, config, machine=Machine(device="cpu", rows_at_once=at_once, piece=piece)
        )
        batch = next(iter(trainer.batches()))
        nats = trainer.gradients(batch, batch.targets)
        found.append((nats, trainer.model.get_parameter("head.weight").grad))
    for nats, gradient in found[1:]:
        assert float(nats) == pytest.approx(float(found[0][0]), rel=1e-6)
        torch.testing.assert_close(gradient, found[0][1], rtol=1e-4, atol=1e-7)


@pytest.mark.slow
@pytest.mark.skipif(not (which("g++") or which("clang++")), reason="no C++ compiler")
def test_a_compiled_run_is_the_same_run(shards, tmp_path):
    """Up to rounding; and one that began compiled goes on uncompiled."""
    config = replace(CONFIG, total_tokens=512 * 8, eval_tokens=512 * 4, ema=0.0)
    Trainer(shards, tmp_path / "plain", MODEL, config, machine=CPU).run()
    killed_after(
        Trainer(shards, tmp_path / "mixed", MODEL, config, machine=Machine(device="cpu", compiled=True)),
        steps=6,
        save_at=5,
    )
    Trainer(shards, tmp_path / "mixed", MODEL, config, machine=CPU).run()
    plain, mixed = (curve_of(tmp_path / name) for name in ("plain", "mixed"))
    for a, b in zip(plain, mixed, strict=True):
        assert float(b["loss"]) == pytest.approx(float(a["loss"]), abs=2e-3)
    other = replace(MODEL, arch="transformer", ffn_size=0)
    with pytest.raises(ValueError, match="--compile is for an RWKV-7; leave it out for --arch transformer"):
        TransformerTrainer(shards, tmp_path / "other", other, config, machine=Machine(compiled=True))


def test_the_curve_is_cut_back_to_the_state_that_a_run_goes_on_from(tmp_path):
    curve = Curve(tmp_path / "curve.csv")
    for tokens in (1, 2, 3):
        curve.log({"tokens": tokens, "kind": "train", "loss": 1.0})
    curve.cut(2)
    assert [r["tokens"] for r in curve.rows()] == ["1", "2"]
