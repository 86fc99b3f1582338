"""infill() through the library: what it reads, writes and reports."""

from dataclasses import replace

import pytest

from midi_rwkv import Ask, Note, Region, Score, Track, infill, load_checkpoint
from midi_rwkv.fill.infill import Infiller
from midi_rwkv.model.config import SamplingConfig
from midi_rwkv.score.score import Cell, TimeSignature
from midi_rwkv.score.sustain import longest_ring


@pytest.fixture(scope="module")
def infiller(checkpoint_folder):
    return Infiller(load_checkpoint(checkpoint_folder))


@pytest.fixture(scope="module")
def score():
    notes = tuple(Note(b * 1920 + k * 480, 60 + (b + k) % 7, 400, 80) for b in range(12) for k in range(4))
    long = (Note(1800, 50, 4000, 90), *(Note(b * 1920 + 10, 40, 300, 90) for b in range(4, 12)))
    return Score(480, (Track("a", 0, notes), Track("b", 42, long)), (TimeSignature(0, 4, 4),))


def inside(score, region, track, note):
    return (track, score.bar_index_at(note.onset_ticks)) in region.cells


def test_only_the_region_changes_and_notes_ring_over_its_end_like_the_track(infiller, score):
    region = Region(frozenset({Cell(0, 2), Cell(0, 3), Cell(1, 3), Cell(0, 8), Cell(1, 9)}))
    for candidate in infiller(score, Ask(region, SamplingConfig(density=(4, 20)), candidates=3, seed=2)):
        for t, track in enumerate(score.tracks):
            kept = [n for n in track.notes if not inside(score, region, t, n)]
            new = candidate.fills[t]
            assert sorted([*kept, *new]) == list(candidate.score.tracks[t].notes)
            assert len(new) >= 4
            for n in new:
                assert inside(score, region, t, n)
                _, hi = next(r for r in region.bar_runs(t) if r[0] <= score.bar_index_at(n.onset_ticks) < r[1])
                rings = n.onset_ticks + n.duration_ticks - score.bar(hi - 1).end_ticks
                assert rings <= longest_ring(score.with_notes(t, kept), t)
            for n in new:
                assert not any(
                    k.pitch == n.pitch and k.onset_ticks <= n.onset_ticks < k.onset_ticks + k.duration_ticks
                    for k in kept
                ), "a new note would cut a kept one that still sounds"


def test_the_hidden_notes_do_not_matter(infiller, score):
    """What stood in the region is not read: other notes there give the same fill."""
    region = Region.rectangle([0], [(4, 6)])
    other = score.with_notes(
        0, [n._replace(duration_ticks=100) if inside(score, region, 0, n) else n for n in score.tracks[0].notes]
    )
    assert infiller(score, Ask(region, seed=4))[0].fills == infiller(other, Ask(region, seed=4))[0].fills


def test_threads_and_precision(checkpoint_folder, score):
    checkpoint, region = load_checkpoint(checkpoint_folder), Region.rectangle([0], [(4, 6)])
    one, two, rounded = (
        Infiller(checkpoint, threads=threads, precision=precision)(score, Ask(region, seed=4))[0].fills
        for threads, precision in ((1, "float32"), (2, "float32"), (1, "int8"))
    )
    assert one == two
    assert rounded[0]
    with pytest.raises(ValueError, match="precision must be one of auto, float32, int8"):
        Infiller(checkpoint, precision="int4")


def test_the_context_does_matter(infiller, score):
    region = Region.rectangle([0], [(4, 6)])
    moved = score.with_notes(1, [n._replace(pitch=n.pitch + 5) for n in score.tracks[1].notes])
    fills = [[c.fills for c in infiller(song, Ask(region, candidates=3, seed=4))] for song in (score, moved)]
    assert fills[0] != fills[1]
    near = infiller(score, Ask(region, seed=4, context_bars=1))[0].fills
    assert near != infiller(score, Ask(region, seed=4))[0].fills


def test_progress_and_the_function(checkpoint_folder, score):
    said = []
    region = Region.rectangle([0, 1], [(3, 5)])
    [candidate] = infill(score, Ask(region), load_checkpoint(checkpoint_folder), on_progress=said.append)
    assert [(p.done, p.total, p.track, p.bar) for p in said] == [(1, 4, 0, 3), (2, 4, 0, 4), (3, 4, 1, 3), (4, 4, 1, 4)]
    assert sum(len(p.notes[0]) for p in said) >= sum(len(f) for f in candidate.fills.values())


@pytest.mark.parametrize("cell", [Cell(2, 0), Cell(0, 600), Cell(0, -1), Cell(-1, 0)])
def test_a_region_outside_the_score_is_refused(infiller, score, cell):
    with pytest.raises(ValueError, match="must be 0-"):
        infiller(score, Ask(Region(frozenset({cell}))))


def test_torch_and_numba_write_the_same(checkpoint_folder, score):
    checkpoint, region = load_checkpoint(checkpoint_folder), Region.rectangle([0], [(4, 6)])
    fills = [
        Infiller(checkpoint, backend=backend, precision="float32")(score, Ask(region, seed=1))[0].fills
        for backend in ("numba", "torch")
    ]
    assert fills[0] == fills[1]


def test_a_fill_keeps_to_the_register_of_its_track(infiller, score):
    """A fourth beyond what it plays, at most; a wish goes before that, and a track of few notes may go anywhere."""
    busy, region = SamplingConfig(density=(8, 20)), Region.rectangle([0], [(4, 8)])

    def pitches(score, sampling):
        return {n.pitch for n in infiller(score, Ask(region, sampling, seed=3))[0].fills[0]}

    assert pitches(score, busy) <= set(range(60 - 5, 66 + 5 + 1))
    assert pitches(score, replace(busy, pitch_range=(80, 90))) <= set(range(80, 91))
    sparse = score.with_notes(0, score.tracks[0].notes[:15])
    assert not pitches(sparse, busy) <= set(range(60 - 5, 66 + 5 + 1))
