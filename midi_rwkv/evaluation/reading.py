"""What the original's notes cost a model, read on the path on which it writes a fill."""

from __future__ import annotations

import numpy as np

from midi_rwkv.fill.ask import Ask
from midi_rwkv.fill.blank import Blanked
from midi_rwkv.fill.feel import Feel
from midi_rwkv.fill.habits import Habits
from midi_rwkv.fill.limits import CellLimits
from midi_rwkv.fill.note_writer import PLACE, NoteWriter
from midi_rwkv.fill.plan import CellPlan
from midi_rwkv.fill.steps import StepWriting
from midi_rwkv.fill.work import Work
from midi_rwkv.model.config import SamplingConfig
from midi_rwkv.score.score import Cell, Score
from midi_rwkv.tokens.attributes import MICRO_MIN
from midi_rwkv.tokens.notes import AT
from midi_rwkv.tokens.pointers import END, FIRST_POSITION, SAME


def original_nats(writing: StepWriting, given: Score, ask: Ask, original: Score) -> np.ndarray:
    """Nats of the original's notes in the cells of an ask, (5,): place, micro-timing, pitch, velocity, duration.

    The cells are laid out as for a fill, and each is read after those before it as the original has them. given: the
    song with the cells empty; their limits are not asked about, nor is anything of the ask's sampling but `follow`, and
    bars are followed as they are.
    """
    reader = _Reading(writing, given, ask, original)
    work = reader.start()
    for run in writing.runs(ask.region):
        reader.write(work, run)
        for draft in work.drafts:
            draft.settle(work.blanked, (), run[1])
    return reader.nats


class _GivenNotes(NoteWriter):
    """Chooses notes that are given, whatever the logits, and counts what they cost."""

    def __init__(
        self,
        notes: np.ndarray,
        nats: np.ndarray,
        sampling: SamplingConfig,
        rng: np.random.Generator,
        *,
        is_drum: bool,
    ):
        free = CellLimits(np.ones((int(notes[:, AT.position].max(initial=0)) + 1, 128), bool))
        super().__init__(free, SamplingConfig(follow=sampling.follow), rng, is_drum=is_drum)
        self._given, self._nats = notes, nats

    def choose(self, stage: int, logits: np.ndarray) -> int:
        choice = self._true(stage)
        p = logits.astype(np.float64)
        self._nats[stage] += np.logaddexp.reduce(p) - p[choice]
        self.take(stage, choice)
        return choice

    def _true(self, stage: int) -> int:
        number = len(self.notes)
        if number == len(self._given):
            return END
        position, micro, pitch, velocity, duration = self._given[number].tolist()
        if stage == PLACE:
            same = number > 0 and self._given[number - 1, AT.position] == position
            return SAME if same else FIRST_POSITION + position
        return int((0, micro - MICRO_MIN, pitch + 128 * self.is_drum, velocity, duration)[stage])


class _Reading(StepWriting):
    """Writes the original's notes, and counts what they cost."""

    keeps_habits = False

    def __init__(self, writing: StepWriting, given: Score, ask: Ask, original: Score):
        super().__init__(writing.checkpoint, writing.engine, writing.heads, writing.style, writing.make)
        self._score, self._ask = given, ask
        self.nats = np.zeros(5)
        bars = [given.bar(b) for b in range(max(len(given.bars), ask.region.bars[-1] + 1))]
        self._original = self.encoder.cells(original, list(ask.region.cells), bars)

    def start(self) -> Work:
        """The work, its cells without limits."""
        blanked = self.blank(self._score, self._ask)
        rules = self.rules(blanked)
        plans = self.plans(blanked, rules)
        drafts = self.drafts(blanked)[:1]
        habits = Habits(blanked, self.vocabulary, self.style.kind)
        return Work(blanked, rules, drafts, plans, Feel(blanked), habits, lambda cell, notes: None)  # noqa: ARG005

    def writer(
        self,
        blanked: Blanked,
        cell: Cell,
        limits: CellLimits,  # noqa: ARG002 -- a fill's
        rng: np.random.Generator,
        micros: np.ndarray,  # noqa: ARG002
        plan: CellPlan | None = None,  # noqa: ARG002
    ) -> NoteWriter:
        is_drum = blanked.score.tracks[cell.track].is_drum
        return _GivenNotes(self._original[cell], self.nats, blanked.ask.sampling, rng, is_drum=is_drum)
