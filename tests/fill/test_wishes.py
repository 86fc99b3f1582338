"""A wish is met exactly, or refused in one line before anything is written."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midi_rwkv import Ask
from midi_rwkv.fill.infill import Infiller
from midi_rwkv.model.checkpoint import load_checkpoint
from midi_rwkv.model.config import SamplingConfig
from midi_rwkv.score.score import Note, Region, Score, TimeSignature, Track


@pytest.fixture(scope="module")
def infiller(checkpoint_folder):
    return Infiller(load_checkpoint(checkpoint_folder))


def song() -> Score:
    """Short bars: a lead of single notes, chords, a small kit, and an empty track."""
    bar = 480
    lead = [Note(b * bar + k * 240, 60 + (b + k) % 5, 230, 80) for b in range(8) for k in range(2)]
    lead[5] = lead[5]._replace(duration_ticks=260)  # a little into bar 3
    chords = [Note(b * bar, p, 480, 70) for b in range(8) for p in (48, 52, 55)]
    chords.append(Note(2 * bar + 100, 59, 3 * bar, 70))  # rings through bars 3 and 4
    kit = [Note(b * bar + k * 240, (60, 72)[k], 60, 99) for b in range(8) for k in range(2)]
    tracks = (
        Track("lead", 56, tuple(lead)),
        Track("chords", 0, tuple(sorted(chords))),
        Track("kit", 0, tuple(kit), is_drum=True),
        Track("new", 40, ()),
    )
    return Score(480, tracks, (TimeSignature(0, 1, 4),), end_ticks=8 * bar)


SONG = song()


@st.composite
def wishes(draw):
    def span(low, high, width):
        first = draw(st.integers(low, high))
        return first, min(first + draw(st.integers(0, width)), high + width)

    return SamplingConfig(
        density=span(0, 14, 4) if draw(st.booleans()) else None,
        polyphony=span(1, 4, 2) if draw(st.booleans()) else None,
        pitch_range=span(46, 76, 12) if draw(st.booleans()) else None,
        key=draw(st.one_of(st.none(), st.just((0, 2, 4, 5, 7, 9, 11)), st.tuples(st.integers(0, 11)))),
    )


@given(
    asked=wishes(),
    track=st.integers(0, 3),
    first=st.integers(1, 4),
    bars=st.integers(1, 3),
    lock=st.lists(st.tuples(st.integers(0, 1439), st.integers(50, 70), st.integers(10, 700)), max_size=3),
    seed=st.integers(0, 99),
)
@settings(max_examples=150)
def test_every_wish_is_met_or_refused(  # noqa: PLR0913 -- a fixture and draws
    infiller, asked, track, first, bars, lock, seed
):
    region = Region.rectangle([track], [(first, first + bars)])
    start = SONG.bar(first).start_ticks
    places = {(start + onset % (bars * 480), pitch): length for onset, pitch, length in lock}
    places = {
        p: length for p, length in places.items() if SONG.bar_of(track, p[0]) < first + bars
    }  # not the next downbeat
    locked = {track: [Note(onset, pitch, length, 90) for (onset, pitch), length in sorted(places.items())]}
    try:
        [found] = infiller(SONG, Ask(region, asked, seed=seed, locked=locked))
    except ValueError as error:
        refusal = str(error)
    else:
        refusal = ""
    if refusal:
        assert "\n" not in refusal
        assert len(refusal) < 200
        assert asked != SamplingConfig()
        return
    notes, own = found.fills[track], locked[track]
    assert set(own) <= set(notes)
    new = [n for n in notes if n not in own]
    for b in range(first, first + bars):
        if asked.density:
            count = sum(SONG.bar_of(track, n.onset_ticks) == b for n in notes)
            assert asked.density[0] <= count <= asked.density[1]
    assert asked.density or notes, "asked for music"
    if asked.polyphony:
        struck = np.unique([n.onset_ticks for n in new if not near(n, own)], return_counts=True)[1]
        assert all(asked.polyphony[0] <= s <= asked.polyphony[1] for s in struck)
    if asked.pitch_range:
        assert all(asked.pitch_range[0] <= n.pitch <= asked.pitch_range[1] for n in new)
    elif SONG.tracks[track].is_drum:
        assert {n.pitch for n in new} <= {60, 72}
    if asked.key and not SONG.tracks[track].is_drum:
        assert all(n.pitch % 12 in asked.key for n in new)
    if (asked.polyphony and asked.polyphony[1] == 1) or (track in (0, 2) and not asked.polyphony and not own):
        kept = [n for n in SONG.tracks[track].notes if not start <= n.onset_ticks < start + bars * 480]
        for n in notes:
            others = [k for k in (*kept, *notes) if k is not n]
            assert not any(k.onset_ticks <= n.onset_ticks < k.onset_ticks + k.duration_ticks for k in others)


def near(note, own):
    return any(abs(note.onset_ticks - k.onset_ticks) <= 20 for k in own)


@pytest.mark.parametrize(
    ("track", "asked", "said"),
    [
        (0, {"key": (0,), "pitch_range": (61, 66)}, "no pitch of the key lies in the pitch range 61-66"),
        (2, {"pitch_range": (90, 99)}, "track 3 kit has no drums in the pitch range 90-99"),
        (0, {"pitch_range": (60, 60), "polyphony": (2, 3)}, "2 notes are to begin together and only 1 pitch can"),
        (0, {"density": (25, 30), "polyphony": (1, 1)}, "25 notes are asked for and no more than (12|22) fit in"),
        (3, {"density": (3, 3), "polyphony": (2, 2)}, "3 notes a bar cannot be struck 2 at a time"),
        (1, {"pitch_range": (59, 59)}, "bar 4 of track 2 chords: a note that stays sounds all through it"),
        (1, {"pitch_range": (59, 59), "density": (1, 4)}, "a note that stays sounds all through it"),
    ],
)
def test_the_conflict_is_named(infiller, track, asked, said):
    with pytest.raises(ValueError, match=said):
        infiller(SONG, Ask(Region.rectangle([track], [(3, 4)]), SamplingConfig(**asked)))


def test_locks_that_contradict_a_wish(infiller):
    together = {1: [Note(1440, 48, 480, 80), Note(1440, 52, 480, 80)]}
    apart = {1: [Note(1440, 48, 300, 80), Note(1680, 52, 100, 80)]}
    region = Region.rectangle([1], [(3, 4)])
    for locked, asked, said in (
        (together, {"polyphony": (1, 1)}, "bar 4 of track 2 chords: a locked note sounds with another"),
        (apart, {"polyphony": (1, 1)}, "a locked note sounds with another and the polyphony allows 1"),
        (apart, {"density": (0, 1)}, "2 notes are locked and the density allows 1"),
    ):
        with pytest.raises(ValueError, match=said):
            infiller(SONG, Ask(region, SamplingConfig(**asked), locked=locked))
