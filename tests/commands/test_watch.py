"""What `midi-rwkv watch` answers in a folder, what it leaves alone, and how it ends."""

import json
import os
import shutil
import signal
import subprocess
import sys
import unicodedata

import pytest

from midi_rwkv.commands.cli import main
from midi_rwkv.commands.record import NAME
from midi_rwkv.commands.watch import LOCK, Watcher, only_watcher
from midi_rwkv.score.midi import read_midi

BAR = 1920
COMMAND = [sys.executable, "-m", "midi_rwkv"]


def test_a_saved_file_is_answered_beside_it(watched, twelve_bars, check_fill, capsys):
    watched.save("song [8-9 Bass].mid", twelve_bars())
    assert watched.look(4) == [False, True, False, False]
    assert watched.names == ["song [8-9 Bass]-fill.mid", "song [8-9 Bass].mid"]
    assert watched.read("song [8-9 Bass].mid") == twelve_bars()
    mask = [(2, 1, 7 * BAR, 9 * BAR)]
    assert check_fill(watched.path / watched.names[1], watched.path / watched.names[0], mask) == []
    out, err = capsys.readouterr()
    assert "bars 8-9 of 2 Bass; 2 notes before; seed 1" in out
    assert err == ""


def test_candidates_and_defaults_and_forms(watched, twelve_bars, watch_options, watch_model):
    watched.save("song [8-9 x2].mid", twelve_bars())
    watched.look()
    assert watched.names == ["song [8-9 x2]-fill-1.mid", "song [8-9 x2]-fill-2.mid", "song [8-9 x2].mid"]
    options = watch_options("--seed", "1", "--tracks", "Lead", "--format", "json", "--clip")
    watched.watcher = Watcher(watched.path, options, watch_model)
    watched.save("other [3].mid", twelve_bars())
    watched.look()
    told = json.loads(watched.read("other [3]-fill.json"))
    assert [track["name"] for track in told["tracks"]] == ["Lead"]
    assert told["bars"] == [[3, 0, 4]]


def test_a_pair_of_markers_is_answered_and_its_answer_is_no_song(watched, twelve_bars, capsys):
    watched.save("song.mid", twelve_bars([(2 * BAR, "fill Bass"), (3 * BAR, "end fill")]))
    watched.save("plain.mid", twelve_bars())
    watched.save("half.mid", twelve_bars([(0, "fill")]))
    watched.look(8)
    assert watched.names == ["half.mid", "plain.mid", "song-fill.mid", "song.mid"]
    assert read_midi(watched.path / "song-fill.mid").tracks[0] == read_midi(watched.path / "song.mid").tracks[0]
    assert "half.mid is left alone: the marker 'fill' has no marker 'end fill'" in capsys.readouterr().err
    shutil.copy(watched.path / "song-fill.mid", watched.path / "copy.mid")
    watched.save("edited-fill.mid", twelve_bars([(0, "fill"), (BAR, "/fill")]))
    watched.restart()
    watched.look(8)
    assert "edited-fill.mid is left alone: it is named like an answer" in capsys.readouterr().err
    assert watched.names == ["copy.mid", "edited-fill.mid", "half.mid", "plain.mid", "song-fill.mid", "song.mid"]


def test_an_answer_is_asked_for_its_other_bars(watched, twelve_bars):
    watched.save("song [8 Bass].mid", twelve_bars())
    watched.look()
    shutil.move(watched.path / "song [8 Bass]-fill.mid", watched.path / "song [9 Lead].mid")
    watched.look()
    assert "song [9 Lead]-fill.mid" in watched.names


def test_a_score_is_answered_as_one(watched, watch_options, watch_model):
    bar = "<measure><note><pitch><step>C</step><octave>4</octave></pitch><duration>4</duration></note></measure>"
    head = '<part-list><score-part id="P1"><part-name>Bass</part-name></score-part></part-list>'
    score = f'<score-partwise>{head}<part id="P1">{4 * bar}</part></score-partwise>'.encode()
    options = watch_options("--seed", "1", "--format", "musicxml")
    watched.watcher = Watcher(watched.path, options, watch_model)
    watched.save("song [2 Bass].xml", score)
    watched.look(4)
    assert watched.names == ["song [2 Bass]-fill.musicxml", "song [2 Bass].xml"]
    assert watched.read("song [2 Bass]-fill.musicxml").startswith(score[: score.index(b"<measure>") + len(bar)])
    watched.restart()
    assert not any(watched.look(4))


@pytest.mark.parametrize(
    "name", ["Für Élise [2 Größe].mid", "曲 [2 Größe].mid", "a b [x] [2 Größe].MIDI", "[2 größe].kar"]
)
def test_names_in_any_script(watched, twelve_bars, name):
    for form in ("NFC", "NFD"):
        watched.save(unicodedata.normalize(form, name), twelve_bars(bass="Größe"))
    watched.look(4)
    stem = name.rpartition(".")[0]
    answers = {n for n in watched.names if n.endswith("-fill.mid")}
    assert answers == {unicodedata.normalize(form, f"{stem}-fill.mid") for form in ("NFC", "NFD")}


def test_a_name_of_undecodable_bytes(watched, twelve_bars, capsys):
    for name in (b"\xff [2 Bass].mid", b"\xff [2 Basso].mid"):
        with open(os.path.join(os.fsencode(watched.path), name), "wb") as file:
            file.write(twelve_bars())
    watched.look(4)
    watched.restart()
    assert watched.look() == [False, True, False]  # what was refused is tried again
    assert sorted(n for n in os.listdir(os.fsencode(watched.path)) if n[:1] == b"\xff") == [
        b"\xff [2 Bass]-fill.mid",
        b"\xff [2 Bass].mid",
        b"\xff [2 Basso].error.txt",
        b"\xff [2 Basso].mid",
    ]
    assert "\\udcff [2 Basso].mid: no track 'Basso'" in capsys.readouterr().err


def test_what_is_not_a_song_of_the_folder(watched, twelve_bars):
    (watched.path / "sub").mkdir()
    (watched.path / "sub" / "song [8 Bass].mid").write_bytes(twelve_bars())
    (watched.path / "folder [8].mid").mkdir()
    watched.save("._song [8 Bass].mid", twelve_bars())
    watched.save("song [8 Bass].txt", twelve_bars())
    os.mkfifo(watched.path / "pipe [8].mid")
    assert watched.look() == [False] * 3
    assert not (watched.path / NAME).exists()


def test_a_song_that_like_names_is_looked_for_in_the_folder(watched, twelve_bars):
    watched.save("other.mid", twelve_bars())
    watched.save("song [8 Bass like=other.mid].mid", twelve_bars())
    watched.look()
    assert "song [8 Bass like=other.mid]-fill.mid" in watched.names


def test_a_style_is_read_only_when_it_is_another(watched, twelve_bars, monkeypatch):
    read = []
    monkeypatch.setattr("midi_rwkv.style.style.find_style", lambda text, *_, **__: read.append(text))
    for name in ("a [2]", "b [2 style=mine]", "c [3 style=mine]", "d [2]"):
        watched.save(f"{name}.mid", twelve_bars())
        watched.look()
    assert read == ["mine", None]


# The command


def test_two_watchers_and_folders_that_are_none(tmp_path, capsys, checkpoint_folder):
    command = ["--checkpoint", str(checkpoint_folder)]
    with only_watcher(tmp_path):
        assert main(["watch", str(tmp_path), *command]) == 2
    err = capsys.readouterr().err
    assert "another midi-rwkv watches" in err
    assert err.count("\n") == 1
    (tmp_path / NAME).write_text("{]")
    for arguments, words in (
        ([str(tmp_path / "none")], "there is no folder"),
        ([str(tmp_path / NAME)], "there is no folder"),
        ([str(tmp_path), "--temperature", "-1"], "temperature"),
        ([str(tmp_path), "--candidates", "99"], "candidates must be 1-64"),
        ([str(tmp_path), "--style", "nobody"], "no style is called"),
        ([str(tmp_path)], "is damaged; delete it"),
    ):
        assert main(["watch", *arguments, *command]) == 2
        err = capsys.readouterr().err
        assert words in err
        assert err.count("\n") == 1
    assert {p.name for p in tmp_path.iterdir()} <= {NAME, LOCK}


@pytest.fixture
def start(checkpoint_folder, tmp_path):
    """start("--seed", "1") -> the running command, which watches tmp_path/in."""
    (tmp_path / "in").mkdir()
    running = []

    def begin(*arguments, command=COMMAND):
        process = subprocess.Popen(
            [*command, "watch", str(tmp_path / "in"), "--checkpoint", str(checkpoint_folder), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job ignores Ctrl-C
        )
        running.append(process)
        assert "watching" in process.stdout.readline()
        return process

    yield begin
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_the_command_answers_and_ends(start, twelve_bars, tmp_path, capsys):
    process = start("--seed", "1")
    (tmp_path / "in" / "song [8 Bass].mid").write_bytes(twelve_bars())
    assert "bars 8 of 2 Bass" in process.stdout.readline()
    assert "song [8 Bass]-fill.mid: " in process.stdout.readline()
    assert main(["watch", str(tmp_path / "in")]) == 2
    assert "another midi-rwkv watches" in capsys.readouterr().err
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "midi-rwkv: stopped; 1 answer written\n")
    assert read_midi(tmp_path / "in" / "song [8 Bass]-fill.mid").tracks


def test_ctrl_c_in_the_middle_of_a_fill(start, twelve_bars, tmp_path):
    code = (
        "from midi_rwkv.commands import cli, watch\n"
        "show = watch.show_progress\n"
        "watch.show_progress = lambda check: show(lambda: (print('*', flush=True), check()))\n"
        "cli.entry()"
    )
    process = start("--candidates", "64", "--density", "30-48", command=[sys.executable, "-c", code])
    (tmp_path / "in" / "song [1-12].mid").write_bytes(twelve_bars())
    assert process.stdout.readline() == "*\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "midi-rwkv: stopped; 0 answers written\n")
    assert [p.name for p in (tmp_path / "in").iterdir() if p.name != LOCK] == ["song [1-12].mid"]


def test_the_folder_goes_away(start, tmp_path):
    process = start()
    shutil.rmtree(tmp_path / "in")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert err.count("\n") == 1
    assert "is gone" in err
