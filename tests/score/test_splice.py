"""The splice, by hand-made files with the expected events. See test_splice_properties.py too."""

import io
import struct

import mido
import pytest

from midi_rwkv.errors import MidiError
from midi_rwkv.score.midi import read_midi
from midi_rwkv.score.score import Cell, Note, Region, Track
from midi_rwkv.score.smf import read_events, read_layout
from midi_rwkv.score.splice import splice

BAR = 1920  # ticks of a 4/4 bar at 480 a beat


def events(data, chunk=0):
    """(tick, bytes) of one chunk, without its end-of-track."""
    raw, _ = read_events(read_layout(data), chunk)
    return [(tick, bytes([status]) + payload) for tick, status, payload, _ in raw if payload[:1] != b"\x2f"]


def fill(data, notes, bars=(1, 2), track=0, **options):
    """Fills bars of one track and gives the first chunk's events."""
    return events(splice(data, read_midi(data), Region.rectangle([track], [bars]), {track: notes}, **options))


def on(tick, pitch, velocity=80):
    return tick, bytes([0x90, pitch, velocity])


def off(tick, pitch, velocity=64):
    return tick, bytes([0x80, pitch, velocity])


def bend(tick, value):
    return tick, b"\xe0" + struct.pack("BB", value & 0x7F, value >> 7)


def pedal(tick, value):
    return tick, bytes([0xB0, 64, value])


CENTRE = 8192


def test_notes_at_the_edges(build_midi):
    """Bar 1 is masked: what begins in it goes with its note-off, what rings into it stays with its own."""
    song = [
        on(0, 60),
        on(1890, 61),
        on(BAR, 62),
        off(2000, 60),
        on(3810, 63),
        off(3000 + BAR, 62),
        on(2 * BAR, 64),
        off(2 * BAR, 64),
        off(5000, 61),
        off(5001, 63),
    ]
    song.sort(key=lambda e: e[0])
    kept = [on(0, 60), on(1890, 61), off(2000, 60), on(2 * BAR, 64), off(2 * BAR, 64), off(5000, 61)]
    assert fill(build_midi([song]), []) == kept
    new = fill(build_midi([song]), [Note(2000, 60, 50, 90), Note(2500, 61, 10, 90), Note(3800, 62, 1000, 90)])
    assert (
        new
        == [
            *kept[:3],
            on(2000, 60, 90),  # where the old 60 ends, after it
            off(2050, 60, 0),
            on(3800, 62, 90),  # 61 was left out: the old one still sounds
            *kept[3:5],
            off(4800, 62, 0),  # over the end of its bar
            *kept[5:],
        ]
    )


def test_interleaved_notes_of_one_pitch_keep_their_own_note_offs(build_midi):
    song = [on(1890, 60, 1), on(2000, 60, 2), off(2100, 60, 3), on(3900, 60, 4), off(3950, 60, 5), off(4000, 60, 6)]
    assert fill(build_midi([song]), []) == [on(1890, 60, 1), off(2100, 60, 3), on(3900, 60, 4), off(4000, 60, 6)]


def test_new_notes_of_one_pitch_do_not_overlap(build_midi, note):
    new = [Note(2000, 60, 500, 90), Note(2300, 60, 100, 91), Note(2300, 60, 200, 92), Note(2300, 61, 100, 93)]
    assert fill(build_midi([note(0, 50, 10) + note(4000, 50, 10)]), new)[2:-2] == [
        on(2000, 60, 90),
        off(2300, 60, 0),
        on(2300, 60, 92),
        on(2300, 61, 93),
        off(2400, 61, 0),
        off(2500, 60, 0),
    ]


def test_a_stray_note_off_inside_goes_and_outside_stays(build_midi):
    song = [off(100, 60), on(200, 62), off(300, 62), off(2000, 60), on(4000, 62), off(4100, 62), off(4200, 60)]
    assert fill(build_midi([song]), [Note(1990, 60, 100, 90)]) == [
        *song[:3],
        on(1990, 60, 90),
        off(2090, 60, 0),
        *song[4:],
    ]


def test_a_lost_note_off_costs_no_note_outside_its_own(build_midi):
    """The first 60 has no note-off: it keeps the one that would silence it, and later notes keep theirs."""
    song = [on(1000, 60), on(2000, 60), off(2100, 60), on(4000, 60), off(4100, 60)]
    assert fill(build_midi([song]), []) == [on(1000, 60), off(2100, 60), on(4000, 60), off(4100, 60)]
    drums = [on(k * 480, 36) for k in range(12)]
    new = fill(build_midi([drums]), [Note(2400, 36, 100, 90)])
    assert new == [*drums[:4], on(2400, 36, 90), off(2500, 36, 0), *drums[8:]]


def test_bends_and_pedal_go_and_their_last_value_is_restored(build_midi, note):
    inside = [bend(2000, 9000), pedal(2000, 127), pedal(2500, 0), bend(3000, 9100), pedal(3500, 100)]
    other = [(2100, b"\xb0\x01\x05"), (2200, b"\xc0\x07"), (2300, b"\xd0\x11"), (2400, b"\xa0\x3c\x11")]
    song = sorted([*note(0, 50, 10), *inside, *other, *note(2000, 60, 10), *note(4000, 50, 10)], key=lambda e: e[0])
    assert fill(build_midi([song]), [Note(3800, 70, 100, 90)])[2:-2] == [
        *other,
        on(3800, 70, 90),
        bend(2 * BAR, 9100),
        pedal(2 * BAR, 100),
        off(3900, 70, 0),
    ]


def test_values_that_come_back_inside_need_no_event(build_midi, note):
    song = [*note(0, 50, 10), pedal(2000, 127), bend(2001, 1), pedal(3000, 0), bend(3001, CENTRE), *note(4000, 50, 10)]
    assert fill(build_midi([song]), []) == [*song[:2], *song[-2:]]


def test_the_release_of_what_was_held_before_stays(build_midi, note):
    """Else the new notes would sound in the pedal of bar 0, and bent."""
    song = [*note(0, 50, 10), pedal(100, 127), bend(100, 9000), pedal(2000, 0), bend(2100, 8500), bend(2200, CENTRE)]
    song += [pedal(2300, 127), bend(2400, 100), *note(4000, 50, 10)]
    kept = [*song[:4], pedal(2000, 0), bend(2200, CENTRE), bend(2 * BAR, 100), pedal(2 * BAR, 127), *song[-2:]]
    assert fill(build_midi([song]), []) == kept
    held = [pedal(100, 127), *note(100, 50, 10), *note(4000, 50, 10)]
    assert fill(build_midi([held]), []) == held


def test_notes_of_the_fill_that_the_file_has_stay_as_they_are(build_midi):
    """With their own events in their own order. Of the three notes of pitch 60 that begin together, two stay."""
    song = [on(2000, 64), on(2000, 60), on(2000, 60), on(2000, 60), off(2100, 60), off(2100, 60), off(2200, 60)]
    song += [off(2300, 64), on(2400, 64), off(2500, 64)]
    again = [Note(2000, 64, 300, 80), Note(2000, 60, 100, 80), Note(2000, 60, 200, 80), Note(3000, 62, 100, 90)]
    kept = [*song[:2], song[3], song[5], *song[6:8], on(3000, 62, 90), off(3100, 62, 0)]
    assert sorted(fill(build_midi([song]), again)) == sorted(kept)
    assert [e for e in fill(build_midi([song]), again) if e in song] == [e for e in kept if e in song]
    other = [again[0]._replace(velocity=81), again[1]._replace(duration_ticks=99)]
    assert fill(build_midi([song]), other)[:3] == [on(2000, 60), on(2000, 64, 81), off(2099, 60, 0)]


def test_bends_and_pedal_stay_while_a_staying_note_sounds(build_midi, note):
    before, after = [bend(1950, 9000), pedal(1960, 127)], [bend(2600, 9300), pedal(2600, 100), bend(3000, 9400)]
    during = [bend(2100, 9100), pedal(2200, 0), pedal(2300, 127), bend(2400, 9200)]
    held = sorted([*during, *note(2000, 60, 500)], key=lambda e: e[0])
    song = [*note(0, 50, 10), *before, *held, *after, *note(3500, 70, 10), *note(4000, 50, 10)]
    restored = [bend(2000, 9000), pedal(2000, 127)], [bend(2 * BAR, 9400), pedal(2 * BAR, 100)]
    stays = [*song[:2], *restored[0], *held, *restored[1], *song[-2:]]
    own = [Note(2000, 60, 500, 80), Note(3500, 70, 10, 80)]
    assert fill(build_midi([song]), own[:1]) == stays
    assert fill(build_midi([song]), own) == song


def test_pedal_stays_where_another_track_on_its_channel_still_plays(build_midi, note):
    right = [*note(0, 70, 10), pedal(2000, 127), pedal(3000, 0), *note(4000, 70, 10)]
    song = build_midi([right, note(1000, 40, 1000)])
    assert fill(song, []) == right
    score = read_midi(song)
    both = splice(song, score, Region.rectangle([0, 1], [(0, 2)]), {0: [], 1: []})
    assert events(both) == right[-2:]
    elsewhere = build_midi([right, note(0, 40, 1920)])
    assert fill(elsewhere, []) == [*right[:2], *right[-2:]]


def test_other_channels_and_unchanged_chunks_stay_byte_for_byte(build_midi, note, check_fill):
    first = sorted(note(0, 60, 480) + note(2000, 61, 480) + note(2000, 62, 480, channel=1), key=lambda e: e[0])
    extras = [
        (0, b"\xff\x60\x01\x07"),
        (2000, b"\xf0\x03\x01\x02\xf7"),
        (2000, b"\xff\x05\x02la"),
        (2500, b"\xf7\x01\x00"),
    ]
    second = sorted([*first, *extras], key=lambda e: e[0])
    song = build_midi([first, b"XTRA\x00\x00\x00\x03abc", second], running=True) + b"after"
    score = read_midi(song)
    out = splice(song, score, Region.rectangle([2], [(1, 2)]), {2: [Note(2000, 64, 100, 90)]})
    assert check_fill(song, out, [(1, 0, BAR, 2 * BAR)]) == []
    assert b"XTRA\x00\x00\x00\x03abc" in out
    assert out.endswith(b"after")
    assert splice(song, score, Region.rectangle([2], [(0, 1)]), {2: list(score.notes_in(2, 0))}) == song
    assert splice(song, score, Region.rectangle([2], [(5, 9)]), {2: []}) == song


def test_running_status_is_kept_where_the_file_uses_it(build_midi, note):
    notes = [e for k in range(4) for e in note(k * BAR, 60, 480, channel=2)]
    notes = [(tick, message if message[0] == 0x92 else bytes([0x92, message[1], 0])) for tick, message in notes]
    song = build_midi([notes], running=True)
    out = splice(song, read_midi(song), Region.rectangle([0], [(3, 4)]), {0: []})
    assert out == build_midi([notes[:-2]], running=True, end=notes[-1][0])


def test_bars_beyond_the_end_continue_the_song(build_midi, note, check_fill):
    other = note(0, 40, 480, channel=1)
    song = build_midi([note(0, 60, 480), other], end=1000)
    score = read_midi(song)
    out = splice(song, score, Region.rectangle([0], [(1, 5)]), {0: [Note(9000, 64, 9000, 90)]})
    assert events(out)[2:] == [on(9000, 64, 90), off(18000, 64, 0)]
    assert check_fill(song, out, [(0, 0, BAR, 5 * BAR)]) == []
    assert mido.MidiFile(file=io.BytesIO(out)).tracks[0][-1].type == "end_of_track"


def test_a_new_track_gets_a_chunk_and_a_free_channel(build_midi, note, check_fill):
    tracks = [note(0, 60, 480, channel=c) for c in (0, 1, 3)] + [[(0, b"\xb2\x07\x64")]]
    song = build_midi([*tracks, b"LAST\x00\x00\x00\x01x"])
    flute, drums = Track("Flûte", 73, ()), Track("Drums", 0, (), is_drum=True)
    region = Region(frozenset({Cell(3, 0), Cell(3, 1), Cell(4, 1)}))
    fills = {3: [Note(0, 80, 100, 90)], 4: [Note(2000, 36, 100, 90)]}
    out = splice(song, read_midi(song), region, fills, new_tracks=[flute, drums])
    assert check_fill(song, out, [(4, 4, 0, 2 * BAR), (5, 9, BAR, 2 * BAR)], new_tracks=2) == []
    made = read_midi(out).tracks[3:]
    assert [(t.name, t.program, t.is_drum, t.channel, t.notes) for t in made] == [
        ("Flûte", 73, False, 4, (Note(0, 80, 100, 90),)),
        ("Drums", 0, True, 9, (Note(2000, 36, 100, 90),)),
    ]
    score = read_midi(song)
    grown = type(score)(score.ticks_per_beat, (*score.tracks, flute, drums), end_ticks=score.end_ticks)
    assert splice(song, grown, region, fills) == out


def test_a_new_track_of_a_type_0_file_joins_its_only_chunk(build_midi, note, check_fill):
    song = build_midi([sorted(note(0, 60, 480) + note(0, 36, 480, channel=9))], kind=0)
    region = Region.rectangle([2], [(0, 1)])
    out = splice(song, read_midi(song), region, {2: [Note(10, 80, 100, 90)]}, new_tracks=[Track("Flute", 73, ())])
    assert check_fill(song, out, [(0, 1, 0, BAR)], new_tracks=1) == []
    assert [(t.program, t.channel) for t in read_midi(out).tracks] == [(0, 0), (73, 1), (0, 9)]
    more = [Note(100, 36, 10, 90), Note(500, 36, 10, 90)]
    out = splice(song, read_midi(song), region, {2: more}, new_tracks=[Track("More drums", 0, (), is_drum=True)])
    assert read_midi(out).tracks[1].notes == (Note(0, 36, 480, 80), more[1])


def test_without_a_free_channel_a_new_track_shares_that_of_its_program_or_is_refused(build_midi, note):
    channels = [c for c in range(16) if c != 9]
    song = build_midi([[(0, bytes([0xC0 | c, 40 + c])), *note(0, 60, 480, channel=c)] for c in channels])
    score, region, fills = read_midi(song), Region.rectangle([15], [(0, 1)]), {15: [Note(10, 80, 100, 90)]}
    made = read_midi(splice(song, score, region, fills, new_tracks=[Track("Again", 43, ())])).tracks[-1]
    assert (made.name, made.program, made.channel) == ("Again", 43, 3)
    with pytest.raises(MidiError, match="no free channel"):
        splice(song, score, region, fills, new_tracks=[Track("Flute", 73, ())])


def test_a_song_without_notes_takes_a_new_track(build_midi):
    song = build_midi([[(0, b"\xff\x58\x04\x03\x02\x18\x08")]])
    score = read_midi(song, allow_empty=True)
    out = splice(
        song,
        score,
        Region.rectangle([0], [(0, 4)]),
        {0: [Note(1440, 60, 10, 80)]},
        new_tracks=[Track("A", 1, ())],
    )
    assert [b.start_ticks for b in read_midi(out).bars] == [0, 1440]


def test_what_does_not_fit_is_refused(build_midi, note):
    song = build_midi([note(0, 60, 480) + note(2000, 60, 480)])
    score = read_midi(song)
    region = Region.rectangle([0], [(1, 2)])
    wrong = {
        "outside its cells": (score, region, {0: [Note(1899, 60, 10, 80)]}),
        "out of range": (score, region, {0: [Note(1920, 128, 10, 80)]}),
        "1- ticks": (score, region, {0: [Note(1920, 60, 0, 80)]}),
        "give one each": (score, region, {}),
        "name cells of the score": (score, Region.rectangle([1], [(0, 1)]), {1: []}),
        "does not belong": (read_midi(build_midi([note(0, 60, 1)], ticks_per_beat=96)), region, {0: []}),
        "have the new tracks": ({"new_tracks": [Track("A", 0, ())]}, region, {0: []}),
    }
    for message, (given_score, *rest) in wrong.items():
        options = given_score if isinstance(given_score, dict) else {}
        with pytest.raises(ValueError, match=message):
            splice(song, score if options else given_score, *rest, **options)
