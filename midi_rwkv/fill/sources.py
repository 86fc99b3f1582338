"""Which cells are followed while one is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from midi_rwkv.score.score import Cell
from midi_rwkv.tokens.chords import QUALITIES, Chord, SongChords, chord_spans, find_chords
from midi_rwkv.tokens.following import WIDTH
from midi_rwkv.tokens.memory import PieceCells, PieceMemory
from midi_rwkv.tokens.notes import AT, BarGrid
from midi_rwkv.tokens.references import Reference, RunIndex

from .ask import Like
from .blank import Blanked
from .encoder import Encoder
from .over_chords import OverChords

ASKED = 1.0  # likeness of the bar that is asked for
OTHERS = 0.5  # and of the others that may be followed
MOST = 4  # cells of another song that are followed, where no bars of it are named
SURE = 0.8  # confidence from which a chord is beyond doubt
ENOUGH = 8  # bars to follow, with which others need not be
NEARBY = 3  # bars before one that it may repeat


class Sources:
    """The cells to follow, by what is asked."""

    def __init__(
        self, blanked: Blanked, encoder: Encoder, chords: OverChords | None, grid: BarGrid, *, as_they_are: bool = False
    ):
        """chords: those that are asked for; what is followed is moved to them. as_they_are: whether bars are followed
        whatever chords are new to their track, and however often they are said."""
        self.blanked, self.like, self.encoder = blanked, blanked.ask.like, encoder
        self.chords, self.grid, self.as_they_are = chords, grid, as_they_are
        self._shares: dict[int, float] = {}  # by track
        # By track, the chords that all others play, as far as one can be sure; and those that it has played over.
        self._others: dict[int, tuple[OverChords, set[tuple[int, bool, bool]]]] = {}

    def of(
        self, index: RunIndex, cell: Cell, rng: np.random.Generator, density: tuple[int, int] | None = None
    ) -> list[Reference]:
        """What is followed, the most alike first: never what is to be written anew, unless it may come back or was a
        rest amid notes, and what was just written only where the track has nothing else, since a fill that follows
        itself goes in circles. For the same reason bars like one just written are followed only as often as the track
        repeats itself, by chance. Over chords that are new to the track its bars are followed both moved to them and
        as they are. density: about how many notes the cell shall have; bars that have as many are enough."""
        ask, like = self.blanked.ask, self.like
        if not ask.sampling.follow:
            return []
        before = self.blanked.before.cell(*cell)
        if like is None:
            found = index.sources(cell.track, cell.bar, written=False)
            found = found if self.as_they_are else self._as_often_again(found, index, cell, rng)
            if density and not self.as_they_are:
                as_busy = [r for r in found if density[0] <= len(r.notes) <= density[1]]
                found = as_busy if len(as_busy) >= ENOUGH else found
        elif like.itself:
            return [Reference(before, ASKED, cell.bar)]
        elif like.score is not None:
            found = self._elsewhere(like, index, cell)
        elif like.bars:
            found = self._named(like, index, cell)
        else:
            return []
        if chords := self.told(cell):
            moved = [self._over_chords(r, chords) for r in found]
            if self.chords:
                found = moved
            else:  # what stands there is refused moved, too
                pairs = [(m, r) for m, r in zip(moved, found, strict=True) if ask.again or not _alike(m.notes, before)]
                found = [either for pair in pairs for either in pair]
        if not ask.again and not self.blanked.rested(cell):
            found = [r for r in found if not _alike(r.notes, before)]
        return found[:WIDTH]

    def told(self, cell: Cell) -> Sequence[Chord]:
        """The chords that the model is told of a cell's bar: those that are asked for, else those that are new to the
        track."""
        if self.blanked.score.tracks[cell.track].is_drum:
            return ()
        if self.chords:
            return self.chords.told(self.grid, cell.bar)
        return () if self.as_they_are or self.like is not None else self._new_chords(cell)

    def _as_often_again(
        self, found: list[Reference], index: RunIndex, cell: Cell, rng: np.random.Generator
    ) -> list[Reference]:
        """Without bars that the fill has already, unless the track would play one again here."""
        said = [
            index.cell(*other)
            for other in self.blanked.ask.region.cells
            if other.track == cell.track and other.bar < cell.bar
        ]
        if not said or rng.random() < self._repeats(cell.track):
            return found
        known = {_key(notes) for notes in said if len(notes)}
        return [r for r in found if _key(r.notes) not in known]

    def _repeats(self, track: int) -> float:
        """How often a bar of the track that sounds is one of the last `NEARBY` again: the share of those that are
        shown, with a bar more that is and one that is not; 1 where none is shown."""
        if track not in self._shares:
            song, region = self.blanked.song, self.blanked.ask.region
            shown = [b for b in range(song.n_bars) if (track, b) not in region.cells and len(song.cell(track, b))]
            keys = {b: _key(song.cell(track, b)) for b in shown}
            near = {b: [keys[o] for o in range(b - NEARBY, b) if o in keys] for b in shown}
            answers = [keys[b] in others for b, others in near.items() if others]
            self._shares[track] = (sum(answers) + 1) / (len(answers) + 2) if shown else 1.0
        return self._shares[track]

    def _new_chords(self, cell: Cell) -> Sequence[Chord]:
        """The chords that the other tracks play in a cell's bar, if they play none of these in any bar that the track
        plays in; else none."""
        if cell.track not in self._others:
            song, region = self.blanked.song, self.blanked.ask.region
            score = self.blanked.blank.with_notes(cell.track, [])
            spans = [c for c in chord_spans(score, self.encoder.vocabulary) if c.confidence >= SURE]
            played = OverChords(score, spans, free_bass=True)
            shown = (b for b in range(song.n_bars) if (cell.track, b) not in region.cells)
            bars = [b for b in shown if len(song.cell(cell.track, b))]
            self._others[cell.track] = played, {_kind(c) for b in bars for c in played.told(self.grid, b) if c.quality}
        played, known = self._others[cell.track]
        here = played.told(self.grid, cell.bar)
        kinds = {_kind(c) for c in here if c.quality}
        return here if kinds and known and not kinds & known else ()

    def _over_chords(self, source: Reference, chords: Sequence[Chord]) -> Reference:
        """A source with each note as far above the root of the chord in force, of those given, as it is above that of
        the chord that it sounds over, an octave near to where it is."""
        if source.bar is None or not len(source.notes):
            return source
        heard = self._heard.in_bar(source.bar)
        notes = source.notes.copy()
        for note in notes:
            over, under = (_in_force(each, int(note[AT.position])) for each in (heard, chords))
            if over and under:
                note[AT.pitch] += (under.root - over.root + 5) % 12 - 5
        inside = (notes[:, AT.pitch] >= 0) & (notes[:, AT.pitch] <= 127)
        return replace(source, notes=notes[inside])

    def _named(self, like: Like, index: RunIndex, cell: Cell) -> list[Reference]:
        """Bars of this song, of one track or of the cell's own; of those that are to be written, none."""
        track = cell.track if like.track is None else like.track
        bars = [b for lo, hi in like.bars for b in range(lo, hi)]
        first = self._asked(cell, bars)
        order = [first, *(b for b in bars if b != first)]
        shown = [b for b in order if b < index.song.n_bars and index.shown[track, b]]
        return [Reference(index.cell(track, b), ASKED if b == first else OTHERS, b) for b in shown]

    def _elsewhere(self, like: Like, index: RunIndex, cell: Cell) -> list[Reference]:
        """Cells of another song, moved into this one's key and the track's register."""
        found = PieceMemory([self._other], index).ranked(cell.track, cell.bar, of=like.track)
        if not like.bars:
            return [Reference(r.notes, ASKED if k == 0 else OTHERS) for k, r in enumerate(found[:MOST])]
        bars = [b for lo, hi in like.bars for b in range(lo, hi)]
        first = self._asked(cell, bars)
        named = sorted((r for r in found if r.bar in bars), key=lambda r: r.bar != first)
        return [Reference(r.notes, ASKED if r.bar == first else OTHERS) for r in named]

    def _asked(self, cell: Cell, bars: list[int]) -> int:
        """The bar that is to be followed: the first bar of a run follows the first, and so on, over and over."""
        run = next(lo for lo, hi in self.blanked.ask.region.bar_runs() if lo <= cell.bar < hi)
        return bars[(cell.bar - run) % len(bars)]

    @cached_property
    def _heard(self) -> SongChords:
        """The chords of what is shown."""
        return find_chords(self.blanked.song, self.encoder.vocabulary)

    @cached_property
    def _other(self) -> PieceCells:
        assert self.like is not None
        assert self.like.score is not None
        return PieceCells(self.encoder.encode(self.like.score, self.like.score.bars))


def _kind(chord: Chord) -> tuple[int, bool, bool]:
    """Root, and whether the third is minor or major."""
    steps = QUALITIES[chord.quality] if chord.quality else ()
    return chord.root, 3 in steps, 4 in steps


def _in_force(chords: Sequence[Chord], position: int) -> Chord | None:
    """The chord at a position of a bar, None where there is none."""
    there = [c for c in chords if c.position <= position]
    return there[-1] if there and there[-1].quality else None


def _alike(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether cells have the same pitches at the same places."""
    return np.array_equal(_places(a), _places(b))


def _places(notes: np.ndarray) -> np.ndarray:
    return notes[:, [AT.position, AT.pitch]]


def _key(notes: np.ndarray) -> bytes:
    """The same for cells with the same pitches at the same places."""
    return np.unique(_places(notes).astype(np.int16), axis=0).tobytes()
