"""Pedal for new notes, copied from the bars around."""

import pytest

from midi_rwkv.score.midi import read_midi
from midi_rwkv.score.score import Note, Region
from midi_rwkv.score.smf import read_events, read_layout
from midi_rwkv.score.splice import splice

BAR = 1920


def pedal(tick, down):
    return tick, bytes([0xB0, 64, 127 if down else 0])


@pytest.fixture
def piano(build_midi, note):
    """Bars of two chords, pedalled: down just after each, up just before the next; bars 3 and 9 have four chords."""

    def build(bars=12, pedalled=range(12), whole=()):
        events = []
        for b in range(bars):
            places = range(0, BAR, 480 if b in (3, 9) else 960)
            for at in places:
                tick = b * BAR + at
                events += [e for p in (48, 55, 64) for e in note(tick, p, 300)]
                if b in pedalled and b not in whole:
                    events += [pedal(tick + 20, down=True), pedal(tick + places.step - 15, down=False)]
            if b in whole:
                events += [pedal(b * BAR + 10, down=False), pedal(b * BAR + 40, down=True)]
        return build_midi([sorted(events, key=lambda e: e[0])])

    return build


def pedal_in(song, lo, hi):
    return [
        (tick - lo, payload[1] > 0)
        for tick, status, payload, _ in read_events(read_layout(song), 0)[0]
        if status == 0xB0 and lo <= tick < hi
    ]


def filled(song, bars, steps, **options):
    notes = [Note(b * BAR + at, 60, 200, 80) for b in range(*bars) for at in steps]
    return splice(song, read_midi(song), Region.rectangle([0], [bars]), {0: notes}, **options)


def test_a_new_bar_is_pedalled_like_the_most_similar_one_nearby(piano, check_fill):
    twice, four = ([(at + d, d == 20) for at in range(0, BAR, step) for d in (20, step - 15)] for step in (960, 480))
    for steps, wanted in (((0, 960), twice), ((0, 480, 960, 1440), four), ((0, 480, 960), four)):
        out = filled(piano(), (5, 7), steps)
        assert [pedal_in(out, b * BAR, (b + 1) * BAR) for b in (4, 5, 6, 7)] == [twice, wanted, wanted, twice]
        assert check_fill(piano(), out, [(0, 0, 5 * BAR, 7 * BAR)]) == []


def test_pedal_held_over_bar_lines_is_released_where_it_was(piano, check_fill):
    """It is changed just after each chord: bar 5 begins with the release of what bar 4 held."""
    song = piano(whole=range(12))
    out = filled(song, (5, 7), (0, 960))
    assert pedal_in(out, 5 * BAR, 7 * BAR) == [(10, False), (40, True), (BAR + 10, False), (BAR + 40, True)]
    assert check_fill(song, out, [(0, 0, 5 * BAR, 7 * BAR)]) == []
    song = piano(whole=range(7))  # from bar 7 on it is up before the next chord: what bar 6 holds is released
    assert pedal_in(filled(song, (5, 7), (0, 960)), 5 * BAR, 7 * BAR + 1)[-1] == (2 * BAR, True)


def test_where_bars_around_have_no_pedal_new_ones_get_none(piano):
    assert pedal_in(filled(piano(pedalled=(5, 6)), (5, 7), (0, 960)), 0, 12 * BAR) == []
    assert pedal_in(filled(piano(pedalled=(1, 5, 6)), (5, 7), (0, 960)), 5 * BAR, 12 * BAR) == []
    silent = splice(piano(), read_midi(piano()), Region.rectangle([0], [(5, 7)]), {0: []})
    assert pedal_in(silent, 5 * BAR, 7 * BAR) == []


def test_pedal_stays_where_a_note_does(piano):
    song = piano()
    fill = [*read_midi(song).notes_in(0, 5), Note(5 * BAR + 480, 70, 100, 80), Note(6 * BAR, 70, 100, 80)]
    out = splice(song, read_midi(song), Region.rectangle([0], [(5, 7)]), {0: fill})
    first = pedal_in(out, 5 * BAR, 6 * BAR)
    assert (20, True) in first
    assert len(first) == len(set(first)) <= 4
