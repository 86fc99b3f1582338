"""The sessions of all tabs of all browsers, on disk as BROWSER/TAB/ in the user's data folder.

A cookie identifies the browser, and a name that the tab remembers while it is open identifies the tab (roll_tab.js).
Every tab has its own session: a new tab begins with a copy of the session that its browser used last.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import platformdirs

from midi_rwkv.errors import RequestError

from .cookie import ID
from .folder import Folder, InUse
from .session import TabSession

MAX_OPEN = 64  # sessions kept in memory
MAX_TABS = 32  # sessions of one browser kept on disk
MAX_SESSIONS = 256  # sessions of all browsers kept on disk
KEEP_DAYS = 180  # sessions on disk are deleted after this long without a change


class Sessions:
    """The sessions of a server: all of them on disk, and the recent ones in memory."""

    def __init__(self, folder: Path | None = None):
        """`folder` is None for the user's data folder."""
        self.folder = folder or Path(platformdirs.user_data_dir("midi-rwkv", appauthor=False)) / "sessions"
        self._open: OrderedDict[Path, TabSession] = OrderedDict()
        self._lock = threading.RLock()
        self._forget_old()

    def get(self, browser: str, tab: str) -> TabSession:
        """A tab's session. Raises RequestError for an invalid id, and InUse if another server has it open."""
        folder = self._folder(browser, tab)
        with self._lock:
            if folder not in self._open and not folder.is_dir():
                self._make_room(browser)
            session = self._open.pop(folder, None) or _opened(folder)
            self._open[folder] = session
            while len(self._open) > MAX_OPEN:
                self._open.popitem(last=False)[1].folder.release()
            return session

    def begin(self, browser: str, tab: str, browsers: Iterable[str]) -> tuple[TabSession, str]:
        """The session of a tab whose page has just opened.

        A new tab gets a copy of the session that was used last in any of `browsers` (the names that this browser has
        had with other servers on this machine).

        Returns:
            The session, and a line for the composer: empty, or that the original is in use elsewhere.

        Raises:
            InUse: another server has the session open.
        """
        session = self.get(browser, tab)
        if session.is_open:
            return session, ""
        known = [path for name in {browser, *browsers} for path in self._sessions_of(name)]
        latest = max(known, key=_last_used, default=None)
        return self._copy(latest, session) if latest else (session, "")

    def copy(self, browser: str, tab: str, new_tab: str) -> tuple[TabSession, str]:
        """A copy of a session that another server has open, and a line that says so."""
        return self._copy(self._folder(browser, tab), self.get(browser, new_tab))

    def _copy(self, source: Path, session: TabSession) -> tuple[TabSession, str]:
        original = TabSession(Folder(source))
        original.load()
        if not original.is_open:
            return session, ""
        with session.lock:
            if not session.is_open:  # no song has been opened in the meantime
                session.adopt(original)
        elsewhere = f"a copy of {session.name}: another tab or server has the original open"
        return session, elsewhere if self._in_use(source) else ""

    def _in_use(self, folder: Path) -> bool:
        if folder in self._open:
            return True
        there = Folder(folder)
        try:
            there.hold()
        except InUse:
            return True
        there.release()
        return False

    def _folder(self, browser: str, tab: str) -> Path:
        for id in (browser, tab):
            if not (isinstance(id, str) and ID.fullmatch(id)):
                raise RequestError("the page does not say which tab it is; reload it")
        return self.folder / browser / tab

    def _sessions_of(self, browser: str) -> list[Path]:
        if not ID.fullmatch(browser):
            return []
        return [path.parent for path in (self.folder / browser).glob("*/0.mid")]  # only tabs in which a song was opened

    def _make_room(self, browser: str) -> None:
        """Deletes the least recently used sessions, except those in use, until there is room for one more."""
        for own, most in (((self.folder / browser).glob("*"), MAX_TABS), (self.folder.glob("*/*"), MAX_SESSIONS)):
            paths = sorted(own, key=_last_used)
            surplus = len(paths) - (most - 1)
            for path in paths:
                if surplus > 0 and self._forget(path):
                    surplus -= 1

    def _forget_old(self) -> None:
        for path in self.folder.glob("*/*"):
            if _last_used(path) < time.time() - KEEP_DAYS * 86400:
                self._forget(path)

    def _forget(self, path: Path) -> bool:
        """Deletes a session, unless it is in use. Returns whether it was deleted."""
        if self._in_use(path):
            return False
        shutil.rmtree(path, ignore_errors=True)
        with suppress(OSError):
            path.parent.rmdir()  # the browser's folder, after its last session
        return True


def _opened(folder: Path) -> TabSession:
    session = TabSession(Folder(folder))
    if folder.is_dir():
        session.folder.hold()
        session.load()
    return session


def _last_used(folder: Path) -> float:
    return max((path.stat().st_mtime for path in folder.glob("*.json")), default=0.0)
