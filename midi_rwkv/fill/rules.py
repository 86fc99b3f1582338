"""The rules for a region's notes, from the song's own manner, the request, and the notes that stay.

They are decided cell by cell before anything is written: which pitches may begin at which positions, how many notes,
and how many of them together. A request that cannot be met is refused here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import replace

import numpy as np

from midi_rwkv.errors import ConflictError
from midi_rwkv.model.config import DENSITY_WORDS, SamplingConfig
from midi_rwkv.score.instruments import GM_KIT, playable, plays_single_notes, register, usual_notes
from midi_rwkv.score.runs import masked_runs
from midi_rwkv.score.score import Cell, Note, Track
from midi_rwkv.score.single import covered, handover_ticks, is_monophonic, sounding
from midi_rwkv.score.sustain import ends_with_next, gaps, never_rests
from midi_rwkv.style.kinds import Kind

from .blank import Blanked
from .limits import NO_LIMIT, CellLimits
from .locked import off_grid_ticks
from .over_chords import OverChords

THIRTY_SECOND, SEXTUPLET = 3, 4  # positions; new notes lie on multiples of these where the grid is asked for
SINGLE_NOTES = 6  # notes that a track needs to be recognised as monophonic
MARGIN = 1.5  # factor by which density may differ from before
MOST_BUSIER = 1.7
NEARBY_BARS = 4  # bars on either side in which the busyness of the song is measured
DENSITY_EXPONENT = 0.56  # of the other tracks' busyness in a track's density, by regression over the training songs


class Rules:
    """The limits of each cell of a region. Raises ConflictError, naming the conflict, if a request cannot be met."""

    def __init__(
        self,
        ticks: Callable[[int, int], np.ndarray],
        blanked: Blanked,
        kind: Callable[[Track], Kind | None],
        *,
        as_busy: bool = True,
    ):
        """
        Args:
            ticks: gives the ticks (n,) of the positions that a fill may use in a cell, by track and bar.
            kind: gives what tracks like one are in a style's pieces.
            as_busy: whether the model is told how many notes stand in a cell.
        """
        self.kind = kind
        self.ticks, self.score, self.blank = ticks, blanked.score, blanked.blank
        self.region, self.sampling, self.locked = blanked.ask.region, blanked.ask.sampling, blanked.ask.locked
        self.places, self.part = blanked.places, blanked.part
        self.on_grid = blanked.ask.feel == "grid"
        self.as_busy = as_busy and not blanked.ask.sampling.polyphony and not blanked.ask.like
        ask = blanked.ask
        self.chords = OverChords(self.score, ask.chords, free_bass=ask.free_bass) if ask.chords else None
        score, blank, region = self.score, self.blank, self.region
        # Notes whose rhythm is kept are struck and held as they were.
        self.single = frozenset(t for t in region.tracks if "rhythm" not in ask.keep and self._plays_single(t))
        self._pitches = {
            (t, program): self._allowed_pitches(t, program, blanked.switches[t])
            for t, program in {(t, score.tracks[t].program_in(score.bar(b))) for t, b in sorted(region.cells)}
        }
        self._notes = {t: np.array(blank.tracks[t].notes, np.int64).reshape(-1, 4) for t in region.tracks}
        self._cells: dict[tuple[object, ...], CellLimits] = {}
        self._ending = frozenset(
            t for t in region.tracks if ends_with_next(blank.tracks[t].notes, blank.ticks_per_beat) and not ask.keep
        )
        self._last_chances = self._check()
        self._openings = self._unrested()

    def cell(self, cell: Cell, *, silent: bool = False, held: bool = False) -> CellLimits:
        """The limits of one cell.

        With `silent` nothing has been written in this run of the track's bars so far. The model may not answer a
        request for music with a whole run of silence. With `held` a note that was written before sounds all through the
        cell; where a track's notes end with the next, none begins there.
        """
        track, bar = cell
        limits = self._limits(track, bar, self._density(track, bar) or (0, NO_LIMIT))
        if self.sampling.density:
            return limits
        if held and track in self._ending and not self.places.get(cell):
            return CellLimits(np.zeros_like(limits.allowed))
        if usual := self._usual_density(track, bar):
            wanted = replace(limits, density=usual)
            if wanted.conflict() is None:
                return wanted
        if (silent and cell in self._last_chances) or cell in self._openings:
            return replace(limits, density=(1, NO_LIMIT))
        return limits

    def told(self, cell: Cell) -> SamplingConfig:
        """The limits that the model is told before it writes the cell."""
        density: tuple[int, int] | None = self.cell(cell).density
        if density is not None and density[1] == NO_LIMIT:
            density = self._as_before(cell) if self.part.is_whole else self._usual_part(cell)
        return replace(self.sampling, density=density)

    def told_pitches(self, t: int) -> tuple[int, int] | None:
        """The lowest and the highest pitch that the model is told of where some are asked for: those that the track has
        among them, since the model expects to reach both."""
        asked, pitches = self.sampling.pitch_range, self.part.pitches
        if asked is None and pitches.all():
            return None
        low, high = asked or (int(pitches.argmax()), 127 - int(pitches[::-1].argmax()))
        used = [n.pitch for n in self.blank.tracks[t].notes if low <= n.pitch <= high and pitches[n.pitch]]
        return (min(used), max(used)) if used else (low, high)

    def part_of(self, cell: Cell) -> np.ndarray | None:
        """The places and pitches of the part of a cell that is written, (positions, 128) bool; None: all."""
        if self.part.is_whole:
            return None
        part: np.ndarray = self.part.begins(self.score, cell.track, self.ticks(*cell))[:, None] & self.part.pitches
        return part

    def _as_before(self, cell: Cell) -> tuple[int, int] | None:
        """About as many notes as stand there, so that what is written anew is as busy and rests as much; None where
        nothing does, or something else is asked for."""
        notes = len(self.score.notes_in(*cell))
        if not notes or not self.as_busy:
            return None
        return max(1, round(notes / MARGIN)), round(notes * MARGIN)

    def _usual_part(self, cell: Cell) -> tuple[int, int] | None:
        """Where a part of a cell is written: the quartiles of how many notes the track's other bars have in that part,
        since the notes that stay are most of what the model expects of a bar."""
        t, bar = cell.track, self.score.bar(cell.bar)
        spans = [(lo - bar.start_ticks, hi - bar.start_ticks) for lo, hi in self.part.spans or ((0, bar.end_ticks),)]
        counts = []
        for b in (b for b in range(len(self.score.bars)) if (t, b) not in self.region.cells):
            notes, start = self.score.notes_in(t, b), self.score.bars[b].start_ticks
            there = [n for n in notes if any(lo <= n.onset_ticks - start < hi for lo, hi in spans)]
            if notes:
                counts.append(sum(bool(self.part.pitches[n.pitch]) for n in there))
        if not counts:
            return None
        low, high = np.quantile(counts, [0.25, 0.75])
        return round(low), round(high)

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
        """(128,) bool for the pitches while `program` is in force. Raises ConflictError if there are none."""
        track, sampling, every = self.score.tracks[t], self.sampling, np.arange(128)
        used = [n.pitch for n in (track.notes if track.is_drum else track.notes_of(program))]
        if not track.notes and (kind := self.kind(track)):
            used = kind.pitches
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
        apart = self.part.pitches & ~np.isin(every, [n.pitch for n in switches])
        if (allowed & apart).any() or sampling.pitch_range:
            allowed &= apart
        elif not self.part.pitches.all():  # what is asked for lies beyond what the track plays
            allowed = apart & (np.isin(every, GM_KIT) | (not track.is_drum))
        else:
            allowed = np.zeros(128, bool)
        in_key = allowed & np.isin(every % 12, sampling.key or every)
        if track.is_drum or not sampling.key:
            in_key = allowed
        if in_key.any() or (isinstance(sampling.density, tuple) and sampling.density[1] == 0):
            return in_key
        name = self._name(t)
        if sampling.pitch_range and not allowed.any():
            low, high = sampling.pitch_range
            what = "drums" if track.is_drum else "pitches"
            why = "has keyswitches alone" if switches else f"has no {what}"
            raise ConflictError(f"{name} {why} in the pitch range {low}-{high}; give another range, or leave it out")
        if not allowed.any():
            raise ConflictError(
                f"{name} has nothing among the pitches to write; give other pitches to write or to keep"
            )
        where = "-".join(map(str, sampling.pitch_range or (allowed.argmax(), 127 - allowed[::-1].argmax())))
        of = "the pitch range" if sampling.pitch_range else f"what {name} plays,"
        raise ConflictError(f"no pitch of the key lies in {of} {where}; give a wider pitch range or another key")

    def _limits(self, t: int, b: int, density: tuple[int, int]) -> CellLimits:
        bar, ticks = self.score.bar(b), self.ticks(t, b)
        allowed = np.tile(self._pitches[t, self.score.tracks[t].program_in(bar)], (len(ticks), 1))
        allowed[1:][ticks[1:] == ticks[:-1]] = False  # of positions at the same tick only the first
        allowed[ticks >= bar.end_ticks] = False  # rounding can do this when a quarter has few ticks
        allowed[~self.part.begins(self.score, t, ticks)] = False
        if self.on_grid:
            at = np.arange(len(ticks))
            allowed[(at % THIRTY_SECOND > 0) & (at % SEXTUPLET > 0)] = False
        if self.chords:
            allowed &= self.chords.allowed(self.score.tracks[t], bar, ticks)
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

    def pitches_at(self, cell: Cell, onsets: np.ndarray) -> np.ndarray:
        """(n, 128) bool: which pitches may begin at some ticks of a cell, where its rhythm is kept."""
        t, b = cell
        track, bar = self.score.tracks[t], self.score.bar(b)
        allowed: np.ndarray = self._pitches[t, track.program_in(bar)] & ~self.taken(t, b, onsets)
        return allowed & self.chords.allowed(track, bar, onsets) if self.chords else allowed

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

    def _density(self, t: int, b: int) -> tuple[int, int] | None:
        """The notes that are asked for in a cell; a word means so many times as many as the track's bars mostly have,
        or its kind's where it has none."""
        asked = self.sampling.density
        if asked is None or isinstance(asked, tuple):
            return asked
        track, bar, ticks = self.score.tracks[t], self.score.bar(b), self.ticks(t, b)
        quarters = (bar.end_ticks - bar.start_ticks) / self.score.ticks_per_beat
        share = float(self.part.begins(self.score, t, ticks).mean())
        played = [n for other in range(len(self.score.bars)) if (n := self._per_beat(t, other, self.part.pitches))]
        usual = float(np.median(played)) if played else self._usual(track)[1]
        low, high = (factor * usual * quarters * share for factor in DENSITY_WORDS[asked])
        return round(low), max(1, round(high))

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
            low, high = (n * busier for n in self._usual(track)[::2])
        bar = self.score.bar(b)
        beats = (bar.end_ticks - bar.start_ticks) / self.score.ticks_per_beat
        return max(1, round(low * beats)), max(1, math.ceil(high * beats))

    def _usual(self, track: Track) -> tuple[float, float, float]:
        """Notes per quarter of tracks of its kind: lower quartile, median, upper quartile."""
        kind = self.kind(track)
        return kind.per_quarter if kind else usual_notes(track.program, is_drum=track.is_drum)

    def _per_beat(self, t: int, b: int, pitches: np.ndarray | None = None) -> float:
        """Notes per quarter. pitches: (128,) bool, those that count."""
        bar = self.score.bars[b]
        notes = [n for n in self.score.notes_in(t, b) if pitches is None or pitches[n.pitch]]
        return len(notes) * self.score.ticks_per_beat / (bar.end_ticks - bar.start_ticks)

    def _busier(self, t: int, b: int) -> float:
        """How many times as much as their kinds the other tracks play around this bar."""
        logs = []
        for other in range(len(self.score.tracks)):
            nearby = range(max(0, b - NEARBY_BARS), min(len(self.score.bars), b + NEARBY_BARS + 1))
            played = [n for near in nearby if other != t and (n := self._per_beat(other, near))]
            if played:
                track = self.score.tracks[other]
                logs.append(math.log(float(np.median(played)) / self._usual(track)[1]))
        busier = math.exp(DENSITY_EXPONENT * float(np.mean(logs))) if logs else 1.0
        return min(MOST_BUSIER, max(1 / MOST_BUSIER, busier))

    # -- wishes that cannot be met ------------------------------------------------------------------------------------

    def _check(self) -> set[Cell]:
        """The last cell of each run that can sound. Raises ConflictError where nothing can sound."""
        sampling = self.sampling
        asked = sampling.polyphony or sampling.pitch_range or sampling.key
        chances: set[Cell] = set()
        reason = ""
        for t in self.region.tracks:
            if sampling.polyphony and t in self.single:
                self._check_locked_apart(t)
            for lo, hi in self.region.bar_runs(t):
                whys = {b: self._conflict(t, b, self._density(t, b) or (1, NO_LIMIT)) for b in range(lo, hi)}
                if sounding := [b for b, why in whys.items() if why is None]:
                    chances.add(Cell(t, sounding[-1]))
                for b, why in whys.items():
                    hard = self._conflict(t, b, self._density(t, b) or (0, NO_LIMIT))
                    if hard or (asked and not sounding):
                        raise ConflictError(f"bar {b + self.score.first_bar_number} of {self._name(t)}: {hard or why}")
                    reason = reason or why or ""
        if not chances:
            raise ConflictError(f"nothing can be written into {self._name(self.region.tracks[0])}: {reason}")
        return chances

    def _unrested(self) -> set[Cell]:
        """The first cells of runs of a track that never rests around them, where nothing that stays sounds at first."""
        found = set()
        for t in (t for t in self.region.tracks if not self.score.tracks[t].is_drum):
            there = sorted([*self.blank.tracks[t].notes, *self.locked.get(t, ())])
            for (bar, _), run in zip(self.region.bar_runs(t), masked_runs(self.blank, self.region, t), strict=True):
                silent = gaps(there, run.start, self.score.bar(bar).end_ticks, self.score.ticks_per_beat)
                opens = bool(silent) and silent[0][0] == run.start and never_rests(self.blank, t, run)
                if opens and self._conflict(t, bar, (1, NO_LIMIT)) is None:
                    found.add(Cell(t, bar))
        return found

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
                raise ConflictError(
                    f"bar {bar} of {self._name(t)}: a locked note sounds with another and the polyphony allows 1"
                )

    def _name(self, t: int) -> str:
        return f"track {t + 1} {self.score.tracks[t].name}".strip()
