"""What a composer has open: the song's versions, the bars that are marked, the candidates. Kept on disk as it changes.

A session is a folder of the user's data folder: each version is a MIDI file that the splice wrote, `session.json` says
the rest. What is on disk is whole after every change, so a page that is reloaded and a server that is started again
find the work as it was.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import platformdirs

from midi_rwkv.errors import RequestError
from midi_rwkv.instruments import program_name
from midi_rwkv.midi import read_midi, splice
from midi_rwkv.score import Note, Region, Score, Track

MAX_NOTES, MAX_BARS, MAX_TRACKS = 100_000, 2_000, 64  # of a song that is shown
EXTRA_BARS = 8  # empty ones shown after the song's end, to go on in
MAX_OPEN = 64  # sessions kept in memory
KEEP_DAYS = 180  # sessions on disk that nobody has touched for so long are deleted
ID = re.compile(r"[0-9a-f]{32}")

SAVED = ("versions", "at", "cells", "locked", "candidates", "chosen", "new_track")

Cell = tuple[int, int]  # track, bar
Fill = dict[int, list[Note]]


@dataclass(frozen=True)
class Candidate:
    """One answer for the marked cells of the present version."""

    seed: int
    fill: Fill


@dataclass(frozen=True)
class Version:
    """A state of the work: the file FILE.mid, what made it, and the song's name."""

    file: int
    what: str
    name: str


@dataclass
class Session:
    """One composer's work. Methods that change it write it to disk. Opening a song is a step that undo takes back."""

    folder: Path
    versions: list[Version] = field(default_factory=list)
    at: int = 0
    cells: list[Cell] = field(default_factory=list)
    locked: list[tuple[int, int, int]] = field(default_factory=list)  # track, onset in ticks, pitch
    candidates: list[Candidate] = field(default_factory=list)
    chosen: int = -1  # of the candidates; -1: what stands in the song
    new_track: tuple[int, bool] | None = None  # program and whether drums, of an empty track that the file has not yet
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False, compare=False)
    _scores: OrderedDict[object, Score] = field(default_factory=OrderedDict, repr=False, compare=False)

    @property
    def id(self) -> str:
        return self.folder.name

    @property
    def is_open(self) -> bool:
        return bool(self.versions)

    @property
    def name(self) -> str:
        """Of the song's file; empty where none is open."""
        return self.versions[self.at].name if self.versions else ""

    @property
    def data(self) -> bytes:
        """The present version as a MIDI file. RequestError where no song is open."""
        if not self.is_open:
            raise RequestError("open a song first")
        return self._file(self.versions[self.at]).read_bytes()

    @property
    def score(self) -> Score:
        """The present version. RequestError where no song is open."""
        if not self.is_open:
            raise RequestError("open a song first")
        key = self.versions[self.at].file, self.new_track
        if key not in self._scores:
            score = read_midi(self.data, self.name)
            if self.new_track:
                program, is_drum = self.new_track
                new = Track(program_name(program, is_drum), program, is_drum, ())
                score = replace(score, tracks=(*score.tracks, new))
            self._scores[key] = score
            while len(self._scores) > 2:
                self._scores.popitem(last=False)
        return self._scores[key]

    @property
    def region(self) -> Region:
        """RequestError where nothing is marked."""
        if not self.cells:
            raise RequestError("nothing is marked; drag over some bars of a track first")
        return Region(frozenset(self.cells))

    @property
    def undoes(self) -> str:
        """What undo would take back; empty where there is nothing."""
        return self.versions[self.at].what if self.at else ""

    @property
    def redoes(self) -> str:
        """What redo would do again; empty where there is nothing."""
        return self.versions[self.at + 1].what if self.at + 1 < len(self.versions) else ""

    def open(self, data: bytes, name: str) -> None:
        """Go on with another song. RequestError (of one line) where it cannot be read or is too big to be shown."""
        check_size(read_midi(data, name))
        with self.lock:
            self._add(data, f"opened {name}", name)

    def add_track(self, program: int, is_drum: bool) -> None:
        """Show an empty track below the others, in place of the one added before; it becomes part of the song with the
        first bars of it that are kept. RequestError where no song is open or there are too many tracks."""
        if len(self.score.tracks) >= MAX_TRACKS:
            raise RequestError(f"the song has {len(self.score.tracks)} tracks; the app shows at most {MAX_TRACKS}")
        with self.lock:
            last = len(self.score.tracks) - (1 if self.new_track else 0)
            self.new_track = program, is_drum
            self.cells = [(t, b) for t, b in self.cells if t < last]
            self.candidates, self.chosen, self.locked = [], -1, []
            self.save()

    def mark(self, cells: Iterable[Cell]) -> None:
        """Mark other cells; candidates for those before go. RequestError for a cell outside the song."""
        wanted = sorted({(int(t), int(b)) for t, b in cells})
        limit = len(self.score.bars) + EXTRA_BARS
        for t, b in wanted:
            if not (0 <= t < len(self.score.tracks) and 0 <= b < limit):
                raise RequestError(f"track {t + 1}, bar {b + 1} is not in the song")
        with self.lock:
            if wanted != self.cells:
                self.cells, self.candidates, self.chosen = wanted, [], -1
                self.locked = [x for x in self.locked if self._is_marked(x)]
                self.save()

    def toggle_lock(self, track: int, onset: int, pitch: int) -> None:
        """Lock a note of the marked cells, or let it go."""
        with self.lock:
            note = (track, onset, pitch)
            if note in self.locked:
                self.locked.remove(note)
            elif self._is_marked(note):
                self.locked.append(note)
            self.save()

    def locked_notes(self) -> Fill:
        """The locked notes as they stand in the song or the chosen candidate."""
        kept: Fill = {}
        shown = self.candidates[self.chosen].fill if 0 <= self.chosen < len(self.candidates) else {}
        for t in {t for t, *_ in self.locked}:
            cells = {b for track, b in self.cells if track == t}
            notes = shown.get(t) or [n for b in cells if b < len(self.score.bars) for n in self.score.notes_in(t, b)]
            kept[t] = sorted(n for n in notes if (t, n.onset_ticks, n.pitch) in self.locked)
        return kept

    def answer(self, candidates: Sequence[Candidate]) -> None:
        """Candidates for the marked cells; the first is chosen."""
        with self.lock:
            self.candidates, self.chosen = list(candidates), 0 if candidates else -1
            self.save()

    def choose(self, number: int) -> None:
        """-1 for what stands in the song."""
        with self.lock:
            if -1 <= number < len(self.candidates):
                self.chosen = number
                self.save()

    def keep(self) -> None:
        """The chosen candidate becomes the song's next version; what had been undone is gone. RequestError for none."""
        with self.lock:
            if not 0 <= self.chosen < len(self.candidates):
                raise RequestError("no candidate is chosen; infill first, then pick one")
            data = self.with_candidate(self.chosen)
            names = ", ".join(self.score.tracks[t].name or f"track {t + 1}" for t in self.region.tracks)
            first = self.score.first_bar_number
            runs = [(lo + first, hi - 1 + first) for lo, hi in self.region.bar_runs()]
            spans = ", ".join(f"{lo}-{hi}" if lo < hi else str(lo) for lo, hi in runs)
            bars = "bar" if len(self.region.bars) == 1 else "bars"
            self._add(data, f"{bars} {spans} of {names}", self.name)

    def with_candidate(self, number: int) -> bytes:
        """The song with a candidate in place, as a MIDI file; see `splice`."""
        score = self.score
        if self.new_track and len(score.tracks) - 1 not in self.region.tracks:
            score = replace(score, tracks=score.tracks[:-1])
        return splice(self.data, score, self.region, self.candidates[number].fill, name=self.name)

    def step(self, by: int) -> None:
        """Undo (-1) or redo (1); nothing happens at the ends."""
        with self.lock:
            at = min(max(self.at + by, 0), len(self.versions) - 1)
            if at != self.at:
                self.at, self.candidates, self.chosen, self.locked, self.new_track = at, [], -1, [], None
                limit = len(self.score.bars) + EXTRA_BARS
                self.cells = [(t, b) for t, b in self.cells if b < limit and t < len(self.score.tracks)]
                self.save()

    def save(self) -> None:
        """Write session.json, whole or not at all."""
        record = {
            "versions": [[v.file, v.what, v.name] for v in self.versions],
            "at": self.at,
            "cells": self.cells,
            "locked": self.locked,
            "candidates": [
                {"seed": c.seed, "fill": {str(t): notes for t, notes in c.fill.items()}} for c in self.candidates
            ],
            "chosen": self.chosen,
            "new_track": self.new_track,
        }
        _write(self.folder / "session.json", json.dumps(record).encode())

    def _add(self, data: bytes, what: str, name: str) -> None:
        """A version after the present one; what had been undone goes. Where it cannot be written, nothing changes."""
        new = Version(1 + max((v.file for v in self.versions), default=-1), what, name)
        _write(self._file(new), data)
        gone = self.versions[self.at + 1 :]
        before = {name: getattr(self, name) for name in SAVED}
        self.versions = [*self.versions[: self.at + 1], new]
        self.at = len(self.versions) - 1
        self.cells, self.candidates, self.chosen, self.locked, self.new_track = [], [], -1, [], None
        try:
            self.save()
        except OSError:
            for field_name, value in before.items():
                setattr(self, field_name, value)
            self._file(new).unlink(missing_ok=True)
            raise
        for version in gone:
            self._file(version).unlink(missing_ok=True)

    def _file(self, version: Version) -> Path:
        return self.folder / f"{version.file}.mid"

    def _is_marked(self, note: tuple[int, int, int]) -> bool:
        return (note[0], self.score.bar_index_at(note[1])) in self.cells


def check_size(score: Score) -> None:
    """RequestError for a song that is too big to be shown."""
    for what, count, most in (
        ("notes", sum(len(t.notes) for t in score.tracks), MAX_NOTES),
        ("bars", len(score.bars), MAX_BARS),
        ("tracks", len(score.tracks), MAX_TRACKS),
    ):
        if count > most:
            raise RequestError(
                f"{score.name} has {count:,} {what}; the app takes at most {most:,}; use the midi-rwkv command for it"
            )


def load_session(folder: Path) -> Session:
    """What is in a session's folder; an empty session where there is nothing that can be used."""
    try:
        record: dict[str, Any] = json.loads((folder / "session.json").read_bytes())
        session = Session(
            folder,
            [Version(*v) for v in record["versions"]],
            record["at"],
            [(t, b) for t, b in record["cells"]],
            [(t, onset, pitch) for t, onset, pitch in record["locked"]],
            [
                Candidate(c["seed"], {int(t): [Note(*n) for n in notes] for t, notes in c["fill"].items()})
                for c in record["candidates"]
            ],
            record["chosen"],
            tuple(record["new_track"]) if record["new_track"] else None,
        )
        if session.is_open:
            _ = session.score
        return session
    except (OSError, ValueError, KeyError, TypeError):
        return Session(folder)


class Sessions:
    """The sessions of a server: those used last in memory, all of them on disk."""

    def __init__(self, folder: Path | None = None):
        """folder: None for the user's data folder."""
        self.folder = folder or Path(platformdirs.user_data_dir("midi-rwkv", appauthor=False)) / "sessions"
        self._open: OrderedDict[str, Session] = OrderedDict()
        self._lock = threading.Lock()
        self._forget_old()

    def get(self, id: object) -> Session:
        """The session of that id; a new one for None and for what is no id."""
        known = id if isinstance(id, str) and ID.fullmatch(id) else secrets.token_hex(16)
        with self._lock:
            session = self._open.pop(known, None) or load_session(self.folder / known)
            self._open[known] = session
            while len(self._open) > MAX_OPEN:
                self._open.popitem(last=False)
            return session

    def _forget_old(self, clock: Callable[[], float] = time.time) -> None:
        for path in self.folder.glob("*/session.json"):
            if path.stat().st_mtime < clock() - KEEP_DAYS * 86400 and ID.fullmatch(path.parent.name):
                shutil.rmtree(path.parent, ignore_errors=True)


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        partial.write_bytes(data)
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
