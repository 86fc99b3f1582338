"""The composer's own pieces: which files are usable, and the fills that are drawn from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from midi_rwkv.errors import MidiRwkvError, StyleError
from midi_rwkv.tokens.attributes import Column, Role, Vocabulary

if TYPE_CHECKING:
    from midi_rwkv.model.checkpoint import Checkpoint
    from midi_rwkv.score.score import Score
    from midi_rwkv.tokens.tokenizer import TokenizedSong
    from midi_rwkv.training.dataset import Sample

LEAST_NOTES, LEAST_BARS = 24, 4  # in a usable file
TRANSPOSITIONS = range(-5, 7)  # semitones
LONGEST_RUN = 400  # tokens; longer runs would only cost time
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


def draw_fills(
    units: Sequence[tuple[Piece, tuple[int, int]]],
    checkpoint: Checkpoint,
    *,
    count: int,
    seed: int,
    held_out: bool,
    budget: int | None = None,
) -> Iterator[tuple[int, Sample, int]]:
    """(unit, sample, notes) of `count` fills. Fills to tune on are randomly transposed.

    Args:
        units: pieces with a range of bars to draw from; they take turns.
        budget: tokens per sample; None is what the model was trained to read.
    """
    from midi_rwkv.training.dataset import RegionSampler, count_notes

    tokenizer = checkpoint.tokenizer
    sampler = RegionSampler(tokenizer, evaluation=held_out, order=checkpoint.prompt)
    rng = np.random.default_rng((seed, int(held_out)))
    encoded: dict[tuple[int, int], TokenizedSong] = {}
    shifts = [[0] if held_out else transpositions(piece.score) for piece, _ in units]
    found, tried = 0, 0
    while found < count and tried < 40 * count:
        unit = tried % len(units)
        tried += 1
        (piece, bars), shift = units[unit], int(rng.choice(shifts[unit]))
        key = id(piece), shift  # not the name, which files in different folders may share
        if key not in encoded:
            encoded[key] = tokenizer.encode(transposed(piece.score, shift))
        sample = sampler.draw(encoded[key], rng, budget or checkpoint.context, bars)
        if sample is None:
            continue
        run = len(sample.ids) - sample.ids.index(sampler.tokens.middle)
        notes = count_notes(tokenizer, sample)
        if notes and run <= LONGEST_RUN:
            found += 1
            yield unit, sample, notes


def draw_step_fills(
    units: Sequence[tuple[Piece, tuple[int, int]]],
    vocabulary: Vocabulary,
    *,
    count: int,
    seed: int,
    held_out: bool,
    budget: int,
) -> Iterator[tuple[int, np.ndarray]]:
    """(unit, steps) of `count` fills, as a model of steps is trained on them; `draw_fills` for such a model."""
    from midi_rwkv.tokens.notes import encode
    from midi_rwkv.training.rows import RowSampler

    sampler, rng = RowSampler(vocabulary, plain=held_out), np.random.default_rng((seed, int(held_out)))
    songs = {id(piece): encode(vocabulary, piece.score) for piece, _ in units}
    found, tried = 0, 0
    while found < count and tried < 40 * count:
        unit = tried % len(units)
        tried += 1
        piece, bars = units[unit]
        sample = sampler.draw(songs[id(piece)], None, rng, budget, within=bars)
        if sample is None:
            continue
        of_run = sample[int((sample[:, Column.ROLE] == Role.ANSWER).argmax()) :]
        notes = (of_run[:, Column.ROLE] == Role.ANSWER) & (of_run[:, Column.VELOCITY] > 0)
        if notes.any() and len(of_run) <= LONGEST_RUN:
            found += 1
            yield unit, sample


def transpositions(score: Score) -> list[int]:
    """Semitones by which all pitched tracks can be transposed within their instrument's range, or their own range."""
    from midi_rwkv.score.instruments import playable

    possible = []
    for shift in TRANSPOSITIONS:
        for track in score.tracks:
            by_program = [(p, {n.pitch for n in track.notes_of(p)}) for p in ([] if track.is_drum else track.programs)]
            allowed = [(playable(program, pitches), pitches) for program, pitches in by_program]
            if not all(0 <= p + shift <= 127 and can[p + shift] for can, pitches in allowed for p in pitches):
                break
        else:
            possible.append(shift)
    pitched = any(t.notes and not t.is_drum for t in score.tracks)
    return possible if pitched else [0]


def transposed(score: Score, semitones: int) -> Score:
    """The score with every pitched track transposed by `semitones`."""
    if semitones:
        for t, track in enumerate(score.tracks):
            if not track.is_drum:
                score = score.with_notes(t, [n._replace(pitch=n.pitch + semitones) for n in track.notes])
    return score


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
