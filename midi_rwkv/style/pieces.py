"""The composer's own pieces: which files are usable, and the fills that are drawn from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from midi_rwkv.errors import MidiRwkvError, StyleError
from midi_rwkv.tokens.attributes import Column, Role, Vocabulary

if TYPE_CHECKING:
    from midi_rwkv.score.score import Score
    from midi_rwkv.tokens.memory import PieceCells
    from midi_rwkv.training.rows import Question

LEAST_NOTES, LEAST_BARS = 24, 4  # in a usable file
LONGEST_RUN = 400  # steps of the model; longer runs would only cost time
LONGEST_FILL = 8  # bars
BARS_BEFORE = 4  # a region with nothing after it
ALIKE = 0.8  # a file is a copy if this share of its bars occurs in another


@dataclass(frozen=True)
class Piece:
    """A usable file."""

    name: str
    score: Score
    data: bytes

    @property
    def n_notes(self) -> int:
        return sum(len(t.notes) for t in self.score.tracks)


def read_pieces(files: Sequence[str | Path]) -> tuple[list[Piece], dict[str, str]]:
    """The usable files, and the reasons why the others are not."""
    from midi_rwkv.score.midi import read_midi

    pieces: list[Piece] = []
    skipped: dict[str, str] = {}
    seen: list[tuple[str, set[bytes]]] = []
    for path in _midi_files(files):
        try:
            data = path.read_bytes()
            score = read_midi(data, path.name)
        except (MidiRwkvError, OSError) as error:
            skipped[str(path)] = " ".join(str(error).split())
            continue
        piece = Piece(path.name, score, data)
        cells = _bars_content(score)
        if piece.n_notes < LEAST_NOTES or len(cells) < LEAST_BARS:
            skipped[str(path)] = (
                f"{piece.n_notes} notes in {len(cells)} different bars are too few to learn from; "
                f"it takes {LEAST_NOTES} notes and {LEAST_BARS} bars"
            )
            continue
        twin = next((n for n, known in seen if len(cells & known) >= ALIKE * min(len(cells), len(known))), None)
        if twin is not None:
            skipped[str(path)] = f"its bars are those of {twin}"
            continue
        seen.append((path.name, cells))
        pieces.append(piece)
    return pieces, skipped


def draw_fills(  # noqa: PLR0913 -- how to draw, by name
    units: Sequence[tuple[Piece, tuple[int, int]]],
    vocabulary: Vocabulary,
    *,
    count: int,
    seed: int,
    held_out: bool,
    budget: int,
    question: Question | None = None,
    first: int = 0,
    memory: Callable[[int], Sequence[PieceCells]] | None = None,
) -> Iterator[tuple[int, np.ndarray]]:
    """(unit, sample) of `count` fills; a sample is at most `budget` steps, (n, columns).

    Fills to tune on are drawn as in training, randomly transposed and variously asked. Those that are held out are in
    the piece's own key, of the whole piece.

    Args:
        units: pieces with a range of bars, half-open, to draw from; they take turns, beginning with number `first`.
        question: asked in every fill; those to tune on are then transposed and nothing else. Where nothing is shown
            after a region, the region has at least `BARS_BEFORE` bars before it if the range of bars allows.
        memory: what the fills of a unit remember, such as `memory_of_others`.
    """
    from midi_rwkv.tokens.notes import encode, transposed
    from midi_rwkv.training.rows import RowSampler

    plain = held_out or question is not None
    sampler = RowSampler(
        vocabulary, plain=plain, question=question, memory_share=float(memory is not None), longest=LONGEST_FILL
    )
    rng = np.random.default_rng((seed, int(held_out)))
    songs = {id(piece): encode(vocabulary, piece.score) for piece, _ in units}  # not by name, which two may share
    found, tried = 0, 0
    while found < count and tried < 40 * count:
        unit = (first + tried) % len(units)
        tried += 1
        piece, bars = units[unit]
        song = songs[id(piece)]
        if plain and not held_out:
            song = transposed(song, sampler.shift_of(song, rng))
        if question is not None and question.after == 0:
            bars = max(bars[0], min(BARS_BEFORE, bars[1] - 1)), bars[1]
        remembered = partial(memory, unit) if memory else tuple
        sample = sampler.draw(song, None, rng, budget, remembered, within=bars)
        if sample is None:
            continue
        of_run = sample[int((sample[:, Column.ROLE] == Role.ANSWER).argmax()) :]
        notes = (of_run[:, Column.ROLE] == Role.ANSWER) & (of_run[:, Column.VELOCITY] > 0)
        if notes.any() and len(of_run) <= LONGEST_RUN:
            found += 1
            yield unit, sample


def memory_of_others(
    units: Sequence[tuple[Piece, tuple[int, int]]], vocabulary: Vocabulary
) -> Callable[[int], Sequence[PieceCells]]:
    """By unit the cells of all others, as `draw_fills` wants them."""
    from midi_rwkv.tokens.memory import PieceCells
    from midi_rwkv.tokens.notes import encode

    cells = [PieceCells(encode(vocabulary, piece.score).part(*bars)) for piece, bars in units]
    return lambda unit: [*cells[:unit], *cells[unit + 1 :]]


def _midi_files(files: Sequence[str | Path]) -> list[Path]:
    """The MIDI files, with folders expanded and each file once. Raises StyleError if there is none."""
    found: list[Path] = []
    for path in map(Path, files):
        inside = (
            sorted(p for p in path.rglob("*") if p.suffix.lower() in (".mid", ".midi")) if path.is_dir() else [path]
        )
        found += [p for p in inside if p not in found]
    if not found:
        raise StyleError(f"no MIDI files in {', '.join(map(str, files)) or 'nothing'}; name files or folders of them")
    return found


def _bars_content(score: Score) -> set[bytes]:
    """The onsets and pitches of each sounding bar, whatever the order of tracks."""
    found = set()
    for b, bar in enumerate(score.bars):
        notes = sorted(
            (n.onset_ticks - bar.start_ticks, n.pitch, track.is_drum)
            for t, track in enumerate(score.tracks)
            for n in score.notes_in(t, b)
        )
        if notes:
            found.add(repr([(48 * onset // score.ticks_per_beat, *rest) for onset, *rest in notes]).encode())
    return found
