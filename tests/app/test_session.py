"""The app's sessions: every change is on disk, undo takes back one step at a time, a broken disk does no harm."""

import json
import os
import stat
from types import SimpleNamespace

import gradio as gr
import pytest

from midi_rwkv.app import folder as folder_module
from midi_rwkv.app import session as module
from midi_rwkv.app import view
from midi_rwkv.app.desk import Desk
from midi_rwkv.app.folder import Folder, InUse
from midi_rwkv.app.session import TabSession
from midi_rwkv.app.versions import StoredCandidate
from midi_rwkv.errors import RequestError
from midi_rwkv.score.midi import read_midi
from midi_rwkv.score.score import Note

PIANO = "Acoustic Grand Piano"  # what tracks without a name are called
BAR = 1920
FLUTE, VIOLIN = 73, 40


@pytest.fixture
def song(build_midi, note):
    """Eight bars of lead and bass."""
    lead = [e for b in range(8) for k in range(4) for e in note(b * BAR + k * 480, 60 + k, 240)]
    bass = [e for b in range(8) for e in note(b * BAR, 36 + b, 960, channel=1)]
    return build_midi([[(0, bytes.fromhex("ff580404021808"))], lead, bass])


@pytest.fixture
def session(song, tmp_path):
    made = TabSession(Folder(tmp_path / "tab"))
    made.open(song, "song.mid")
    return made


def test_a_score_is_opened_as_what_it_plays(session):
    note = "<note><pitch><step>C</step><octave>4</octave></pitch><duration>4</duration></note>"
    part = f'<part id="P1"><measure number="1">{note}</measure></part>'
    head = '<part-list><score-part id="P1"><part-name>Flute</part-name></score-part></part-list>'
    session.open(f"<score-partwise>{head}{part}</score-partwise>".encode(), "song.musicxml")
    assert session.data.startswith(b"MThd")
    assert [(t.name, t.program, [n.pitch for n in t.notes]) for t in session.score.tracks] == [("Flute", FLUTE, [60])]


def fill(bar, pitch, track=0):
    return {track: [Note(bar * BAR + 480, pitch, 240, 80)]}


def answer(session, *fills):
    """Candidates for what is marked."""
    session.answer([StoredCandidate(1, f) for f in fills], session.view.cells)


def state(session):
    return session.versions, session.at, session.settings


def from_disk(session):
    """What another server would find."""
    found = TabSession(Folder(session.folder.path))
    found.load()
    return found


def names(session):
    return [t.name for t in session.score.tracks]


def test_a_list_of_tracks_that_comes_late_leaves_what_was_chosen_meanwhile(session):
    """It has a value only where the text of what was chosen before has changed."""
    desk = SimpleNamespace(session=lambda *_: session)
    listed = [f"1 {PIANO}", f"2 {PIANO}"]
    for chosen in (None, listed[1]):
        assert Desk.tracks(desk, "tab", chosen, None) == gr.update(choices=listed)
    session.take(1, (0, True))
    assert Desk.tracks(desk, "tab", listed[1], None) == gr.update(choices=[listed[0], "2 Drums"], value="2 Drums")


def test_a_track_taken_for_drums_is_a_step_and_survives(session, song):
    session.mark([(1, 2)])
    session.take(1, (0, True))
    assert (session.undoes, session.view.cells) == ("2 Acoustic Grand Piano taken for Drums", ((1, 2),))
    assert [t.is_drum for t in session.score.tracks] == [False, True]
    answer(session, fill(2, 38, track=1))
    session.add_track(VIOLIN)
    again = from_disk(session)
    assert state(again) == state(session)
    assert [(t.is_drum, t.channel) for t in again.score.tracks] == [(False, 0), (True, 1), (False, None)]
    session.keep()
    assert [t.is_drum for t in session.score.tracks] == [False, True, False]
    assert [t.is_drum for t in read_midi(session.data).tracks] == [False, False]  # the file is as it was
    for _ in range(2):
        session.step(-1)
    session.take(0, (FLUTE, False))
    session.take(0, (FLUTE, False))  # nothing new
    session.take(1, None)
    assert [(t.program, t.is_drum) for t in session.score.tracks] == [(FLUTE, False), (0, False)]
    assert session.data == song
    assert len(session.versions) == 4
    session.open(song, "other.mid")
    assert [t.program for t in session.score.tracks] == [0, 0]
    session.add_track(VIOLIN)
    for track in (-1, 2):
        with pytest.raises(RequestError, match="is not in the file, which has 2"):
            session.take(track, (0, True))


def test_keep_undo_redo(session, song, check_fill):
    for bar in range(3):
        session.mark([(0, bar)])
        answer(session, fill(bar, 70), fill(bar, 71))
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
    answer(session, fill(7, 40, track=1))
    session.keep()
    assert (session.undoes, session.redoes) == (f"bar 8 of {PIANO}", "")
    session.step(-1)
    assert (session.undoes, session.redoes) == (f"bar 2 of {PIANO}", f"bar 8 of {PIANO}")
    session.step(1)
    assert [v.what for v in session.versions[1:]] == [f"bar 1 of {PIANO}", f"bar 2 of {PIANO}", f"bar 8 of {PIANO}"]
    session.step(1)
    assert session.at == 3
    assert session.data != third
    assert len(list(session.folder.path.glob("*.mid"))) == 4  # what had been undone is gone
    assert len(list(session.folder.path.glob("[0-9]*.json"))) == 4


def test_undo_brings_back_what_was_marked_and_answered(session):
    session.mark([(0, 1), (1, 2)])
    session.toggle_lock(0, BAR, 60)
    answer(session, {**fill(1, 70), **fill(2, 40, track=1)}, {**fill(1, 71), **fill(2, 41, track=1)})
    session.choose(1)
    before = session.view
    session.keep()
    assert session.view == module.View()
    session.mark([(0, 5)])
    after = session.view
    session.step(-1)
    assert session.view == before
    session.step(1)
    assert session.view == after


def test_candidates_stay_until_the_next_fill(session):
    session.mark([(0, 1)])
    answer(session, fill(1, 70), fill(1, 71))
    session.choose(1)
    for cells in ([(1, 5)], []):  # a misclick, Escape
        session.mark(cells)
        assert (len(session.view.candidates), session.view.chosen) == (2, 1)
    session.choose(-1)
    session.choose(0)
    session.mark([(1, 5), (1, 6)])
    session.keep()
    assert session.score.notes_in(0, 1) == fill(1, 70)[0]
    assert session.version.what == f"bar 2 of {PIANO}"
    assert session.view.cells == ((1, 5), (1, 6))  # what else was marked still is
    answer(session, fill(5, 40, track=1))
    session.mark([(0, 0)])
    answer(session, fill(0, 72))
    assert [c.fill for c in session.view.candidates] == [fill(0, 72)]


def test_added_tracks_join_each_other_and_go_one_by_one(session):
    session.mark([(0, 1)])
    answer(session, fill(1, 70))
    before = session.view
    session.add_track(FLUTE)
    session.add_track(VIOLIN)
    assert names(session)[2:] == ["Flute", "Violin"]
    assert session.view == before
    session.mark([(0, 1), (1, 4), (3, 4)])
    session.step(-1)
    assert names(session)[2:] == ["Flute"]
    assert session.view.cells == ((0, 1), (1, 4))  # only the track has gone
    assert session.view.candidates == before.candidates
    session.mark([(2, 0)])
    session.step(-1)
    assert (names(session)[2:], session.view.cells) == ([], ())
    session.step(1)
    session.step(1)
    assert names(session)[2:] == ["Flute", "Violin"]
    assert session.view.cells == ((2, 0), (3, 4))
    for _ in range(60):
        session.add_track(0, is_drum=True)
    with pytest.raises(RequestError, match="the song has 64 tracks; the app shows at most 64"):
        session.add_track(0, is_drum=True)


def test_candidates_for_an_added_track_come_back_with_it(session):
    session.mark([(0, 1)])
    answer(session, fill(1, 70))
    session.add_track(FLUTE)
    session.mark([(2, 3)])
    answer(session, fill(3, 80, track=2), fill(3, 81, track=2))
    session.step(-1)
    assert [c.fill for c in session.view.candidates] == [fill(1, 70)]
    session.step(1)
    assert [c.fill for c in session.view.candidates] == [fill(3, 80, track=2), fill(3, 81, track=2)]


def test_of_the_added_tracks_those_with_notes_are_kept(session):
    session.add_track(FLUTE)
    session.add_track(VIOLIN)
    session.mark([(0, 0)])
    answer(session, fill(0, 70))
    session.keep()
    assert names(session)[2:] == ["Flute", "Violin"]
    assert len(read_midi(session.data).tracks) == 2
    session.mark([(2, 2), (3, 1)])
    answer(session, {2: [], **fill(1, 76, track=3)})
    session.keep()
    assert names(session)[2:] == ["Violin", "Flute"]
    assert session.score.tracks[2].notes == (fill(1, 76)[0][0],)
    assert [t.name for t in read_midi(session.data).tracks][2:] == ["Violin"]
    session.mark([(3, 1)])
    answer(session, {3: []})
    with pytest.raises(RequestError, match="there is not a note in it"):
        session.keep()
    session.step(-1)
    assert session.view.cells == ((2, 2), (3, 1))


def test_a_server_that_starts_again_finds_all(session, song):
    session.mark([(0, 2), (0, 3), (1, 3)])
    session.toggle_lock(0, 2 * BAR, 60)
    answer(session, {**fill(2, 72), **fill(3, 41, track=1)})
    assert state(from_disk(session)) == state(session)
    session.choose(-1)
    session.set(temperature=0.5, density="2-6")
    assert state(from_disk(session)) == state(session)
    session.add_track(VIOLIN)
    assert names(from_disk(session))[2:] == ["Violin"]
    session.mark([(2, 1)])
    answer(session, fill(1, 76, track=2))
    session.keep()
    kept = session.data
    session.open(song, "other.mid")
    again = from_disk(session)
    assert state(again) == state(session)
    assert (again.name, again.data, again.at) == ("other.mid", song, 3)
    again = from_disk(session)
    session.folder.release()
    again.step(-1)  # another song was opened by mistake: nothing is lost
    assert (again.name, again.data) == ("song.mid", kept)


def test_what_is_broken_on_disk_does_no_harm(session):
    session.mark([(0, 1)])
    path = session.folder.path
    (path / "0.json").write_text("{broken")
    found = from_disk(session)
    assert (found.data, found.view) == (session.data, module.View())
    (path / "0.mid").unlink()
    assert not from_disk(session).is_open
    for text in ("{broken", "[]", "{}", '{"versions": [[0, 0, "", "a.mid", []]], "at": 7, "settings": {}}'):
        (path / "session.json").write_text(text)
        assert state(from_disk(session)) == ([], 0, {})


def test_locked_notes_are_those_that_are_shown(session):
    session.mark([(0, 1)])
    session.toggle_lock(0, BAR + 480, 61)
    session.toggle_lock(0, 3 * BAR, 60)  # not marked
    assert session.locked_notes(session.region) == {0: [Note(BAR + 480, 61, 240, 80)]}
    answer(session, {0: [Note(BAR + 480, 61, 100, 33), Note(BAR + 960, 65, 100, 33)]})
    assert session.locked_notes(session.region) == {0: [Note(BAR + 480, 61, 100, 33)]}
    session.mark([(0, 2), (1, 2)])
    session.toggle_lock(1, 2 * BAR, 38)  # beside the candidate, which has nothing for this track
    assert session.locked_notes(session.region) == {1: [Note(2 * BAR, 38, 960, 80)]}
    session.mark([(0, 1)])  # the misclick is taken back
    assert session.locked_notes(session.region) == {0: [Note(BAR + 480, 61, 100, 33)]}
    session.toggle_lock(0, BAR + 480, 61)
    assert session.locked_notes(session.region) == {}


@pytest.mark.parametrize("cells", [[(2, 0)], [(-1, 0)], [(0, -1)], [(0, 8 + module.EXTRA_BARS)]])
def test_cells_outside_the_song_are_refused(session, cells):
    with pytest.raises(RequestError, match="is not in the song"):
        session.mark(cells)
    assert session.view.cells == ()


def test_what_cannot_be_done_is_said(session, tmp_path, monkeypatch, song):
    empty = TabSession(Folder(tmp_path / "empty"))
    for do in (lambda: empty.data, lambda: empty.mark([(0, 0)]), empty.keep, lambda: empty.add_track(0)):
        with pytest.raises(RequestError, match=r"open a song first|no candidate"):
            do()
    empty.step(-1)
    assert not (tmp_path / "empty").exists()
    with pytest.raises(RequestError, match="nothing is marked"):
        _ = session.region
    before = session.data
    with pytest.raises(ValueError, match=r"broken\.mid"):
        session.open(b"MThd nonsense", "broken.mid")
    monkeypatch.setattr(module, "MAX_NOTES", 10)
    with pytest.raises(RequestError, match=r"song\.mid has 40 notes; the app takes at most 10"):
        session.open(song, "song.mid")
    assert session.data == before


@pytest.mark.parametrize("writes", range(3))
def test_a_full_disk_loses_nothing(session, monkeypatch, writes):
    """Keeping writes three files; the disk is full before each of them."""
    session.mark([(0, 0)])
    answer(session, fill(0, 70))
    before, left, replace = state(session), [writes], os.replace

    def full(*paths):
        if not left[0]:
            raise OSError("no space left on device")
        left[0] -= 1
        replace(*paths)

    monkeypatch.setattr(folder_module.os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        session.keep()
    assert state(session) == before
    assert state(from_disk(session)) == before
    assert sorted(p.name for p in session.folder.path.iterdir()) == [".lock", "0.json", "0.mid", "session.json"]
    left[0] = 0
    with pytest.raises(OSError, match="no space"):
        session.set(key="A minor")
    assert state(session) == before


def test_only_this_user_can_read_it(session):
    old = os.umask(0)
    try:
        session.add_track(FLUTE)
        other = TabSession(Folder(session.folder.path.parent / "deep" / "er"))
        other.adopt(session)
    finally:
        os.umask(old)
    for path in session.folder.path.parent.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_a_folder_has_one_writer(session, song):
    other = from_disk(session)
    before = state(session)
    for do in (lambda: other.mark([(0, 1)]), lambda: other.open(song, "b.mid"), lambda: other.set(key="any")):
        with pytest.raises(InUse, match="open in another midi-rwkv server"):
            do()
    assert state(other) == before == state(from_disk(session))
    session.folder.release()
    other.mark([(0, 1)])
    with pytest.raises(InUse):
        session.mark([(0, 2)])


def test_the_roll_is_told_which_notes_no_fill_replaces(session, build_midi, note):
    phrase = [e for b in range(8) for k in range(4) for e in note(b * BAR + k * 480, 60 + k, 440)]
    switches = [e for b in range(0, 8, 2) for e in note(b * BAR, 24, 100, velocity=1)]
    session.open(build_midi([sorted([*phrase, *switches])]), "violin.mid")
    [track] = json.loads(view.song_line(session))["tracks"]
    assert track["stays"] == [[b * BAR, 24] for b in range(0, 8, 2)]
