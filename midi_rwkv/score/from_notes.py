"""A song from notes in beats, as programs without MIDI files have them: the reverse of `clip.notes_json`."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from midi_rwkv.errors import RequestError

from .score import Note, Score, Tempo, TimeSignature, Track, bar_lines, usual_lead

TICKS_PER_BEAT = 960
MOST_BEATS = 100_000.0
BPM = (1.0, 1000.0)
DENOMINATORS = (1, 2, 4, 8, 16, 32, 64)
METRE = re.compile(r"([0-9]{1,2})/([0-9]{1,2})")

BeatNote = tuple[float, int, float, int]  # onset in quarter notes, MIDI pitch, duration in quarter notes, velocity


@dataclass(frozen=True)
class Part:
    """A track: its General MIDI program, 0-127, and its notes in any order."""

    name: str
    program: int
    drums: bool
    notes: Sequence[BeatNote]


def score_of(
    parts: Sequence[Part],
    tempo: Sequence[tuple[float, float]] = ((0.0, 120.0),),
    metre: Sequence[tuple[float, str]] = ((0.0, "4/4"),),
    name: str = "song",
) -> Score:
    """The score of some tracks. Of two notes that begin as one the longer stays, and a note ends where its pitch
    begins again.

    Args:
        tempo: (beat, quarter notes per minute), ascending.
        metre: (beat, "6/8"), ascending.

    Raises:
        RequestError: a value is out of range.
    """
    if not parts:
        raise RequestError("the song has no tracks; give at least one, which may be empty")
    _check_ascending("tempo", [beat for beat, _ in tempo])
    _check_ascending("metre", [beat for beat, _ in metre])
    for beat, value in tempo:
        if not BPM[0] <= value <= BPM[1]:
            raise RequestError(f"the tempo at beat {beat:g} must be {BPM[0]:g}-{BPM[1]:g} a minute, got {value:g}")
    tempos = tuple(Tempo(_ticks(beat, "tempo"), round(60e6 / value)) for beat, value in tempo)
    signatures = tuple(TimeSignature(_ticks(beat, "metre"), *_metre(text)) for beat, text in metre)
    tracks = tuple(_track(number, part) for number, part in enumerate(parts, 1))
    score = Score(TICKS_PER_BEAT, tracks, signatures, tempos, name=name)
    lines = bar_lines(score.bars)
    onsets = [np.array([n.onset_ticks for n in t.notes], np.int64) for t in tracks]
    leads = [usual_lead(own, lines, TICKS_PER_BEAT) for own in onsets]
    return replace(score, tracks=tuple(replace(t, usual_lead=lead) for t, lead in zip(tracks, leads, strict=True)))


def _track(number: int, part: Part) -> Track:
    where = f"track {number}"
    if not 0 <= part.program <= 127:
        raise RequestError(f"the program of {where} must be 0-127, got {part.program}")
    longest: dict[tuple[int, int], Note] = {}
    for onset, pitch, duration, velocity in part.notes:
        if not 0 <= pitch <= 127 or not 1 <= velocity <= 127:
            raise RequestError(
                f"notes of {where} must have pitches 0-127 and velocities 1-127, got {pitch} and {velocity}"
            )
        begin = _ticks(onset, where)
        note = Note(begin, pitch, max(1, _ticks(onset + duration, where) - begin), velocity)
        longest[begin, pitch] = max(note, longest.get((begin, pitch), note))
    notes = sorted(longest.values())
    by_pitch: dict[int, list[Note]] = {}
    for note in notes:
        by_pitch.setdefault(note.pitch, []).append(note)
    ends = {
        a: b.onset_ticks
        for same in by_pitch.values()
        for a, b in pairwise(same)
        if a.onset_ticks + a.duration_ticks > b.onset_ticks
    }
    cut = [n._replace(duration_ticks=ends[n] - n.onset_ticks) if n in ends else n for n in notes]
    return Track(part.name, part.program, tuple(cut), is_drum=part.drums)


def _ticks(beat: float, where: str) -> int:
    if not (math.isfinite(beat) and 0 <= beat <= MOST_BEATS):
        raise RequestError(f"beats of {where} must lie in 0-{MOST_BEATS:,.0f}, got {beat:g}")
    return round(beat * TICKS_PER_BEAT)


def _metre(text: str) -> tuple[int, int]:
    found = METRE.fullmatch(text)
    if not found or not int(found[1]) or int(found[2]) not in DENOMINATORS:
        raise RequestError(f"a metre must be like 4/4 or 6/8, got {text[:20]!r}")
    return int(found[1]), int(found[2])


def _check_ascending(name: str, beats: Sequence[float]) -> None:
    if not beats or beats[0] != 0 or any(a >= b for a, b in pairwise(beats)):
        raise RequestError(f"{name} must begin at beat 0 and ascend, got beats {', '.join(f'{b:g}' for b in beats)}")
