"""Runs the app in a process of its own and acts as a composer at its page.

This is not a command: tests/app/page, benchmark_use.py and pictures.py use it.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NO_ROLL = "{model: {candidates: []}, view: {}, player: {}}"  # between two pages
STILL = """document.getAnimations().every((a) =>
    a.playState !== "running" || a.effect.getComputedTiming().endTime === Infinity)"""
IN_ROLL = f"(({{model, view, player}}) => %s)(document.querySelector('.mr-roll')?.roll || {NO_ROLL})"


@dataclass(frozen=True)
class App:
    """A server that listens."""

    url: str
    folder: Path  # the user data
    process: subprocess.Popen[bytes]

    def stop(self) -> None:
        """Ends the server, if it has not ended."""
        self.process.terminate()
        self.process.wait(120)


def free_port() -> int:
    """A free port below those that the system gives out by itself, so that it is still free when a server binds it."""
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def serve(folder: Path, *arguments: object, port: int | None = None) -> App:
    """`midi-rwkv app ARGUMENTS` on a port (None: a free one), its user data in `folder`, once it listens.

    It is started up to three times, because Gradio gives up a server that needs more than 5 s to start, as on a busy
    machine. RuntimeError: it ended each time."""
    log = folder / "log.txt"
    for _ in range(3):
        app = _started(folder, arguments, port or free_port(), log)
        if _listens(app):
            return app
    raise RuntimeError(log.read_text())


def _started(folder: Path, arguments: tuple[object, ...], port: int, log: Path) -> App:
    environment = {**os.environ, "XDG_DATA_HOME": str(folder), "GRADIO_TEMP_DIR": str(folder / "gradio")}
    command = [sys.executable, "-m", "midi_rwkv", "app", "--port", str(port), *map(str, arguments)]
    with log.open("ab") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment, cwd=folder)
    return App(f"http://127.0.0.1:{port}/", folder, process)


def _listens(app: App) -> bool:
    """Waits until the server answers; False if it ends before, or does not answer for five minutes."""
    until = time.monotonic() + 300
    while app.process.poll() is None:
        try:
            urllib.request.urlopen(app.url, timeout=30).close()
            return True
        except urllib.error.HTTPError:  # it answers: who are you?
            return True
        except OSError:
            if time.monotonic() > until:
                app.process.kill()
            time.sleep(0.2)
    return False


def visit(page: Any, url: str) -> Page:
    """Opens the app in a Playwright page."""
    page.goto(url)
    page.wait_for_selector(".mr-roll")
    page.wait_for_function("document.querySelector('.mr-roll').roll")
    return Page(page)


class Page:
    """The actions of a composer on the page."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.sent: set[Any] = set()  # calls that the server has not answered
        page.on("request", lambda r: self.sent.add(r) if "/gradio_api/run/" in r.url else None)
        for ended in ("requestfinished", "requestfailed"):
            page.on(ended, lambda r: self.sent.discard(r))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.page, name)

    def roll(self, expression: str) -> Any:
        """The value of a JavaScript expression over the song view's `model`, `view` and `player`."""
        return self.page.evaluate(IN_ROLL % expression)

    def settle(self, seconds: float = 120) -> None:
        """Waits until the server knows what was done, and colours no longer change."""
        self.page.wait_for_timeout(150)  # what was done is sent by then
        until = time.monotonic() + seconds
        while self.sent and time.monotonic() < until:
            self.page.wait_for_timeout(20)
        self.page.wait_for_function(STILL, timeout=1000 * seconds, polling=20)

    def wait(self, expression: str, seconds: float = 120) -> None:
        """Waits until the expression is true."""
        self.page.wait_for_function(IN_ROLL % expression, timeout=1000 * seconds, polling=20)

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name).click()

    def open(self, path: Path) -> None:
        self.page.locator('input[data-testid^="Open MIDI"]').set_input_files(path)
        self.wait("model.song")

    def example(self, name: str, file: str) -> None:
        self.press(name)
        self.wait(f"model.song && model.song.name === '{file}'")

    def at(self, track: int, bar: int, share: float = 0.5) -> tuple[float, float]:
        """The position of a cell on the screen."""
        x, y = self.page.evaluate(
            """([t, b, share]) => {
            const { model, view } = document.querySelector(".mr-roll").roll;
            const scroll = document.querySelector(".mr-scroll"), bars = model.song.bars;
            const bottom = 36 + (t + 1) * view.lane;
            if (bottom > scroll.scrollTop + scroll.clientHeight) scroll.scrollTop = bottom - scroll.clientHeight;
            if (t * view.lane < scroll.scrollTop) scroll.scrollTop = t * view.lane;
            const tick = bars[b] + share * (bars[b + 1] - bars[b]);
            return [tick * view.scale - scroll.scrollLeft, 36 + (t + 0.5) * view.lane - scroll.scrollTop];
        }""",
            [track, bar, share],
        )
        return self.on_screen(x, y)

    def on_screen(self, x: float, y: float) -> tuple[float, float]:
        """The position of a point of the song view on the screen."""
        self.page.evaluate("window.scrollTo(0, 0)")
        box = self.page.locator(".mr-view").bounding_box()
        return box["x"] + x, box["y"] + y

    def drag(self, track: int, bar: int, to_track: int, to_bar: int, *, shift: bool = False) -> None:
        """Marks cells."""
        if shift:
            self.page.keyboard.down("Shift")
        self.page.mouse.move(*self.at(track, bar))
        self.page.mouse.down()
        self.page.mouse.move(*self.at(to_track, to_bar), steps=5)
        self.page.mouse.up()
        if shift:
            self.page.keyboard.up("Shift")
        self.settle()

    def infill(self, seed: int | None = None) -> None:
        if seed is not None:
            if not self.page.get_by_label("Seed").is_visible():
                self.press("What the notes should be like")
            self.page.get_by_label("Seed").fill(str(seed))
            self.page.get_by_label("Seed").press("Tab")
        self.write("Infill the marked bars")

    def write(self, button: str) -> None:
        """Presses a button that writes candidates, and waits for them."""
        self.page.evaluate("window.before = document.querySelector('.mr-roll').roll.model.candidates")
        self.press(button)
        self.wait("!model.running && model.candidates !== window.before && model.candidates.length")

    def candidates(self, count: int) -> None:
        field = self.page.get_by_label("number input for Candidates")
        field.fill(str(count))
        field.press("Tab")

    def status(self) -> str:
        return self.page.locator(".mr-status").inner_text()

    def marked(self) -> str:
        return self.page.locator(".mr-marked").inner_text()

    def download(self, path: Path) -> str:
        with self.page.expect_download() as got:
            self.page.get_by_role("button", name="Download MIDI").click()
        got.value.save_as(path)
        return got.value.suggested_filename
