"""The trainer: it learns, resumes exactly, branches, and averages."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from shutil import which

import pytest
import torch
from song import vocabulary
from training_runs import CONFIG, CPU, MODEL, curve_of, killed_after, same_weights, state_of, weights_of

from midi_rwkv import Ask, Note, Region, Score, Track, infill, load_checkpoint
from midi_rwkv.model.config import ARCHS, ModelConfig, TrainConfig
from midi_rwkv.tokens.layout import targets_of
from midi_rwkv.training import launch
from midi_rwkv.training.beginning import Machine
from midi_rwkv.training.run_files import Curve
from midi_rwkv.training.trainer import Trainer


@pytest.mark.parametrize("arch", ARCHS)
def test_the_loss_falls_and_a_resumed_run_is_the_same_run(arch: str, shards: Path, tmp_path: Path) -> None:
    model, end = replace(MODEL, arch=arch, ffn_size=0), 22 * 256
    whole = Trainer(shards, tmp_path / "whole", model, CONFIG, machine=CPU)
    before = whole.evaluate()
    (tmp_path / "whole" / "curve.csv").unlink()
    whole.run(end)
    curve = curve_of(tmp_path / "whole")
    assert [(r["kind"], int(r["tokens"]) // 256) for r in curve] == [("valid", 11), ("train", 20), ("valid", 22)]
    assert float(curve[2]["loss"]) < 0.8 * before
    assert json.loads(curve[2]["by_source"]).keys() >= {"valid", "place", "pitch"}

    parts = tmp_path / "parts"
    killed_after(Trainer(shards, parts, model, CONFIG, machine=CPU), steps=9, save_at=5)
    killed_after(Trainer(shards, parts, model, CONFIG, machine=CPU), steps=19, save_at=18)
    Trainer(shards, parts, model, CONFIG, machine=CPU).run(end)
    assert same_weights(state_of(tmp_path / "whole"), state_of(parts))
    assert curve_of(parts) == curve, "the same losses, to the last digit"
    Trainer(shards, parts, model, CONFIG, machine=CPU).run(end)
    assert curve_of(parts) == curve, "a finished run is left as it is"
    assert load_checkpoint(parts).config.arch == arch
    other = replace(model, arch=next(a for a in ARCHS if a != arch), ffn_size=0)
    with pytest.raises(ValueError, match="another model; name a new run folder, or the same --n-layer"):
        Trainer(shards, parts, other, CONFIG, machine=CPU)


def test_another_model_or_a_damaged_state_does_not_resume(shards: Path, tmp_path: Path) -> None:
    trainer = Trainer(shards, tmp_path, MODEL, CONFIG, machine=CPU)
    trainer.save()
    with pytest.raises(ValueError, match="another model"):
        Trainer(shards, tmp_path, replace(MODEL, n_layer=3), CONFIG, machine=CPU)
    data = (tmp_path / "state.pt").read_bytes()
    (tmp_path / "state.pt").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"state.pt is damaged .*; name a new run folder"):
        Trainer(shards, tmp_path, MODEL, CONFIG, machine=CPU)


def test_a_state_of_an_earlier_version_goes_on(shards: Path, tmp_path: Path) -> None:
    """It has neither the losses since the last line of the curve nor where a warm-up began."""
    trainer = Trainer(shards, tmp_path, MODEL, CONFIG, machine=CPU)
    trainer.train_step()
    trainer.save()
    state = state_of(tmp_path)
    for name in ("window", "warm_from"):
        del state[name]
    torch.save(state, tmp_path / "state.pt")
    later = Trainer(shards, tmp_path, MODEL, CONFIG, machine=CPU)
    assert (later.steps, later.row, later.warm_from) == (256, 1, 0)
    assert not later.window.any()
    assert later.train_step() == trainer.train_step()
    assert torch.equal(later.model.tables.weight, trainer.model.tables.weight)


def test_what_is_measured_is_the_average_of_a_runs_last_eighth(shards: Path, tmp_path: Path) -> None:
    trainer = Trainer(shards, tmp_path / "run", MODEL, CONFIG, machine=CPU)
    by_hand = torch.zeros(0)
    for step in range(24):
        trainer.train_step()
        now = trainer.model.tables.weight.detach().clone()
        by_hand = now if step < 8 else by_hand + 8 / (step + 1) * (now - by_hand)
    average = trainer.average.module
    assert torch.allclose(average.tables.weight, by_hand, atol=1e-6)
    assert not torch.equal(average.tables.weight, trainer.model.tables.weight)
    of_average = trainer.evaluate()
    trainer.model.load_state_dict(average.state_dict())
    trainer.config = replace(CONFIG, decay_steps=1)
    assert trainer.evaluate() == of_average
    trainer.write_model()
    written = weights_of(tmp_path / "run")["tables.weight"]
    assert torch.allclose(torch.from_numpy(written), by_hand, atol=0.01)


def test_a_branch_decays_and_leaves_its_run_alone(shards: Path, tmp_path: Path) -> None:
    Trainer(shards, tmp_path / "run", MODEL, CONFIG, machine=CPU).run(6 * 256)
    held = (tmp_path / "run" / "state.pt").read_bytes()
    config = replace(CONFIG, decay_steps=6 * 256)
    killed_after(
        Trainer(shards, tmp_path / "branch", MODEL, config, machine=CPU, origin=tmp_path / "run"), steps=10, save_at=9
    )
    branch = Trainer(shards, tmp_path / "branch", MODEL, config, machine=CPU, origin=tmp_path / "run")
    assert (branch.step, branch.config.branch_at) == (9, 6 * 256)  # its own state, and the run's decay
    branch.run()
    assert (tmp_path / "run" / "state.pt").read_bytes() == held
    assert branch.steps == 12 * 256
    assert branch.config.falling(branch.steps) == 0
    checkpoint = load_checkpoint(tmp_path / "branch")
    assert checkpoint.training["steps_seen"] == 12 * 256
    assert checkpoint.training["decay_steps"] == 6 * 256
    tune = [Note(480 * k, 60 + k % 5, 400, 80) for k in range(32)]
    score = Score(480, (Track("lead", 0, tuple(tune)),))
    region = Region.rectangle([0], [(3, 5)])
    [candidate] = infill(score, Ask(region), checkpoint)
    assert candidate.fills[0]


def test_a_run_goes_on_from_a_checkpoints_weights(shards: Path, tmp_path: Path) -> None:
    """Where its state is lost: as well as it was, with a new warm-up, and with other rows."""
    first = Trainer(shards, tmp_path / "first", MODEL, CONFIG, machine=CPU)
    first.run(12 * 256)
    later = Trainer(shards, tmp_path / "later", MODEL, CONFIG, machine=CPU, origin=tmp_path / "first")
    assert later.evaluate() == pytest.approx(first.evaluate(), rel=0.01)  # rounded to bfloat16
    assert (later.steps, later.row) == (12 * 256, 12)
    assert later.train_step() < CONFIG.lr
    other = replace(MODEL, n_layer=2)
    with pytest.raises(ValueError, match="holds another model; name the same"):
        Trainer(shards, tmp_path / "other", other, CONFIG, machine=CPU, origin=tmp_path / "first")
    assert not (tmp_path / "other").exists()


def test_what_a_step_counts_is_its_answers_and_a_share_of_its_context(shards: Path, tmp_path: Path) -> None:
    trainer = Trainer(shards, tmp_path / "run", MODEL, CONFIG, machine=CPU)
    steps, starts = (x[None] for x in trainer.rows[0])
    roles = targets_of(steps[0], vocabulary())[1]
    counts = {role: int((roles == role).sum()) for role in set(roles.tolist())}
    answers, context = counts[2], sum(n for role, n in counts.items() if role not in (0, 2))
    assert min(answers, context) > 0
    for weight in (1.0, 0.25, 0.0):
        trainer.config = replace(CONFIG, context_weight=weight)
        assert trainer.loss(steps, starts)[1] == pytest.approx(answers + weight * context)
    with pytest.raises(ValueError, match="context_weight must lie in 0-1, got 2"):
        replace(CONFIG, context_weight=2)


@pytest.mark.parametrize("arch", ARCHS)
@torch.no_grad()
def test_the_loss_of_a_packed_row_does_not_depend_on_what_stands_before_a_sample(
    arch: str, varied_shards: Path, tmp_path: Path
) -> None:
    """Two rows that share their last sample, in the same place."""
    model = replace(MODEL, n_layer=2, arch=arch, ffn_size=0)
    trainer = Trainer(varied_shards, tmp_path, model, replace(CONFIG, seq_len=768, bf16=False), machine=CPU)
    for p in trainer.model.parameters():  # what begins at zero says nothing
        p.add_(0.05 * torch.randn_like(p))
    pairs = ((trainer.rows[i], trainer.rows[i + 1]) for i in range(0, 40, 2))
    one, two = next((a, b) for a, b in pairs if a[1].sum() > 1)
    last = int(one[1].nonzero()[0][-1])
    other_steps, other_starts = two[0].copy(), two[1].copy()
    other_steps[last:], other_starts[last:] = one[0][last:], one[1][last:]
    found = [
        trainer.model.hidden(torch.from_numpy(s)[None], starts=torch.from_numpy(b)[None])[0, last:]
        for s, b in ((one[0], one[1]), (other_steps, other_starts))
    ]
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)
    alone = trainer.model.hidden(torch.from_numpy(one[0][None, last:]))[0]
    torch.testing.assert_close(found[0], alone, rtol=1e-4, atol=1e-5)
    unpacked = trainer.model.hidden(torch.from_numpy(one[0])[None])[0, last:]
    assert (unpacked - alone).abs().max() > 1e-3


@pytest.mark.slow
@pytest.mark.skipif(not (which("g++") or which("clang++")), reason="no C++ compiler")
def test_a_compiled_run_is_the_same_run(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to rounding, which is too coarse in bfloat16; and one that began compiled goes on uncompiled."""
    for module in ("muon", "trainer"):
        monkeypatch.setattr(f"midi_rwkv.training.{module}.has_fast_bf16", lambda _: False)
    config, end = replace(CONFIG, eval_steps=4 * 256), 8 * 256
    Trainer(shards, tmp_path / "plain", MODEL, config, machine=CPU).run(end)
    killed_after(
        Trainer(shards, tmp_path / "mixed", MODEL, config, machine=Machine(device="cpu", compiled=True)),
        steps=6,
        save_at=5,
    )
    Trainer(shards, tmp_path / "mixed", MODEL, config, machine=CPU).run(end)
    plain, mixed = (curve_of(tmp_path / name) for name in ("plain", "mixed"))
    for a, b in zip(plain, mixed, strict=True):
        assert float(b["loss"]) == pytest.approx(float(a["loss"]), rel=2e-3)


def test_the_curve_is_cut_back_to_the_state_that_a_run_goes_on_from(tmp_path: Path) -> None:
    curve = Curve(tmp_path / "curve.csv")
    for steps in (1, 2, 3):
        curve.log({"tokens": steps, "kind": "train", "loss": 1.0})
    curve.cut(2)
    assert [r["tokens"] for r in curve.rows()] == ["1", "2"]
    assert curve.has("train", 2)
    assert not curve.has("train", 3)
    assert not curve.has("valid", 2)


def test_a_process_for_each_core_that_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr("joblib.cpu_count", lambda only_physical_cores: 4 if only_physical_cores else 8)
    model, config = ModelConfig(n_layer=8, n_embd=256, vocab_size=1), TrainConfig()
    for processes in (0, 1, 3, 9):
        room = int((processes + 0.5) * launch.memory_of(model, config))
        monkeypatch.setattr(launch, "_available_memory", lambda room=room: room)
        assert launch.processes_here(model, config, "cpu") == min(4, max(1, processes))
    monkeypatch.setenv("RANK", "0")
    assert launch.processes_here(model, config, "cpu") == 1
