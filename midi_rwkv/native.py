"""Keeps compiled functions on disk, so that only the first process on a machine compiles.

numba's own cache is beside the source, which may be read-only, and does not notice changes in imported modules. Ours is
in the user's cache folder (or in NUMBA_CACHE_DIR), with one folder for each state of the sources.

Without numba the functions run as they are written, slowly.
"""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import platformdirs

try:
    import llvmlite
    import numba as _numba
    from numba.extending import register_jitable
except ImportError:
    numba: Any = None
else:
    numba = _numba

Function = Callable[..., Any]
log = logging.getLogger(__name__)


def cache_folder(sources: Sequence[str]) -> Path:
    """The folder for functions compiled from these source files."""
    key = hashlib.sha256(f"numba {numba.__version__} llvmlite {llvmlite.__version__}".encode())
    for source in sources:
        key.update(Path(source).read_bytes())
    base = os.environ.get("NUMBA_CACHE_DIR") or platformdirs.user_cache_path("midi-rwkv") / "numba"
    return Path(base) / f"midi-rwkv-{key.hexdigest()[:16]}"


def jitable(function: Function) -> Function:
    """A function that compiled ones may call."""
    found: Function = register_jitable(function) if numba else function
    return found


def compiled(signature: Any, sources: Sequence[str]) -> Callable[[Function], Function]:
    """A decorator that compiles a function for one signature, or loads it. `sources` are all files it is made from.

    If the folder cannot be written or read, the function is compiled for this process only.
    """

    def decorate(function: Function) -> Function:
        if not numba:
            return function
        config = numba.config
        before = config.CACHE_DIR
        try:
            folder = cache_folder(sources)
            folder.mkdir(parents=True, exist_ok=True)
            config.CACHE_DIR = str(folder)
            kept: Function = numba.njit(signature, nogil=True, cache=True)(function)
            return kept
        except (OSError, EOFError, pickle.PickleError, RuntimeError) as error:
            log.info("compiled for this process alone, nothing kept: %s", error)
        finally:
            config.CACHE_DIR = before
        made: Function = numba.njit(signature, nogil=True)(function)
        return made

    return decorate
