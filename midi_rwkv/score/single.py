"""Monophonic tracks: how to recognise them, and how to keep new notes monophonic."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from .score import Note


def handover_ticks(ticks_per_beat: int) -> int:
    """The longest legato overlap: a note held no longer than this into the next does not count as sounding with it."""
    return ticks_per_beat // 8


def is_monophonic(notes: Sequence[Note], ticks_per_beat: int) -> bool:
    """True if no note begins while another sounds, except for legato overlaps (see `handover_ticks`)."""
    return all(
        a.onset_ticks < b.onset_ticks
        and a.onset_ticks + a.duration_ticks - b.onset_ticks
        <= min(a.duration_ticks / 4, handover_ticks(ticks_per_beat))
        for a, b in pairwise(notes)
    )


def sounding(ticks: np.ndarray, note: Note) -> np.ndarray:
    """(n,) bool: whether a note sounds at each of these ticks."""
    return (note.onset_ticks <= ticks) & (ticks < note.onset_ticks + note.duration_ticks)


def covered(ticks: np.ndarray, note: Note, handover: int) -> np.ndarray:
    """(n,) bool: at which of a bar's positions (ascending ticks) no new note can begin, because a kept note sounds.

    If the kept note ends just after a position, a new note can still begin there: `one_at_a_time` delays it.
    """
    onset, end = note.onset_ticks, note.onset_ticks + note.duration_ticks
    out = sounding(ticks, note)
    if onset < ticks[0] < end <= ticks[0] + handover:
        out = ticks <= end
        out[0] = False
    elif out.any():
        last = int(np.flatnonzero(out)[-1])
        step = ticks[1] - ticks[0] if len(ticks) > 1 else 0
        if onset < ticks[last] and 2 * (end - ticks[last]) < step:
            out[last] = False
    return out


def one_at_a_time(new: Sequence[Note], kept: Sequence[Note], ticks_per_beat: int) -> list[Note]:
    """The new notes, sorted and made monophonic together with the kept ones.

    Each new note ends where the next note begins. If a kept note is held slightly into it, it begins when that one
    ends. New notes in the middle of a kept note are left out.
    """
    kept = sorted(kept)
    kept_onsets = np.array([n.onset_ticks for n in kept], np.int64)
    kept_ends = np.maximum.accumulate([0, *(n.onset_ticks + n.duration_ticks for n in kept)])
    following = dict(pairwise(sorted({n.onset_ticks for n in [*new, *kept]})))
    out = []
    for note in sorted(new):
        before = int(np.searchsorted(kept_onsets, note.onset_ticks, side="right"))
        begin = max(note.onset_ticks, int(kept_ends[before]))
        end = max(note.onset_ticks + note.duration_ticks, begin + 1)
        end = min(end, following.get(note.onset_ticks, end))
        if begin < end and begin - note.onset_ticks <= handover_ticks(ticks_per_beat):
            out.append(note._replace(onset_ticks=begin, duration_ticks=end - begin))
    return out
