"""Outlines: the notes of a cell without their velocities, as a source for recall (recall.py).

A bar that a person played returns with the same notes and other velocities, so that it looks new token by token. Each
source is therefore also followed note by note: it continues with its first note after the last one written, whatever
came before. This allows several ids, because an id may stand for one base token or for many: all those whose base
tokens, with any velocity, begin the source's continuation. The model decides among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from .tokenizer import Kind, Tokenizer

ANY_VELOCITY, END = -1, -2  # symbols in addition to the base tokens
FAR = 1 << 30  # a note behind all others
MOST_COUNTED = 8  # more notes shared, missing or left out make no difference
MOST_CACHED = 50_000


class OutlineTables:
    """A vocabulary's ids as symbols: base tokens, with one symbol for all velocities and one for the end of a cell."""

    def __init__(self, tokenizer: Tokenizer, end_id: int):
        self.kind = tokenizer.base_kind.tolist()
        self.value = tokenizer.base_value.tolist()
        self.symbols: list[tuple[int, ...]] = [
            tuple(ANY_VELOCITY if self.kind[b] == Kind.VELOCITY else b for b in parts) for parts in tokenizer.expansions
        ]
        self.symbols[end_id] = (END,)
        self._root: dict[int, Any] = {}
        self._ids_at: dict[int, list[int]] = {}  # by node
        for i, symbols in enumerate(self.symbols):
            if i == end_id or self._in_cells(tokenizer, i):
                node = self._root
                for symbol in symbols:
                    node = node.setdefault(symbol, {})
                self._ids_at.setdefault(id(node), []).append(i)
        self.longest = max(map(len, self.symbols))
        self._cache: dict[tuple[int, ...], np.ndarray] = {}

    def _in_cells(self, tokenizer: Tokenizer, i: int) -> bool:
        parts = tokenizer.expansions[i]
        return bool(parts) and not tokenizer.opens_word[i] and all(self.kind[b] != Kind.OTHER for b in parts)

    def ids_that_begin(self, symbols: tuple[int, ...]) -> np.ndarray:
        """All ids whose symbols are the beginning of these."""
        found = self._cache.get(symbols)
        if found is None:
            node, ids = self._root, list[int]()
            for symbol in symbols:
                if symbol not in node:
                    break
                node = node[symbol]
                ids += self._ids_at.get(id(node), ())
            if len(self._cache) >= MOST_CACHED:  # for servers that run for a long time
                self._cache.clear()
            found = self._cache[symbols] = np.array(ids, np.int64)
        return found


@lru_cache(maxsize=4)
def outline_tables(tokenizer: Tokenizer, end_id: int) -> OutlineTables:
    """The tables of a tokenizer, made once."""
    return OutlineTables(tokenizer, end_id)


@dataclass
class OutlineVotes:
    """What the sources say that have anything to say, (sources,): which of `ids` each allows, and how far it agrees:
    notes of it that are written, notes written that it doesn't have, notes of it that were passed over, and whether the
    last note written was the one it had next. n_notes: written so far."""

    source: np.ndarray  # row among all sources
    choice: np.ndarray
    ids: list[np.ndarray]
    hits: np.ndarray
    missing: np.ndarray
    passed: np.ndarray
    kept_up: np.ndarray  # bool
    phase: int | None  # Kind of what was written last, None at the start

    def columns(self, like: np.ndarray, twin: np.ndarray) -> np.ndarray:
        """(sources that vote, columns of `recall_mix.OUTLINE`). like, twin: of all sources."""
        own = self.source
        return np.stack([like[own], self.hits, self.missing, self.passed, self.kept_up, twin[own]], 1)


class CellOutlines:
    """The sources of one cell, which are followed while it is written."""

    def __init__(self, tables: OutlineTables, sources: Sequence[Sequence[int]]):
        """`sources` are the ids of cells, each with the end id."""
        self.tables = tables
        self._symbols = [[s for i in ids for s in tables.symbols[i]] for ids in sources]
        notes = [self._notes(symbols) for symbols in self._symbols]
        shape = len(sources), max((len(n) for n in notes), default=0) + 1
        self._keys = np.full(shape, FAR)  # position * 128 + pitch, rising
        # The index of each note and of its Position among the symbols; then the end.
        self._at, self._above = (np.tile([[len(s) - 1] for s in self._symbols] or [[0]], shape[1]) for _ in range(2))
        for row, found in enumerate(notes):
            if found:
                self._keys[row, : len(found)], self._at[row, : len(found)], self._above[row, : len(found)] = zip(
                    *found, strict=True
                )
        self._rows = np.arange(shape[0])
        durations = (s >= 0 and tables.kind[s] == Kind.DURATION for symbols in self._symbols for s in symbols)
        self._note_ends = (None, Kind.DURATION) if any(durations) else (None, Kind.DURATION, Kind.VELOCITY)
        self._choices: dict[tuple[int, int], int] = {}  # (row, place) -> which of `_ids`
        self._number: dict[tuple[int, ...], int] = {}
        self._ids: list[np.ndarray] = []
        self.n_notes = 0
        self.phase: int | None = None
        self.position = self.pitch = -1
        self.hits = np.zeros(shape[0], int)
        self.kept_up = np.ones(shape[0], bool)
        self._next = np.zeros(shape[0], int)  # the note of each source that comes after the last one written

    def _notes(self, symbols: Sequence[int]) -> list[tuple[int, int, int]]:
        """(key, its place, the place of its Position) of each note."""
        kind, value = self.tables.kind, self.tables.value
        found, position, above = [], 0, 0
        for place, symbol in enumerate(symbols):
            if symbol >= 0 and kind[symbol] == Kind.POSITION:
                position, above = value[symbol], place
            elif symbol >= 0 and kind[symbol] == Kind.PITCH:
                found.append((position * 128 + value[symbol], place, above))
        return found

    def take(self, written: int) -> None:
        """Reads the id that was written."""
        for symbol in self.tables.symbols[written]:
            if symbol == ANY_VELOCITY:
                self.phase = Kind.VELOCITY
            elif symbol >= 0:
                self.phase = self.tables.kind[symbol]
                if self.phase == Kind.POSITION:
                    self.position, self.pitch = self.tables.value[symbol], -1
                elif self.phase == Kind.PITCH:
                    self._take_note(self.tables.value[symbol])

    def _take_note(self, pitch: int) -> None:
        self.pitch = pitch
        after = (self._keys <= self.position * 128 + pitch).sum(1)
        hit = (after > 0) & (self._keys[self._rows, after - 1] == self.position * 128 + pitch)
        self.kept_up = hit & (after == self._next + 1)
        self._next = after
        self.hits = self.hits + hit
        self.n_notes += 1

    def votes(self) -> OutlineVotes:
        """The votes of the sources that have one."""
        position, rows = self.position, self._rows
        if self.phase in self._note_ends:
            note = passed = self._next
            here = self._keys[rows, note] >> 7 == position
            place, able = np.where(here, self._at[rows, note], self._above[rows, note]), None
        elif self.phase == Kind.POSITION:
            note = passed = (self._keys < position * 128).sum(1)
            able = self._keys[rows, note] >> 7 == position
            place = self._at[rows, note]
        else:
            note, passed = np.maximum(self._next - 1, 0), self._next
            able = self._keys[rows, note] == position * 128 + self.pitch
            place = self._at[rows, note] + (1 if self.phase == Kind.PITCH else 2)
        source = rows if able is None else np.flatnonzero(able)
        choice = [self._choice(row, at) for row, at in zip(source.tolist(), place[source].tolist(), strict=True)]
        hits = self.hits[source]
        return OutlineVotes(
            source,
            np.array(choice, int),
            self._ids,
            np.minimum(hits, MOST_COUNTED),
            np.minimum(self.n_notes - hits, MOST_COUNTED),
            np.clip(passed[source] - hits, 0, MOST_COUNTED),
            self.kept_up[source],
            self.phase,
        )

    def _choice(self, row: int, place: int) -> int:
        """Which of `_ids` a source allows that goes on at a place of its own."""
        found = self._choices.get((row, place))
        if found is None:
            symbols = tuple(self._symbols[row][place : place + self.tables.longest])
            found = self._number.setdefault(symbols, len(self._ids))
            if found == len(self._ids):
                self._ids.append(self.tables.ids_that_begin(symbols))
            self._choices[row, place] = found
        return found
