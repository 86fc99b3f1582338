"""The session as the text that the piano roll reads, with one JSON value per line.

Line 1 is the song, and line 2 has the marks, locks and candidates. While candidates are written, one line per cell
follows. If a text only grows, only the additions are sent to the browser, so a cell costs little in a long song.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from midi_rwkv.score.describe import instrument_text
from midi_rwkv.score.keyswitches import keyswitches
from midi_rwkv.score.score import Cell, Note, Score

from .names import track_name
from .session import EXTRA_BARS, TabSession


@dataclass(frozen=True)
class Status:
    """The current activity, and how many of the cells are written."""

    text: str
    done: int = 0
    total: int = 0


def flat(notes: Iterable[Note], bars: Iterable[int]) -> list[int]:
    """A flat list: onset and duration (ticks), pitch, velocity and bar index of each note."""
    return [
        x
        for n, bar in zip(notes, bars, strict=True)
        for x in (n.onset_ticks, n.duration_ticks, n.pitch, n.velocity, bar)
    ]


def flat_fill(score: Score, track: int, notes: Sequence[Note]) -> list[int]:
    """`flat` for new notes of a track."""
    return flat(notes, (score.bar_of(track, n.onset_ticks) for n in notes))


def song_line(session: TabSession) -> str:
    """Line 1, or an empty line if no song is open."""
    if not session.is_open:
        return ""
    score = session.score
    n_bars = len(score.bars) + EXTRA_BARS
    bars = [score.bar(b) for b in range(n_bars)]
    metres = [f"{b.numerator}/{b.denominator}" for b in bars]
    tempos = [(t.tick, round(t.beats_per_minute, 5)) for t in score.tempos]
    if not tempos or tempos[0][0] > 0:
        tempos.insert(0, (0, 120.0))
    return _line(
        {
            "version": session.at,
            "name": session.name,
            "ticksPerBeat": score.ticks_per_beat,
            "firstBar": score.first_bar_number,
            "ownBars": len(score.bars),
            "bars": [*(b.start_ticks for b in bars), bars[-1].end_ticks],
            "metres": [(b, m) for b, m in enumerate(metres) if b == 0 or m != metres[b - 1]],
            "tempos": tempos,
            "tracks": [
                {
                    "name": track_name(t),
                    "instrument": instrument_text(score, i),
                    "drum": t.is_drum,
                    "programs": [(0, t.program), *t.program_changes],  # each from its tick on
                    "notes": flat(t.notes, score.note_bars(i).tolist()),
                    # Keyswitches, which a fill never replaces.
                    "stays": [(n.onset_ticks, n.pitch) for n in sorted(keyswitches(t, score.ticks_per_beat))],
                }
                for i, t in enumerate(score.tracks)
            ],
        }
    )


def view_line(session: TabSession, text: str = "", running: int = 0, answered: Iterable[Cell] | None = None) -> str:
    """Line 2. Its `undo` and `redo` are what these buttons would take back or do again, or empty if they cannot act.

    Args:
        running: the number of candidates being written.
        answered: the cells that the candidates are for, whatever is marked now.
    """
    seen = session.view
    answered = seen.answered if answered is None else sorted(answered)
    shelf = [
        {
            "seed": c.seed,
            "liked": c.liked,
            "fill": {t: flat_fill(session.score, t, notes) for t, notes in c.fill.items()},
        }
        for c in seen.candidates
    ]
    return _line(
        {
            "cells": seen.cells,
            "locked": seen.locked,
            "answered": answered,
            "candidates": [] if running else shelf,
            "chosen": seen.chosen,
            "undo": session.undoes,
            "redo": session.redoes,
            "running": running,
            "status": vars(Status(text)) if text else None,
        }
    )


def status_line(text: str) -> str:
    """A line with the current activity."""
    return _line({"status": vars(Status(text))})


def cell_line(score: Score, track: int, notes: list[list[Note]], status: Status) -> str:
    """A line for a finished cell: the notes of each candidate."""
    return _line({"track": track, "notes": [flat_fill(score, track, n) for n in notes], "status": vars(status)})


def head(session: TabSession, answered: Iterable[Cell], running: int) -> str:
    """Both lines while this many candidates for these cells are being written."""
    return f"{song_line(session)}\n{view_line(session, running=running, answered=answered)}"


def show(session: TabSession, text: str = "") -> str:
    """The component's whole value."""
    return f"{song_line(session)}\n{view_line(session, text)}" if session.is_open else ""


def _line(value: dict[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))
