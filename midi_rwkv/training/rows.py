"""Note shards -> training rows: random songs, regions and questions, packed to a fixed length.

Row `i` of a run depends on (seed, i) alone, so a resumed run, or one on more processes, sees the same rows.

What a composer may ask for, a sample may ask for: one track or several, a few bars or many; of a whole song, of a
sketch of a few bars, of a song that goes on, of tracks that are not there yet, of an empty song; with sources in
the song or from other pieces, or none; with density, polyphony, note durations, chords or a range told; with notes that
stay.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from midi_rwkv.corpus.note_shards import NoteShard
from midi_rwkv.corpus.shards import sources_in
from midi_rwkv.tokens.attributes import DRUMS, Column, Vocabulary
from midi_rwkv.tokens.chords import SongChords
from midi_rwkv.tokens.layout import (
    EMPTY,
    CellAsk,
    Window,
    cell_answer,
    cell_steps,
    choose_window,
    control_tokens,
    prompt_steps,
)
from midi_rwkv.tokens.memory import PieceCells, PieceMemory
from midi_rwkv.tokens.notes import AT, SongNotes, transposed
from midi_rwkv.tokens.references import Reference, RunIndex
from midi_rwkv.tokens.surroundings import CellSurroundings, with_before

from .source_weights import chosen_weights

RUN_LENGTHS = (1, 2, 3, 4, 5, 6, 8, 12, 16)
RUN_WEIGHTS = (0.09, 0.13, 0.06, 0.21, 0.05, 0.05, 0.17, 0.1, 0.14)
ANSWER_SHARE = 0.5  # of a sample's steps, its answers at most
MIN_STEPS = 160  # a sample is not drawn for less
WHOLE_SHARE = 0.2  # of the samples, those that may fill what is left of a row; the others are shorter by chance
TRANSPOSE = 6  # semitones up or down
CONTROL_KINDS = ("density", "polyphony", "duration")
CONTROL_SHARE = 0.2  # of the samples, each control and the chords
RANGE_SHARE = 0.1
SILENT_SHARE = 0.25  # of the samples, those whose tracks may rest all through the region
# What is followed in a sample: cells of the song, of another piece, or of neither; or one that is like the cell itself,
# as what a variation is made of.
SOURCE_SHARES = {"none": 0.1, "song": 0.77, "piece": 0.08, "itself": 0.05}
KEPT_SHARE = 0.15
MEMORY_SHARE = 0.6  # of the samples, those that have a memory of other pieces beside what they follow
MEMORY_PIECES = 6  # at most
# Pieces whose names are so near in a source are often of one composer, player or collection; a memory is drawn from
# them in such a share of the cases, and otherwise from the whole source.
NEIGHBOURS, NEAR_SHARE = 8, 0.75


@dataclass(frozen=True)
class Question:
    """How a sample is asked; the shares of the settings are in `RowSampler._question`."""

    before: int | None = None  # bars of context on either side, None: all
    after: int | None = None
    open_end: bool = False
    absent: bool = False  # the asked tracks show nothing
    empty: bool = False  # no track shows anything


PLAIN = Question()


@dataclass(frozen=True)
class Task:
    """The cells of a sample, and what is known beside them."""

    song: SongNotes
    tracks: list[int]
    run: tuple[int, int]  # bars, half-open
    hidden: set[tuple[int, int]]  # cells (track, bar), those to write among them
    question: Question = PLAIN

    @property
    def cells(self) -> list[tuple[int, int]]:
        """Those to write, (track, bar), in the order of writing."""
        return [(t, b) for t in self.tracks for b in range(*self.run)]


class RowSampler:
    """Draws a region of a song and lays it out as the model will meet it."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        plain: bool = False,
        question: Question | None = None,
        memory_share: float = MEMORY_SHARE,
        longest: int = RUN_LENGTHS[-1],
    ):
        """plain: samples in the song's own key, of whole songs, shown the most alike cells and nothing else.
        question: asked in every sample. memory_share: of the samples, those that remember the pieces that they are
        drawn with. longest: bars to write at most."""
        self.vocabulary, self.plain, self.memory_share = vocabulary, plain, memory_share
        self.question = question or (PLAIN if plain else None)
        weights = np.array(RUN_WEIGHTS) * (np.array(RUN_LENGTHS) <= longest)
        self._length_p = weights / weights.sum()

    def draw(
        self,
        song: SongNotes,
        chords: SongChords | None,
        rng: np.random.Generator,
        budget: int,
        pieces: Callable[[], Sequence[PieceCells]] = tuple,
        *,
        within: tuple[int, int] | None = None,
    ) -> np.ndarray | None:
        """A sample of at most `budget` steps, (n, columns), or None where the drawn region does not fit.

        chords: told in some samples; None: never. pieces: gives others that may be followed or
        remembered. within: bars, half-open, that the region lies in.
        """
        drawn = self._region(song, rng, budget, within or (0, song.n_bars))
        if drawn is None:
            return None
        tracks, first, last = drawn
        run, question = (first, last), self.question or self._question(song, tracks, rng)
        if question.absent and 1 < song.n_tracks == len(tracks):
            return None
        shift = 0 if self.plain else self.shift_of(song, rng)
        song = transposed(song, shift)
        hidden = {(t, b) for t in tracks for b in range(*run)}
        if not self.plain and rng.random() < 0.2:  # other bars of the same tracks that are not written yet
            start, width = int(rng.integers(0, song.n_bars)), int(rng.integers(1, 9))
            hidden |= {(t, b) for t in tracks for b in range(start, min(start + width, song.n_bars))}
        task = Task(song, tracks, run, hidden, question)
        asks = self._asks(task, chords.moved(shift) if chords else None, rng, pieces)
        asked = [cell_steps(self.vocabulary, song, a, run) for a, _ in asks]
        answers = [cell_answer(self.vocabulary, song, a, notes, run) for a, notes in asks]
        left = budget - sum(map(len, asked)) - sum(map(len, answers))
        if left < 8:
            return None
        prompt = self.prompt(task, left)
        if len(prompt) > left:
            return None
        return with_before(np.concatenate([prompt, *(x for pair in zip(asked, answers, strict=True) for x in pair)]))

    def prompt(self, task: Task, budget: int) -> np.ndarray:
        """What is read before the first cell."""
        song, tracks, question = task.song, task.tracks, task.question
        absent = set(range(song.n_tracks)) if question.empty else set(tracks) if question.absent else set()
        visible = np.ones((song.n_tracks, song.n_bars), bool)
        for t, b in task.hidden:
            visible[t, b] = False
        visible[list(absent)] = False
        window = choose_window(song, visible, task.run, budget=budget, before=question.before, after=question.after)
        if question.empty:
            window = Window(*task.run, *task.run)
        window = replace(window, open_end=question.open_end)
        return prompt_steps(self.vocabulary, song, window, tracks, task.hidden, absent=absent)

    def _region(
        self, song: SongNotes, rng: np.random.Generator, budget: int, within: tuple[int, int]
    ) -> tuple[list[int], int, int] | None:
        """Tracks and bars to write, half-open."""
        counts = song.counts
        count = min(int(rng.choice(RUN_LENGTHS, p=self._length_p)), within[1] - within[0])
        first = int(rng.integers(within[0], within[1] - count + 1))
        sounding = np.flatnonzero(counts[first : first + count].sum(0) > 0)
        if len(sounding) == 0:
            return None
        pool = np.arange(song.n_tracks) if rng.random() < SILENT_SHARE else sounding
        kind = rng.random()
        if kind < 0.5 or len(pool) == 1:
            tracks = [int(rng.choice(pool))]
        elif kind < 0.75:
            tracks = sorted(int(t) for t in rng.choice(pool, rng.integers(2, len(pool) + 1), replace=False))
        else:
            tracks = [int(t) for t in pool]
        while count > 1 and counts[first : first + count, tracks].sum() > ANSWER_SHARE * budget:
            count -= 1
        return tracks, first, first + count

    def _question(self, song: SongNotes, tracks: list[int], rng: np.random.Generator) -> Question:
        kind = rng.random()
        if kind < 0.04:
            return Question(empty=True, open_end=True)
        if kind < 0.13 and len(tracks) < song.n_tracks:
            return Question(absent=True, open_end=rng.random() < 0.1)
        if kind < 0.26:
            after = 0 if rng.random() < 0.6 else int(rng.integers(1, 9))
            return Question(before=int(rng.integers(1, 9)), after=after, open_end=after == 0)
        if kind < 0.38:
            return Question(after=0, open_end=True)
        return PLAIN

    def shift_of(self, song: SongNotes, rng: np.random.Generator) -> int:
        """Semitones that leave every pitched note on the keyboard."""
        pitched = np.repeat(np.tile(song.programs != DRUMS, song.n_bars), np.diff(song.offsets))
        pitches = song.notes[pitched, AT.pitch]
        if not len(pitches):
            return 0
        low, high = max(-TRANSPOSE, 12 - int(pitches.min())), min(TRANSPOSE, 115 - int(pitches.max()))
        return int(rng.integers(min(low, 0), max(high, 0) + 1))

    def _asks(
        self,
        task: Task,
        chords: SongChords | None,
        rng: np.random.Generator,
        pieces: Callable[[], Sequence[PieceCells]],
    ) -> list[tuple[CellAsk, np.ndarray]]:
        """What is asked of each cell, and its answer."""
        song = task.song
        share = 0.0 if self.plain else 1.0
        kinds = [k for k in CONTROL_KINDS if rng.random() < share * CONTROL_SHARE]
        told = chords if rng.random() < share * CONTROL_SHARE else None
        ranged, keeping = rng.random() < share * RANGE_SHARE, rng.random() < share * KEPT_SHARE
        sources = _Sources(task, rng, pieces, {"song": 1.0} if self.plain else SOURCE_SHARES, self.memory_share)
        out = []
        for t, b in task.cells:
            notes = song.cell(t, b)
            kept, span, pitches = EMPTY, None, None
            if keeping and len(notes) > 1 and rng.random() < 0.8:
                notes, kept, span, pitches = _keep_some(notes, int(song.lengths[b]), rng)
            if ranged and pitches is None and len(notes):
                low, high = int(notes[:, AT.pitch].min()), int(notes[:, AT.pitch].max())
                pitches = max(0, low - int(rng.integers(0, 5))), min(127, high + int(rng.integers(0, 5)))
            around = CellSurroundings(self.vocabulary, sources.index, t, b, sources.of(t, b), sources.recalled(t, b))
            ask = CellAsk(
                t,
                b,
                kept,
                span,
                pitches,
                control_tokens(self.vocabulary, notes, is_drum=song.is_drum(t), kinds=kinds),
                told.in_bar(b) if told is not None and not song.is_drum(t) else (),
                around,
            )
            sources.write(t, b, song.cell(t, b))
            out.append((ask, notes))
        return out


class _Sources:
    """What a sample follows: one draw a sample, a look a cell."""

    def __init__(
        self,
        task: Task,
        rng: np.random.Generator,
        pieces: Callable[[], Sequence[PieceCells]],
        shares: Mapping[str, float],
        memory_share: float,
    ):
        song, question = task.song, task.question
        self.song, self.rng = song, rng
        first, last = task.run
        low = 0 if question.before is None else max(0, first - question.before)
        high = song.n_bars if question.after is None else min(song.n_bars, last + question.after)
        hidden = task.hidden | {(t, b) for t in range(song.n_tracks) for b in (*range(low), *range(high, song.n_bars))}
        if question.absent or question.empty:
            gone = range(song.n_tracks) if question.empty else task.tracks
            hidden |= {(t, b) for t in gone for b in range(song.n_bars)}
        self.index = RunIndex(song, task.run, hidden)
        self.kind = str(rng.choice(list(shares), p=list(shares.values())))
        self.piece = PieceMemory(pieces()[:1], self.index) if self.kind == "piece" else None
        self.memory = PieceMemory(pieces(), self.index) if rng.random() < memory_share else None

    def of(self, track: int, bar: int) -> list[Reference]:
        """What is followed in a cell."""
        if self.piece:
            return self.piece.find(track, bar, int(self.rng.integers(1, 5)))
        if self.kind == "itself":
            return self._something_like(track, bar)
        return self.index.sources(track, bar) if self.kind == "song" else []

    def recalled(self, track: int, bar: int) -> list[Reference]:
        """What of the memory is followed beside them."""
        return self.memory.find(track, bar) if self.memory else []

    def write(self, track: int, bar: int, notes: np.ndarray) -> None:
        self.index.write(track, bar, notes)

    def _something_like(self, track: int, bar: int) -> list[Reference]:
        """The cell of the track that is most like this one without being the same, as what a variation is made of."""
        own = {(n[0], n[2]) for n in self.song.cell(track, bar).tolist()}
        best, found = 0.0, EMPTY
        for b in np.flatnonzero(self.index.shown[track]).tolist():
            notes = self.index.cell(track, b)
            theirs = {(n[0], n[2]) for n in notes.tolist()}
            alike = 2 * len(own & theirs) / max(1, len(own) + len(theirs))
            if best < alike < 1:
                best, found = alike, notes
        return [Reference(found, best)] if best > 0.2 else []


def _keep_some(
    notes: np.ndarray, length: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, tuple[int, int] | None, tuple[int, int] | None]:
    """Part a cell into notes to write and notes that stay; and the span or the band of pitches to write in, if any."""
    kind = rng.random()
    span = pitches = None
    if kind < 0.4:  # some beats
        edges = (
            sorted(int(x) for x in rng.choice(np.arange(0, length + 1, 6), 2, replace=False)) if length >= 12 else []
        )
        if not edges:
            return notes, EMPTY, None, None
        span = edges[0], edges[1]
        new = (notes[:, AT.position] >= span[0]) & (notes[:, AT.position] < span[1])
    elif kind < 0.7:  # one hand
        cut = int(rng.choice(notes[:, AT.pitch]))
        pitches = (cut, 127) if rng.random() < 0.5 else (0, cut)
        new = (notes[:, AT.pitch] >= pitches[0]) & (notes[:, AT.pitch] <= pitches[1])
    elif kind < 0.85:  # a phrase
        edges = sorted(int(x) for x in rng.choice(len(notes) + 1, 2, replace=False))
        new = (np.arange(len(notes)) >= edges[0]) & (np.arange(len(notes)) < edges[1])
    else:  # notes here and there
        new = rng.random(len(notes)) < rng.random()
    return notes[new], notes[~new], span, pitches


class TrainingRows:
    """Endless packed rows: `rows[i]` -> steps (seq_len + 1, columns) and starts (True at a sample's first step)."""

    def __init__(
        self,
        shards: Path,
        vocabulary: Vocabulary,
        seq_len: int,
        *,
        seed: int,
        weights: Mapping[str, float] | None = None,
    ):
        """weights: see `chosen_weights`; where it chooses none, the root of each source's bars counts. Raises
        CorpusError where a source has no shard."""
        weights = chosen_weights(shards, weights or {})
        opened = {n: NoteShard(shards / f"{n}.npz") for n in weights or sources_in(shards)}
        if not weights:
            weights = {n: float(np.sqrt(s.n_bars.sum())) for n, s in opened.items()}
        self.weights = weights
        self.shards = list(opened.values())
        self._p = np.array(list(weights.values())) / sum(weights.values())
        # A long song counts for more, but less than in proportion.
        self._song_p = [np.sqrt(s.n_bars) / np.sqrt(s.n_bars).sum() for s in self.shards]
        self.sampler = RowSampler(vocabulary)
        self.seq_len, self.seed = seq_len, seed
        self._piece = lru_cache(maxsize=64)(lambda k, j: PieceCells(self.shards[k][j]))

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng((self.seed, i))
        size = self.seq_len + 1
        row = np.zeros((size, len(Column)), np.int16)
        starts = np.zeros(size, bool)
        at = 0
        while size - at >= MIN_STEPS:
            left = size - at
            budget = (
                left if rng.random() < WHOLE_SHARE else int(np.exp(rng.uniform(np.log(MIN_STEPS), np.log(left + 1))))
            )
            sample = self.sample(rng, min(left, budget))
            if sample is not None:
                row[at : at + len(sample)] = sample
                starts[at] = True
                at += len(sample)
        return row, starts

    def sample(self, rng: np.random.Generator, budget: int) -> np.ndarray | None:
        """One sample, or None where what was drawn does not fit."""
        k = int(rng.choice(len(self.shards), p=self._p))
        shard, p = self.shards[k], self._song_p[k]
        number = int(rng.choice(len(shard), p=p))

        def pieces() -> list[PieceCells]:
            near = np.arange(max(0, number - NEIGHBOURS), min(len(shard), number + NEIGHBOURS + 1))
            count = int(rng.integers(1, MEMORY_PIECES + 1))
            found = rng.choice(near, count) if rng.random() < NEAR_SHARE else rng.choice(len(shard), count, p=p)
            return [self._piece(k, j) for j in sorted({int(j) for j in found} - {number})]

        return self.sampler.draw(shard[number], shard.chords(number), rng, budget, pieces)
