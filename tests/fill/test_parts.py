"""A part of a cell, or something of its notes, is kept exactly, or the ask is refused in one line."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from midi_rwkv import Ask, RequestError
from midi_rwkv.fill.ask import KEEPS, Like
from midi_rwkv.fill.infill import Infiller
from midi_rwkv.fill.over_chords import OverChords
from midi_rwkv.model.checkpoint import load_checkpoint
from midi_rwkv.model.config import SamplingConfig
from midi_rwkv.score.harmony import ChordSpan
from midi_rwkv.score.score import Note, Region, Score, TimeSignature, Track

BEAT, BAR = 480, 960
A_MINOR = ChordSpan(2 * BAR, 3 * BAR, "Am", frozenset({9, 0, 4}), root=9, bass=9, quality="min")
G_OVER_B = ChordSpan(3 * BAR, 5 * BAR, "G/B", frozenset({7, 11, 2}), root=7, bass=11, quality="maj")


@pytest.fixture(scope="module")
def infiller(checkpoint_folder):
    return Infiller(load_checkpoint(checkpoint_folder))


def song() -> Score:
    """2/4: both hands of a piano, a swung bass, a kit, and a line that plays off the grid."""
    right = [Note(b * BAR + k * 240, 72 + (2 * k + b) % 7, 230, 90) for b in range(8) for k in range(4)]
    left = [Note(b * BAR, p + b % 3, 900, 60) for b in range(8) for p in (45, 52)]
    bass = [Note(b * BAR + k, 33 + (b + i) % 5, 200, 80) for b in range(8) for i, k in enumerate((0, 320, 480, 800))]
    kit = [Note(b * BAR + k * 240, (36, 42, 38, 42)[k], 60, 99 - 9 * k) for b in range(8) for k in range(4)]
    loose = [
        Note(max(0, b * BAR + k * 240 - 13 + 5 * k), 60 + (b + 3 * k) % 9, 210, 70 + k)
        for b in range(8)
        for k in range(4)
    ]
    tracks = (
        Track("Piano", 0, tuple(sorted(right + left))),
        Track("Bass", 33, tuple(bass)),
        Track("Kit", 0, tuple(kit), is_drum=True),
        Track("Lead", 73, tuple(loose)),
    )
    return Score(480, tracks, (TimeSignature(0, 2, 4),), end_ticks=8 * BAR)


SONG = song()


def notes_of(score: Score, track: int, region: Region) -> list[Note]:
    return [n for t, b in sorted(region.cells) if t == track for n in score.notes_in(t, b)]


@st.composite
def asks(draw):
    track, first, bars = draw(st.integers(0, 3)), draw(st.integers(2, 4)), draw(st.integers(1, 2))
    wishes: dict[str, object] = {}
    if draw(st.booleans()):
        low = first * BAR + BEAT * draw(st.integers(0, 2 * bars - 1))
        wishes["within"] = ((low, low + BEAT * draw(st.integers(1, 3))),)
    if draw(st.booleans()):
        pitch = draw(st.integers(30, 80))
        wishes[draw(st.sampled_from(["only", "spare"]))] = pitch, pitch + draw(st.integers(0, 30))
    if draw(st.booleans()):
        wishes["keep"] = draw(st.frozensets(st.sampled_from(KEEPS), max_size=2))
    elif draw(st.booleans()):
        wishes["vary"] = draw(st.sampled_from([0.1, 0.3, 0.6, 1.0]))
    if draw(st.booleans()):
        there = notes_of(SONG, track, Region.rectangle([track], [(first, first + bars)]))
        wishes["locked"] = {track: there[:: draw(st.integers(2, 4))]}
    if draw(st.booleans()):
        wishes["chords"], wishes["free_bass"] = (A_MINOR, G_OVER_B), draw(st.booleans())
    if draw(st.booleans()):
        wishes["like"] = draw(
            st.sampled_from([Like(((0, 2),)), Like(((0, 1),), 1), Like(score=SONG), Like(itself=True)])
        )
    sampling = SamplingConfig(
        polyphony=draw(st.sampled_from([None, None, (1, 1), (2, 3)])),
        density=draw(st.sampled_from([None, None, "sparse", "busy", (2, 4)])),
        key=draw(st.sampled_from([None, None, (0, 2, 4, 5, 7, 9, 11)])),
    )
    return Region.rectangle([track], [(first, first + bars)]), sampling, wishes, draw(st.integers(0, 99))


@given(asks())
@settings(max_examples=150, deadline=None)
def test_what_is_kept_is_kept_exactly(infiller, asked):
    region, sampling, wishes, seed = asked
    try:
        ask = Ask(region, sampling, seed=seed, **wishes)
        [found] = infiller(SONG, ask)
    except RequestError as error:
        event(str(error)[:40])
        return
    [track] = region.tracks
    old, new = notes_of(SONG, track, region), notes_of(found.score, track, region)
    stays = [n for n in old if not _in_part(ask, track, n) or n in ask.locked.get(track, ())]
    assert not Counter(stays) - Counter(new)
    written = sorted((Counter(new) - Counter(stays)).elements())
    assert all(_in_part(ask, track, n) for n in written)
    if ask.vary is None:
        replaced = [n for n in old if n not in stays]
        _check_kept(ask, replaced, written)
    if ask.chords:
        _check_chords(ask, SONG.tracks[track], sorted((Counter(new) - Counter(old)).elements()))


def _in_part(ask: Ask, track: int, n: Note) -> bool:
    at = n.onset_ticks + SONG.lead_ticks(SONG.tracks[track])
    inside = ask.within is None or any(lo <= at < hi for lo, hi in ask.within)
    only = ask.only is None or ask.only[0] <= n.pitch <= ask.only[1]
    return inside and only and (ask.spare is None or not ask.spare[0] <= n.pitch <= ask.spare[1])


def _check_kept(ask: Ask, old: list[Note], new: list[Note]) -> None:
    if ask.keep:
        assert len(old) == len(new)
    if "rhythm" in ask.keep:
        assert [n.onset_ticks for n in old] == [n.onset_ticks for n in new]
    if "pitches" in ask.keep:
        assert [n.pitch for n in old] == [n.pitch for n in new]
    if "contour" in ask.keep:
        by_bar = [[[n.pitch for n in ns if n.onset_ticks // BAR == b] for b in range(9)] for ns in (old, new)]
        if all(n.onset_ticks % BAR < BAR - 40 for n in [*old, *new]):  # none is early
            for was, now in zip(*by_bar, strict=True):
                assert [np.sign(b - a) for a, b in pairwise(was)] == [np.sign(b - a) for a, b in pairwise(now)]
    if "velocities" in ask.keep:
        assert [n.velocity for n in old] == [n.velocity for n in new]


def _check_chords(ask: Ask, track: Track, new: list[Note]) -> None:
    if track.is_drum:
        return
    over = OverChords(SONG, ask.chords, free_bass=ask.free_bass)
    for n in new:
        for bar in SONG.bars[2:5]:
            for strong in over.strong_ticks(bar):
                chord = next(c for c in ask.chords if c.start_ticks <= strong < c.end_ticks)
                if n.onset_ticks - 10 <= strong < n.onset_ticks + n.duration_ticks:
                    root_due = strong == chord.start_ticks and track.name == "Bass" and not ask.free_bass
                    assert n.pitch % 12 in ({chord.bass} if root_due else chord.tones)


def test_a_larger_share_varies_more(infiller):
    region = Region.rectangle([0, 3], [(2, 6)])
    kept = []
    for share in (0.1, 0.3, 0.6):
        [found] = infiller(SONG, Ask(region, seed=3, vary=share))
        old = [Counter(notes_of(SONG, t, region)) for t in region.tracks]
        new = [Counter(notes_of(found.score, t, region)) for t in region.tracks]
        kept.append(sum((a & b).total() for a, b in zip(old, new, strict=True)) / sum(a.total() for a in old))
    assert kept[0] > kept[1] > kept[2]
    assert kept[0] >= 0.8


@pytest.mark.parametrize(
    ("wishes", "told"),
    [
        ({"keep": {"velocities"}}, "add one of them"),
        ({"keep": {"rhythm", "pitches"}}, "keep one of them"),
        ({"keep": {"rhythm"}, "vary": 0.5}, "ask for one of them"),
        ({"keep": {"tempo"}}, "keep takes"),
        ({"vary": 1.5}, "vary must be"),
        ({"only": (60, 50)}, "only must be"),
        ({"feel": "funky"}, "feel must be"),
    ],
)
def test_bad_wishes_are_refused(wishes, told):
    with pytest.raises(RequestError, match=told):
        Ask(Region.rectangle([0], [(2, 3)]), **wishes)


@pytest.mark.parametrize(
    ("sampling", "wishes", "told"),
    [
        ({}, {"only": (60, 70), "spare": (50, 80)}, "every pitch to write is one to keep"),
        ({"density": (9, 12)}, {"keep": {"rhythm"}}, "what is kept has 6 notes"),
        ({"polyphony": (2, 2)}, {"keep": {"contour"}}, "no polyphony but 1"),
        ({"key": (1,)}, {"keep": {"pitches"}}, "cannot be kept"),
        ({}, {"keep": {"rhythm"}, "within": ((0, 10),)}, "lies outside the region"),
    ],
)
def test_wishes_that_exclude_each_other_are_refused(infiller, sampling, wishes, told):
    with pytest.raises(RequestError, match=told):
        infiller(SONG, Ask(Region.rectangle([0], [(2, 3)]), SamplingConfig(**sampling), **wishes))
