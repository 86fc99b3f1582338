"""Features of the candidates of one ask, by which a listener's taste (style/taste.py) tells them apart.

They are those of `features` that say how a candidate stands to its song and region: density, register, range, repeated
notes, leaps, chord tones, metrical places, velocity, length, and similarity to the bars around it. A region that is no
rectangle is described by the rectangle around it; what stands in its other cells is the same for all candidates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from midi_rwkv.fill.ranking import Fill, Order
from midi_rwkv.model.step_checkpoint import StepCheckpoint
from midi_rwkv.score.score import Region, Score
from midi_rwkv.style.choices import Choices, Rows
from midi_rwkv.style.taste import Taste, judge_taste
from midi_rwkv.tokens.attributes import Vocabulary
from midi_rwkv.tokens.chords import SongChords, find_chords
from midi_rwkv.tokens.notes import encode

from .cases import Case
from .features import features_in

TRAITS = {  # what more and what less of each is called; between bars, how far from 0 it is
    "onsets beside nearby": ("busier", "sparser"),
    "|onsets beside nearby|": ("another density than around it", "as dense as around it"),
    "notes an onset": ("fuller chords", "thinner chords"),
    "pitch beside nearby": ("higher", "lower"),
    "|pitch beside nearby|": ("another register than around it", "in the register around it"),
    "range": ("a wider range", "a narrower range"),
    "repeats beside nearby": ("more repeated notes", "fewer repeated notes"),
    "steps": ("more steps", "fewer steps"),
    "leaps": ("more leaps", "fewer leaps"),
    "chord_tones": ("more chord tones", "fewer chord tones"),
    "out of key": ("more notes out of the key", "fewer notes out of the key"),
    "on the beat": ("more on the beat", "more off the beat"),
    "begins after": ("a later start", "an earlier start"),
    "velocity": ("louder", "softer"),
    "duration": ("longer notes", "shorter notes"),
    "like the bar before": ("more like the bar before", "less like the bar before"),
    "like the most similar bar": ("more like bars of the song", "less like bars of the song"),
    "bars repeat within": ("bars more alike", "bars less alike"),
    "onsets shared with others": ("more together with other tracks", "less together with other tracks"),
}


def candidate_features(score: Score, region: Region, fills: Sequence[Fill], vocabulary: Vocabulary) -> Rows:
    """Each of `TRAITS` for each fill of the region; nan where there is nothing to tell."""
    bars = range(region.bars[0], region.bars[-1] + 1)
    case = Case("song", 0, score.name, region.tracks, bars.start, len(bars))
    given, chords = case.given(score), {"chord_tones": _chords_around(case, score, vocabulary)}
    stay = {t: [n for b in bars if (t, b) not in region.cells for n in score.notes_in(t, b)] for t in case.tracks}
    told = []
    for fill in fills:
        notes = {t: sorted([*stay[t], *fill.get(t, ())]) for t in case.tracks}
        told.append(features_in(case, given, notes, chords))
    rows = {name: [of.get(name.strip("|"), math.nan) for of in told] for name in TRAITS}
    return {name: [abs(v) for v in values] if name.startswith("|") else values for name, values in rows.items()}


def _chords_around(case: Case, score: Score, vocabulary: Vocabulary) -> SongChords:
    """The chords of the tracks that are not asked for, also in bars beyond the song's end."""
    bars = [score.bar(b) for b in range(max(len(score.bars), case.last))]
    tracks = (replace(track, notes=()) if t in case.tracks else track for t, track in enumerate(score.tracks))
    return find_chords(encode(vocabulary, replace(score, tracks=tuple(tracks)), bars), vocabulary)


def order_of(taste: Taste, vocabulary: Vocabulary) -> Order:
    """The order in which the listener would like to see candidates."""
    return lambda score, region, fills: taste.order(candidate_features(score, region, fills, vocabulary))


def own_taste(checkpoint: StepCheckpoint) -> Order | None:
    """The order of this machine's listener; None where it is switched off, or not known to help."""
    choices = Choices()
    taste = judge_taste(choices.read()).taste if choices.is_on else None
    return order_of(taste, checkpoint.vocabulary) if taste else None


def in_words(taste: Taste, most: int = 3) -> list[str]:
    """What the taste prefers, the strongest first."""
    strongest = sorted(((abs(w), name, w) for name, w in taste.weights.items() if name in TRAITS), reverse=True)
    return [TRAITS[name][0 if w > 0 else 1] for size, name, w in strongest[:most] if size]
