"""A fill keeps to its track's manner: its drums, one note at a time, its keyswitches; a new track plays as its kind."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from midi_rwkv import Ask, read_midi, write_midi
from midi_rwkv.commands.cli import main
from midi_rwkv.fill.infill import Infiller
from midi_rwkv.model.checkpoint import load_checkpoint
from midi_rwkv.model.config import SamplingConfig
from midi_rwkv.score.instruments import usual_notes
from midi_rwkv.score.keyswitches import keyswitches
from midi_rwkv.score.score import Note, Region, Score, TimeSignature, Track
from midi_rwkv.score.single import is_monophonic, one_at_a_time

BAR = 1920
METRE = (TimeSignature(0, 4, 4),)


@pytest.fixture(scope="module")
def infiller(checkpoint_folder):
    return Infiller(load_checkpoint(checkpoint_folder))


def song(*tracks: Track) -> Score:
    return Score(480, tracks, METRE, end_ticks=12 * BAR)


def drums(pads, bars=12) -> Track:
    hits = [Note(b * BAR + k * 480, pads[k % len(pads)], 60, 90) for b in range(bars) for k in range(4)]
    return Track("kit", 0, tuple(hits), is_drum=True)


def lead(overlap: int, program: int = 73) -> Track:
    """Eighths and quarters, each held `overlap` ticks into the next."""
    notes, at = [], 0
    while at < 12 * BAR:
        length = 240 if at % 960 else 480
        notes.append(Note(at, 60 + at // 240 % 9, length + overlap, 80))
        at += length
    return Track("lead", program, tuple(notes))


def pitches(infiller, score, sampling=None, track=0, seed=0):
    sampling = sampling or SamplingConfig(density=(12, 24))
    return {
        n.pitch for n in infiller(score, Ask(Region.rectangle([track], [(4, 6)]), sampling, seed=seed))[0].fills[track]
    }


def test_drums_keep_to_the_pads_of_their_track(infiller):
    """Of a kit that is not General MIDI's too; of a few hits nobody can tell."""
    assert pitches(infiller, song(drums((61, 84, 97)))) <= {61, 84, 97}
    few = replace(drums((61, 84)), notes=drums((61, 84)).notes[:6])
    assert len(pitches(infiller, song(few))) > 3
    assert pitches(infiller, song(few)) <= {61, 84, *range(35, 60)}


def test_a_pitch_range_holds_for_drums(infiller):
    """For the track's own pads; where it has none there, for General MIDI's; where there are none, it is refused."""
    asked = SamplingConfig(density=(4, 20), pitch_range=(60, 90))
    assert pitches(infiller, song(drums((61, 84, 97))), asked) <= {61, 84}
    assert pitches(infiller, song(drums((36, 38, 42))), replace(asked, pitch_range=(49, 52))) <= set(range(49, 53))
    with pytest.raises(ValueError, match="track 1 kit has no drums in the pitch range 100-110"):
        pitches(infiller, song(drums((36, 38, 42))), replace(asked, pitch_range=(100, 110)))


@pytest.mark.parametrize("overlap", [-30, 0, 25])
def test_a_line_of_single_notes_stays_one(infiller, overlap):
    """Whether its player leaves gaps or plays legato; and where what stays rings into the region."""
    score = song(lead(overlap))
    for seed in range(3):
        region = Region.rectangle([0], [(4, 6), (8, 9)])
        [found] = infiller(score, Ask(region, SamplingConfig(density=(6, 20)), seed=seed))
        new = found.fills[0]
        assert len(new) >= 18
        kept = [n for n in found.score.tracks[0].notes if n not in new]
        for n in new:
            others = [k for k in (*kept, *new) if k is not n]
            assert not any(k.onset_ticks <= n.onset_ticks < k.onset_ticks + k.duration_ticks for k in others)
    assert is_monophonic(lead(overlap).notes, 480)
    assert not is_monophonic(lead(150).notes, 480)


def test_two_may_be_asked_for_on_a_line_of_single_notes(infiller):
    asked = SamplingConfig(density=(8, 20), polyphony=(2, 3))
    [found] = infiller(song(lead(0)), Ask(Region.rectangle([0], [(4, 6)]), asked, seed=1))
    onsets = [n.onset_ticks for n in found.fills[0]]
    assert all(2 <= onsets.count(t) <= 3 for t in onsets)


def test_a_note_waits_for_one_that_is_held_a_little_longer():
    kept = [Note(0, 60, 500, 80), Note(2000, 60, 480, 80)]
    new = [Note(480, 62, 960, 80), Note(1000, 64, 5000, 80)]
    assert one_at_a_time(new, kept, 480) == [Note(500, 62, 500, 80), Note(1000, 64, 1000, 80)]


def strings(switch_velocity=1, lengths=100, switch_pitches=(24, 26), early=0) -> Track:
    switches = [Note(max(0, b * BAR - early), switch_pitches[b // 4 % 2], lengths, switch_velocity) for b in range(12)]
    if early:  # before some phrases
        switches = switches[1::4]
    music = [Note(b * BAR + k * 480, 60 + (b + 2 * k) % 9, 300, 84) for b in range(12) for k in range(4)]
    return Track("strings", 48, tuple(sorted([*switches, *music])))


@pytest.mark.parametrize("track", [strings(), strings(switch_velocity=100, early=150)])
def test_keyswitches_stay_where_they_are(infiller, track):
    """Silent ones, and those of any velocity just before a phrase; the fill has none of its own, whatever is asked."""
    score = song(track)
    found = {n for n in track.notes if n.pitch < 40}
    assert keyswitches(track, 480) == found
    region = Region.rectangle([0], [(0, 12)])
    for asked in (SamplingConfig(), SamplingConfig(pitch_range=(20, 80), density=(4, 12))):
        [answer] = infiller(score, Ask(region, asked, seed=2))
        assert found <= set(answer.score.tracks[0].notes)
        assert not {n.pitch for n in answer.fills[0]} & {24, 26}
    with pytest.raises(ValueError, match="keyswitches"):
        infiller(score, Ask(region, SamplingConfig(pitch_range=(24, 24))))


def test_keyswitches_are_not_read(infiller):
    """Neither the model nor the register, nor the manner of single notes, knows of them."""
    score, region = song(strings(lengths=1900)), Region.rectangle([0], [(4, 6)])
    music = score.with_notes(0, [n for n in score.tracks[0].notes if n.pitch > 40])
    assert infiller(score, Ask(region, seed=3))[0].fills == infiller(music, Ask(region, seed=3))[0].fills


@pytest.mark.parametrize(
    "track",
    [
        replace(strings(), is_drum=True),  # ghost notes of a kit
        strings(switch_velocity=40),  # low notes with the others
        strings(switch_pitches=(53, 54)),  # soft, and near the others
        lead(0, program=33),
        replace(  # a stride piano: low notes by themselves, each with a chord after it
            lead(0), notes=tuple(Note(b * 480, (36, 64)[b % 2], 200, 80) for b in range(48)), program=0
        ),
        replace(lead(0), notes=(*lead(0).notes, Note(12 * BAR, 36, 960, 90)), program=33),  # a drop at the end
    ],
)
def test_what_is_no_keyswitch(track):
    assert not keyswitches(track, 480)


def test_a_file_keeps_its_keyswitches_and_inspect_names_them(build_midi, note, checkpoint_folder, tmp_path, capsys):
    """Also one that is held beyond the region, to the byte; and the new notes are not counted with them."""
    events = [
        e for n in strings(lengths=2500).notes for e in note(n.onset_ticks, n.pitch, n.duration_ticks, n.velocity)
    ]
    source, target = tmp_path / "a.mid", tmp_path / "b.mid"
    source.write_bytes(build_midi([sorted(events, key=lambda e: e[0])]))
    assert main(["inspect", str(source)]) == 0
    assert "12 notes at C1, D1 are taken for keyswitches" in capsys.readouterr().out
    assert main(["inspect", str(source), "--json"]) == 0
    assert "keyswitches" in json.loads(capsys.readouterr().out)["remarks"][0]
    fill = ["infill", str(source), "--bars", "5-6", "--checkpoint", str(checkpoint_folder), "-o", str(target)]
    assert main([*fill, "--seed", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["notes_before"] == 8
    before, after = read_midi(source), read_midi(target)
    found = keyswitches(before.tracks[0], 480)
    assert len(found) == 12
    assert found <= set(after.tracks[0].notes)
    write_midi(target, source, before, Region.rectangle([0], [(4, 6)]), fills={0: []}, overwrite=True)
    kept = [n for n in before.tracks[0].notes if n in found or not 4 * BAR <= n.onset_ticks < 6 * BAR]
    assert list(read_midi(target).tracks[0].notes) == kept


@pytest.mark.parametrize(("program", "is_drum"), [(0, True), (33, False), (40, False), (89, False)])
def test_a_new_track_plays_as_its_kind_does(infiller, program, is_drum):
    """In every bar about as many notes as tracks of its kind, more beside a busy song; a wish goes before that."""
    region = Region.rectangle([1], [(2, 8)])
    low, _, high = usual_notes(program, is_drum=is_drum)
    for other in (lead(0), replace(lead(0), notes=tuple(n for n in lead(0).notes if n.onset_ticks % BAR == 0))):
        score = song(other, Track("new", program, (), is_drum=is_drum))
        [found] = infiller(score, Ask(region, seed=5))
        counts = [len(found.score.notes_in(1, b)) for b in range(2, 8)]
        assert all(1 <= c <= 8 * high + 1 for c in counts)
        assert np.mean(counts) >= 4 * low / 2 - 1
    [found] = infiller(score, Ask(region, SamplingConfig(density=(0, 0)), seed=5))
    assert found.fills[1] == []


def test_a_track_that_plays_in_the_region_alone_keeps_its_density(infiller):
    """Silence all around it would else be gone on with."""
    solo = Track("solo", 0, tuple(Note(4 * BAR + k * 160, 60 + k % 12, 160, 80) for k in range(48)))
    score = song(lead(0), solo)
    [found] = infiller(score, Ask(Region.rectangle([1], [(4, 8)]), seed=5))
    assert all(8 <= len(found.score.notes_in(1, b)) <= 18 for b in range(4, 8))
