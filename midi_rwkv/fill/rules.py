"""The rules for a region's notes, from the song's own manner, the request, and the notes that stay.

They are decided cell by cell before anything is written: which pitches may begin at which positions, how many notes,
and how many of them together. A request that cannot be met is refused here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import replace

import numpy as np

from midi_rwkv.errors import RequestError
from midi_rwkv.model.config import SamplingConfig
from midi_rwkv.score.instruments import GM_KIT, playable, plays_single_notes, register, usual_notes
from midi_rwkv.score.score import Cell, Note
from midi_rwkv.score.single import covered, handover_ticks, is_monophonic, sounding

from .blank import Blanked
from .limits import NO_LIMIT, CellLimits
from .locked import off_grid_ticks

SINGLE_NOTES = 6  # notes that a track needs to be recognised as monophonic
MARGIN = 1.5  # factor by which density may differ from before
MOST_BUSIER = 1.7
NEARBY_BARS = 4  # bars on either side in which the busyness of the song is measured
DENSITY_EXPONENT = 0.56  # of the other tracks' busyness in a track's density, by regression over the training songs


class Rules:
    """The limits of each cell of a region. Raises ValueError, naming the conflict, if a request cannot be met."""

    def __init__(self, ticks: Callable[[int, int], np.ndarray], blanked: Blanked):
        """ticks: gives the ticks (n,) of the positions that a fill may use in a cell, by track and bar."""
        self.ticks, self.score, self.blank = ticks, blanked.score, blanked.blank
        self.region, self.sampling, self.locked = blanked.ask.region, blanked.ask.sampling, blanked.ask.locked
        self.places = blanked.places
        score, blank, region = self.score, self.blank, self.region
        self.single = frozenset(t for t in region.tracks if self._plays_single(t))
        self._pitches = {
            (t, program): self._allowed_pitches(t, program, blanked.switches[t])
            for t, program in {(t, score.tracks[t].program_in(score.bar(b))) for t, b in sorted(region.cells)}
        }
        self._notes = {t: np.array(blank.tracks[t].notes, np.int64).reshape(-1, 4) for t in region.tracks}
        self._cells: dict[tuple[object, ...], CellLimits] = {}
        self._last_chances = self._check()

    def cell(self, cell: Cell, *, silent: bool = False) -> CellLimits:
        """The limits of one cell.

        With `silent` nothing has been written in this run of the track's bars so far. The model may not answer a
        request for music with a whole run of silence.
        """
        track, bar = cell
        limits = self._limits(track, bar, self.sampling.density or (0, NO_LIMIT))
        if self.sampling.density:
            return limits
        if usual := self._usual_density(track, bar):
            wanted = replace(limits, density=usual)
            if wanted.conflict() is None:
                return wanted
        if silent and cell in self._last_chances:
            return replace(limits, density=(1, NO_LIMIT))
        return limits

    def told(self, cell: Cell) -> SamplingConfig:
        """The limits that the model is told before it writes the cell."""
        density = self.cell(cell).density
        return self.sampling if density == (0, NO_LIMIT) else replace(self.sampling, density=density)

    # -- pitches ----------------------------------------------------------------------------------------------------

    def _plays_single(self, t: int) -> bool:
        if self.sampling.polyphony:
            return self.sampling.polyphony[1] == 1
        track, beat = self.score.tracks[t], self.score.ticks_per_beat
        notes = sorted({*track.notes, *self.locked.get(t, ())})
        if len(notes) < SINGLE_NOTES:
            return plays_single_notes(track.program, is_drum=track.is_drum) and is_monophonic(notes, beat)
        return is_monophonic(notes, beat)

    def _allowed_pitches(self, t: int, program: int, switches: Collection[Note]) -> np.ndarray:
        """(128,) bool for the pitches while `program` is in force. Raises ValueError if there are none."""
        track, sampling, every = self.score.tracks[t], self.sampling, np.arange(128)
        used = [n.pitch for n in (track.notes if track.is_drum else track.notes_of(program))]
        allowed = playable(program, used, is_drum=track.is_drum)
        if sampling.pitch_range:
            low, high = sampling.pitch_range
            inside = (every >= low) & (every <= high)
            if not track.is_drum:
                allowed = inside
            elif (allowed & inside).any():
                allowed &= inside
            else:
                allowed = inside & np.isin(every, GM_KIT)
        elif not track.is_drum:
            allowed &= np.isin(every, register(used))
        allowed &= ~np.isin(every, [n.pitch for n in switches])
        in_key = allowed & np.isin(every % 12, sampling.key or every)
        if track.is_drum or not sampling.key:
            in_key = allowed
        if in_key.any() or (sampling.density and sampling.density[1] == 0):
            return in_key
        name = self._name(t)
        if sampling.pitch_range and not allowed.any():
            low, high = sampling.pitch_range
            what = "drums" if track.is_drum else "pitches"
            why = "has keyswitches alone" if switches else f"has no {what}"
            raise RequestError(f"{name} {why} in the pitch range {low}-{high}; give another range, or leave it out")
        where = "-".join(map(str, sampling.pitch_range or (allowed.argmax(), 127 - allowed[::-1].argmax())))
        of = "the pitch range" if sampling.pitch_range else f"what {name} plays,"
        raise RequestError(f"no pitch of the key lies in {of} {where}; give a wider pitch range or another key")

    def _limits(self, t: int, b: int, density: tuple[int, int]) -> CellLimits:
        bar, ticks = self.score.bar(b), self.ticks(t, b)
        allowed = np.tile(self._pitches[t, self.score.tracks[t].program_in(bar)], (len(ticks), 1))
        allowed[1:][ticks[1:] == ticks[:-1]] = False  # of positions at the same tick only the first
        allowed[ticks >= bar.end_ticks] = False  # rounding can do this when a quarter has few ticks
        places = tuple(self.places.get(Cell(t, b), ()))
        own = self.locked.get(t, ())
        allowed[self.taken(t, b, ticks, handover=True)] = False
        polyphony = self.sampling.polyphony or (1, 1 if t in self.single else NO_LIMIT)
        if density != (0, NO_LIMIT):  # the model writes one of several locked notes that share a place
            unwritten = sum(self.score.bar_of(t, n.onset_ticks) == b for n in own) - len(places)
            density = max(0, density[0] - unwritten), density[1] - unwritten
        key = (allowed.tobytes(), density, polyphony, places)
        if key not in self._cells:
            self._cells[key] = CellLimits(allowed, density, polyphony, places)
        return self._cells[key]

    def taken(self, t: int, b: int, ticks: np.ndarray, *, handover: bool = False) -> np.ndarray:
        """At which of some ticks (n,) of a cell no note may begin, since a note that stays sounds there: (n, 128) bool
        by pitch, on a monophonic track at any pitch.

        handover: the ticks are those of the cell's positions, where a note may begin just before one that stays ends.
        """
        bar, beat, single = self.score.bar(b), self.score.ticks_per_beat, t in self.single
        notes = self._notes[t]
        kept = notes[(notes[:, 0] < bar.end_ticks) & (notes[:, 0] + notes[:, 2] > bar.start_ticks)].tolist()
        out = np.zeros((len(ticks), 128), bool)
        for note in (Note(*n) for n in kept):
            at = covered(ticks, note, handover_ticks(beat)) if single and handover else sounding(ticks, note)
            out[at, slice(None) if single else note.pitch] = True
        near = max(self.score.lead_ticks(self.score.tracks[t]), off_grid_ticks(beat))
        for note in self.locked.get(t, ()):
            at = sounding(ticks, note) | (abs(ticks - note.onset_ticks) <= near)
            out[at, slice(None) if single else note.pitch] = True
        return out

    # -- density ----------------------------------------------------------------------------------------------------

    def _usual_density(self, t: int, b: int) -> tuple[int, int] | None:
        """The density of a track that is silent all around the region; None for other tracks.

        Without it the model would continue the silence. A new track gets the density of its kind, and more if the other
        tracks are busier than their kinds. A track that plays only in the region gets about its own density there.
        """
        track = self.score.tracks[t]
        if self.blank.tracks[t].notes:
            return None
        own = [b for b in range(len(self.score.bars)) if (t, b) in self.region.cells]
        if played := [n for b in own if (n := self._per_beat(t, b))]:
            if len(own) == len(self.score.bars):
                return None
            low, high = float(np.median(played)) / MARGIN, float(np.median(played)) * MARGIN
        else:
            busier = self._busier(t, b)
            low, high = (n * busier for n in usual_notes(track.program, is_drum=track.is_drum)[::2])
        bar = self.score.bar(b)
        beats = (bar.end_ticks - bar.start_ticks) / self.score.ticks_per_beat
        return max(1, round(low * beats)), max(1, math.ceil(high * beats))

    def _per_beat(self, t: int, b: int) -> float:
        """Notes per quarter."""
        bar = self.score.bars[b]
        return len(self.score.notes_in(t, b)) * self.score.ticks_per_beat / (bar.end_ticks - bar.start_ticks)

    def _busier(self, t: int, b: int) -> float:
        """How many times as much as their kinds the other tracks play around this bar."""
        logs = []
        for other in range(len(self.score.tracks)):
            nearby = range(max(0, b - NEARBY_BARS), min(len(self.score.bars), b + NEARBY_BARS + 1))
            played = [n for near in nearby if other != t and (n := self._per_beat(other, near))]
            if played:
                track = self.score.tracks[other]
                logs.append(math.log(float(np.median(played)) / usual_notes(track.program, is_drum=track.is_drum)[1]))
        busier = math.exp(DENSITY_EXPONENT * float(np.mean(logs))) if logs else 1.0
        return min(MOST_BUSIER, max(1 / MOST_BUSIER, busier))

    # -- wishes that cannot be met ------------------------------------------------------------------------------------

    def _check(self) -> set[Cell]:
        """The last cell of each run that can sound. Raises ValueError if the request cannot be met."""
        sampling = self.sampling
        asked = sampling.polyphony or sampling.pitch_range or sampling.key
        chances: set[Cell] = set()
        reason = ""
        for t in self.region.tracks:
            if sampling.polyphony and t in self.single:
                self._check_locked_apart(t)
            for lo, hi in self.region.bar_runs(t):
                whys = {b: self._conflict(t, b, sampling.density or (1, NO_LIMIT)) for b in range(lo, hi)}
                if sounding := [b for b, why in whys.items() if why is None]:
                    chances.add(Cell(t, sounding[-1]))
                for b, why in whys.items():
                    hard = self._conflict(t, b, sampling.density or (0, NO_LIMIT))
                    if hard or (asked and not sounding):
                        raise RequestError(f"bar {b + self.score.first_bar_number} of {self._name(t)}: {hard or why}")
                    reason = reason or why or ""
        if not chances:
            raise RequestError(f"nothing can be written into {self._name(self.region.tracks[0])}: {reason}")
        return chances

    def _conflict(self, t: int, b: int, density: tuple[int, int]) -> str | None:
        return self._limits(t, b, density).conflict()

    def _check_locked_apart(self, t: int) -> None:
        locked = sorted(self.locked.get(t, ()))
        for note in locked:
            end = note.onset_ticks + note.duration_ticks
            others = [*locked, *self.blank.tracks[t].notes]
            if any(
                n is not note and n.onset_ticks < end and n.onset_ticks + n.duration_ticks > note.onset_ticks
                for n in others
            ):
                bar = self.score.bar_of(t, note.onset_ticks) + self.score.first_bar_number
                raise RequestError(
                    f"bar {bar} of {self._name(t)}: a locked note sounds with another and the polyphony allows 1"
                )

    def _name(self, t: int) -> str:
        return f"track {t + 1} {self.score.tracks[t].name}".strip()
