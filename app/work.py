"""The work behind the buttons: one engine, turns, stopping quickly, and the states of earlier readings.

A fill runs in a thread of its own and hands over its cells as they are written. The consumer may leave at any time, and
the thread then ends at the next token.
"""

from __future__ import annotations

import hashlib
import queue
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from midi_rwkv.engine.engine import Floats, State, VectorEngine
from midi_rwkv.engine.make import make_engine
from midi_rwkv.errors import RequestError
from midi_rwkv.fill.ask import Ask
from midi_rwkv.fill.infill import Infiller, Progress
from midi_rwkv.model.checkpoint import load_checkpoint
from midi_rwkv.model.config import usual_threads
from midi_rwkv.model.step_checkpoint import StepCheckpoint
from midi_rwkv.score.score import Note, Region, Score
from midi_rwkv.style.style import Style

from .versions import Fill

REMEMBERED = 24  # contexts whose state is kept, half a megabyte each
WORTH_KEEPING = 64  # steps; states of shorter readings are not kept
AT_ONCE = 512  # steps read between two checks whether to stop
MOST_WAITING = 12


class Stopped(Exception):
    """The work was stopped."""


class PatientEngine:
    """A `VectorEngine` that checks before every step whether to continue, and remembers the states after long readings.

    A second fill of the same region therefore starts with its first note. Two readings are the same if their inputs and
    the state before them are the same.
    """

    def __init__(self, engine: VectorEngine[State]) -> None:
        self.engine, self.name = engine, engine.name
        self.check: Callable[[], None] = lambda: None
        self.vocab_size = engine.vocab_size
        self.block_tokens = engine.block_tokens
        self._known: OrderedDict[bytes, tuple[Floats, State]] = OrderedDict()

    def new_state(self, batch: int = 1, wkv0: Floats | None = None) -> State:
        return self.engine.new_state(batch, wkv0)

    def step_vectors(self, vectors: Floats, state: State) -> Floats:
        self.check()
        return self.engine.step_vectors(vectors, state)

    def prefill_vectors(self, vectors: Floats, state: State) -> Floats:
        """Reads all vectors, or takes over the state that they led to before."""
        self.check()
        if len(vectors) < WORTH_KEEPING or state.batch > 1:
            return self.engine.prefill_vectors(vectors, state)
        mark = hashlib.blake2b(vectors.tobytes(), digest_size=16)
        for array in (state.att_shift, state.ffn_shift, state.wkv):
            mark.update(array.tobytes())
        key = mark.digest()
        if key not in self._known:
            for at in range(0, len(vectors), AT_ONCE):
                self.check()
                last = self.engine.prefill_vectors(vectors[at : at + AT_ONCE], state)
            self._known[key] = (last.copy(), state.copy())
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        last, kept = self._known[key]
        state.att_shift[:], state.ffn_shift[:], state.wkv[:] = kept.att_shift, kept.ffn_shift, kept.wkv
        return last.copy()


@dataclass(frozen=True)
class FillRequest:
    """A request for a number of candidates for cells of a score."""

    score: Score
    ask: Ask
    style: Style | None = None


@dataclass(frozen=True)
class CellWritten:
    """A finished cell: the notes of each candidate, and the progress."""

    track: int
    bar: int
    notes: list[list[Note]]
    done: int
    total: int
    seconds_left: float


@dataclass(frozen=True)
class Waiting:
    """Other requests come first."""

    before: int


@dataclass
class Worker:
    """The model, which works on one fill at a time while the others wait."""

    checkpoint: StepCheckpoint = field(default_factory=load_checkpoint)
    threads: int = field(default_factory=usual_threads)

    def __post_init__(self) -> None:
        checkpoint = self.checkpoint
        engine = make_engine(checkpoint.trunk, checkpoint.config.head_size, threads=self.threads, precision="auto")
        self.engine = PatientEngine(engine)
        self.infiller = Infiller(self.checkpoint, engine=self.engine)
        self._turns: deque[object] = deque()
        self._changed = threading.Condition()

    @contextmanager
    def turn(self, on_wait: Callable[[int], None], check: Callable[[], None]) -> Iterator[None]:
        """Waits for its turn: first come, first served. Raises RequestError if too many are waiting."""
        ticket = object()
        with self._changed:
            if len(self._turns) > MOST_WAITING:
                raise RequestError(f"busy: {len(self._turns)} are before you; try again in a minute")
            self._turns.append(ticket)
        told = 0
        try:
            while True:
                with self._changed:
                    before = self._turns.index(ticket)
                    if not before:
                        break
                    if before == told:
                        self._changed.wait(0.2)
                check()
                if before != told:
                    on_wait(before)
                    told = before
            yield
        finally:
            with self._changed:
                self._turns.remove(ticket)
                self._changed.notify_all()

    def infill(
        self, request: FillRequest, stop: threading.Event | None = None
    ) -> Generator[Waiting | CellWritten | list[Fill]]:
        """Yields the progress, and at the end the fills.

        Setting `stop` ends it at the next token with Stopped; so does closing the iterator.
        """
        happened: queue.Queue[Waiting | CellWritten | list[Fill] | Exception] = queue.Queue()
        stop = stop or threading.Event()

        def check() -> None:
            if stop.is_set():
                raise Stopped

        def work() -> None:
            try:
                with self.turn(lambda before: happened.put(Waiting(before)), check):
                    began = time.monotonic()

                    def on_progress(p: Progress) -> None:
                        check()  # what writes in a style is another engine
                        left = (time.monotonic() - began) / p.done * (p.total - p.done)
                        happened.put(CellWritten(p.track, p.bar, p.notes, p.done, p.total, left))

                    self.engine.check = check
                    self.infiller.style = request.style or Style("none")
                    found = self.infiller(request.score, request.ask, on_progress=on_progress)
                    happened.put([c.fills for c in found])
            except Exception as error:
                happened.put(error)

        threading.Thread(target=work, daemon=True).start()
        try:
            while True:
                event = happened.get()
                if isinstance(event, Exception):
                    raise event
                yield event
                if isinstance(event, list):
                    return
        finally:
            stop.set()


def half_of(region: Region, seed: int) -> Region | None:
    """About half of the cells, drawn at random, to rewrite in "More like this"; None if there is only one."""
    cells = sorted(region.cells)
    if len(cells) < 2:
        return None
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(cells), max(1, len(cells) // 2), replace=False)
    return Region(frozenset(cells[i] for i in chosen))
