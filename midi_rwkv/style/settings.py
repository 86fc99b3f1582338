"""The settings in which a style is measured: how much of a song stands around the bars that are asked for.

| setting | what is shown |
|---|---|
| whole song | everything but the cells to write |
| sketch | four bars before the region and nothing after it |
| new track | everything but the asked tracks, of which no bar is shown |
| continuation | everything before the region and nothing after it |

In each of them the song's own cells are followed as a user's are, as far as they are shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from midi_rwkv.training.rows import Question

from .pieces import Piece, draw_fills

if TYPE_CHECKING:
    import numpy as np

    from midi_rwkv.tokens.attributes import Vocabulary
    from midi_rwkv.tokens.memory import PieceCells

WHOLE_SONG = "whole song"
SETTINGS = {
    WHOLE_SONG: Question(),
    "sketch": Question(before=4, after=0, open_end=True),
    "new track": Question(absent=True),
    "continuation": Question(after=0, open_end=True),
}
LITTLE_SHOWN = tuple(name for name in SETTINGS if name != WHOLE_SONG)


def draw_in_settings(  # noqa: PLR0913 -- how to draw, by name
    units: Sequence[tuple[Piece, tuple[int, int]]],
    vocabulary: Vocabulary,
    *,
    count: int,
    seed: int,
    held_out: bool,
    budget: int,
    memory: Callable[[int], Sequence[PieceCells]] | None = None,
) -> Iterator[tuple[str, int, np.ndarray]]:
    """(setting, unit, sample) of `count` fills, the settings in equal shares. The rest is as in `draw_fills`."""
    for number, (name, question) in enumerate(SETTINGS.items()):
        share = count * (number + 1) // len(SETTINGS) - count * number // len(SETTINGS)
        drawn = draw_fills(
            units,
            vocabulary,
            count=share,
            seed=seed * len(SETTINGS) + number,
            held_out=held_out,
            budget=budget,
            question=question,
            first=number * share,
            memory=memory,
        )
        for unit, sample in drawn:
            yield name, unit, sample
