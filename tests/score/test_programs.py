"""A track whose instrument changes on the way, and a track that is taken for another instrument than the file says."""

import pytest

from midi_rwkv import Ask
from midi_rwkv.fill.infill import Infiller
from midi_rwkv.fill.session import Session
from midi_rwkv.model.config import SamplingConfig
from midi_rwkv.score.midi import read_midi
from midi_rwkv.score.score import Bar, Note, ProgramChange, Region, Track
from midi_rwkv.score.splice import splice
from midi_rwkv.tokens.attributes import Column
from midi_rwkv.tokens.notes import encode

BAR = 1920
BASS, FLUTE, OBOE = 33, 73, 68


def program(tick, number, channel=0):
    return tick, bytes([0xC0 | channel, number])


@pytest.fixture(scope="module")
def infiller(checkpoint_folder):
    from midi_rwkv import load_checkpoint

    return Infiller(load_checkpoint(checkpoint_folder))


@pytest.fixture
def solo(build_midi, note):
    """Eight bars of a bass, then eight of a flute, on one channel of one track; and a piano."""
    low = [e for b in range(8) for k in range(4) for e in note(b * BAR + k * 480, 36 + 3 * k, 240)]
    high = [e for b in range(8, 16) for k in range(4) for e in note(b * BAR + k * 480, 76 + 3 * k, 240)]
    piano = [e for b in range(16) for e in note(b * BAR, 60 + b % 5, 960, channel=1)]
    return build_midi([[program(0, BASS), *low, program(8 * BAR, FLUTE), *high], piano])


def test_a_track_knows_its_programs_bar_by_bar(solo):
    track, piano = read_midi(solo).tracks
    assert (track.program, track.program_changes) == (BASS, (ProgramChange(8 * BAR, FLUTE),))
    assert track.programs == (BASS, FLUTE)
    assert [track.program_at(t) for t in (0, 8 * BAR - 1, 8 * BAR, 99 * BAR)] == [BASS, BASS, FLUTE, FLUTE]
    assert {n.pitch for n in track.notes_of(FLUTE)} == {76, 79, 82, 85}
    assert len(track.notes_of(BASS)) == 32
    assert (piano.program, piano.program_changes, len(piano.notes_of(0))) == (0, (), 16)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([(0, 5), (0, BASS)], (BASS, ())),  # of one tick, the last is in force
        ([(0, BASS), (BAR, BASS), (2 * BAR, FLUTE)], (BASS, ((2 * BAR, FLUTE),))),
        ([(0, BASS), (BAR, FLUTE), (BAR, OBOE)], (BASS, ((BAR, OBOE),))),
        ([(0, BASS), (BAR, FLUTE), (BAR, BASS)], (BASS, ())),
        ([(BAR, FLUTE)], (0, ((BAR, FLUTE),))),
    ],
)
def test_only_changes_count(build_midi, note, changes, expected):
    notes = [e for b in range(4) for e in note(b * BAR, 60, 240)]
    events = sorted([*(program(*c) for c in changes), *notes], key=lambda e: (e[0], e[1][0] < 0xC0))
    track = read_midi(build_midi([events])).tracks[0]
    assert (track.program, track.program_changes) == expected


def test_changes_may_stand_in_another_chunk_and_drums_have_none(build_midi, note):
    conductor = [program(0, BASS), program(0, 8, channel=9), program(BAR, FLUTE), program(BAR, 16, channel=9)]
    notes = [e for b in range(4) for e in note(b * BAR, 60, 240)]
    drums = [e for b in range(4) for e in note(b * BAR, 36, 240, channel=9)]
    other, kit = read_midi(build_midi([conductor, notes, drums])).tracks
    assert (other.program, other.program_changes) == (BASS, ((BAR, FLUTE),))
    assert (kit.is_drum, kit.program_changes) == (True, ())


@pytest.mark.parametrize(
    ("tick", "expected"), [(BAR - 200, FLUTE), (BAR + 30, FLUTE), (BAR + 960, BASS), (BAR + 1800, BASS)]
)
def test_a_bar_goes_by_the_program_that_is_in_force_longest(tick, expected):
    track = Track("", BASS, (), program_changes=(ProgramChange(tick, FLUTE),))
    assert track.program_in(Bar(BAR, 2 * BAR, 4, 4)) == expected


def test_each_cell_is_read_and_written_as_its_program(infiller, solo, monkeypatch):
    """What the model is told of each cell to write, and the pitches of a region over the change."""
    score, seen = read_midi(solo), []
    song = encode(infiller.writing.vocabulary, score)
    assert [song.program(0, b) for b in range(16)] == [BASS] * 8 + [FLUTE] * 8
    assert {song.program(1, b) for b in range(16)} == {0}
    write = Session.write

    def spy(self, asked, writers, program, *rest):
        seen.append((program, asked[0][-1, Column.PROGRAM] - 1))
        write(self, asked, writers, program, *rest)

    monkeypatch.setattr(Session, "write", spy)
    [answer] = infiller(score, Ask(Region.rectangle([0], [(6, 10)]), SamplingConfig(density=(6, 12)), seed=1))
    assert seen == [(p, p) for p in (BASS, BASS, FLUTE, FLUTE)]
    for bar in (6, 7):
        assert all(36 - 5 <= n.pitch <= 45 + 5 for n in answer.score.notes_in(0, bar))
    for bar in (8, 9):
        assert all(76 - 5 <= n.pitch <= 85 + 5 for n in answer.score.notes_in(0, bar))
    [on] = infiller(score, Ask(Region.rectangle([0], [(16, 18)]), SamplingConfig(density=(6, 12)), seed=1))
    assert all(n.pitch >= 76 - 5 for n in on.fills[0])


def test_a_track_taken_for_drums_is_written_on_its_own_channel(infiller, build_midi, note):
    hits = [e for b in range(8) for k in range(8) for e in note(b * BAR + k * 240, (36, 42, 38, 42)[k % 4], 60)]
    source = build_midi([[(0, b"\xff\x03\x03Kit"), *hits]])
    score = read_midi(source)
    kit = score.with_instrument(0, is_drum=True)
    assert (score.tracks[0].is_drum, kit.tracks[0].is_drum) == (False, True)
    assert (kit.tracks[0].channel, kit.tracks[0].notes) == (0, score.tracks[0].notes)
    region = Region.rectangle([0], [(2, 4)])
    [answer] = infiller(kit, Ask(region, SamplingConfig(density=(6, 12)), seed=1))
    new = splice(source, kit, region, answer.fills)
    assert new == splice(source, score, region, answer.fills)
    assert max(n.duration_ticks for n in answer.fills[0]) == 60  # hits are as long as the track's
    written = read_midi(new).tracks[0]
    assert (written.channel, written.program, written.is_drum) == (0, 0, False)
    for wrong in ({"track": 1}, {"track": -1}, {"track": 0, "program": 128}):
        with pytest.raises(ValueError, match="must be 0-"):
            score.with_instrument(**wrong)


def test_a_new_track_shares_no_channel_that_only_seems_to_play_its_instrument(build_midi, note):
    """All channels are taken; the one that is merely taken for a violin plays a piano."""
    from midi_rwkv.errors import MidiError

    chunks = [note(0, 60 + c % 12, 240, channel=c) for c in range(16) if c != 9]
    source = build_midi(chunks)
    score = read_midi(source).with_instrument(3, 40)
    region = Region.rectangle([15], [(0, 1)])
    fills = {15: [Note(0, 70, 240, 80)]}
    with pytest.raises(MidiError, match="no free channel"):
        splice(source, score, region, fills, new_tracks=[Track("Violin", 40, ())])
    splice(source, score, region, fills, new_tracks=[Track("Piano", 0, ())])
