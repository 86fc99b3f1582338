"""The request for a fill: one object that the command, the page and the Python API all build."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field

from midi_rwkv.errors import RequestError
from midi_rwkv.model.config import SamplingConfig, check_seed
from midi_rwkv.score.score import Note, Region, Score

MAX_REGION_BARS = 512
MAX_CANDIDATES = 64


@dataclass(frozen=True)
class Ask:
    """The cells to rewrite, how many times, and within what limits.

    Args:
        region: the cells.
        sampling: how notes are sampled, and the limits that they must meet.
        candidates: how many answers to write, 1-64.
        seed: the same ask and seed give the same notes.
        context_bars: read at most this many bars on each side of the region; None reads as many as the model was
            trained to read, and all of them to follow.
        locked: by track index, notes that begin inside the region and stay. The model writes around them, and the fill
            contains them unchanged.

    Raises:
        RequestError: the number of candidates or bars, or the seed, is out of range.
    """

    region: Region
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    _: KW_ONLY
    candidates: int = 1
    seed: int = 0
    context_bars: int | None = None
    locked: Mapping[int, Sequence[Note]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 1 <= self.candidates <= MAX_CANDIDATES:
            raise RequestError(f"candidates must be 1-{MAX_CANDIDATES}, got {self.candidates}")
        check_seed(self.seed)
        if self.context_bars is not None and self.context_bars < 0:
            raise RequestError(f"context_bars must be 0 or more, got {self.context_bars}")

    def check(self, score: Score) -> None:
        """Raises RequestError if the region does not fit the score, or a locked note is outside the region."""
        tracks, bars = self.region.tracks, self.region.bars
        if not 0 <= tracks[0] <= tracks[-1] < len(score.tracks):
            raise RequestError(f"tracks must be 0-{len(score.tracks) - 1}, got {tracks[0]}-{tracks[-1]}")
        end = len(score.bars) + MAX_REGION_BARS
        if not 0 <= bars[0] <= bars[-1] < end:
            raise RequestError(f"bars must be 0-{end - 1}, got {bars[0]}-{bars[-1]}")
        for t, notes in self.locked.items():
            for n in notes:
                if t not in tracks or (t, score.bar_of(t, n.onset_ticks)) not in self.region.cells:
                    raise RequestError(
                        f"a locked note must begin inside the region, got one at tick {n.onset_ticks} of track {t}"
                    )
