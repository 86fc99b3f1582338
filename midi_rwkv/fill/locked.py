"""Locked notes inside a region, and how the fill makes way for them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

from midi_rwkv.score.score import POSITIONS_PER_BEAT, Note, Score


def off_grid_ticks(ticks_per_beat: int) -> int:
    """How far the model's copy of a locked note may be from it: half a position, plus rounding."""
    return math.ceil(ticks_per_beat / (2 * POSITIONS_PER_BEAT))


def with_locked(
    score: Score, fill: Mapping[int, list[Note]], locked: Mapping[int, Sequence[Note]], single: Collection[int]
) -> dict[int, list[Note]]:
    """The fill with the locked notes in it.

    New notes that would sound into a locked note are removed: on the monophonic tracks `single` all that sound at the
    same time, elsewhere those of the same pitch.
    """
    merged = dict(fill)
    for track, kept in locked.items():
        off_grid = max(score.lead_ticks(score.tracks[track]), off_grid_ticks(score.ticks_per_beat))
        new = []
        for note in fill.get(track, []):
            end = note.onset_ticks + note.duration_ticks
            rivals = [k for k in kept if track in single or k.pitch == note.pitch]
            since = [note.onset_ticks - k.onset_ticks for k in rivals]
            if any(-off_grid <= t < k.duration_ticks or abs(t) <= off_grid for t, k in zip(since, rivals, strict=True)):
                continue
            end = min([end] + [k.onset_ticks for k in rivals if k.onset_ticks > note.onset_ticks])
            new.append(note._replace(duration_ticks=end - note.onset_ticks))
        merged[track] = sorted([*new, *kept])
    return merged
