"""The model's side of a run of bars: one state per candidate, read and written together as one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from midi_rwkv.engine.engine import Floats, TokenEngine
from midi_rwkv.engine.prefix import read_from
from midi_rwkv.model.rows import Rows
from midi_rwkv.style.style import Style
from midi_rwkv.tokens.prompt import Prompt, PromptTokens

from .sample import CellWriter


class Session:
    """The candidates' states while one run of bars is written."""

    def __init__(self, engine: TokenEngine[Any], tokens: PromptTokens, style: Style, prompts: Sequence[Prompt]):
        """`prompts` has one per candidate; candidates that read the same share one object."""
        self.engine, self.tokens, self.style, self.prompts = engine, tokens, style, prompts
        self.program_ids: list[int] = []  # of every track, in the bar that was entered
        self.pending = [p.asked + p.context for p in prompts]  # tokens to read before the next cell, per candidate
        self.state: Rows | None = None  # a single row as long as all candidates have read the same
        if style.run is not None:
            self._read_context(style.run)

    def _read_context(self, run: np.ndarray) -> None:
        """Reads everything before the run, and adds the style to the state there."""
        distinct = self.prompts if any(p is not self.prompts[0] for p in self.prompts) else self.prompts[:1]
        contexts = [p.asked + p.context[:-1] for p in distinct]
        _, state = read_from(self.engine, self.engine.new_state(1, self.style.wkv), contexts)
        state.wkv += run[:, None]
        self.state = state
        self.pending = [p.context[-1:] for p in self.prompts]

    def enter(self, number: int) -> None:
        """Queues the given tokens of the prompt's `number`-th plan."""
        self.program_ids = self.prompts[0].bars[number].program_ids
        self.pending = [ids + p.bars[number].given for ids, p in zip(self.pending, self.prompts, strict=True)]

    def write(self, track: int, writers: Sequence[CellWriter]) -> list[list[int]]:
        """Writes one cell of the entered bar, with one writer per candidate. Returns the tokens of each one's notes."""
        logits, state = self._read([[*ids, self.program_ids[track], self.tokens.fill_start] for ids in self.pending])
        self.pending = [[self.tokens.fill_end] for _ in self.prompts]
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

    def _read(self, lists: Sequence[list[int]]) -> tuple[Floats, Rows]:
        """Advances every candidate by its own tokens."""
        state = self.state or self.engine.new_state(1, self.style.wkv)
        if state.batch < len(lists):  # all have read the same so far
            return read_from(self.engine, state, lists)
        if all(ids == lists[0] for ids in lists):
            return self.engine.prefill(lists[0], state), state
        rows = [state.select([i]) for i in range(len(lists))]
        logits = np.concatenate([self.engine.prefill(ids, row) for ids, row in zip(lists, rows, strict=True)])
        return logits, type(state).concat(rows)
