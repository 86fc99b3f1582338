"""Handles Ctrl-C before anything else is imported."""

from __future__ import annotations

import os


def stop_at_once(*_: object) -> None:
    """Exits on Ctrl-C while nothing can have been written. An exception might get lost in a half-imported module."""
    os.write(2, b"midi-rwkv: stopped; nothing was written\n")
    os._exit(130)
