"""Where the notes of a fill come from: bars of the song, and runs of notes that the training music, or the pieces that
a style was learned from, have too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from midi_rwkv.model.step_checkpoint import StepCheckpoint
from midi_rwkv.score.score import Cell, Note, Score
from midi_rwkv.style.style import Style
from midi_rwkv.tokens.layout import EMPTY

from .ask import Ask
from .blank import blank_cells
from .encoder import Encoder
from .fingerprint import FILE, load_fingerprint, make_fingerprint
from .quotes import SharedRun, longest_run, quoted_bars


@dataclass(frozen=True)
class Origin:
    """Where one candidate's notes come from.

    Attributes:
        bars: by written cell, the indices of the bars of its track that it quotes, the most alike first.
        shared: by track, the longest run that the training music has too; None where the checkpoint has no fingerprint
            of that.
        own: by track, the longest run that the style's pieces have too; None without a style.
    """

    bars: Mapping[Cell, Sequence[int]]
    shared: Mapping[int, SharedRun] | None
    own: Mapping[int, SharedRun] | None = None

    @property
    def longest(self) -> int:
        """Notes of the longest run of new notes that the training music has too; 0 where none is known."""
        return _longest(self.shared)

    @property
    def longest_own(self) -> int:
        """Notes of the longest run of new notes that the style's pieces have too."""
        return _longest(self.own)

    def told(self, first_bar_number: int) -> dict[str, Any]:
        """The same for a report in JSON; tracks and bars by number."""
        quoted = [
            {"track": c.track + 1, "bar": c.bar + first_bar_number, "of": [b + first_bar_number for b in bars]}
            for c, bars in self.bars.items()
            if bars
        ]
        return {"quoted_bars": quoted, "training_run": _runs(self.shared), "style_run": _runs(self.own)}


def _runs(shared: Mapping[int, SharedRun] | None) -> list[dict[str, int]] | None:
    """The longest run of each track; None where nothing is known."""
    if shared is None:
        return None
    return [{"track": t + 1, "new": run.alone, "with_context": run.around} for t, run in shared.items()]


def _longest(runs: Mapping[int, SharedRun] | None) -> int:
    return max((run.alone for run in (runs or {}).values()), default=0)


def origins(
    checkpoint: StepCheckpoint,
    score: Score,
    ask: Ask,
    fills: Sequence[Mapping[int, Sequence[Note]]],
    style: Style | None = None,
) -> list[Origin]:
    """The origin of each candidate's fills that answer an ask. Raises CheckpointError if the fingerprint is damaged."""
    encoder = Encoder(checkpoint.vocabulary)
    blanked = blank_cells(encoder, score, ask)
    path = checkpoint.path / FILE
    fingerprint = load_fingerprint(path) if path.exists() else None
    of_pieces = make_fingerprint(song for song, _ in style.pieces) if style and style.pieces else None
    cells = sorted(blanked.ask.region.cells)
    kept = {cell: blanked.kept.get(cell, EMPTY) for cell in cells}
    found = []
    for fill in fills:
        music = blanked.score.with_fill(blanked.region, fill)
        song = encoder.encode(music, blanked.bars)
        written = {cell: song.cell(*cell) for cell in cells}
        shared, own = (longest_run(f, song, kept) if f else None for f in (fingerprint, of_pieces))
        found.append(Origin(quoted_bars(blanked.song, written), shared, own))
    return found
