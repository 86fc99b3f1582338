"""The model's side of a run of bars, for a model of steps: one state per candidate, read and written as one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from midi_rwkv.engine.engine import Engine, Floats
from midi_rwkv.engine.heads import Heads
from midi_rwkv.engine.prefix import read_vectors_from
from midi_rwkv.engine.tables import StepTables
from midi_rwkv.model.rows import Rows
from midi_rwkv.style.style import Style
from midi_rwkv.tokens.attributes import Column, Role, Vocabulary, distance_of
from midi_rwkv.tokens.layout import note_steps

from .note_writer import DURATION, PLACE, VELOCITY, NoteWriter


class StepSession:
    """The candidates' states while one run of bars is written."""

    def __init__(
        self,
        engine: Engine[Any],
        ends: tuple[StepTables, Heads],
        vocabulary: Vocabulary,
        style: Style,
        prompts: Sequence[np.ndarray],
    ):
        """ends: what is in front of the engine and behind it. prompts: (n, columns) steps, one per candidate."""
        self.engine, (self.tables, self.heads), self.vocabulary = engine, ends, vocabulary
        same = all(p is prompts[0] for p in prompts)
        self.state: Rows = engine.new_state(1, style.wkv)
        self._read([self.tables(p) for p in (prompts[:1] if same else prompts)])
        if style.run is not None:
            self.state.wkv += style.run[:, None]

    def write(
        self,
        asked: Sequence[np.ndarray],
        writers: Sequence[NoteWriter],
        program: int,
        place: tuple[int, tuple[int, int]],
    ) -> None:
        """Writes one cell, with one writer per candidate. asked: the steps before its first note, per candidate.
        place: its bar, and the run."""
        h = self._read([self.tables(steps) for steps in asked])
        running = self.state
        distance = int(distance_of(place[0], *place[1]))
        active = list(range(len(writers)))  # candidates still writing; `running` holds their states in this order
        finished: list[tuple[int, Rows]] = []
        while True:
            h, going = self._choose(h, [writers[i] for i in active])
            if len(going) < len(active):
                finished += [(i, running.select([k])) for k, i in enumerate(active) if k not in going]
                if not going:
                    break
                running, active = running.select(going), [active[k] for k in going]
            steps = note_steps(
                self.vocabulary,
                np.array([writers[i].notes[-1] for i in active], np.int16),
                program=program,
                role=Role.ANSWER,
                distance=distance,
            )
            steps[:, Column.TOKEN] = [self.vocabulary.note_tokens[writers[i].same] for i in active]
            h = self.engine.step_vectors(self.tables(steps), running)
        self.state = type(running).concat([s for _, s in sorted(finished, key=lambda pair: pair[0])])

    def _choose(self, z: Floats, writers: Sequence[NoteWriter]) -> tuple[Floats, list[int]]:
        """Each writer chooses a note or ends. Returns those that go on."""
        going = list(range(len(writers)))
        for stage in range(PLACE, (VELOCITY if writers[0].is_drum else DURATION) + 1):
            chosen = [choice for k in going if (choice := writers[k].known(stage)) is not None]
            if len(chosen) == len(going):
                for k, choice in zip(going, chosen, strict=True):
                    writers[k].take(stage, choice)
            else:
                logits = self.heads.logits(stage, z)
                chosen = [writers[k].choose(stage, row) for k, row in zip(going, logits, strict=True)]
            if stage == PLACE:
                on = [n for n, k in enumerate(going) if not writers[k].done]
                z, chosen, going = z[on], [chosen[n] for n in on], [going[n] for n in on]
                if not going:
                    break
            if stage < DURATION:
                z = self.heads.given(stage, z, np.array(chosen))
        return z, going

    def _read(self, vectors: Sequence[Floats]) -> Floats:
        """Advances every candidate by its own vectors. Returns what the heads read, (candidates, C)."""
        if self.state.batch < len(vectors):  # all have read the same so far
            h, self.state = read_vectors_from(self.engine, self.state, vectors)
            return h
        if all(np.array_equal(x, vectors[0]) for x in vectors[1:]):
            return self.engine.prefill_vectors(vectors[0], self.state)
        rows = [self.state.select([i]) for i in range(len(vectors))]
        h = np.concatenate([self.engine.prefill_vectors(x, row) for x, row in zip(vectors, rows, strict=True)])
        self.state = type(self.state).concat(rows)
        return h
