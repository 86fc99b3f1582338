"""Samples the next token from logits, under a grammar that excludes every answer that does not parse or breaks a limit.

The grammar of a cell is `(Position (Pitch Velocity Duration)+)* FillBar_End`, with positions ascending and inside the
bar, and pitches ascending within a position; drums have no Duration. An id is a BPE token of several base tokens, so it
is allowed when its whole expansion fits where the cell stands, and the cell can still be finished after it. What an
id's expansion asks of its surroundings and leaves behind is tabulated once a vocabulary (`GrammarTables`), what a cell
allows once a cell (`CellRules`); a step then compares a few arrays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

import numpy as np

from midi_rwkv.errors import RequestError
from midi_rwkv.model.config import SamplingConfig
from midi_rwkv.tokens.prompt import DENSITY_LEVELS, POLYPHONY_LEVELS, PromptTokens
from midi_rwkv.tokens.tokenizer import Kind, Tokenizer

from .limits import CellLimits
from .recall import CellMemory

NO_INDEX = 10_000  # above every position and pitch


class Phase(IntEnum):
    """The kind of token that the cell has just read."""

    START = 0
    POSITION = 1
    PITCH = 2
    VELOCITY = 3
    NOTE = 4


NEXT_KINDS = {
    Phase.START: (Kind.POSITION,),
    Phase.POSITION: (Kind.PITCH,),
    Phase.PITCH: (Kind.VELOCITY,),
    Phase.VELOCITY: (Kind.DURATION,),
    Phase.NOTE: (Kind.POSITION, Kind.PITCH),
}


class GrammarTables:
    """Per id, for drums or for pitched tracks. `ids` lists those that can stand in a cell at all; the other arrays
    run along it.

    lead: what comes before the id's first Position (the rest of the group of notes that is open); tail: what comes
    after its last.
    """

    def __init__(self, tokenizer: Tokenizer, *, is_drum: bool):
        self.is_drum = is_drum
        with_duration = not is_drum or tokenizer.drum_has_duration
        wrong_pitch = "Pitch_" if is_drum and "PitchDrum_36" in tokenizer else "PitchDrum_"
        rows: list[tuple[int, ...]] = []
        pitch_sets: list[list[int]] = []
        self.notes_in: list[list[tuple[int, int]]] = []  # (position, pitch) of a row's notes; -1 where it is still open
        inner: list[tuple[int, int]] = []
        for i, expansion in enumerate(tokenizer.expansions):
            names = [tokenizer.base_names[b] for b in expansion]
            kinds = [int(tokenizer.base_kind[b]) for b in expansion]
            values = [int(tokenizer.base_value[b]) for b in expansion]
            if not expansion or Kind.OTHER in kinds or any(n.startswith(wrong_pitch) for n in names):
                continue
            row = _scan(kinds, values, with_duration=with_duration)
            if row is None or tokenizer.opens_word[i]:
                continue
            entry, exit_phase, positions, pitches, groups = row
            has_position = bool(positions)
            rows.append(
                (
                    i,
                    entry,
                    exit_phase,
                    positions[0] if has_position else -1,
                    positions[-1] if has_position else -1,
                    next((p for g, p in pitches if g == 0), -1),  # first pitch of the lead
                    pitches[-1][1]
                    if pitches and pitches[-1][0] == len(positions)
                    else -1,  # last pitch of the open group
                    groups[0],
                    groups[-1],
                    sum(groups),
                )
            )
            pitch_sets.append([p for _, p in pitches])
            self.notes_in.append([(positions[g - 1] if g else -1, p) for g, p in pitches])
            between = groups[1:-1] if has_position else []
            inner.append((min(between, default=NO_INDEX), max(between, default=0)))
        columns = np.array(rows, np.int32).T
        (self.ids, self.entry, self.exit, self.first_position, self.last_position, self.lead_pitch, self.last_pitch) = (
            columns[:7]
        )
        self.lead_notes, self.tail_notes, self.notes = columns[7:]
        self.has_position = self.last_position >= 0
        self.inner_min, self.inner_max = np.array(inner, np.int32).T
        self.uses = np.zeros((len(rows), 128), bool)
        self.lead_uses = np.zeros((len(rows), 128), bool)  # of the lead alone
        placed: list[tuple[int, int, int]] = []  # (row, position, pitch) of all other notes
        for k, notes in enumerate(self.notes_in):
            self.uses[k, pitch_sets[k]] = True
            self.lead_uses[k, [pitch for position, pitch in notes if position < 0]] = True
            placed += [(k, position, pitch) for position, pitch in notes if position >= 0]
        self.placed = np.array(placed, np.int64).reshape(-1, 3)
        single = (self.entry == Kind.PITCH) & ~self.has_position & (self.notes == 1)
        self.sayable = self.uses[single].any(0)  # (128,) bool: pitches that the vocabulary has


def _scan(
    kinds: list[int], values: list[int], *, with_duration: bool
) -> tuple[int, int, list[int], list[tuple[int, int]], list[int]] | None:
    """Walk one expansion: (first kind, phase after it, positions, (group, pitch) of each note, notes per group); None
    if it can never be part of a cell."""
    before = {
        Kind.POSITION: Phase.NOTE,
        Kind.PITCH: Phase.NOTE,
        Kind.VELOCITY: Phase.PITCH,
        Kind.DURATION: Phase.VELOCITY,
    }
    phase = before[Kind(kinds[0])]
    positions: list[int] = []
    pitches: list[tuple[int, int]] = []
    groups = [0]
    for kind, value in zip(kinds, values, strict=True):
        if kind not in NEXT_KINDS[phase] or (kind == Kind.DURATION and not with_duration):
            return None
        if kind == Kind.POSITION:
            if (positions and value <= positions[-1]) or (positions and groups[-1] == 0):
                return None
            positions.append(value)
            groups.append(0)
            phase = Phase.POSITION
        elif kind == Kind.PITCH:
            if pitches and pitches[-1][0] == len(positions) and value <= pitches[-1][1]:
                return None
            pitches.append((len(positions), value))
            groups[-1] += 1
            phase = Phase.PITCH
        elif kind == Kind.VELOCITY:
            phase = Phase.VELOCITY if with_duration else Phase.NOTE
        else:
            phase = Phase.NOTE
    return kinds[0], phase, positions, pitches, groups


class PhaseRows(NamedTuple):
    """What may follow in one phase, as far as that does not depend on the place: rows of the tables, their ids, and
    the first position and the first pitch of the lead (NO_INDEX where there is none), which must lie above what
    stands there."""

    rows: np.ndarray
    ids: np.ndarray
    first_position: np.ndarray
    lead_pitch: np.ndarray


@dataclass(frozen=True)
class CellRules:
    """The rows that one cell allows, for one vocabulary. Raises ValueError if no cell is possible."""

    tables: GrammarTables
    limits: CellLimits
    by_phase: dict[Phase, PhaseRows] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if reason := self.limits.conflict():
            raise RequestError(reason)
        t, allowed, (low, high) = self.tables, self.limits.allowed, self.limits.polyphony
        static = ~(t.lead_uses & ~allowed.any(0)).any(1) & (t.last_position < len(allowed))
        static &= (t.inner_min >= low) & (t.inner_max <= high)
        row, position, pitch = t.placed.T
        inside = position < len(allowed)
        static[row[inside][~allowed[position[inside], pitch[inside]]]] = False
        by_phase = {}
        for phase in Phase:
            rows = np.flatnonzero(static & np.isin(t.entry, NEXT_KINDS[phase]))
            first, lead = t.first_position[rows], t.lead_pitch[rows]
            by_phase[phase] = PhaseRows(
                rows, t.ids[rows], np.where(first < 0, NO_INDEX, first), np.where(lead < 0, NO_INDEX, lead)
            )
        object.__setattr__(self, "by_phase", by_phase)


class CellState:
    """The progress of writing one cell."""

    def __init__(self, rules: CellRules):
        self.rules = rules
        self.locked = list(rules.limits.locked)  # those still to be written
        self.phase = Phase.START
        self.position = self.last_pitch = -1
        self.struck = self.notes = 0  # notes at this position, in this cell

    def allowed(self) -> tuple[np.ndarray, np.ndarray, bool]:
        """(rows of `tables` that may come next, their ids, whether the cell may end)."""
        limits, t = self.rules.limits, self.rules.tables
        rows, ids, first_position, lead_pitch = self.rules.by_phase[self.phase]
        low, fewest = limits.polyphony[0], limits.density[0]
        ok = first_position > self.position
        ok &= lead_pitch > self.last_pitch
        if limits.varied and self.position >= 0:
            ok &= ~(t.lead_uses[rows] & ~limits.allowed[self.position]).any(1)
        if not limits.trivial:
            moves = t.has_position[rows]
            lead = self.struck + t.lead_notes[rows]
            if self.position >= 0:
                ok &= ~moves | ((lead >= low) & (lead <= limits.polyphony[1]))
            pitch = np.where((t.last_pitch[rows] >= 0) | moves, t.last_pitch[rows], self.last_pitch)
            ok &= limits.can_finish(
                np.where(moves, t.last_position[rows], self.position),
                pitch,
                np.where(moves, t.tail_notes[rows], lead),
                self.notes + t.notes[rows],
            )
        if self.locked:
            ok = self._comes_by(rows, ok)
        complete = self.phase == Phase.START or (self.phase == Phase.NOTE and self.struck >= low)
        return rows[ok], ids[ok], complete and self.notes >= fewest and not self.locked

    def _comes_by(self, rows: np.ndarray, ok: np.ndarray) -> np.ndarray:
        """Which of the rows that are `ok` leave out none of the locked notes."""
        t = self.rules.tables
        moves = t.has_position[rows]
        position = np.where(moves, t.last_position[rows], self.position)
        pitch = np.where((t.last_pitch[rows] >= 0) | moves, t.last_pitch[rows], self.last_pitch)
        reach = position * 128 + pitch
        (first_position, first_pitch), *_ = self.locked
        short_of_it = reach < first_position * 128 + first_pitch
        out = ok & short_of_it
        for k in np.flatnonzero(ok & ~short_of_it & t.uses[rows, first_pitch]).tolist():
            notes = {(self.position if p < 0 else p, q) for p, q in t.notes_in[rows[k]]}
            out[k] = all((p, q) in notes for p, q in self.locked if p * 128 + q <= reach[k])
        return out

    def take(self, row: int) -> None:
        """Read one id, given as a row of `tables`."""
        t = self.rules.tables
        self.phase = Phase(int(t.exit[row]))
        if t.has_position[row]:
            self.position, self.struck = int(t.last_position[row]), int(t.tail_notes[row])
            self.last_pitch = int(t.last_pitch[row])
        else:
            self.struck += int(t.lead_notes[row])
            if t.last_pitch[row] >= 0:
                self.last_pitch = int(t.last_pitch[row])
        self.notes += int(t.notes[row])
        self.locked = [x for x in self.locked if x > (self.position, self.last_pitch)]


def draw(logits: np.ndarray, config: SamplingConfig, rng: np.random.Generator) -> int:
    """An index sampled from logits (n,) with temperature, then min-p, then top-p.

    Min-p drops what is less probable than that share of the best; top-p keeps the smallest set with that probability.
    """
    scaled = (logits - logits.max()) / np.float32(config.temperature)
    # The best is exp(0) = 1. Min-p leaves only few, and only these are sorted.
    # Methods throughout: numpy's functions of the same names take twice as long for arrays as short as these.
    kept = (scaled >= math.log(config.min_p)).nonzero()[0] if config.min_p > 0 else np.arange(len(logits))
    p = np.exp(scaled[kept], dtype=np.float64)
    if config.top_p < 1:
        order = (-p).argsort()
        kept, total = kept[order], p[order].cumsum()
        total = total[: int(total.searchsorted(config.top_p * total[-1])) + 1]
    else:
        total = p.cumsum()
    return int(kept[min(int(total.searchsorted(rng.random() * total[-1], side="right")), len(total) - 1)])


class CellWriter:
    """Chooses the tokens of one cell for one candidate: control tokens first, if requested, then notes, then the end.

    Feed it the logits for the next token (`choose`) until `done`; `ids` are the tokens of the notes.
    """

    def __init__(
        self,
        rules: CellRules,
        tokens: PromptTokens,
        config: SamplingConfig,
        rng: np.random.Generator,
        *,
        controls: bool = True,
        memory: CellMemory | None = None,
    ):
        """memory: what the song says elsewhere, mixed in as far as `config.recall` says."""
        self.memory = memory if config.recall else None
        self.state, self.tokens, self.config, self.rng = CellState(rules), tokens, config, rng
        self.ids: list[int] = []
        self.done = False
        self._controls: list[tuple[str, list[int]]] = []
        if controls and config.polyphony is not None and not rules.tables.is_drum:
            low, high = (min(p, POLYPHONY_LEVELS) for p in config.polyphony)
            self._controls += [
                ("min", tokens.polyphony_min[low - 1 : high]),
                ("max", tokens.polyphony_max[low - 1 : high]),
            ]
        if controls and config.density is not None:
            low, high = (min(d, DENSITY_LEVELS) for d in config.density)
            self._controls.append(("density", tokens.density[low : high + 1]))

    def choose(self, logits: np.ndarray) -> int:
        """The next token to feed to the model, from logits (vocabulary,)."""
        if self._controls:
            name, levels = self._controls.pop(0)
            choice = draw(logits[levels], self.config, self.rng)
            if name == "min":  # the most struck together is no less than the fewest
                self._controls[0] = ("max", self._controls[0][1][choice:])
            return levels[choice]
        if self.memory:
            logits = self.memory.mix(logits, self.config.recall)
        rows, ids, can_end = self.state.allowed()
        if can_end:
            ids = np.append(ids, self.tokens.fill_end)
        choice = draw(logits[ids], self.config, self.rng)
        if choice == len(rows):
            self.done = True
            return self.tokens.fill_end
        self.state.take(int(rows[choice]))
        self.ids.append(int(ids[choice]))
        if self.memory:
            self.memory.take(self.ids[-1])
        return self.ids[-1]
