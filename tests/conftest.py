"""Fixtures that several test files share: MIDI files made by code, and the scripts as modules."""

from __future__ import annotations

import importlib
import importlib.util
import os
import signal
import struct
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, settings

import midi_rwkv

# No property fails because the machine is busy.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

# Tests of what needs no PyTorch run where it is not installed.
if importlib.util.find_spec("torch") is None or not importlib.import_module("torch").cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # Triton reads it when the kernels are imported

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # pytest was started in a shell's background
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parents[1]
PACKAGE = Path(midi_rwkv.__file__).parent
if PACKAGE.parent == ROOT:  # the checkout's own: what the tests start in other folders uses it too
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))

RawEvent = tuple[int, bytes]  # absolute tick, the message with its status byte
END_OF_TRACK = b"\xff\x2f\x00"


def _length(value: int) -> bytes:
    assert value >= 0, "events come in the order of their ticks"
    groups = [value & 0x7F]
    while value := value >> 7:
        groups.append(value & 0x7F | 0x80)
    return bytes(reversed(groups))


def midi_chunk(events: Iterable[RawEvent], *, running: bool = False, end: int | None = 0) -> bytes:
    """A track chunk of events in the order given. `end` is the tick of the end-of-track at least, None for none."""
    body, now, last = bytearray(), 0, -1
    events = list(events)
    if end is not None:
        events.append((max([end, *(tick for tick, _ in events)]), END_OF_TRACK))
    for tick, message in events:
        body += _length(tick - now)
        body += message[1:] if running and message[0] == last else message
        now, last = tick, message[0] if message[0] < 0xF0 else -1
    return b"MTrk" + struct.pack(">I", len(body)) + bytes(body)


def midi_file(
    tracks: Sequence[Iterable[RawEvent] | bytes],
    ticks_per_beat: int = 480,
    kind: int = 1,
    *,
    running: bool = False,
    end: int | None = 0,
) -> bytes:
    """A file of tracks, each a list of raw events or a chunk ready made; chunks that are not tracks are not counted."""
    chunks = [t if isinstance(t, bytes) else midi_chunk(t, running=running, end=end) for t in tracks]
    count = sum(chunk[:4] == b"MTrk" for chunk in chunks)
    return b"MThd" + struct.pack(">IHHH", 6, kind, count, ticks_per_beat) + b"".join(chunks)


def raw_note(tick: int, pitch: int, duration: int, velocity: int = 80, channel: int = 0) -> list[RawEvent]:
    """A note-on and its note-off."""
    return [
        (tick, bytes([0x90 | channel, pitch, velocity])),
        (tick + duration, bytes([0x80 | channel, pitch, 64])),
    ]


def load_script(name: str) -> ModuleType:
    """scripts/NAME.py as a module; the scripts are no package."""
    if str(ROOT / "scripts") not in sys.path:
        sys.path.append(str(ROOT / "scripts"))
    return importlib.import_module(name)


@pytest.fixture(scope="session")
def build_midi() -> Callable[..., bytes]:
    """`build_midi(tracks, ticks_per_beat=480, kind=1, running=False, end=0) -> bytes`: see midi_file."""
    return midi_file


@pytest.fixture(scope="session")
def build_chunk() -> Callable[..., bytes]:
    """`build_chunk(events, running=False, end=0) -> bytes`: see midi_chunk."""
    return midi_chunk


@pytest.fixture(scope="session")
def note() -> Callable[..., list[RawEvent]]:
    """`note(tick, pitch, duration, velocity=80, channel=0) -> [(tick, bytes), (tick, bytes)]`."""
    return raw_note


@pytest.fixture(scope="session")
def script() -> Callable[[str], ModuleType]:
    """`script("check_fill")`: scripts/check_fill.py as a module."""
    return load_script


@pytest.fixture(scope="session")
def check_fill(script: Callable[[str], ModuleType]) -> Callable[..., list[str]]:
    """The independent checker of a filled file."""
    return script("check_fill").check_fill


@pytest.fixture(scope="session")
def checkpoint_folder(pytestconfig, tmp_path_factory):
    """A tiny checkpoint whose weights are random: it writes noise, but through every part of the real thing."""
    if pytestconfig.getoption("--without-pytorch"):
        pytest.skip("the tiny checkpoint needs PyTorch, and MidiTok")
    import torch

    from midi_rwkv.model.config import ModelConfig
    from midi_rwkv.model.step_checkpoint import save_step_checkpoint
    from midi_rwkv.model.steps import StepModel
    from midi_rwkv.tokens.attributes import make_vocabulary

    torch.manual_seed(0)
    config, vocabulary = ModelConfig(n_layer=2, n_embd=64, vocab_size=0), make_vocabulary()
    model = StepModel(config, vocabulary.sizes)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    folder = tmp_path_factory.mktemp("checkpoint")
    save_step_checkpoint(folder, config, model.state_dict(), vocabulary, context=512, training={})
    return folder


@pytest.fixture(scope="session")
def start_app(script, tmp_path_factory):
    """`start_app(*arguments, folder=None, port=None)`: see `app_driver.serve` of the scripts, in a new folder.

    Whoever starts one stops it when it has served, since a server that waits costs a twentieth of a core; here only
    those end that a failing test left."""
    running = []

    def start(*arguments, folder: Path | None = None, port: int | None = None):
        running.append(
            script("script_helpers.app_driver").serve(folder or tmp_path_factory.mktemp("data"), *arguments, port=port)
        )
        return running[-1]

    yield start
    for app in running:
        app.stop()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--need-browser", action="store_true", help="fail rather than skip where no Chromium is installed")
    parser.addoption("--need-lua", action="store_true", help="fail rather than skip where no Lua is installed")
    parser.addoption("--without-pytorch", action="store_true", help="skip what needs the tiny checkpoint, or MidiTok")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """The whole suite runs in as many processes as there are cores, four at most, where pytest-xdist is installed.
    Files that are named run in one process, which starts sooner, unless -n says otherwise."""
    options = config.option
    if not config.pluginmanager.hasplugin("xdist") or os.environ.get("PYTEST_XDIST_WORKER"):
        return
    if options.numprocesses is None and config.args_source is config.ArgsSource.TESTPATHS and not options.usepdb:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        options.numprocesses, options.dist = min(cores, 4), "loadfile"
    if options.numprocesses:
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # a core for each process


def differing() -> list[str]:
    """The modules of the checkout that the installed package lacks or has otherwise."""
    folders = {"midi_rwkv": PACKAGE, "kernels": PACKAGE / "kernels", "app": PACKAGE / "app"}
    pairs = [
        (path, installed / path.relative_to(ROOT / folder))
        for folder, installed in folders.items()
        for path in sorted((ROOT / folder).rglob("*.py"))
    ]
    return [
        str(path.relative_to(ROOT))
        for path, other in pairs
        if not other.is_file() or other.read_bytes() != path.read_bytes()
    ]


def pytest_report_header() -> list[str]:
    if PACKAGE.parent == ROOT:
        return ["midi_rwkv: this checkout"]
    lines = [f"midi_rwkv: as installed, {PACKAGE}"]
    if found := differing():
        lines.append(f"  the checkout's {found[0]} is another (of {len(found)}): `python -m pytest` tests the checkout")
    return lines
