"""The feel of a fill: its timing and velocities, as the track itself has them elsewhere (score/groove.py)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from midi_rwkv.errors import RequestError
from midi_rwkv.score.groove import Groove, Stroke, Taken, strokes
from midi_rwkv.score.score import Cell, Note
from midi_rwkv.tokens.notes import BarGrid

from .blank import Blanked

MayBegin = Callable[[int, int], bool]  # tick, pitch


class Feel:
    """How the new notes of each track are played."""

    def __init__(self, blanked: Blanked):
        """Raises RequestError if bars to take the feel from are outside the song, or a track is silent in them."""
        self.score, self.ask = blanked.score, blanked.ask
        self._grooves: dict[int, Groove] = {}
        feel, count, first = self.ask.feel, len(self.score.bars), self.score.first_bar_number
        self._source = blanked.blank if isinstance(feel, str) else blanked.score
        self._bars = range(count) if isinstance(feel, str) else sorted({b for span in feel for b in range(*span)})
        if isinstance(feel, str):
            return
        if not (self._bars and 0 <= self._bars[0] <= self._bars[-1] < count):
            given = ", ".join(f"{lo + first}-{hi - 1 + first}" for lo, hi in feel)
            raise RequestError(f"feel must name bars among {first}-{self.score.last_bar_number}, got {given or 'none'}")
        for t in self.ask.region.tracks:
            if not any(self._source.notes_in(t, b) for b in self._bars):
                name = f"track {t + 1} {self.score.tracks[t].name}".strip()
                raise RequestError(f"{name} has no notes in the bars that feel names; name bars where it plays")

    def play(
        self,
        cell: Cell,
        notes: Sequence[Note],
        candidate: int,
        grid: BarGrid,
        may_begin: MayBegin,
        *,
        single: bool,
    ) -> list[Note]:
        """The new notes of a cell as the track has such notes elsewhere; with the feel "model", or "grid", for which no
        others are written, as they are.

        What is asked for stays exact: a kept rhythm has its timing, kept velocities stay, and where it is asked how
        many notes begin together, or in which order, those of one position begin at one tick. Flams are completed
        unless notes are counted.

        Args:
            may_begin: whether a note of a pitch may begin at a tick.
            single: whether notes begin one at a time.
        """
        ask = self.ask
        if ask.feel in ("model", "grid") or not notes:
            return list(notes)
        line = self.score.bar(cell.bar).start_ticks
        from_line = _later(notes, -line)
        together = ask.sampling.polyphony is not None or bool(ask.keep & {"pitches", "contour"})
        own = strokes(from_line, self.score.ticks_per_beat)
        if together:
            places = grid.place(np.full(len(notes), cell.bar), np.array([n.onset_ticks for n in notes]))[0].tolist()
            at: dict[int, list[Note]] = {}
            for note, place in sorted(zip(from_line, places, strict=True)):
                at.setdefault(place, []).append(note)
            own = [Stroke(tuple(at[place])) for place in sorted(at)]
        played = self._groove(cell.track).play(
            own,
            lambda tick, pitch: may_begin(tick + line, pitch),
            np.random.default_rng((ask.seed, candidate, *cell)),
            Taken(
                # What is to begin together with a locked note stays with it.
                timing="rhythm" not in ask.keep and not (ask.sampling.polyphony and ask.locked.get(cell.track)),
                velocities="velocities" not in ask.keep,
                together=together,
                single=single,
                flams=not (together or single or ask.keep or ask.sampling.density),
            ),
        )
        return _later(played, line)

    def _groove(self, track: int) -> Groove:
        if track not in self._grooves:
            score = self._source
            bars = [_later(score.notes_in(track, b), -score.bar(b).start_ticks) for b in self._bars]
            self._grooves[track] = Groove(bars, score.ticks_per_beat, is_drum=score.tracks[track].is_drum)
        return self._grooves[track]


def _later(notes: Sequence[Note], ticks: int) -> list[Note]:
    return [n._replace(onset_ticks=n.onset_ticks + ticks) for n in notes]
