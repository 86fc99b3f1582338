"""What `midi-rwkv watch` has answered and written, in a hidden file of the watched folder.

Thus a file that was answered is not answered again by the next watcher, and no file is replaced that was written by
somebody else, or changed by somebody since. The file has JSON: by the name of each song the digest of its content when
it was answered, and by the name of each file that was written for it the digests that this may have. There are two of
them while one answer replaces another.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from midi_rwkv.errors import MidiRwkvError
from midi_rwkv.files import shown, whole_file
from midi_rwkv.score.smf import digest_of

NAME = ".midi-rwkv-watch.json"


@dataclass
class Entry:
    """What is known of one song."""

    answered: str | None = None  # digest of the song
    written: dict[str, list[str]] = field(default_factory=dict)  # digests of a file, by its name


class Record:
    """The record of a folder. Every change is written at once, whole; all methods that change it may raise OSError."""

    def __init__(self, folder: Path) -> None:
        """Reads the record. Raises MidiRwkvError if it is damaged, or OSError."""
        self.folder, self.path = folder, folder / NAME
        self._entries = {name: entry for name, entry in _read(self.path).items() if self._is_there(name, entry)}

    def is_answered(self, song: str, digest: str) -> bool:
        """Whether the song was answered when it had this content."""
        return song in self._entries and self._entries[song].answered == digest

    def has_written(self, digest: str) -> bool:
        """Whether a file with this content was written for any song."""
        return any(digest in digests for entry in self._entries.values() for digests in entry.written.values())

    def owns(self, song: str, name: str) -> bool:
        """Whether the file of this name is as it was written for the song."""
        digests = self._entries[song].written.get(name, []) if song in self._entries else []
        try:
            return bool(digests) and digest_of((self.folder / name).read_bytes()) in digests
        except OSError:
            return False

    def claim(self, song: str, files: Mapping[str, str]) -> None:
        """Says what is about to be written for a song: digests by name."""
        entry = self._entries.setdefault(song, Entry())
        for name, digest in files.items():
            entry.written[name] = [*(d for d in entry.written.get(name, ()) if d != digest), digest]
        self._save()

    def settle(self, song: str, digest: str, files: Mapping[str, str]) -> None:
        """Says that a song was answered when it had this digest, with these files; removes what it had before."""
        before = self._entries.get(song, Entry()).written
        for name in before.keys() - files.keys():
            self._remove(song, name)
        self._entries[song] = Entry(digest, {name: [written] for name, written in files.items()})
        self._save()

    def take_back(self, song: str, name: str) -> None:
        """Removes a file that was written for a song, if it is as it was written, and forgets it."""
        if self._entries.get(song, Entry()).written.get(name):
            self._remove(song, name)
            del self._entries[song].written[name]
            self._save()

    def songs(self) -> list[str]:
        """The names of the songs that are known."""
        return list(self._entries)

    def _remove(self, song: str, name: str) -> None:
        if self.owns(song, name):
            (self.folder / name).unlink(missing_ok=True)

    def _is_there(self, song: str, entry: Entry) -> bool:
        return any((self.folder / name).exists() for name in (song, *entry.written))

    def _save(self) -> None:
        with whole_file(self.path) as partial:
            partial.write_text(json.dumps({name: asdict(entry) for name, entry in self._entries.items()}))


def _read(path: Path) -> dict[str, Entry]:
    try:
        told = json.loads(path.read_text())
        return {
            str(song): Entry(entry["answered"], {str(n): list(map(str, d)) for n, d in entry["written"].items()})
            for song, entry in told.items()
        }
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise MidiRwkvError(
            f"{shown(path)} is damaged; delete it, and the songs in the folder are answered as if for the first time"
        ) from None
