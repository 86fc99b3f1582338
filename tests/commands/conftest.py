"""What the tests of `midi-rwkv watch` share."""

import os

import pytest

from midi_rwkv.commands.parser import build_parser
from midi_rwkv.commands.request import load_model
from midi_rwkv.commands.watch import Watcher

BAR = 1920


def meta(tick, kind, text):
    data = text.encode()
    assert len(data) < 128
    return tick, bytes([0xFF, kind, len(data)]) + data


@pytest.fixture(scope="module")
def twelve_bars(build_midi, note):
    """twelve_bars(markers, shift=0) -> twelve bars of 4/4 with Lead and Bass; markers are (tick, text)."""

    def song(markers=(), shift=0, bass="Bass"):
        lead = [e for b in range(12) for k in range(4) for e in note(b * BAR + k * 480, 60 + k + b % 5, 240)]
        low = [e for b in range(12) for e in note(b * BAR, 36 + (b + shift) % 7, 960, channel=1)]
        head = [meta(tick, 6, text) for tick, text in markers]
        return build_midi([head, [meta(0, 3, "Lead"), *lead], [meta(0, 3, bass), (0, b"\xc1\x21"), *low]])

    return song


@pytest.fixture(scope="module")
def watch_options(checkpoint_folder):
    """watch_options("--seed", "1") -> the options of a watch of ".", with the tiny checkpoint."""

    def options(*arguments):
        return build_parser().parse_args(["watch", ".", "--checkpoint", str(checkpoint_folder), *arguments])

    return options


@pytest.fixture(scope="module")
def watch_model(watch_options):
    """The tiny checkpoint, loaded as the command does."""
    return load_model(watch_options())


class Folder:
    """A folder with a watcher whose clock the test moves."""

    def __init__(self, path, watch):
        self.path, self.now, self._watch = path, 0.0, watch
        self.restart()

    def restart(self):
        self.watcher = self._watch(self.path, lambda: self.now)

    def save(self, name, data):
        before = (self.path / name).stat().st_mtime_ns if (self.path / name).exists() else 0
        (self.path / name).write_bytes(data)
        if before and (self.path / name).stat().st_mtime_ns == before:  # within one tick of the file system's clock
            os.utime(self.path / name, ns=(before + 1000, before + 1000))

    def look(self, times=3):
        """Looks at the folder as often as it takes for a file that is there to be answered."""
        return [self.watcher.step() for _ in range(times)]

    @property
    def names(self):
        """What a composer sees in the folder."""
        return sorted(p.name for p in self.path.iterdir() if p.name[0] != ".")

    def read(self, name):
        return (self.path / name).read_bytes()


@pytest.fixture
def watched(tmp_path, watch_model, watch_options):
    """A `Folder` whose fills have the seed 1."""
    options = watch_options("--seed", "1")
    return Folder(tmp_path, lambda path, clock: Watcher(path, options, watch_model, clock=clock))
