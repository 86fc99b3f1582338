"""The trainer of the step model: it learns, resumes exactly, branches, and shares the work."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from song import repeating_song, vocabulary

from midi_rwkv import Ask, Note, Region, Score, Track, infill, load_checkpoint
from midi_rwkv.corpus.note_shards import ChordedSong, write_note_shard
from midi_rwkv.model.config import ModelConfig, StepTrainConfig
from midi_rwkv.model.step_checkpoint import StepCheckpoint
from midi_rwkv.tokens.chords import find_chords
from midi_rwkv.training import launch
from midi_rwkv.training.muon import Muon, orthogonalized
from midi_rwkv.training.step_trainer import StepTrainer, main

TINY = ModelConfig(n_layer=1, n_embd=64, vocab_size=1)
SHORT = StepTrainConfig(seq_len=256, warmup_steps=1000, eval_steps=10**9, lr=3e-3)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    song = repeating_song(24)
    for name in ("games", "valid"):
        write_note_shard(
            folder / f"{name}.npz", [(f"{name}/0.mid", ChordedSong(song, find_chords(song, vocabulary())))]
        )
    vocabulary().save(folder / "tokenizer.json")
    return folder


def weights(folder: Path, kind: str = "model") -> dict[str, torch.Tensor]:
    """Those of a run's state."""
    found: dict[str, torch.Tensor] = torch.load(folder / "state.pt", weights_only=True)[kind]
    return found


def test_the_loss_falls_and_a_resumed_run_is_the_same_run(shards: Path, tmp_path: Path) -> None:
    whole = StepTrainer(shards, tmp_path / "whole", TINY, SHORT)
    before = whole.evaluate()
    whole.run(20 * 256)
    assert whole.evaluate() < 0.8 * before
    StepTrainer(shards, tmp_path / "parts", TINY, SHORT).run(8 * 256)
    StepTrainer(shards, tmp_path / "parts", TINY, SHORT).run(20 * 256)
    for kind in ("model", "average"):
        one, two = weights(tmp_path / "whole", kind), weights(tmp_path / "parts", kind)
        assert all(torch.equal(one[k], two[k]) for k in one)


def test_what_is_measured_is_the_average_of_a_runs_last_eighth(shards: Path, tmp_path: Path) -> None:
    trainer = StepTrainer(shards, tmp_path / "run", TINY, SHORT)
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
    trainer.config = StepTrainConfig(**{**SHORT.to_dict(), "decay_steps": 1})
    assert trainer.evaluate() == of_average
    trainer.write_model()
    written = load_checkpoint(tmp_path / "run").weights["tables.weight"]
    assert torch.allclose(torch.from_numpy(written), by_hand, atol=0.01)


def test_a_branch_decays_and_leaves_its_run_alone(shards: Path, tmp_path: Path) -> None:
    StepTrainer(shards, tmp_path / "run", TINY, SHORT).run(6 * 256)
    held = (tmp_path / "run" / "state.pt").read_bytes()
    config = StepTrainConfig(**{**SHORT.to_dict(), "decay_steps": 6 * 256})
    branch = StepTrainer(shards, tmp_path / "branch", TINY, config, origin=tmp_path / "run")
    branch.run()
    assert (tmp_path / "run" / "state.pt").read_bytes() == held
    assert branch.steps == 12 * 256
    assert branch.config.falling(branch.steps) == 0
    checkpoint = load_checkpoint(tmp_path / "branch")
    assert isinstance(checkpoint, StepCheckpoint)
    assert checkpoint.training["steps_seen"] == 12 * 256
    tune = [Note(480 * k, 60 + k % 5, 400, 80) for k in range(32)]
    score = Score(480, (Track("lead", 0, tuple(tune)),))
    region = Region.rectangle([0], [(3, 5)])
    [candidate] = infill(score, Ask(region), checkpoint)
    assert candidate.fills[0]


def test_a_run_goes_on_from_a_checkpoints_weights(shards: Path, tmp_path: Path) -> None:
    """Where its state is lost: as well as it was, with a new warm-up, and with other rows."""
    first = StepTrainer(shards, tmp_path / "first", TINY, SHORT)
    first.run(12 * 256)
    later = StepTrainer(shards, tmp_path / "later", TINY, SHORT, origin=tmp_path / "first")
    assert later.evaluate() == pytest.approx(first.evaluate(), rel=0.01)  # rounded to bfloat16
    assert (later.steps, later.row) == (12 * 256, 12)
    assert later.train_step() < SHORT.lr
    other = ModelConfig(n_layer=2, n_embd=64, vocab_size=1)
    with pytest.raises(ValueError, match="holds another model"):
        StepTrainer(shards, tmp_path / "other", other, SHORT, origin=tmp_path / "first")


def test_orthogonalized_matrices_are_nearly_so() -> None:
    torch.manual_seed(0)
    for shape in ((64, 64), (64, 256), (256, 64)):
        left = torch.linalg.qr(torch.randn(shape[0], 64))[0]
        right = torch.linalg.qr(torch.randn(shape[1], 64))[0]
        values = torch.logspace(0, -2, 64)
        [turned] = orthogonalized(((left * values) @ right.T)[None], torch.float32)
        found = torch.linalg.svdvals(turned)[:64]
        assert found.max() < 1.25
        assert found.min() > 0.7


def test_muon_moves_along_the_gradients_singular_vectors() -> None:
    weight = torch.nn.Parameter(torch.zeros(8, 8))
    weight.grad = torch.diag(torch.linspace(1, 2, 8))
    Muon([weight], lr=0.1, weight_decay=0.0).step()
    assert torch.allclose(weight.detach(), torch.diag(weight.detach().diag()), atol=1e-5)
    assert (weight.detach().diag() < 0).all()


def test_a_process_for_each_core_that_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr("joblib.cpu_count", lambda only_physical_cores: 4 if only_physical_cores else 8)
    model, config = ModelConfig(n_layer=8, n_embd=256, vocab_size=1), StepTrainConfig()
    for processes in (0, 1, 3, 9):
        room = int((processes + 0.5) * launch.memory_of(model, config))
        monkeypatch.setattr(launch, "_available_memory", lambda room=room: room)
        assert launch.processes_here(model, config, "cpu") == min(4, max(1, processes))
    monkeypatch.setenv("RANK", "0")
    assert launch.processes_here(model, config, "cpu") == 1


def test_without_a_compiler_the_trainer_says_so_and_trains(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from torch._inductor import config

    shape = ["--n-layer", "1", "--n-embd", "64", "--seq-len", "256", "--total", "512", "--processes", "1"]
    with config.patch({"cpp.cxx": "no-such-compiler"}):
        main([str(shards), str(tmp_path / "run"), *shape, "--device", "cpu"])
    assert capsys.readouterr().out.count("no C++ compiler") == 1
    assert (tmp_path / "run" / "state.pt").exists()


@pytest.mark.slow
def test_two_processes_share_the_work_and_stop_as_one(shards: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "midi_rwkv.training.step_trainer", str(shards), str(tmp_path / "run")]
    command += ["--processes", "2", "--no-compile", "--n-layer", "1", "--n-embd", "64", "--seq-len", "256"]
    subprocess.run([*command, "--total", "2560"], check=True, timeout=300)
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    assert (state["step"], state["row"], state["steps"]) == (5, 10, 2560)
    running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert running.stdout
    for line in running.stdout:
        if "kind=train" in line:
            break
    running.send_signal(signal.SIGTERM)
    running.communicate(timeout=300)
    assert torch.load(tmp_path / "run" / "state.pt", weights_only=True)["steps"] > 2560
