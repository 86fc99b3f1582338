"""What styles are measured on: fills of pieces that nothing was learned from, in every setting, read once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

TEST_SEED = 1000


@dataclass(frozen=True)
class MeasuredFill:
    """A fill, and where it is from."""

    setting: str
    piece: str
    sample: np.ndarray  # (n, columns)
    read: Any  # the `tuning.Fill` of the sample, read up to its first cell


def style_names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if (p / "tune").is_dir())


def read_fills(pieces: Sequence[Any], count: int, remembered: Sequence[Any] = ()) -> list[MeasuredFill]:
    """`count` fills of pieces in all, the settings in equal shares, with the context that a fill would read.

    remembered: pieces that are a memory.
    """
    from midi_rwkv.model.checkpoint import load_checkpoint
    from midi_rwkv.style.adapters import read_samples
    from midi_rwkv.style.settings import draw_in_settings
    from midi_rwkv.tokens.memory import PieceCells
    from midi_rwkv.tokens.notes import encode

    checkpoint = load_checkpoint()
    cells = [PieceCells(encode(checkpoint.vocabulary, p.score)) for p in remembered]
    units = [(p, (0, len(p.score.bars))) for p in pieces]
    found = draw_in_settings(
        units,
        checkpoint.vocabulary,
        count=count,
        seed=TEST_SEED,
        held_out=True,
        budget=checkpoint.context,
        memory=(lambda _: cells) if cells else None,
    )
    return [
        MeasuredFill(setting, pieces[unit].name, sample, read_samples(checkpoint, [sample])[0])
        for setting, unit, sample in found
    ]


@lru_cache(2)
def test_fills(folder: Path, style: str, per_setting: int, remembered: int) -> list[MeasuredFill]:
    """Of a style's test pieces. remembered: so many of its other pieces are a memory."""
    from midi_rwkv.style.pieces import read_pieces
    from midi_rwkv.style.settings import SETTINGS

    files = sorted((folder / style / "tune").glob("*.mid"))[:remembered]
    memory = read_pieces(files)[0] if files else ()
    return read_fills(read_pieces([folder / style / "test"])[0], per_setting * len(SETTINGS), memory)


@lru_cache(1)
def frozen_model() -> Any:
    from midi_rwkv.model.checkpoint import load_checkpoint
    from midi_rwkv.model.step_checkpoint import step_model_of

    return step_model_of(load_checkpoint()).requires_grad_(requires_grad=False)
