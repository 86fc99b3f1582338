"""The work of the Personalise tab: reading files, tuning with a curve, and the same bars before and after."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from midi_rwkv.errors import RequestError
from midi_rwkv.fill.ask import Ask
from midi_rwkv.model.step_checkpoint import StepCheckpoint
from midi_rwkv.score.score import Region
from midi_rwkv.sound.synth import render
from midi_rwkv.style.personalize import Personalized, PersonalizeOptions, personalize
from midi_rwkv.style.pieces import Piece, read_pieces
from midi_rwkv.style.preparing import PersonalizeProgress
from midi_rwkv.style.style import find_style

from .work import FillRequest, Worker

HEARD_BARS = 4
SEED = 1  # for the bars that are compared
_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class Step:
    """Progress: a line for people, and the held-out loss so far as (step, nats per note)."""

    text: str
    curve: list[tuple[int, float]]
    made: Personalized | None = None


def what_was_read(paths: Sequence[str]) -> tuple[list[list[Any]], list[Piece]]:
    """One row per file (name, bars, notes, used or why not), and the usable pieces."""
    pieces, skipped = read_pieces(list(paths)) if paths else ([], {})
    rows: list[list[Any]] = [[p.name, len(p.score.bars), p.n_notes, "used"] for p in pieces]
    rows += [[Path(file).name, None, None, f"skipped: {why}"] for file, why in skipped.items()]
    return rows, pieces


def alone(
    paths: Sequence[Path | str], name: str, checkpoint: StepCheckpoint, *, overwrite: bool, **more: Any
) -> Personalized:
    """`personalize` for the page and for programs. Raises RequestError while another style is being learned."""
    if not _one_at_a_time.acquire(blocking=False):
        raise RequestError("busy: another style is being learned; try again in a few minutes")
    try:
        return personalize(paths, name, PersonalizeOptions(overwrite=overwrite), checkpoint=checkpoint, **more)
    finally:
        _one_at_a_time.release()


def tune(
    paths: Sequence[str], name: str, *, overwrite: bool, checkpoint: StepCheckpoint, stop: threading.Event
) -> Iterator[Step]:
    """Learns the style. Setting `stop` ends it early with the best state so far. Raises RequestError."""
    happened: queue.Queue[PersonalizeProgress | Personalized | BaseException] = queue.Queue()

    def on_progress(progress: PersonalizeProgress) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        happened.put(progress)

    def work() -> None:
        try:
            happened.put(alone(list(paths), name, checkpoint, overwrite=overwrite, on_progress=on_progress))
        except (Exception, KeyboardInterrupt) as error:
            happened.put(error)

    try:
        began = time.monotonic()
        curve: list[tuple[int, float]] = []
        worker = threading.Thread(target=work, daemon=True)
        worker.start()
        while True:
            event = happened.get()
            if isinstance(event, KeyboardInterrupt):
                yield Step(f"stopped: {event.args[0] if event.args else 'no style was kept'}", curve)
                return
            if isinstance(event, BaseException):
                raise event
            if isinstance(event, Personalized):
                yield Step(_verdict(event, name, time.monotonic() - began), curve, event)
                return
            left = f"{event.seconds_left:.0f} s left"
            if event.check is None:
                if event.done % 10 == 0:
                    yield Step(f"reading the pieces: {event.done} of {event.total} fills, {left}", curve)
                continue
            check = event.check
            curve = curve or [(0, check.before)]
            curve = [*curve, (check.step, check.now)]
            gain = 100 * (check.best / check.before - 1)
            yield Step(f"step {check.step} of {check.steps}, {left}; best so far {gain:+.1f} %", curve)
    finally:
        stop.set()


def before_and_after(piece: Piece, style: str, worker: Worker, *, soundfont: Path) -> list[np.ndarray]:
    """Sound of the same bars of a piece, with two bars around, filled with the same seed without and with the style."""
    score = piece.score
    track = max(range(len(score.tracks)), key=lambda t: len(score.tracks[t].notes))
    counts = score.note_counts()[track]
    sums = np.convolve(counts, np.ones(min(HEARD_BARS, len(counts))), "valid")
    first = int(np.argmax(sums))
    region = Region.rectangle([track], [(first, min(first + HEARD_BARS, len(counts)))])
    sounds = []
    for found in (None, find_style(style, worker.checkpoint, names_only=True)):
        for event in worker.infill(FillRequest(score, Ask(region, seed=SEED), found)):
            if isinstance(event, list):
                filled = score.with_fill(region, event[0])
                lo, hi = max(0, region.bars[0] - 2), min(len(counts), region.bars[-1] + 3)
                sounds.append(render(filled, (lo, hi), soundfont))
    return sounds


def _verdict(made: Personalized, name: str, seconds: float) -> str:
    gain = f"{made.before:.3f} → {made.after:.3f} nats a note ({100 * (made.after / made.before - 1):+.1f} %)"
    if made.helps:
        return f"**{name}** is learned, in {seconds:.0f} s: {gain} on held-out bars. It is in the Song tab now."
    return "Not kept: it does not help on bars it was not tuned on. More pieces, or pieces more like each other, may."
