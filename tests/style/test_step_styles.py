"""Personalising a model of steps."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from midi_rwkv.commands.cli import main
from midi_rwkv.model.checkpoint import load_checkpoint
from midi_rwkv.model.step_checkpoint import step_model_of
from midi_rwkv.style.personalize import prepare
from midi_rwkv.style.pieces import draw_step_fills, read_pieces
from midi_rwkv.style.style import read_info, styles_folder
from midi_rwkv.style.tuning import fill_losses, fills_nats
from midi_rwkv.tokens.attributes import Role
from midi_rwkv.tokens.layout import targets_of
from midi_rwkv.tokens.pointers import places_known

pytestmark = pytest.mark.usefixtures("small")


def test_a_style_is_learned_and_heard(pieces, step_checkpoint_folder, tmp_path, capsys):
    files, model = pieces(5), ["--checkpoint", str(step_checkpoint_folder)]
    code = main(["personalize", *map(str, files), "--name", "mine", *model])
    said = capsys.readouterr()
    assert code == 0, said.err
    info = read_info(styles_folder() / "mine.safetensors")
    assert (info["files"], info["held_out"]) == ("5", "files")
    assert float(info["held_out_after"]) < float(info["held_out_before"])
    fills = []
    for style in ([], ["--style", "mine"], ["--style", "mine", "--style-strength", "0"]):
        out = tmp_path / f"{len(fills)}.mid"
        assert (
            main(["infill", str(files[0]), "--bars", "3-6", "--seed", "1", *model, *style, "-o", str(out), "--json"])
            == 0
        )
        assert json.loads(capsys.readouterr().out)["style"] == (style[1] if len(style) == 2 else None)
        fills.append(out.read_bytes())
    assert fills[0] != fills[1]
    assert fills[0] == fills[2]


def test_tuned_losses_are_those_of_the_whole_sequence(pieces, step_checkpoint_folder):
    """Reading the context once and tuning only the run gives the loss of the plain form."""
    checkpoint = load_checkpoint(step_checkpoint_folder)
    model = step_model_of(checkpoint).requires_grad_(requires_grad=False)
    found, _ = read_pieces(pieces(3))
    fills = prepare(found, checkpoint, model).held_out
    c = checkpoint.config
    state = 0.1 * torch.randn(c.n_layer, c.n_head, c.head_size, c.head_size, generator=torch.Generator().manual_seed(0))
    units = [(piece, (0, 12)) for piece in found]
    drawn = draw_step_fills(units, checkpoint.vocabulary, count=len(fills), seed=0, held_out=True, budget=512)
    for fill, (unit, steps) in zip(fills, drawn, strict=True):
        assert fill.unit == unit
        at = len(steps) - len(fill.ids)
        padded = np.concatenate([steps, np.zeros((1, steps.shape[1]), np.int16)])
        targets, roles = targets_of(padded, checkpoint.vocabulary)
        _, before = model.trunk.hidden(model.tables(torch.from_numpy(steps[None, :at])))
        before.wkv = before.wkv + state[:, None]
        h = model.hidden(torch.from_numpy(steps[None, at:]), before)[0]
        asked = roles[at:] == Role.ANSWER
        marked = places_known(padded[:-1], checkpoint.vocabulary.nothing)
        known = (torch.from_numpy(x[at:][asked]) for x in (targets, padded[1:], marked))
        wanted = model.heads.nats(h[asked], *known).sum()
        assert fills_nats(model, [fill], state) == pytest.approx(float(wanted), rel=2e-3)
        assert fill.notes == int((targets[at:][asked][:, 0] > 0).sum())
    tuned = state.clone().requires_grad_()
    fill_losses(model, fills[:4], tuned)[0].sum().backward()
    assert tuned.grad is not None
    assert tuned.grad.abs().max() > 0
