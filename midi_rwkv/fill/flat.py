"""Filling with a model of tokens: prompts of prompt.py, cells written token by token."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from midi_rwkv.engine.engine import TokenEngine
from midi_rwkv.errors import RequestError
from midi_rwkv.model.checkpoint import Checkpoint
from midi_rwkv.score.manner import in_the_manner_of
from midi_rwkv.score.score import Bar, Cell, Note, Region, Score
from midi_rwkv.style.style import Style
from midi_rwkv.tokens.prompt import ORDERS, Prompt, PromptTokens, Shown, build_prompt, prompt_budget
from midi_rwkv.tokens.tokenizer import TokenizedSong, Tokenizer

from .ask import Ask
from .blank import Blanked, blank_cells
from .draft import Draft
from .limits import CellLimits, Place
from .recall import SongMemory
from .rules import Rules
from .sample import CellRules, CellWriter, GrammarTables
from .session import Session
from .work import Work

VELOCITY_WITHIN = 4  # half a level of the vocabulary
MAX_KEPT_RULES = 256  # rules of cells, some 0.1 MiB each


class TokenEncoder:
    """An `Encoder`."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer

    def encode(self, score: Score, bars: Sequence[Bar]) -> TokenizedSong:
        return self.tokenizer.encode(score, bars)

    def emptied(self, song: TokenizedSong, cells: Collection[Cell]) -> TokenizedSong:
        return song.with_cells({cell: [] for cell in cells})

    def cells(self, score: Score, cells: Collection[Cell], bars: Sequence[Bar]) -> dict[Cell, list[int]]:
        """The tokens of some cells of a score, as from `Tokenizer.encode`."""
        texts: dict[Cell, str] = {}
        for t in sorted({cell.track for cell in cells}):
            track = score.tracks[t]
            notes = np.array(track.notes, np.int64).reshape(-1, 4)
            lead = score.lead_ticks(track)
            of_track = self.tokenizer.cell_texts(notes, bars, score.ticks_per_beat, is_drum=track.is_drum, lead=lead)
            texts.update((cell, of_track[cell.bar]) for cell in cells if cell.track == t)
        return dict(zip(texts, self.tokenizer.encode_cells(list(texts.values())), strict=True))

    def places(self, score: Score, cells: Collection[Cell], bars: Sequence[Bar]) -> dict[Cell, list[Place]]:
        found = {}
        for cell, ids in self.cells(score, cells, bars).items():
            position, pitch, _ = self.tokenizer.places(np.array(ids, np.int64))
            if len(pitch):
                found[cell] = list(zip(position.tolist(), pitch.tolist(), strict=True))
        return found


class TokenWriting:
    """A `Writing` with a checkpoint of tokens."""

    def __init__(self, checkpoint: Checkpoint, engine: TokenEngine[Any], style: Style):
        if checkpoint.prompt not in ORDERS:
            raise RequestError(
                f"{checkpoint.path}: prompt format {checkpoint.prompt!r} cannot be filled with; use a checkpoint with "
                f"one of {', '.join(ORDERS)}"
            )
        self.checkpoint, self.engine, self.style = checkpoint, engine, style
        self.tokenizer = checkpoint.tokenizer
        self.encoder = TokenEncoder(self.tokenizer)
        self.tokens = PromptTokens(self.tokenizer)
        self._tables = {is_drum: GrammarTables(self.tokenizer, is_drum=is_drum) for is_drum in (False, True)}
        self._cell_rules: dict[tuple[object, ...], CellRules] = {}

    def blank(self, score: Score, ask: Ask) -> Blanked[TokenizedSong]:
        return blank_cells(self.encoder, score, ask)

    def rules(self, blanked: Blanked[TokenizedSong]) -> Rules:
        sayable = {is_drum: tables.sayable for is_drum, tables in self._tables.items()}

        def ticks(t: int, b: int) -> np.ndarray:
            score, bar = blanked.score, blanked.score.bar(b)
            step = self.tokenizer.ticks_per_position(bar.denominator, score.ticks_per_beat)
            lead = score.lead_ticks(score.tracks[t])
            positions = np.arange(self.tokenizer.positions_in(bar, score.ticks_per_beat, lead))
            found: np.ndarray = bar.start_ticks + np.rint(positions * step).astype(np.int64)  # as in `decode_cell`
            return found

        return Rules(ticks, blanked, sayable)

    def drafts(self, blanked: Blanked[TokenizedSong]) -> list[Draft]:
        ask, memory = blanked.ask, self.memory(blanked)
        return [
            Draft(
                np.random.default_rng((ask.seed, i)),
                memory.fork() if memory else None,
                {t: [] for t in ask.region.tracks},
            )
            for i in range(ask.candidates)
        ]

    def memory(self, blanked: Blanked[TokenizedSong]) -> SongMemory | None:
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

    def runs(self, region: Region) -> list[tuple[int, int]]:
        return region.bar_runs()

    def write(self, work: Work, run: tuple[int, int]) -> None:
        prompts = self._lay_out(work, run)
        session = Session(self.engine, self.tokens, self.style, prompts)
        for number, plan in enumerate(prompts[0].bars):
            session.enter(number)
            for t in plan.targets:
                cell = Cell(t, plan.bar)
                work.on_cell(cell, self._write_cell(work, session, cell))

    def _lay_out(self, work: Work, run: tuple[int, int]) -> list[Prompt]:
        """One prompt per candidate for a half-open run of bars; the same object while their songs are the same."""
        blanked = work.blanked
        if not any(draft.fill for draft in work.drafts):
            return [self._prompt(blanked, blanked.song, run)] * len(work.drafts)
        prompts = []
        for draft in work.drafts:
            cells = self.encoder.cells(draft.score(blanked.blank), blanked.ask.region.cells, blanked.bars)
            prompts.append(self._prompt(blanked, blanked.song.with_cells(cells), run))
        return prompts

    def _prompt(self, blanked: Blanked[TokenizedSong], song: TokenizedSong, run: tuple[int, int]) -> Prompt:
        first, last = run
        targets = {b: blanked.ask.region.tracks_in(b) for b in range(first, last)}
        shown = Shown(
            masked={cell for cell in blanked.ask.region.cells if cell.bar >= last},
            budget=prompt_budget(song, targets, self.checkpoint.context),
            context_bars=blanked.ask.context_bars,
            open_end=last > len(blanked.score.bars),
        )
        return build_prompt(self.tokens, song, targets, shown, order=self.checkpoint.prompt)

    def _write_cell(self, work: Work, session: Session, cell: Cell) -> list[list[Note]]:
        """Writes one cell. Returns its notes per candidate."""
        score, rules = work.blanked.score, work.rules
        track, bar = score.tracks[cell.track], score.bar(cell.bar)
        told = rules.told(cell)
        writers = []
        for draft in work.drafts:
            limits = self._limited(rules.cell(cell, silent=work.is_silent(draft, cell)), is_drum=track.is_drum)
            memory = draft.memory.cell(cell) if draft.memory else None
            writers.append(CellWriter(limits, self.tokens, told, draft.rng, memory=memory))
        notes = []
        for draft, ids in zip(work.drafts, session.write(cell.track, writers), strict=True):
            if draft.memory:
                draft.memory.write(cell, ids)
            new = self.tokenizer.decode_cell(ids, bar, score.ticks_per_beat, is_drum=track.is_drum)
            notes.append(in_the_manner_of(track, new, VELOCITY_WITHIN))
            draft.written[cell.track] += notes[-1]
        return notes

    def _limited(self, limits: CellLimits, *, is_drum: bool) -> CellRules:
        key = (is_drum, *limits.key)
        if key not in self._cell_rules:
            if len(self._cell_rules) >= MAX_KEPT_RULES:  # for servers that run for a long time
                self._cell_rules.clear()
            self._cell_rules[key] = CellRules(self._tables[is_drum], limits)
        return self._cell_rules[key]
