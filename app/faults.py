"""Error messages for people: one line for a mistake, and a plain statement for a bug."""

from __future__ import annotations

import logging

from midi_rwkv.errors import MidiRwkvError

INTERNAL = "internal error: this is a bug in midi-rwkv, not a mistake of yours; the server's log has the details"

log = logging.getLogger(__name__)


def one_line(error: Exception) -> str:
    """The one-line message of a mistake. For anything else it says that this is a bug, and logs the traceback."""
    if isinstance(error, (MidiRwkvError, OSError)):
        return " ".join(str(error).split())
    log.error("a bug", exc_info=error)
    return INTERNAL
