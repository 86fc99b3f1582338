"""A model of steps among the evaluated systems: it fills as `infill` does, and reads the original on the same path."""

from __future__ import annotations

import numpy as np

from midi_rwkv.fill.ask import Ask
from midi_rwkv.fill.blank import Blanked
from midi_rwkv.fill.infill import Infiller
from midi_rwkv.fill.limits import CellLimits
from midi_rwkv.fill.note_writer import PLACE, NoteWriter
from midi_rwkv.fill.steps import StepWriting
from midi_rwkv.fill.work import Work
from midi_rwkv.model.checkpoint import load_checkpoint
from midi_rwkv.model.config import SamplingConfig
from midi_rwkv.model.step_checkpoint import StepCheckpoint
from midi_rwkv.score.score import Cell, Note, Score
from midi_rwkv.style.style import find_style
from midi_rwkv.tokens.attributes import MICRO_MIN
from midi_rwkv.tokens.notes import AT, SongNotes
from midi_rwkv.tokens.pointers import END, FIRST_POSITION, SAME

from .cases import Case
from .reference import Reference
from .systems import Meter, Metered, Setup, System


def make_system(setup: Setup) -> System | StepSystem:
    """The system of a setup, which its module or this one has."""
    if setup.kind == "model":
        checkpoint = load_checkpoint(setup.checkpoint)
        if isinstance(checkpoint, StepCheckpoint):
            return StepSystem(setup, checkpoint)
    return System(setup)


class StepSystem:
    """A `System` that is a checkpoint of steps."""

    def __init__(self, setup: Setup, checkpoint: StepCheckpoint):
        self.setup = setup
        self.reference = Reference.load(setup.reference) if setup.reference else None
        style = find_style(setup.style, checkpoint)
        self.infiller = Infiller(checkpoint, style=style, precision="float32")

    def can(self, case: Case) -> bool:  # noqa: ARG002 -- as `System`
        """Whether the system can do the case: any."""
        return True

    def start_metering(self) -> Meter:
        """Counts the engine's work from now on."""
        self.infiller.engine = metered = Metered(self.infiller.engine)
        return metered.meter

    def fill(self, case: Case, score: Score, sampling: SamplingConfig) -> dict[int, list[Note]]:
        """The notes that this system writes for the case, by track."""
        seed = (self.setup.seed + case.seed) % 2**32
        ask = Ask(case.region, sampling, seed=seed, context_bars=case.context_bars)
        return self.infiller(case.shown(score), ask)[0].fills

    def nats(self, case: Case, score: Score, *, left_only: bool = False) -> float | None:
        """Nats of the original's notes in the region, including each cell's end; None with `left_only`."""
        writing = self.infiller.writing
        assert isinstance(writing, StepWriting)
        if left_only:
            return None
        sampling = SamplingConfig(recall=self.setup.sampling.recall)
        ask = Ask(case.region, sampling, context_bars=case.context_bars)
        return float(original_nats(writing, case.given(score), ask, case.with_answer(score)).sum())


def original_nats(writing: StepWriting, given: Score, ask: Ask, original: Score) -> np.ndarray:
    """Nats of the original's notes in the cells of an ask, (5,): place, micro-timing, pitch, velocity, duration.

    The cells are laid out as for a fill, and each is read after those before it as the original has them. given: the
    song with the cells empty; their limits are not asked about.
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

    def __init__(self, notes: np.ndarray, nats: np.ndarray, rng: np.random.Generator, *, is_drum: bool):
        free = CellLimits(np.ones((int(notes[:, AT.position].max(initial=0)) + 1, 128), bool))
        super().__init__(free, SamplingConfig(), rng, is_drum=is_drum)
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

    def __init__(self, writing: StepWriting, given: Score, ask: Ask, original: Score):
        super().__init__(writing.checkpoint, writing.engine, writing.heads, writing.style)
        self._score, self._ask = given, ask
        self.nats = np.zeros(5)
        bars = [given.bar(b) for b in range(max(len(given.bars), ask.region.bars[-1] + 1))]
        self._original = self.encoder.cells(original, list(ask.region.cells), bars)

    def start(self) -> Work:
        """The work, its cells without limits."""
        blanked = self.blank(self._score, self._ask)
        return Work(blanked, self.rules(blanked), self.drafts(blanked), lambda cell, notes: None)  # noqa: ARG005

    def writer(
        self,
        blanked: Blanked[SongNotes],
        cell: Cell,
        limits: CellLimits,  # noqa: ARG002 -- a fill's
        rng: np.random.Generator,
        micros: np.ndarray,  # noqa: ARG002
    ) -> NoteWriter:
        is_drum = blanked.score.tracks[cell.track].is_drum
        return _GivenNotes(self._original[cell], self.nats, rng, is_drum=is_drum)
