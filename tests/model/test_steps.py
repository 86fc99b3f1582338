"""The model of steps: its probabilities are probabilities, it reads forwards only, and packed samples don't meet."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from song import random_song, repeating_song, vocabulary

from midi_rwkv.model.config import ModelConfig
from midi_rwkv.model.steps import Heads, StepModel
from midi_rwkv.tokens.attributes import AT_PITCH, AT_PLACE, MEMORY, THERE, Column, Role
from midi_rwkv.tokens.layout import CellAsk, Window, cell_answer, cell_steps, prompt_steps, targets_of
from midi_rwkv.tokens.pointers import STRUCK, places_known
from midi_rwkv.tokens.references import RunIndex
from midi_rwkv.tokens.surroundings import CellSurroundings, with_before


@pytest.fixture(scope="module")
def model() -> StepModel:
    torch.manual_seed(0)
    made = StepModel(ModelConfig(n_layer=2, n_embd=64, vocab_size=1), vocabulary().sizes)
    for p in made.parameters():  # what begins at zero says nothing
        if p.ndim > 1 and not p.any():
            torch.nn.init.normal_(p, std=0.05)
    return made.eval()


def sample(seed: int = 0) -> np.ndarray:
    """A prompt and its answer."""
    song = random_song(seed)
    hidden = [(0, 5), (0, 6)]
    index = RunIndex(song, (5, 7), hidden)
    parts = [prompt_steps(vocabulary(), song, Window(5, 7, 0, song.n_bars), [0], hidden)]
    for t, b in hidden:
        ask = CellAsk(t, b, around=CellSurroundings(vocabulary(), index, t, b, index.sources(t, b)))
        parts += [
            cell_steps(vocabulary(), song, ask, (5, 7)),
            cell_answer(vocabulary(), song, ask, song.cell(t, b), (5, 7)),
        ]
        index.write(t, b, song.cell(t, b))
    return with_before(np.concatenate([*parts, np.zeros((1, len(Column)), np.int16)]))


def test_all_notes_and_the_end_are_certain_together() -> None:
    sizes = [0] * len(Column)
    for column, n in ((0, 9), (1, 4), (2, 3), (3, 5), (4, 3), (5, 4)):
        sizes[column] = n
    for column in (*AT_PLACE, *AT_PITCH):
        sizes[column] = 12 if column == Column.CHROMA else 7
    torch.manual_seed(1)
    heads = Heads(sizes, 16)
    for layer in (*heads.down, *heads.around, *heads.marks.gates):
        torch.nn.init.normal_(layer.weight, std=0.3)
    places = range(1, 2 + sizes[Column.POSITION] - 1)
    notes = itertools.product(places, *(range(1, sizes[c]) for c in (2, 3, 4, 5)))
    targets = torch.tensor([(0, 0, 0, 0, 0), *notes])
    at_place = torch.randint(5, (10, len(Column)))  # what stands around depends on the place and the pitch alone
    at_pitch = torch.randint(7, (6, 6, len(Column)))
    following = at_place[targets[:, 0]]
    following[:, list(AT_PITCH)] = at_pitch[targets[:, 0], targets[:, 2]][:, list(AT_PITCH)]
    own = (Column.MICRO, Column.PITCH, Column.VELOCITY, Column.DURATION)
    pointed = [*zip(THERE, own, strict=True), *zip(MEMORY, own, strict=True)]
    for column, of in (*pointed, (Column.THERE_SECOND, Column.PITCH), (Column.MEMORY_SECOND, Column.PITCH)):
        following[:, column] %= sizes[of]
    for stage, struck in STRUCK.items():
        following[:, struck] %= heads.classes[stage] + 1
    for h in torch.randn(20, 16):
        places = torch.randint(-1, 5, (1, 6)).expand(len(targets), -1)
        nats = heads.nats(h.expand(len(targets), -1), targets, following, places).sum(1)
        assert float((-nats.detach()).exp().sum()) == pytest.approx(1, abs=1e-5)


def test_a_drum_costs_no_duration(model: StepModel) -> None:
    targets = torch.tensor([[2, 21, 200, 10, 0]])
    around = torch.zeros(1, len(Column), dtype=torch.int16)
    nats = model.heads.nats(torch.randn(1, 64), targets, around, torch.tensor([[-1, 4, 3, -1, 2, 5]]))
    assert nats[0, 4] == 0
    assert (nats[0, :4] > 0).all()


def test_it_reads_forwards_only(model: StepModel) -> None:
    steps = sample()
    at = len(steps) // 2
    other = steps.copy()
    other[at:] = steps[at:][::-1]
    with torch.no_grad():
        one, two = (model.hidden(torch.from_numpy(s[None])) for s in (steps, other))
    assert torch.equal(one[:, :at], two[:, :at])
    assert not torch.allclose(one[:, at:], two[:, at:])


def test_packed_samples_do_not_meet(model: StepModel) -> None:
    first, second = sample(0), sample(1)
    row = np.concatenate([first, second])
    starts = np.zeros(len(row), bool)
    starts[[0, len(first)]] = True
    with torch.no_grad():
        packed = model.hidden(torch.from_numpy(row[None]), starts=torch.from_numpy(starts[None]))[0]
        alone = model.hidden(torch.from_numpy(second[None]))[0]
    assert torch.allclose(packed[len(first) :], alone, atol=1e-4)


def test_every_column_is_read(model: StepModel) -> None:
    steps = sample()
    at = int(np.flatnonzero(steps[:, Column.ROLE] == Role.ANSWER)[-1])
    with torch.no_grad():
        before = model.hidden(torch.from_numpy(steps[None]))[0, at]
        for column in Column:
            other = steps.copy()
            other[at, column] = (other[at, column] + 1) % vocabulary().sizes[column]
            assert not torch.allclose(before, model.hidden(torch.from_numpy(other[None]))[0, at], atol=1e-6), column


def test_a_few_steps_of_training_learn_a_song() -> None:
    song = repeating_song()
    steps = np.concatenate(
        [prompt_steps(vocabulary(), song, Window(8, 9, 0, 16), [0], [(0, 8)]), np.zeros((1, len(Column)), np.int16)]
    )
    targets, roles = targets_of(steps, vocabulary())
    asked = torch.from_numpy(roles == Role.CONTEXT)
    torch.manual_seed(0)
    own = StepModel(ModelConfig(n_layer=2, n_embd=64, vocab_size=1), vocabulary().sizes)
    optimizer = torch.optim.AdamW(own.parameters(), lr=5e-3)
    losses = []
    for _ in range(40):
        h = own.hidden(torch.from_numpy(steps[None, :-1]))[0]
        marked = places_known(steps[:-1], vocabulary().nothing)
        loss = (
            own.heads.nats(h[asked], *(torch.from_numpy(x)[asked] for x in (targets, steps[1:], marked))).sum(1).mean()
        )
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.25 * losses[0]
