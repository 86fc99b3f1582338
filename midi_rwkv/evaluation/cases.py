"""The evaluation's protocol: which bars of which tracks of which files every system has to write.

A case consists of a file, tracks and bars. It is drawn once from a seed, and is the same for every system. Settings:

- song: one pitched track, the whole song as context
- near: the same cases, with 4 N bars of context on either side
- continuation: the same cases, with only the bars before them as context
- controls: the same cases, with a request for the original's own density, polyphony, range and key
- drums: one drum track, the whole song as context
- all: every track that sounds in the song

These are measured only where they are named:

- rewrite: the cases of song as a composer meets them: the bars sound, and what stands there is refused
- rewrite-all: the same for the cases of all, and of their tracks those that sound in the bars
- played: one track off the grid, as a person plays; drums too

Sources (folders of the corpus) take turns, and files repeat as rarely as possible, so that no source outweighs the
others. N bars begin on a multiple of four, as in the paper, with at least N bars on either side. A case whose bars hold
no notes is kept, because silence is an answer too.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from midi_rwkv.corpus.shards import song_files
from midi_rwkv.errors import MidiRwkvError, RequestError
from midi_rwkv.score.midi import read_midi
from midi_rwkv.score.score import Bar, Note, Region, Score

SETTINGS = ("song", "near", "continuation", "controls", "drums", "all")
PLAYED = "played"
NAMED_SETTINGS = ("rewrite", "rewrite-all", PLAYED)  # measured only where they are named
ALL_SETTINGS = (*SETTINGS, *NAMED_SETTINGS)
PAIRED = ("song", "near", "continuation", "controls", "rewrite")  # settings that share their cases
PAIRED_ALL = ("all", "rewrite-all")
NEAR = 4  # bars of context on either side for each bar to fill
START_EVERY = 4
PLAYED_ON_GRID = 0.5  # a track with a smaller share of its onsets on the grid is off it
GRID = 24  # positions a quarter


@dataclass(frozen=True)
class Case:
    """Bars [first, first + n_bars), 0-based, of `tracks` (as `read_midi` counts them) of one file."""

    setting: str
    number: int
    file: str
    tracks: tuple[int, ...]
    first: int
    n_bars: int

    @property
    def id(self) -> str:
        return f"{self.setting}/{self.n_bars}/{self.number:04d}"

    @property
    def source(self) -> str:
        """The file's source: the first part of its name."""
        return self.file.split("/")[0] if "/" in self.file else "files"

    @property
    def last(self) -> int:
        return self.first + self.n_bars

    @property
    def context_bars(self) -> int | None:
        return NEAR * self.n_bars if self.setting == "near" else None

    @property
    def seed(self) -> int:
        """The seed of the fill, which is the same in all settings that share the case."""
        return zlib.crc32(f"{self.file} {self.tracks} {self.first} {self.n_bars}".encode())

    @property
    def is_rewrite(self) -> bool:
        """Whether the notes in the cells are shown, and are to be replaced by others."""
        return self.setting.startswith("rewrite")

    @property
    def region(self) -> Region:
        return Region.rectangle(self.tracks, [(self.first, self.last)])

    def original(self, score: Score) -> dict[int, list[Note]]:
        """What the song itself has in the cells, by track."""
        return {t: [n for b in range(self.first, self.last) for n in score.notes_in(t, b)] for t in self.tracks}

    def window(self, score: Score) -> tuple[int, int]:
        """The half-open range of readable bars. It includes the cells to write, except in a continuation."""
        if self.setting == "continuation":
            return 0, self.first
        reach = len(score.bars) if self.context_bars is None else self.context_bars
        return max(0, self.first - reach), min(len(score.bars), self.last + reach)

    def given(self, score: Score) -> Score:
        """The song that a system sees, without the notes to write; in a continuation it ends where they begin."""
        cut = self.setting == "continuation"
        at = score.bar(self.first).start_ticks
        if not cut:
            return score.with_fill(self.region, {t: [] for t in self.tracks})
        for t, track in enumerate(score.tracks):
            end = score.cell_ticks(t, self.first)[0]
            score = score.with_notes(t, [n for n in track.notes if n.onset_ticks < end])
        signatures = tuple(s for s in score.time_signatures if s.tick < at)
        return replace(score, time_signatures=signatures, end_ticks=at)

    def shown(self, score: Score) -> Score:
        """The song as a system is given it to fill."""
        return score if self.is_rewrite else self.given(score)

    def with_answer(self, score: Score) -> Score:
        """The song that a system sees, with the original's notes in the cells to write."""
        if self.setting != "continuation":
            return score
        given = self.given(score)
        for t, answer in self.original(score).items():
            given = given.with_notes(t, [*given.tracks[t].notes, *answer])
        return given


class Songs:
    """The MIDI files of a folder or zip by name, read on demand."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not self.path.exists():
            raise RequestError(f"no such file or folder: {self.path}")
        if not (self.path.is_dir() or zipfile.is_zipfile(self.path)):
            raise RequestError(f"{self.path} is no folder or zip of MIDI files; name the folder it lies in")
        self.read = lru_cache(maxsize=16)(self._read)

    @cached_property
    def data(self) -> Mapping[str, bytes]:
        return dict(song_files(self.path))

    @property
    def digest(self) -> str:
        """A digest that identifies the files by their names and content."""
        crcs = [f"{name} {zlib.crc32(data)}" for name, data in self.data.items()]
        return f"{len(crcs)} files, {zlib.crc32(' '.join(crcs).encode()):08x}"

    def _read(self, name: str) -> Score:
        return read_midi(self.data[name], name)


def draw_cases(
    songs: Songs,
    count: int,
    bars: Sequence[int] = (2, 4, 8),
    *,
    settings: Sequence[str] = SETTINGS,
    seed: int = 0,
    on_skip: Callable[[str, str], None] = lambda _name, _why: None,
) -> list[Case]:
    """`count` cases for each N of the settings song, near and rewrite, a third of it for the others.

    There are fewer if the files run out. `on_skip` receives each unusable file and the reason.

    Raises:
        RequestError: a setting is unknown, or there is no case at all.
    """
    unknown = sorted(set(settings) - set(ALL_SETTINGS))
    if unknown:
        raise RequestError(f"settings must be among {', '.join(ALL_SETTINGS)}, got {', '.join(unknown)}")
    if count < 1 or not bars or min(bars) < 1:
        raise RequestError(f"there must be at least one case and one bar to fill, got {count} cases of {bars} bars")
    cases: list[Case] = []
    for n in sorted(set(bars)):
        paired = [s for s in PAIRED if s in settings]
        if paired:
            drawn = _Draw(songs, "song", n, seed, on_skip).cases(count)
            for setting in paired:
                some = drawn if setting in ("song", "near", "rewrite") else drawn[: -(-count // 3)]
                cases += [replace(case, setting=setting) for case in some]
        for shared in (("drums",), PAIRED_ALL, (PLAYED,)):
            wanted = [s for s in shared if s in settings]
            if wanted:
                drawn = _Draw(songs, shared[0], n, seed, on_skip).cases(-(-count // 3))
                cases += [_asked(songs, replace(case, setting=setting)) for setting in wanted for case in drawn]
    if not cases:
        raise RequestError(f"{songs.path} has no song that can be filled: {3 * min(bars)} bars or more are needed")
    return cases


def _asked(songs: Songs, case: Case) -> Case:
    """A case with the tracks that a composer would get: in `rewrite-all` those that sound in the bars, if any do."""
    if case.setting != "rewrite-all":
        return case
    there = case.original(songs.read(case.file))
    return replace(case, tracks=tuple(t for t in case.tracks if there[t]) or case.tracks)


class _Draw:
    """Draws the cases of one setting and number of bars."""

    def __init__(self, songs: Songs, setting: str, n_bars: int, seed: int, on_skip: Callable[[str, str], None]):
        self.songs, self.setting, self.n_bars, self.on_skip = songs, setting, n_bars, on_skip
        self.rng = np.random.default_rng([seed, n_bars, ALL_SETTINGS.index(setting)])
        self.seen: set[tuple[str, tuple[int, ...], int]] = set()  # file, tracks, first bar

    def cases(self, count: int) -> list[Case]:
        """At most `count` cases; the sources take turns."""
        queues = self._queues()
        cases: list[Case] = []
        while queues and len(cases) < count:
            for source in sorted(queues):
                case = self._next(queues[source], len(cases)) if len(cases) < count else None
                if case is not None:
                    cases.append(case)
                if not queues[source]:
                    del queues[source]
        return cases

    def _queues(self) -> dict[str, list[str]]:
        """The files of each source in a random order."""
        queues: dict[str, list[str]] = {}
        for name in self.songs.data:
            queues.setdefault(Case(self.setting, 0, name, (), 0, self.n_bars).source, []).append(name)
        for source in sorted(queues):
            queues[source] = [queues[source][i] for i in self.rng.permutation(len(queues[source]))]
        return queues

    def _next(self, queue: list[str], number: int) -> Case | None:
        """A case of the first usable file, which then goes to the end of the queue. Unusable files leave the queue."""
        while queue:
            name = queue.pop(0)
            place = self._place(name)
            if place is not None:
                queue.append(name)
                self.seen.add((name, *place))
                return Case(self.setting, number, name, *place, self.n_bars)
        return None

    def _place(self, name: str) -> tuple[tuple[int, ...], int] | None:
        """Tracks and first bar of a case of that file that is not in `seen`, or None."""
        n_bars = self.n_bars
        try:
            score = self.songs.read(name)
        except (MidiRwkvError, OSError) as error:
            self.on_skip(name, str(error))
            return None
        choices = self._choices(score)
        if not choices:
            missing = {"drums": "drum track", PLAYED: "track off the grid"}.get(self.setting, "pitched track")
            self.on_skip(name, f"no {missing}")
            return None
        starts = range(0, len(score.bars) - 2 * n_bars + 1, START_EVERY)
        usable = [b for b in starts if b >= n_bars and _even(score, b, n_bars)]
        free = [(tracks, b) for tracks in choices for b in usable if (name, tracks, b) not in self.seen]
        if not free:
            self.on_skip(name, f"no (further) {n_bars} bars in one metre with as many on either side")
            return None
        tracks = choices[int(self.rng.integers(len(choices)))]
        own = [place for place in free if place[0] == tracks] or free
        return own[int(self.rng.integers(len(own)))]

    def _choices(self, score: Score) -> list[tuple[int, ...]]:
        """The tracks that a case of the setting may have."""
        sounding = [t for t, track in enumerate(score.tracks) if track.notes]
        if self.setting == "all":
            return [tuple(sounding)]
        if self.setting == PLAYED:
            return [(t,) for t in sounding if share_on_grid(score, score.tracks[t].notes) < PLAYED_ON_GRID]
        return [(t,) for t in sounding if score.tracks[t].is_drum == (self.setting == "drums")]


def share_on_grid(score: Score, notes: Sequence[Note]) -> float:
    """Share of the notes that begin exactly on the grid of `GRID` positions a quarter, to the tick; nan for none."""
    if not notes:
        return math.nan
    at = np.array([n.onset_ticks for n in notes])
    steps = np.rint(at * GRID / score.ticks_per_beat)
    return float((np.rint(steps * score.ticks_per_beat / GRID) == at).mean())


def _even(score: Score, first: int, n_bars: int) -> bool:
    """Whether all bars are as long as the bar before; otherwise a continuation could not know its bars."""
    lengths: set[tuple[int, int, int]] = {_shape(score.bar(b)) for b in range(first - 1, first + n_bars)}
    return len(lengths) == 1


def _shape(bar: Bar) -> tuple[int, int, int]:
    return bar.end_ticks - bar.start_ticks, bar.numerator, bar.denominator
