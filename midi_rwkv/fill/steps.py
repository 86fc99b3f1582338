"""Filling with a model of steps: a run of bars is laid out, and written track by track, note by note."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from midi_rwkv.engine.engine import VectorEngine
from midi_rwkv.engine.heads import Heads
from midi_rwkv.engine.tables import StepTables
from midi_rwkv.model.config import SamplingConfig
from midi_rwkv.model.step_checkpoint import StepCheckpoint
from midi_rwkv.score.manner import in_the_manner_of
from midi_rwkv.score.score import Cell, Note, Region, Score
from midi_rwkv.style.style import Style
from midi_rwkv.tokens.attributes import MICRO_MAX, MICRO_MIN, MICROS_PER_POSITION
from midi_rwkv.tokens.layout import (
    DENSITY_LEVELS,
    EMPTY,
    POLYPHONY_LEVELS,
    CellAsk,
    Window,
    cell_steps,
    choose_window,
    prompt_steps,
)
from midi_rwkv.tokens.notes import AT, BarGrid, SongNotes, decode_cell
from midi_rwkv.tokens.references import Reference, RunIndex
from midi_rwkv.tokens.surroundings import CellSurroundings

from .ask import Ask
from .blank import Blanked, blank_cells
from .draft import Draft
from .encoder import Encoder
from .limits import CellLimits
from .note_writer import NoteWriter, nearest_micros
from .rules import Rules
from .session import Session
from .work import Work

LONGEST_RUN = 8  # bars that are written with one prompt, as in training
ON_GRID = 0.98  # share of a track's notes from which its fills lie on the grid, too
VELOCITY_WITHIN = 2  # half a level of the vocabulary
STEPS_A_CELL = 6  # header, control tokens and the like


@dataclass(frozen=True)
class _Run:
    """A run of bars in progress."""

    bars: tuple[int, int]  # half-open
    songs: list[SongNotes]  # as each candidate has it before the run
    indices: list[RunIndex]  # what each candidate can follow
    kept: dict[Cell, np.ndarray]  # locked notes
    session: Session


class StepWriting:
    """Writes the cells of a run of bars with a checkpoint."""

    def __init__(self, checkpoint: StepCheckpoint, engine: VectorEngine[Any], heads: Heads, style: Style):
        self.checkpoint, self.engine, self.heads, self.style = checkpoint, engine, heads, style
        self.vocabulary = checkpoint.vocabulary
        self.encoder = Encoder(self.vocabulary)
        self.tables = StepTables(checkpoint.weights, self.vocabulary.sizes)

    def blank(self, score: Score, ask: Ask) -> Blanked:
        """Empties the cells. Raises RequestError if the score has no such region."""
        return blank_cells(self.encoder, score, ask)

    def rules(self, blanked: Blanked) -> Rules:
        """The limits of each cell. Raises RequestError if a request cannot be met."""
        grid = self._grid(blanked)

        def ticks(t: int, b: int) -> np.ndarray:
            """A position's own tick or, where that is the next bar's already, the last of the cell that is near it."""
            own, end = grid.position_ticks(b), blanked.score.cell_ticks(t, b)[1]
            inside = own < end
            if not self._on_grid(blanked, t):
                inside[1:] |= own[:-1] + own[1:] < 2 * (end - 1)
            count = 1 + max(
                [
                    int(np.flatnonzero(inside[1:]).max(initial=-1)) + 1,
                    *(p for p, _ in blanked.places.get(Cell(t, b), ())),
                ]
            )
            usable: np.ndarray = np.minimum(own[:count], max(end - 1, own[0]))
            return usable

        return Rules(ticks, blanked)

    def drafts(self, blanked: Blanked) -> list[Draft]:
        """One for each candidate."""
        ask = blanked.ask
        return [
            Draft(np.random.default_rng((ask.seed, i)), {t: [] for t in ask.region.tracks})
            for i in range(ask.candidates)
        ]

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
        region = work.blanked.ask.region
        laid = self._lay_out(work, run)
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
        locked = [cell for cell in region.cells if blanked.ask.locked.get(cell.track)]
        return _Run(
            run,
            songs,
            [RunIndex(s, run, [(c.track, c.bar) for c in unknown]) for s in songs],
            self.encoder.cells(blanked.alone, locked, blanked.bars),
            Session(self.engine, (self.tables, self.heads), self.vocabulary, self.style, prompts),
        )

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
        open_end = run[1] > len(blanked.score.bars)
        window = Window(window.first, window.last, window.low, window.high, open_end=open_end)
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
        blanked, rules = work.blanked, work.rules
        track, is_drum = blanked.score.tracks[cell.track], blanked.score.tracks[cell.track].is_drum
        micros = self._micros(work, cell)
        writers, asked, around = [], [], []
        for draft, song, index in zip(work.drafts, run.songs, run.indices, strict=True):
            limits = rules.cell(cell, silent=work.is_silent(draft, cell))
            writers.append(self.writer(blanked, cell, limits, draft.rng, micros))
            kept = run.kept.get(cell, EMPTY)
            sources = self._sources(blanked, index, cell)
            around.append(CellSurroundings(self.vocabulary, index, cell.track, cell.bar, sources))
            ask = CellAsk(
                cell.track,
                cell.bar,
                kept,
                pitches=blanked.ask.sampling.pitch_range,
                controls=self._controls(rules.told(cell), len(kept), draft.rng, is_drum=is_drum),
                around=around[-1],
            )
            asked.append(cell_steps(self.vocabulary, song, ask, run.bars))
        program = run.songs[0].program(cell.track, cell.bar)
        run.session.write(asked, writers, program, (cell.bar, run.bars), around)
        found = []
        for draft, index, writer in zip(work.drafts, run.indices, writers, strict=True):
            new = np.array(writer.notes, np.int16).reshape(-1, 5)
            index.write(cell.track, cell.bar, _in_order(np.concatenate([new, run.kept.get(cell, EMPTY)])))
            notes = decode_cell(
                self.vocabulary,
                self._grid(blanked),
                new,
                bar=cell.bar,
                ticks_per_beat=blanked.score.ticks_per_beat,
                is_drum=is_drum,
            )
            found.append(in_the_manner_of(track, notes, VELOCITY_WITHIN))
            draft.written[cell.track] += found[-1]
        return found

    def writer(
        self,
        blanked: Blanked,
        cell: Cell,
        limits: CellLimits,
        rng: np.random.Generator,
        micros: np.ndarray,
    ) -> NoteWriter:
        """What chooses the notes of a cell."""
        is_drum = blanked.score.tracks[cell.track].is_drum
        return NoteWriter(limits, blanked.ask.sampling, rng, is_drum=is_drum, micros=micros)

    def _sources(self, blanked: Blanked, index: RunIndex, cell: Cell) -> list[Reference]:
        """What is followed: never the notes that the cell is to be written anew instead of, and what was just written
        only where the track has nothing else, since a fill that follows itself goes in circles."""
        if not blanked.ask.sampling.follow:
            return []
        replaced = _places(blanked.before.cell(cell.track, cell.bar))
        sources = index.sources(cell.track, cell.bar, written=False)
        return [r for r in sources if not np.array_equal(_places(r.notes), replaced)]

    def _controls(self, told: SamplingConfig, kept: int, rng: np.random.Generator, *, is_drum: bool) -> list[str]:
        """The control tokens of a wish; where it leaves a range, any value of it."""
        names = []
        if told.density is not None:
            low, high = (min(max(0, d - kept), DENSITY_LEVELS) for d in told.density)
            level = int(rng.integers(low, high + 1))
            names.append(f"ACBarNoteDensity_{level}" if level < DENSITY_LEVELS else f"ACBarNoteDensity_{level}+")
        if told.polyphony is not None and not is_drum:
            low, high = (min(p, POLYPHONY_LEVELS) for p in told.polyphony)
            names += [f"ACBarOnsetPolyphonyMin_{low}", f"ACBarOnsetPolyphonyMax_{high}"]
        return names

    def _micros(self, work: Work, cell: Cell) -> np.ndarray:
        """The micro-timings that may be chosen at each position of a cell: (positions, classes) bool.

        They stay inside the cell and nearer to their own position than to its neighbours, and never lie where a kept
        note sounds if the position itself doesn't.
        """
        score, grid, rules = work.blanked.score, self._grid(work.blanked), work.rules
        center, micro = rules.ticks(cell.track, cell.bar), np.arange(MICRO_MIN, MICRO_MAX + 1)
        units = MICROS_PER_POSITION * np.arange(len(center))[:, None] + micro
        ticks = grid.lines[cell.bar] + np.rint(units * grid.ticks[cell.bar]).astype(np.int64)
        start, end = score.cell_ticks(cell.track, cell.bar)
        out: np.ndarray = nearest_micros(len(center)) & (ticks >= max(0, start)) & (ticks < end)
        own = grid.position_ticks(cell.bar)[: len(center)]
        middle = own[:-1] + own[1:]
        out[1:] &= 2 * ticks[1:] > middle[:, None]
        out[:-1] &= 2 * ticks[:-1] <= middle[:, None]
        taken = rules.taken(cell.track, cell.bar, ticks.ravel())
        if taken.any():
            at_center = rules.taken(cell.track, cell.bar, center, handover=True)
            out &= ~(taken.reshape(*ticks.shape, 128) & ~at_center[:, None]).any(-1)
        if self._on_grid(work.blanked, cell.track):
            out &= (micro == 0) | ~out[:, [-MICRO_MIN]]
        out[~out.any(1), -MICRO_MIN] = True
        return out

    def _on_grid(self, blanked: Blanked, track: int) -> bool:
        """Whether what stays lies on the grid: of the track where it plays, else of the song."""
        song = blanked.song
        of_track = np.repeat(np.tile(np.arange(song.n_tracks) == track, song.n_bars), np.diff(song.offsets))
        micros = song.notes[of_track if of_track.any() else slice(None), AT.micro]
        return len(micros) > 0 and float(np.mean(micros == 0)) >= ON_GRID

    def _grid(self, blanked: Blanked) -> BarGrid:
        return BarGrid(self.vocabulary, blanked.bars, blanked.score.ticks_per_beat)


def _in_order(notes: np.ndarray) -> np.ndarray:
    return notes[np.lexsort((notes[:, AT.micro], notes[:, AT.pitch], notes[:, AT.position]))]


def _places(notes: np.ndarray) -> np.ndarray:
    return notes[:, [AT.position, AT.pitch]]
