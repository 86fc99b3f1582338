"""What `midi-rwkv watch` does with files that are saved half, again, wrongly, or while nobody watches."""

import os

import pytest

from midi_rwkv.commands.watch import PATIENCE, Watcher
from midi_rwkv.score.midi import read_midi
from midi_rwkv.score.smf import digest_of

BAR = 1920


def test_a_file_that_grows_is_left_until_it_is_whole(watched, twelve_bars):
    data = twelve_bars()
    for cut in (0, 20, 200, len(data) - 1):
        watched.save("song [8 Bass].mid", data[:cut])
        assert watched.look() == [False] * 3
    watched.now += PATIENCE - 0.1
    assert watched.look() == [False] * 3
    watched.save("song [8 Bass].mid", data)
    assert watched.look() == [False, True, False]
    assert watched.names == ["song [8 Bass]-fill.mid", "song [8 Bass].mid"]


def test_a_file_that_stays_half_is_refused(watched, twelve_bars, capsys):
    watched.save("song [8 Bass].mid", twelve_bars()[:200])
    watched.save("song.mid", twelve_bars([(0, "fill"), (BAR, "/fill")])[:200])
    watched.look()
    watched.now += PATIENCE
    assert watched.look() == [True, False, False]
    assert watched.names == ["song [8 Bass].error.txt", "song [8 Bass].mid", "song.mid"]
    assert "is truncated" in watched.read("song [8 Bass].error.txt").decode()
    assert capsys.readouterr().err.count("\n") == 1


def test_of_rapid_saves_the_last_is_answered(watched, twelve_bars, capsys, monkeypatch):
    saves = iter([twelve_bars(shift=2), twelve_bars(shift=3)])
    fill = watched.watcher.model.infiller.writing.write

    def saved_meanwhile(*arguments):
        fill(*arguments)
        if (newer := next(saves, None)) is not None:
            watched.save("song [8 Bass].mid", newer)

    monkeypatch.setattr(watched.watcher.model.infiller.writing, "write", saved_meanwhile)
    for shift in (0, 1):
        watched.save("song [8 Bass].mid", twelve_bars(shift=shift))
        watched.watcher.step()
    assert watched.look(2) == [False, False]
    assert watched.names == ["song [8 Bass].mid"]  # the answer to what was read is not written
    assert watched.look(6).count(True) == 1
    _, bass = read_midi(watched.path / "song [8 Bass]-fill.mid").tracks
    assert [n for n in bass.notes if n.onset_ticks < BAR] == [
        n for n in read_midi(twelve_bars(shift=3)).tracks[1].notes if n.onset_ticks < BAR
    ]
    assert capsys.readouterr().err.count("was saved again or removed; its fill was given up") == 2


def test_a_fill_is_given_up_as_soon_as_the_song_is_saved(watched, twelve_bars, monkeypatch):
    """At the next cell, that is, rather than at its end."""
    cells = []
    blank = watched.watcher.model.infiller.writing.blank

    def saved_at_once(*arguments):
        watched.save("song [1-12].mid", twelve_bars(shift=1))
        return blank(*arguments)

    monkeypatch.setattr(watched.watcher.model.infiller.writing, "blank", saved_at_once)
    monkeypatch.setattr(
        "midi_rwkv.commands.watch.show_progress", lambda check: lambda progress: (cells.append(progress), check())
    )
    watched.save("song [1-12].mid", twelve_bars())
    watched.look(2)
    assert len(cells) == 1
    assert watched.names == ["song [1-12].mid"]


def test_a_save_within_a_tick_of_the_disks_clock_is_seen(watched, twelve_bars, monkeypatch):
    """Some disks count the time in steps of two seconds; the content tells."""
    path, writing = watched.path / "song [8 Bass].mid", watched.watcher.model.infiller.writing
    fill, newer = writing.write, [twelve_bars(shift=1)]

    def saved_meanwhile(*arguments):
        fill(*arguments)
        if newer:
            when = path.stat().st_mtime_ns
            path.write_bytes(newer.pop())
            os.utime(path, ns=(when, when))

    monkeypatch.setattr(writing, "write", saved_meanwhile)
    path.write_bytes(twelve_bars())
    assert watched.look(2) == [False, False]
    assert watched.names == [path.name]
    assert watched.look(1) == [True]
    assert read_midi(watched.path / "song [8 Bass]-fill.mid").tracks[1].notes[0].pitch == 37


def test_the_answer_of_a_file_saved_again_replaces_its_own(watched, twelve_bars):
    watched.save("song [8 Bass].mid", twelve_bars())
    watched.look()
    before = watched.read("song [8 Bass]-fill.mid")
    watched.save("song [8 Bass].mid", twelve_bars(shift=1))
    assert watched.look() == [False, True, False]
    assert watched.read("song [8 Bass]-fill.mid") != before
    watched.save("m.mid", twelve_bars([(0, "fill Bass x2"), (BAR, "/fill")]))
    watched.look()
    assert {"m-fill-1.mid", "m-fill-2.mid"} <= set(watched.names)
    (watched.path / "m-fill-2.mid").write_bytes(b"mine now")
    watched.save("m.mid", twelve_bars([(0, "fill Bass"), (BAR, "/fill")]))
    watched.look()
    assert {"m-fill.mid", "m-fill-2.mid"} == {n for n in watched.names if n.startswith("m-")}
    assert watched.read("m-fill-2.mid") == b"mine now"


def test_saved_again_as_it_was_it_is_answered_again(watched, twelve_bars, watch_model, watch_options):
    watched.watcher = Watcher(watched.path, watch_options(), watch_model)
    watched.save("song [8-11].mid", twelve_bars())
    watched.look()
    before = watched.read("song [8-11]-fill.mid")
    watched.save("song [8-11].mid", twelve_bars())
    assert watched.look() == [False, True, False]
    assert watched.read("song [8-11]-fill.mid") != before  # another seed


@pytest.mark.parametrize("foreign", [b"mine", None])
def test_a_file_of_somebody_else_is_never_replaced(watched, twelve_bars, foreign, capsys):
    name = "song [8 Bass]-fill.mid"
    if foreign:
        (watched.path / name).write_bytes(foreign)
    else:  # it was the watcher's own, and was changed by hand
        watched.save("song [8 Bass].mid", twelve_bars())
        watched.look()
        foreign = watched.read(name) + b" "
        (watched.path / name).write_bytes(foreign)
    watched.save("song [8 Bass].mid", twelve_bars(shift=1))
    watched.look()
    assert watched.read(name) == foreign
    assert f"{name} exists already" in capsys.readouterr().err
    assert "rename or remove it" in watched.read("song [8 Bass].error.txt").decode()
    (watched.path / name).unlink()
    watched.save("song [8 Bass].mid", twelve_bars(shift=1))
    watched.look()
    assert watched.names == [name, "song [8 Bass].mid"]


def test_a_file_that_comes_during_the_fill_is_not_replaced(watched, twelve_bars, monkeypatch, capsys):
    watched.save("m.mid", twelve_bars([(0, "fill Bass"), (BAR, "/fill")]))
    watched.look()
    (watched.path / "m-fill.mid").rename(watched.path / "m-fill-1.mid")
    watched.watcher.record.claim("m.mid", {"m-fill-1.mid": digest_of(watched.read("m-fill-1.mid"))})
    writing = watched.watcher.model.infiller.writing
    fill = writing.write

    def saved_meanwhile(*arguments):
        fill(*arguments)
        watched.save("m-fill-2.mid", b"mine")

    monkeypatch.setattr(writing, "write", saved_meanwhile)
    before = watched.read("m-fill-1.mid")
    watched.save("m.mid", twelve_bars([(0, "fill Bass x2"), (BAR, "/fill")]))
    watched.look()
    assert "m-fill-2.mid exists already" in capsys.readouterr().err
    assert (watched.read("m-fill-1.mid"), watched.read("m-fill-2.mid")) == (before, b"mine")


def test_a_note_of_somebody_else_is_never_replaced(watched, twelve_bars, capsys):
    watched.save("song [99].error.txt", b"mine")
    watched.save("song [99].mid", twelve_bars())
    watched.look()
    assert "song [99].mid: bars 99 are out of range" in capsys.readouterr().err
    (watched.path / "song [99].mid").unlink()
    watched.look()
    assert watched.read("song [99].error.txt") == b"mine"


def test_what_is_wrong_is_said_once_and_beside_the_file(watched, twelve_bars, capsys):
    watched.save("song [8 Bassoon].mid", twelve_bars())
    watched.save("m.mid", twelve_bars([(0, "fill Basso"), (BAR, "/fill")]))
    watched.look(6)
    err = capsys.readouterr().err
    assert err.count("\n") == 2
    assert "song [8 Bassoon].mid: no track 'Bassoon'" in err
    assert "no track 'Basso'" in watched.read("m.error.txt").decode()
    assert watched.read("song [8 Bassoon].error.txt").decode().count("\n") == 1
    watched.save("m.mid", twelve_bars([(0, "fill Bass"), (BAR, "/fill")]))
    (watched.path / "song [8 Bassoon].mid").rename(watched.path / "song [8 Bass].mid")
    watched.look(6)
    assert watched.names == ["m-fill.mid", "m.mid", "song [8 Bass]-fill.mid", "song [8 Bass].mid"]


def test_after_a_restart_what_was_answered_is_not_answered_again(watched, twelve_bars):
    watched.save("song [8 Bass].mid", twelve_bars())
    watched.save("m.mid", twelve_bars([(0, "fill Bass"), (BAR, "/fill")]))
    watched.look(6)
    answer = watched.read("m-fill.mid")
    (watched.path / "song [8 Bass]-fill.mid").rename(watched.path / "kept.mid")
    os.utime(watched.path / "m.mid")  # as when the folder was copied
    watched.restart()
    assert watched.look(4) == [False] * 4
    assert watched.read("m-fill.mid") == answer
    watched.save("song [8 Bass].mid", twelve_bars())
    assert watched.look() == [False, True, False]
    watched.save("m.mid", twelve_bars([(0, "fill Bass"), (BAR, "/fill")], shift=1))
    watched.restart()
    assert watched.look() == [False, True, False]  # it was saved while nobody watched
    assert watched.read("m-fill.mid") != answer
    assert watched.names == ["kept.mid", "m-fill.mid", "m.mid", "song [8 Bass]-fill.mid", "song [8 Bass].mid"]


def test_what_was_about_to_be_written_when_the_power_failed_is_its_own(watched, twelve_bars, monkeypatch):
    """The answers are there, and the record says only that they were about to be written."""
    watched.save("song [8 Bass].mid", twelve_bars())
    monkeypatch.setattr(watched.watcher.record, "settle", lambda *_: None)
    watched.look()
    assert watched.names == ["song [8 Bass]-fill.mid", "song [8 Bass].mid"]
    watched.restart()
    assert watched.look() == [False, True, False]
    assert watched.names == ["song [8 Bass]-fill.mid", "song [8 Bass].mid"]
