"""Keyswitches: notes far outside a track's register that choose an articulation of the player's sound library.

They are not music: a fill leaves them where they are, and they are ignored in everything that is measured on a track.
A note counts as a keyswitch only if no other reading is likely:

- it is nearly silent (velocity 1-10) and at least nine semitones away from every louder note of the track, or
- it belongs to pitches that are at least an octave from the rest and outside the instrument's range, or two octaves
  from the rest. These notes are rare (at most an eighth of all notes, but at least two) and short, they end before the
  rest sounds, and each is followed by the rest within half a beat.

Drums have none. Of 3,194 pitched tracks of the validation songs, this finds notes in two, in which a recorded keyboard
has notes of velocity 1 sixteen semitones below the melody.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from .instruments import instrument_range

if TYPE_CHECKING:
    from .score import Note, Score, Track

QUIET, QUIET_GAP = 10, 9
GAP, FAR_GAP = 12, 24
SELDOM = 8  # at most one in this many notes is a keyswitch
MIN_MUSIC = 4  # with fewer notes a track has no register


def keyswitches(track: Track, ticks_per_beat: int) -> frozenset[Note]:
    """The keyswitches of a track; mostly none."""
    if track.is_drum or len(track.notes) <= MIN_MUSIC:
        return frozenset()
    loud = [n for n in track.notes if n.velocity > QUIET]
    if len(loud) < MIN_MUSIC:
        return frozenset()
    quiet = _outside([n for n in track.notes if n.velocity <= QUIET], loud, QUIET_GAP)
    return frozenset([*quiet, *_short_and_apart(loud, track.program, ticks_per_beat)])


def without_keyswitches(score: Score) -> Score:
    """The song without its keyswitches, with the same bars."""
    tracks = list(score.tracks)
    for t, track in enumerate(tracks):
        if found := keyswitches(track, score.ticks_per_beat):
            tracks[t] = replace(track, notes=tuple(n for n in track.notes if n not in found))
    if all(a is b for a, b in zip(tracks, score.tracks, strict=True)):
        return score
    return replace(score, tracks=tuple(tracks), end_ticks=max(score.end_ticks, score.bars[-1].end_ticks))


def _outside(notes: Sequence[Note], music: Sequence[Note], gap: int) -> list[Note]:
    low, high = min(n.pitch for n in music) - gap, max(n.pitch for n in music) + gap
    return [n for n in notes if n.pitch <= low or n.pitch >= high]


def _short_and_apart(notes: Sequence[Note], program: int, ticks_per_beat: int) -> list[Note]:
    """The second kind of keyswitch: notes beyond a gap above or below the pitches of most notes."""
    pitches = np.array([n.pitch for n in notes])
    used = np.unique(pitches)
    clusters = np.split(used, np.flatnonzero(np.diff(used) >= GAP) + 1)
    if len(clusters) == 1:
        return []
    register = max(clusters, key=lambda c: np.isin(pitches, c).sum())
    music = [n for n in notes if register[0] <= n.pitch <= register[-1]]
    others = [n for n in notes if not register[0] <= n.pitch <= register[-1]]
    if not 2 <= len(others) <= len(music) / SELDOM:
        return []
    low, high = instrument_range(program)
    if any(low <= n.pitch <= high and n not in _outside([n], music, FAR_GAP) for n in others):
        return []
    half = ticks_per_beat // 2
    onsets = np.array([n.onset_ticks for n in music])
    ends = np.maximum.accumulate(onsets + [n.duration_ticks for n in music])
    for n in others:
        end = n.onset_ticks + n.duration_ticks
        nearest = np.searchsorted(onsets, n.onset_ticks)  # the first note of the music that begins with it or later
        sounding = nearest > 0 and ends[nearest - 1] > n.onset_ticks + ticks_per_beat // 8
        followed = nearest < len(onsets) and end - ticks_per_beat // 8 <= onsets[nearest] <= end + half
        if n.duration_ticks > half or sounding or not followed:
            return []
    return others
