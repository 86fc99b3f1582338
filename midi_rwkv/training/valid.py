"""The fixed fills that a run is measured on: the same songs, bars and tracks at every step of every run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from midi_rwkv.corpus.note_shards import NoteShard
from midi_rwkv.tokens.attributes import Column, Vocabulary
from midi_rwkv.tokens.layout import CellAsk, cell_answer, cell_steps
from midi_rwkv.tokens.notes import SongNotes
from midi_rwkv.tokens.references import RunIndex
from midi_rwkv.tokens.surroundings import CellSurroundings, with_before

from .rows import PLAIN, Question, RowSampler, Task

ATTRIBUTES = ("place", "micro", "pitch", "velocity", "duration")
FILLS_PER_SOURCE = 12
RUN_LENGTHS = (1, 2, 3, 4, 5, 6, 8)  # bars; not those of the training rows, so that the fills stay the same
RUN_WEIGHTS = (0.14, 0.18, 0.1, 0.26, 0.08, 0.08, 0.16)
STEPS = 1536  # of a fill, its context included
LONGEST_ANSWER = STEPS // 8  # notes of all tracks in the bars to write


@dataclass(frozen=True)
class Place:
    """What a fill writes: tracks and bars (half-open) of a song, by its number in the shard."""

    source: str
    song: int
    tracks: list[int]
    run: tuple[int, int]
    question: Question

    @property
    def cells(self) -> list[tuple[int, int]]:
        """(track, bar), in the order of writing."""
        return [(t, b) for t in self.tracks for b in range(*self.run)]

    def hidden(self, song: SongNotes) -> set[tuple[int, int]]:
        """Cells that are not shown: those to write, and where the song's end is open all that comes after them."""
        after = range(self.run[1], song.n_bars if self.question.open_end else self.run[1])
        return {*self.cells, *((t, b) for t in range(song.n_tracks) for b in after)}


@dataclass(frozen=True)
class Fill:
    """A prompt with its answer, (n, columns), and how many notes the answer has."""

    source: str
    steps: np.ndarray
    notes: int


def validation_fills(
    shard: NoteShard, vocabulary: Vocabulary, *, per_source: int = FILLS_PER_SOURCE, seed: int = 0
) -> list[Fill]:
    """The fills of `draw_places`."""
    return [
        Fill(place.source, *lay_out(vocabulary, shard[place.song], place))
        for place in draw_places(shard, per_source=per_source, seed=seed)
    ]


def draw_places(shard: NoteShard, *, per_source: int = FILLS_PER_SOURCE, seed: int = 0) -> list[Place]:
    """`per_source` places of each source named in the shard."""
    by_source: dict[str, list[int]] = {}
    for i, name in enumerate(shard.names):
        by_source.setdefault(name.split("/")[0], []).append(i)
    rng = np.random.default_rng(seed)
    places: list[Place] = []
    for source, songs in sorted(by_source.items()):
        found = 0
        for _ in range(per_source * 200):
            if found == per_source:
                break
            number = int(rng.choice(songs))
            drawn = _draw(shard[number], rng)
            if drawn is not None:
                places.append(Place(source, number, *drawn))
                found += 1
    return places


def _draw(song: SongNotes, rng: np.random.Generator) -> tuple[list[int], tuple[int, int], Question] | None:
    """Tracks, bars and setting; None where there is nothing to write, or too much."""
    count = min(int(rng.choice(RUN_LENGTHS, p=RUN_WEIGHTS)), song.n_bars)
    first = int(rng.integers(0, song.n_bars - count + 1))
    notes = song.counts[first : first + count]
    sounding = np.flatnonzero(notes.sum(0) > 0).tolist()
    kind, open_end = rng.random(), rng.random() < 0.12
    if not sounding or notes.sum() > LONGEST_ANSWER:
        return None
    if kind < 0.5 or len(sounding) == 1:
        tracks = [int(rng.choice(sounding))]
    elif kind < 0.75:
        tracks = sorted(int(t) for t in rng.choice(sounding, rng.integers(2, len(sounding) + 1), replace=False))
    else:
        tracks = sounding
    return tracks, (first, first + count), Question(after=0, open_end=True) if open_end else PLAIN


def asks_of(vocabulary: Vocabulary, song: SongNotes, place: Place, *, follow: bool = True) -> list[CellAsk]:
    """What is asked of each cell of a place, the cells before it being written.

    follow: whether sources are followed.
    """
    index = RunIndex(song, place.run, place.hidden(song))
    asks = []
    for t, b in place.cells:
        sources = index.sources(t, b) if follow else []
        asks.append(CellAsk(t, b, around=CellSurroundings(vocabulary, index, t, b, sources)))
        index.write(t, b, song.cell(t, b))
    return asks


def lay_out(vocabulary: Vocabulary, song: SongNotes, place: Place, *, follow: bool = True) -> tuple[np.ndarray, int]:
    """The steps of a fill with the song's own notes as its answer, and their number."""
    run, cells = place.run, place.cells
    parts: list[np.ndarray] = []
    for ask in asks_of(vocabulary, song, place, follow=follow):
        parts.append(cell_steps(vocabulary, song, ask, run))
        parts.append(cell_answer(vocabulary, song, ask, song.cell(ask.track, ask.bar), run))
    left = STEPS - sum(map(len, parts))
    prompt = RowSampler(vocabulary).prompt(Task(song, place.tracks, run, set(cells), place.question), left)
    end = np.zeros((1, len(Column)), np.int16)
    return with_before(np.concatenate([prompt, *parts, end])), int(sum(len(song.cell(t, b)) for t, b in cells))
