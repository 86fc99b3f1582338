"""Which micro-timings a cell's notes may have."""

from __future__ import annotations

import numpy as np

from midi_rwkv.score.score import Cell
from midi_rwkv.tokens.attributes import MICRO_MAX, MICRO_MIN, MICROS_PER_POSITION
from midi_rwkv.tokens.notes import AT, BarGrid

from .blank import Blanked
from .note_writer import nearest_micros
from .rules import Rules

ON_GRID = 0.98  # share of a track's notes from which its fills lie on the grid, too


def micros_of(blanked: Blanked, rules: Rules, grid: BarGrid, cell: Cell) -> np.ndarray:
    """The micro-timings that may be chosen at each position of a cell: (positions, classes) bool.

    They stay inside the cell and nearer to their own position than to its neighbours, and never lie where a kept note
    sounds if the position itself doesn't.
    """
    score = blanked.score
    center, micro = rules.ticks(cell.track, cell.bar), np.arange(MICRO_MIN, MICRO_MAX + 1)
    units = MICROS_PER_POSITION * np.arange(len(center))[:, None] + micro
    ticks = grid.lines[cell.bar] + np.rint(units * grid.ticks[cell.bar]).astype(np.int64)
    start, end = score.cell_ticks(cell.track, cell.bar)
    out: np.ndarray = nearest_micros(len(center)) & (ticks >= max(0, start)) & (ticks < end)
    own = grid.position_ticks(cell.bar)[: len(center)]
    middle = own[:-1] + own[1:]
    out[1:] &= 2 * ticks[1:] > middle[:, None]
    out[:-1] &= 2 * ticks[:-1] <= middle[:, None]
    taken = rules.taken(cell.track, cell.bar, ticks.ravel())
    if taken.any():
        at_center = rules.taken(cell.track, cell.bar, center, handover=True)
        out &= ~(taken.reshape(*ticks.shape, 128) & ~at_center[:, None]).any(-1)
    if on_grid(blanked, cell.track):
        out &= (micro == 0) | ~out[:, [-MICRO_MIN]]
    out[~out.any(1), -MICRO_MIN] = True
    return out


def on_grid(blanked: Blanked, track: int) -> bool:
    """Whether fills lie on the grid: as is asked, or as what stays does, of the track where it plays, else of the song;
    or as what lies in the bars that the feel is taken from."""
    song, feel = blanked.song, blanked.ask.feel
    if feel == "grid":
        return True
    own = np.tile(np.arange(song.n_tracks) == track, (song.n_bars, 1))
    if not isinstance(feel, str):
        song = blanked.before
        own[[b for b in range(song.n_bars) if not any(lo <= b < hi for lo, hi in feel)]] = False
    of_track = np.repeat(own.ravel(), np.diff(song.offsets))
    micros = song.notes[of_track if of_track.any() else slice(None), AT.micro]
    return len(micros) > 0 and float(np.mean(micros == 0)) >= ON_GRID
