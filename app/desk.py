"""What happens on every click of the song's page; `ui.py` has the page itself."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pandas as pd

from midi_rwkv.arguments import parse_key, parse_pitch, parse_range
from midi_rwkv.config import SamplingConfig
from midi_rwkv.errors import MidiRwkvError, RequestError
from midi_rwkv.instruments import find_program
from midi_rwkv.score import Note, Region, Score
from midi_rwkv.style import Style, find_style, style_files

from . import learn, view
from .audio import render, wav_bytes
from .cookie import cookie_name
from .faults import one_line
from .session import Candidate, Session, Sessions
from .work import Stopped, Waiting, Worker, Written, half_of

NO_STYLE = "none"
SAMPLE_RATE = 22050


@dataclass(frozen=True)
class Wish:
    """What the page's settings ask of a fill."""

    sampling: SamplingConfig
    style: Style | None
    seed: int


@dataclass(frozen=True)
class Plan:
    """What is written: these cells of this score. kept: what stays of the chosen candidate; locked: what stays of the
    song. Both by track."""

    score: Score
    region: Region
    sampling: SamplingConfig
    kept: dict[int, list[Note]]
    locked: dict[int, list[Note]]


@dataclass(repr=False)
class Desk:
    """What the page's events call: the sessions, the worker, and which session's fill is running."""

    worker: Worker
    sessions: Sessions
    soundfont: Path
    _running: dict[str, threading.Event] = field(default_factory=dict)
    _learning: dict[str, threading.Event] = field(default_factory=dict)

    def session(self, request: gr.Request) -> Session:
        """Whose click it is, by the page's cookie; without cookies by the page, as long as it is open."""
        id = (
            request.cookies.get(cookie_name(request.url))
            or hashlib.blake2b(str(request.session_hash).encode(), digest_size=16).hexdigest()
        )
        return self.sessions.get(id)

    def load(self, request: gr.Request) -> str:
        """The page has come up. Nothing is sent where no song is open: it might overtake one that is being opened."""
        session = self.session(request)
        return view.show(session) if session.is_open else gr.skip()

    def open_file(self, path: str, request: gr.Request) -> str:
        """A file was chosen or dropped."""
        return self._open(self.session(request), Path(path).read_bytes(), Path(path).name)

    def open_example(self, name: str, request: gr.Request) -> str:
        """One of those that ship, by its file name."""
        return self._open(self.session(request), (files(__package__) / "examples" / name).read_bytes(), name)

    def _open(self, session: Session, data: bytes, name: str) -> str:
        self._stop(session)
        try:
            session.open(data, name)
        except Exception as error:
            raise failed(error) from None
        return view.show(session)

    def mark(self, event: gr.EventData, request: gr.Request) -> None:
        """Other cells are marked."""
        with suppress(MidiRwkvError, OSError):  # of a page that is behind: the next thing it is sent sets it right
            self.session(request).mark(event.cells)

    def toggle_lock(self, event: gr.EventData, request: gr.Request) -> None:
        """A note was clicked."""
        with suppress(MidiRwkvError, OSError):
            self.session(request).toggle_lock(int(event.track), int(event.onset), int(event.pitch))

    def choose(self, event: gr.EventData, request: gr.Request) -> None:
        """A candidate was clicked."""
        with suppress(MidiRwkvError, OSError):
            self.session(request).choose(int(event.number))

    def infill(
        self,
        shown: str,
        candidates: int,
        temperature: float,
        recall: float,
        style: str,
        strength: float,
        density: str,
        polyphony: str,
        pitch_range: str,
        key: str,
        seed: str,
        alike: bool,
        request: gr.Request,
    ) -> Iterator[str]:
        """Write the marked bars; the roll's text after every cell. alike: keep about half of the chosen candidate."""
        session = self.session(request)
        self._stop(session)
        try:
            _catch_up(session, shown)
            version, region = session.at, session.region
            wish = self._wish(temperature, recall, style, strength, density, polyphony, pitch_range, key, seed)
            plan = _plan(session, wish, alike)
        except Exception as error:
            raise failed(error) from None
        stop = self._running[session.id] = threading.Event()
        text = f"{view.song_line(session)}\n{view.view_line(session, candidates, 'reading the song …')}"
        for t, notes in plan.kept.items():
            text += "\n" + view.cell_line(
                t, [notes] * candidates, text="reading the song …", done=0, total=len(plan.region.cells)
            )
        yield text
        began = time.monotonic()
        work = self.worker.infill(
            plan.score,
            plan.region,
            plan.sampling,
            candidates=candidates,
            seed=wish.seed,
            style=wish.style,
            locked=plan.locked,
            stop=stop,
        )
        try:
            for event in work:
                if isinstance(event, Waiting):
                    text += "\n" + view.status_line(f"busy: {event.before} before you")
                elif isinstance(event, Written):
                    line = f"{event.done} of {event.total} cells written, {event.seconds_left:.0f} s left"
                    text += "\n" + view.cell_line(
                        event.track, event.notes, text=line, done=event.done, total=event.total
                    )
                else:
                    answers = []
                    for fill in event:
                        whole = {t: sorted([*plan.kept.get(t, []), *fill.get(t, [])]) for t in region.tracks}
                        answers.append(Candidate(wish.seed, whole))
                    if (session.at, session.region) != (version, region):
                        raise Stopped
                    session.answer(answers)
                    break
                yield text
        except Stopped:
            yield view.show(session, "stopped; the song is as it was")
            return
        except Exception as error:
            yield view.show(session, one_line(error))
            return
        finally:
            work.close()
            if self._running.get(session.id) is stop:
                del self._running[session.id]
        n = len(session.candidates)
        many = f"{n} candidates" if n > 1 else "A candidate"
        yield view.show(
            session,
            f"{many} in {time.monotonic() - began:.1f} s (seed {wish.seed}). Pick one below, listen, then Keep it.",
        )

    def _wish(
        self,
        temperature: float,
        recall: float,
        style: str,
        strength: float,
        density: str,
        polyphony: str,
        pitch_range: str,
        key: str,
        seed: str,
    ) -> Wish:
        """The page's settings, read; RequestError or OSError says what is wrong with one."""
        sampling = SamplingConfig(
            temperature=temperature,
            density=parse_range("notes a bar", density or None),
            polyphony=parse_range("notes at once", polyphony or None),
            pitch_range=parse_range("the range", pitch_range or None, parse_pitch),
            key=parse_key(None if key in ("", "any") else key, "the key"),
            recall=recall,
        )
        number = int(seed) if re.fullmatch(r"\s*[0-9]{1,19}\s*", seed) else -1
        if seed.strip() and not 0 <= number < 2**63:
            raise RequestError(f"the seed must be a whole number from 0 to 2^63 - 1, got {seed.strip()[:40]!r}")
        found = None
        if style and style != NO_STYLE and strength:
            found = find_style(style, self.worker.checkpoint, strength)
        return Wish(sampling, found, number if seed.strip() else secrets.randbelow(2**31))

    def stop(self, request: gr.Request) -> None:
        """Cancel was pressed."""
        self._stop(self.session(request))

    def _stop(self, session: Session) -> None:
        running = self._running.get(session.id)
        if running:
            running.set()

    def keep(self, shown: str, request: gr.Request) -> str:
        """The chosen candidate goes into the song."""
        session = self.session(request)
        with _warnings():
            _catch_up(session, shown)
            session.keep()
            return view.show(session, f"kept: {session.versions[session.at].what}")
        return view.show(session)

    def add_track(self, instrument: str, request: gr.Request) -> str:
        """An empty track of that instrument, to write bars for."""
        session = self.session(request)
        self._stop(session)
        with _warnings():
            session.add_track(*find_program(instrument))
            return view.show(session, "an empty track: mark bars of it, then Infill")
        return view.show(session)

    def undo(self, request: gr.Request) -> str:
        """The version before."""
        return self._step(-1, request)

    def redo(self, request: gr.Request) -> str:
        """The version after."""
        return self._step(1, request)

    def _step(self, by: int, request: gr.Request) -> str:
        session = self.session(request)
        if not session.is_open:
            return ""
        self._stop(session)
        at = session.at
        with _warnings():
            session.step(by)
        if session.at == at:
            return view.show(session, "nothing to undo" if by < 0 else "nothing to redo")
        undone = session.versions[at].what if by < 0 else session.versions[session.at].what
        return view.show(session, f"{'undone' if by < 0 else 'done again'}: {undone}")

    def midi(self, wanted: dict[str, Any], request: gr.Request) -> dict[str, str]:
        """The song as it is shown, with the chosen candidate in place: file name, and the file in base64."""
        session = self.session(request)
        try:
            shown = 0 <= session.chosen < len(session.candidates)
            data = session.with_candidate(session.chosen) if shown else session.data
            stem = Path(session.name).stem
            return {"name": f"{stem}-infill.mid", "data": base64.b64encode(data).decode()}
        except Exception as error:
            return {"error": one_line(error)}

    def read_pieces(self, paths: list[str] | None) -> list[list[Any]]:
        """A row for each file that was given to learn from."""
        return learn.what_was_read(paths or [])[0]

    def learn(
        self, paths: list[str] | None, name: str, overwrite: bool, request: gr.Request
    ) -> Iterator[tuple[Any, ...]]:
        """A line, the curve, and in the end the choice of styles with the new one."""
        session = self.session(request)
        stop = self._learning[session.id] = threading.Event()
        try:
            if not paths:
                raise RequestError("no files yet; drop some of your own pieces first")
            if not name.strip():
                raise RequestError("the style needs a name")
            for step in learn.tune(
                paths, name.strip(), overwrite=overwrite, checkpoint=self.worker.checkpoint, stop=stop
            ):
                data = pd.DataFrame(step.curve, columns=["step", "nats a note"])
                plot = gr.LinePlot(data, visible=True) if step.curve else gr.skip()
                kept = step.made is not None and step.made.path is not None
                choice = gr.Dropdown(style_names(), value=name.strip()) if kept else gr.skip()
                yield step.text, plot, choice
        except Exception as error:
            raise failed(error) from None
        yield gr.skip(), gr.skip(), gr.Dropdown(style_names())

    def stop_learning(self, request: gr.Request) -> None:
        """Stop early was pressed."""
        stop = self._learning.get(self.session(request).id)
        if stop:
            stop.set()

    def hear(self, paths: list[str] | None, name: str) -> list[tuple[int, np.ndarray]]:
        """Bars of the first piece filled without the style and with it, with the same seed."""
        try:
            pieces = learn.what_was_read(paths or [])[1]
            if not pieces:
                raise RequestError("there is no piece to hear; give the files again")
            sounds = learn.before_and_after(
                pieces[0], name.strip(), self.worker, soundfont=self.soundfont, rate=SAMPLE_RATE
            )
            return [(SAMPLE_RATE, (s * 32767).astype(np.int16)) for s in sounds]
        except Exception as error:
            raise failed(error) from None

    def sound(self, wanted: dict[str, Any], request: gr.Request) -> dict[str, str]:
        """Bars [first, last) of some tracks as a WAV file in base64, or what is wrong in one line."""
        try:
            session = self.session(request)
            first, last, number = int(wanted["first"]), int(wanted["last"]), int(wanted["candidate"])
            if not 0 <= first < last <= first + 64:
                raise RequestError("there is nothing to play")
            score = session.score
            if 0 <= number < len(session.candidates):
                score = score.with_fill(session.region, session.candidates[number].fill)
            samples = render(
                score, first, last, self.soundfont, sample_rate=SAMPLE_RATE, tracks=set(wanted["tracks"]), loudness=0.35
            )
            return {"wav": base64.b64encode(wav_bytes(samples, SAMPLE_RATE)).decode()}
        except Exception as error:
            return {"error": one_line(error)}


def style_names() -> list[str]:
    """What can be chosen as a style."""
    return [NO_STYLE, *(path.stem for path in style_files())]


def _plan(session: Session, wish: Wish, alike: bool) -> Plan:
    """All marked cells; or, alike, about half of them beside the rest of the chosen candidate (of a single cell, a
    plainer one)."""
    score, region, sampling = session.score, session.region, wish.sampling
    kept: dict[int, list[Note]] = {}
    if alike and 0 <= session.chosen < len(session.candidates):
        base = session.candidates[session.chosen].fill
        score = score.with_fill(region, base)
        half = half_of(region, wish.seed)
        if half is None:
            sampling = replace(sampling, temperature=min(sampling.temperature, 0.7))
        else:
            region = half
            kept = {
                t: [n for n in notes if (t, score.bar_index_at(n.onset_ticks)) not in half.cells]
                for t, notes in base.items()
            }
    locked = {
        t: [n for n in notes if (t, score.bar_index_at(n.onset_ticks)) in region.cells]
        for t, notes in session.locked_notes().items()
    }
    return Plan(score, region, sampling, kept, locked)


def _catch_up(session: Session, shown: str) -> None:
    """Mark and choose what the page shows: its own events of that may still be on their way."""
    page = json.loads(shown)
    session.mark(page["cells"])
    session.choose(int(page["chosen"]))


def failed(error: Exception) -> gr.Error:
    """What the page shows of an error: one line, for some seconds."""
    return gr.Error(one_line(error), duration=12, print_exception=False)


@contextmanager
def _warnings() -> Iterator[None]:
    """An error becomes a note on the page."""
    try:
        yield
    except Exception as error:
        gr.Warning(one_line(error))
