"""One cell, written note by note under its limits: what the heads may choose, attribute by attribute.

Positions rise and stay inside the bar, pitches rise within a position, and after every choice the cell can still be
finished as its limits ask (limits.py). The hits of a flam are at neighbouring positions.
"""

from __future__ import annotations

import numpy as np

from midi_rwkv.model.config import SamplingConfig
from midi_rwkv.tokens.attributes import MICRO_MIN, MICROS_PER_POSITION

from .limits import CellLimits
from .sample import draw

PLACE, MICRO, PITCH, VELOCITY, DURATION = range(5)
END, SAME, FIRST_POSITION = 0, 1, 2  # of the place head
EARLIEST = -MICROS_PER_POSITION // 2  # but at position 0, where a rushed downbeat may be earlier


class NoteWriter:
    """Chooses the notes of one cell for one candidate, an attribute at a time: `choose` for each stage, in order."""

    def __init__(
        self,
        limits: CellLimits,
        config: SamplingConfig,
        rng: np.random.Generator,
        *,
        is_drum: bool,
        on_grid: bool = False,
    ):
        """on_grid: no micro-timing."""
        self.limits, self.config, self.rng = limits, config, rng
        self.is_drum, self.on_grid = is_drum, on_grid
        self.notes: list[tuple[int, int, int, int, int]] = []  # position, micro-timing, pitch, velocity, duration
        self.done = False
        self._position = self._pitch = -1
        self._struck = 0  # notes at this position
        self._note = [0] * 5  # the one being written: position, then as chosen
        self._same = False

    def choose(self, stage: int, logits: np.ndarray) -> int:
        """The choice of a stage's class, whose logits are given. Sets `done` where the cell ends."""
        allowed = np.flatnonzero(self.allowed(stage, len(logits)))
        choice = int(allowed[draw(logits[allowed], self.config, self.rng)])
        self.take(stage, choice)
        return choice

    def allowed(self, stage: int, classes: int) -> np.ndarray:
        """Which classes of a stage may be chosen, (classes,) bool."""
        if stage == PLACE:
            return self._places(classes)
        if stage == MICRO:
            earliest = MICRO_MIN if self._note[0] == 0 else EARLIEST
            lowest, highest = (0, 0) if self.on_grid else (earliest, MICROS_PER_POSITION // 2 - 1)
            micro: np.ndarray = np.arange(classes) + MICRO_MIN
            return (micro >= lowest) & (micro <= highest)
        if stage == PITCH:
            return self._pitches(classes)
        return np.ones(classes, bool)

    def take(self, stage: int, choice: int) -> None:
        """Go on from a choice."""
        if stage == PLACE:
            self.done = choice == END
            self._same = choice == SAME
            self._note[0] = self._position if self._same else choice - FIRST_POSITION
            return
        self._note[stage] = choice
        if stage == MICRO:
            self._note[1] = choice + MICRO_MIN
        elif stage == PITCH:
            self._note[2] = choice % 128
        if stage == DURATION or (stage == VELOCITY and self.is_drum):
            self._finish()

    def _finish(self) -> None:
        position, micro, pitch, velocity, duration = self._note
        self._struck = self._struck + 1 if self._same else 1
        self._position, self._pitch = position, pitch
        self.notes.append((position, micro, pitch, velocity, 0 if self.is_drum else duration))

    def _places(self, classes: int) -> np.ndarray:
        limits, n = self.limits, len(self.limits.allowed)
        out = np.zeros(classes, bool)
        low, fewest = limits.polyphony[0], limits.density[0]
        complete = self._position < 0 or self._struck >= low
        out[END] = complete and len(self.notes) >= fewest
        if self._position >= 0:
            out[SAME] = self._can_take(np.array([self._position]), same=True)[0]
        if complete:
            later = np.arange(self._position + 1, n)
            out[FIRST_POSITION + later] = self._can_take(later, same=False)
        return out

    def _can_take(self, positions: np.ndarray, *, same: bool) -> np.ndarray:
        """Whether a note may begin at each position: its lowest possible pitch leaves the most room above it."""
        allowed = self.limits.allowed[positions]
        if same:
            allowed = allowed & (np.arange(128) > self._pitch)
        lowest = allowed.argmax(1)
        fits = self._finishes(positions, lowest, same=same)
        found: np.ndarray = allowed.any(1) & fits
        return found

    def _pitches(self, classes: int) -> np.ndarray:
        position, pitches = self._note[0], np.arange(128)
        ok = self.limits.allowed[position].copy()
        if self._same:
            ok &= pitches > self._pitch
        ok &= self._finishes(np.full(128, position), pitches, same=self._same)
        out = np.zeros(classes, bool)
        out[128 * self.is_drum :][:128] = ok
        return out

    def _finishes(self, positions: np.ndarray, pitches: np.ndarray, *, same: bool) -> np.ndarray:
        struck = self._struck + 1 if same else 1
        ok = self.limits.can_finish(
            positions, pitches, np.full(len(positions), struck), np.full(len(positions), len(self.notes) + 1)
        )
        return ok & (struck <= self.limits.polyphony[1])
