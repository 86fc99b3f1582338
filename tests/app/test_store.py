"""The app's store of sessions: one for each tab, one writer for each, copies for those who come second."""

import os
import subprocess
import sys
import time
from typing import Any

import pytest

from midi_rwkv.app import store as module
from midi_rwkv.app.folder import InUse
from midi_rwkv.app.store import Sessions
from midi_rwkv.errors import RequestError

ANNA, BERT = "a" * 32, "b" * 32
ONE, TWO, THREE = "1" * 32, "2" * 32, "3" * 32


@pytest.fixture
def song(build_midi, note):
    return build_midi([[(0, bytes.fromhex("ff580404021808")), *[e for b in range(8) for e in note(b * 1920, 60, 240)]]])


@pytest.fixture
def sessions(tmp_path):
    return Sessions(tmp_path)


def test_tabs_and_browsers_are_told_apart(sessions, song):
    for browser in (ANNA, BERT):
        for tab in (ONE, TWO):
            sessions.get(browser, tab).open(song, f"{browser[0]}{tab[0]}.mid")
    assert [sessions.get(b, t).name for b in (ANNA, BERT) for t in (ONE, TWO)] == [
        "a1.mid",
        "a2.mid",
        "b1.mid",
        "b2.mid",
    ]
    assert sessions.begin(ANNA, ONE, [BERT])[0].name == "a1.mid"
    nobody: Any = None
    for browser, tab in (("../../etc", ONE), (ANNA, ""), (ANNA, "x" * 32), (nobody, ONE)):
        with pytest.raises(RequestError, match="reload it"):
            sessions.get(browser, tab)


def test_a_new_tab_begins_with_a_copy(sessions, song):
    first, told = sessions.begin(ANNA, ONE, [])
    assert not first.is_open
    assert told == ""
    first.open(song, "song.mid")
    first.set(key="A minor")
    first.mark([(0, 3)])
    second, told = sessions.begin(ANNA, TWO, [])
    assert (second.name, second.view, second.settings) == ("song.mid", first.view, {"key": "A minor"})
    assert told == "a copy of song.mid: another tab or server has the original open"
    second.open(song, "other.mid")
    second.step(-1)
    second.mark([(0, 5)])
    assert first.view.cells == ((0, 3),)
    assert sessions.begin(ANNA, ONE, []) == (first, "")
    assert not sessions.begin(BERT, THREE, [])[0].is_open  # another browser's song is nobody else's


def test_the_second_server_opens_a_copy(sessions, song, tmp_path):
    mine = sessions.get(ANNA, ONE)
    mine.open(song, "song.mid")
    mine.mark([(0, 3)])
    other = Sessions(tmp_path)
    with pytest.raises(InUse, match="open in another midi-rwkv server"):
        other.begin(ANNA, ONE, [])
    copy, told = other.copy(ANNA, ONE, TWO)
    assert told.startswith("a copy of song.mid")
    copy.mark([(0, 5)])
    mine.mark([(0, 4)])
    # at another port the browser has another name there, and the tab too
    copy, told = other.begin(BERT, THREE, [ANNA, "no id"])
    assert (copy.name, told[:6]) == ("song.mid", "a copy")
    mine.folder.release()
    last = Sessions(tmp_path)
    assert last.get(ANNA, ONE).view.cells == ((0, 4),)


def test_a_server_that_has_ended_holds_nothing(tmp_path, song):
    (tmp_path / "song.mid").write_bytes(song)
    code = (
        "import sys, time; from pathlib import Path; from midi_rwkv.app.store import Sessions\n"
        f"s = Sessions(Path({str(tmp_path)!r})).get({ANNA!r}, {ONE!r})\n"
        f"s.open(Path({str(tmp_path / 'song.mid')!r}).read_bytes(), 'song.mid')\n"
        "print('open', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout
            assert server.stdout.readline() == "open\n"
            sessions = Sessions(tmp_path)
            with pytest.raises(InUse):
                sessions.get(ANNA, ONE)
        finally:
            server.kill()
    session, told = sessions.begin(ANNA, ONE, [])
    assert (session.name, told) == ("song.mid", "")
    session.mark([(0, 1)])
    copy, told = Sessions(tmp_path).begin(ANNA, TWO, [])
    assert (copy.name, told != "") == ("song.mid", True)


def test_a_copy_of_what_nobody_has_open_is_not_spoken_of(sessions, song, tmp_path):
    sessions.get(ANNA, ONE).open(song, "song.mid")
    sessions.get(ANNA, ONE).folder.release()
    session, told = Sessions(tmp_path).begin(ANNA, TWO, [])
    assert (session.name, told) == ("song.mid", "")


def test_memory_and_disk_are_bounded(sessions, song, monkeypatch, tmp_path):
    monkeypatch.setattr(module, "MAX_OPEN", 2)
    monkeypatch.setattr(module, "MAX_TABS", 3)
    tabs = [f"{k:032x}" for k in range(6)]
    for k, tab in enumerate(tabs):
        sessions.begin(ANNA, tab, [])[0].open(song, f"{k}.mid")
        for path in (tmp_path / ANNA / tab).glob("*.json"):
            os.utime(path, (time.time() + k, time.time() + k))
    assert len(sessions._open) == 2
    sessions.begin(ANNA, "f" * 32, [])
    kept = {path.parent.name for path in tmp_path.glob("*/*/session.json")}
    assert {tabs[5], "f" * 32} <= kept
    assert len(kept) <= 4
    assert tabs[0] not in kept


def test_sessions_of_all_browsers_are_bounded_together(sessions, song, monkeypatch, tmp_path):
    """Programs and private windows come without a cookie, each as a browser of its own."""
    monkeypatch.setattr(module, "MAX_SESSIONS", 4)
    browsers = [f"{k:032x}" for k in range(8)]
    for k, browser in enumerate(browsers):
        session = sessions.get(browser, ONE)
        session.open(song, f"{k}.mid")
        for path in (tmp_path / browser / ONE).glob("*.json"):
            os.utime(path, (time.time() + k, time.time() + k))
        if k not in (0, 5):  # what is in memory stays
            session.folder.release()
            del sessions._open[session.folder.path]
    assert {path.name for path in tmp_path.iterdir()} == {browsers[k] for k in (0, 5, 6, 7)}
    assert sessions.get(browsers[7], ONE).name == "7.mid"


def test_old_sessions_are_forgotten(sessions, song, tmp_path):
    for tab in (ONE, TWO, THREE):
        sessions.get(ANNA, tab).open(song, "song.mid")
    old = time.time() - (module.KEEP_DAYS + 1) * 86400
    for tab in (ONE, TWO):
        for path in (tmp_path / ANNA / tab).glob("*.json"):
            os.utime(path, (old, old))
    for tab in (TWO, THREE):
        sessions.get(ANNA, tab).folder.release()
    Sessions(tmp_path)
    assert {path.parent.name for path in tmp_path.glob("*/*/session.json")} == {ONE, THREE}  # the first is in use
