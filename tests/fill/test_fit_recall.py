"""`midi-rwkv recall`: a checkpoint gets the recall that the shards' songs fit."""

import shutil

from midi_rwkv.commands.cli import main
from midi_rwkv.model.checkpoint import load_checkpoint


def test_recall_is_fitted_and_measured(shards, checkpoint_folder, tmp_path, monkeypatch, capsys):
    """A model of random weights, and songs that repeat after twelve bars and drum the same bar throughout."""
    folder = str(shutil.copytree(checkpoint_folder, tmp_path / "checkpoint"))
    monkeypatch.setattr("midi_rwkv.fill.fit_recall.STEPS", 150)
    assert main(["recall", str(shards), folder, "--measure"]) == 2
    assert "has no recall yet; leave out --measure to fit it" in capsys.readouterr().err
    for more in ([], ["--measure"]):
        assert main(["recall", str(shards), folder, "--regions", "2", *more]) == 0
        *_, mean = capsys.readouterr().out.splitlines()
        alone, mixed = (float(x) for x in mean.strip("| ").split("|")[1:])
        assert mixed < 0.3 * alone
        assert load_checkpoint(folder).recall is not None


def test_bad_requests_are_one_line(shards, checkpoint_folder, tmp_path, capsys):
    for arguments, message in (
        ([str(shards), str(checkpoint_folder), "--regions", "0"], "--regions must be 1 or more, got 0"),
        ([str(tmp_path), str(checkpoint_folder)], "holds no token shards (no valid.npz); make them with"),
        ([str(shards), str(tmp_path)], "is not a checkpoint"),
    ):
        assert main(["recall", *arguments]) == 2
        said = capsys.readouterr().err
        assert message in said
        assert said.count("\n") == 1
