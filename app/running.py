"""A running fill, which continues until it is stopped, whether or not a page follows it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

from midi_rwkv.fill.ranking import Order
from midi_rwkv.score.score import Score

from . import view
from .faults import one_line
from .fills import Plan
from .session import TabSession
from .versions import StoredCandidate
from .work import CellWritten, Stopped, Waiting, Worker


class RunningFill:
    """A fill that is written in a thread of its own and puts its candidates into the session."""

    def __init__(
        self,
        worker: Worker,
        session: TabSession,
        plan: Plan,
        on_end: Callable[[RunningFill], None],
        find_order: Callable[[], Order | None] = lambda: None,
    ):
        """`on_end` is called once, when the fill has ended for whatever reason; `find_order` when its candidates are to
        be ordered."""
        self.session = session
        self.is_replaced = False  # by another fill of the session, which the page shows instead
        self._worker, self._plan, self._on_end, self._find_order = worker, plan, on_end, find_order
        self._version, self._head = session.version, self._make_head()
        self._tail = [view.status_line("reading the song …")]
        request = plan.request
        for track, notes in plan.kept.items():
            written = [notes] * request.ask.candidates
            progress = view.Status("reading the song …", 0, len(request.ask.region.cells))
            self._tail.append(view.cell_line(request.score, track, written, progress))
        self._stop = threading.Event()
        self._changed = threading.Condition()
        self._outcome: str | None = None  # the message after the end

    def start(self) -> None:
        """Starts writing."""
        threading.Thread(target=self._run, daemon=True).start()

    def stop(self) -> None:
        """Ends the fill at the next token."""
        self._stop.set()

    @property
    def text(self) -> str:
        """The roll's text with the cells written so far."""
        with self._changed:
            return "\n".join([self._head, *self._tail])

    def follow(self) -> Iterator[str]:
        """Yields the roll's text now and whenever it changes, and at the end with the candidates."""
        seen = 0
        while True:
            with self._changed:
                while self._outcome is None and len(self._tail) == seen:
                    self._changed.wait()
                if self._outcome is not None:
                    break
                seen, text = len(self._tail), self.text
            yield text
        if not self.is_replaced:
            yield view.show(self.session, self._outcome)

    def _run(self) -> None:
        try:
            outcome = self._write()
        except Stopped:
            outcome = "stopped; the song is as it was"
        except Exception as error:
            outcome = one_line(error)
        with self._changed:
            self._outcome = outcome
            self._changed.notify_all()
        self._on_end(self)

    def _write(self) -> str:
        """Returns the message about the candidates. Raises Stopped after a stop, or if another song has been opened."""
        plan, session, file = self._plan, self.session, self._version.file
        count, seed = plan.request.ask.candidates, plan.request.ask.seed
        began = time.monotonic()
        for event in self._worker.infill(plan.request, self._stop):
            if not isinstance(event, list):
                self._show(event)
                continue
            whole = [
                {t: sorted([*plan.kept.get(t, []), *fill.get(t, [])]) for t in plan.answered.tracks} for fill in event
            ]
            order = self._find_order()
            places = order(plan.request.score, plan.request.ask.region, event) if order else range(len(event))
            with session.lock:
                if session.version.file != file:
                    raise Stopped
                session.answer([StoredCandidate(seed, whole[i], i) for i in places], plan.answered.cells)
        many = f"{count} candidates" if count > 1 else "A candidate"
        took = f"{time.monotonic() - began:.1f} s (seed {seed})"
        return f"{many} in {took}. Pick one below, listen, then Keep it."

    def _show(self, event: Waiting | CellWritten) -> None:
        with self._changed:
            if self.session.version.number != self._version.number:  # a track was added
                self._version, self._head = self.session.version, self._make_head()
            self._tail.append(_line(self._plan.request.score, event))
            self._changed.notify_all()

    def _make_head(self) -> str:
        return view.head(self.session, self._plan.answered.cells, self._plan.request.ask.candidates)


def _line(score: Score, event: Waiting | CellWritten) -> str:
    if isinstance(event, Waiting):
        return view.status_line(f"busy: {event.before} before you")
    text = f"{event.done} of {event.total} cells written, {event.seconds_left:.0f} s left"
    return view.cell_line(score, event.track, event.notes, view.Status(text, event.done, event.total))
