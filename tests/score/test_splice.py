"""The splice, by hand-made files with the expected events, and by properties that scripts/check_fill.py checks."""

import io
import random
import struct
from dataclasses import replace

import mido
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
            off(2 * BAR, 62, 0),  # clipped, and before what begins there
            *kept[3:],
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
        off(2 * BAR, 70, 0),
        bend(2 * BAR, 9100),
        pedal(2 * BAR, 100),
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
    assert splice(song, score, Region.rectangle([2], [(0, 1)]), {2: list(score.notes_in(2, 0))}) != song
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
    assert events(out)[2:] == [on(9000, 64, 90), off(5 * BAR, 64, 0)]
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


METRES = st.sampled_from([(4, 2), (3, 2), (7, 3), (5, 4), (2, 1), (1, 2), (12, 3)])
PITCHES = st.sampled_from([36, 42, 60, 61])


@st.composite
def parts(draw, channel, span, whole):
    """One channel's events: overlapping notes, bends, pedals, other messages. `whole`: every note has its note-off."""
    made = []
    ticks = st.integers(0, span)
    for tick, pitch, length, velocity in draw(
        st.lists(st.tuples(ticks, PITCHES, st.integers(1 if whole else 0, span // 2), st.integers(1, 127)), max_size=14)
    ):
        made.append((tick, bytes([0x90 | channel, pitch, velocity])))
        end = bytes([0x90 | channel, pitch, 0]) if velocity % 2 else bytes([0x80 | channel, pitch, velocity])
        if whole or velocity % 5:
            made.append((tick + length, end))
    for tick, value in draw(st.lists(st.tuples(ticks, st.integers(0, 16383)), max_size=6)):
        kind = value % 7
        message = {
            0: bytes([0xB0 | channel, 1, value & 127]),
            1: bytes([0xC0 | channel, value & 127]),
            2: bytes([0xD0 | channel, value & 127]),
            3: bytes([0xE0 | channel, 0, 64]),
            4: bytes([0xE0 | channel, value & 127, value >> 7]),
            5: bytes([0xB0 | channel, 64, 0]),
            6: bytes([0xB0 | channel, 64, value & 127]),
        }[kind]
        made.append((tick, message))
    if not whole and draw(st.booleans()):
        made.append((draw(ticks), bytes([0x80 | channel, 60, 1])))
    return made


@st.composite
def songs(draw, build, chunk, whole):
    """A raw file: type 0 or 1, pickups, metre changes, several channels on a chunk, several chunks on a channel."""
    tpq = draw(st.sampled_from([24, 480]))
    span = draw(st.integers(1, 8)) * 4 * tpq
    conductor = [(0, b"\xff\x51\x03\x07\xa1\x20")]
    for place, (numerator, power) in enumerate(draw(st.lists(METRES, max_size=3))):
        tick = 0 if place == 0 else draw(st.integers(0, span))
        conductor.append((tick, bytes([0xFF, 0x58, 4, numerator, power, 24, 8])))
    tracks = []
    for channels in draw(
        st.lists(st.lists(st.sampled_from([0, 1, 9]), max_size=2, unique=True), min_size=1, max_size=3)
    ):
        made = [event for channel in channels for event in draw(parts(channel, span, whole))]
        for tick in draw(st.lists(st.integers(0, span), max_size=3)):
            extras = [b"\xff\x05\x02la", b"\xf0\x03\x41\x10\xf7", b"\xff\x60\x02\x01\x02", b"\xff\x7f\x01\x00"]
            made.append((tick, extras[tick % 4]))
        tracks.append(sorted(draw(st.permutations(made)), key=lambda event: event[0]))
    end, running = draw(st.sampled_from([0, span, 3 * span])), draw(st.booleans())
    kind = draw(st.integers(0, 1))
    if kind == 0:
        return build([sorted([*conductor, *tracks[0]], key=lambda e: e[0])], tpq, 0, running, end)
    unknown = [b"JUNK\x00\x00\x00\x02ab"] if draw(st.booleans()) else []
    return build([sorted(conductor), *unknown, *(chunk(t, running, end) for t in tracks)], tpq, 1, running, end)


def onsets_of(score, track, lo, hi):
    """Where the notes of bars [lo, hi) may begin; the track may be a new one."""
    grown = replace(score, tracks=(*score.tracks, Track("New", 0, ())))
    return grown.cell_ticks(track, lo)[0], grown.cell_ticks(track, hi - 1)[1]


def region_and_fills(data, score, new=0):
    """Some cells of some tracks, and notes for them that collide a lot."""
    count = len(score.tracks) + new
    bars = st.integers(0, len(score.bars) + 1)
    cells = data.draw(st.sets(st.builds(Cell, st.integers(0, max(count - 1, 0)), bars), min_size=1, max_size=8))
    cells |= {Cell(len(score.tracks) + k, 0) for k in range(new)}
    region = Region(frozenset(cells))
    rng = random.Random(data.draw(st.integers(0, 1000)))
    fills, mask = {}, []
    for track in region.tracks:
        fills[track] = []
        for lo, hi in region.bar_runs(track):
            bars = score.bar(lo).start_ticks, score.bar(hi - 1).end_ticks
            start, end = onsets_of(score, track, lo, hi)
            if track < len(score.tracks):
                mask.append((score.tracks[track].chunk, score.tracks[track].channel, *bars, start, end))
            for _ in range(rng.randrange(8)):
                onset, length = rng.randrange(start, end), rng.randint(1, 2 * (end - start))
                fills[track].append(Note(onset, rng.choice([36, 42, 60, 61, 62]), length, rng.randint(1, 127)))
    return region, fills, mask


@pytest.mark.parametrize("whole", [True, False])
def test_nothing_changes_but_the_masked_cells(build_midi, build_chunk, check_fill, whole):
    @settings(max_examples=120, deadline=None)
    @given(data=st.data())
    def check(data):
        song = data.draw(songs(build_midi, build_chunk, whole))
        score = read_midi(song, allow_empty=True)
        if not score.tracks:
            return
        region, fills, mask = region_and_fills(data, score)
        out = splice(song, score, region, fills)
        assert check_fill(song, out, mask) == []
        if whole:
            assert splice(out, score, region, fills) == out

    check()


def test_new_tracks_leave_the_song_as_it_is(build_midi, build_chunk, check_fill):
    @settings(max_examples=60, deadline=None)
    @given(data=st.data())
    def check(data):
        song = data.draw(songs(build_midi, build_chunk, True))
        score = read_midi(song, allow_empty=True)
        region, fills, mask = region_and_fills(data, score, new=1)
        kind, index = song[9], len(score.tracks)
        track = Track("New", 33, (), is_drum=kind == 1 and data.draw(st.booleans()))
        out = splice(song, score, region, fills, new_tracks=[track])
        chunk = read_layout(song).tracks.__len__() if kind else 0
        made = [t for t in read_midi(out, allow_empty=True).tracks if t.chunk == chunk]
        channels = {t.channel for t in made} - ({t.channel for t in score.tracks} if kind == 0 else set())
        for channel in channels or {15}:
            mask += [
                (
                    chunk,
                    channel,
                    score.bar(lo).start_ticks,
                    score.bar(hi - 1).end_ticks,
                    *onsets_of(score, index, lo, hi),
                )
                for lo, hi in region.bar_runs(index)
            ]
        if channels or kind:
            assert check_fill(song, out, mask, new_tracks=1) == []

    check()


def test_a_song_filled_with_its_own_notes_reads_the_same(build_midi, build_chunk):
    """Where no pitch sounds twice at a time, reading and splicing are inverse."""

    @settings(max_examples=80, deadline=None)
    @given(data=st.data())
    def check(data):
        ticks = data.draw(st.sets(st.integers(0, 100), min_size=2, max_size=30))
        events, edges = [], sorted(ticks)
        for i, (lo, hi) in enumerate(zip(edges[::2], edges[1::2], strict=False)):
            channel = i % 3
            events += [(lo * 60, bytes([0x90 | channel, 60, 1 + i])), (hi * 60, bytes([0x80 | channel, 60, 0]))]
        song = build_midi([sorted(events, key=lambda e: e[0])], kind=0, running=True)
        score = read_midi(song)
        region, _, _ = region_and_fills(data, score)
        fills = {}
        for track in region.tracks:
            bars = [bar for t, bar in region.cells if t == track]
            fills[track] = [note for bar in bars for note in score.notes_in(track, bar)]
        again = read_midi(splice(song, score, region, fills), allow_empty=True)
        for track, before in enumerate(score.tracks):
            after = again.tracks[track].notes
            assert [n[:2] for n in after] == [n[:2] for n in before.notes]
            runs = [(score.bar(lo).start_ticks, score.bar(hi - 1).end_ticks) for lo, hi in region.bar_runs(track)]
            for new, old in zip(after, before.notes, strict=True):
                ends = [hi for lo, hi in runs if lo <= old.onset_ticks < hi]
                limit = min([old.duration_ticks, *(hi - old.onset_ticks for hi in ends)])
                assert new == old._replace(duration_ticks=limit)

    check()
