"""A model of steps is evaluated on the path on which it fills."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from evaluated import records_of

from midi_rwkv import Ask, Note, Region, Score, Track, load_checkpoint
from midi_rwkv.evaluation.cases import Case
from midi_rwkv.evaluation.step_system import make_system, original_nats
from midi_rwkv.evaluation.systems import Setup
from midi_rwkv.fill.infill import Infiller
from midi_rwkv.model.config import SamplingConfig
from midi_rwkv.model.steps import StepModel
from midi_rwkv.tokens.attributes import Role
from midi_rwkv.tokens.layout import CellAsk, Window, cell_answer, cell_steps, prompt_steps, targets_of
from midi_rwkv.tokens.notes import encode
from midi_rwkv.tokens.pointers import places_known
from midi_rwkv.tokens.references import RunIndex
from midi_rwkv.tokens.surroundings import CellSurroundings, with_before

BAR = 1920


def song(bars: int = 12) -> Score:
    lead = [Note(b * BAR + 480 * k, 60 + (b + 2 * k) % 9, 400, 80) for b in range(bars) for k in range(4)]
    bass = [Note(b * BAR, 36 + b % 4, 1900, 80) for b in range(bars)]
    return Score(480, (Track("lead", 0, tuple(lead)), Track("bass", 33, tuple(bass))))


def test_the_originals_nats_are_the_models(step_checkpoint_folder):
    """Against the whole sequence at once, in PyTorch."""
    checkpoint, score = load_checkpoint(step_checkpoint_folder), song()
    infiller = Infiller(checkpoint, precision="float32")
    region = Region.rectangle([0, 1], [(4, 6)])
    given = score.with_fill(region, {0: [], 1: []})
    found = original_nats(infiller.writing, given, Ask(region), score)

    v, whole, run = checkpoint.vocabulary, encode(checkpoint.vocabulary, score), (4, 6)
    cells = [(t, b) for t in (0, 1) for b in (4, 5)]
    blank = whole.with_cells({c: np.zeros((0, 5), np.int16) for c in cells})
    index = RunIndex(blank, run, cells)
    parts = [prompt_steps(v, blank, Window(4, 6, 0, 12), (0, 1), cells)]
    for t, b in cells:
        ask = CellAsk(t, b, around=CellSurroundings(v, index, t, b, index.sources(t, b, written=False)))
        parts += [cell_steps(v, blank, ask, run), cell_answer(v, blank, ask, whole.cell(t, b), run)]
        index.write(t, b, whole.cell(t, b))
    steps = with_before(np.concatenate([*parts, np.zeros((1, parts[0].shape[1]), np.int16)]))  # the last cell's end too
    targets, roles = targets_of(steps, v)
    model = StepModel(checkpoint.config, v.sizes)
    model.load_state_dict({k: torch.from_numpy(w) for k, w in checkpoint.weights.items()})
    with torch.no_grad():
        h = model.hidden(torch.from_numpy(steps[None, :-1]))[0]
        marked = places_known(steps[:-1], v.nothing)
        known = (torch.from_numpy(x[roles == Role.ANSWER]) for x in (targets, steps[1:], marked))
        nats = model.heads.nats(h[roles == Role.ANSWER], *known)
    assert found == pytest.approx(nats.sum(0).numpy(), rel=1e-3)


def test_what_stood_in_the_bars_changes_no_probability(step_checkpoint_folder):
    """Other notes in the bars to be rewritten, the same song around them: every note of an answer costs the same."""
    infiller = Infiller(load_checkpoint(step_checkpoint_folder), precision="float32")
    score, region = song(), Region.rectangle([0, 1], [(4, 6)])
    rng = np.random.default_rng(0)
    costs = []
    for _ in range(3):
        notes = {
            t: [
                Note(int(x), int(p), 200, 60)
                for x, p in zip(rng.integers(4 * BAR, 6 * BAR, 9), rng.integers(90, 120, 9), strict=True)
            ]
            for t in (0, 1)
        }
        costs.append(original_nats(infiller.writing, score.with_fill(region, notes), Ask(region), score))
    assert costs[0].sum() > 0
    assert np.array_equal(costs[0], costs[1])
    assert np.array_equal(costs[0], costs[2])


def test_evaluate_compares_it(command, step_checkpoint_folder, tmp_path):
    options = ["--compare", step_checkpoint_folder, "--cases", 2, "--settings", "song,continuation", "--no-html"]
    code, _, err = command(*options, out=tmp_path)
    assert code == 0, err
    assert (tmp_path / "report.json").exists()
    name = f"{step_checkpoint_folder.name} (rwkv7)"
    measured = [r["metrics"] for r in records_of(tmp_path, name).values()]
    assert measured
    assert all("onset_f1" in m and m["nats_per_note"] > 0 for m in measured)


def test_bars_that_sound_are_shown_to_it(step_checkpoint_folder):
    """What it is given is the song itself where its bars are to be rewritten, and the emptied song else."""
    system = make_system(Setup("steps", "model", step_checkpoint_folder))
    given = []
    infiller = system.infiller
    system.infiller = lambda score, ask: given.append(score) or infiller(score, ask)
    for setting in ("rewrite", "song"):
        system.fill(Case(setting, 0, "a/x.mid", (0,), 4, 2), song(), SamplingConfig())
    assert given[0] == song()
    assert not any(given[1].notes_in(0, b) for b in (4, 5))
