"""Notes at the edge of a bar: one rule for reading, masking and splicing, and how a track's usual lead is told."""

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midi_rwkv import Ask, load_checkpoint
from midi_rwkv.corpus.shards import read_song
from midi_rwkv.fill.infill import Infiller
from midi_rwkv.model.config import SamplingConfig
from midi_rwkv.score.midi import read_midi
from midi_rwkv.score.score import Cell, Note, Region, Score, TimeSignature, Track, usual_lead
from midi_rwkv.score.splice import splice
from midi_rwkv.tokens.notes import AT, encode

BAR = 1920
LINES = np.arange(0, 40 * BAR + 1, BAR)


def onsets_off_the_lines(offsets):
    return np.sort(LINES[1 : len(offsets) + 1] + np.array(offsets))


def test_a_usual_lead_is_told_by_the_downbeats():
    rng = random.Random(0)
    assert usual_lead(onsets_off_the_lines([-30] * 16), LINES, 480) == 30
    drummer = onsets_off_the_lines([round(rng.gauss(-10, 6)) for _ in range(39)])
    assert 20 <= usual_lead(drummer, LINES, 480) <= 30
    rushing = onsets_off_the_lines([round(rng.gauss(-25, 8)) for _ in range(39)])
    assert usual_lead(rushing, LINES, 480) == 39  # less than a grid step, whatever the spread


@pytest.mark.parametrize("ahead", [40, 60, 80, 120, 160])
def test_a_pick_up_is_no_lead(ahead):
    """Triplets of 32nds, 32nds, triplets of 16ths, 16ths, triplets before every bar line, with and without its beat."""
    alone = onsets_off_the_lines([-ahead] * 30)
    assert usual_lead(alone, LINES, 480) < 40
    assert usual_lead(np.sort([*alone, *LINES[1:31]]), LINES, 480) == 0


def test_without_evidence_there_is_no_usual_lead():
    assert usual_lead(onsets_off_the_lines([-30] * 3), LINES, 480) == 0
    assert usual_lead(np.array([], np.int64), LINES, 480) == 0
    anywhere = onsets_off_the_lines([(k * 17) % 79 - 39 for k in range(39)])  # a song recorded without a click
    assert usual_lead(anywhere, LINES, 480) == 0
    runs = np.sort(np.concatenate([LINES[1:30] + d for d in (-30, 0, 30)]))  # 64ths
    assert usual_lead(runs, LINES, 480) == 0


def test_a_song_that_ends_with_an_early_downbeat_has_its_bar(build_midi, note):
    song = build_midi([[e for b in range(5) for e in note(max(0, b * BAR - 12), 60, 200)]], end=4 * BAR)
    score = read_midi(song)
    assert score.note_counts() == [[1, 1, 1, 1, 1]]
    assert len(score.bars) == len(read_song(song, "song").bars) == 5


@st.composite
def rushed_songs(draw, build, note):
    """A file whose notes come early and late around beats, or anywhere; bars of any length, the shortest too."""
    tpq = draw(st.sampled_from([24, 96, 100, 480]))
    metres = [(0, b"\xff\x58\x04\x04\x02\x18\x08")]
    for tick, numerator in draw(st.lists(st.tuples(st.integers(1, 20 * tpq), st.integers(1, 5)), max_size=3)):
        metres.append((tick, bytes([0xFF, 0x58, 4, numerator, draw(st.sampled_from([2, 3, 5])), 24, 8])))
    rng = random.Random(draw(st.integers(0, 10_000)))
    tracks = []
    for channel in draw(st.sampled_from([(0,), (0, 9), (0, 1, 9)])):
        lead, spread = rng.choice([(0, 0), (0.03, 0.02), (0.06, 0.01), (0.02, 0.2)])
        events = []
        for beat in range(rng.randrange(8, 24)):
            for _ in range(rng.choice([0, 1, 1, 2])):
                onset = max(0, round((beat + rng.choice([0, 0, 0.5]) - rng.gauss(lead, spread)) * tpq))
                pitch = rng.choice([36, 38, 60, 64])
                events += note(onset, pitch, rng.randrange(1, 2 * tpq), rng.randrange(1, 128), channel=channel)
        tracks.append(sorted(events, key=lambda e: e[0]))
    return build([sorted(metres, key=lambda e: e[0]), *(t for t in tracks if t)], tpq)


def bar_by_hand(score, track, onset):
    """The last bar whose first note may begin by then."""
    lead = score.lead_ticks(score.tracks[track])
    found = 0
    for b in range(1, len(score.bars) + 3):
        before = score.bar(b - 1)
        if score.bar(b).start_ticks - min(lead, (before.end_ticks - before.start_ticks) // 2) <= onset:
            found = b
    return found


def test_reading_masking_and_splicing_agree_on_every_note(build_midi, note, checkpoint_folder, check_fill):
    vocabulary = load_checkpoint(checkpoint_folder).vocabulary

    @settings(max_examples=60)
    @given(data=st.data())
    def check(data):
        song = data.draw(rushed_songs(build_midi, note))
        score = read_midi(song, allow_empty=True)
        if not score.tracks:
            return
        assert all(2 * score.lead_ticks(t) < 2 * score.ticks_per_beat / 12 for t in score.tracks)
        bars = [[bar_by_hand(score, t, n.onset_ticks) for n in track.notes] for t, track in enumerate(score.tracks)]
        read = encode(vocabulary, score)
        for t, track in enumerate(score.tracks):
            assert score.note_bars(t).tolist() == bars[t]
            assert [score.bar_of(t, n.onset_ticks) for n in track.notes] == bars[t]
            for b in range(len(score.bars)):
                cell = [n for n, bar in zip(track.notes, bars[t], strict=True) if bar == b]
                assert score.notes_in(t, b) == cell
                assert score.note_counts()[t][b] == len(cell)
                assert set(read.cell(t, b)[:, AT.pitch].tolist()) == {n.pitch for n in cell}

        cells = st.builds(Cell, st.integers(0, len(score.tracks) - 1), st.integers(0, len(score.bars)))
        region = Region(data.draw(st.frozensets(cells, min_size=1, max_size=6)))
        new = {t: [Note(score.bar(b).start_ticks, 90, 5, 99) for s, b in region.cells if s == t] for t in region.tracks}
        kept = {
            t: Counter(n for n, b in zip(score.tracks[t].notes, bars[t], strict=True) if (t, b) not in region.cells)
            for t in region.tracks
        }
        filled = score.with_fill(region, new)
        out = splice(song, score, region, new)
        ours = {(t.chunk, t.channel): t.notes for t in read_midi(out, allow_empty=True).tracks}
        for t in region.tracks:
            assert Counter(filled.tracks[t].notes) == kept[t] + Counter(new[t])
            there = ours.get((score.tracks[t].chunk, score.tracks[t].channel), ())
            # Onset, pitch and velocity: new notes end where the next of their pitch begins.
            onsets = Counter((n.onset_ticks, n.pitch, n.velocity) for n in there)
            assert onsets == Counter((n.onset_ticks, n.pitch, n.velocity) for n in [*kept[t].elements(), *new[t]])
            assert {(t, filled.bar_of(t, n.onset_ticks)) for n in new[t]} == {c for c in region.cells if c[0] == t}
        mask = []
        for t in region.tracks:
            for lo, hi in region.bar_runs(t):
                lines = score.bar(lo).start_ticks, score.bar(hi - 1).end_ticks
                onsets = score.cell_ticks(t, lo)[0], score.cell_ticks(t, hi - 1)[1]
                mask.append((score.tracks[t].chunk, score.tracks[t].channel, *lines, *onsets))
        assert check_fill(song, out, mask) == []

    check()


@pytest.mark.parametrize("lead", [3, 20, 33])
def test_a_fill_between_rushed_bars(checkpoint_folder, build_midi, note, check_fill, lead):
    """The downbeat of the bar after stays, that of the first bar goes, and what is written is read back where it is."""
    hits = [(max(0, b * BAR + k * 480 - (lead if k == 0 else 0)), 40 + k) for b in range(12) for k in range(4)]
    song = build_midi([sorted((e for tick, pitch in hits for e in note(tick, pitch, 100)), key=lambda e: e[0])])
    score = read_midi(song)
    region = Region.rectangle([0], [(4, 6)])
    infiller = Infiller(load_checkpoint(checkpoint_folder))
    kept = [n for n in score.tracks[0].notes if not 4 * BAR - lead <= n.onset_ticks < 6 * BAR - lead]
    assert len(kept) == 40
    locked = {0: [n for n in score.notes_in(0, 4) if n.pitch == 40]}
    assert locked[0][0].onset_ticks == 4 * BAR - lead
    for held in ({}, locked):
        for found in infiller(score, Ask(region, SamplingConfig(density=(4, 30)), candidates=3, seed=1, locked=held)):
            assert Counter(found.score.tracks[0].notes) == Counter(kept) + Counter(found.fills[0])
            assert set(held.get(0, [])) <= set(found.fills[0])
            assert {score.bar_of(0, n.onset_ticks) for n in found.fills[0]} <= {4, 5}
            downbeats = [n for n in found.fills[0] if abs(n.onset_ticks - 4 * BAR) <= lead and n.pitch == 40]
            assert len(downbeats) == 1 or not held
            out = splice(song, score, region, found.fills)
            assert read_midi(out).tracks[0].notes == found.score.tracks[0].notes
            mask = (score.tracks[0].chunk, 0, 4 * BAR, 6 * BAR, 4 * BAR - lead, 6 * BAR - lead)
            assert check_fill(song, out, [mask]) == []


def test_bends_and_pedal_go_with_the_early_notes(build_midi, note):
    """A bend that comes with the region's early first note goes, one that comes with the next bar's stays."""
    bend = [(BAR - 12, b"\xe0\x00\x50"), (2 * BAR - 12, b"\xe0\x00\x60"), (3000, b"\xb0\x40\x7f")]
    before = [*note(0, 60, 100), (BAR - 15, b"\xb0\x40\x00")]
    after = note(2 * BAR - 12, 62, 100)
    song = build_midi([sorted([*before, *note(BAR - 12, 61, 100), *bend, *after], key=lambda e: e[0])])
    out = splice(song, read_midi(song), Region.rectangle([0], [(1, 2)]), {0: []})
    restored = [(2 * BAR - 12, b"\xe0\x00\x50"), (2 * BAR - 12, b"\xb0\x40\x7f")]
    assert out == build_midi([sorted([*before, *restored, bend[1], *after], key=lambda e: e[0])])


def test_a_song_of_many_notes_is_read_at_once():
    rng = np.random.default_rng(0)
    onsets = np.sort(rng.integers(0, 1000 * BAR, 100_000)).tolist()
    track = Track("a", 0, tuple(Note(t, 60, 10, 80) for t in onsets), usual_lead=30)
    score = Score(480, (track,), (TimeSignature(0, 4, 4),))
    sample = range(0, 100_000, 997)
    bars = score.note_bars(0)
    assert [bars[i] for i in sample] == [score.bar_of(0, onsets[i]) for i in sample]
    assert sum(score.note_counts()[0]) == 100_000
