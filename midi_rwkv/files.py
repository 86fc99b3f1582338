"""Writes files completely or not at all, and never replaces another file without permission."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import stat
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

PARTIAL = re.compile(r"\.[0-9a-f]{16}\.partial")
ABANDONED = 86400  # seconds without a change after which a partial file is deleted


class FileChangedError(OSError):
    """The file to be replaced has changed since it was read."""


@contextmanager
def whole_file(path: Path, *, overwrite: bool = True, unchanged: Mapping[Path, bytes] | None = None) -> Iterator[Path]:
    """`whole_files` for a single path."""
    with whole_files([path], overwrite=overwrite, unchanged=unchanged) as (partial,):
        yield partial


@contextmanager
def whole_files(
    paths: Sequence[Path], *, overwrite: bool = True, unchanged: Mapping[Path, bytes] | None = None
) -> Iterator[list[Path]]:
    """Yields temporary paths to write to. When all are complete and on disk, they are renamed to `paths`: all or none.

    Each temporary path is new and in the same folder as its target, so that several processes may write the same
    target. After an error or Ctrl-C everything is as it was before. A kill may leave a partial file (`.*.partial`); the
    next call for that folder deletes it if it is more than a day old.

    Args:
        unchanged: the bytes that files among `paths` must still hold when they are about to be replaced.

    Raises:
        FileExistsError: `overwrite` is False and a path exists by the time of renaming.
        FileChangedError: a file in `unchanged` holds other bytes by then.
    """
    for folder in {path.parent for path in paths}:
        _sweep(folder)
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
            _place(partials, paths, overwrite=overwrite)
    finally:
        for partial in partials:
            with suppress(OSError):
                partial.unlink()


def _sweep(folder: Path) -> None:
    """Deletes the partial files that killed processes left in a folder. Nobody has touched them for a day."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if PARTIAL.fullmatch(entry.name):
                status = entry.stat(follow_symlinks=False)
                if time.time() - max(status.st_mtime, status.st_ctime) > ABANDONED:  # a hard link keeps its mtime
                    os.unlink(entry)


def _place(partials: Sequence[Path], targets: Sequence[Path], *, overwrite: bool) -> None:
    """Renames all partial files to their targets, or none of them."""
    placed: list[tuple[Path, Path | None]] = []  # each target, and the copy of its previous content
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
    """Renames the partial file if the name is free, in one step: checking first and renaming later would be a race."""
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
    """Defers Ctrl-C to the end of the block, which takes a few milliseconds."""
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
    """Raises OSError if no file can be written to `path`. Call this before long work.

    It creates a file in the folder and removes it again, because permissions alone do not tell (read-only disks,
    network folders).
    """
    with suppress(FileNotFoundError):
        path.lstat()  # fails if the name is too long for the file system
    probe = path.with_name(f".{secrets.token_hex(8)}.partial")
    os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    probe.unlink()


def shown(path: str | os.PathLike[str]) -> str:
    """The path as text for a message, without line breaks or other control characters."""
    text = os.fspath(path)
    return text if text.isprintable() else repr(text)
