"""The bytes of a song: a MIDI file, or a MusicXML document and the MIDI file of what it plays."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO, NamedTuple

from midi_rwkv.errors import MidiError
from midi_rwkv.files import shown

from .heard import hear, midi_of
from .musicxml import is_musicxml, read_document
from .smf import MAX_FILE_BYTES


class Source(NamedTuple):
    """A song as it was read: a MIDI file, or the one that was made of a MusicXML document."""

    data: bytes  # of the MIDI file
    name: str  # for messages
    path: Path | None = None  # None where it was read from no file of its own: a pipe, or bytes
    notation: bytes | None = None  # the MusicXML document

    @property
    def file(self) -> bytes:
        """The bytes of the file from which it was read."""
        return self.data if self.notation is None else self.notation

    @property
    def is_changed(self) -> bool:
        """Whether the file holds something else by now, or is gone."""
        if self.path is None:
            return False
        try:
            return load_midi(self.path).file != self.file
        except MidiError:
            return True


def load_midi(source: str | Path | bytes | BinaryIO | Source, name: str | None = None) -> Source:
    """A song's bytes (at most one more than allowed) and its name for messages. Raises MidiError."""
    if isinstance(source, Source):
        return source
    if isinstance(source, bytes):
        return _source(source, name or "song")
    if not isinstance(source, (str, os.PathLike)):
        return _source(source.read(MAX_FILE_BYTES + 1), name or "song")
    try:
        if os.path.isdir(source):
            raise MidiError(f"{shown(source)} is a folder; name a MIDI file in it")
        size = os.stat(source).st_size
        if size > MAX_FILE_BYTES:
            raise MidiError(
                f"{shown(source)} is too big: {size:,} bytes, at most {MAX_FILE_BYTES:,} are read; split it into "
                "shorter files"
            )
        with open(source, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
            path = Path(source) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else None
            return _source(data, name or shown(os.path.basename(source)), path)
    except FileNotFoundError:
        raise MidiError(f"there is no file {shown(source)}; check its name and folder") from None
    except MidiError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise MidiError(f"cannot read {shown(source)}: {reason(error)}; check its name and permissions") from None


def _source(data: bytes, name: str, path: Path | None = None) -> Source:
    if len(data) > MAX_FILE_BYTES or not is_musicxml(data):
        return Source(data, name, path)
    return Source(midi_of(hear(read_document(data, name), name)), name, path, data)


def reason(error: Exception) -> str:
    """What a failed call of the operating system says, for a message."""
    return (getattr(error, "strerror", None) or str(error)).lower()
