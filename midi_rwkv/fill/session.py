"""The model's side of a run of bars: one state per candidate, read and written as one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from midi_rwkv.engine.engine import Floats, VectorEngine
from midi_rwkv.engine.heads import Heads
from midi_rwkv.engine.prefix import read_from
from midi_rwkv.engine.tables import StepTables
from midi_rwkv.model.rows import Rows
from midi_rwkv.style.style import Style
from midi_rwkv.tokens.attributes import Column, Role, Vocabulary, distance_of
from midi_rwkv.tokens.layout import note_steps
from midi_rwkv.tokens.pointers import places_known
from midi_rwkv.tokens.surroundings import CellSurroundings, with_before

from .note_writer import DURATION, PITCH, PLACE, VELOCITY, NoteWriter


class Writer(NamedTuple):
    """What writes cells: an engine, what is in front of it and what is behind it."""

    engine: VectorEngine[Any]
    tables: StepTables
    heads: Heads


class Session:
    """The candidates' states while one run of bars is written."""

    def __init__(
        self,
        reader: tuple[VectorEngine[Any], StepTables],
        writer: Writer,
        vocabulary: Vocabulary,
        style: Style,
        prompts: Sequence[np.ndarray],
    ):
        """reader: what reads the prompts. writer: what goes on after them. prompts: (n, columns) steps, one per
        candidate."""
        (self.engine, self.tables), self.heads, self.vocabulary = reader, writer.heads, vocabulary
        self._recall = max((weight for _, weight in style.pieces), default=1.0)
        same = all(p is prompts[0] for p in prompts)
        self.state: Rows = self.engine.new_state(1, style.wkv)
        read = [with_before(p.copy()) for p in (prompts[:1] if same else prompts)]
        self._read([self.tables(p) for p in read])
        self._pitches = [_last_pitch(p) for p in prompts]  # of each candidate's last note
        if style.run is not None:
            self.state.wkv += style.run[:, None]
        self.engine, self.tables = writer.engine, writer.tables

    def write(
        self,
        asked: Sequence[np.ndarray],
        writers: Sequence[NoteWriter],
        program: int,
        place: tuple[int, tuple[int, int]],
        around: Sequence[CellSurroundings],
    ) -> None:
        """Writes one cell, with one writer per candidate. asked: the steps before its first note, per candidate.
        place: its bar, and the run. around: what each candidate has around the cell."""
        asked = [with_before(steps, last) for steps, last in zip(asked, self._pitches, strict=True)]
        h = self._read([self.tables(steps) for steps in asked])
        last = np.concatenate([steps[-1:] for steps in asked])
        pitches = [_last_pitch(steps, before) for steps, before in zip(asked, self._pitches, strict=True)]
        running = self.state
        distance = int(distance_of(place[0], *place[1]))
        active = list(range(len(writers)))  # candidates still writing; `running` holds their states in this order
        finished: list[tuple[int, Rows]] = []
        while True:
            before = np.array([pitches[i] for i in active])
            h, going, columns = self._choose(
                h, (last, before), [writers[i] for i in active], [around[i] for i in active]
            )
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
                around=columns,
            )
            steps[:, Column.TOKEN] = [self.vocabulary.note_tokens[writers[i].same] for i in active]
            h, last = self.engine.step_vectors(self.tables(steps), running), steps
            for i, step in zip(active, steps, strict=True):
                pitches[i] = int(step[Column.PITCH])
        self.state = type(running).concat([s for _, s in sorted(finished, key=lambda pair: pair[0])])
        self._pitches = pitches

    def _choose(
        self,
        z: Floats,
        read: tuple[np.ndarray, np.ndarray],
        writers: Sequence[NoteWriter],
        around: Sequence[CellSurroundings],
    ) -> tuple[Floats, list[int], np.ndarray]:
        """Each writer chooses a note or ends. read: the step that each has read last, and the PITCH of the last note.
        Returns those that go on, and the columns of what stands around their notes."""
        going = list(range(len(writers)))
        last, before = read
        columns = places_known(last, self.vocabulary.nothing)
        for stage in range(PLACE, (VELOCITY if writers[0].is_drum else DURATION) + 1):
            chosen = [choice for k in going if (choice := writers[k].known(stage)) is not None]
            if len(chosen) == len(going):
                for k, choice in zip(going, chosen, strict=True):
                    writers[k].take(stage, choice)
            else:
                logits = self.heads.logits(stage, z, columns, writers[0].config.follow, self._recall)
                chosen = [writers[k].choose(stage, row) for k, row in zip(going, logits, strict=True)]
            if stage == PLACE:
                on = [n for n, k in enumerate(going) if not writers[k].done]
                z, chosen, going = z[on], [chosen[n] for n in on], [going[n] for n in on]
                if not going:
                    break
                columns = np.stack([around[k].at_place(writers[k].place[0]) for k in going])
                columns[:, Column.BEFORE] = before[going]
            if stage == PITCH:
                for row, k in zip(columns, going, strict=True):
                    around[k].write(row, writers[k].place[0], writers[k].pitch)
            if stage < DURATION:
                z = self.heads.given(stage, z, np.array(chosen), columns)
        return z, going, columns

    def _read(self, vectors: Sequence[Floats]) -> Floats:
        """Advances every candidate by its own vectors. Returns what the heads read, (candidates, C)."""
        if self.state.batch < len(vectors):  # all have read the same so far
            h, self.state = read_from(self.engine, self.state, vectors)
            return h
        if all(np.array_equal(x, vectors[0]) for x in vectors[1:]):
            return self.engine.prefill_vectors(vectors[0], self.state)
        rows = [self.state.select([i]) for i in range(len(vectors))]
        h = np.concatenate([self.engine.prefill_vectors(x, row) for x, row in zip(vectors, rows, strict=True)])
        self.state = type(self.state).concat(rows)
        return h


def _last_pitch(steps: np.ndarray, before: int = 0) -> int:
    """PITCH of the last note of a sequence of steps, or of the one before it."""
    notes = np.flatnonzero(steps[:, Column.VELOCITY] > 0)
    return int(steps[notes[-1], Column.PITCH]) if len(notes) else before
