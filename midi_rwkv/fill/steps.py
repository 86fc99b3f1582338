"""Filling with a model of steps: a run of bars is laid out, and written track by track, note by note."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from midi_rwkv.engine.engine import VectorEngine
from midi_rwkv.engine.heads import Heads
from midi_rwkv.engine.tables import StepTables
from midi_rwkv.errors import RequestError
from midi_rwkv.model.config import SamplingConfig
from midi_rwkv.model.step_checkpoint import StepCheckpoint
from midi_rwkv.score.manner import in_the_manner_of, with_own_durations
from midi_rwkv.score.score import Cell, Note, Region, Score
from midi_rwkv.style.style import Style
from midi_rwkv.tokens.attributes import MICROS_PER_POSITION
from midi_rwkv.tokens.layout import (
    DENSITY_LEVELS,
    EMPTY,
    POLYPHONY_LEVELS,
    CellAsk,
    cell_steps,
    choose_window,
    prompt_steps,
)
from midi_rwkv.tokens.memory import PieceMemory
from midi_rwkv.tokens.notes import AT, BarGrid, SongNotes, decode_cell, duration_edges
from midi_rwkv.tokens.references import RunIndex
from midi_rwkv.tokens.surroundings import CellSurroundings

from .ask import Ask
from .blank import Blanked, blank_cells
from .draft import Draft
from .encoder import Encoder
from .fingerprint import FILE, Fingerprint, bar_starts, line_of, load_fingerprint, make_fingerprint
from .limits import CellLimits
from .micro_timing import micros_of, on_grid
from .note_writer import NoteWriter
from .part import Part
from .plan import CellPlan, PlannedWriter
from .plans import Plans, make_plans
from .quotes import QuoteGuard, longest_run, refusal
from .ranking import to_write
from .rules import Rules
from .session import Session, Writer
from .sources import Sources
from .work import Work

LONGEST_RUN = 16  # bars that are written with one prompt, as in training
VELOCITY_WITHIN = 2  # half a level of the vocabulary
STEPS_A_CELL = 6  # header, control tokens and the like


@dataclass(frozen=True)
class _Run:
    """A run of bars in progress."""

    bars: tuple[int, int]  # half-open
    songs: list[SongNotes]  # as each candidate has it before the run
    indices: list[RunIndex]  # what each candidate can follow
    sources: Sources  # and what of it is asked for
    memories: list[PieceMemory | None]  # of the composer's pieces, by candidate
    session: Session


class StepWriting:
    """Writes the cells of a run of bars with a checkpoint."""

    keeps_habits = True  # whether fills keep to what their track does, and to how busy it was there

    def __init__(
        self,
        checkpoint: StepCheckpoint,
        engine: VectorEngine[Any],
        heads: Heads,
        style: Style,
        make: Callable[[Mapping[str, np.ndarray]], tuple[VectorEngine[Any], Heads]],
    ):
        """make: an engine and heads of other weights, for a style that changes them."""
        self.checkpoint, self.engine, self.heads, self.style, self.make = checkpoint, engine, heads, style, make
        self._changed: tuple[Style, Writer] | None = None
        self._forbidden: tuple[Style, Fingerprint] | None = None
        self.vocabulary = checkpoint.vocabulary
        self.encoder = Encoder(self.vocabulary)
        self.tables = StepTables(checkpoint.weights, self.vocabulary.sizes)

    def writer_of_style(self) -> Writer:
        """What writes the cells, with the style's changes."""
        if not self.style.pairs:
            return Writer(self.engine, self.tables, self.heads)
        if self._changed is None or self._changed[0] is not self.style:
            weights = self.style.applied(self.checkpoint.weights)
            engine, heads = self.make(weights)
            self._changed = self.style, Writer(engine, StepTables(weights, self.vocabulary.sizes), heads)
        return self._changed[1]

    def blank(self, score: Score, ask: Ask) -> Blanked:
        """Empties the cells. Raises RequestError if the score has no such region, or CheckpointError if quotes are
        forbidden and the checkpoint has no fingerprint of its training music."""
        if ask.quotes is not None:
            self.fingerprint()
        return blank_cells(self.encoder, score, ask)

    def fingerprint(self) -> Fingerprint:
        """That of the training music and of the style's pieces. Raises CheckpointError if the checkpoint has none."""
        if self._forbidden is None or self._forbidden[0] is not self.style:
            of_training = load_fingerprint(self.checkpoint.path / FILE)
            own = [song for song, _ in self.style.pieces]
            self._forbidden = self.style, of_training.joined_with(make_fingerprint(own)) if own else of_training
        return self._forbidden[1]

    def rules(self, blanked: Blanked) -> Rules:
        """The limits of each cell. Raises RequestError if a request cannot be met."""
        grid = self._grid(blanked)

        def ticks(t: int, b: int) -> np.ndarray:
            """A position's own tick or, where that is the next bar's already, the last of the cell that is near it."""
            own, end = grid.position_ticks(b), blanked.score.cell_ticks(t, b)[1]
            inside = own < end
            if not on_grid(blanked, t):
                inside[1:] |= own[:-1] + own[1:] < 2 * (end - 1)
            count = 1 + max(
                [
                    int(np.flatnonzero(inside[1:]).max(initial=-1)) + 1,
                    *(p for p, _ in blanked.places.get(Cell(t, b), ())),
                ]
            )
            usable: np.ndarray = np.minimum(own[:count], max(end - 1, own[0]))
            return usable

        return Rules(ticks, blanked, self.style.kind, as_busy=self.keeps_habits)

    def plans(self, blanked: Blanked, rules: Rules) -> Plans:
        """What is kept of the notes to write. Raises RequestError if a request cannot be met."""
        return make_plans(blanked, rules, self.encoder, self._grid(blanked))

    def drafts(self, blanked: Blanked) -> list[Draft]:
        """One for each candidate, and those that are written so that the best can be shown."""
        return [Draft(np.random.default_rng((blanked.ask.seed, i))) for i in range(to_write(blanked.ask))]

    def runs(self, region: Region) -> list[tuple[int, int]]:
        """The bars, half-open, that one prompt is made for."""
        out: list[tuple[int, int]] = []
        for low, high in region.bar_runs():
            pieces = -(-(high - low) // LONGEST_RUN)
            edges = np.linspace(low, high, pieces + 1).round().astype(int).tolist()
            out += pairwise(edges)
        return out

    def write(self, work: Work, run: tuple[int, int]) -> None:
        """Writes the cells of a run into the drafts."""
        region, laid = work.blanked.ask.region, self._lay_out(work, run)
        for t in [t for t in region.tracks if any(lo < run[1] and hi > run[0] for lo, hi in region.bar_runs(t))]:
            for b in range(*run):
                if (cell := Cell(t, b)) in region.cells:
                    work.on_cell(cell, self._write_cell(work, laid, cell))

    # -- lay out ------------------------------------------------------------------------------------------------------

    def _lay_out(self, work: Work, run: tuple[int, int]) -> _Run:
        """The prompts of a run of bars, read; and what each candidate can refer to."""
        blanked = work.blanked
        region, song = blanked.ask.region, blanked.song
        hidden = {cell for cell in region.cells if cell.bar >= run[0]}
        unknown = hidden | self._unknown(blanked, run)
        if any(draft.fill for draft in work.drafts):
            written = [cell for cell in region.cells if cell.bar < run[0]]
            songs = []
            for draft in work.drafts:
                cells = self.encoder.cells(draft.score(blanked.blank), written, blanked.bars)
                songs.append(song.with_cells({(c.track, c.bar): notes for c, notes in cells.items()}))
            prompts = [self._prompt(blanked, s, run, hidden) for s in songs]
        else:
            songs = [song] * len(work.drafts)
            prompts = [self._prompt(blanked, song, run, hidden)] * len(work.drafts)
        indices = [RunIndex(s, run, [(c.track, c.bar) for c in unknown]) for s in songs]
        return _Run(
            run,
            songs,
            indices,
            Sources(blanked, self.encoder, work.rules.chords, self._grid(blanked), as_they_are=not self.keeps_habits),
            [self._memory(index) for index in indices],
            Session((self.engine, self.tables), self.writer_of_style(), self.vocabulary, self.style, prompts),
        )

    def _memory(self, index: RunIndex) -> PieceMemory | None:
        """What is remembered of the style's pieces."""
        if not self.style.cells:
            return None
        cells, weights = zip(*self.style.cells, strict=True)
        return PieceMemory(cells, index, [w / max(weights) for w in weights])

    def _prompt(self, blanked: Blanked, song: SongNotes, run: tuple[int, int], hidden: set[Cell]) -> np.ndarray:
        """What is read before the first cell: (n, columns)."""
        ask = blanked.ask
        visible = np.ones((song.n_tracks, song.n_bars), bool)
        for t, b in hidden:
            visible[t, b] = False
        asked = [t for t in ask.region.tracks if any((t, b) in ask.region.cells for b in range(*run))]
        cells = sum((t, b) in ask.region.cells for t in asked for b in range(*run))
        counts = song.counts[:, asked]
        usual = float(np.mean(counts[counts > 0])) if (counts > 0).any() else 8.0
        reach = ask.context_bars
        window = choose_window(
            song,
            visible,
            run,
            budget=self.checkpoint.context - round(cells * (2 * usual + STEPS_A_CELL)),
            before=reach,
            after=reach,
        )
        window = replace(window, open_end=run[1] > len(blanked.score.bars))
        return prompt_steps(self.vocabulary, song, window, asked, [(c.track, c.bar) for c in hidden])

    def _unknown(self, blanked: Blanked, run: tuple[int, int]) -> set[Cell]:
        """Cells that are not followed: beyond the bars of context, and after the song's end."""
        song, reach = blanked.song, blanked.ask.context_bars
        low, high = 0, len(blanked.score.bars)
        if reach is not None:
            low, high = max(low, run[0] - reach), min(high, run[1] + reach)
        bars = [b for b in range(song.n_bars) if not low <= b < high]
        return {Cell(t, b) for b in bars for t in range(song.n_tracks)} - {
            cell for cell in blanked.ask.region.cells if cell.bar < run[0]
        }

    # -- write a cell -------------------------------------------------------------------------------------------------

    def _write_cell(self, work: Work, run: _Run, cell: Cell) -> list[list[Note]]:
        """Writes one cell. Returns its notes per candidate."""
        blanked, rules, plan = work.blanked, work.rules, work.plans.of(cell)
        track, is_drum = blanked.score.tracks[cell.track], blanked.score.tracks[cell.track].is_drum
        grid, sources, habits = self._grid(blanked), run.sources, work.habits.of(cell.track)
        micros, kept = micros_of(blanked, rules, grid, cell), blanked.kept.get(cell, EMPTY)
        told = rules.told(cell) if plan is None else plan.told(blanked.ask.sampling)
        density = told.density if plan is None and isinstance(told.density, tuple) else None
        writers, asked, around = [], [], []
        for draft, song, index, memory in zip(work.drafts, run.songs, run.indices, run.memories, strict=True):
            limits = rules.cell(cell, silent=work.is_silent(draft, cell), held=work.is_held(draft, cell))
            writers.append(self.writer(blanked, cell, limits, draft.rng, micros, plan))
            if habits and self.keeps_habits:
                writers[-1].keep_to(habits, *work.habits.run_before(index, cell))
            if blanked.ask.quotes is not None:
                writers[-1].guard = self._guard(blanked, index, cell, blanked.ask.quotes)
            recalled = memory.find(*cell) if memory else ()
            followed = sources.of(index, cell, draft.rng, density)
            around.append(CellSurroundings(self.vocabulary, index, *cell, followed, recalled))
            ask = CellAsk(
                cell.track,
                cell.bar,
                kept,
                span=_span(limits.allowed, blanked.part),
                pitches=rules.told_pitches(cell.track),
                controls=self._controls(told, len(blanked.places.get(cell, ())), draft.rng, is_drum=is_drum),
                chords=sources.told(cell),
                around=around[-1],
                part=rules.part_of(cell),
            )
            asked.append(cell_steps(self.vocabulary, song, ask, run.bars))
        program = run.songs[0].program(cell.track, cell.bar)
        run.session.write(asked, writers, program, (cell.bar, run.bars), around)
        found = []
        for i, (draft, index, writer) in enumerate(zip(work.drafts, run.indices, writers, strict=True)):
            new = np.array(writer.notes, np.int16).reshape(-1, 5)
            draft.nats += writer.nats
            draft.choices += len(new) + 1
            index.write(cell.track, cell.bar, _in_order(np.concatenate([new, kept])))
            notes = decode_cell(
                self.vocabulary,
                grid,
                new,
                bar=cell.bar,
                ticks_per_beat=blanked.score.ticks_per_beat,
                is_drum=is_drum,
            )
            notes = in_the_manner_of(track, notes, VELOCITY_WITHIN)
            if not is_drum:
                edges = duration_edges(self.vocabulary, blanked.score.ticks_per_beat)
                notes = with_own_durations(track, notes, edges, draft.rng)
            notes = work.plans.restored(cell, notes)
            may_begin, single = partial(_may_begin, rules, cell, grid, writer), cell.track in rules.single
            notes = work.feel.play(cell, notes, i, grid, may_begin, single=single)
            found.append(rules.chords.clipped(track, notes) if rules.chords else notes)
            draft.written[cell.track] += found[-1]
        return found

    def writer(
        self,
        blanked: Blanked,
        cell: Cell,
        limits: CellLimits,
        rng: np.random.Generator,
        micros: np.ndarray,
        plan: CellPlan | None = None,
    ) -> NoteWriter:
        """What chooses the notes of a cell."""
        is_drum, sampling = blanked.score.tracks[cell.track].is_drum, blanked.ask.sampling
        if plan is not None:
            return PlannedWriter(plan, limits, sampling, rng, is_drum=is_drum, micros=micros)
        return NoteWriter(limits, sampling, rng, is_drum=is_drum, micros=micros)

    def _guard(self, blanked: Blanked, index: RunIndex, cell: Cell, quotes: int) -> QuoteGuard:
        """What keeps a candidate's cell from quoting so many notes of the training music or of the style's pieces."""
        own = [c for c in blanked.ask.region.cells if c.track == cell.track]
        cells = {(c.track, c.bar): index.cell(*c) if c.bar < cell.bar else blanked.kept.get(c, EMPTY) for c in own}
        song = index.song.with_cells(cells)
        return QuoteGuard(self.fingerprint(), quotes, line_of(song, cell.track), int(bar_starts(song)[cell.bar]))

    def check_quotes(self, blanked: Blanked, fills: Mapping[int, Sequence[Note]]) -> None:
        """Raises RequestError if notes that were moved or left out in the end made a run that is forbidden."""
        ask = blanked.ask
        if ask.quotes is None:
            return
        song = self.encoder.encode(blanked.score.with_fill(blanked.region, fills), blanked.bars)
        kept = {cell: blanked.kept.get(cell, EMPTY) for cell in ask.region.cells}
        if any(run.around >= ask.quotes for run in longest_run(self.fingerprint(), song, kept).values()):
            raise RequestError(refusal(ask.quotes))

    def _controls(self, told: SamplingConfig, kept: int, rng: np.random.Generator, *, is_drum: bool) -> list[str]:
        """The control tokens of a wish; where it leaves a range, any value of it."""
        names = []
        if isinstance(told.density, tuple):
            low, high = (min(max(0, d - kept), DENSITY_LEVELS) for d in told.density)
            level = int(rng.integers(low, high + 1))
            names.append(f"ACBarNoteDensity_{level}" if level < DENSITY_LEVELS else f"ACBarNoteDensity_{level}+")
        if told.polyphony is not None and not is_drum:
            low, high = (min(p, POLYPHONY_LEVELS) for p in told.polyphony)
            names += [f"ACBarOnsetPolyphonyMin_{low}", f"ACBarOnsetPolyphonyMax_{high}"]
        return names

    def _grid(self, blanked: Blanked) -> BarGrid:
        return BarGrid(self.vocabulary, blanked.bars, blanked.score.ticks_per_beat)


def _in_order(notes: np.ndarray) -> np.ndarray:
    return notes[np.lexsort((notes[:, AT.micro], notes[:, AT.pitch], notes[:, AT.position]))]


def _span(allowed: np.ndarray, part: Part) -> tuple[int, int] | None:
    """The positions of a cell that are written in, half-open, where a part of it is."""
    at = np.flatnonzero(allowed.any(1))
    return None if part.spans is None or not len(at) else (int(at[0]), int(at[-1]) + 1)


def _may_begin(rules: Rules, cell: Cell, grid: BarGrid, writer: NoteWriter, tick: int, pitch: int) -> bool:
    """Whether a note that was written may begin at another tick of its cell."""
    start, end = rules.score.cell_ticks(*cell)
    position, micro = (int(x[0]) for x in grid.place(np.array([cell.bar]), np.array([tick])))
    if position and micro < 1 - MICROS_PER_POSITION // 2:  # halfway between two positions, where the model writes none
        micro += 1
    if writer.guard is not None and (position, pitch) not in {(n[0], n[2]) for n in writer.notes}:
        return False  # what is forbidden depends on the positions that were chosen
    return (
        max(0, start) <= tick < end
        and writer.may_begin(position, micro, pitch)
        and not rules.taken(*cell, np.array([tick]))[0, pitch]
    )
