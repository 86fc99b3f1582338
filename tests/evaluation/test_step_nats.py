"""Nats cell by cell, and the script that prints them."""

import json

import numpy as np
import pytest
import torch
from song import vocabulary

from midi_rwkv.evaluation.fold import Fold
from midi_rwkv.evaluation.step_nats import StepNats, load_steps, load_valid, repeats
from midi_rwkv.model.checkpoint import load_checkpoint
from midi_rwkv.model.config import ModelConfig
from midi_rwkv.model.steps import StepModel
from midi_rwkv.tokens.attributes import Role
from midi_rwkv.tokens.layout import targets_of
from midi_rwkv.tokens.pointers import places_known
from midi_rwkv.training.average import RunAverage
from midi_rwkv.training.run_files import write_state
from midi_rwkv.training.valid import draw_places, lay_out, validation_fills

CONFIG = ModelConfig(n_layer=1, n_embd=64, vocab_size=1)


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    torch.manual_seed(0)
    model = StepModel(CONFIG, vocabulary().sizes)
    path = tmp_path_factory.mktemp("run") / "state.pt"
    average = RunAverage(model)
    torch.manual_seed(1)
    other = StepModel(CONFIG, vocabulary().sizes)
    write_state(
        path,
        {
            "model": other.state_dict(),
            "average": average.state_dict(),
            "model_config": CONFIG.to_dict(),
            "sizes": list(model.sizes),
            "steps": 7,
            "branch_at": 0,
        },
    )
    return path


def test_the_cells_add_up_to_the_trainers_nats(note_shards, state, tmp_path):
    shard, v = load_valid(note_shards)
    model, seen = load_steps(state)
    assert seen == 7
    saved = torch.load(state, weights_only=True)
    assert torch.equal(model.tables.weight, saved["average"]["module.tables.weight"])
    torch.save({**saved, "branch_at": 3}, tmp_path / "branch.pt")
    assert torch.equal(load_steps(tmp_path / "branch.pt")[0].tables.weight, saved["model"]["tables.weight"])
    steps = StepNats(model, v, Fold(v))
    places = draw_places(shard, per_source=3)
    for place, fill in zip(places, validation_fills(shard, v, per_source=3), strict=True):
        song = shard[place.song]
        assert np.array_equal(lay_out(v, song, place)[0], fill.steps)
        raw, folded = steps.of(song, place)
        targets, roles = targets_of(fill.steps, v)
        asked = torch.from_numpy(roles == Role.ANSWER)
        with torch.no_grad():
            h = model.hidden(torch.from_numpy(fill.steps[None, :-1]))[0]
            marked = places_known(fill.steps[:-1], v.nothing)
            known = (torch.from_numpy(x)[asked] for x in (targets, fill.steps[1:], marked))
            nats = model.heads.nats(h[asked], *known).sum(0)
        assert sum(c.nats for c in raw.values()) == pytest.approx(nats.numpy(), rel=1e-4)
        assert sum(c.notes for c in raw.values()) == fill.notes
        for key in place.cells:
            assert raw[key].notes == folded[key].notes == len(song.cell(*key))
            assert folded[key].nats.sum() <= raw[key].nats.sum() + 1e-4
            assert folded[key].nats[1] == 0


def test_a_checkpoint_folder_is_read_too(tiny):
    model, seen = load_steps(tiny)
    weights = load_checkpoint(tiny)
    assert seen == weights.training.get("steps_seen", 0)
    assert all(np.array_equal(w.numpy(), weights.weights[name]) for name, w in model.state_dict().items())


def test_repeats_are_the_cells_that_stand_elsewhere(note_shards):
    """In what is shown of their track; these songs lie on version 6's grid, where notes differ as they do on ours."""
    shard, v = load_valid(note_shards)
    fold, repeated = Fold(v), 0
    for place in draw_places(shard, per_source=4):
        song = shard[place.song]
        found = repeats(song, place, fold)
        hidden = place.hidden(song)
        for t, b in place.cells:
            others = [song.cell(t, x).tolist() for x in range(song.n_bars) if (t, x) not in hidden]
            assert ((t, b) in found) == (len(song.cell(t, b)) > 0 and song.cell(t, b).tolist() in others)
        repeated += len(found)
    assert repeated


def test_a_folder_without_shards_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no note shards"):
        load_valid(tmp_path)


def test_the_script_prints_both_beside_each_other(note_shards, state, script, capsys):
    out = state.parent / "out.json"
    script("measure_nats").main([str(state), str(note_shards), "--per-source", "1", "--out", str(out)])
    printed, record = capsys.readouterr().out, json.loads(out.read_text())
    systems = [f"steps {name}, {kind}" for name in ("alone", "with sources") for kind in ("raw", "folded")]
    assert record["by_source"][0] == ["source", *systems]
    assert [row[0] for row in record["by_source"][1:]] == ["folk", "pop"]
    for row in record["split"][1:]:
        assert row[-1] == pytest.approx(sum(row[3:-1]))
        assert f"| {row[0]} | {row[1]} | {row[2]} |" in printed
    assert f"{state}: 7 steps." in printed
