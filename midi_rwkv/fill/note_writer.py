"""One cell, written note by note under its limits: what the heads may choose, attribute by attribute.

Positions rise and stay inside the bar, pitches rise within a position, and after every choice the cell can still be
finished as its limits ask (limits.py). The hits of a flam are at neighbouring positions.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np

from midi_rwkv.errors import RequestError
from midi_rwkv.model.config import SamplingConfig
from midi_rwkv.tokens.attributes import MICRO_MAX, MICRO_MIN, MICROS_PER_POSITION
from midi_rwkv.tokens.pointers import END, FIRST_POSITION, SAME

from .habits import TrackHabits
from .limits import NO_LIMIT, CellLimits

PLACE, MICRO, PITCH, VELOCITY, DURATION = range(5)
# Factors of the request's temperature, by stage: pitches are drawn plainer, and a player's touch is left as it is.
TEMPERATURES = (1.0, 1.18, 0.82, 1.18, 1.0)


class Guard(Protocol):
    """What forbids notes by those that are written already, beyond the limits of the cell. It never forbids its end."""

    def allowed(self, position: int) -> np.ndarray:
        """(128,) bool: the pitches that the next note may have at a position."""

    def write(self, position: int, pitch: int) -> None:
        """The note that is written next."""

    def refusal(self) -> str:
        """The message where nothing that is allowed meets the limits of the cell."""


class NoteWriter:
    """Chooses the notes of one cell for one candidate, an attribute at a time: `choose` for each stage, in order.

    The locked notes of the limits are there already: they are not written, and they count.
    """

    def __init__(
        self,
        limits: CellLimits,
        config: SamplingConfig,
        rng: np.random.Generator,
        *,
        is_drum: bool,
        micros: np.ndarray | None = None,
    ):
        """micros: (positions, classes) bool, the micro-timings that may be chosen at each position; None: all that lie
        around it."""
        self.limits, self.config, self.rng, self.is_drum = limits, config, rng, is_drum
        self._micros = nearest_micros(len(limits.allowed)) if micros is None else micros
        self.notes: list[tuple[int, int, int, int, int]] = []  # position, micro-timing, pitch, velocity, duration
        self.nats = 0.0  # what the places and pitches chosen so far cost, among those that were allowed
        self.guard: Guard | None = None
        self._habits: TrackHabits | None = None
        self._until = 0.0  # the position up to which the last strike sounds, and no other begins
        self._run = -1, 0  # the lowest pitch of the last strike, and how many in a row had it
        self.done = False
        self.same = False  # whether the note that was written last is at the position of the one before it
        self._position = self._pitch = -1
        self._struck = 0  # notes that begin there, up to that pitch
        self._note = [0] * 5  # the one being written: position, then as chosen
        n = len(limits.allowed)
        self._locked = np.zeros((n + 1, 129), np.int64)  # how many there are at a position below a pitch
        self._free = limits.allowed.copy()
        for position, pitch in limits.locked:
            self._locked[position, pitch + 1 :] += 1
            self._free[position, pitch] = False
        at = self._locked[:, 128]
        self._before = np.concatenate([[0], np.cumsum(at)])[: n + 1]  # at earlier positions
        lacking = (at[:n] > 0) & (at[:n] < limits.polyphony[0])
        self._needs = np.flatnonzero(lacking)  # positions that a locked note is at, and more must begin
        self._lowest = self._free.argmax(1)
        self._any = np.asarray(self._free.any(1))
        # With no other limits than how many may begin together, that is all there is to count.
        self._counts = limits.density != (0, NO_LIMIT) or limits.polyphony[0] > 1 or bool(limits.locked)

    def keep_to(self, habits: TrackHabits, pitch: int, strikes: int) -> None:
        """Keep to a track's habits, as far as the limits leave a choice. pitch: the lowest of the last strike before
        the cell, which so many in a row had."""
        self._habits, self._run = habits, (pitch, strikes)

    @property
    def place(self) -> tuple[int, int]:
        """The position of the note being written, and the pitch that it lies above there, -1 for none."""
        return self._note[0], self._pitch if self.same else -1

    @property
    def pitch(self) -> int:
        """That of the note being written, once it is chosen."""
        return self._note[2]

    def choose(self, stage: int, logits: np.ndarray) -> int:
        """The choice of a stage's class, whose logits are given. Sets `done` where the cell ends.

        Raises RequestError if the guard leaves no choice.
        """
        if stage > PITCH:
            among = np.arange(len(logits))
            if stage == DURATION and self._habits is not None:
                among = self._habits.durations.nonzero()[0]
            choice = int(among[draw(logits[among], self.config, self.rng, TEMPERATURES[stage])])
            self.take(stage, choice)
            return choice
        mask = self.allowed(stage, len(logits))
        while True:
            allowed = mask.nonzero()[0]
            if not len(allowed) and self.guard is not None:
                raise RequestError(self.guard.refusal())
            among = logits[allowed]
            drawn = draw(among, self.config, self.rng, TEMPERATURES[stage])
            choice = int(allowed[drawn])
            self.take(stage, choice)
            # What the guard leaves of a place is looked at where the place is chosen: all places would take long.
            if stage != PLACE or self.guard is None or self.done or self.allowed(PITCH, 2 * 128).any():
                if stage != MICRO:
                    self.nats += surprise(among, drawn)
                return choice
            mask[choice] = False

    def known(self, stage: int) -> int | None:
        """The class of a stage where only one may be chosen, so that nothing need be asked; else, or if that takes
        working out, None."""
        if stage != MICRO:
            return None
        micros = self._micros[self._note[0]]
        return int(micros.argmax()) if np.count_nonzero(micros) == 1 else None

    def allowed(self, stage: int, classes: int) -> np.ndarray:
        """Which classes of a stage may be chosen, (classes,) bool."""
        if stage == PLACE:
            return self._as_usual(self._places(classes))
        if stage == MICRO:
            return self._micros[self._note[0], :classes]
        if stage == PITCH:
            pitches = self._pitches(classes)
            if self.guard is not None:
                pitches[128 * self.is_drum :][:128] &= self.guard.allowed(self._note[0])
            return self._unstuck(pitches)
        return np.ones(classes, bool)

    def may_begin(self, position: int, micro: int, pitch: int) -> bool:
        """Whether a note may begin at a place of the cell, whatever else there is."""
        inside = position < len(self._micros) and MICRO_MIN <= micro <= MICRO_MAX
        return inside and bool(self._micros[position, micro - MICRO_MIN] and self._free[position, pitch])

    def take(self, stage: int, choice: int) -> None:
        """Go on from a choice."""
        if stage == PLACE:
            self.done = choice == END
            self.same = choice == SAME
            self._note[0] = self._position if self.same else choice - FIRST_POSITION
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
        self._struck = int(self._struck_with(np.array([position]), np.array([pitch]))[0])
        self._position, self._pitch = position, pitch
        if self.guard is not None:
            self.guard.write(position, pitch)
        if not self.same:
            self._run = pitch, self._run[1] + 1 if pitch == self._run[0] else 1
        if self._habits is not None:
            self._until = max(self._until, position + self._habits.lasts[duration])
        self.notes.append((position, micro, pitch, velocity, 0 if self.is_drum else duration))

    def _places(self, classes: int) -> np.ndarray:
        n, here = len(self.limits.allowed), self._position
        out = np.zeros(classes, bool)
        reach = self._reach()
        total = len(self.notes) + len(self.limits.locked)
        out[END] = reach == n and total >= self.limits.density[0]
        if here >= 0:
            out[SAME] = self._can_add()
        # At later positions, the lowest possible pitch leaves the most room above it.
        later = np.arange(here + 1, min(reach + 1, n))
        out[FIRST_POSITION + later] = self._any[later] & self._finishes(later, self._lowest[later])
        return out

    def _as_usual(self, places: np.ndarray) -> np.ndarray:
        """Without the places at which the last strike sounds, and only with as many notes together as the track has,
        if others are left."""
        if self._habits is None or self._position < 0:
            return places
        fewest, most = self._habits.together
        if places[SAME] and self._struck < fewest:
            only: np.ndarray = np.arange(len(places)) == SAME
            return only
        free = places.copy()
        free[FIRST_POSITION + self._position + 1 : FIRST_POSITION + math.ceil(self._until)] = False
        if self._struck >= most:
            free[SAME] = False
        return free if free.any() else places

    def _unstuck(self, pitches: np.ndarray) -> np.ndarray:
        """Without the lowest pitch of the strikes before, if it has been struck often enough and others are left."""
        pitch, strikes = self._run
        if self.same or self._habits is None or strikes < self._habits.longest or not pitches[pitch]:
            return pitches
        others = pitches.copy()
        others[pitch] = False
        return others if others.any() else pitches

    def _reach(self) -> int:
        """The last position at which a note may follow, all between being left as they are; one past the cell's if the
        cell may be left, too."""
        here = self._position
        if here >= 0:
            above = self._locked[here, 128] - self._locked[here, self._pitch + 1]
            if self._struck + above < self.limits.polyphony[0]:
                return here
        needed = self._needs[self._needs > here]
        return int(needed[0]) if len(needed) else len(self.limits.allowed)

    def _can_add(self) -> bool:
        """Whether a note may begin where the last one does, above it."""
        above = self._free[self._position, self._pitch + 1 :]
        if not above.any():
            return False
        lowest = self._pitch + 1 + above.argmax()
        return bool(self._finishes(np.array([self._position]), np.array([lowest]))[0])

    def _pitches(self, classes: int) -> np.ndarray:
        position, pitches = self._note[0], np.arange(128)
        ok = self._free[position] & self._finishes(np.full(128, position), pitches)
        if self.same:
            ok &= pitches > self._pitch
        out = np.zeros(classes, bool)
        out[128 * self.is_drum :][:128] = ok
        return out

    def _struck_with(self, positions: np.ndarray, pitches: np.ndarray) -> np.ndarray:
        """How many notes begin at a position up to a pitch at which the next is written."""
        same = positions == self._position
        passed = self._locked[positions, pitches] - np.where(same, self._locked[positions, self._pitch + 1], 0)
        struck: np.ndarray = np.where(same, self._struck, 0) + passed + 1
        return struck

    def _finishes(self, positions: np.ndarray, pitches: np.ndarray) -> np.ndarray:
        """Whether the cell can be finished after a note at each of some places, which are allowed."""
        if not self._counts:
            few: np.ndarray = np.where(positions == self._position, self._struck, 0) < self.limits.polyphony[1]
            return few
        struck = self._struck_with(positions, pitches)
        total = len(self.notes) + 1 + self._before[positions] + self._locked[positions, pitches]
        fits = self.limits.can_finish(positions, pitches, struck, total)
        return fits & (struck <= self.limits.polyphony[1])


def nearest_micros(positions: int) -> np.ndarray:
    """The micro-timings that lie around each position, (positions, classes); at the first, those of a rushed downbeat
    too."""
    micro = np.arange(MICRO_MIN, MICRO_MAX + 1)
    out = np.tile((micro >= -MICROS_PER_POSITION // 2) & (micro < MICROS_PER_POSITION // 2), (positions, 1))
    out[0] = micro < MICROS_PER_POSITION // 2
    return out


def draw(logits: np.ndarray, config: SamplingConfig, rng: np.random.Generator, factor: float = 1.0) -> int:
    """An index sampled from logits (n,) with `factor` times the temperature, then min-p, then top-p.

    Min-p drops what is less probable than that share of the best; top-p keeps the smallest set with that probability.
    """
    scaled = (logits - logits.max()) / np.float32(factor * config.temperature)
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


def surprise(logits: np.ndarray, choice: int) -> float:
    """Nats of a choice under logits (n,)."""
    above = logits - logits[choice]
    most = float(above.max())
    return most + math.log(float(np.exp(above - most).sum()))
