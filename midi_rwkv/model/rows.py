"""What a model remembers of the tokens so far, whichever model and engine it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import ArrayLike


class Rows(ABC):
    """All that a model remembers of the tokens so far, one row a candidate. Engines write it in place."""

    @property
    @abstractmethod
    def batch(self) -> int:
        """How many rows."""

    @abstractmethod
    def select(self, rows: ArrayLike) -> Self:
        """A copy of some rows, in that order; a row may be taken more than once."""

    @classmethod
    @abstractmethod
    def concat(cls, states: Sequence[Self]) -> Self:
        """The rows of several states, one state after another."""

    def copy(self) -> Self:
        return self.select(np.arange(self.batch))

    def repeat(self, count: int) -> Self:
        """Each row `count` times, one after another."""
        return self.select(np.repeat(np.arange(self.batch), count))
