"""The app's worker: the same notes as `infill`, in turn, stopped within a moment, contexts remembered."""

import threading
import time
from itertools import pairwise

import numpy as np
import pytest

from midi_rwkv import Ask
from midi_rwkv.app import learn, work
from midi_rwkv.app.work import CellWritten, FillRequest, PatientEngine, Stopped, Waiting, Worker, half_of
from midi_rwkv.engine.make import make_engine
from midi_rwkv.fill.infill import infill
from midi_rwkv.model.checkpoint import load_checkpoint
from midi_rwkv.score.score import Note, Region, Score, TimeSignature, Track
from midi_rwkv.style.style import Style

BAR = 1920
REGION = Region.rectangle([0, 1], [(4, 6)])


@pytest.fixture(scope="module")
def checkpoint(checkpoint_folder):
    return load_checkpoint(checkpoint_folder)


@pytest.fixture
def worker(checkpoint):
    return Worker(checkpoint, threads=1)


@pytest.fixture(scope="module")
def score():
    lead = tuple(Note(b * BAR + k * 480, 60 + (b + k) % 7, 240, 80) for b in range(12) for k in range(4))
    bass = tuple(Note(b * BAR, 36 + b % 5, 960, 80) for b in range(12))
    return Score(480, (Track("lead", 73, lead), Track("bass", 33, bass)), (TimeSignature(0, 4, 4),))


def asked(score, region=REGION, candidates=1, seed=1, **options):
    return FillRequest(score, Ask(region, candidates=candidates, seed=seed), **options)


def fills(worker, score, candidates=2, seed=3, **options):
    *_, found = worker.infill(asked(score, candidates=candidates, seed=seed, **options))
    return found


def test_the_same_notes_as_infill(worker, checkpoint, score):
    rng = np.random.default_rng(0)
    c = checkpoint.config
    style = Style("s", run=rng.normal(size=(c.n_layer, c.n_head, c.head_size, c.head_size)).astype(np.float32))
    plain = [c.fills for c in infill(score, Ask(REGION, candidates=2, seed=3), checkpoint)]
    styled = [c.fills for c in infill(score, Ask(REGION, candidates=2, seed=3), checkpoint, style=style)]
    assert plain != styled
    for _ in range(2):  # the second time from what was remembered
        assert fills(worker, score) == plain
        assert fills(worker, score, style=style) == styled


def test_what_was_read_is_not_read_again(worker, score, monkeypatch):
    read = []

    def count(name):
        original = getattr(worker.engine.engine, name)

        def counted(inputs, state):
            read.append(len(inputs))
            return original(inputs, state)

        monkeypatch.setattr(worker.engine.engine, name, counted)

    count("prefill")
    count("prefill_vectors")
    first = fills(worker, score)
    cold = sum(read)
    read.clear()
    assert fills(worker, score) == first
    assert cold > 64
    assert sum(read) < 64
    read.clear()
    fills(worker, score.with_notes(1, score.tracks[1].notes[1:]))
    assert sum(read) > 64


def test_memory_is_bounded(checkpoint, monkeypatch):
    monkeypatch.setattr(work, "REMEMBERED", 3)
    engine = PatientEngine(make_engine(checkpoint.trunk, checkpoint.config.head_size))
    for i in range(6):
        vectors = checkpoint.weights["tables.weight"][[i + 10] * 70]
        state = engine.new_state(1)
        kept = engine.prefill_vectors(vectors, state)
        kept[:] = 0  # what is handed out is a copy
        again = engine.new_state(1)
        assert engine.prefill_vectors(vectors, again).any()
        np.testing.assert_array_equal(state.wkv, again.wkv)
    assert len(engine._known) == 3


def test_progress_is_told_cell_by_cell(worker, score):
    *events, found = worker.infill(asked(score, candidates=2, seed=3))
    assert all(isinstance(e, CellWritten) for e in events)
    assert [(e.done, e.total) for e in events] == [(k, 4) for k in range(1, 5)]
    assert all(len(e.notes) == 2 and e.seconds_left >= 0 for e in events)
    assert events[-1].seconds_left == 0
    assert len(found) == 2


def test_it_stops_at_the_next_note(worker, score, monkeypatch):
    stop, gone, after = threading.Event(), threading.Event(), []
    step = worker.engine.engine.step_vectors

    def counted(vectors, state):
        after.append(stop.is_set())
        return step(vectors, state)

    monkeypatch.setattr(worker.engine.engine, "step_vectors", counted)
    region = Region.rectangle([0, 1], [(0, 300)])
    work = worker.infill(asked(score, region, 8), stop)
    next(work)
    stop.set()
    with pytest.raises(Stopped):
        for _ in work:
            pass
    assert len(after) > 1
    assert sum(after) <= 1  # the one that had been checked already
    left = worker.infill(asked(score, region, 8), gone)
    next(left)
    left.close()  # a page that is gone
    assert gone.is_set()
    assert fills(worker, score)


def test_others_wait_in_turn(worker, score, monkeypatch):
    order, threads, gate = [], [], threading.Event()
    original = worker.infiller.__class__.__call__

    def slow(self, score, ask, **options):
        gate.wait(120)
        order.append(ask.seed)
        return original(self, score, ask, **options)

    monkeypatch.setattr(worker.infiller.__class__, "__call__", slow)
    told = {}

    def one(seed):
        told[seed] = [e for e in worker.infill(asked(score, seed=seed)) if isinstance(e, Waiting)]

    for seed in range(4):
        threads.append(threading.Thread(target=one, args=(seed,)))
        threads[-1].start()
        while len(worker._turns) <= seed:
            assert threads[-1].is_alive(), "it came to no turn"
            time.sleep(0.01)
    gate.set()
    for thread in threads:
        thread.join(120)
    assert order == [0, 1, 2, 3]
    assert told[0] == []
    assert [w.before for w in told[3]][-1] >= 1
    assert all(a.before > b.before for a, b in pairwise(told[3]))


def test_too_many_are_sent_away(worker, score, monkeypatch):
    monkeypatch.setattr(work, "MOST_WAITING", 0)
    first = worker.infill(asked(score, Region.rectangle([0], [(0, 200)])))
    next(first)
    with pytest.raises(ValueError, match="busy: 1 are before you"):
        list(worker.infill(asked(score)))
    first.close()


def test_one_style_is_learned_at_a_time(checkpoint, monkeypatch):
    going, gate = threading.Event(), threading.Event()

    def slow(_paths, name, *_, **_options):
        going.set()
        gate.wait(120)
        return name

    monkeypatch.setattr(learn, "personalize", slow)
    first = threading.Thread(target=learn.alone, args=([], "first", checkpoint), kwargs={"overwrite": False})
    first.start()
    going.wait(120)
    with pytest.raises(ValueError, match="busy: another style is being learned"):
        learn.alone([], "second", checkpoint, overwrite=False)
    with pytest.raises(ValueError, match="busy: another style is being learned"):
        list(learn.tune([], "third", overwrite=False, checkpoint=checkpoint, stop=threading.Event()))
    gate.set()
    first.join(120)
    assert learn.alone([], "fourth", checkpoint, overwrite=False) == "fourth"


def test_errors_reach_the_caller(worker, score):
    with pytest.raises(ValueError, match="tracks must be 0-1"):
        list(worker.infill(asked(score, Region.rectangle([5], [(0, 1)]))))
    assert fills(worker, score)


def test_half_of_a_region():
    half = half_of(REGION, 1)
    assert half.cells < REGION.cells
    assert len(half.cells) == 2
    assert len({half_of(REGION, seed).cells for seed in range(20)}) > 3
    assert half_of(Region.rectangle([0], [(1, 2)]), 1) is None
