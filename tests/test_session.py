"""The app's sessions: every change is on disk, undo goes back all the way, and what is broken on disk does no harm."""

import os
import time

import pytest

from midi_rwkv.app import session as module
from midi_rwkv.app.session import Candidate, Session, Sessions, load_session
from midi_rwkv.midi import read_midi
from midi_rwkv.score import Note

BAR = 1920
ID = "0123456789abcdef" * 2


@pytest.fixture
def song(build_midi, note):
    """Eight bars of lead and bass."""
    lead = [e for b in range(8) for k in range(4) for e in note(b * BAR + k * 480, 60 + k, 240)]
    bass = [e for b in range(8) for e in note(b * BAR, 36 + b, 960, channel=1)]
    return build_midi([[(0, bytes.fromhex("ff580404021808"))], lead, bass])


@pytest.fixture
def session(song, tmp_path):
    made = Session(tmp_path / ID)
    made.open(song, "song.mid")
    return made


def fill(bar, pitch, track=0):
    return {track: [Note(bar * BAR + 480, pitch, 240, 80)]}


def same(a, b):
    return [getattr(a, name) for name in module.SAVED] == [getattr(b, name) for name in module.SAVED]


def test_keep_undo_redo(session, song, check_fill):
    for bar in range(3):
        session.mark([(0, bar)])
        session.answer([Candidate(1, fill(bar, 70)), Candidate(1, fill(bar, 71))])
        session.choose(1)
        session.keep()
    third = session.data
    assert check_fill(song, third, [(1, 0, 0, 3 * BAR)]) == []
    assert [session.score.notes_in(0, b) for b in range(3)] == [[fill(b, 71)[0][0]] for b in range(3)]
    assert session.score.notes_in(0, 3) == read_midi(song).notes_in(0, 3)
    for _ in range(5):
        session.step(-1)
    assert (session.at, session.data) == (0, song)
    for _ in range(5):
        session.step(1)
    assert (session.at, session.data) == (3, third)
    session.step(-1)
    session.mark([(1, 7)])
    session.answer([Candidate(2, fill(7, 40, track=1))])
    session.keep()
    assert (session.undoes, session.redoes) == ("bar 8 of track 2", "")
    session.step(-1)
    assert (session.undoes, session.redoes) == ("bar 2 of track 1", "bar 8 of track 2")
    session.step(1)
    assert [v.what for v in session.versions[1:]] == [
        "bar 1 of track 1",
        "bar 2 of track 1",
        "bar 8 of track 2",
    ]
    session.step(1)
    assert session.at == 3
    assert session.data != third
    assert len(list(session.folder.glob("*.mid"))) == 4  # what had been undone is gone


def test_a_server_that_starts_again_finds_all(session, song):
    session.mark([(0, 2), (0, 3), (1, 3)])
    session.toggle_lock(0, 2 * BAR, 60)
    session.answer([Candidate(5, {**fill(2, 72), **fill(3, 41, track=1)})])
    assert same(load_session(session.folder), session)
    session.choose(-1)
    assert load_session(session.folder).chosen == -1
    session.add_track(40, False)
    again = load_session(session.folder)
    assert same(again, session)
    assert [t.name for t in again.score.tracks][2:] == ["Violin"]
    session.mark([(2, 1)])
    session.answer([Candidate(1, fill(1, 76, track=2))])
    session.keep()
    again = load_session(session.folder)
    assert (again.data, again.at, again.new_track) == (session.data, 1, None)
    assert again.score.tracks[2].notes == (fill(1, 76)[0][0],)
    assert len(read_midi(session.data).tracks) == 3
    kept = session.data
    session.open(song, "other.mid")
    assert same(load_session(session.folder), session)
    assert (session.name, session.data, session.at) == ("other.mid", song, 2)
    session.step(-1)  # another song was opened by mistake: nothing is lost
    assert (session.name, session.data) == ("song.mid", kept)


def test_a_new_track_that_is_not_marked_is_not_written(session):
    session.add_track(0, True)
    session.mark([(0, 0)])
    session.answer([Candidate(1, fill(0, 70))])
    session.keep()
    assert len(session.score.tracks) == 2


def test_locked_notes_are_those_that_are_shown(session):
    session.mark([(0, 1)])
    session.toggle_lock(0, BAR + 480, 61)
    session.toggle_lock(0, 3 * BAR, 60)  # not marked
    assert session.locked_notes() == {0: [Note(BAR + 480, 61, 240, 80)]}
    session.answer([Candidate(1, {0: [Note(BAR + 480, 61, 100, 33), Note(BAR + 960, 65, 100, 33)]})])
    assert session.locked_notes() == {0: [Note(BAR + 480, 61, 100, 33)]}
    session.toggle_lock(0, BAR + 480, 61)
    assert session.locked_notes() == {}


@pytest.mark.parametrize("cells", [[(2, 0)], [(-1, 0)], [(0, -1)], [(0, 8 + module.EXTRA_BARS)]])
def test_cells_outside_the_song_are_refused(session, cells):
    with pytest.raises(ValueError, match="is not in the song"):
        session.mark(cells)
    assert session.cells == []


def test_what_cannot_be_done_is_said(session, tmp_path, monkeypatch, song):
    empty = Session(tmp_path / ("f" * 32))
    for do in (lambda: empty.data, lambda: empty.mark([(0, 0)]), empty.keep, lambda: empty.add_track(0, False)):
        with pytest.raises(ValueError, match=r"open a song first|no candidate"):
            do()
    with pytest.raises(ValueError, match="nothing is marked"):
        _ = session.region
    before = session.data
    with pytest.raises(ValueError, match=r"broken\.mid"):
        session.open(b"MThd nonsense", "broken.mid")
    monkeypatch.setattr(module, "MAX_NOTES", 10)
    with pytest.raises(ValueError, match=r"song\.mid has 40 notes; the app takes at most 10"):
        session.open(song, "song.mid")
    assert session.data == before


def test_a_full_disk_loses_nothing(session, monkeypatch):
    session.mark([(0, 0)])
    session.answer([Candidate(1, fill(0, 70))])
    before = load_session(session.folder)

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(module.os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        session.keep()
    assert same(load_session(session.folder), before)
    assert same(session, before)
    assert sorted(p.name for p in session.folder.iterdir()) == ["0.mid", "session.json"]


def test_sessions_are_told_apart_kept_and_forgotten(tmp_path, song, monkeypatch):
    monkeypatch.setattr(module, "MAX_OPEN", 2)
    sessions = Sessions(tmp_path)
    ids = [c * 32 for c in "abc"]
    for id in ids:
        sessions.get(id).open(song, f"{id}.mid")
    assert [sessions.get(id).name for id in ids] == [f"{id}.mid" for id in ids]
    assert len(sessions._open) == 2
    assert not sessions.get("../../etc").is_open
    assert not sessions.get(None).is_open
    (tmp_path / ids[0] / "session.json").write_text("{broken")
    (tmp_path / ids[1] / "0.mid").unlink()
    old = time.time() - (module.KEEP_DAYS + 1) * 86400
    os.utime(tmp_path / ids[2] / "session.json", (old, old))
    again = Sessions(tmp_path)
    assert not any(again.get(id).is_open for id in ids)
    assert not (tmp_path / ids[2]).exists()
