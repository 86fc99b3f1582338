"""Markdown tables, as the scripts print them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def markdown(head: Sequence[Any], rows: Sequence[Sequence[Any]]) -> str:
    """A table: the first column is text, the others are numbers. Floats get three digits."""
    cells = [[f"{v:.3f}" if isinstance(v, float) else str(v) for v in row] for row in (head, *rows)]
    cells.insert(1, ["---"] + ["---:"] * (len(head) - 1))
    return "\n".join("| " + " | ".join(row) + " |" for row in cells)
