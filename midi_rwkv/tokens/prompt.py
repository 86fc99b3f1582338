"""The prompt: a song and a masked run of bars as one sequence of tokens.

    BOS Tempo  (Infill_Track Program)+ Infill_Bar*n     the request, before any context
    Context_After   bar bar ... [Song_End]              the bars after the run
    Context_Before  [Song_Start] bar bar ...            the bars before it, so that its neighbours come last
    Context_Middle  bar bar ...                         the run itself, given cells first, then the cells to fill

A bar is `Bar_None TimeSig` and then, for every track in a fixed order with the requested tracks last, `Program` and the
notes of that cell; a cell that is masked and not yet filled holds `Infill_Bar`. In the middle a cell to fill is
`Program FillBar_Start [controls] notes FillBar_End`. A fill therefore continues the bars before it, right after what
the other tracks play in the same bar, and every cell occurs in the sequence exactly once.

This is the order "bars". A model may also be trained in the paper's order, "tracks": the context has one track after
another with the run's bars in their places, then comes the request, then the cells to fill, track by track. A
checkpoint's config names its order.

A region of several runs is filled run by run, each in the context of those already filled. If the song is longer than
the budget, the bars nearest to the run are kept, in all tracks; tracks that are silent in these bars are left out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from midi_rwkv.score.score import Cell

from .tokenizer import Kind, TokenizedSong, Tokenizer

ORDERS = ("bars", "tracks")
MAX_ASKED_BARS = 16
POLYPHONY_LEVELS = 6
DENSITY_LEVELS = 18


class PromptTokens:
    """The structural tokens, looked up once."""

    def __init__(self, tokenizer: Tokenizer):
        self.pad = tokenizer.id("PAD_None")
        self.bos = tokenizer.id("BOS_None")
        self.infill_bar = tokenizer.id("Infill_Bar")
        self.infill_track = tokenizer.id("Infill_Track")
        self.track_start = tokenizer.id("Track_Start")
        self.track_end = tokenizer.id("Track_End")
        self.fill_start = tokenizer.id("FillBar_Start")
        self.fill_end = tokenizer.id("FillBar_End")
        self.after = tokenizer.id("Context_After")
        self.before = tokenizer.id("Context_Before")
        self.middle = tokenizer.id("Context_Middle")
        self.song_start = tokenizer.id("Song_Start")
        self.song_end = tokenizer.id("Song_End")
        levels = range(1, POLYPHONY_LEVELS + 1)
        self.polyphony_min = [tokenizer.id(f"ACBarOnsetPolyphonyMin_{i}") for i in levels]
        self.polyphony_max = [tokenizer.id(f"ACBarOnsetPolyphonyMax_{i}") for i in levels]
        self.density = [tokenizer.id(f"ACBarNoteDensity_{i}") for i in range(DENSITY_LEVELS)]
        self.density.append(tokenizer.id(f"ACBarNoteDensity_{DENSITY_LEVELS}+"))


@dataclass(frozen=True)
class BarPlan:
    """One bar of the middle, or in the order "tracks" a bar of one track.

    Attributes:
        given: the header and the given cells.
        targets: the tracks to write, in this order.
        program_ids: of every track in this bar.
    """

    bar: int
    given: list[int]  # header and given cells
    targets: tuple[int, ...]
    program_ids: list[int]


@dataclass(frozen=True)
class Prompt:
    """`asked` + `context` is read once; then, plan by plan, `given` is read and each target cell is written."""

    asked: list[int]
    context: list[int]  # up to and including Context_Middle
    bars: list[BarPlan]
    first_bar: int  # of the context window, half-open
    last_bar: int

    def cells(self) -> list[Cell]:
        """The cells to write, in this order."""
        return [Cell(t, plan.bar) for plan in self.bars for t in plan.targets]


@dataclass(frozen=True, kw_only=True)
class Shown:
    """The part of the song that a prompt may show, apart from the cells to write.

    Attributes:
        budget: tokens of `asked`, context and given cells together; the run's own bars are always kept.
        context_bars: at most this many bars on each side of the run; None for no limit.
        masked: further cells that are hidden because they are not filled yet.
        absent: tracks of which nothing is shown.
        open_end: the song continues after the run, and nothing of that is known (a continuation).
    """

    budget: int = 2048
    context_bars: int | None = None
    masked: Collection[Cell] = ()
    absent: Collection[int] = ()
    open_end: bool = False


WHOLE_SONG = Shown()


def build_prompt(
    tokens: PromptTokens,
    song: TokenizedSong,
    targets: Mapping[int, Sequence[int]],
    shown: Shown = WHOLE_SONG,
    *,
    order: str = "bars",
) -> Prompt:
    """The prompt for one run of bars.

    Args:
        targets: for each bar of the run (consecutive bar indices), the tracks to write.
        order: one of ORDERS.
    """
    if order not in ORDERS:
        raise ValueError(f"order must be one of {', '.join(ORDERS)}, given {order!r}")
    run = range(min(targets), max(targets) + 1)
    if sorted(targets) != list(run):
        raise ValueError(f"the bars of a run must be consecutive, got {sorted(targets)}")
    asked_tracks = sorted({t for ts in targets.values() for t in ts})
    hidden = {Cell(t, b) for b, ts in targets.items() for t in ts} | set(shown.masked)
    visible = np.diff(song.offsets).reshape(song.n_bars, song.n_tracks)
    for t, b in hidden:
        visible[b, t] = 0
    visible[:, list(shown.absent)] = 0
    asked = _asked(tokens, song, asked_tracks, run)
    sounding = int((visible.sum(0) > 0).sum())
    # In the order "tracks" each track has its own header in every bar, and a hidden cell is a token.
    cost = visible.sum(1) + (3 * sounding if order == "tracks" else sounding + 2)
    window = _window(cost, run, shown, shown.budget - len(asked) - 6)
    heard = visible[window.start : window.stop].sum(0) > 0
    tracks = [t for t in range(song.n_tracks) if heard[t] and t not in asked_tracks]
    tracks += [t for t in asked_tracks if heard[t]]
    layout = _Layout(tokens, song, targets, hidden, tracks, window)
    return layout.by_track(asked) if order == "tracks" else layout.by_bar(asked, open_end=shown.open_end)


@dataclass(frozen=True)
class _Layout:
    """Lays out the bars of a window, with their tracks in this order."""

    tokens: PromptTokens
    song: TokenizedSong
    targets: Mapping[int, Sequence[int]]
    hidden: Collection[Cell]
    tracks: Sequence[int]
    window: range

    def by_bar(self, asked: list[int], *, open_end: bool) -> Prompt:
        """The order "bars"."""
        first, last = min(self.targets), max(self.targets) + 1
        context = [self.tokens.after]
        for bar in range(last, self.window.stop):
            context += self._bar(bar, self.tracks)
        if self.window.stop == self.song.n_bars and not open_end:
            context.append(self.tokens.song_end)
        context.append(self.tokens.before)
        if self.window.start == 0:
            context.append(self.tokens.song_start)
        for bar in range(self.window.start, first):
            context += self._bar(bar, self.tracks)
        plans = []
        for bar in range(first, last):
            given = self._bar(bar, [t for t in self.tracks if t not in self.targets[bar]])
            plans.append(BarPlan(bar, given, tuple(self.targets[bar]), self._programs(bar)))
        return Prompt(asked, [*context, self.tokens.middle], plans, self.window.start, self.window.stop)

    def by_track(self, asked: list[int]) -> Prompt:
        """The order "tracks"."""
        first = min(self.targets)
        context: list[int] = []
        for t in self.tracks:
            context += [self.tokens.track_start, self.song.program(Cell(t, first))]
            for bar in self.window:
                context += [*self.song.headers[bar], *self._cell(Cell(t, bar))]
            context.append(self.tokens.track_end)
        asked_tracks = sorted({t for ts in self.targets.values() for t in ts})
        cells = [Cell(t, bar) for t in asked_tracks for bar in sorted(self.targets) if t in self.targets[bar]]
        plans = [BarPlan(bar, [], (t,), self._programs(bar)) for t, bar in cells]
        context += [*asked[2:], self.tokens.middle]
        return Prompt(asked[:2], context, plans, self.window.start, self.window.stop)

    def _programs(self, bar: int) -> list[int]:
        return [self.song.program(Cell(t, bar)) for t in range(self.song.n_tracks)]

    def _bar(self, bar: int, tracks: Sequence[int]) -> list[int]:
        ids = list(self.song.headers[bar])
        for t in tracks:
            cell = Cell(t, bar)
            ids += [self.song.program(cell), *self._cell(cell)]
        return ids

    def _cell(self, cell: Cell) -> list[int]:
        return [self.tokens.infill_bar] if cell in self.hidden else self.song.cell(cell).tolist()


def prompt_budget(song: TokenizedSong, targets: Mapping[int, Sequence[int]], context: int) -> int:
    """Ids for the prompt, so that prompt and answer together stay within `context`, what the model was trained to read:
    the answer is given half as many again as the tracks' other cells would take, at most half of it all."""
    lengths = np.diff(song.offsets).reshape(song.n_bars, song.n_tracks).copy()
    for bar, tracks in targets.items():
        lengths[bar, list(tracks)] = 0
    usual = lengths.sum(0) / np.maximum(1, (lengths > 0).sum(0))  # ids in a sounding cell of each track
    usual[usual == 0] = lengths.sum() / max(1, int((lengths > 0).sum()))
    answer = sum(1.5 * float(usual[t]) + 3 for tracks in targets.values() for t in tracks)
    return context - min(context // 2, int(answer))


def _asked(tokens: PromptTokens, song: TokenizedSong, tracks: Sequence[int], run: range) -> list[int]:
    ids = [tokens.bos, int(song.tempos[run.start])]
    for t in tracks:
        ids += [tokens.infill_track, song.program(Cell(t, run.start))]
    return ids + [tokens.infill_bar] * min(len(run), MAX_ASKED_BARS)


def _window(cost: np.ndarray, run: range, shown: Shown, budget: int) -> range:
    """The bars to show: the run, and as many neighbours as fit the budget, added one at a time on alternating sides.

    `cost` (bars,) is the number of tokens of each bar.
    """
    reach = len(cost) if shown.context_bars is None else shown.context_bars
    floor, ceiling = max(0, run.start - reach), min(run.stop if shown.open_end else len(cost), run.stop + reach)
    left = budget - int(cost[run.start : run.stop].sum())
    lo, hi = run.start, run.stop
    growing = True
    while growing:
        growing = False
        if lo > floor and cost[lo - 1] <= left:
            lo -= 1
            left -= int(cost[lo])
            growing = True
        if hi < ceiling and cost[hi] <= left:
            left -= int(cost[hi])
            hi += 1
            growing = True
    return range(lo, hi)


def control_ids(
    tokenizer: Tokenizer, tokens: PromptTokens, cell: Sequence[int], *, density: bool, polyphony: bool
) -> list[int]:
    """The bar-level control tokens that describe a cell, in the paper's order: onset polyphony min, max; note
    density."""
    struck: list[int] = []
    for base in (b for i in cell for b in tokenizer.expansions[i]):
        if tokenizer.base_kind[base] == Kind.POSITION:
            struck.append(0)
        elif tokenizer.base_kind[base] == Kind.PITCH:
            struck[-1] += 1
    ids = []
    if polyphony and struck:
        ids.append(tokens.polyphony_min[min(min(struck), POLYPHONY_LEVELS) - 1])
        ids.append(tokens.polyphony_max[min(max(struck), POLYPHONY_LEVELS) - 1])
    if density:
        ids.append(tokens.density[min(sum(struck), DENSITY_LEVELS)])
    return ids
