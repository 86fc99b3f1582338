"""infill(): a score and a region in, candidates out. The whole flow, in a page.

Run by run of the region's bars: build the prompt, let the engine read it once, then write cell by cell in the prompt's
order, all candidates as one batch. What one run wrote is context for the next.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from midi_rwkv.engine.engine import Engine
from midi_rwkv.engine.make import make_engine
from midi_rwkv.engine.prefix import read_from
from midi_rwkv.errors import RequestError
from midi_rwkv.model.checkpoint import Checkpoint, load_checkpoint
from midi_rwkv.model.config import SamplingConfig, check_seed
from midi_rwkv.model.rows import Rows
from midi_rwkv.score.keyswitches import without_keyswitches
from midi_rwkv.score.score import Cell, Note, Region, Score
from midi_rwkv.score.single import one_at_a_time
from midi_rwkv.score.splice import masked_runs, settle
from midi_rwkv.style.style import Style, find_style
from midi_rwkv.tokens.prompt import ORDERS, Prompt, PromptTokens, Shown, build_prompt, prompt_budget
from midi_rwkv.tokens.tokenizer import in_the_manner_of

from .limits import CellLimits
from .locked import places_of, with_locked
from .recall import CellMemory, SongMemory
from .rules import Rules
from .sample import CellRules, CellWriter, GrammarTables

MAX_REGION_BARS = 512
MAX_CANDIDATES = 64
MAX_KEPT_RULES = 256  # of cells, some 0.1 MiB each


@dataclass(frozen=True)
class Candidate:
    """One answer: the whole song with the fill in place, and the new notes alone (per track index, in ticks)."""

    score: Score
    fills: dict[int, list[Note]]


@dataclass(frozen=True)
class Progress:
    """What has just been written: cell `done` of `total` (all candidates' cells of one track and bar count as one)."""

    done: int
    total: int
    track: int
    bar: int  # 0-based index
    notes: list[list[Note]]  # per candidate


class Infiller:
    """A checkpoint made ready to fill: grammar tables and engine, built once and used for many regions."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        backend: str = "auto",
        threads: int = 1,
        engine: Engine[Any] | None = None,
        style: Style | None = None,
        precision: str = "auto",
    ):
        """engine: instead of the one made from the checkpoint's weights, over the same ids. style: see `find_style`."""
        if checkpoint.prompt not in ORDERS:
            raise RequestError(
                f"{checkpoint.path}: prompt format {checkpoint.prompt!r} cannot be filled with; use a checkpoint with "
                f"one of {', '.join(ORDERS)}"
            )
        self.checkpoint = checkpoint
        self.tokenizer = checkpoint.tokenizer
        self.tokens = PromptTokens(self.tokenizer)
        self.engine = engine or make_engine(
            checkpoint.weights, checkpoint.config.head_size, backend=backend, threads=threads, precision=precision
        )
        self.style = style or Style("none")
        self._tables = {is_drum: GrammarTables(self.tokenizer, is_drum) for is_drum in (False, True)}
        self._cell_rules: dict[tuple[object, ...], CellRules] = {}

    def __call__(
        self,
        score: Score,
        region: Region,
        sampling: SamplingConfig | None = None,
        *,
        candidates: int = 1,
        seed: int = 0,
        context_bars: int | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        locked: Mapping[int, Sequence[Note]] | None = None,
    ) -> list[Candidate]:
        """See `infill`."""
        sampling = sampling or SamplingConfig()
        _check(score, region, candidates)
        check_seed(seed)
        whole, score = score, without_keyswitches(score)
        switches = {t: frozenset(whole.tracks[t].notes) - set(score.tracks[t].notes) for t in region.tracks}
        locked = {t: [n for n in notes if n not in switches.get(t, ())] for t, notes in (locked or {}).items()}
        places = places_of(self.tokenizer, score, region, locked)
        blank = score.with_fill(region, {t: [] for t in region.tracks})
        asked = Rules(
            self.tokenizer,
            {is_drum: tables.sayable for is_drum, tables in self._tables.items()},
            score,
            blank,
            region=region,
            sampling=sampling,
            locked=locked,
            places=places,
            switches=switches,
        )
        memories = self._memories(score, blank, region, candidates, context_bars) if sampling.recall else None
        songs = [blank] * candidates
        fills: list[dict[int, list[Note]]] = [{t: [] for t in region.tracks} for _ in range(candidates)]
        rngs = [np.random.default_rng((seed, i)) for i in range(candidates)]
        runs = region.bar_runs()
        done = 0
        for number, (first, last) in enumerate(runs):
            unfilled = {c for c in region.cells if any(lo <= c.bar < hi for lo, hi in runs[number + 1 :])}
            targets = {b: region.tracks_in(b) for b in range(first, last)}
            session = _Session(
                self, self._prompts(songs, targets, unfilled, context_bars, len(score.bars), max(region.bars) + 1)
            )
            for place, plan in enumerate(session.prompts[0].bars):
                session.enter(place)
                for t in plan.targets:
                    b = plan.bar
                    track, span = score.tracks[t], score.bar(b)
                    lo = next(lo for lo, hi in region.bar_runs(t) if lo <= b < hi)
                    silent = [not any(n.onset_ticks >= score.bar(lo).start_ticks for n in f[t]) for f in fills]
                    rules = [self._rules(asked.cell(t, b, s), track.is_drum) for s in silent]
                    known = [m.cell(Cell(t, b)) for m in memories] if memories else [None] * candidates
                    written = session.write(t, rules, asked.told(t, b), rngs, known)
                    for memory, new_ids in zip(memories or (), written, strict=False):
                        memory.write(Cell(t, b), new_ids)
                    notes = [
                        self.tokenizer.decode_cell(ids, span, score.ticks_per_beat, is_drum=track.is_drum)
                        for ids in written
                    ]
                    notes = [in_the_manner_of(track, n) for n in notes]
                    for fill, new in zip(fills, notes, strict=True):
                        fill[t] += new
                    done += 1
                    if on_progress:
                        on_progress(Progress(done, len(region.cells), t, b, notes))
            settled = [
                {t: _settled(blank, region, t, notes, t in asked.single) for t, notes in fill.items()} for fill in fills
            ]
            so_far = {t: [n for n in ns if score.bar_of(t, n.onset_ticks) < last] for t, ns in locked.items()}
            settled = [with_locked(score, fill, so_far, asked.single) for fill in settled]
            songs = [_with_fills(blank, fill) for fill in settled]
        return [Candidate(whole.with_fill(region, fill), fill) for fill in settled]

    def _prompts(
        self,
        songs: Sequence[Score],
        targets: dict[int, tuple[int, ...]],
        unfilled: set[Cell],
        context_bars: int | None,
        n_bars: int,
        end: int,
    ) -> list[Prompt]:
        """One prompt a candidate; a single one where all candidates read the same."""
        distinct = songs if any(s is not songs[0] for s in songs) else songs[:1]
        prompts = []
        for song in distinct:
            ids = self.tokenizer.encode(song, [song.bar(i) for i in range(max(n_bars, end))])
            prompts.append(
                build_prompt(
                    self.tokens,
                    ids,
                    targets,
                    Shown(
                        masked=unfilled,
                        budget=prompt_budget(ids, targets, self.checkpoint.context),
                        context_bars=context_bars,
                        open_end=max(targets) >= n_bars,
                    ),
                    order=self.checkpoint.prompt,
                )
            )
        return prompts * (len(songs) if len(prompts) == 1 else 1)

    def _memories(
        self, score: Score, blank: Score, region: Region, candidates: int, context_bars: int | None
    ) -> list[SongMemory] | None:
        """Every candidate's own; None where the checkpoint has no recall weights. What stood in a cell before is to be
        replaced, so it is not taken from elsewhere either."""
        weights = self.checkpoint.recall
        if weights is None:
            return None
        bars = [score.bar(i) for i in range(max(len(score.bars), max(region.bars) + 1))]
        before = self.tokenizer.encode(score, bars)
        refused = {cell: ids for cell in region.cells if len(ids := before.cell(cell).tolist())}
        song = self.tokenizer.encode(blank, bars)
        reach = song.n_bars if context_bars is None else context_bars
        runs = [(lo - reach, hi + reach) for lo, hi in region.bar_runs()]
        ends = len(score.bars)  # what other tracks do after the song is not known
        unknown = [b for b in range(song.n_bars) if b >= ends or not any(lo <= b < hi for lo, hi in runs)]
        hidden = {*region.cells, *(Cell(t, b) for b in unknown for t in range(song.n_tracks))}
        memory = SongMemory(self.tokenizer, song, hidden, weights, end_id=self.tokens.fill_end, refused=refused)
        return [memory, *(memory.fork() for _ in range(candidates - 1))]

    def _rules(self, limits: CellLimits, is_drum: bool) -> CellRules:
        key = (is_drum, *limits.key)
        if key not in self._cell_rules:
            if len(self._cell_rules) >= MAX_KEPT_RULES:  # of a server that has been up for long
                self._cell_rules.clear()
            self._cell_rules[key] = CellRules(self._tables[is_drum], limits)
        return self._cell_rules[key]


class _Session:
    """The candidates' states while one run of bars is written."""

    def __init__(self, infiller: Infiller, prompts: list[Prompt]):
        self.engine, self.tokens, self.prompts, self.style = infiller.engine, infiller.tokens, prompts, infiller.style
        self.program_ids: list[int] = []  # of every track, in the bar that was entered
        self.pending = [p.asked + p.context for p in prompts]  # ids to read before the next cell, per candidate
        self.state: Rows | None = None  # a single row as long as all candidates have read the same
        if self.style.run is not None:
            self._read_context(self.style.run)

    def _read_context(self, run: np.ndarray) -> None:
        """Read what stands before the run, and put the style there."""
        distinct = self.prompts if any(p is not self.prompts[0] for p in self.prompts) else self.prompts[:1]
        contexts = [p.asked + p.context[:-1] for p in distinct]
        _, state = read_from(self.engine, self.engine.new_state(1, self.style.wkv), contexts)
        state.wkv += run[:, None]
        self.state = state
        self.pending = [p.context[-1:] for p in self.prompts]

    def enter(self, number: int) -> None:
        """Queue what is given in the prompt's `number`-th plan."""
        self.program_ids = self.prompts[0].bars[number].program_ids
        self.pending = [ids + p.bars[number].given for ids, p in zip(self.pending, self.prompts, strict=True)]

    def write(
        self,
        track: int,
        rules: Sequence[CellRules],
        sampling: SamplingConfig,
        rngs: Sequence[np.random.Generator],
        memories: Sequence[CellMemory | None],
    ) -> list[list[int]]:
        """Write one cell for every candidate, each under its own rules; ids of the notes of each."""
        logits, state = self._read([*ids, self.program_ids[track], self.tokens.fill_start] for ids in self.pending)
        self.pending = [[self.tokens.fill_end] for _ in self.prompts]
        writers = [
            CellWriter(own, self.tokens, sampling, rng, memory=memory)
            for own, rng, memory in zip(rules, rngs, memories, strict=True)
        ]
        active = list(range(len(writers)))  # candidates still writing; `running` holds their states in this order
        finished: list[tuple[int, Rows]] = []
        running = state
        while True:
            chosen = [writers[i].choose(row) for i, row in zip(active, logits, strict=True)]
            going = [k for k, i in enumerate(active) if not writers[i].done]
            if len(going) < len(active):
                finished += [(i, running.select([k])) for k, i in enumerate(active) if writers[i].done]
                if not going:
                    break
                running, active, chosen = running.select(going), [active[k] for k in going], [chosen[k] for k in going]
            logits = self.engine.step(np.array(chosen), running)
        self.state = type(state).concat([s for _, s in sorted(finished, key=lambda pair: pair[0])])
        return [w.ids for w in writers]

    def _read(self, lists: Iterable[list[int]]) -> tuple[np.ndarray, Rows]:
        """Advance every candidate by its own ids."""
        lists = list(lists)
        state = self.state or self.engine.new_state(1, self.style.wkv)
        if state.batch < len(lists):  # all have read the same so far
            return read_from(self.engine, state, lists)
        if all(ids == lists[0] for ids in lists):
            return self.engine.prefill(lists[0], state), state
        rows = [state.select([i]) for i in range(len(lists))]
        logits = np.concatenate([self.engine.prefill(ids, row) for ids, row in zip(lists, rows, strict=True)])
        return logits, type(state).concat(rows)


def infill(
    score: Score,
    region: Region,
    checkpoint: Checkpoint | None = None,
    sampling: SamplingConfig | None = None,
    *,
    candidates: int = 1,
    seed: int = 0,
    context_bars: int | None = None,
    backend: str = "auto",
    threads: int = 1,
    on_progress: Callable[[Progress], None] | None = None,
    style: Style | str | None = None,
    precision: str = "auto",
    locked: Mapping[int, Sequence[Note]] | None = None,
) -> list[Candidate]:
    """Write the cells of a region anew, `candidates` times.

    checkpoint: the one that ships where None. style: what `find_style` gives, or its text: a name, a path, or a blend
    such as "mine:0.7,bach:0.3". context_bars: read at most so many bars on each side (None: as many as the model was
    trained to read, and all of them for recall). locked: by track index, notes that begin inside the region and are to
    stay; the model writes around them, and they are in the fill as they are. backend, threads, precision: see
    `make_engine`. on_progress is called after each cell. The same arguments and seed give the same notes. Raises
    RequestError on a region outside the score, or a locked note outside the region.
    To fill more than once, keep an `Infiller`.
    """
    checkpoint = checkpoint or load_checkpoint()
    found = find_style(style, checkpoint) if isinstance(style, str) else style
    infiller = Infiller(checkpoint, backend=backend, threads=threads, style=found, precision=precision)
    return infiller(
        score,
        region,
        sampling,
        candidates=candidates,
        seed=seed,
        context_bars=context_bars,
        on_progress=on_progress,
        locked=locked,
    )


def _check(score: Score, region: Region, candidates: int) -> None:
    if not 1 <= candidates <= MAX_CANDIDATES:
        raise RequestError(f"candidates must be 1-{MAX_CANDIDATES}, got {candidates}")
    if not 0 <= region.tracks[0] <= region.tracks[-1] < len(score.tracks):
        raise RequestError(f"tracks must be 0-{len(score.tracks) - 1}, got {region.tracks[0]}-{region.tracks[-1]}")
    end = len(score.bars) + MAX_REGION_BARS
    if not 0 <= region.bars[0] <= region.bars[-1] < end:
        raise RequestError(f"bars must be 0-{end - 1}, got {region.bars[0]}-{region.bars[-1]}")


def _settled(blank: Score, region: Region, track: int, notes: Sequence[Note], single: bool) -> list[Note]:
    """The notes as the splice will have them: ended by their run, and by kept or later notes of their pitch; on a track
    that plays one note at a time, of any pitch."""
    busy: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for n in blank.tracks[track].notes:
        busy[n.pitch].append((n.onset_ticks, n.onset_ticks + n.duration_ticks))
    settled = settle(notes, masked_runs(blank, region, track), busy)
    if not single:
        return settled
    apart = one_at_a_time(settled, blank.tracks[track].notes, blank.ticks_per_beat)
    return [n for n in apart if (track, blank.bar_of(track, n.onset_ticks)) in region.cells]  # some wait their turn


def _with_fills(blank: Score, fills: dict[int, list[Note]]) -> Score:
    for track, notes in fills.items():
        blank = blank.with_notes(track, [*blank.tracks[track].notes, *notes])
    return blank
