"""The loops of following.py, compiled: what each source says, and which of them are heard, writer by writer.

Arrays are those of `SourceNotes` and `Followers`, `sources` being (keys, notes, of, prior, gained); what a function
finds is written to its last arguments.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from midi_rwkv import native

from . import attributes
from .attributes import SHARE_LEVELS, TRUST_LEVELS

POSITIONS = 1 << 10  # more than a bar has
PITCHES = 128
END, NONE = -1, -2  # what a source says where its cell ends, and where there is no source
RIGHT = 0.5  # what a source gains by each place and each pitch that it said, and loses by others
KEPT = 0.8  # of that, from note to note
SHARPNESS = 2.0  # of shares: how much a score counts there
LOWEST_SCORE = -3
MICRO, VELOCITY, DURATION = 1, 3, 4  # columns of a note

# numba's types: of R writers, of R x K sources.
_INTS, _ROWS, _SCORES = "int64[::1]", "int64[:, ::1]", "float32[:, ::1]"
_SOURCES = f"Tuple(({_INTS}, {_ROWS}, {_ROWS}, {_SCORES}, {_SCORES}))"
_files = [__file__, attributes.__file__]


@native.jitable
def first_after(keys: Any, cell: Any, position: Any, pitch: Any) -> Any:
    """The number of the first note of a cell after a position and pitch, -1 for none."""
    key = (cell * POSITIONS + position) * PITCHES + pitch
    low, high = 0, len(keys)
    while low < high:
        middle = (low + high) // 2
        if keys[middle] <= key:
            low = middle + 1
        else:
            high = middle
    return low if low < len(keys) and keys[low] // (POSITIONS * PITCHES) == cell else -1


@native.jitable
def heard(says: Any, prior: Any, gained: Any) -> Any:
    """Of the sources that say something (not NONE): the first, and the best that says something else, -1 for none; and
    how far the first is to be trusted, 1 and up."""
    first = second = -1
    for k in range(len(says)):
        if says[k] != NONE and (first < 0 or prior[k] + gained[k] > prior[first] + gained[first]):
            first = k
    if first < 0:
        return first, second, 0
    top = prior[first] + gained[first]
    agreeing = total = 0.0
    for k in range(len(says)):
        if says[k] == NONE:
            continue
        weight = math.exp(SHARPNESS * (prior[k] + gained[k] - top))
        total += weight
        if says[k] == says[first]:
            agreeing += weight
        elif second < 0 or prior[k] + gained[k] > prior[second] + gained[second]:
            second = k
    level = min(max(round(top) - LOWEST_SCORE, 0), TRUST_LEVELS - 1)
    return first, second, 1 + SHARE_LEVELS * level + round((SHARE_LEVELS - 1) * agreeing / total)


@native.compiled(f"void({_SOURCES}, {_INTS}, {_INTS}, {_ROWS}, {_ROWS})", _files)
def say_next(sources, position, pitch, says, out):  # type: ignore[no-untyped-def]
    """After the last note. says (R, K): positions. out (R, 4): the position that the first source says, its pitch, the
    position that the second says, and the trust."""
    keys, _, of, prior, gained = sources
    for r in range(len(of)):
        for k in range(of.shape[1]):
            says[r, k] = NONE
            if of[r, k] != NONE:
                note = first_after(keys, of[r, k], position[r], pitch[r])
                says[r, k] = END if note < 0 else keys[note] // PITCHES % POSITIONS
        first, second, trust = heard(says[r], prior[r], gained[r])
        out[r, :] = NONE, 0, NONE, trust
        if first >= 0:
            note = first_after(keys, of[r, first], position[r], pitch[r])
            out[r, 0] = says[r, first]
            out[r, 1] = 0 if note < 0 else keys[note] % PITCHES
        if second >= 0:
            out[r, 2] = says[r, second]


@native.compiled(f"void({_SOURCES}, Tuple(({_INTS}, {_INTS})), {_ROWS}, {_INTS}, {_ROWS}, {_SCORES}, {_ROWS})", _files)
def say_pitch(sources, last, says, at, there, after, out):  # type: ignore[no-untyped-def]  # noqa: PLR0913
    """The next note being at a position. last: position and pitch of the one before. there (R, K): the note that each
    source has, NONE for none. after (R, K): what each has gained. out (R, 4): the first source's micro-timing and
    pitch, the second's pitch, NONE for none; trust."""
    keys, notes, of, prior, gained = sources
    position, pitch = last
    pitches = np.empty(of.shape[1], np.int64)
    for r in range(len(of)):
        above = pitch[r] if at[r] == position[r] else -1
        for k in range(of.shape[1]):
            after[r, k] = KEPT * gained[r, k] + (RIGHT if says[r, k] == at[r] else -RIGHT)
            there[r, k], pitches[k] = NONE, NONE
            if says[r, k] >= 0 and says[r, k] <= at[r]:
                note = first_after(keys, of[r, k], at[r], above)
                if note >= 0 and keys[note] // PITCHES % POSITIONS == at[r]:
                    there[r, k], pitches[k] = note, keys[note] % PITCHES
        first, second, trust = heard(pitches, prior[r], after[r])
        out[r, :] = NONE, NONE, NONE, trust
        if first >= 0:
            out[r, 0], out[r, 1] = notes[there[r, first], MICRO], pitches[first]
        if second >= 0:
            out[r, 2] = pitches[second]


@native.compiled(f"void({_SOURCES}, {_INTS}, {_INTS}, {_ROWS}, {_SCORES}, {_ROWS})", _files)
def say_rest(sources, at, pitch, there, after, out):  # type: ignore[no-untyped-def]
    """The note's position and pitch being known, `gained` with the place. after (R, K): what each source has gained.
    out (R, 2): velocity and duration of the best that has the note, or else of the best that has one at the position;
    NONE for none."""
    keys, notes, of, prior, gained = sources
    for r in range(len(of)):
        best, exact = NONE, False
        score = np.float32(0)
        for k in range(of.shape[1]):
            note = first_after(keys, of[r, k], at[r], pitch[r] - 1) if of[r, k] != NONE else -1
            same = note >= 0 and keys[note] // PITCHES % POSITIONS == at[r] and keys[note] % PITCHES == pitch[r]
            said = there[r, k] >= 0 and keys[there[r, k]] % PITCHES == pitch[r]
            after[r, k] = gained[r, k] + (RIGHT if said else -RIGHT)
            if not same:
                note = there[r, k]
            better = best == NONE or (same and not exact) or (same == exact and prior[r, k] + gained[r, k] > score)
            if note >= 0 and better and (same or not exact):
                best, exact, score = note, same, prior[r, k] + gained[r, k]
        out[r, :] = NONE, NONE
        if best >= 0:
            out[r, 0], out[r, 1] = notes[best, VELOCITY], notes[best, DURATION]
