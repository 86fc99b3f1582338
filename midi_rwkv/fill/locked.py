"""Notes inside a region that are to stay: what the model must reproduce, and how the fill makes way for them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

from midi_rwkv.errors import RequestError
from midi_rwkv.score.score import POSITIONS_PER_BEAT, Cell, Note, Region, Score
from midi_rwkv.tokens.tokenizer import Tokenizer

from .limits import Place


def places_of(
    tokenizer: Tokenizer, score: Score, region: Region, locked: Mapping[int, Sequence[Note]]
) -> dict[Cell, list[Place]]:
    """Where the locked notes stand as the model writes them, rising, by cell of the region.

    locked: by track index. RequestError where one does not begin inside the region.
    """
    if not any(locked.values()):
        return {}
    alone = score
    for t in range(len(score.tracks)):
        alone = alone.with_notes(t, sorted(locked.get(t, ())))
    for t, notes in locked.items():
        for n in notes:
            if t not in region.tracks or (t, score.bar_of(t, n.onset_ticks)) not in region.cells:
                raise RequestError(
                    f"a locked note must begin inside the region, got one at tick {n.onset_ticks} of track {t}"
                )
    bars = [alone.bar(b) for b in range(max(len(alone.bars), max(region.bars) + 1))]
    song = tokenizer.encode(alone, bars)
    found = {}
    for cell in region.cells:
        position, pitch, _ = tokenizer.places(song.cell(cell))
        if len(pitch):
            found[cell] = list(zip(position.tolist(), pitch.tolist(), strict=True))
    return found


def off_grid_ticks(ticks_per_beat: int) -> int:
    """As far as the model's own copy of a locked note may lie from it: half a position, and what rounding adds."""
    return math.ceil(ticks_per_beat / (2 * POSITIONS_PER_BEAT))


def with_locked(
    score: Score, fill: Mapping[int, list[Note]], locked: Mapping[int, Sequence[Note]], single: Collection[int]
) -> dict[int, list[Note]]:
    """The fill with the locked notes in it; new ones that would sound into them go, on the tracks `single`, which play
    one note at a time, all that sound at the same time, else those of the same pitch."""
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
