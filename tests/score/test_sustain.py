"""How long new notes sound: over the end of their bars, until the next onset, and without rests."""

from midi_rwkv.score.runs import masked_runs
from midi_rwkv.score.score import Note, Region, Score, TimeSignature, Track
from midi_rwkv.score.sustain import ends_with_next, gaps, longest_ring, never_rests, sustained

BAR = 1920
REGION = Region.rectangle([0], [(4, 6)])


def song(notes, bars=10, program=0):
    track = Track("a", program, tuple(sorted(n for n in notes if not 4 * BAR <= n.onset_ticks < 6 * BAR)))
    return Score(480, (track,), (TimeSignature(0, 4, 4),), end_ticks=bars * BAR)


def fitted(score, new, *, region=REGION, locked=(), hold=True):
    return sustained(new, score, 0, masked_runs(score, region, 0), locked, hold=hold)


def test_notes_ring_over_the_end_as_far_as_the_tracks_own():
    chords = song([Note(b * BAR + 960 * k, p, 1200, 80) for b in range(10) for k in range(2) for p in (48, 55)])
    assert longest_ring(chords, 0) == 240
    late = [Note(5 * BAR + 1440, 60, length, 80) for length in (480, 700, 2000)]
    assert [n.duration_ticks for n in fitted(chords, late)] == [480, 700, 720]
    short = song([Note(b * BAR + 480 * k, p, 400, 80) for b in range(10) for k in range(4) for p in (48, 55)])
    assert [n.duration_ticks for n in fitted(short, late)] == [480, 480, 480]
    at_end = Region.rectangle([0], [(8, 10)])
    assert fitted(chords, [Note(9 * BAR + 960, 60, 2000, 80)], region=at_end)[0].duration_ticks == 960


def test_notes_end_with_the_next_onset_where_the_tracks_own_do():
    """A chord of the fill ends where the chord after the region begins, whatever its pitches."""
    pads = [Note(b * BAR, p + b % 2, 2 * BAR - 10, 80) for b in range(0, 10, 2) for p in (48, 52, 55)]
    score = song(pads)
    assert ends_with_next(score.tracks[0].notes, 480)
    new = [Note(4 * BAR, 50, 4 * BAR, 80), Note(4 * BAR + 30, 53, 4 * BAR, 80), Note(5 * BAR, 60, 3 * BAR, 80)]
    assert fitted(score, new) == [
        Note(4 * BAR, 50, BAR, 80),
        Note(4 * BAR + 30, 53, BAR - 30, 80),
        Note(5 * BAR, 60, BAR, 80),
    ]
    drone = [Note(b * BAR, 36, 10 * BAR, 80) for b in range(0, 10, 3)]
    assert not ends_with_next([*score.tracks[0].notes, *drone], 480)
    assert not ends_with_next(pads[:3], 480)  # no evidence


def test_a_track_that_never_rests_has_no_rest_in_its_fill():
    walking = song([Note(b * BAR + 480 * k, 40 + k, 400, 80) for b in range(10) for k in range(4)])
    run = masked_runs(walking, REGION, 0)[0]
    assert never_rests(walking, 0, run)
    new = [Note(4 * BAR, 40, 400, 80), Note(4 * BAR + 480, 43, 200, 80), Note(5 * BAR, 45, 400, 80)]
    held = [new[0], new[1]._replace(duration_ticks=BAR - 480), new[2]._replace(duration_ticks=BAR)]
    assert fitted(walking, new) == held
    assert fitted(walking, new, hold=False) == new
    locked = [Note(5 * BAR + 400, 50, BAR - 400, 80)]
    assert fitted(walking, new, locked=locked) == [*held[:2], new[2]]
    rests = song([Note(b * BAR + 960 * k, 40 + k, 400, 80) for b in range(10) for k in range(2)])
    assert not never_rests(rests, 0, run)
    assert fitted(rests, new) == new
    assert not never_rests(song([]), 0, run)


def test_gaps_are_longer_than_half_a_beat():
    notes = [Note(0, 60, 480, 80), Note(0, 62, 1000, 80), Note(1240, 60, 100, 80), Note(1581, 60, 100, 80)]
    assert gaps(notes, 0, 1900, 480) == [(1340, 1581)]
    assert gaps(notes, 0, 1922, 480) == [(1340, 1581), (1681, 1922)]
