"""Tracks that play one note at a time: how to tell, and how to keep to it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from .score import Note


def handover_ticks(ticks_per_beat: int) -> int:
    """A note held no longer than this into the next is played legato, not together with it."""
    return ticks_per_beat // 8


def is_monophonic(notes: Sequence[Note], ticks_per_beat: int) -> bool:
    """No note begins while another sounds, but for legato: by a quarter of the note and an eighth of a beat at most."""
    return all(
        a.onset_ticks < b.onset_ticks
        and a.onset_ticks + a.duration_ticks - b.onset_ticks
        <= min(a.duration_ticks / 4, handover_ticks(ticks_per_beat))
        for a, b in pairwise(notes)
    )


def sounding(ticks: np.ndarray, note: Note) -> np.ndarray:
    """(n,) bool: at which of these ticks a note sounds."""
    return (note.onset_ticks <= ticks) & (ticks < note.onset_ticks + note.duration_ticks)


def covered(ticks: np.ndarray, note: Note, handover: int) -> np.ndarray:
    """(n,) bool: at which of a bar's positions, these rising ticks, no other note can begin beside one that stays.

    Where the note ends just after a position, another can still begin there: `one_at_a_time` lets it wait.
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
    """New notes, sorted, that end where the next begins, new or kept, and begin when a kept note ends that is held a
    little longer; those in the midst of a kept one are left out."""
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
