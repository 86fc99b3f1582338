"""The limits of a cell, and whether a partly written cell can still be finished within them.

Everything is counted exactly, so that writing never reaches a dead end, and a request that cannot be met is known
before anything is written.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

NO_LIMIT = 10_000
Place = tuple[int, int]  # position in the bar, pitch


@dataclass(frozen=True, eq=False)
class CellLimits:
    """Limits of one cell of `n` positions.

    Attributes:
        allowed: (n, 128) bool, the pitches that may begin at each position.
        density, polyphony: inclusive ranges of the notes in the cell, and of those that begin together.
        locked: the places, ascending, of notes that must be written, whatever `allowed` says there.
    """

    allowed: np.ndarray
    density: tuple[int, int] = (0, NO_LIMIT)
    polyphony: tuple[int, int] = (1, NO_LIMIT)
    locked: tuple[Place, ...] = ()
    # The arrays below have one more row than the cell has positions: row p + 1 belongs to position p, row 0 to the
    # start. "Later" means at positions above p.
    above: np.ndarray = field(init=False, repr=False, compare=False)  # (n + 1, 129): allowed pitches >= q
    locked_above: np.ndarray = field(init=False, repr=False, compare=False)  # (n + 1, 129): the locked among them
    later_fewest: np.ndarray = field(init=False, repr=False, compare=False)  # (n + 1,) notes where locked ones are
    later_most: np.ndarray = field(init=False, repr=False, compare=False)
    later_free: np.ndarray = field(init=False, repr=False, compare=False)  # (n + 1,) other positions, without need
    later_room: np.ndarray = field(init=False, repr=False, compare=False)  # (n + 1, n + 1): notes in the k roomiest

    def __post_init__(self) -> None:
        allowed = self.allowed.copy()
        locked = np.zeros_like(allowed)
        for position, pitch in self.locked:
            allowed[position, pitch] = locked[position, pitch] = True
        object.__setattr__(self, "allowed", allowed)
        n, (low, high) = len(allowed), self.polyphony
        for name, table in (("above", allowed), ("locked_above", locked)):
            counts = np.zeros((n + 1, 129), np.int32)
            counts[1:, :128] = np.cumsum(table[:, ::-1], axis=1)[:, ::-1]
            object.__setattr__(self, name, counts)
        room, must = np.minimum(self.above[1:, 0], high), self.locked_above[1:, 0]
        bound = must > 0
        free = ~bound & (room >= low)

        def later(values: np.ndarray) -> np.ndarray:
            return np.append(np.cumsum(values[::-1])[::-1], 0)

        object.__setattr__(self, "later_fewest", later(np.where(bound, np.maximum(low, must), 0)))
        object.__setattr__(self, "later_most", later(np.where(bound, room, 0)))
        object.__setattr__(self, "later_free", later(free))
        sums = np.zeros((n + 1, n + 1), np.int32)
        for p in range(n):
            roomiest = np.sort(np.where(free, room, 0)[p:])[::-1]
            sums[p, 1 : len(roomiest) + 1] = np.cumsum(roomiest)
            sums[p, len(roomiest) + 1 :] = roomiest.sum()
        object.__setattr__(self, "later_room", sums)

    def can_finish(self, position: np.ndarray, pitch: np.ndarray, struck: np.ndarray, total: np.ndarray) -> np.ndarray:
        """Whether an allowed cell can begin like this.

        It has `total` notes, of which the last `struck` are at `position` (-1 before any); the highest of these is
        `pitch` (-1 if there is none yet).
        """
        (fewest, most), (low, high) = self.density, self.polyphony
        at, begun = position + 1, position >= 0
        here_fewest = np.where(begun, np.maximum(low - struck, self.locked_above[at, pitch + 1]), 0)
        here_fewest = np.maximum(here_fewest, 0)
        here_most = np.where(begun, np.minimum(self.above[at, pitch + 1], high - struck), 0)
        # Of the positions that need no notes, j may be used. With the most that the upper limit allows, the room for
        # the lower one is largest.
        spare = most - total - here_fewest - self.later_fewest[at]
        j = np.minimum(np.maximum(spare // low, 0), self.later_free[at])
        room = here_most + self.later_most[at] + self.later_room[at, j]
        fits: np.ndarray = (here_fewest <= here_most) & (spare >= 0) & (total + room >= fewest)
        return fits

    def conflict(self) -> str | None:
        """The reason, in a few words, why no cell can be like this, or None."""
        (fewest, most), (low, high) = self.density, self.polyphony
        counts, must = self.above[1:, 0], self.locked_above[1:, 0]
        if must.max() > high:
            return f"{must.max()} locked notes begin together and the polyphony allows {high}"
        if len(self.locked) > most:
            return f"{len(self.locked)} notes are locked and the density allows {most}"
        lacking = np.flatnonzero((must > 0) & (counts < low))
        if len(lacking):
            return f"{low} notes are to begin together and only {counts[lacking[0]]} can where a note is locked"
        if fewest and counts.max() < low:
            return _too_few(low, int(counts.max()))
        start = np.array([-1])
        if self.can_finish(start, start, start + 1, start + 1)[0]:
            return None
        room = int(self.later_most[0] + self.later_room[0, -1])
        if room < fewest:
            return f"{_count(fewest)} asked for and no more than {room} fit in"
        together = str(low) if low == high else f"{low}-{high}"
        locked = " beside those that are locked" if self.locked else ""
        span = str(fewest) if fewest == most else f"{fewest}-{most}"
        return f"{span} notes a bar cannot be struck {together} at a time{locked}"


def _count(notes: int) -> str:
    return "1 note is" if notes == 1 else f"{notes} notes are"


def _too_few(low: int, pitches: int) -> str:
    if pitches == 0:
        return "a note that stays sounds all through it, so that none can begin"
    return f"{low} notes are to begin together and only {pitches} pitch{'es' if pitches > 1 else ''} can"
