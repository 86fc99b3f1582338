"""The folder of uploaded files and of the app's answers, which is limited in size and in how long files stay.

A song is copied into its session when it is opened, so the files here are needed for minutes only.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import platformdirs

LIMIT = 256 * 2**20  # bytes on disk, including uploads in progress
KEEP_SECONDS = 86400  # older files are always deleted
SPARED_SECONDS = 3600  # older files are deleted when room is needed, the oldest first
BLOCK = 4096  # the disk space of a small file, and of a folder


class Full(Exception):
    """There is no room for an upload."""


class Uploads:
    """The files in the folder, and the room for more."""

    def __init__(self, folder: Path, limit: int = LIMIT, clock: Callable[[], float] = time.time) -> None:
        self.folder = folder
        self.limit = limit
        self._clock = clock
        self._promised = 0  # bytes promised to uploads in progress
        self._lock = threading.Lock()

    def open(self) -> None:
        """Creates the folder, readable by its owner only, and deletes old files."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        self.make_room(0)

    async def clean_hourly(self) -> None:
        """Deletes old files every hour until cancelled."""
        import asyncio  # every command imports this module

        while True:
            await asyncio.sleep(3600)
            await asyncio.to_thread(self.make_room, 0)

    def reserve(self, size: int) -> None:
        """Reserves room for an upload of that many bytes until `release`. Raises Full if there is none."""
        with self._lock:
            if self.make_room(size + self._promised) < 0:
                raise Full
            self._promised += size

    def release(self, size: int) -> None:
        """Ends the reservation of an upload."""
        with self._lock:
            self._promised -= size

    def make_room(self, size: int) -> int:
        """Deletes old files, and files older than an hour if `size` bytes would not fit otherwise.

        Returns the room that is left beyond them, which is negative if there is not enough.
        """
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
        """The time of the last change, the bytes on disk and the path of every file or subfolder."""
        for path in self.folder.iterdir():
            used, changed = 0, 0.0
            for file in (path, *(path.rglob("*") if path.is_dir() and not path.is_symlink() else ())):
                try:
                    stat = file.lstat()
                except OSError:  # deleted in the meantime
                    continue
                used += -(-max(stat.st_size, 1) // BLOCK) * BLOCK
                changed = max(changed, stat.st_mtime)
            yield changed, used, path


def upload_folder() -> Path:
    """The folder of uploads: our own folder in $GRADIO_TEMP_DIR if that is set, else in the user's cache."""
    given = os.environ.get("GRADIO_TEMP_DIR")
    base = Path(given) if given else Path(platformdirs.user_cache_dir("midi-rwkv", appauthor=False))
    return (base / "midi-rwkv-uploads").absolute()


def _delete(path: Path) -> None:
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    except OSError:  # another server of the same user deleted it first
        pass
