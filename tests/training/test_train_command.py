"""`midi-rwkv train`: what it makes, and what it says to a wrong option."""

import json
from pathlib import Path

import pytest
import torch
from song import vocabulary
from training_runs import CONFIG, CPU, MODEL, TINY, state_of

from midi_rwkv.commands.cli import main
from midi_rwkv.model.checkpoint import load_checkpoint
from midi_rwkv.training.parallel import join
from midi_rwkv.training.trainer import Trainer


def test_the_command_trains_a_transformer(shards: Path, tmp_path: Path) -> None:
    options = [*TINY, "--arch", "transformer", "--rows", "2", "--total", "1024"]
    options += ["--source-weights", "a=1,games=0.5"]
    assert main(["train", str(shards), str(tmp_path / "run"), *options]) == 0
    checkpoint = load_checkpoint(tmp_path / "run")
    assert (checkpoint.config.arch, checkpoint.config.n_layer) == ("transformer", 1)
    assert (checkpoint.context, checkpoint.training["steps_seen"], checkpoint.training["rows"]) == (256, 1024, 2)
    assert checkpoint.training["source_weights"] == {"a": 1.0, "games": 0.5}


def test_a_run_a_branch_and_a_new_start(shards: Path, tmp_path: Path) -> None:
    def train(name: str, *options: str) -> int:
        return main(["train", str(shards), str(tmp_path / name), *TINY, *options])

    assert train("run", "--total", "512") == 0
    assert train("run", "--total", "1024") == 0
    assert train("branch", "--branch", str(tmp_path / "run"), "--decay", "512") == 0
    assert train("again", "--start", str(tmp_path / "branch"), "--total", "1792") == 0
    seen = [load_checkpoint(tmp_path / name).training["steps_seen"] for name in ("run", "branch", "again")]
    assert seen == [1024, 1536, 1792]
    assert (state_of(tmp_path / "branch")["branch_at"], state_of(tmp_path / "again")["warm_from"]) == (1024, 1536)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seq-len", "100"], "seq_len must be 160 or more, got 100"),
        (["--rows", "0"], "rows must be 1 or more, got 0"),
        (["--total", "-1"], "--total must be 0 or more, got -1"),
        (["--processes", "0"], "--processes must be 1 or more, got 0"),
        (["--n-embd", "100"], "n_embd must be a multiple"),
        (["--context-weight", "2"], "context_weight must lie in 0-1, got 2.0"),
        (["--source-weights", "a"], "--source-weights must be like games=1,pop909=0.5, got 'a'"),
        (["--source-weights", "a=0"], "must be above 0"),
        (["--source-weights", "z=1"], "no shard for z"),
        (["--source-weights", "z=1", "--processes", "2"], "no shard for z"),
        (["--decay", "512"], "--branch and --decay go together"),
        (["--branch", "x"], "--branch and --decay go together"),
        (["--branch", "x", "--decay", "512", "--start", "y"], "give --start or --branch"),
        (["--branch", "x", "--decay", "512"], "x holds no run that can go on (no state.pt)"),
        (["--branch", "x", "--decay", "512", "--processes", "2"], "x holds no run that can go on (no state.pt)"),
        (["--start", "x"], "x is not a checkpoint"),
        (["--compile", "--arch", "transformer"], "--compile is for an RWKV-7; leave it out for --arch transformer"),
    ],
)
def test_bad_options_are_named_and_nothing_is_written(
    options: list[str], message: str, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(shards), str(tmp_path / "run"), *TINY, *options]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_compiling_without_a_compiler_is_one_line(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unless it was not asked for: then the trainer says so, and trains."""
    from torch._inductor import config

    plain = [o for o in TINY if o != "--no-compile"]
    with config.patch({"cpp.cxx": "no-such-compiler"}):
        assert main(["train", str(shards), str(tmp_path / "run"), *plain, "--compile"]) == 2
        said = capsys.readouterr().err
        assert "--compile needs a C++ compiler (g++ or clang++); install one, or leave it out" in said
        assert said.count("\n") == 1
        assert not (tmp_path / "run").exists()
        assert main(["train", str(shards), str(tmp_path / "run"), *plain, "--total", "512"]) == 0
    assert capsys.readouterr().out.count("no C++ compiler") == 1
    assert (tmp_path / "run" / "state.pt").exists()


def test_missing_shards_and_gpus_are_named(tmp_path: Path) -> None:
    def trainer() -> Trainer:
        return Trainer(tmp_path / "shards", tmp_path / "run", MODEL, CONFIG, machine=CPU)

    with pytest.raises(ValueError, match="holds no note shards"):
        trainer()
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "tokenizer.json").write_text(json.dumps({"midi_rwkv": {"grid": "beat"}}))
    with pytest.raises(ValueError, match=r"tokenizer.json is damaged or of another version"):
        trainer()
    vocabulary().save(tmp_path / "shards" / "tokenizer.json")
    with pytest.raises(ValueError, match="no shard for any source"):
        trainer()
    (tmp_path / "shards" / "games.npz").touch()
    with pytest.raises(ValueError, match=r"has no valid.npz to measure on"):
        trainer()
    assert not (tmp_path / "run").exists()
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="there is no GPU"):
            join("cuda")
