"""Personalising through the command, with a tiny model: what is learned, kept, skipped, refused, interrupted."""

import json
import os
import signal
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from midi_rwkv import Ask
from midi_rwkv import personalize as public_personalize
from midi_rwkv.commands.cli import main
from midi_rwkv.fill.infill import infill
from midi_rwkv.model.checkpoint import checkpoint_hash, load_checkpoint
from midi_rwkv.model.step_checkpoint import step_model_of
from midi_rwkv.score.midi import read_midi, write_midi
from midi_rwkv.score.score import Region, TimeSignature
from midi_rwkv.style.adapter import Adapter
from midi_rwkv.style.adapters import read_samples
from midi_rwkv.style.personalize import PersonalizeOptions
from midi_rwkv.style.pieces import draw_fills, read_pieces
from midi_rwkv.style.preparing import prepare
from midi_rwkv.style.settings import SETTINGS, draw_in_settings
from midi_rwkv.style.style import find_style, load_style, read_info, styles_folder
from midi_rwkv.style.tuning import batches, fill_losses, fills_nats
from midi_rwkv.tokens.attributes import Column, Role

tuning_module = sys.modules["midi_rwkv.style.tuning"]
STYLES = Path(__file__).parents[3] / "shared" / "corpus" / "styles.zip"
pytestmark = pytest.mark.usefixtures("small")


def test_the_main_job(run, pieces, checkpoint, tmp_path, capsys):
    files = pieces(5)
    code, out, err = run(*files, "--name", "mine")
    assert code == 0, err
    path = styles_folder() / "mine.safetensors"
    assert "in all settings: " in out
    assert "whole song: " in out
    assert f"kept in {path}; use it: midi-rwkv infill song.mid --bars 8-12 --style mine" in out
    assert "reading: 72 of 72 fills" in err
    assert "step 8 of 8: held-out" in err
    info = read_info(path)
    assert (info["files"], info["bars"], info["notes"], info["held_out"]) == ("5", "60", "240", "files")
    assert info["base"] == checkpoint_hash(checkpoint)
    gains = json.loads(info["gains"])
    assert [g["setting"] for g in gains] == ["all", *SETTINGS]
    assert all(g["after"] < g["before"] and g["low"] <= g["after"] - g["before"] <= g["high"] < 0 for g in gains[:1])
    assert sorted(p.name for p in styles_folder().iterdir()) == ["mine.safetensors"]
    song, new = files[0], tmp_path / "new.mid"
    command = ["infill", song, "--bars", "3-6", "--seed", "1", "--checkpoint", checkpoint.path, "--json"]
    assert main([*map(str, command), "-o", str(new), "--style", "mine"]) == 0
    assert json.loads(capsys.readouterr().out)["style"] == "mine"
    none, plain = tmp_path / "none.mid", tmp_path / "plain.mid"
    assert main([*map(str, command), "-o", str(none), "--style", "mine", "--style-strength", "0"]) == 0
    assert json.loads(capsys.readouterr().out)["style"] is None
    assert main([*map(str, command), "-o", str(plain)]) == 0
    assert none.read_bytes() == plain.read_bytes() != new.read_bytes()


def test_what_is_learned_helps_on_music_that_was_not_seen(pieces, checkpoint, model, midi, plain_nats, tmp_path):
    """The loss on a sixth piece falls."""
    made = public_personalize(pieces(5), "mine", PersonalizeOptions(threads=1), checkpoint=checkpoint)
    assert made.helps
    assert made.after < made.before
    other = tmp_path / "other.mid"
    other.write_bytes(midi(99))
    found, _ = read_pieces([other])
    v, style = checkpoint.vocabulary, find_style("mine", checkpoint)
    drawn = draw_fills([(p, (0, 12)) for p in found], v, count=6, seed=0, held_out=True, budget=512)
    samples = [sample for _, sample in drawn]
    fills = read_samples(checkpoint, samples)
    before, state = (sum(plain_nats(model, v, s, x) for s in samples) for x in (None, style.run))
    assert fills_nats(model, fills).sum() == pytest.approx(before, rel=1e-4)
    assert fills_nats(model, fills, torch.from_numpy(style.run)).sum() == pytest.approx(state, rel=1e-4)
    assert fills_nats(model, fills, Adapter.of(style)).sum() < min(before, state)


def test_the_same_seed_gives_the_same_style(run, pieces, checkpoint):
    files = pieces(3)
    states = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert run(*files, "--name", name, "--seed", seed)[0] == 0
        states.append(load_style(name, checkpoint).run)
    assert np.array_equal(states[0], states[1])
    assert not np.array_equal(states[0], states[2])


def test_tuned_losses_are_those_of_the_whole_sequence(pieces, checkpoint, model, plain_nats):
    """Reading the context once and tuning only the cells gives the plain form's loss, and its gradient is right."""
    found, _ = read_pieces(pieces(3))
    tuning = prepare(found, checkpoint, model)
    fills, v, units = tuning.plain[:5], checkpoint.vocabulary, [(p, (0, 12)) for p in found]
    drawn = draw_in_settings(units, v, count=len(tuning.plain), seed=0, held_out=True, budget=512)
    sampled = [(unit, sample) for _, unit, sample in drawn][:5]
    state = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(0)) * 0.1
    for fill, (unit, sample) in zip(fills, sampled, strict=True):
        answer = (sample[:, Column.ROLE] == Role.ANSWER) & (sample[:, Column.VELOCITY] > 0)
        assert (fill.unit, fill.notes) == (unit, answer.sum())
    expected = [plain_nats(model, v, sample, state) for _, sample in sampled]
    np.testing.assert_allclose(fills_nats(model, fills, state, size=300), expected, rtol=3e-4)
    state.requires_grad_()
    fill_losses(model, fills, state)[0].sum().backward()
    direction = torch.randn(state.shape, generator=torch.Generator().manual_seed(1))
    step = 1e-2
    with torch.no_grad():
        up, down = (fills_nats(model, fills, state + sign * step * direction).sum() for sign in (1, -1))
    assert float((state.grad * direction).sum()) == pytest.approx((up - down) / (2 * step), rel=0.05)


@pytest.mark.parametrize(
    ("count", "folds"), [(1, 4), (2, 4), (3, 3), (7, 5)], ids=["bars", "bars of two", "files", "five of seven"]
)
def test_each_fold_is_measured_on_what_it_has_not_seen(pieces, checkpoint, model, count, folds):
    found, _ = read_pieces(pieces(count, bars=16))
    tuning = prepare(found, checkpoint, model)
    assert len(tuning.folds) == folds
    assert sorted(u for fold in tuning.folds for u in fold) == sorted({f.unit for f in tuning.fills})
    for fold, train, left_out in zip(tuning.folds, tuning._train, tuning._left_out, strict=True):
        assert train
        assert left_out
        assert not {f.unit for f in train} & set(fold)
        assert {f.unit for f in left_out} <= set(fold)


def test_rate_step_and_scale_are_those_best_on_what_was_left_out(pieces, checkpoint, model):
    found, _ = read_pieces(pieces(3))
    tuning = prepare(found, checkpoint, model)
    checks = []
    tuning.run(checks.append)
    first, second = (c["losses"] for c in tuning.curve)
    assert list(first) == list(tuning_module.LEARNING_RATES)
    assert list(second) == [min(first, key=first.get)]  # the other rate has gone no further
    losses = {(c["step"], rate): x for c in tuning.curve for rate, x in c["losses"].items()}
    assert min(losses, key=losses.get) == (tuning.best_step, tuning.best_rate)
    assert checks[-1].best == min(losses.values())
    tuning.remembers, remembers = True, tuning.remembers
    left_out = {s: tuning._left_out_loss([x.scaled(s) for x in tuning.best_adapters]) for s in tuning_module.SCALES}
    assert left_out[1.0] == pytest.approx(checks[-1].best, rel=1e-5)
    assert left_out[tuning.scale] == min(left_out.values())
    tuning.remembers = remembers
    assert tuning.best == pytest.approx(tuning._left_out_loss(tuning._scaled))
    assert tuning.best <= min(left_out.values())
    plain, mean = dict(model.named_parameters()), tuning.best_adapter
    torch.testing.assert_close(mean.state, tuning.scale * sum(x.state for x in tuning.best_adapters) / 3)
    for name, weight in mean.weights(model).items():
        change = sum(x.weights(model)[name] - plain[name] for x in tuning.best_adapters) / 3
        torch.testing.assert_close(weight - plain[name], tuning.scale * change, atol=1e-5, rtol=1e-3)


def test_batches_are_all_the_fills_once(pieces, checkpoint, model):
    found, _ = read_pieces(pieces(3))
    fills = prepare(found, checkpoint, model).fills
    for rng in (None, np.random.default_rng(0)):
        found = batches(fills, 300, rng)
        assert sorted(i for batch in found for i in batch) == list(range(len(fills)))
        assert all(len(b) == 1 or len(b) * max(len(fills[i].steps) for i in b) <= 300 for b in found)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "the style needs a name: add --name NAME"),
        (["--name", "a/b"], "a style's name is letters"),
        (["--name", "mine", "-o", "x.safetensors"], "but not both"),
        (["-o", "x.mid"], "a style file ends in .safetensors, got x.mid"),
        (["--name", "mine", "--seed", "-1"], "--seed must be 0-9223372036854775807, got -1"),
        (["--name", "mine", "--threads", "0"], "--threads must lie in 1-"),
    ],
)
def test_bad_options_are_one_line_and_write_nothing(pieces, capsys, arguments, words, checkpoint_folder):
    files = [str(p) for p in pieces(3)]
    assert main(["personalize", *files, *arguments, "--checkpoint", str(checkpoint_folder)]) == 2
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1
    assert not styles_folder().exists()


def test_a_taken_name_is_refused_before_the_work(run, pieces):
    files = pieces(3)
    assert run(*files, "--name", "mine")[0] == 0
    before = (styles_folder() / "mine.safetensors").read_bytes()
    code, _, err = run(*files, "--name", "mine", "--seed", 5)
    assert code == 2
    assert "mine is taken" in err
    assert "reading" not in err
    assert (styles_folder() / "mine.safetensors").read_bytes() == before
    assert run(*files, "--name", "mine", "--seed", 5, "--overwrite")[0] == 0
    assert (styles_folder() / "mine.safetensors").read_bytes() != before


def test_a_style_that_does_not_help_is_not_kept_unless_asked(run, pieces, monkeypatch):
    monkeypatch.setattr(tuning_module.Tuning, "run", lambda tuning, _: setattr(tuning, "remembers", False))  # no step
    files = pieces(3)
    code, out, _ = run(*files, "--name", "mine")
    assert code == 0
    assert "the style does not help by more than chance on music it was not tuned on" in out
    assert "not kept (--keep-anyway would)" in out
    assert not list(styles_folder().glob("*"))
    code, out, _ = run(*files, "--name", "mine", "--keep-anyway", "--json")
    assert code == 0
    assert "gains" in json.loads(out)
    assert (styles_folder() / "mine.safetensors").exists()


def test_a_full_disk_is_one_line(run, pieces, monkeypatch):
    files = pieces(3)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    monkeypatch.setattr("torch.save", full)
    code, out, err = run(*files, "--name", "mine")
    assert (code, out) == (2, "")
    assert err.count("a stop would lose what is done so far: [Errno 28] No space left on device") == 1
    assert err.splitlines()[-1].endswith("could not be written: No space left on device; nothing was kept of it")
    assert not list(styles_folder().glob("*"))


def test_interrupted_it_keeps_the_best_and_goes_on_where_it_was(pieces, checkpoint, tmp_path):
    files = pieces(3)
    whole = public_personalize(
        files, options=PersonalizeOptions(output=tmp_path / "whole.safetensors", threads=1), checkpoint=checkpoint
    )
    target = tmp_path / "part.safetensors"
    asked = PersonalizeOptions(output=target, threads=1)

    def stop(progress):
        if progress.check and progress.check.step >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=r"the best so far is kept in .*part.safetensors; the same command"):
        public_personalize(files, options=asked, checkpoint=checkpoint, on_progress=stop)
    assert read_info(target)["stopped_at_step"] == "4"
    said = []
    again = public_personalize(files, options=asked, checkpoint=checkpoint, say=said.append)
    assert said == ["going on at step 4 of 8"]
    assert np.array_equal(again.style.run, whole.style.run)
    assert again.curve == whole.curve
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
    with pytest.raises(ValueError, match="part is taken"):
        public_personalize(files, options=asked, checkpoint=checkpoint)


def test_another_kind_of_model_is_named(pieces, checkpoint):
    other = replace(checkpoint, config=replace(checkpoint.config, arch="transformer"))
    with pytest.raises(ValueError, match="is a transformer, which has no state to tune; name an RWKV-7's checkpoint"):
        public_personalize(pieces(3), "mine", checkpoint=other)


def test_ctrl_c_is_one_line(pieces, checkpoint_folder, tmp_path):
    environment = {**os.environ, "XDG_DATA_HOME": str(tmp_path / "data"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "midi_rwkv", "personalize", *map(str, pieces(3, bars=64)), "--name", "mine"]
    process = subprocess.Popen(
        [*command, "--checkpoint", str(checkpoint_folder)], stderr=subprocess.PIPE, text=True, env=environment
    )
    for line in process.stderr:
        if line.startswith("step 8 of"):
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    last = err.splitlines()[-1]
    assert last.startswith("midi-rwkv: stopped; ")
    assert "the same command goes on" in last
    assert "Traceback" not in err


def test_the_styled_fill_leaves_the_rest_of_the_file_alone(run, pieces, checkpoint, check_fill, tmp_path):
    files = pieces(3)
    assert run(*files, "--name", "mine")[0] == 0
    score = read_midi(files[0])
    [answer] = infill(score, Ask(Region.rectangle([0], [(2, 4)]), seed=0), checkpoint, style="mine")
    write_midi(tmp_path / "new.mid", files[0], score, Region.rectangle([0], [(2, 4)]), fills=answer.fills)
    mask = [(score.tracks[0].chunk, score.tracks[0].channel, 2 * 1920, 4 * 1920)]
    assert check_fill(files[0], tmp_path / "new.mid", mask) == []
    assert score.time_signatures == (TimeSignature(0, 4, 4),)


@pytest.mark.slow
@pytest.mark.skipif(not STYLES.exists(), reason="needs the corpus")
def test_the_model_that_ships_learns_a_style(tmp_path, monkeypatch, capsys):
    """Five four-part psalms through the command; other psalms cost less then."""
    monkeypatch.undo()
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    with zipfile.ZipFile(STYLES) as archive:
        archive.extractall(tmp_path)
    files = sorted((tmp_path / "gomolka" / "tune").glob("*.mid"))[:5]
    assert main(["personalize", *map(str, files), "--name", "psalms", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["gains"][0]["high"] < 0
    checkpoint = load_checkpoint()
    test, _ = read_pieces([tmp_path / "gomolka" / "test"])
    units = [(p, (0, len(p.score.bars))) for p in test]
    model, v = step_model_of(checkpoint), checkpoint.vocabulary
    samples = [s for _, s in draw_fills(units, v, count=30, seed=0, held_out=True, budget=checkpoint.context)]
    fills, adapter = read_samples(checkpoint, samples), Adapter.of(find_style("psalms", checkpoint))
    before, after = (fills_nats(model, fills, x).sum() for x in (None, adapter))
    assert after < before
