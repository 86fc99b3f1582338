"""Nats of a model, raw and on version 6's grid (fold.py), cell by cell.

The fills are those of `training.valid`, the trainer's own: the same cells of the same songs, shown what fits 1,536
steps with their answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from midi_rwkv.corpus.note_shards import NoteShard, load_vocabulary
from midi_rwkv.engine.heads import NoteHeads
from midi_rwkv.errors import CorpusError
from midi_rwkv.model.checkpoint import load_checkpoint
from midi_rwkv.model.config import ModelConfig
from midi_rwkv.model.step_checkpoint import step_model_of
from midi_rwkv.model.steps import StepModel
from midi_rwkv.tokens.attributes import Column, Role, Vocabulary
from midi_rwkv.tokens.layout import notes_of, targets_of
from midi_rwkv.tokens.notes import AT, SongNotes
from midi_rwkv.tokens.pointers import END, places_known
from midi_rwkv.training.average import RunAverage
from midi_rwkv.training.run_files import read_state
from midi_rwkv.training.valid import Place, asks_of, lay_out

from .fold import Asked, Fold


@dataclass(frozen=True)
class CellNats:
    """Of one cell: how many notes it has, and what its attributes cost in nats, (5,), its end among the places."""

    notes: int
    nats: np.ndarray


CellsNats = dict[tuple[int, int], CellNats]  # by (track, bar)


def load_steps(path: Path) -> tuple[StepModel, int]:
    """The model of a checkpoint folder or of a `state.pt` (of a run its average), and how many steps it has seen."""
    if path.is_dir():
        checkpoint = load_checkpoint(path)
        return step_model_of(checkpoint), int(checkpoint.training.get("steps_seen", 0))
    found = read_state(path, torch.device("cpu"))
    model = StepModel(ModelConfig.from_dict(found["model_config"]), found["sizes"])
    average = RunAverage(model)
    model.load_state_dict(found["model"])
    average.load_state_dict(found["average"])
    return (model if found["branch_at"] else average.module).eval(), int(found["steps"])


class StepNats:
    """A step model's nats, raw and folded."""

    def __init__(self, model: StepModel, vocabulary: Vocabulary, fold: Fold):
        self.model, self.vocabulary, self.fold = model, vocabulary, fold
        weights = {name: w.detach().float().numpy() for name, w in model.state_dict().items()}
        self.heads = NoteHeads(weights, vocabulary.sizes)

    @torch.no_grad()
    def of(self, song: SongNotes, place: Place, *, follow: bool = True) -> tuple[CellsNats, CellsNats]:
        """Raw and folded nats of each cell of a fill. follow: whether sources are followed."""
        steps, _ = lay_out(self.vocabulary, song, place, follow=follow)
        targets, roles = targets_of(steps, self.vocabulary)
        at = np.flatnonzero(roles == Role.ANSWER)
        hidden = self.model.hidden(torch.from_numpy(steps[None, :-1]))[0][torch.from_numpy(at)].float()
        targets = targets[at]
        following = torch.from_numpy(steps[at + 1])
        marked = places_known(steps[at], self.vocabulary.nothing)
        pitches = steps[at + 1, Column.BEFORE]
        known = following, torch.from_numpy(marked)
        raw = self.model.heads.nats(hidden, torch.from_numpy(targets), *known).double().numpy()
        ends = np.flatnonzero(targets[:, 0] == END)
        cell = np.searchsorted(ends, np.arange(len(at)))
        bars = np.array([b for _, b in place.cells])
        is_note = np.isin(steps[at, Column.TOKEN], self.vocabulary.note_tokens)
        before = np.where(is_note[:, None], notes_of(self.vocabulary, steps[at])[:, [AT.position, AT.pitch]], -1)
        asks = asks_of(self.vocabulary, song, place, follow=follow)
        around = []
        for ask, (t, b) in zip(asks, place.cells, strict=True):
            assert ask.around is not None
            around += ask.around.at_each(song.cell(t, b))
        asked = Asked(hidden.numpy(), targets, before, song.lengths[bars[cell]], around, marked, pitches)
        folded = self.fold.nats(self.heads, asked)
        found: list[CellsNats] = [{}, {}]
        for number, key in enumerate(place.cells):
            own = cell == number
            for where, nats in zip(found, (raw, folded), strict=True):
                where[key] = CellNats(int(own.sum()) - 1, nats[own].sum(0))
        return found[0], found[1]


def repeats(song: SongNotes, place: Place, fold: Fold) -> set[tuple[int, int]]:
    """Cells of a fill that hold notes and stand, on version 6's grid, in another bar of their track that is shown."""
    hidden = place.hidden(song)
    found = set()
    for t in place.tracks:
        cells = [fold.tokens(song.cell(t, b), int(song.lengths[b])).tobytes() for b in range(song.n_bars)]
        shown = {cell for b, cell in enumerate(cells) if (t, b) not in hidden}
        found |= {(t, b) for b in range(*place.run) if cells[b] and cells[b] in shown}
    return found


def load_valid(shards: Path) -> tuple[NoteShard, Vocabulary]:
    """The validation songs as notes, and their vocabulary."""
    if not (shards / "valid.npz").exists():
        raise CorpusError(f"{shards} holds no note shards (no valid.npz)")
    return NoteShard(shards / "valid.npz"), load_vocabulary(shards)
