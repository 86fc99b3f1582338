"""`midi-rwkv train`: what it makes, and what it says to a wrong option."""

from dataclasses import replace

import pytest
import torch
from training_runs import CONFIG, CPU, MODEL, TINY

from midi_rwkv.commands.cli import main
from midi_rwkv.model.checkpoint import load_checkpoint
from midi_rwkv.score.midi import read_midi
from midi_rwkv.training.parallel import join
from midi_rwkv.training.trainer import Machine, Trainer


def test_the_command_trains_a_transformer(shards, tmp_path):
    options = [*TINY, "--arch", "transformer", "--batch-size", "1", "--total-tokens", "512"]
    options += ["--ema", "0.5", "--source-weights", "a=1,games=0.5"]
    assert main(["train", str(shards), str(tmp_path / "run"), *options]) == 0
    checkpoint = load_checkpoint(tmp_path / "run" / "checkpoint")
    assert (checkpoint.config.arch, checkpoint.config.n_layer) == ("transformer", 1)
    assert (checkpoint.training["tokens_seen"], checkpoint.training["bf16"]) == (512, False)
    assert checkpoint.training["source_weights"] == {"a": 1.0, "games": 0.5}
    assert load_checkpoint(tmp_path / "run" / "checkpoint-average").training["ema"] == 0.5


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
        (["--ema", "1"], "ema must be 0 (no average) or a decay below 1, such as 0.999, got 1.0"),
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


def test_a_folder_without_shards_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="holds no token shards"):
        Trainer(tmp_path / "nosuch", tmp_path / "run", MODEL, CONFIG, machine=CPU)
    assert not (tmp_path / "run").exists()


def test_pieces_are_for_an_rwkv7(shards, tmp_path):
    with pytest.raises(ValueError, match="--piece is for one process and an RWKV-7"):
        Trainer(shards, tmp_path, replace(MODEL, arch="transformer"), CONFIG, machine=Machine(device="cpu", piece=64))


def test_compiling_without_a_compiler_is_one_line(shards, tmp_path, capsys):
    from torch._inductor import config

    with config.patch({"cpp.cxx": "no-such-compiler"}):
        assert main(["train", str(shards), str(tmp_path / "run"), "--compile", *TINY]) == 2
    said = capsys.readouterr().err
    assert "--compile needs a C++ compiler (g++ or clang++); install one, or leave it out" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_missing_shards_and_gpus_are_named(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer.json")
    with pytest.raises(ValueError, match="no shard for a"):
        Trainer(tmp_path, tmp_path / "run", MODEL, CONFIG, machine=CPU)
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="there is no GPU"):
            join("cuda")
