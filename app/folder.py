"""A folder with a single writer. Its files are written completely or not at all, and only this user can read them."""

from __future__ import annotations

import os
from pathlib import Path

from filelock import FileLock, Timeout

from midi_rwkv.errors import RequestError
from midi_rwkv.files import whole_file


class InUse(RequestError):
    """Another server has locked the folder."""


class Folder:
    """A folder that is created and locked by the first write, and then stays locked against other processes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writer: FileLock | None = None

    def hold(self) -> None:
        """Becomes the only writer. Raises InUse if there is another."""
        if self._writer is None:
            for path in reversed([self.path, *self.path.parents]):
                if not path.is_dir():
                    path.mkdir(mode=0o700, exist_ok=True)
            writer = FileLock(self.path / ".lock", mode=0o600, thread_local=False)
            try:
                writer.acquire(timeout=0)
            except Timeout:
                why = "the song is open in another midi-rwkv server; reload the page to go on with a copy of it"
                raise InUse(why) from None
            self._writer = writer

    def release(self) -> None:
        """Lets another process write."""
        if self._writer:
            self._writer.release()
        self._writer = None

    def read(self, name: str) -> bytes:
        """The bytes of a file."""
        return (self.path / name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        """Writes a file. After OSError or InUse the file is as it was."""
        self.hold()
        with whole_file(self.path / name) as partial, open(partial, "xb", opener=_private) as file:
            file.write(data)

    def remove(self, name: str) -> None:
        """Removes a file, if it exists."""
        (self.path / name).unlink(missing_ok=True)


def _private(path: str, flags: int) -> int:
    """Opens a file that nobody but this user can read, whatever the umask."""
    return os.open(path, flags, 0o600)
