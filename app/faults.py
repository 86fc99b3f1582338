"""What a person is told when something went wrong: a mistake in one line, a bug as a bug."""

from __future__ import annotations

import logging

from midi_rwkv.errors import MidiRwkvError

INTERNAL = "internal error: this is a bug in midi-rwkv, not a mistake of yours; the server's log has the details"

log = logging.getLogger(__name__)


def one_line(error: Exception) -> str:
    """The message of a mistake in one line; of anything else only that it is a bug, whose traceback is logged."""
    if isinstance(error, (MidiRwkvError, OSError)):
        return " ".join(str(error).split())
    log.error("a bug", exc_info=error)
    return INTERNAL
