"""Measures one system on one case: its fill, the comparison with the original, and the cost."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from midi_rwkv.model.config import MOST_NOTES, MOST_STRUCK, SamplingConfig
from midi_rwkv.score.score import Score

from .cases import Case
from .metrics import Section, compare, key_of, runs
from .systems import Notes, System, peak_mib


def evaluate_case(system: System, case: Case, score: Score) -> dict[str, Any]:
    """A JSON-serialisable record: the notes written, and every metric (None if it is not defined)."""
    count = sum(map(len, case.original(score).values()))
    record: dict[str, Any] = {"case": case.id, "original_notes": count, "notes": None, "metrics": {}}
    if not system.can(case):
        return record
    asked = system.setup.sampling if case.setting != "controls" else wishes(case, score, system.setup.sampling)
    notes = system.fill(case, score, asked)
    if notes is None:
        return record
    record["notes"] = {str(t): [list(n) for n in notes[t]] for t in case.tracks}
    values = compare_notes(case, score, notes, system)
    if case.setting == "controls":
        values |= wishes_met(case, score, notes, asked)
    elif count and not case.is_rewrite and not system.setup.fills_only:
        nats = system.nats(case, score)
        values |= {} if nats is None else {"nats_per_note": nats / count}
    record["metrics"] = {k: None if math.isnan(v) else round(v, 6) for k, v in values.items()}
    return record


def compare_notes(case: Case, score: Score, notes: Notes, system: System) -> dict[str, float]:
    """`metrics.compare`, averaged over the tracks that have notes in the original.

    `notes_in_silence` (notes per bar) is averaged over the other tracks. In both the original and the fill, notes are
    clipped at the end of the region and at the start of their bar.
    """
    bars = [score.bar(b) for b in range(case.first, case.last)]
    given = case.given(score)
    low, high = case.window(score)
    context = []
    for t, track in enumerate(given.tracks):
        context.append([n for n, b in zip(track.notes, given.note_bars(t).tolist(), strict=True) if low <= b < high])
    pitched = [n for t, ns in zip(given.tracks, context, strict=True) if not t.is_drum for n in ns]
    key = (
        key_of(np.array([n.pitch for n in pitched]), np.array([n.duration_ticks for n in pitched])) if pitched else None
    )
    columns = [np.array(ns, np.int64).reshape(-1, 4) for ns in context]
    context_runs = np.unique(np.concatenate([runs(c[:, 1], c[:, 0] / score.ticks_per_beat) for c in columns]))
    training_runs = system.reference.runs if system.reference else None

    def section(track: int, of: Sequence[Any]) -> Section:
        cut = []
        for n in of:
            onset = max(n.onset_ticks, score.bar(score.bar_of(track, n.onset_ticks)).start_ticks)
            length = min(n.duration_ticks, bars[-1].end_ticks - onset)
            cut.append(n._replace(onset_ticks=onset, duration_ticks=max(1, length)))
        return Section.of(cut, bars, score.ticks_per_beat, is_drum=score.tracks[track].is_drum)

    rows, in_silence = [], []
    for t, there in case.original(score).items():
        if there:
            rows.append(
                compare(
                    section(t, notes[t]),
                    section(t, there),
                    key=key,
                    context_runs=context_runs,
                    training_runs=training_runs,
                )
            )
        else:
            in_silence.append(len(notes[t]) / case.n_bars)
    values = {name: _mean([row[name] for row in rows]) for name in (rows[0] if rows else ())}
    return values | {"notes_in_silence": _mean(in_silence)}


def _mean(values: Sequence[float]) -> float:
    kept = [v for v in values if not math.isnan(v)]
    return sum(kept) / len(kept) if kept else math.nan


def _struck(notes: Sequence[Any]) -> list[int]:
    onsets = [n.onset_ticks for n in notes]
    return [onsets.count(at) for at in sorted(set(onsets))]


def wishes(case: Case, score: Score, sampling: SamplingConfig) -> SamplingConfig:
    """The original's own density, polyphony, range and pitch classes, as a user would request them."""
    cells = [score.notes_in(t, b) for t in case.tracks for b in range(case.first, case.last)]
    notes = [n for cell in cells for n in cell]
    if not notes:
        return sampling
    counts, struck = [len(c) for c in cells], [k for c in cells for k in _struck(c)]
    pitches = [n.pitch for n in notes]

    def span(values: Sequence[int], most: int) -> tuple[int, int]:
        return min(most, min(values)), min(most, max(values))

    return replace(
        sampling,
        density=span(counts, MOST_NOTES),
        polyphony=span(struck, MOST_STRUCK),
        pitch_range=(min(pitches), max(pitches)),
        key=tuple(sorted({p % 12 for p in pitches})),
    )


def wishes_met(case: Case, score: Score, notes: Notes, asked: SamplingConfig) -> dict[str, float]:
    """The shares of bars within the density, of strikes within the polyphony, and of notes within range and key."""
    cells = []
    for t in case.tracks:
        for b in range(case.first, case.last):
            cells.append([n for n in notes[t] if score.bar_of(t, n.onset_ticks) == b])
    written = [n for cell in cells for n in cell]
    density = None if isinstance(asked.density, str) else asked.density  # a word is met by other numbers in each track

    def share(values: Sequence[int], span: tuple[int, int] | str | None) -> float:
        return math.nan if not isinstance(span, tuple) else _mean([float(span[0] <= v <= span[1]) for v in values])

    return {
        "met_density": share([len(c) for c in cells], density),
        "met_polyphony": share([k for c in cells for k in _struck(c)], asked.polyphony),
        "met_pitch_range": share([n.pitch for n in written], asked.pitch_range),
        "met_key": math.nan if asked.key is None else _mean([float(n.pitch % 12 in asked.key) for n in written]),
    }


def measure_cost(system: System, cases: Sequence[tuple[Case, Score]]) -> dict[str, float | int]:
    """Seconds per fill (one candidate), steps read and written per second, and the peak memory of this process.

    The first case is filled once beforehand, so that nothing is compiled while the clock runs.
    """
    sampling = system.setup.sampling
    system.fill(*cases[0], sampling)
    meter = system.start_metering()
    seconds = []
    for case, score in cases:
        began = time.perf_counter()
        system.fill(case, score, sampling)
        seconds.append(time.perf_counter() - began)
    speeds = {}
    if meter is not None:
        speeds = {
            "read_steps_per_second": meter.read_steps / max(meter.read_seconds, 1e-9),
            "written_steps_per_second": meter.written_steps / max(meter.written_seconds, 1e-9),
        }
    return {
        "fills": len(cases),
        "median_seconds": float(np.median(seconds)),
        "p95_seconds": float(np.quantile(seconds, 0.95)),
        **speeds,
        "peak_mib": round(peak_mib()),
    }
