"""A token n-gram with interpolated modified Kneser-Ney smoothing, as a probability and as an engine that can write.

It is the simple model that a network must beat: it knows the last four tokens and nothing else of the song.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from midi_rwkv.engine.engine import Floats, check_tokens
from midi_rwkv.files import whole_file
from midi_rwkv.model.rows import Rows
from midi_rwkv.training.dataset import FILL, NOT_MUSIC, Sample, TrainingRows

ORDER = 5


class NGram:
    """P(token | the last `order` - 1 tokens), interpolated modified Kneser-Ney; order 1 is the add-one unigram.

    An n-gram is numbered by its place among the sorted keys `number of its first n - 1 tokens * vocabulary + last
    token`, so nothing is hashed, and every context of order n is an n-gram of order n - 1.
    """

    def __init__(self, ids: np.ndarray, counted: np.ndarray, vocab_size: int, order: int = ORDER):
        """`ids` is the stream (n,); `counted` (n,) bool says which of them are predicted rather than only context."""
        self.vocab_size, self.order = vocab_size, order
        number = ids.astype(np.int32)
        counts = [np.bincount(ids, counted, vocab_size)]
        self.keys = [np.arange(vocab_size)]
        for n in range(2, order + 1):  # number[i]: which n-gram ends at stream position i + n - 1
            key = number[:-1] * np.int64(vocab_size) + ids[n - 1 :]
            shorter = number[1:]
            unique, first, longer = np.unique(key, return_index=True, return_inverse=True)
            del key
            count = np.bincount(longer, counted[n - 1 :], len(unique))
            # All orders but the highest count the number of different contexts.
            counts[-1] = np.bincount(shorter[first[count > 0]], minlength=len(counts[-1])).astype(np.float64)
            counts.append(count)
            self.keys.append(unique)
            number = longer.astype(np.int32)
        if order == 1:
            self.unigram = (counts[0] + 1) / (counts[0].sum() + vocab_size)
            return
        self.kept: list[np.ndarray] = []  # per n-gram: its count, discounted
        self.total: list[np.ndarray] = []  # per context: the sum of the counts
        self.spread: list[np.ndarray] = []  # per context: the discounted mass, for the shorter context
        for n in range(1, order + 1):
            count = counts[n - 1]
            discount = discounts(count)[np.minimum(count, 3).astype(np.int64)]
            context = self.keys[n - 1] // vocab_size
            size = len(self.keys[n - 2]) if n > 1 else 1
            self.kept.append((count - discount).astype(np.float32))
            self.total.append(np.bincount(context, count, size))
            # Computed from the stored values, so that the sum is 1 whatever the rounding.
            self.spread.append(self.total[-1] - np.bincount(context, self.kept[-1], size))

    def save(self, folder: Path) -> None:
        """Writes plain arrays into a folder, which several processes can map at once."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("keys", "kept", "total", "spread"):
            for n, array in enumerate(getattr(self, name)):
                with whole_file(folder / f"{name}{n}.npy") as partial, partial.open("wb") as file:
                    np.save(file, array)
        shape = {"vocab_size": self.vocab_size, "order": self.order}
        with whole_file(folder / "shape.json") as partial:
            partial.write_text(json.dumps(shape), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Maps an n-gram from disk that `save` wrote."""
        model = cls.__new__(cls)
        shape = json.loads((folder / "shape.json").read_text(encoding="utf-8"))
        model.vocab_size, model.order = shape["vocab_size"], shape["order"]
        for name in ("keys", "kept", "total", "spread"):
            arrays = [np.load(folder / f"{name}{n}.npy", mmap_mode="r") for n in range(model.order)]
            setattr(model, name, arrays)
        return model

    def _find(self, n: int, prefix: np.ndarray, last: np.ndarray) -> np.ndarray:
        """Numbers of the n-grams `prefix` (a number of order n - 1) + `last`, or -1 for those never seen."""
        keys = self.keys[n - 1]
        key = prefix.astype(np.int64) * self.vocab_size + last
        at = np.minimum(np.searchsorted(keys, key), len(keys) - 1)
        numbers: np.ndarray = np.where((prefix >= 0) & (keys[at] == key), at, -1)
        return numbers

    def probability(self, grams: np.ndarray) -> np.ndarray:
        """(Q,) probabilities of the tokens in the last column of `grams` (Q, order), given those before."""
        if self.order == 1:
            p: np.ndarray = self.unigram[grams[:, -1]]
            return p
        p = np.full(len(grams), 1 / self.vocab_size)
        for n in range(1, self.order + 1):
            columns = grams[:, self.order - n :]
            context = np.zeros(len(grams), np.int64) if n == 1 else columns[:, 0]
            for m in range(1, n - 1):
                context = self._find(m + 1, context, columns[:, m])
            gram = columns[:, 0] if n == 1 else self._find(n, context, columns[:, -1])
            total = np.where(context >= 0, self.total[n - 1][context], 0)
            kept = np.where(gram >= 0, self.kept[n - 1][gram], 0)
            seen = total > 0
            p[seen] = ((kept + self.spread[n - 1][context] * p) / np.where(seen, total, 1))[seen]
        return p

    def distribution(self, context: np.ndarray) -> np.ndarray:
        """(vocabulary,) probabilities of all tokens after one context (order - 1,)."""
        V = self.vocab_size
        p = np.full(V, 1 / V)
        for n in range(1, self.order + 1):
            number = np.zeros(1, np.int64)
            if n > 1:
                tail = context[len(context) - n + 1 :].reshape(-1, 1).astype(np.int64)
                number = tail[0]
                for m in range(1, n - 1):
                    number = self._find(m + 1, number, tail[m])
            at = int(number[0])
            if at < 0 or not self.total[n - 1][at] > 0:
                continue
            keys = self.keys[n - 1]
            low, high = np.searchsorted(keys, [at * V, (at + 1) * V])
            p *= self.spread[n - 1][at] / self.total[n - 1][at]
            p[keys[low:high] - at * V] += self.kept[n - 1][low:high] / self.total[n - 1][at]
        return p


def discounts(count: np.ndarray) -> np.ndarray:
    """(4,) discounts for n-grams seen never, once, twice and more often; 0.75 if there are too few data."""
    n1, n2, n3, n4 = (float((count == c).sum()) for c in (1, 2, 3, 4))
    if not n1 * n2 * n3 * n4:
        return np.array([0, 0.75, 0.75, 0.75])
    y = n1 / (n1 + 2 * n2)
    return np.array([0, *np.clip([1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3], 0.05, [1, 2, 3])])


def sampled_stream(rows: TrainingRows, tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """The first `tokens` tokens that the trainer would see, and which of them count in its loss."""
    count = -(-tokens // rows.seq_len)
    ids = np.full((count, rows.seq_len + 1), rows.pad, np.uint16)
    counted = np.zeros(ids.shape, bool)
    for i in range(count):
        ids[i], roles, _ = rows[i]
        counted[i] = roles != NOT_MUSIC
    return ids.ravel(), counted.ravel()


def fill_grams(samples: Sequence[Sample], order: int = ORDER) -> tuple[np.ndarray, np.ndarray]:
    """(Q, order) each fill token after its context, and (Q,) the sample that it belongs to."""
    grams, owner = [], []
    for number, sample in enumerate(samples):
        windows = np.lib.stride_tricks.sliding_window_view(np.array(sample.ids), order)
        chosen = windows[np.array(sample.roles)[order - 1 :] == FILL]
        grams.append(chosen)
        owner.append(np.full(len(chosen), number))
    return np.concatenate(grams), np.concatenate(owner)


@dataclass
class LastIds(Rows):
    """The state of an n-gram: the last tokens (B, order - 1)."""

    ids: np.ndarray

    @property
    def batch(self) -> int:
        return len(self.ids)

    def select(self, rows: ArrayLike) -> LastIds:
        return LastIds(self.ids[np.asarray(rows, np.intp)])

    @classmethod
    def concat(cls, states: Sequence[LastIds]) -> LastIds:
        return cls(np.concatenate([s.ids for s in states]))


class NGramEngine:
    """A `TokenEngine` in which an n-gram writes through the same prompt, grammar and sampling as the model."""

    name = "n-gram"
    block_tokens = 128

    def __init__(self, model: NGram) -> None:
        self.model, self.vocab_size = model, model.vocab_size

    def new_state(self, batch: int = 1, wkv0: Floats | None = None) -> LastIds:
        if wkv0 is not None:
            raise ValueError("an n-gram has no state that could be tuned")
        return LastIds(np.zeros((batch, self.model.order - 1), np.int64))

    def prefill(self, tokens: Sequence[int], state: LastIds) -> Floats:
        ids = np.tile(check_tokens(tokens, self.vocab_size), (state.batch, 1))
        return self._read(ids, state)

    def step(self, tokens: ArrayLike, state: LastIds) -> Floats:
        return self._read(check_tokens(tokens, self.vocab_size, state.batch)[:, None], state)

    def _read(self, ids: np.ndarray, state: LastIds) -> Floats:
        width = state.ids.shape[1]
        both = np.concatenate([state.ids, ids], 1)
        state.ids = both[:, both.shape[1] - width :]
        return np.log([self.model.distribution(row) for row in state.ids]).astype(np.float32)
