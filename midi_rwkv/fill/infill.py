"""infill() turns a score and an ask into candidates, in five steps:

1. Blank the cells (blank.py): empty them, and encode the rest of the song.
2. Lay out the prompts of a run of bars, one per candidate.
3. Write the run, cell by cell in the prompt's order, with all candidates as one batch (session.py).
4. Settle the new notes beside those that stay (draft.py). They are then context for the next run.
5. Hand on each candidate's song and fill.

Sampling is in sample.py, and tests/fill/test_sample.py tests it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np

from midi_rwkv.engine.engine import TokenEngine
from midi_rwkv.engine.make import make_engine
from midi_rwkv.errors import RequestError
from midi_rwkv.model.checkpoint import Checkpoint, load_checkpoint
from midi_rwkv.score.score import Cell, Note, Score
from midi_rwkv.style.style import Style, find_style
from midi_rwkv.tokens.prompt import ORDERS, Prompt, PromptTokens, Shown, build_prompt, prompt_budget
from midi_rwkv.tokens.tokenizer import TokenizedSong, in_the_manner_of

from .ask import Ask
from .blank import Blanked, blank_cells, encode_cells
from .draft import Draft
from .limits import CellLimits
from .recall import SongMemory
from .rules import Rules
from .sample import CellRules, CellWriter, GrammarTables
from .session import Session

MAX_KEPT_RULES = 256  # rules of cells, some 0.1 MiB each


@dataclass(frozen=True)
class Candidate:
    """One answer: the whole song with the fill in place, and only the new notes (by track index, in ticks)."""

    score: Score
    fills: dict[int, list[Note]]


@dataclass(frozen=True)
class Progress:
    """A finished cell, number `done` of `total`. The cells of all candidates count as one."""

    done: int
    total: int
    track: int
    bar: int  # 0-based index
    notes: list[list[Note]]  # per candidate


@dataclass(frozen=True)
class _Work:
    """A fill in progress."""

    blanked: Blanked
    rules: Rules
    drafts: list[Draft]
    on_cell: Callable[[Cell, list[list[Note]]], None]  # called with a finished cell and its notes per candidate


class Infiller:
    """A checkpoint ready to fill: its grammar tables and engine are built once and used for many regions."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        backend: str = "auto",
        threads: int = 1,
        engine: TokenEngine[Any] | None = None,
        style: Style | None = None,
        precision: str = "auto",
    ):
        """`engine` replaces the one made from the checkpoint's weights. `style`: see `find_style`."""
        if checkpoint.prompt not in ORDERS:
            raise RequestError(
                f"{checkpoint.path}: prompt format {checkpoint.prompt!r} cannot be filled with; use a checkpoint with "
                f"one of {', '.join(ORDERS)}"
            )
        self.checkpoint = checkpoint
        self.tokenizer = checkpoint.tokenizer
        self.tokens = PromptTokens(self.tokenizer)
        self.engine = engine or make_engine(
            checkpoint.weights, checkpoint.config.head_size, backend=backend, threads=threads, precision=precision
        )
        self.style = style or Style("none")
        self._tables = {is_drum: GrammarTables(self.tokenizer, is_drum=is_drum) for is_drum in (False, True)}
        self._cell_rules: dict[tuple[object, ...], CellRules] = {}

    def __call__(
        self, score: Score, ask: Ask, *, on_progress: Callable[[Progress], None] | None = None
    ) -> list[Candidate]:
        """See `infill`."""
        work = self._blank(score, ask, on_progress)
        for run in ask.region.bar_runs():
            prompts = self._lay_out(work, run)
            self._write(work, prompts)
            self._settle(work, run)
        return self._hand_on(work)

    # -- 1. blank the cells -------------------------------------------------------------------------------------------

    def _blank(self, score: Score, ask: Ask, on_progress: Callable[[Progress], None] | None) -> _Work:
        """Empties the cells and computes their limits. Raises RequestError if a request cannot be met."""
        blanked = blank_cells(self.tokenizer, score, ask)
        sayable = {is_drum: tables.sayable for is_drum, tables in self._tables.items()}
        rules = Rules(self.tokenizer, blanked, sayable)
        memory = self._memory(blanked)
        drafts = []
        for i in range(ask.candidates):
            rng = np.random.default_rng((ask.seed, i))
            drafts.append(Draft(rng, memory.fork() if memory else None, {t: [] for t in ask.region.tracks}))
        done = count(1)

        def on_cell(cell: Cell, notes: list[list[Note]]) -> None:
            if on_progress:
                on_progress(Progress(next(done), len(ask.region.cells), *cell, notes))

        return _Work(blanked, rules, drafts, on_cell)

    def _memory(self, blanked: Blanked) -> SongMemory | None:
        """Recall of the song, or None if the checkpoint has no recall weights or recall is off.

        The present content of a cell is to be replaced, so it is not taken from elsewhere in the song either.
        """
        weights, ask, song = self.checkpoint.recall, blanked.ask, blanked.song
        if weights is None or not ask.sampling.recall:
            return None
        refused = {c: ids for c in ask.region.cells if len(ids := blanked.before.cell(c).tolist())}
        reach = song.n_bars if ask.context_bars is None else ask.context_bars
        runs = [(lo - reach, hi + reach) for lo, hi in ask.region.bar_runs()]
        end = len(blanked.score.bars)  # nothing is known about other tracks after the song
        unknown = [b for b in range(song.n_bars) if b >= end or not any(lo <= b < hi for lo, hi in runs)]
        hidden = {*ask.region.cells, *(Cell(t, b) for b in unknown for t in range(song.n_tracks))}
        return SongMemory(self.tokenizer, song, hidden, weights, end_id=self.tokens.fill_end, refused=refused)

    # -- 2. lay out the prompts ---------------------------------------------------------------------------------------

    def _lay_out(self, work: _Work, run: tuple[int, int]) -> list[Prompt]:
        """One prompt per candidate for a half-open run of bars; the same object while their songs are the same."""
        blanked = work.blanked
        if not any(draft.fill for draft in work.drafts):
            return [self._prompt(blanked, blanked.song, run)] * len(work.drafts)
        prompts = []
        for draft in work.drafts:
            cells = encode_cells(self.tokenizer, draft.score(blanked.blank), blanked.ask.region.cells, blanked.bars)
            prompts.append(self._prompt(blanked, blanked.song.with_cells(cells), run))
        return prompts

    def _prompt(self, blanked: Blanked, song: TokenizedSong, run: tuple[int, int]) -> Prompt:
        first, last = run
        targets = {b: blanked.ask.region.tracks_in(b) for b in range(first, last)}
        shown = Shown(
            masked={cell for cell in blanked.ask.region.cells if cell.bar >= last},
            budget=prompt_budget(song, targets, self.checkpoint.context),
            context_bars=blanked.ask.context_bars,
            open_end=last > len(blanked.score.bars),
        )
        return build_prompt(self.tokens, song, targets, shown, order=self.checkpoint.prompt)

    # -- 3. write a run -----------------------------------------------------------------------------------------------

    def _write(self, work: _Work, prompts: list[Prompt]) -> None:
        """Writes the cells of a run."""
        session = Session(self.engine, self.tokens, self.style, prompts)
        for number, plan in enumerate(prompts[0].bars):
            session.enter(number)
            for t in plan.targets:
                cell = Cell(t, plan.bar)
                work.on_cell(cell, self._write_cell(work, session, cell))

    def _write_cell(self, work: _Work, session: Session, cell: Cell) -> list[list[Note]]:
        """Writes one cell. Returns its notes per candidate."""
        score, region, rules = work.blanked.score, work.blanked.ask.region, work.rules
        track, bar = score.tracks[cell.track], score.bar(cell.bar)
        told = rules.told(cell)
        first = next(lo for lo, hi in region.bar_runs(cell.track) if lo <= cell.bar < hi)
        writers = []
        for draft in work.drafts:
            silent = not draft.has_written(cell.track, score.bar(first).start_ticks)
            limits = self._limited(rules.cell(cell, silent=silent), is_drum=track.is_drum)
            memory = draft.memory.cell(cell) if draft.memory else None
            writers.append(CellWriter(limits, self.tokens, told, draft.rng, memory=memory))
        notes = []
        for draft, ids in zip(work.drafts, session.write(cell.track, writers), strict=True):
            if draft.memory:
                draft.memory.write(cell, ids)
            new = self.tokenizer.decode_cell(ids, bar, score.ticks_per_beat, is_drum=track.is_drum)
            notes.append(in_the_manner_of(track, new))
            draft.written[cell.track] += notes[-1]
        return notes

    def _limited(self, limits: CellLimits, *, is_drum: bool) -> CellRules:
        key = (is_drum, *limits.key)
        if key not in self._cell_rules:
            if len(self._cell_rules) >= MAX_KEPT_RULES:  # for servers that run for a long time
                self._cell_rules.clear()
            self._cell_rules[key] = CellRules(self._tables[is_drum], limits)
        return self._cell_rules[key]

    # -- 4. settle ----------------------------------------------------------------------------------------------------

    def _settle(self, work: _Work, run: tuple[int, int]) -> None:
        """Fits the new notes of the run beside those that stay."""
        for draft in work.drafts:
            draft.settle(work.blanked, work.rules.single, run[1])

    # -- 5. hand on ---------------------------------------------------------------------------------------------------

    def _hand_on(self, work: _Work) -> list[Candidate]:
        whole, region = work.blanked.whole, work.blanked.ask.region
        return [Candidate(whole.with_fill(region, draft.fill), draft.fill) for draft in work.drafts]


def infill(
    score: Score,
    ask: Ask,
    checkpoint: Checkpoint | None = None,
    *,
    style: Style | str | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> list[Candidate]:
    """Rewrites the cells of a region, `ask.candidates` times.

    To fill more than once, or to choose the engine, keep an `Infiller`.

    Args:
        score: the song.
        ask: the cells, how many times, and within what limits (see `Ask`).
        checkpoint: None for the one that ships.
        style: from `find_style`, or a text: a name, a path, or a blend such as "mine:0.7,bach:0.3".
        on_progress: called after each cell.

    Raises:
        RequestError: the region is outside the score, a locked note is outside the region, or a request cannot be met.
    """
    checkpoint = checkpoint or load_checkpoint()
    found = find_style(style, checkpoint) if isinstance(style, str) else style
    return Infiller(checkpoint, style=found)(score, ask, on_progress=on_progress)
