"""Checks the values that programs send to the endpoint `infill`. What is wrong raises RequestError."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

from midi_rwkv.errors import RequestError
from midi_rwkv.fill.arguments import parse_density
from midi_rwkv.fill.ask import Span
from midi_rwkv.fill.places import parse_places
from midi_rwkv.model.config import check_seed
from midi_rwkv.model.step_checkpoint import StepCheckpoint
from midi_rwkv.score.clip import ENDINGS
from midi_rwkv.score.score import Cell, Region, Score
from midi_rwkv.style.style import Style, blend, find_style, load_style

MOST_CANDIDATES = 8


def check_answers(candidates: int, form: str) -> None:
    """Raises RequestError unless so many answers can be given in this form."""
    if not 1 <= candidates <= MOST_CANDIDATES:
        raise RequestError(f"num_candidates must be 1-{MOST_CANDIDATES}, got {candidates}")
    if form not in ENDINGS:
        raise RequestError(f"format must be {' or '.join(ENDINGS)}, got {form!r}")


def drawn(seed: int) -> int:
    """The seed, or a new one for -1."""
    if seed == -1:
        return secrets.randbelow(2**31)
    check_seed(seed)
    return seed


def chosen_style(
    name: str, file: Path | None, strength: float, memory: float | None, checkpoint: StepCheckpoint
) -> Style | None:
    """The style of that name or in that file. Raises RequestError for both, StyleError if it cannot be used."""
    if name and file:
        raise RequestError("give style or style_file, not both")
    if file:
        return blend([(load_style(file, checkpoint), 1.0)], strength, memory)
    if not name:
        return None
    return find_style(name, checkpoint, strength, memory=memory, names_only=True)


def check_numbers(kind: type = int, **given: Any) -> None:
    """Raises RequestError unless each is a list of whole numbers, or of any numbers if `kind` is float."""
    for name, values in given.items():
        numbers = isinstance(values, list) and all(isinstance(v, int | kind) for v in values)
        if not numbers or any(isinstance(v, bool) for v in values):
            what = "whole numbers" if kind is int else "a number"
            raise RequestError(f"{name} must be {what}, got {str(values)[:60]}")


def check_texts(**given: Any) -> None:
    """Raises RequestError unless each is a list of texts."""
    for name, values in given.items():
        if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
            raise RequestError(f"{name} must be text, got {str(values)[:60]}")


def region_of(score: Score, tracks: list[int], bars: list[int], beats: str) -> tuple[Region, tuple[Span, ...] | None]:
    """The cells to write, and the ticks in them that are meant if not all are."""
    if not beats.strip():
        return Region(frozenset(Cell(t, b) for t in tracks for b in bars)), None
    if bars:
        raise RequestError("give bars or beats, not both; bars is [] with beats")
    places = parse_places([beats], score, "beats")
    return Region.rectangle(tracks, places.bars), places.within


def density_of(density: Any) -> tuple[int, int] | str | None:
    """The density as `SamplingConfig` has it, from a list or a text."""
    if isinstance(density, str):
        return parse_density("density", density or None)
    check_numbers(density=density or [])
    return span_of("density", density)


def span_of(name: str, values: list[int] | None) -> tuple[int, int] | None:
    """A list of the least and the most as a pair."""
    if values is None:
        return None
    if len(values) != 2:
        raise RequestError(f"{name} must be two numbers, the least and the most, got {values}")
    return values[0], values[1]
