"""The folder of uploaded files and of the app's answers: so much and no more, and nothing stays for long.

A song is copied into its session when it is opened, so what lies here is needed for minutes only.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import platformdirs

LIMIT = 256 * 2**20  # bytes on disk, uploads under way included
KEEP_SECONDS = 86400  # everything older is deleted
SPARED_SECONDS = 3600  # where room is needed, what is older goes, the oldest first
BLOCK = 4096  # the disk space of a small file, and of a folder


class Full(Exception):
    """There is no room for an upload."""


class Uploads:
    """What lies in the folder, and room for more."""

    def __init__(self, folder: Path, limit: int = LIMIT, clock: Callable[[], float] = time.time) -> None:
        self.folder = folder
        self.limit = limit
        self._clock = clock
        self._promised = 0  # to uploads under way
        self._lock = threading.Lock()

    def open(self) -> None:
        """Make the folder, for its owner only, and delete what is old."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        self.make_room(0)

    async def clean_hourly(self) -> None:
        """Delete what is old, until cancelled."""
        while True:
            await asyncio.sleep(3600)
            await asyncio.to_thread(self.make_room, 0)

    def reserve(self, size: int) -> None:
        """Room for an upload of that many bytes, until `release`. Raises Full where there is none."""
        with self._lock:
            if self.make_room(size + self._promised) < 0:
                raise Full
            self._promised += size

    def release(self, size: int) -> None:
        """An upload for which there was room has ended."""
        with self._lock:
            self._promised -= size

    def make_room(self, size: int) -> int:
        """Delete what is old, and where `size` bytes have no room, what is older than an hour. Returns the room that is
        left beyond them, negative where there is not enough."""
        now = self._clock()
        left, entries = self.limit - size, sorted(self._entries())
        left -= sum(used for _, used, _ in entries)
        for changed, used, path in entries:
            age = now - changed
            if age > KEEP_SECONDS or (left < 0 and age > SPARED_SECONDS):
                _delete(path)
                left += used
        return left

    def _entries(self) -> Iterator[tuple[float, int, Path]]:
        """When it was changed last, the bytes on disk and the path, of every file or folder right in the folder."""
        for path in self.folder.iterdir():
            used, changed = 0, 0.0
            for file in (path, *(path.rglob("*") if path.is_dir() and not path.is_symlink() else ())):
                try:
                    stat = file.lstat()
                except OSError:  # gone meanwhile
                    continue
                used += -(-max(stat.st_size, 1) // BLOCK) * BLOCK
                changed = max(changed, stat.st_mtime)
            yield changed, used, path


def upload_folder() -> Path:
    """Where uploads lie: a folder of our own in $GRADIO_TEMP_DIR where that is set, else in the user's cache."""
    given = os.environ.get("GRADIO_TEMP_DIR")
    base = Path(given) if given else Path(platformdirs.user_cache_dir("midi-rwkv", appauthor=False))
    return (base / "midi-rwkv-uploads").absolute()


def _delete(path: Path) -> None:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    except OSError:  # another server of the same user was quicker
        pass
