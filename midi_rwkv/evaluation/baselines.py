"""Baselines that copy other bars of the song, as writers and as probabilities.

- copy before / copy after: the same tracks' N bars before or after the region.
- copy similar: the N bars of the song whose surroundings (the other tracks, and two bars on either side) are most
  similar to the region's, that is, a nearest neighbour.

A copy has no probability of its own. To measure how well it predicts the original, it is mixed with the note n-gram:
where the source has a next token, that token has probability c, and the n-gram has the rest. c depends on how many
tokens in a row the source has just predicted correctly, and is counted on training songs. A copy is therefore never
much worse than the n-gram, and better the more literally the song repeats.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np

from midi_rwkv.corpus.shards import Shard
from midi_rwkv.errors import RequestError
from midi_rwkv.score.score import Cell, Note, Score
from midi_rwkv.tokens.tokenizer import TokenizedSong, Tokenizer

COPIES = ("copy before", "copy after", "copy similar")
SURROUNDINGS = 2  # bars on either side that "similar" also compares
STREAKS = 12  # correct tokens in a row after which the confidence no longer grows
NO_GUESS = -1
CALIBRATION_SONGS = 60  # per source


class CellNotes:
    """(position, pitch) of the notes of each cell of a song, decoded on demand."""

    def __init__(self, tokenizer: Tokenizer, song: TokenizedSong):
        self.tokenizer, self.song = tokenizer, song
        self.of = cache(self._of)

    def _of(self, cell: Cell) -> frozenset[tuple[int, int]]:
        position, pitch, _ = self.tokenizer.places(self.song.cell(cell))
        return frozenset(zip(position.tolist(), pitch.tolist(), strict=True))


def source_bar(
    kind: str, cells: CellNotes, tracks: Sequence[int], *, first: int, n_bars: int, window: tuple[int, int]
) -> int | None:
    """The first of the N bars to copy, or None if the half-open window of readable bars has none."""
    low, high = window
    last = first + n_bars
    if kind == "copy before":
        return first - n_bars if first - n_bars >= low else None
    if kind == "copy after":
        return last if last + n_bars <= high else None
    if kind != "copy similar":
        raise RequestError(f"a copy must be one of {', '.join(COPIES)}, got {kind!r}")
    starts = [s for s in range(low, high - n_bars + 1) if s + n_bars <= first or s >= last]
    hidden = {Cell(t, b) for b in range(first, last) for t in tracks}

    def seen(cell: Cell) -> frozenset[tuple[int, int]]:
        return cells.of(cell) if low <= cell.bar < high and cell not in hidden else frozenset()

    around = range(-SURROUNDINGS, n_bars + SURROUNDINGS)
    all_tracks = range(cells.song.n_tracks)
    places = [(j, t) for j in around for t in all_tracks if seen(Cell(t, first + j))]

    def likeness(start: int) -> tuple[float, int]:
        pairs = [(seen(Cell(t, first + j)), seen(Cell(t, start + j))) for j, t in places]
        size = sum(len(a) + len(b) for a, b in pairs)
        return (2 * sum(len(a & b) for a, b in pairs) / size if size else 0.0), -abs(start - first)

    return max(starts, key=likeness) if starts else None


def copied_notes(score: Score, track: int, source: int, *, first: int, n_bars: int) -> list[Note]:
    """The notes of bars [source, source + N) moved to [first, first + N), and clipped at the end of the region."""
    end = score.bar(first + n_bars - 1).end_ticks
    notes = []
    for j in range(n_bars):
        old, new = score.bar(source + j), score.bar(first + j)
        for note in score.notes_in(track, source + j):
            onset = new.start_ticks + note.onset_ticks - old.start_ticks
            if onset < new.end_ticks:
                notes.append(note._replace(onset_ticks=onset, duration_ticks=min(note.duration_ticks, end - onset)))
    return sorted(notes)


def guesses(
    song: TokenizedSong, tracks: Sequence[int], source: int, *, first: int, n_bars: int, end_id: int
) -> Iterator[tuple[int, int, int]]:
    """For each token of the fill: the true token, the copy's guess or NO_GUESS, and its correct guesses in a row so
    far.

    The order is that of `dataset.lay_out`; the closing token of each cell is included.
    """
    streak = 0
    for j in range(n_bars):
        for t in tracks:
            said = [*song.cell(Cell(t, source + j)).tolist(), end_id]
            at = 0
            for true in [*song.cell(Cell(t, first + j)).tolist(), end_id]:
                guess = said[at] if at < len(said) else NO_GUESS
                yield true, guess, min(streak, STREAKS)
                if guess == true:
                    streak, at = streak + 1, at + 1
                    continue
                streak = 0
                again = [k for k, other in enumerate(said) if other == true]
                at = 1 + min(again, key=lambda k: abs(k - at)) if again else at + 1


def copy_probability(found: Sequence[tuple[int, int, int]], ngram: np.ndarray, confidence: np.ndarray) -> np.ndarray:
    """Probability of each true token of `guesses`, from the n-gram's (n,) and the confidence after each streak."""
    true, guess, streak = np.array(found).T
    c = np.where(guess == NO_GUESS, 0.0, confidence[streak])
    mixed: np.ndarray = c * (guess == true) + (1 - c) * ngram
    return mixed


def calibrate(shards: Sequence[Shard], tokenizer: Tokenizer, seed: int = 0) -> dict[str, list[float]]:
    """How often each copy's guess is correct, by streak, on single tracks of training songs (add-one smoothing)."""
    rng = np.random.default_rng(seed)
    end_id = tokenizer.id("FillBar_End")
    hits = {kind: np.ones((STREAKS + 1, 2)) for kind in COPIES}
    for shard in shards:
        for i in rng.choice(len(shard), min(CALIBRATION_SONGS, len(shard)), replace=False):
            song, n_bars = shard[int(i)], int(rng.choice([2, 4, 8]))
            if song.n_bars < 3 * n_bars:
                continue
            first = int(rng.integers(n_bars, song.n_bars - 2 * n_bars + 1))
            track = int(rng.integers(song.n_tracks))
            cells = CellNotes(tokenizer, song)
            for kind in COPIES:
                source = source_bar(kind, cells, [track], first=first, n_bars=n_bars, window=(0, song.n_bars))
                if source is not None:
                    for true, guess, streak in guesses(
                        song, [track], source, first=first, n_bars=n_bars, end_id=end_id
                    ):
                        if guess != NO_GUESS:
                            hits[kind][streak, int(guess == true)] += 1
    return {kind: (table[:, 1] / table.sum(1)).tolist() for kind, table in hits.items()}
