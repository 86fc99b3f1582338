"""What is kept of the notes that a cell had: its rhythm, its pitches in their order, or its contour.

The new cell has as many notes as the old one, the k-th of them in place of the k-th, in the order of place and pitch. A
table says of each note, place and pitch whether all that follow can still be written, so that writing never reaches a
dead end, and what cannot be kept is known before anything is written.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from midi_rwkv.model.config import SamplingConfig
from midi_rwkv.score.score import Note
from midi_rwkv.tokens.attributes import MICRO_MIN
from midi_rwkv.tokens.notes import AT
from midi_rwkv.tokens.pointers import END, FIRST_POSITION, SAME

from .limits import CellLimits
from .note_writer import DURATION, MICRO, PITCH, PLACE, VELOCITY, NoteWriter

RISES, FALLS, REPEATS, FREE = 1, -1, 0, 2
MOST_ROOM = 6  # positions: a sixteenth


class CellPlan:
    """The notes of a cell to write, as far as they are known beforehand.

    Attributes:
        notes: (n, 5) as they were, columns AT, in order.
        can: (n, positions, 128) bool, whether a note can be there, and all that follow can still be written.
    """

    def __init__(self, notes: np.ndarray, keep: Collection[str], free: np.ndarray, *, single: bool):
        """free: (n, positions, 128) bool, where each note may begin. single: whether notes are struck one at a time."""
        self.notes, self.rhythm, self.pitches = notes.astype(np.int64), "rhythm" in keep, "pitches" in keep
        self.velocities = "velocities" in keep
        n = len(notes)
        before, after = self.notes[:-1], self.notes[1:]
        rises = np.sign(after[:, AT.pitch] - before[:, AT.pitch])
        self._goes = np.concatenate([[FREE], rises if "contour" in keep else np.full(max(0, n - 1), FREE)])[:n]
        together = before[:, AT.position] == after[:, AT.position]
        self._may_join = np.concatenate([[False], together if self.rhythm else np.full(len(together), not single)])[:n]
        self._must_join = self._may_join if self.rhythm else np.zeros(n, bool)
        can = free.copy()
        for k in range(n):
            if self.rhythm:
                can[k, np.arange(can.shape[1]) != self.notes[k, AT.position]] = False
            if self.pitches:
                can[k, :, np.arange(128) != self.notes[k, AT.pitch]] = False
        unhurried = can.copy()
        if not self.rhythm:
            for k, latest in enumerate(self._latest(can.shape[1])):
                unhurried[k, latest + 1 :] = False
        self.can = self._can_finish(unhurried)
        if n and not self.can[0].any():
            self.can = self._can_finish(can)

    def _can_finish(self, can: np.ndarray) -> np.ndarray:
        """Where each note can be, so that those after it can, too."""
        for k in range(len(can) - 2, -1, -1):
            can[k] &= self._followed(k, can[k + 1])
        return can

    def _latest(self, positions: int) -> np.ndarray:
        """The last position of each note, (n,), that leaves it and those after it room: what mostly lay between notes,
        and no more than a sixteenth for each."""
        at = self.notes[:, AT.position]
        strokes = np.cumsum(np.diff(at, prepend=-1) > 0)
        gaps = np.diff(np.unique(at))
        room = int(np.clip(np.median(gaps), 1, MOST_ROOM)) if len(gaps) else 1
        latest: np.ndarray = np.maximum(0, positions - room * (1 + strokes[-1:] - strokes))
        return latest

    def _followed(self, k: int, following: np.ndarray) -> np.ndarray:
        """Whether note k + 1 can follow note k, by the place and pitch of that, (positions, 128)."""
        higher = _beyond(following[:, ::-1])[:, ::-1]
        out = np.zeros_like(following)
        if self._may_join[k + 1] and self._goes[k + 1] in (RISES, FREE):
            out |= higher
        if not self._must_join[k + 1]:
            later = _beyond(following[::-1].T)[:, ::-1].T
            goes = self._goes[k + 1]
            if goes == FREE:
                out |= later.any(1, keepdims=True)
            elif goes == REPEATS:
                out |= later
            else:
                out |= _beyond(later[:, ::-1])[:, ::-1] if goes == RISES else _beyond(later)
        return out

    def after(self, k: int, pitch: int) -> np.ndarray:
        """(128,) bool: the pitches that note k may have after one of this pitch."""
        every, goes = np.arange(128), self._goes[k]
        if goes == FREE:
            return np.ones(128, bool)
        found: np.ndarray = np.sign(every - pitch) == goes
        return found

    def joins(self, k: int) -> tuple[bool, bool]:
        """Whether note k may be struck together with the one before, and whether it must."""
        return bool(self._may_join[k]), bool(self._must_join[k])

    def told(self, sampling: SamplingConfig) -> SamplingConfig:
        """What the model is told of the cell beforehand."""
        return replace(sampling, density=(len(self.notes), len(self.notes)))

    def restored(self, written: Sequence[Note], originals: Sequence[Note]) -> list[Note]:
        """The written notes with what is kept of the originals exactly as it was, in ticks."""
        out = []
        for new, old in zip(written, originals, strict=True):
            if self.rhythm:
                new = new._replace(onset_ticks=old.onset_ticks, duration_ticks=old.duration_ticks)
            out.append(new._replace(velocity=old.velocity) if self.velocities else new)
        return out


def _beyond(x: np.ndarray) -> np.ndarray:
    """Whether any entry before each one along the last axis is set."""
    out = np.zeros_like(x)
    out[:, 1:] = np.logical_or.accumulate(x, axis=1)[:, :-1]
    return out


class PlannedWriter(NoteWriter):
    """Writes a cell by its plan."""

    def __init__(
        self,
        plan: CellPlan,
        limits: CellLimits,
        config: SamplingConfig,
        rng: np.random.Generator,
        *,
        is_drum: bool,
        micros: np.ndarray,
    ):
        super().__init__(limits, config, rng, is_drum=is_drum, micros=micros)
        self.plan = plan

    def known(self, stage: int) -> int | None:
        """See `NoteWriter.known`."""
        plan, k = self.plan, len(self.notes)
        if k == len(plan.notes):
            return END if stage == PLACE else None
        position, micro, pitch, velocity, duration = (int(x) for x in plan.notes[k])
        if plan.rhythm:
            if stage == PLACE:
                return SAME if plan.joins(k)[1] else FIRST_POSITION + position
            if stage == MICRO:
                return micro - MICRO_MIN
            if stage == DURATION:
                return duration
        if plan.pitches and stage == PITCH:
            return 128 * self.is_drum + pitch
        if plan.velocities and stage == VELOCITY:
            return velocity
        return super().known(stage)

    def _places(self, classes: int) -> np.ndarray:
        plan, k = self.plan, len(self.notes)
        out = np.zeros(classes, bool)
        if k == len(plan.notes):
            out[END] = True
            return out
        can = plan.can[k] & (plan.after(k, self._pitch) if k else True)
        joins, must = plan.joins(k)
        if joins:
            out[SAME] = can[self._position, self._pitch + 1 :].any()
        if not must:
            positions = np.flatnonzero(can.any(1))
            out[FIRST_POSITION + positions[positions > self._position]] = True
        return out

    def _pitches(self, classes: int) -> np.ndarray:
        plan, k = self.plan, len(self.notes)
        ok = plan.can[k, self._note[0]] & (plan.after(k, self._pitch) if k else True)
        if self.same:
            ok = ok & (np.arange(128) > self._pitch)
        out = np.zeros(classes, bool)
        out[128 * self.is_drum :][:128] = ok
        return out
