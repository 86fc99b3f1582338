"""A folder with one writer: its files are written whole or not at all, and nobody but this user can read them."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from filelock import FileLock, Timeout

from midi_rwkv.errors import RequestError


class InUse(RequestError):
    """Another server writes to the folder."""


class Folder:
    """It is made and locked by the first file that is written, and stays locked against other processes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writer: FileLock | None = None

    def hold(self) -> None:
        """Become the only writer. InUse where there is another."""
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
        """Let another process write."""
        if self._writer:
            self._writer.release()
        self._writer = None

    def read(self, name: str) -> bytes:
        """A file's bytes."""
        return (self.path / name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        """OSError leaves the file as it was; InUse too."""
        self.hold()
        partial = self.path / f".{name}.{secrets.token_hex(4)}"
        try:
            with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(data)
            os.replace(partial, self.path / name)
        except OSError:
            partial.unlink(missing_ok=True)
            raise

    def remove(self, name: str) -> None:
        """Nothing happens where it is not there."""
        (self.path / name).unlink(missing_ok=True)
