"""Nats of a step model, and of the flat model on the same fills, cell by cell.

The fills are those of `training.valid`, the trainer's own: the same cells of the same songs. A step model is shown what
fits 1,536 steps with its answer; the flat model what it was trained to read, as when it fills.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from midi_rwkv.corpus.note_shards import NoteShard
from midi_rwkv.corpus.shards import read_song
from midi_rwkv.engine.heads import NoteHeads
from midi_rwkv.errors import CheckpointError, CorpusError
from midi_rwkv.fill.recall import SongMemory
from midi_rwkv.model.checkpoint import Checkpoint, load_checkpoint
from midi_rwkv.model.config import ModelConfig
from midi_rwkv.model.rwkv7 import RWKV7
from midi_rwkv.model.step_checkpoint import StepCheckpoint
from midi_rwkv.model.steps import StepModel
from midi_rwkv.score.score import Cell
from midi_rwkv.tokens.attributes import Column, Role, Vocabulary
from midi_rwkv.tokens.layout import notes_of, targets_of
from midi_rwkv.tokens.notes import AT, SongNotes
from midi_rwkv.tokens.pointers import END, places_known
from midi_rwkv.tokens.prompt import PromptTokens, Shown, build_prompt, prompt_budget
from midi_rwkv.tokens.tokenizer import Kind, TokenizedSong
from midi_rwkv.training.average import RunAverage
from midi_rwkv.training.dataset import FILL, lay_out, to_batches
from midi_rwkv.training.losses import wanted_logits
from midi_rwkv.training.run_files import read_state
from midi_rwkv.training.valid import Place, asks_of
from midi_rwkv.training.valid import lay_out as lay_out_steps

from .cases import Songs
from .fold import ATTRIBUTES, Asked, Fold

_COLUMN = {Kind.POSITION: 0, Kind.PITCH: 2, Kind.VELOCITY: 3, Kind.DURATION: 4}


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
        if not isinstance(checkpoint, StepCheckpoint):
            raise CheckpointError(f"{path} is a model of tokens; name one of steps, or a run's state.pt")
        model = StepModel(checkpoint.config, checkpoint.vocabulary.sizes)
        model.load_state_dict({name: torch.from_numpy(w) for name, w in checkpoint.weights.items()})
        return model.eval(), int(checkpoint.training.get("steps_seen", 0))
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
        steps, _ = lay_out_steps(self.vocabulary, song, place, follow=follow)
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


class FlatNats:
    """A flat model's nats, alone and with its recall."""

    def __init__(self, checkpoint: Checkpoint, files: Songs):
        self.checkpoint, self.tokenizer, self.files = checkpoint, checkpoint.tokenizer, files
        self.tokens = PromptTokens(self.tokenizer)
        self.model: RWKV7 = checkpoint.model()

    def song(self, name: str, notes: SongNotes) -> TokenizedSong:
        """The song in flat tokens. CorpusError where the file is another than that of the steps."""
        if name not in self.files.data:
            raise CorpusError(
                f"{self.files.path} has no {name}, which the shard has; name the files that it was made of"
            )
        song = read_song(self.files.data[name], name, checked=True)
        flat = self.tokenizer.encode_arrays(
            song.tracks, song.programs, song.bars, song.tempos, ticks_per_beat=song.ticks_per_beat, leads=song.leads
        )
        if (flat.n_tracks, flat.n_bars) != (notes.n_tracks, notes.n_bars):
            raise CorpusError(f"{name} has other tracks or bars in {self.files.path} than in the shard")
        return flat

    @torch.no_grad()
    def of(self, song: TokenizedSong, place: Place) -> tuple[CellsNats, CellsNats]:
        """Nats of each cell, alone and with recall (the same where the checkpoint has none)."""
        targets = dict.fromkeys(range(*place.run), place.tracks)
        budget = prompt_budget(song, targets, self.checkpoint.context)
        shown = Shown(budget=budget, open_end=place.question.open_end)
        prompt = build_prompt(self.tokens, song, targets, shown, order=self.checkpoint.prompt)
        sample = lay_out(self.tokenizer, self.tokens, song, prompt)
        [(ids, roles, _)] = to_batches([sample], self.tokens.pad, rows=1)
        logits = wanted_logits(self.model, ids, roles == FILL)[0]
        answer = ids[0][roles[0] == FILL]
        alone = torch.nn.functional.cross_entropy(logits, torch.from_numpy(answer), reduction="none").double().numpy()
        cells = prompt.cells()
        recalled = alone
        if self.checkpoint.recall is not None:
            recalled = np.array(list(self._recalled(song, place, cells, logits.double().numpy())))
        columns = [self._column(token) for token in answer.tolist()]
        ends = np.flatnonzero(answer == self.tokens.fill_end)
        number = np.searchsorted(ends, np.arange(len(answer)))
        found: list[CellsNats] = [{}, {}]
        for i, (t, b) in enumerate(cells):
            own = number == i
            notes = int(self.tokenizer.notes_per_id[answer[own]].sum())
            for where, nats in zip(found, (alone, recalled), strict=True):
                split = np.bincount(np.array(columns)[own], nats[own], ATTRIBUTES)
                where[t, b] = CellNats(notes, split)
        return found[0], found[1]

    def _recalled(
        self, song: TokenizedSong, place: Place, cells: Sequence[Cell], logits: np.ndarray
    ) -> Iterator[float]:
        weights = self.checkpoint.recall
        assert weights is not None
        after = range(place.run[1], song.n_bars if place.question.open_end else place.run[1])
        hidden = [*cells, *(Cell(t, b) for b in after for t in range(song.n_tracks))]
        memory = SongMemory(self.tokenizer, song, hidden, weights, end_id=self.tokens.fill_end)
        for row, (sources, true) in zip(logits, memory.follow(song, cells), strict=True):
            yield -float(sources.mix(row)[true])

    def _column(self, token: int) -> int:
        """The attribute that a token of a cell tells, its first where it tells several; the cell's end is a place."""
        if token == self.tokens.fill_end:
            return 0
        return _COLUMN[Kind(self.tokenizer.base_kind[self.tokenizer.expansions[token][0]])]


def repeats(song: TokenizedSong, place: Place, notes: SongNotes) -> set[tuple[int, int]]:
    """Cells of a fill that hold notes and whose flat tokens stand in another bar of their track that is shown."""
    hidden = place.hidden(notes)
    found = set()
    for t, b in place.cells:
        own = song.cell(Cell(t, b)).tobytes()
        others = (x for x in range(song.n_bars) if (t, x) not in hidden)
        if own and any(song.cell(Cell(t, x)).tobytes() == own for x in others):
            found.add((t, b))
    return found


def load_valid(shards: Path) -> tuple[NoteShard, Vocabulary]:
    """The validation songs as notes, and their vocabulary."""
    if not (shards / "valid.npz").exists():
        raise CorpusError(f"{shards} holds no note shards (no valid.npz)")
    return NoteShard(shards / "valid.npz"), Vocabulary.load(shards / "tokenizer.json")
