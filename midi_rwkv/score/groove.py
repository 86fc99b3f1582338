"""The groove of some bars: where in the beat their notes lie and how loud they are, to play other notes the same way.

Notes that begin together, or nearly so, are a stroke: a chord and its strum, a flam, a hit of several drums. A stroke's
place is where in the beat it lies among the places that the bars use, so that one swung note is told from another by
where the player puts it rather than by a grid. New strokes are played as strokes at their place are, of which those of
the same drums (or as many notes) in the same beat of the bar come first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .score import Note

STROKE_GAP = 1 / 12  # quarters; notes farther apart are strokes of their own
STROKE_SPAN = 0.22  # quarters, less than a sixteenth
APART = 1 / 24  # quarters; what is moved farther than this stays as far from other strokes
MAIN = 0.7  # a stroke is where its first note of at least this share of the loudest one's velocity is
BINS = 240  # a quarter
SPREAD = 8.0  # bins; places nearer to each other than about twice this are one
NEAR = 16  # bins; how far from its place a stroke is played at most
SWUNG = ((60, 25), (120, 45), (180, 25))  # straight places, and how many bins later they are when swung
LOUDER = 20  # a difference in velocity that counts as much as another beat of the bar, in pitched tracks
ENOUGH = 4  # strokes to draw from
Fits = Callable[[int, int], bool]  # tick from the bar line, pitch


@dataclass(frozen=True)
class Stroke:
    """Notes that begin together. Onsets count from the bar line that they belong to."""

    notes: tuple[Note, ...]  # by onset

    @cached_property
    def at(self) -> int:
        """The onset of the first note that is no grace note."""
        return next(n.onset_ticks for n in self.notes if n.velocity >= MAIN * self.loudest)

    @cached_property
    def loudest(self) -> int:
        """The velocity of the loudest note."""
        return max(n.velocity for n in self.notes)

    @property
    def hits(self) -> np.ndarray:
        """How many notes each pitch has, (128,)."""
        return np.bincount([n.pitch for n in self.notes], minlength=128)


def strokes(notes: Iterable[Note], ticks_per_beat: int) -> list[Stroke]:
    """Notes of one bar as strokes, in order."""
    found: list[list[Note]] = []
    for n in sorted(notes):
        near = found and n.onset_ticks - found[-1][-1].onset_ticks <= STROKE_GAP * ticks_per_beat
        if near and n.onset_ticks - found[-1][0].onset_ticks <= STROKE_SPAN * ticks_per_beat:
            found[-1].append(n)
        else:
            found.append([n])
    return [Stroke(tuple(own)) for own in found]


@dataclass(frozen=True)
class Taken:
    """What is taken from a groove.

    Attributes:
        timing, velocities: those of the notes.
        single: no two notes begin at one tick.
        together: the notes of a stroke all begin at one tick, however they are struck there.
        flams: hits are added where a drum is hit once and there twice or more.
    """

    timing: bool = True
    velocities: bool = True
    single: bool = False
    together: bool = False
    flams: bool = False


class Groove:
    """How the notes of some bars are played."""

    def __init__(self, bars: Iterable[Sequence[Note]], ticks_per_beat: int, *, is_drum: bool):
        """bars: the notes of each, their onsets counted from the bar line."""
        self.beat, self.is_drum = ticks_per_beat, is_drum
        self.strokes = [s for notes in bars for s in strokes(notes, ticks_per_beat)]
        self._at = np.array([s.at for s in self.strokes], np.int64)
        bins = np.floor(self._at * BINS / self.beat).astype(np.int64) % BINS
        self._place = _places(bins)[bins]
        self._hits = np.array([s.hits for s in self.strokes]).reshape(-1, 128).astype(np.uint8)
        self._loudest = np.array([s.loudest for s in self.strokes], np.int64)

    def play(self, own: Sequence[Stroke], fits: Fits, rng: np.random.Generator, taken: Taken) -> list[Note]:
        """The strokes of a bar as these bars would have them; where they have nothing alike, as they are.

        Args:
            own: in order.
            fits: whether a note of a pitch may begin at a tick, which counts from the bar line.
        """
        out: list[Note] = []
        for i, stroke in enumerate(own):
            after = out[-1].onset_ticks if out else -math.inf
            before = own[i + 1].notes[0].onset_ticks if i + 1 < len(own) else math.inf
            *wishes, untimed = self._wishes(stroke, rng, taken)
            out += sorted(next((w for w in wishes if self._goes(stroke, w, (after, before), fits, taken)), untimed))
        return out

    def _wishes(self, stroke: Stroke, rng: np.random.Generator, taken: Taken) -> list[list[Note]]:
        """How a stroke is to be played, the best first; the last has its own timing."""
        wanted, at = list(stroke.notes), stroke.at
        added: list[Note] = []
        if (alike := self._alike(stroke, rng)) is not None:
            wanted, added = self._as(stroke, alike, rng, single=taken.single)
            at += self._away(at, self.strokes[alike].at)
        if not taken.velocities:
            wanted = [w._replace(velocity=n.velocity) for n, w in zip(stroke.notes, wanted, strict=True)]
        untimed = [n._replace(velocity=w.velocity) for n, w in zip(stroke.notes, wanted, strict=True)]
        if not taken.timing:
            return [untimed]
        if taken.together:
            ticks = [at, stroke.at, *(n.onset_ticks for n in stroke.notes)]
            return [*([n._replace(onset_ticks=t) for n in wanted] for t in ticks), untimed]
        return [[*wanted, *added], wanted, untimed] if taken.flams else [wanted, untimed]

    def _goes(
        self, stroke: Stroke, played: Sequence[Note], between: tuple[float, float], fits: Fits, taken: Taken
    ) -> bool:
        """Whether the notes of a stroke may begin where they are to, between other strokes."""
        ticks = [n.onset_ticks for n in played]
        farthest = max(abs(n.onset_ticks - t) for n, t in zip(stroke.notes, ticks, strict=False))
        gap = self.beat * APART if farthest > self.beat * APART else 0
        in_order = between[0] + gap < min(ticks) and max(ticks) < between[1] - gap
        apart = len({(n.onset_ticks, -1 if taken.single else n.pitch) for n in played}) == len(played)
        return in_order and apart and all(fits(n.onset_ticks, n.pitch) for n in played)

    def _alike(self, stroke: Stroke, rng: np.random.Generator) -> int | None:
        """Index of a stroke at the same place, drawn among those most alike; None where there is none."""
        indices = self._at_place(stroke.at)
        if not len(indices):
            return None
        costs = self._costs(stroke, indices)
        order = np.argsort(costs + 1e-6 * rng.random(len(costs)), kind="stable")
        best = costs[order] <= costs[order[min(ENOUGH, len(order)) - 1]]
        return int(indices[order[rng.integers(int(best.sum()))]])

    def _at_place(self, at: int) -> np.ndarray:
        """Indices of the strokes at the place of a tick, or where a straight note would be swung to."""
        if not self.strokes:
            return np.zeros(0, np.int64)
        here = at * BINS / self.beat
        away = (self._at * BINS / self.beat - here + BINS / 2) % BINS - BINS / 2
        later = max([NEAR, *(reach for place, reach in SWUNG if abs((here - place + 120) % BINS - 120) <= SPREAD)])
        reached = (away >= -NEAR) & (away <= later)
        if not reached.any():
            return np.zeros(0, np.int64)
        places = np.unique(self._place[reached])
        nearest = {p: float(np.abs(away[reached & (self._place == p)]).min()) for p in places}
        first = min(places, key=lambda p: nearest[p])
        found: np.ndarray = np.flatnonzero(self._place == first)
        return found

    def _costs(self, stroke: Stroke, indices: np.ndarray) -> np.ndarray:
        """How unlike a stroke others at its place are, (n,)."""
        elsewhere = np.abs(self._at[indices] - stroke.at) > self.beat / 2
        hits, ours = self._hits[indices].astype(np.int64), stroke.hits
        if self.is_drum:
            missing = np.where(ours > 1, np.maximum(0, ours - hits), 0).sum(1)
            of_drums: np.ndarray = ((hits > 0) != (ours > 0)).sum(1) + missing + elsewhere
            return of_drums
        louder = np.abs(self._loudest[indices] - stroke.loudest) / LOUDER
        found: np.ndarray = 2 * np.abs(hits.sum(1) - ours.sum()) + elsewhere + louder
        return found

    def _away(self, at: int, other: int) -> int:
        """How much later another place is than one, in whichever beat it is."""
        return other - at + round((at - other) / self.beat) * self.beat

    def _as(
        self, stroke: Stroke, alike: int, rng: np.random.Generator, *, single: bool
    ) -> tuple[list[Note], list[Note]]:
        """The notes of a stroke, played as another one is; and what that one has more of the same drums."""
        found = self.strokes[alike]
        later = self._away(stroke.at, found.at)
        near = 0 if single else self.beat / 24
        models = self._drums(stroke, alike, rng) if self.is_drum else _chord(stroke, found, near)
        beats = stroke.at + later - found.at
        played = [
            # What the other stroke has no note for keeps its distance.
            n._replace(onset_ticks=m.onset_ticks + beats, velocity=m.velocity)
            if (m := models.get(n))
            else n._replace(onset_ticks=n.onset_ticks + later)
            for n in stroke.notes
        ]
        used, drums = set(models.values()), {n.pitch for n in stroke.notes if self.is_drum}
        more = [n for n in found.notes if n.pitch in drums and n not in used]
        return played, [n._replace(onset_ticks=n.onset_ticks + beats) for n in more]

    def _drums(self, stroke: Stroke, alike: int, rng: np.random.Generator) -> dict[Note, Note]:
        """For each hit one of the same drum, of this stroke or another at its place."""
        models: dict[Note, Note] = {}
        for pitch in sorted({n.pitch for n in stroke.notes}):
            own = [n for n in stroke.notes if n.pitch == pitch]
            there = [n for n in self.strokes[alike].notes if n.pitch == pitch]
            there = there or self._another(own[0], alike, rng)
            loudest = sorted(sorted(there, key=lambda n: -n.velocity)[: len(own)])
            models |= zip(own[-len(loudest) :], loudest, strict=True)
        return models

    def _another(self, hit: Note, alike: int, rng: np.random.Generator) -> list[Note]:
        """A hit of a drum that a stroke lacks: from others at its place; else it begins with the stroke, as loud as the
        drum's hit that is most like it anywhere."""
        found = self.strokes[alike]
        having = self._hits[:, hit.pitch] > 0
        here = np.flatnonzero(having & (self._place == self._place[alike]))
        if len(here):
            other = self.strokes[here[rng.integers(len(here))]]
            move = round((found.at - other.at) / self.beat) * self.beat
            return [n._replace(onset_ticks=n.onset_ticks + move) for n in other.notes if n.pitch == hit.pitch]
        hits = [n.velocity for i in np.flatnonzero(having) for n in self.strokes[i].notes if n.pitch == hit.pitch]
        velocity = min(hits, key=lambda v: abs(v - hit.velocity), default=hit.velocity)
        return [hit._replace(onset_ticks=found.at, velocity=velocity)]


def _chord(stroke: Stroke, found: Stroke, near: float) -> dict[Note, Note]:
    """For each note one of another stroke: by pitch where all begin within fewer than `near` ticks, else in order of
    time."""
    ours, there = list(stroke.notes), list(found.notes)
    together = ours[-1].onset_ticks - ours[0].onset_ticks < near
    if len(ours) == 1 or (len(there) < len(ours) and not together):  # a grace note may lack
        main = next(n for n in ours if n.onset_ticks == stroke.at)
        return {main: max(there, key=lambda n: (n.velocity, n.duration_ticks))}
    if together:
        ours.sort(key=lambda n: n.pitch)
        there.sort(key=lambda n: n.pitch)
    ranks = np.rint(np.linspace(0, len(there) - 1, len(ours))).astype(int)
    return dict(zip(ours, [there[r] for r in ranks], strict=True))


def _places(bins: np.ndarray) -> np.ndarray:
    """Which place each bin of a beat belongs to: the peak of the strokes' density that lies uphill of it."""
    counts = np.bincount(bins, minlength=BINS).astype(float)
    away = (np.arange(BINS) + BINS // 2) % BINS - BINS // 2
    kernel = np.exp(-0.5 * (away / SPREAD) ** 2)
    density = np.fft.ifft(np.fft.fft(counts) * np.fft.fft(kernel)).real
    around = np.stack([np.roll(density, 1), density, np.roll(density, -1)])
    up: np.ndarray = (np.arange(BINS) + around.argmax(0) - 1) % BINS
    for _ in range(8):
        up = up[up]
    return up
