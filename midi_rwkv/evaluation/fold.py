"""A step model's nats per note on the grid of version 6, so that its figures compare with the published ones.

Version 6 of the model wrote four flat tokens a note. A step tells more: 24 positions a quarter with micro-timing around
them, 32 velocities and finer durations, where the tokens had 12 positions, 16 velocities and their own durations. What
a step model gives to what the tokens told of a note is the sum over all steps that they could not tell apart:

- place: every position and micro-timing (or the position of the note before) that rounds to the note's twelfth;
- pitch: as it is, given each of these places;
- velocity: the levels that are nearest to the tokens' level;
- duration: the durations that are nearest to the tokens' duration, given each of these velocities;
- the end of a cell, empty cells too, is one class in both.

The sum is exact but for places that together weigh less than `NEGLIGIBLE` of the note's twelfth. Four things remain:

- a level or duration right between two of the tokens' counts for the lower, so that the classes are as many and as wide
  as the tokens', with borders up to two velocities, or a 48th of a quarter, aside;
- the model knows the notes before more finely than version 6 did;
- of notes that share a twelfth and a pitch (a flam) the tokens kept the loudest, and a step model writes all: nats are
  divided by each one's own count;
- notes that share a twelfth but not a position stand in the order of their positions, not of their pitches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from midi_rwkv.engine.heads import NoteHeads
from midi_rwkv.tokens.attributes import MICRO_MIN, MICROS_PER_POSITION, Column, Vocabulary
from midi_rwkv.tokens.notes import AT, UNITS_PER_QUARTER, nearest
from midi_rwkv.tokens.pointers import END, FIRST_POSITION, SAME
from midi_rwkv.tokens.surroundings import CellSurroundings

# Version 6's grid: positions a quarter, MIDI velocities, and durations in positions.
POSITIONS = 12
VELOCITIES = np.arange(7, 128, 8)
DURATIONS = np.concatenate([np.arange(1, 24), np.arange(24, 48, 3), np.arange(48, 96, 6), np.arange(96, 193, 12)])

UNITS = UNITS_PER_QUARTER // POSITIONS  # micro-timing steps in one of its positions
NEGLIGIBLE = 1e-6
ATTRIBUTES = 5


@dataclass(frozen=True)
class Asked:
    """What a model is to say next, at n places of some cells.

    hidden (n, C). targets (n, 5): classes as `layout.targets_of` has them. before (n, 2): position and pitch of the
    note before in the cell, -1 for none. lengths (n,): positions in the bar. around (n,): what stands around the cell,
    the notes before being written. marked (n, 6): `pointers.places_known`. pitches (n,): column PITCH of the note that
    was read last.
    """

    hidden: np.ndarray
    targets: np.ndarray
    before: np.ndarray
    lengths: np.ndarray
    around: Sequence[CellSurroundings]
    marked: np.ndarray
    pitches: np.ndarray


class Fold:
    """The classes of a step vocabulary that version 6's tokens could not tell apart."""

    def __init__(self, vocabulary: Vocabulary):
        per_position = UNITS / MICROS_PER_POSITION
        self.velocity = nearest(VELOCITIES, vocabulary.velocities)  # the tokens' level of each of ours
        self.duration = nearest(DURATIONS, np.maximum(1, vocabulary.durations / per_position))
        positions = np.arange(vocabulary.n_positions)[:, None] * MICROS_PER_POSITION
        self._units = positions + vocabulary.micros  # (positions, micros)

    def place(self, length: int) -> np.ndarray:
        """The tokens' position of each position and micro-timing in a bar of so many positions: (positions, micros)."""
        last = max(1, int(np.rint(length * MICROS_PER_POSITION / UNITS))) - 1
        found: np.ndarray = np.clip(np.rint(self._units / UNITS).astype(np.int64), 0, last)
        return found

    def tokens(self, notes: np.ndarray, length: int) -> np.ndarray:
        """What the tokens told of a cell's notes: position, pitch, level and duration, (k, 4), sorted, each once.

        notes (n, 5): columns AT, in a bar of so many positions.
        """
        position = self.place(length)[notes[:, AT.position], notes[:, AT.micro] - MICRO_MIN]
        level, duration = self.velocity[notes[:, AT.velocity]], self.duration[notes[:, AT.duration]]
        found: np.ndarray = np.unique(np.stack([position, notes[:, AT.pitch], level, duration], 1), axis=0)
        return found

    def nats(self, heads: NoteHeads, asked: Asked) -> np.ndarray:
        """What place, micro-timing (always 0: it is part of the place), pitch, velocity and duration cost, (n, 5)."""
        out = np.zeros((len(asked.targets), ATTRIBUTES))
        log_place = _log_softmax(heads.logits(0, asked.hidden, asked.marked))
        is_end = asked.targets[:, 0] == END
        out[is_end, 0] = -log_place[is_end, END]
        notes = np.flatnonzero(~is_end)
        if not len(notes):
            return out
        owner, place_class, micro, weight, columns = self._places(heads, asked, notes, log_place)
        z = heads.given(0, asked.hidden[owner], place_class, columns)
        z = heads.given(1, z, micro, columns)
        pitch = asked.targets[owner, 2] - 1
        for row, i, place in zip(columns, owner.tolist(), place_class.tolist(), strict=True):
            asked.around[i].at_pitch(row, _position(asked, i, place), (int(asked.targets[i, 2]) - 1) % 128)
        rows = np.arange(len(owner))
        with_pitch = weight * np.exp(_log_softmax(heads.logits(2, z, columns))[rows, pitch])
        z = heads.given(2, z, pitch, columns)
        velocity_p = np.exp(_log_softmax(heads.logits(3, z, columns)))
        same_level = self.velocity == self.velocity[asked.targets[owner, 3] - 1][:, None]  # (pairs, velocities)
        with_velocity = with_pitch * (velocity_p * same_level).sum(1)
        sums = [np.bincount(owner, x, len(asked.targets)) for x in (weight, with_pitch, with_velocity)]
        pair, velocity = np.nonzero(same_level)
        weights = with_pitch[pair] * velocity_p[pair, velocity]
        with_duration = weights * self._duration(
            heads, heads.given(3, z[pair], velocity, columns[pair]), columns[pair], asked.targets[owner[pair], 4]
        )
        sums.append(np.bincount(owner[pair], with_duration, len(asked.targets)))
        columns = np.log([s[notes] for s in sums])
        out[notes, 0] = -columns[0]
        for column, (of, given) in zip((2, 3, 4), ((1, 0), (2, 1), (3, 2)), strict=True):
            out[notes, column] = columns[given] - columns[of]
        return out

    def _places(
        self, heads: NoteHeads, asked: Asked, notes: np.ndarray, log_place: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Pairs of a place and a micro-timing that fall on the twelfth of a note: the note, the class of the place,
        that of the micro-timing, the pair's probability, and the columns of what stands around the place."""
        owners, classes, wanted = [], [], []
        for i in notes.tolist():
            place, micro = asked.targets[i, 0], asked.targets[i, 1] - 1
            before = int(asked.before[i, 0])
            twelfth = self.place(int(asked.lengths[i]))
            position = _position(asked, i, place)
            same = twelfth == twelfth[position, micro]
            at = np.flatnonzero(same.any(1))
            at = at[at > before] if before >= 0 else at  # a note at a new position comes later
            own = [*(at + FIRST_POSITION).tolist()]
            mask = [*same[at]]
            if before >= 0 and same[before].any():
                own.append(SAME)
                mask.append(same[before])
            owners += [i] * len(own)
            classes += own
            wanted += mask
        owner, place_class = np.array(owners), np.array(classes)
        places = zip(owners, classes, strict=True)
        columns = np.stack([asked.around[i].at_place(_position(asked, i, place)) for i, place in places])
        columns[:, Column.BEFORE] = asked.pitches[owner]
        z = heads.given(0, asked.hidden[owner], place_class, columns)
        log_micro = _log_softmax(heads.logits(1, z, columns))
        weight = np.exp(log_place[owner, place_class][:, None] + log_micro) * np.array(wanted)
        total = np.bincount(owner, weight.sum(1), len(asked.targets))[owner]
        row, micro = np.nonzero(weight > NEGLIGIBLE / weight.shape[1] * total[:, None])
        return owner[row], place_class[row], micro, weight[row, micro], columns[row]

    def _duration(self, heads: NoteHeads, z: np.ndarray, columns: np.ndarray, target: np.ndarray) -> np.ndarray:
        """The probability of each target's duration as the tokens have it; 1 for a drum, which has none. (pairs,)"""
        found = np.ones(len(target))
        has = np.flatnonzero(target > 0)
        if len(has):
            same = self.duration == self.duration[target[has] - 1][:, None]
            found[has] = (np.exp(_log_softmax(heads.logits(4, z[has], columns[has]))) * same).sum(1)
        return found


def _position(asked: Asked, i: int, place: int) -> int:
    """The position of a place's class."""
    return int(asked.before[i, 0]) if place == SAME else place - FIRST_POSITION


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    logits -= logits.max(-1, keepdims=True)
    found: np.ndarray = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return found
