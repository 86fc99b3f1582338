"""Fills are played as their track is: swing, strums, rushed downbeats, flams and ghost notes; and exactly as asked."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from midi_rwkv import Ask, Note, Region, RequestError, Score, Track, load_checkpoint
from midi_rwkv.fill.infill import Infiller
from midi_rwkv.model.config import SamplingConfig
from midi_rwkv.score.groove import Groove, Taken, strokes
from midi_rwkv.score.score import TimeSignature, usual_lead
from midi_rwkv.score.single import is_monophonic

BAR, BEAT = 1920, 480
BARS = 12
CELL = Region.rectangle([0], [(4, 6)])


def track(bar: Sequence[Note], *, is_drum: bool = False, program: int = 0, bars: int = BARS) -> Track:
    """A track that repeats one bar."""
    notes = [n._replace(onset_ticks=b * BAR + n.onset_ticks) for b in range(bars) for n in bar]
    notes = sorted(n for n in notes if n.onset_ticks >= 0)
    lead = usual_lead(np.array([n.onset_ticks for n in notes]), np.arange(bars + 1) * BAR, BEAT)
    return Track("a", program, tuple(notes), is_drum=is_drum, usual_lead=lead)


def song(*tracks: Track) -> Score:
    return Score(BEAT, tracks, (TimeSignature(0, 4, 4),), end_ticks=BARS * BAR)


def played(
    bar: Sequence[Note], written: Sequence[Note], *, is_drum: bool = False, seed: int = 0, **taken
) -> list[Note]:
    """Notes of a bar, as a track that repeats another bar would have them."""
    groove = Groove([bar] * 8, BEAT, is_drum=is_drum)
    return groove.play(strokes(written, BEAT), lambda *_: True, np.random.default_rng(seed), Taken(**taken))


def onsets(notes: Sequence[Note]) -> list[int]:
    return [n.onset_ticks for n in notes]


SWUNG_SIXTEENTHS = [Note(k // 2 * 240 + 139 * (k % 2), 42, 50, 90 if k % 4 == 0 else 60) for k in range(16)]
SWUNG_RIDE = [Note(480 * q + late, 51, 60, 88 - late // 10) for q in range(4) for late in (0, 310)[: 1 + q % 2]]
RUSHED = [Note(480 * q - 18 * (q == 0), p, 440, 90 - 16 * (q > 0)) for q in range(4) for p in (48, 55, 64)]
STRUMMED = [Note(480 * q + 18 * i, p, 300, 90 - 2 * i) for q in range(4) for i, p in enumerate((48, 52, 55, 60))]
FLAMMED = [
    *(Note(480 * q, 36 if q % 2 == 0 else 38, 60, 110) for q in range(4)),
    *(Note(480 * q - 16, 38, 60, 34) for q in (1, 3)),
]


@pytest.mark.parametrize(
    ("bar", "straight"),
    [(SWUNG_SIXTEENTHS, [120 * k for k in range(16)]), (SWUNG_RIDE, [0, 480, 720, 960, 1440, 1680])],
)
def test_swing_is_the_tracks(bar, straight):
    """To the tick, whether a straight note was written or one of triplets."""
    written = [Note(t, bar[0].pitch, 60, 80) for t in straight]
    assert onsets(played(bar, written, is_drum=True)) == onsets(bar)
    assert [n.velocity for n in played(bar, written, is_drum=True)] == [n.velocity for n in bar]
    late = [n._replace(onset_ticks=n.onset_ticks + 10 * (n.onset_ticks % 480 == 310)) for n in bar]
    assert onsets(played(bar, late, is_drum=True)) == onsets(bar)


def test_what_the_track_swings_never_meets_what_is_written_there():
    written = [Note(t, 51, 60, 80) for t in (480, 720, 800, 960)]
    assert onsets(played(SWUNG_RIDE, written, is_drum=True)) == [480, 720, 790, 960]


def test_downbeats_are_rushed():
    written = [Note(480 * q, p, 300, 80) for q in range(4) for p in (50, 57, 65)]
    assert onsets(played(RUSHED, written)) == [-18] * 3 + [480] * 3 + [960] * 3 + [1440] * 3


@pytest.mark.parametrize("spread", [0, 7, 19])
def test_chords_are_strummed(spread):
    """Low to high as the track is, however the model has spread them; a chord of three over the same time."""
    chord = [Note(960 + spread * i, p, 300, 70) for i, p in enumerate((45, 52, 57, 61))]
    assert played(STRUMMED, chord) == [
        n._replace(onset_ticks=960 + 18 * i, velocity=90 - 2 * i) for i, n in enumerate(chord)
    ]
    assert onsets(played(STRUMMED, [chord[0], *chord[2:]])) == [960, 996, 1014]
    assert onsets(played(STRUMMED, chord, together=True)) == [960] * 4


def test_the_order_of_a_grace_note_stays():
    """It is as far from its note, and as soft, as the track has it; without one, the note is the main one."""
    bar = [Note(480 * q + t, p, 60, v) for q in range(1, 4) for t, p, v in ((-32, 71, 50), (0, 72, 96))]
    for grace, main in ((65, 64), (64, 65)):
        found = played(bar, [Note(940, grace, 30, 70), Note(960, main, 400, 80)])
        assert [tuple(n)[::3] for n in found] == [(928, 50), (960, 96)]
        assert [n.pitch for n in found] == [grace, main]
        close = played(bar, [Note(950, grace, 10, 70), Note(960, main, 400, 80)], single=True)
        assert close == [n._replace(duration_ticks=d) for n, d in zip(found, (10, 400), strict=True)]
    assert played(bar, [Note(965, 64, 400, 60)]) == [Note(960, 64, 400, 96)]
    unadorned = [Note(480 * q, 72, 60, 96) for q in range(4)]
    assert onsets(played(unadorned, [Note(945, 65, 10, 50), Note(975, 64, 400, 80)], single=True)) == [930, 960]


def test_a_line_of_single_notes_stays_one(infiller):
    """No note is lost to another that begins with it."""
    bar = [Note(480 * q + t, p, d, v) for q in range(4) for t, p, d, v in ((0, 72, 440, 96), (448, 71, 30, 50))]
    score = song(track(bar, program=73))
    for seed in range(3):
        asked = SamplingConfig(density=(9, 9))
        [found] = infiller(score, Ask(CELL, asked, seed=seed))
        assert [len(found.score.notes_in(0, b)) for b in (4, 5)] == [9, 9]
        assert is_monophonic(found.score.tracks[0].notes, BEAT)


def test_back_beats_are_loud_and_their_flams_come_back():
    """Also where the model wrote the grace note alone; but none is added where notes are counted."""
    written = [Note(480 * q, 36 if q % 2 == 0 else 38, 60, 40) for q in range(4)]
    assert played(FLAMMED, written, is_drum=True, flams=True) == sorted(FLAMMED)
    counted = played(FLAMMED, written, is_drum=True)
    assert [(n.onset_ticks, n.velocity) for n in counted] == [(480 * q, 110) for q in range(4)]


def test_ghost_notes_stay_soft_and_spread():
    """Every hit is one of the track's own, in all their variety."""
    rng = random.Random(0)
    ghosts = [[Note(240 * k + rng.randint(-8, 8), 38, 60, rng.randint(20, 34)) for k in (1, 5)] for _ in range(40)]
    beats = [Note(480, 38, 60, 112), Note(1440, 38, 60, 112)]
    groove = Groove([sorted([*g, *beats]) for g in ghosts], BEAT, is_drum=True)
    written = [Note(t, 38, 60, 70) for t in (240, 480, 1200, 1440)]
    found = [groove.play(strokes(written, BEAT), lambda *_: True, np.random.default_rng(s), Taken()) for s in range(30)]
    own = {(n.onset_ticks, n.velocity) for g in ghosts for n in g}
    drawn = {(n.onset_ticks, n.velocity) for f in found for n in (f[0], f[2])}
    assert drawn <= own
    assert len(drawn) > 20
    assert {n.velocity for f in found for n in (f[1], f[3])} == {112}


places = st.lists(
    st.tuples(st.integers(-30, BAR - 31), st.integers(36, 42), st.integers(1, 127)),
    max_size=12,
    unique_by=lambda p: p[:2],
)


@given(places, places, st.booleans(), st.booleans(), st.sets(st.integers(-40, BAR)), st.integers(0, 9))
def test_notes_only_move_where_they_may(bar, written, is_drum, together, forbidden, seed):
    notes = sorted(Note(t, p, 60, v) for t, p, v in written)
    groove = Groove([[Note(t, p, 60, v) for t, p, v in bar]], BEAT, is_drum=is_drum)
    own = strokes(notes, BEAT)

    def fits(tick: int, _pitch: int) -> bool:
        return tick not in forbidden and -30 <= tick < BAR - 30

    found = groove.play(own, fits, np.random.default_rng(seed), Taken(together=together))
    assert sorted(n.pitch for n in found) == sorted(n.pitch for n in notes)
    assert onsets(found) == sorted(onsets(found))
    assert len({n[:2] for n in found}) == len(found)
    assert all(fits(n.onset_ticks, n.pitch) or n.onset_ticks in onsets(notes) for n in found)
    firsts = iter(found)
    for stroke in own:  # strokes follow each other as before
        assert sorted(next(firsts).pitch for _ in stroke.notes) == sorted(n.pitch for n in stroke.notes)
    unchanged = groove.play(own, fits, np.random.default_rng(seed), Taken(timing=False, velocities=False))
    assert unchanged == notes


@pytest.fixture(scope="module")
def infiller(checkpoint_folder):
    return Infiller(load_checkpoint(checkpoint_folder))


BUSY = SamplingConfig(density=(6, 10))
LIVE = [Note(240 * k + (7, 13)[k % 2], 42, 60, (70, 50)[k % 2]) for k in range(8)]


def fills(infiller, score, feel) -> list[Note]:
    """The notes of several fills."""
    candidates = infiller(score, Ask(CELL, BUSY, candidates=12, seed=1, feel=feel))
    return [n for c in candidates for n in c.fills[0]]


def at_eighths(notes: Sequence[Note]) -> list[Note]:
    """Those up to a position after an eighth."""
    found = [n for n in notes if n.onset_ticks % 240 < 20]
    assert len(found) > 2
    return found


def test_a_fill_is_played_as_its_track(infiller):
    """Near the track's places, a model of random numbers is as late as the track; "model" leaves its notes."""
    score = song(track(LIVE, is_drum=True))
    of_track, of_model, on_grid = (fills(infiller, score, feel) for feel in ("track", "model", "grid"))
    late = at_eighths(of_track)
    assert sum(n.onset_ticks % 240 in (7, 13) for n in late) > 0.9 * len(late)  # others had no room there
    assert sum(n.velocity in (70, 50) for n in late) > 0.9 * len(late)
    assert sum(n.onset_ticks % 240 in (7, 13) for n in of_model) < len(at_eighths(of_track)) / 2
    assert not any(n.onset_ticks % 60 and n.onset_ticks % 80 for n in on_grid)  # 32nds and sextuplets


@pytest.mark.parametrize(("elsewhere", "there", "bars"), [(0, 9, (1, 2)), (9, 0, (4, 5))])
def test_the_feel_of_named_bars(infiller, elsewhere, there, bars):
    """The only late bar of a straight track; and the only straight one of a late track, which is to be replaced."""
    notes = [
        Note(b * BAR + 240 * k + (there if bars[0] <= b < bars[1] else elsewhere), 42, 60, 80)
        for b in range(BARS)
        for k in range(8)
    ]
    score = song(Track("a", 0, tuple(notes), is_drum=True))
    assert {n.onset_ticks % 240 for n in at_eighths(fills(infiller, score, (bars,)))} == {there}


def test_bars_without_a_feel_are_refused(infiller):
    score = song(replace(track(LIVE, bars=6), name="keys"))
    with pytest.raises(RequestError, match="track 1 keys has no notes in the bars that feel names"):
        infiller(score, Ask(CELL, feel=((8, 9),)))
    with pytest.raises(RequestError, match="feel must name bars among 1-12, got 12-13"):
        infiller(score, Ask(CELL, feel=((11, 13),)))


def test_wishes_stay_exact(infiller):
    """So many notes at a time begin at one tick, though the track strums; no flam is added where notes are counted."""
    score = song(track(STRUMMED))
    for seed in range(3):
        wish = SamplingConfig(polyphony=(2, 3), density=(8, 16))
        [found] = infiller(score, Ask(CELL, wish, seed=seed))
        counts = [onsets(found.fills[0]).count(t) for t in set(onsets(found.fills[0]))]
        assert all(2 <= c <= 3 for c in counts)
    flams = song(track(FLAMMED, is_drum=True))
    [found] = infiller(flams, Ask(CELL, SamplingConfig(density=(6, 6)), seed=4))
    assert [sum(b * BAR <= t < (b + 1) * BAR for t in onsets(found.fills[0])) for b in (4, 5)] == [6, 6]


@pytest.mark.parametrize("is_drum", [True, False])
def test_new_notes_stay_in_their_cells_and_off_the_notes_that_stay(infiller, is_drum):
    score = song(track([*LIVE, Note(1890, 42, 500, 70)], is_drum=is_drum))
    kept = [Note(4 * BAR + 470, 42, 300, 80)]
    for seed in range(4):
        [found] = infiller(score, Ask(CELL, BUSY, seed=seed, locked={0: kept}))
        for n in found.fills[0]:
            assert (0, score.bar_of(0, n.onset_ticks)) in CELL.cells
            assert n in kept or n.pitch != 42 or not 470 <= n.onset_ticks - 4 * BAR < 770
