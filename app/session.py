"""A composer's session: the song's versions, the marked bars and the candidates, kept on disk as they change.

A session is a folder. `session.json` lists the versions and holds the page's settings. Each version has a MIDI file
that the splice wrote (`0.mid`), and its marks and candidates (`0.json`). The files are complete after every change, so
a reloaded page and a restarted server find the work as it was.
"""

from __future__ import annotations

import json
import secrets
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from midi_rwkv.errors import RequestError
from midi_rwkv.score.describe import label
from midi_rwkv.score.instruments import program_name
from midi_rwkv.score.midi import load_midi, read_midi
from midi_rwkv.score.score import Cell, Region, Score, Track
from midi_rwkv.score.splice import splice

from .folder import Folder, InUse
from .names import region_text
from .versions import Fill, Lock, StoredCandidate, Version, View, over_added_track, view_from_json

MAX_NOTES, MAX_BARS, MAX_TRACKS = 100_000, 2_000, 64  # the largest song that is shown
EXTRA_BARS = 8  # empty bars shown after the song's end, to continue it


@dataclass
class TabSession:
    """The work in one tab. Methods that change it write it to disk; if that fails, nothing changes."""

    folder: Folder
    versions: list[Version] = field(default_factory=list)
    at: int = 0
    settings: dict[str, Any] = field(default_factory=dict)  # the page's settings by name
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False, compare=False)
    _scores: OrderedDict[object, Score] = field(default_factory=OrderedDict, repr=False, compare=False)

    @property
    def is_open(self) -> bool:
        """Whether a song is open."""
        return bool(self.versions)

    @property
    def version(self) -> Version:
        """The current version. Raises RequestError if no song is open."""
        if not self.versions:
            raise RequestError("open a song first")
        return self.versions[self.at]

    @property
    def view(self) -> View:
        """The current marks and candidates."""
        return self.versions[self.at].view if self.versions else View()

    @property
    def name(self) -> str:
        """The name of the song's file, or "" if none is open."""
        return self.versions[self.at].name if self.versions else ""

    @property
    def data(self) -> bytes:
        """The current version as a MIDI file. Raises RequestError if no song is open."""
        return self.folder.read(_midi(self.version.file))

    @property
    def score(self) -> Score:
        """The current version with the added tracks. Raises RequestError if no song is open."""
        key = self.version.file, self.version.new_tracks, self.version.taken
        if key not in self._scores:
            score = read_midi(self.data, self.name)
            new = (
                Track(program_name(p, is_drum=is_drum), p, (), is_drum=is_drum)
                for p, is_drum in self.version.new_tracks
            )
            for track, program, is_drum in self.version.taken:
                score = score.with_instrument(track, program, is_drum=is_drum)
            self._scores[key] = replace(score, tracks=(*score.tracks, *new))
            while len(self._scores) > 2:
                self._scores.popitem(last=False)
        return self._scores[key]

    @property
    def region(self) -> Region:
        """The marked cells. Raises RequestError if there are none."""
        if not self.view.cells:
            raise RequestError("nothing is marked; drag over some bars of a track first")
        return Region(frozenset(self.view.cells))

    @property
    def chosen(self) -> tuple[Region, Fill] | None:
        """The cells and notes of the chosen candidate, or None if the song as it is is chosen."""
        view = self.view
        if not 0 <= view.chosen < len(view.candidates):
            return None
        return Region(frozenset(view.answered)), view.candidates[view.chosen].fill

    @property
    def shown(self) -> bytes:
        """The song as the page shows it, with the chosen candidate in place. Raises RequestError if none is open."""
        return self.with_candidate(self.view.chosen) if self.chosen else self.data

    @property
    def undoes(self) -> str:
        """What undo would take back, or ""."""
        return self.versions[self.at].what if self.at else ""

    @property
    def redoes(self) -> str:
        """What redo would do again, or ""."""
        return self.versions[self.at + 1].what if self.at + 1 < len(self.versions) else ""

    def open(self, data: bytes, name: str) -> None:
        """Opens another song, as a step. Raises RequestError or MidiError if it is unreadable or too big to show.

        Of a MusicXML score it is the MIDI file of what that plays.
        """
        source = load_midi(data, name)
        check_size(read_midi(source))
        self._add(f"opened {name}", source.data, name=name, new_tracks=(), taken=(), view=View())

    def add_track(self, program: int, *, is_drum: bool = False) -> None:
        """Adds an empty track below the others, as a step. It becomes part of the song with its first kept bars.

        Raises RequestError if no song is open or there are too many tracks.
        """
        count = len(self.score.tracks)
        if count >= MAX_TRACKS:
            raise RequestError(f"the song has {count} tracks; the app shows at most {MAX_TRACKS}")
        tracks = (*self.version.new_tracks, (program, is_drum))
        self._add(f"added {program_name(program, is_drum=is_drum)}", new_tracks=tracks)

    def take(self, track: int, instrument: tuple[int, bool] | None) -> None:
        """Treats one of the file's tracks as a program or as drums, or as the file says (None), as a step.

        The file does not change. Raises RequestError if no song is open or there is no such track.
        """
        own = len(self.score.tracks) - len(self.version.new_tracks)
        if not 0 <= track < own:
            raise RequestError(f"track {track + 1} is not in the file, which has {own}; choose one of these")
        others = (taken for taken in self.version.taken if taken[0] != track)
        taken = tuple(sorted([*others, *([(track, *instrument)] if instrument else [])]))
        if taken != self.version.taken:
            what = program_name(instrument[0], is_drum=instrument[1]) if instrument else "what the file says"
            self._add(f"{label(self.score.tracks[track], track)} taken for {what}", taken=taken)

    def mark(self, cells: Iterable[Cell]) -> None:
        """Marks other cells. Raises RequestError for a cell outside the song."""
        wanted = tuple(sorted({Cell(int(t), int(b)) for t, b in cells}))
        limit = len(self.score.bars) + EXTRA_BARS
        for t, b in wanted:
            if not (0 <= t < len(self.score.tracks) and 0 <= b < limit):
                raise RequestError(f"track {t + 1}, bar {b + 1} is not in the song")
        self._see(cells=wanted)

    def toggle_lock(self, track: int, onset: int, pitch: int) -> None:
        """Locks or unlocks a note of the marked cells."""
        note = (track, onset, pitch)
        with self.lock:
            if note in self.view.locked:
                self._see(locked=tuple(x for x in self.view.locked if x != note))
            elif self._cell(note) in self.view.cells:
                self._see(locked=(*self.view.locked, note))

    def locked_notes(self, region: Region) -> Fill:
        """The locked notes of these cells, as they are in the song or the chosen candidate."""
        score = self.score.with_fill(*self.chosen) if self.chosen else self.score
        locked = {x for x in self.view.locked if self._cell(x) in region.cells}
        return {
            t: [n for n in score.tracks[t].notes if (t, n.onset_ticks, n.pitch) in locked]
            for t in sorted({t for t, *_ in locked})
        }

    def answer(self, candidates: Sequence[StoredCandidate], cells: Iterable[Cell]) -> None:
        """Replaces the candidates by new ones for these cells, and chooses the first."""
        with self.lock:
            answered = tuple(sorted(cells))
            locked = tuple(x for x in self.view.locked if self._cell(x) in {*self.view.cells, *answered})
            chosen = 0 if candidates else -1
            ask = secrets.token_hex(8)
            self._see(candidates=tuple(candidates), answered=answered, chosen=chosen, locked=locked, ask=ask)

    def choose(self, number: int) -> None:
        """Chooses the candidate to show in the song; -1 is the song as it is."""
        if -1 <= number < len(self.view.candidates):
            self._see(chosen=number)

    def like(self, liked: int) -> None:
        """Stars the chosen candidate (1) or throws it away (-1), or takes that back where it is so already.

        Raises RequestError if none is chosen.
        """
        with self.lock:
            if self.chosen is None:
                raise RequestError("no candidate is chosen; infill first, then pick one")
            number, candidates = self.view.chosen, list(self.view.candidates)
            now = candidates[number]
            candidates[number] = replace(now, liked=0 if now.liked == liked else liked)
            self._see(candidates=tuple(candidates))

    def keep(self) -> None:
        """Makes the chosen candidate part of the song, as a step.

        Raises RequestError if none is chosen, or if it is for an added track and has no notes.
        """
        with self.lock:
            if self.chosen is None:
                raise RequestError("no candidate is chosen; infill first, then pick one")
            region, fill = self.chosen
            data = self.with_candidate(self.view.chosen)
            before = self.version.new_tracks
            own = len(self.score.tracks) - len(before)
            left = tuple(track for k, track in enumerate(before) if not fill.get(own + k))
            # Tracks that stay empty come last, so their marks would otherwise move to other tracks.
            marked = tuple(c for c in self.view.cells if c not in region.cells) if left == before else ()
            self._add(region_text(self.score, region), data, new_tracks=left, view=View(marked))

    def with_candidate(self, number: int) -> bytes:
        """The song with a candidate in place, as a MIDI file (see `splice`).

        Of the added tracks it has those for which the candidate has notes.
        """
        score, fill = self.score, self.view.candidates[number].fill
        own = len(score.tracks) - len(self.version.new_tracks)
        tracks = [t for t in range(len(score.tracks)) if t < own or fill.get(t)]
        place = {t: k for k, t in enumerate(tracks)}
        cells = frozenset(Cell(place[t], b) for t, b in self.view.answered if t in place)
        if not cells:
            raise RequestError("there is not a note in it, and a MIDI file has no empty tracks; infill once more")
        fills = {place[t]: fill.get(t, []) for t in {t for t, _ in self.view.answered} if t in place}
        score = replace(score, tracks=tuple(score.tracks[t] for t in tracks))
        return splice(self.data, score, Region(cells), fills, name=self.name)

    def step(self, by: int) -> None:
        """Undoes (-1) or redoes (1) one step; nothing happens at the ends.

        A version is shown as it was left. Undoing or redoing an added track changes only that track: the marks and
        candidates of the others stay.
        """
        with self.lock:
            at = min(max(self.at + by, 0), len(self.versions) - 1)
            if at == self.at or not self.versions:
                return
            versions, here, there = list(self.versions), self.versions[self.at], self.versions[at]
            if here.file == there.file:
                added = len(here.new_tracks), len(there.new_tracks)
                shared = len(self.score.tracks) - added[0] + min(added)
                versions[at] = replace(there, view=over_added_track(here.view, there.view, shared))
            self._commit(versions, at)

    def set(self, **settings: Any) -> None:
        """Stores settings of the page."""
        with self.lock:
            before, self.settings = self.settings, {**self.settings, **settings}
            try:
                self._write_index()
            except (OSError, InUse):
                self.settings = before
                raise

    def load(self) -> None:
        """Reads the session in the folder, if there is a usable one."""
        try:
            record: dict[str, Any] = json.loads(self.folder.read("session.json"))
            for number, file, what, name, new, other in record["versions"]:
                tracks = tuple((int(program), bool(is_drum)) for program, is_drum in new)
                taken = tuple((int(track), int(program), bool(is_drum)) for track, program, is_drum in other)
                self.versions.append(Version(number, file, what, name, tracks, taken, self._read_view(number)))
            self.at, self.settings = record["at"], dict(record["settings"])
            if self.is_open:
                _ = self.score
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            self.versions, self.at, self.settings = [], 0, {}

    def adopt(self, other: TabSession) -> None:
        """Becomes a copy of another session."""
        with self.lock:
            for file in {v.file for v in other.versions}:
                self.folder.write(_midi(file), other.folder.read(_midi(file)))
            for version in other.versions:
                self.folder.write(_json(version.number), version.view.to_json())
            self.settings = other.settings
            self._commit(other.versions, other.at)

    def _add(self, what: str, data: bytes | None = None, **changes: Any) -> None:
        """Adds a version after the current one, with a file of its own for `data`. Undone versions are removed."""
        with self.lock:
            before = self.versions[self.at] if self.versions else Version(-1, -1, "", "")
            number = 1 + max((v.number for v in self.versions), default=-1)
            new = replace(before, number=number, file=before.file if data is None else number, what=what, **changes)
            gone = self.versions[self.at + 1 :]
            try:
                if data is not None:
                    self.folder.write(_midi(number), data)
                self._commit([*self.versions[: self.at + 1], new], self.at + 1 if self.versions else 0)
            except (OSError, InUse):
                for name in (_midi(number), _json(number)):
                    self.folder.remove(name)
                raise
            for version in gone:
                self.folder.remove(_json(version.number))
                if all(version.file != v.file for v in self.versions):
                    self.folder.remove(_midi(version.file))

    def _see(self, **changes: Any) -> None:
        """Changes the current version's view."""
        with self.lock:
            new = replace(self.version, view=replace(self.view, **changes))
            if new != self.version:
                self._commit([*self.versions[: self.at], new, *self.versions[self.at + 1 :]], self.at)

    def _commit(self, versions: list[Version], at: int) -> None:
        """Replaces the versions, also on disk. If that fails, nothing changes."""
        before = self.versions, self.at
        only_view = (len(versions), at) == (len(self.versions), self.at)
        self.versions, self.at = versions, at
        try:
            self.folder.write(_json(versions[at].number), versions[at].view.to_json())
            if not only_view:
                self._write_index()
        except (OSError, InUse):
            self.versions, self.at = before
            raise

    def _write_index(self) -> None:
        versions = [[v.number, v.file, v.what, v.name, v.new_tracks, v.taken] for v in self.versions]
        record = {"versions": versions, "at": self.at, "settings": self.settings}
        self.folder.write("session.json", json.dumps(record).encode())

    def _read_view(self, number: int) -> View:
        try:
            return view_from_json(self.folder.read(_json(number)))
        except (OSError, ValueError, KeyError, TypeError):
            return View()  # the song matters more than its marks

    def _cell(self, note: Lock) -> Cell:
        return Cell(note[0], self.score.bar_of(note[0], note[1]))


def _midi(file: int) -> str:
    return f"{file}.mid"


def _json(number: int) -> str:
    return f"{number}.json"


def check_size(score: Score) -> None:
    """Raises RequestError for a song that is too big to show."""
    for what, count, most in (
        ("notes", sum(len(t.notes) for t in score.tracks), MAX_NOTES),
        ("bars", len(score.bars), MAX_BARS),
        ("tracks", len(score.tracks), MAX_TRACKS),
    ):
        if count > most:
            raise RequestError(
                f"{score.name} has {count:,} {what}; the app takes at most {most:,}; use the midi-rwkv command for it"
            )
