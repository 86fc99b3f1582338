"""Files that are written whole or not at all, and that never take the place of another unasked."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import stat
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType


class FileChangedError(OSError):
    """A file that was to be replaced no longer holds what it held."""


@contextmanager
def whole_file(path: Path, *, overwrite: bool = True, unchanged: Mapping[Path, bytes] | None = None) -> Iterator[Path]:
    """`whole_files` of one path."""
    with whole_files([path], overwrite=overwrite, unchanged=unchanged) as (partial,):
        yield partial


@contextmanager
def whole_files(
    paths: Sequence[Path], *, overwrite: bool = True, unchanged: Mapping[Path, bytes] | None = None
) -> Iterator[list[Path]]:
    """Write to the paths that this yields; when all are complete and on the disk, they become `paths`: all or none.

    Each path yielded is a new one beside its target, so that several processes may write the same target. After an
    error or Ctrl-C everything is as it was before; after a kill a partial file (`.*.partial`) may be left.
    unchanged: what files among `paths` must still hold when their turn comes to be replaced.

    Raises FileExistsError where not `overwrite` and a path is taken by then, even if another process took it a moment
    ago, and FileChangedError where a file in `unchanged` holds something else by then.
    """
    partials = [path.with_name(f".{secrets.token_hex(8)}.partial") for path in paths]
    try:
        yield partials
        for partial in partials:
            with partial.open("rb+") as file:
                os.fsync(file.fileno())
        with _uninterrupted():
            for path, data in (unchanged or {}).items():
                if path in paths and path.read_bytes() != data:
                    raise FileChangedError(
                        f"{shown(path)} was changed by another program meanwhile; nothing was written; run the command "
                        "again, or choose another output"
                    )
            _place(partials, paths, overwrite)
    finally:
        for partial in partials:
            with suppress(OSError):
                partial.unlink()


def _place(partials: Sequence[Path], targets: Sequence[Path], overwrite: bool) -> None:
    """Give every partial file its name, or none of them."""
    placed: list[tuple[Path, Path | None]] = []  # targets, and where what they held before is kept
    kept: list[Path] = []
    try:
        for partial, target in zip(partials, targets, strict=True):
            before = None
            if not overwrite:
                _take_name(partial, target)
            else:
                if target.exists():
                    partial.chmod(stat.S_IMODE(target.stat().st_mode))
                    if len(targets) > 1:
                        before = target.with_name(f".{secrets.token_hex(8)}.partial")
                        kept.append(before)
                        try:
                            os.link(target, before)
                        except OSError:  # as in `_take_name`
                            shutil.copy2(target, before)
                os.replace(partial, target)
            placed.append((target, before))
    except BaseException:
        for target, before in reversed(placed):
            with suppress(OSError):
                if before is None:
                    target.unlink()
                else:
                    os.replace(before, target)
        raise
    finally:
        for copy in kept:
            copy.unlink(missing_ok=True)


def _take_name(partial: Path, target: Path) -> None:
    """Give the partial file a name that nothing has: in one step, for to look first and write then is a race."""
    try:
        try:
            os.link(partial, target)
        except FileExistsError:
            raise
        except OSError:  # a file system without links, such as FAT on a USB stick
            os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            os.replace(partial, target)
    except FileExistsError:
        raise FileExistsError(
            f"{shown(target)} exists already; choose another output or allow overwriting (--overwrite)"
        ) from None


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C waits until this is over, a few milliseconds."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed: list[tuple[int, FrameType | None]] = []
    usual = signal.signal(signal.SIGINT, lambda number, frame: pressed.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
    if pressed and callable(usual):
        try:
            usual(*pressed[0])
        except KeyboardInterrupt:
            raise KeyboardInterrupt("too late: everything was written") from None


def check_writable(path: Path) -> None:
    """Raises OSError where a file could not be written to `path`: to be asked before long work.

    A file is made in the folder and removed again, for permissions tell only half (read-only disks, network folders).
    """
    with suppress(FileNotFoundError):
        path.lstat()  # fails on a name that is too long for the file system
    probe = path.with_name(f".{secrets.token_hex(8)}.partial")
    os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    probe.unlink()


def shown(path: str | os.PathLike[str]) -> str:
    """A path as it may stand in a message: without line breaks and other control characters."""
    text = os.fspath(path)
    return text if text.isprintable() else repr(text)
