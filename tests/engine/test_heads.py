"""The heads outside PyTorch are those of model/steps.py, attribute by attribute, for several candidates at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from random_rwkv7 import relative_error
from song import vocabulary

from midi_rwkv.engine.heads import STAGES, Heads, NoteHeads
from midi_rwkv.engine.make import make_heads
from midi_rwkv.engine.numba_heads import NumbaHeads
from midi_rwkv.engine.pack import quantised
from midi_rwkv.model import steps
from midi_rwkv.tokens.attributes import MEMORY, Column

KINDS = {
    "numpy": {"backend": "torch"},
    "numba": {"backend": "numba"},
    "int8": {"backend": "auto", "precision": "auto"},
}


def random_heads(size: int) -> steps.Heads:
    torch.manual_seed(size)
    made = steps.Heads(vocabulary().sizes, size)
    for layer in (*made.down, *made.around, *made.marks.gates):
        torch.nn.init.normal_(layer.weight, std=size**-0.5)
    return made.requires_grad_(requires_grad=False)


def weights_of(heads: steps.Heads) -> dict[str, np.ndarray]:
    return {f"heads.{name}": x.numpy() for name, x in heads.state_dict().items()}


def round_matrices(heads: steps.Heads) -> None:
    """Makes the matrices what int8 stands for."""
    for layer in [*heads.out, *heads.up, *heads.down]:
        whole, scales = quantised(layer.weight.numpy())
        layer.weight.copy_(torch.from_numpy(whole * scales[:, None]))


@pytest.mark.parametrize("size", [48, 128])
@pytest.mark.parametrize("candidates", [1, 3, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_every_stage_is_the_models(kind: str, candidates: int, size: int) -> None:
    model = random_heads(size)
    heads: Heads = make_heads(weights_of(model), vocabulary().sizes, **KINDS[kind])
    assert type(heads) is (NoteHeads if kind == "numpy" else NumbaHeads)
    if kind == "int8":
        round_matrices(model)
    z = torch.randn(candidates, size)
    ours = z.numpy()
    sizes = [2**12 if c == Column.CHROMA else n for c, n in zip(Column, vocabulary().sizes, strict=True)]
    around = torch.stack([torch.randint(n, (candidates,)) for n in sizes], 1)
    for stage in range(STAGES):
        known = torch.randint(-1, 80, (candidates, 6)) if stage == 0 else around
        wanted = model.marks(stage, z, model.stage(stage, z), known)
        found = heads.logits(stage, ours, known.numpy())
        assert found.shape == wanted.shape == (candidates, model.classes[stage])
        assert relative_error(found, wanted) < 1e-5
        assert np.abs(found - wanted.numpy()).max() < 1e-5
        if stage < STAGES - 1:
            chosen = torch.randint(model.classes[stage], (candidates,))
            z = z + model.given[stage](chosen)
            if stage in (0, 2):
                z = z + model.around[stage // 2](around)
            ours = heads.given(stage, ours, chosen.numpy(), around.numpy())
    assert np.abs(ours - z.numpy()).max() < 1e-5


def test_a_stage_needs_no_other_stages_logits() -> None:
    """What is known anyway is not asked for; z is not changed by asking."""
    model = random_heads(48)
    heads = make_heads(weights_of(model), vocabulary().sizes)
    z = np.random.default_rng(0).normal(size=(4, 48)).astype(np.float32)
    marks = np.ones((4, len(Column)), np.int16)
    alone = heads.logits(3, z, marks)
    for stage in range(1, STAGES):
        heads.logits(stage, z, marks)
    assert np.array_equal(heads.logits(3, z, marks), alone)
    assert relative_error(heads.logits(3, np.asfortranarray(z), marks), alone) < 1e-6
    assert relative_error(heads.logits(3, z[1:2], marks[1:2])[0], alone[1]) < 1e-6


def test_how_much_of_the_sources_and_of_the_memory_is_pointed_at() -> None:
    model = random_heads(48)
    heads = make_heads(weights_of(model), vocabulary().sizes)
    z = np.random.default_rng(0).normal(size=(2, 48)).astype(np.float32)
    known = np.zeros((2, len(Column)), np.int16)
    known[:, [Column.THERE_MICRO, Column.THERE_PITCH, Column.THERE_VELOCITY, Column.THERE_DURATION]] = 20
    known[:, [Column.LOWEST, Column.CHROMA]] = 40
    known[:, [Column.STRUCK_VELOCITY, Column.STRUCK_DURATION]] = 9
    known[:, Column.THERE_SECOND] = 51
    places = np.array([[7, 11, 30, 13, 15, 4]] * 2)
    known[:, [*MEMORY, Column.MEMORY_SECOND]] = [23, 99, 24, 25, 98]
    for stage in range(STAGES):
        given = places if stage == 0 else known
        none, half, whole = (heads.logits(stage, z, given, follow) for follow in (0.0, 0.5, 1.0))
        moved = np.flatnonzero(np.abs(whole - none).max(0) > 1e-6)
        assert moved.tolist() == ([7, 11] if stage == 0 else [*range(7, 32), 50] if stage == 2 else [19])
        assert np.abs(half - (none + whole) / 2).max() < 1e-5
        none, half = (heads.logits(stage, z, given, 1.0, recall) for recall in (0.0, 0.5))
        moved = np.flatnonzero(np.abs(whole - none).max(0) > 1e-6)
        assert moved.tolist() == [[13, 15], [22], [97, 98], [23], [24]][stage]
        assert np.abs(half - (none + whole) / 2).max() < 1e-5


def test_without_numba_the_heads_are_numpys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("midi_rwkv.engine.make.find_spec", lambda _: None)
    assert type(make_heads(weights_of(random_heads(48)), vocabulary().sizes)) is NoteHeads
