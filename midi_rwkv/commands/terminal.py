"""How the commands use the terminal: printing text safely, and Ctrl-C."""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
import threading
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn, TextIO

from .interrupt import stop_at_once

UNSAFE = ("C", "Zl", "Zp")  # Unicode categories: control and format characters, surrogates, line and paragraph ends


def prepare_streams() -> None:
    """Makes characters that the terminal cannot encode print as escapes, so that printing never fails on a name."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def plain(text: str) -> str:
    """The text with control characters escaped, because names come from files and a terminal would obey them."""
    if text.isprintable():
        return text
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c).startswith(UNSAFE) and c not in "\n\t" else c
        for c in text
    )


def say(text: str, file: TextIO | None = None) -> None:
    """Prints a line, safely (see `plain`) and at once."""
    print(plain(text), file=file, flush=True)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are safe to print whatever was typed."""

    def error(self, message: str) -> NoReturn:
        super().error(plain(message))


def drop_output() -> None:
    """Discards further output after the reader of a pipe has gone, so that it does not fail again at exit."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def stoppable() -> Iterator[Callable[[], None]]:
    """Within the block, Ctrl-C raises KeyboardInterrupt at once, and again at the next call of the yielded function.

    The second chance is needed because one in a dozen interrupts inside the decoding loop was lost in compiled code.
    """
    pressed = threading.Event()

    def stop(*_: object) -> None:
        pressed.set()
        raise KeyboardInterrupt

    def check() -> None:
        if pressed.is_set():
            raise KeyboardInterrupt

    usual = signal.getsignal(signal.SIGINT)
    ours = usual in (signal.default_int_handler, stop_at_once) and threading.current_thread() is threading.main_thread()
    if ours:
        signal.signal(signal.SIGINT, stop)
    try:
        yield check
    finally:
        if ours:
            signal.signal(
                signal.SIGINT, signal.default_int_handler
            )  # not `stop_at_once`: something may have been written by now
