"""infill() turns a score and an ask into candidates, in five steps:

1. Blank the cells (blank.py): empty them, and encode the rest of the song.
2. Lay out the prompts of a run of bars, one per candidate.
3. Write the run, cell by cell in the prompt's order, with all candidates as one batch.
4. Settle the new notes beside those that stay (draft.py). They are then context for the next run.
5. Order the candidates (ranking.py), and hand on the song and fill of those to show.

Steps 2 and 3 are in steps.py, with note_writer.py for sampling (tests/fill/test_note_writer.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np

from midi_rwkv.engine.engine import VectorEngine
from midi_rwkv.engine.heads import Heads
from midi_rwkv.engine.make import make_engine, make_heads
from midi_rwkv.model.checkpoint import load_checkpoint
from midi_rwkv.model.step_checkpoint import StepCheckpoint, trunk_of
from midi_rwkv.score.score import Cell, Note, Score
from midi_rwkv.style.style import Style, find_style

from .ask import Ask
from .feel import Feel
from .habits import Habits
from .ranking import Order, ranked
from .steps import StepWriting
from .work import Work


@dataclass(frozen=True)
class Candidate:
    """One answer: the whole song with the fill in place, and the notes of its cells, those that stay included (by track
    index, in ticks)."""

    score: Score
    fills: dict[int, list[Note]]


@dataclass(frozen=True)
class Progress:
    """A finished cell, number `done` of `total`. The cells of all candidates count as one."""

    done: int
    total: int
    track: int
    bar: int  # 0-based index
    notes: list[list[Note]]  # per candidate as they are written; in which order they are shown is known at the end


class Infiller:
    """A checkpoint ready to fill: its tables and engine are built once and used for many regions."""

    def __init__(
        self,
        checkpoint: StepCheckpoint,
        *,
        backend: str = "auto",
        threads: int = 1,
        engine: VectorEngine[Any] | None = None,
        style: Style | None = None,
        precision: str = "auto",
    ):
        """`engine` replaces the one made from the checkpoint's weights. `style`: see `find_style`."""

        def heads_of(weights: Mapping[str, np.ndarray]) -> Heads:
            return make_heads(weights, checkpoint.vocabulary.sizes, backend=backend, precision=precision)

        def engine_of(weights: Mapping[str, np.ndarray]) -> VectorEngine[Any]:
            return make_engine(
                trunk_of(weights), checkpoint.config.head_size, backend=backend, threads=threads, precision=precision
            )

        engine, heads = engine or engine_of(checkpoint.weights), heads_of(checkpoint.weights)
        self.writing = StepWriting(
            checkpoint, engine, heads, style or Style("none"), lambda weights: (engine_of(weights), heads_of(weights))
        )
        self.taste: Order | None = None  # see `infill`

    @property
    def engine(self) -> VectorEngine[Any]:
        """What runs the model."""
        return self.writing.engine

    @engine.setter
    def engine(self, engine: VectorEngine[Any]) -> None:
        self.writing.engine = engine

    @property
    def style(self) -> Style:
        """Whose manner the fills take."""
        return self.writing.style

    @style.setter
    def style(self, style: Style) -> None:
        self.writing.style = style

    def __call__(
        self, score: Score, ask: Ask, *, on_progress: Callable[[Progress], None] | None = None
    ) -> list[Candidate]:
        """See `infill`."""
        work = _blank(self.writing, score, ask, on_progress)
        for run in self.writing.runs(work.blanked.ask.region):
            self.writing.write(work, run)
            _settle(work, run)
        candidates = _hand_on(work)
        for candidate in candidates:
            self.writing.check_quotes(work.blanked, candidate.fills)
        if self.taste and len(candidates) > 1:
            candidates = [candidates[i] for i in self.taste(score, ask.region, [c.fills for c in candidates])]
        return candidates


def _blank(writing: StepWriting, score: Score, ask: Ask, on_progress: Callable[[Progress], None] | None) -> Work:
    """Empties the cells and computes their limits. Raises RequestError if a request cannot be met."""
    blanked = writing.blank(score, ask)
    done = count(1)

    def on_cell(cell: Cell, notes: list[list[Note]]) -> None:
        if on_progress:
            on_progress(Progress(next(done), len(blanked.ask.region.cells), *cell, notes[: ask.candidates]))

    rules = writing.rules(blanked)
    habits = Habits(blanked, writing.vocabulary, writing.style.kind)
    plans, drafts = writing.plans(blanked, rules), writing.drafts(blanked)
    return Work(blanked, rules, drafts, plans, Feel(blanked), habits, on_cell)


def _settle(work: Work, run: tuple[int, int]) -> None:
    """Fits the new notes of the run beside those that stay."""
    for draft in work.drafts:
        draft.settle(work.blanked, work.rules.single, run[1])


def _hand_on(work: Work) -> list[Candidate]:
    """The best of the songs, and the notes of all cells: the new ones and those that stay."""
    blanked, drafts = work.blanked, work.drafts
    found = []
    order = ranked([d.fill for d in drafts], [d.nats / d.choices for d in drafts], blanked.score.ticks_per_beat)
    for draft in [drafts[i] for i in order[: blanked.ask.candidates]]:
        fills = {t: sorted([*stay, *draft.fill.get(t, ())]) for t, stay in blanked.staying.items()}
        found.append(Candidate(blanked.whole.with_fill(blanked.region, fills), fills))
    return found


def infill(
    score: Score,
    ask: Ask,
    checkpoint: StepCheckpoint | None = None,
    *,
    style: Style | str | None = None,
    taste: Order | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> list[Candidate]:
    """Rewrites the cells of a region, `ask.candidates` times.

    To fill more than once, or to choose the engine, keep an `Infiller`.

    Args:
        score: the song.
        ask: the cells, how many times, and within what limits (see `Ask`).
        checkpoint: None for the one that ships.
        style: from `find_style`, or a text: a name, a path, or a blend such as "mine:0.7,bach:0.3".
        taste: in which order the same candidates are handed on, from `own_taste` of evaluation/candidates.py; None:
            the plain order.
        on_progress: called after each cell.

    Raises:
        RequestError: the region is outside the score, a locked note is outside the region, or a request cannot be met.
    """
    checkpoint = checkpoint or load_checkpoint()
    found = find_style(style, checkpoint) if isinstance(style, str) else style
    infiller = Infiller(checkpoint, style=found)
    infiller.taste = taste
    return infiller(score, ask, on_progress=on_progress)
