"""Ctrl-C before anything else is imported."""

from __future__ import annotations

import os


def stop_at_once(*_: object) -> None:
    """Ctrl-C as long as nothing can have been written: no exception, which a half-imported module might swallow."""
    os.write(2, b"midi-rwkv: stopped; nothing was written\n")
    os._exit(130)
