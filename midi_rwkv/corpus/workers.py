"""Processes on this machine that read files which may crash them.

The fast reader is native code. On a file that was made to break them, or that does not fit into
memory, a process dies and its work is lost. So a separate process reads a chunk and records each file before reading it
(`Chunk.journal`). If the process dies, a new one reads the chunk again without that file.
"""

from __future__ import annotations

import signal
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from typing import Any, TypeVar

from midi_rwkv.errors import CorpusError

from .inputs import Chunk, read_journal

AHEAD = 4  # chunks queued per worker
T = TypeVar("T")


class Workers:
    """A number of processes. `on_lost` receives the name of each file on which one died. Needs joblib."""

    def __init__(self, jobs: int, on_lost: Callable[[str], None]):
        from joblib import cpu_count

        self._jobs = cpu_count() if jobs == -1 else jobs
        self._on_lost = on_lost
        self._folder = tempfile.TemporaryDirectory()
        self._idle: SimpleQueue[Any] = SimpleQueue()
        for _ in range(self._jobs):
            self._idle.put(None)  # None is a process that has not started yet
        self._lock = Lock()
        self._started: list[Any] = []  # guarded by the lock, as is the next attribute
        self._stopping = False
        self._threads = ThreadPoolExecutor(self._jobs, initializer=_block_ctrl_c)

    def run(self, function: Callable[..., T], arguments: Iterable[tuple[Any, ...]]) -> Iterator[T]:
        """Yields `function(chunk, *rest)` for each of the arguments, in order."""
        ahead: deque[Future[T]] = deque()
        for number, (chunk, *rest) in enumerate(arguments):
            ahead.append(self._threads.submit(self._call, function, number, chunk, rest))
            if len(ahead) >= AHEAD * self._jobs:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()

    def stop(self) -> None:
        """Ends the processes, whatever they are doing."""
        with self._lock:
            self._stopping = True
        for worker in self._started:
            worker.shutdown(wait=True, kill_workers=True)
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._folder.cleanup()

    def _call(self, function: Callable[..., T], number: int, chunk: Chunk, rest: list[Any]) -> T:
        worker = self._idle.get()
        try:
            chunk = replace(chunk, journal=str(Path(self._folder.name, str(number))))
            while True:
                worker = worker or self._start()
                try:
                    result: T = worker.submit(function, chunk, *rest).result()
                    return result
                except BrokenProcessPool:
                    worker = None
                    if self._stopping:
                        raise
                    place, name = read_journal(chunk.journal)
                    if place < 0 or place in chunk.lost:
                        raise CorpusError(f"{chunk.path} cannot be read: the process that does so dies") from None
                    chunk = replace(chunk, lost=chunk.lost | {place})
                    self._on_lost(name)
        finally:
            self._idle.put(worker)

    def _start(self) -> Any:
        from joblib.externals.loky import ProcessPoolExecutor

        with self._lock:
            if self._stopping:
                raise RuntimeError("the workers were stopped")
            self._started.append(ProcessPoolExecutor(1))
            return self._started[-1]


def _block_ctrl_c() -> None:
    """Leaves Ctrl-C to the parent process. Threads and processes inherit this from the calling thread."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
