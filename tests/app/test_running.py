"""A running fill: it goes on without a page, and a page that comes later takes it up where it is."""

import json
import threading
from itertools import pairwise

import pytest

from midi_rwkv import Ask
from midi_rwkv.app.fills import Plan
from midi_rwkv.app.folder import Folder
from midi_rwkv.app.running import RunningFill
from midi_rwkv.app.session import TabSession
from midi_rwkv.app.work import FillRequest, Worker
from midi_rwkv.model.checkpoint import load_checkpoint

BAR = 1920


@pytest.fixture(scope="module")
def worker(checkpoint_folder):
    return Worker(load_checkpoint(checkpoint_folder), threads=1)


@pytest.fixture
def session(build_midi, note, tmp_path):
    lead = [e for b in range(300) for e in note(b * BAR, 60 + b % 7, 960)]
    made = TabSession(Folder(tmp_path / "tab"))
    made.open(build_midi([[(0, bytes.fromhex("ff580404021808")), *lead]]), "song.mid")
    return made


@pytest.fixture
def begin(worker, session):
    """begin(bars, ...): a fill of these bars that has been started, and an event that is set when it has ended."""

    def start(bars, **options):
        session.mark([(0, b) for b in bars])
        request = FillRequest(session.score, Ask(session.region, candidates=2, seed=3))
        ended = threading.Event()
        fill = RunningFill(worker, session, Plan(request, session.region, {}), lambda _: ended.set(), **options)
        fill.start()
        return fill, ended

    return start


def status(text):
    """What the page would show below the song."""
    *_, last = [json.loads(line)["status"] for line in text.splitlines()[1:]]
    return last["text"] if last else ""


def test_it_goes_on_without_its_page(begin, session):
    fill, ended = begin([2, 3])
    page = fill.follow()
    next(page)
    page.close()
    assert ended.wait(120)
    again = TabSession(Folder(session.folder.path))
    again.load()
    assert [c.seed for c in again.view.candidates] == [3, 3]
    assert again.view.answered == ((0, 2), (0, 3))


def test_candidates_come_in_the_order_that_is_wanted(begin, session):
    _, ended = begin([2, 3])
    assert ended.wait(120)
    plain = session.view
    _, ended = begin([2, 3], find_order=lambda: lambda *_: [1, 0])
    assert ended.wait(120)
    assert [c.place for c in session.view.candidates] == [1, 0]
    assert [c.fill for c in session.view.candidates] == [c.fill for c in plain.candidates][::-1]
    assert session.view.ask != plain.ask


def test_a_page_that_comes_later_takes_it_up(begin):
    fill, _ = begin(range(40))
    first = fill.follow()
    seen = [next(first) for _ in range(4)]
    assert [b.startswith(a) for a, b in pairwise(seen)] == [True] * 3  # only what is new is sent
    assert seen[-1].startswith(fill.text[: len(seen[-1])])
    later = list(fill.follow())
    assert later[0].startswith(seen[-1])
    assert status(later[-1]).startswith("2 candidates in ")
    assert status(list(first)[-1]) == status(later[-1])
    assert [status(text) for text in fill.follow()] == [status(later[-1])]  # it has ended


def test_it_is_stopped_and_leaves_the_song_as_it_was(begin, session):
    before = session.data
    fill, ended = begin(range(300))
    page = fill.follow()
    next(page)
    fill.stop()
    assert status(list(page)[-1]) == "stopped; the song is as it was"
    assert ended.wait(120)
    assert (session.data, session.view.candidates) == (before, ())


def test_one_that_is_replaced_says_nothing(begin):
    fill, ended = begin(range(300))
    fill.is_replaced = True
    fill.stop()
    assert ended.wait(120)
    assert list(fill.follow()) == []


def test_candidates_for_another_song_are_dropped(begin, session, build_midi, note):
    fill, ended = begin(range(40))
    next(fill.follow())
    session.open(build_midi([[e for b in range(4) for e in note(b * BAR, 50, 240)]]), "other.mid")
    assert ended.wait(120)
    assert session.view.candidates == ()
    assert status(list(fill.follow())[-1]) == "stopped; the song is as it was"
