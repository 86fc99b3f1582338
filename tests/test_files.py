"""Files that are written whole or not at all, and names that are never taken from another process."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from midi_rwkv.files import check_writable, whole_files


def write(paths, data, meanwhile=lambda: None, **options):
    with whole_files(paths, **options) as partials:
        for partial in partials:
            partial.write_bytes(data)
        meanwhile()


@pytest.fixture(params=["links", "no links"])
def links(request, monkeypatch):
    """Both kinds of file system; one without hard links is FAT, as on most USB sticks."""
    if request.param == "no links":

        def refuse(*_):
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(os, "link", refuse)


@pytest.mark.usefixtures("links")
def test_an_existing_file_stays_and_so_does_one_that_came_meanwhile(tmp_path):
    path = tmp_path / "a"
    with pytest.raises(FileExistsError, match="exists already"):
        write([path], b"ours", lambda: path.write_bytes(b"theirs"), overwrite=False)
    assert path.read_bytes() == b"theirs"
    assert os.listdir(tmp_path) == ["a"]
    write([path], b"new")
    assert path.read_bytes() == b"new"


@pytest.mark.usefixtures("links")
def test_all_or_none(tmp_path):
    paths = [tmp_path / name for name in "abc"]
    with pytest.raises(FileExistsError):
        write(paths, b"ours", lambda: paths[2].write_bytes(b"theirs"), overwrite=False)
    assert os.listdir(tmp_path) == ["c"]
    paths[2].unlink()
    write(paths, b"ours", overwrite=False)
    assert [p.read_bytes() for p in paths] == [b"ours"] * 3
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "c"]


def test_what_several_files_held_is_restored(tmp_path, monkeypatch):
    paths = [tmp_path / name for name in "abc"]
    paths[0].write_bytes(b"old")
    paths[0].chmod(0o640)
    replace = os.replace

    def fail_at_the_last(source, target):
        if target == paths[2]:
            raise OSError(5, "Input/output error")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_at_the_last)
    with pytest.raises(OSError, match="Input/output"):
        write(paths, b"new")
    assert os.listdir(tmp_path) == ["a"]
    assert paths[0].read_bytes() == b"old"
    assert paths[0].stat().st_mode & 0o777 == 0o640


def test_a_file_that_changed_meanwhile_is_not_replaced(tmp_path):
    path, other = tmp_path / "a", tmp_path / "b"
    for held, fits in ((b"read", True), (b"saved since", False)):
        path.write_bytes(held)
        if fits:
            write([other, path], b"new", unchanged={path: b"read"})
        else:
            with pytest.raises(OSError, match="was changed by another program meanwhile"):
                write([other, path], b"newer", unchanged={path: b"read"})
    assert path.read_bytes() == b"saved since"
    assert other.read_bytes() == b"new"


def test_ctrl_c_while_the_names_are_given_comes_after_them(tmp_path, monkeypatch):
    paths = [tmp_path / name for name in "ab"]
    link = os.link

    def interrupted(source, target):
        os.kill(os.getpid(), signal.SIGINT)
        link(source, target)

    monkeypatch.setattr(os, "link", interrupted)
    with pytest.raises(KeyboardInterrupt, match="everything was written"):
        write(paths, b"new", overwrite=False)
    assert [p.read_bytes() for p in paths] == [b"new", b"new"]
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


RACE = """
    import os, sys
    from pathlib import Path
    from midi_rwkv.files import whole_files
    os.fsync = lambda file: None  # only names are raced for; a busy disk takes its time
    me, folder = sys.argv[1], Path(sys.argv[2])
    print("ready", flush=True)
    sys.stdin.readline()
    won = 0
    for i in range(60):
        paths = [folder / f"{i}-{k}" for k in ((0, 1) if me == "a" else (1, 0))]
        try:
            with whole_files(paths, overwrite=False) as partials:
                for partial in partials:
                    partial.write_text(me)
            won += 1
        except FileExistsError:
            pass
    print(won)
"""


def test_of_two_processes_one_writes_all_its_files(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", textwrap.dedent(RACE)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    racers = [subprocess.Popen([*command, me, str(tmp_path)], env=environment, **pipes) for me in "ab"]
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    won = [int(racer.communicate(timeout=120)[0]) for racer in racers]
    pairs = {}
    for path in tmp_path.iterdir():
        pairs.setdefault(path.name.split("-")[0], []).append(path.read_text())
    assert all(pair in (["a", "a"], ["b", "b"]) for pair in pairs.values()), "no pair is half one's, half the other's"
    assert len(pairs) == sum(won), "every answer that was written is there"
    assert sum(won) <= 60


def test_a_name_or_folder_that_will_not_do(tmp_path):
    check_writable(tmp_path / "a")
    for path, why in (
        (tmp_path / ("x" * 300), "too long"),
        (tmp_path / "no" / "a", "No such"),
        (Path("/sys/a"), "denied|read-only|No such"),
    ):
        with pytest.raises(OSError, match=why):
            check_writable(path)
    assert os.listdir(tmp_path) == []


def test_partial_files_of_killed_processes_go_after_a_day(tmp_path, monkeypatch):
    mine, left = tmp_path / ".notes.partial", tmp_path / f".{'0a' * 8}.partial"
    for path in (mine, left):
        path.write_bytes(b"half")
    write([tmp_path / "a"], b"whole")
    assert left.exists()  # its process may be alive
    now = time.time()
    monkeypatch.setattr("midi_rwkv.files.time.time", lambda: now + 86500)
    write([tmp_path / "b"], b"whole")
    assert sorted(os.listdir(tmp_path)) == [".notes.partial", "a", "b"]
