"""Handles every click on the song's page; `ui.py` has the page itself.

Every call identifies its tab: the browser by its cookie, the tab by the name that roll_tab.js gives it.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import gradio as gr

from midi_rwkv.errors import MidiRwkvError, RequestError
from midi_rwkv.score.describe import heading, remarks
from midi_rwkv.score.instruments import find_program
from midi_rwkv.score.score import Region
from midi_rwkv.sound.synth import SAMPLE_RATE, render, wav_bytes
from midi_rwkv.style.style import style_files

from . import view
from .cookie import browser_name, browser_names
from .faults import one_line
from .fills import FIELDS, NO_STYLE, plan, settings_of
from .folder import InUse
from .running import RunningFill
from .session import TabSession
from .store import Sessions
from .taste_desk import TasteDesk
from .work import Worker

SHARED_LOUDNESS = 0.35  # gain of the sections that the page plays one after another
ADD_TRACK = "Add a track …"  # shown in the choice of instruments when none is chosen
TAKE_FOR = "choose …"
AS_FILE = "what the file says"
PAGE_REMEDY = "under What the notes should be like you can take {them} for drums"
LIKED = {1: "is starred", 0: "is neither starred nor thrown away", -1: "is thrown away"}
BUSY = "the candidates are still being written; wait for them, or Cancel first"


@dataclass(repr=False)
class Desk:
    """The handlers of the page's events, with the sessions, the worker and the running fills."""

    worker: Worker
    sessions: Sessions
    soundfont: Path
    taste: TasteDesk
    _running: dict[Path, RunningFill] = field(default_factory=dict)  # by session folder

    def session(self, tab: str, request: gr.Request) -> TabSession:
        """The session of the tab that sent the click."""
        return self.sessions.get(browser_name(request.cookies, request.url, tab), tab)

    def load(self, tab: str, request: gr.Request) -> tuple[Any, ...]:
        """Handles a page that has just opened.

        Returns the roll's text, the tab's name from now on, whether a fill is running (for `follow`), and the settings.
        If no song is open, no text is sent, because it might overtake a song that is being opened.
        """
        browser = browser_name(request.cookies, request.url, tab)
        with _told():
            try:
                session, told = self.sessions.begin(browser, tab, browser_names(request.cookies))
            except InUse:
                session, told = self.sessions.copy(browser, tab, tab := secrets.token_hex(16))
            settings = {name: session.settings.get(name, gr.skip()) for name in FIELDS}
            styles = style_names()
            wanted = session.settings.get("style", NO_STYLE)
            settings["style"] = gr.Dropdown(styles, value=wanted if wanted in styles else NO_STYLE)
            fill = self._running.get(session.folder.path)
            text = fill.text if fill else view.show(session, told) if session.is_open else gr.skip()
            return text, tab, "yes" if fill else "", *settings.values()
        return gr.skip(), tab, "", *(gr.skip() for _ in FIELDS)

    def remember(self, tab: str, request: gr.Request, *values: Any) -> None:
        """Handles a changed setting."""
        with suppress(MidiRwkvError, OSError):
            self.session(tab, request).set(**dict(zip(FIELDS, values, strict=True)))

    def open_file(self, tab: str, path: str, request: gr.Request) -> str:
        """Handles a file that was chosen or dropped."""
        return self._open(tab, request, Path(path).read_bytes(), Path(path).name)

    def open_example(self, tab: str, name: str, request: gr.Request) -> str:
        """Opens one of the examples that ship, by its file name."""
        return self._open(tab, request, (files(__package__) / "examples" / name).read_bytes(), name)

    def _open(self, tab: str, request: gr.Request, data: bytes, name: str) -> str:
        try:
            session = self.session(tab, request)
            session.open(data, name)
        except Exception as error:
            raise failed(error) from None
        self._stop(session)
        return view.show(session, "; ".join(remarks(session.score, PAGE_REMEDY)))

    def mark(self, tab: str, event: gr.EventData, request: gr.Request) -> None:
        """Handles a change of the marks."""
        with suppress(MidiRwkvError, OSError):  # the page is behind; the next update corrects it
            self.session(tab, request).mark(event.cells)

    def toggle_lock(self, tab: str, event: gr.EventData, request: gr.Request) -> None:
        """Handles a click on a note."""
        with suppress(MidiRwkvError, OSError):
            self.session(tab, request).toggle_lock(int(event.track), int(event.onset), int(event.pitch))

    def choose(self, tab: str, event: gr.EventData, request: gr.Request) -> None:
        """Handles a click on a candidate."""
        with suppress(MidiRwkvError, OSError):
            self.session(tab, request).choose(int(event.number))

    def infill(self, tab: str, shown: str, request: gr.Request, *values: Any) -> Iterator[str]:
        """Writes the marked bars and yields the roll's text after every cell. `values` are the page's settings."""
        yield from self._fill(tab, shown, request, values, alike=False)

    def infill_alike(self, tab: str, shown: str, request: gr.Request, *values: Any) -> Iterator[str]:
        """Handles "More like this": rewrites about half of the chosen candidate."""
        yield from self._fill(tab, shown, request, values, alike=True)

    def _fill(
        self, tab: str, shown: str, request: gr.Request, values: tuple[Any, ...], *, alike: bool
    ) -> Iterator[str]:
        try:
            session = self.session(tab, request)
            _catch_up(session, shown)
            settings = settings_of(values)
            todo = plan(session, settings, self.worker.checkpoint, alike=alike)
            session.set(**vars(settings))
            self.taste.take_back(session)
            fill = RunningFill(self.worker, session, todo, self._forget, self.taste.order)
        except Exception as error:
            raise failed(error) from None
        before = self._running.get(session.folder.path)
        if before:
            before.is_replaced = True
            before.stop()
        self._running[session.folder.path] = fill
        fill.start()
        yield from fill.follow()

    def follow(self, tab: str, is_running: str, request: gr.Request) -> Iterator[Any]:
        """Shows a fill that was running when the page opened; `is_running` comes from `load`."""
        yield gr.skip()
        if not is_running:
            return
        with suppress(MidiRwkvError, OSError):
            session = self.session(tab, request)
            fill = self._running.get(session.folder.path)
            if fill:
                yield from fill.follow()
            else:  # it has ended in the meantime
                yield view.show(session)

    def _forget(self, fill: RunningFill) -> None:
        if self._running.get(fill.session.folder.path) is fill:
            del self._running[fill.session.folder.path]

    def stop(self, tab: str, request: gr.Request) -> None:
        """Handles Cancel."""
        with suppress(MidiRwkvError, OSError):
            self._stop(self.session(tab, request))

    def _stop(self, session: TabSession) -> None:
        running = self._running.get(session.folder.path)
        if running:
            running.stop()

    def _is_running(self, session: TabSession) -> bool:
        return session.folder.path in self._running

    def keep(self, tab: str, shown: str, request: gr.Request) -> Any:
        """Handles Keep: the chosen candidate becomes part of the song."""
        with _told():
            session = self.session(tab, request)
            if self._is_running(session):
                raise RequestError(BUSY)
            _catch_up(session, shown)
            before = session.score, session.view
            session.keep()
            self.taste.note(*before, kept=True)
            return view.show(session, f"kept: {session.undoes}")
        return gr.skip()

    def star(self, tab: str, shown: str, request: gr.Request) -> Any:
        """Handles Star."""
        return self._like(tab, shown, request, 1)

    def throw_away(self, tab: str, shown: str, request: gr.Request) -> Any:
        """Handles Throw away."""
        return self._like(tab, shown, request, -1)

    def _like(self, tab: str, shown: str, request: gr.Request, liked: int) -> Any:
        with _told():
            session = self.session(tab, request)
            if self._is_running(session):
                raise RequestError(BUSY)
            _catch_up(session, shown)
            session.like(liked)
            self.taste.note(session.score, session.view)
            number, now = session.view.chosen + 1, session.view.candidates[session.view.chosen].liked
            return view.show(session, f"candidate {number} {LIKED[now]}")
        return gr.skip()

    def add_track(self, tab: str, shown: str, instrument: str, request: gr.Request) -> Any:
        """Adds an empty track of that instrument. A running fill continues, and shows it."""
        if instrument == ADD_TRACK:  # the choice was left without choosing
            return gr.skip()
        with _told():
            session = self.session(tab, request)
            running = self._is_running(session)
            if not running:
                _catch_up(session, shown)
            program, is_drum = find_program(instrument)
            session.add_track(program, is_drum=is_drum)
            if not running:
                return view.show(session, "an empty track: mark bars of it, then Infill")
        return gr.skip()

    def tracks(self, tab: str, chosen: str | None, request: gr.Request) -> Any:
        """The choices of tracks and of instruments to treat them as. `chosen` are the choices before."""
        with suppress(MidiRwkvError, OSError):
            session = self.session(tab, request)
            own = len(session.score.tracks) - len(session.version.new_tracks)
            there = [heading(session.score, t) for t in range(own)]
            if chosen is None or chosen in there:  # no value: another may have been chosen by now
                return gr.update(choices=there)
            same = [text for text in there if text.split()[0] == chosen.split()[0]]
            return gr.update(choices=there, value=same[0] if same else None)
        return gr.skip()

    def take(self, tab: str, shown: str, track: str | None, instrument: str, request: gr.Request) -> Any:
        """Treats a track as another instrument, or as the file says."""
        if instrument == TAKE_FOR:  # the choice was left without choosing
            return gr.skip()
        with _told():
            session = self.session(tab, request)
            if not track:
                raise RequestError("choose a track first, then what it is to be taken for")
            if self._is_running(session):
                raise RequestError(BUSY)
            _catch_up(session, shown)
            number = int(track.split()[0]) - 1
            session.take(number, None if instrument == AS_FILE else find_program(instrument))
            return view.show(session, f"taken for: {heading(session.score, number)}")
        return gr.skip()

    def undo(self, tab: str, shown: str, request: gr.Request) -> Any:
        """Handles Undo."""
        return self._step(tab, shown, request, -1)

    def redo(self, tab: str, shown: str, request: gr.Request) -> Any:
        """Handles Redo."""
        return self._step(tab, shown, request, 1)

    def _step(self, tab: str, shown: str, request: gr.Request, by: int) -> Any:
        with _told():
            session = self.session(tab, request)
            if self._is_running(session):
                raise RequestError(BUSY)
            if session.is_open:
                _catch_up(session, shown)
            what = session.undoes if by < 0 else session.redoes
            session.step(by)
            if what:
                return view.show(session, f"{'undone' if by < 0 else 'done again'}: {what}")
            if session.is_open:
                return view.show(session, "nothing to undo" if by < 0 else "nothing to redo")
        return gr.skip()

    def midi(self, wanted: dict[str, Any], request: gr.Request) -> dict[str, str]:
        """The song as shown, with the chosen candidate in place: its file name, and the file in base64."""
        try:
            session = self.session(str(wanted["tab"]), request)
            stem = Path(session.name).stem
            return {"name": f"{stem}-infill.mid", "data": base64.b64encode(session.shown).decode()}
        except Exception as error:
            return {"error": one_line(error)}

    def sound(self, wanted: dict[str, Any], request: gr.Request) -> dict[str, str]:
        """Bars [first, last) of some tracks as a WAV file in base64, or a one-line error."""
        try:
            session = self.session(str(wanted["tab"]), request)
            first, last, number = int(wanted["first"]), int(wanted["last"]), int(wanted["candidate"])
            if not 0 <= first < last <= first + 64:
                raise RequestError("there is nothing to play")
            score = session.score
            if 0 <= number < len(session.view.candidates):
                answered = Region(frozenset(session.view.answered))
                score = score.with_fill(answered, session.view.candidates[number].fill)
            samples = render(
                score, (first, last), self.soundfont, tracks=set(wanted["tracks"]), loudness=SHARED_LOUDNESS
            )
            return {"wav": base64.b64encode(wav_bytes(samples, SAMPLE_RATE)).decode()}
        except Exception as error:
            return {"error": one_line(error)}


def style_names() -> list[str]:
    """The choices of styles."""
    return [NO_STYLE, *(path.stem for path in style_files())]


def _catch_up(session: TabSession, shown: str) -> None:
    """Marks and chooses what the page shows, because its own events for that may not have arrived yet."""
    page = json.loads(shown)
    session.mark(page["cells"])
    session.choose(int(page["chosen"]))


def failed(error: Exception) -> gr.Error:
    """The one-line error that the page shows for some seconds."""
    return gr.Error(one_line(error), duration=12, print_exception=False)


@contextmanager
def _told() -> Iterator[None]:
    """Turns an error into a message on the page."""
    try:
        yield
    except Exception as error:
        gr.Warning(one_line(error))
