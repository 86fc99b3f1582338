"""Properties of the splice on made-up songs, checked by scripts/check_fill.py."""

import random
from collections import Counter, defaultdict, deque
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midi_rwkv.score.midi import read_midi
from midi_rwkv.score.score import Cell, Note, Region, Track
from midi_rwkv.score.smf import END, read_events, read_layout
from midi_rwkv.score.splice import splice

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
        return build([sorted([*conductor, *tracks[0]], key=lambda e: e[0])], tpq, 0, running=running, end=end)
    unknown = [b"JUNK\x00\x00\x00\x02ab"] if draw(st.booleans()) else []
    chunks = [chunk(t, running=running, end=end) for t in tracks]
    return build([sorted(conductor), *unknown, *chunks], tpq, 1, running=running, end=end)


def notes_of(song, track):
    """The notes of the same channel and chunk in another file."""
    places = {(t.chunk, t.channel): t.notes for t in read_midi(song, allow_empty=True).tracks}
    return places.get((track.chunk, track.channel), ())


def held(score, region, track, note):
    return Cell(track, score.bar_of(track, note.onset_ticks)) in region.cells


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
    @settings(max_examples=120)
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
            again = {t: [n for n in notes_of(out, score.tracks[t]) if held(score, region, t, n)] for t in fills}
            assert splice(out, score, region, again) == out

    check()


def test_new_tracks_leave_the_song_as_it_is(build_midi, build_chunk, check_fill):
    @settings(max_examples=60)
    @given(data=st.data())
    def check(data):
        song = data.draw(songs(build_midi, build_chunk, whole=True))
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


def test_a_song_filled_with_its_own_notes_is_the_same_file(build_midi, build_chunk):
    """Where every note has a note-off, byte for byte."""

    @settings(max_examples=120)
    @given(data=st.data())
    def check(data):
        song = data.draw(songs(build_midi, build_chunk, whole=True))
        score = read_midi(song, allow_empty=True)
        if not score.tracks:
            return
        region, _, _ = region_and_fills(data, score)
        cells = {c for c in region.cells if score.notes_in(*c)}
        if not cells:
            return
        region = Region(frozenset(cells))
        fills = {t: [n for track, bar in cells if track == t for n in score.notes_in(t, bar)] for t in region.tracks}
        assert splice(song, score, region, fills) == song

    check()


def events_that_stay(song, chunk, masks, staying):
    """The events of a chunk without those that may go: notes of the masks that do not stay, bends and pedal inside.

    Args:
        masks: by channel, as in check_fill without the chunk.
        staying: (channel, note) of notes that stay; every note has a note-off.
    """
    events, waiting, gone = read_events(read_layout(song), chunk)[0], defaultdict(deque), set()
    for place, (tick, status, payload, _) in enumerate(events):
        channel, kind = status & 15, status >> 4
        if channel not in masks or status >= 0xF0:
            continue
        if kind == 9 and payload[1]:
            waiting[channel, payload[0]].append(place)
        elif kind in (8, 9):
            begin = waiting[channel, payload[0]].popleft()
            onset, _, (pitch, velocity), _ = events[begin]
            inside = any(first <= onset < last for _, _, first, last in masks[channel])
            if inside and (channel, Note(onset, pitch, max(1, tick - onset), velocity)) not in staying:
                gone |= {begin, place}
        elif kind == 14 or (kind == 11 and payload[0] == 64):
            gone |= {place for start, end, first, _ in masks[channel] if min(start, first) <= tick < end}
    return [event for place, event in enumerate(events) if place not in gone and event[1:3] != END[1:3]]


def test_notes_that_stay_keep_their_events(build_midi, build_chunk, check_fill):
    """Some of the region's own notes are in its fill, beside new ones. What is outside, and those, keep their events
    in their order, and are read as they were."""

    @settings(max_examples=120)
    @given(data=st.data())
    def check(data):
        song = data.draw(songs(build_midi, build_chunk, whole=True))
        score = read_midi(song, allow_empty=True)
        if not score.tracks:
            return
        region, fills, mask = region_and_fills(data, score)
        rng = random.Random(data.draw(st.integers(0, 1000)))
        kept = [
            Counter(n for b in range(len(score.bars)) for n in score.notes_in(t, b) if (t, b) not in region.cells)
            for t in range(len(score.tracks))
        ]
        staying = {(t, n) for t, b in region.cells for n in score.notes_in(t, b) if rng.random() < 0.5}
        for t in region.tracks:
            same = [n for track, b in region.cells if t == track for n in score.notes_in(t, b) if (t, n) in staying]
            kept[t].update(same)
            fills[t] = [n for n in fills[t] if n not in same] + same
        out = splice(song, score, region, fills)
        assert check_fill(song, out, mask) == []
        for t, track in enumerate(score.tracks):
            assert not kept[t] - Counter(notes_of(out, track))
        for chunk in {m[0] for m in mask}:
            masks = {channel: [m[2:] for m in mask if m[:2] == (chunk, channel)] for _, channel, *_ in mask}
            ours = {(score.tracks[t].channel, n) for t, n in staying if score.tracks[t].chunk == chunk}
            after = iter(read_events(read_layout(out), chunk)[0])
            assert all(event[:3] in (e[:3] for e in after) for event in events_that_stay(song, chunk, masks, ours))

    check()
