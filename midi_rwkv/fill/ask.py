"""The request for a fill: one object that the command, the page and the Python API all build."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field

from midi_rwkv.errors import RequestError
from midi_rwkv.model.config import SamplingConfig, check_seed
from midi_rwkv.score.harmony import ChordSpan
from midi_rwkv.score.score import Note, Region, Score

from .fingerprint import RUN

MAX_REGION_BARS = 512
MAX_CANDIDATES = 64
KEEPS = ("rhythm", "pitches", "contour", "velocities")
FEELS = ("model", "grid", "track")
Span = tuple[int, int]  # half-open
Pitches = tuple[int, int]  # lowest and highest, both included


@dataclass(frozen=True)
class Like:
    """Which bars a fill follows: those of the song, or of another one.

    Attributes:
        bars: half-open ranges of bar indices; none: all.
        track: index of the only track to follow, in whichever track is written; None: each its own, in another song
            the one that fits best.
        score: another song; None: the one that is filled.
        itself: what stood in the cells before is followed, for a variation of it.
    """

    bars: tuple[Span, ...] = ()
    track: int | None = None
    score: Score | None = None
    itself: bool = False


@dataclass(frozen=True)
class Ask:
    """What to write, how many times, and what must hold of it.

    Args:
        region: the cells to rewrite.
        sampling: how notes are sampled, and the limits that they must meet.
        candidates: how many answers to give, 1-64, the best first (ranking.py).
        seed: the same ask and seed give the same notes.
        context_bars: read at most this many bars on each side of the region; None reads as many as the model was
            trained to read, and all of them to follow.
        locked: by track index, notes that begin inside the region and stay. The model writes around them, and the fill
            contains them unchanged.
        within: spans of ticks; only notes that begin in them are replaced, and the others of the region stay. None: all
            are.
        only: pitches; only notes of these are replaced, and written.
        spare: pitches; notes of these stay, and none is written.
        keep: what the new notes have of those that they replace, of KEEPS. "rhythm": how many notes begin where, and
            how long they are; "pitches": the pitches, in their order; "contour": how many notes there are, and where
            each rises, falls or repeats; "velocities": the velocities, in their order, which needs one of the others.
        vary: the share of the notes to write anew, 0-1, phrase by phrase; the others stay.
        chords: what the new notes shall sound over, in order: on strong beats pitched tracks play chord tones alone.
        free_bass: whether a bass may play any chord tone where a chord begins, rather than its bass note.
        like: which bars are followed; None: those that are most alike.
        again: whether what stood in the cells may come back.
        feel: the timing and velocities of the new notes: "model"; "grid", on the grid; "track", those that the track
            has at the same metrical places; or half-open ranges of bar indices to take them from.
        quotes: new notes complete no run of so many notes, 12 or more, from the music that the model was trained on, as
            told by its fingerprint (fingerprint.py), or from the pieces of the style; None: they may.

    Raises:
        RequestError: a value is out of range.
    """

    region: Region
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    _: KW_ONLY
    candidates: int = 1
    seed: int = 0
    context_bars: int | None = None
    locked: Mapping[int, Sequence[Note]] = field(default_factory=dict)
    within: tuple[Span, ...] | None = None
    only: Pitches | None = None
    spare: Pitches | None = None
    keep: frozenset[str] = frozenset()
    vary: float | None = None
    chords: tuple[ChordSpan, ...] = ()
    free_bass: bool = False
    like: Like | None = None
    again: bool = False
    feel: str | tuple[Span, ...] = "track"
    quotes: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.candidates <= MAX_CANDIDATES:
            raise RequestError(f"candidates must be 1-{MAX_CANDIDATES}, got {self.candidates}")
        check_seed(self.seed)
        if self.context_bars is not None and self.context_bars < 0:
            raise RequestError(f"context_bars must be 0 or more, got {self.context_bars}")
        object.__setattr__(self, "keep", frozenset(self.keep))
        self._check_keep()
        if self.vary is not None and not 0 < self.vary <= 1:
            raise RequestError(f"vary must be more than 0 and at most 1, got {self.vary:g}")
        for name, span in (("only", self.only), ("spare", self.spare)):
            if span is not None and not 0 <= span[0] <= span[1] <= 127:
                raise RequestError(f"{name} must be LOW-HIGH with 0 <= LOW <= HIGH <= 127, got {span[0]}-{span[1]}")
        if isinstance(self.feel, str) and self.feel not in FEELS:
            raise RequestError(f"feel must be {', '.join(FEELS)} or ranges of bars, got {self.feel!r}")
        if self.quotes is not None and self.quotes < RUN:
            raise RequestError(f"quotes must be {RUN} notes or more, got {self.quotes}")

    def _check_keep(self) -> None:
        keep = self.keep
        if unknown := sorted(keep - set(KEEPS)):
            raise RequestError(f"keep takes {', '.join(KEEPS)}, got {', '.join(unknown)}")
        if keep == {"velocities"}:
            raise RequestError("velocities are kept together with rhythm, pitches or contour; add one of them to keep")
        if {"pitches", "contour"} <= keep:
            raise RequestError("kept pitches have their contour; keep pitches or contour, not both")
        if {"rhythm", "pitches"} <= keep:
            raise RequestError("the same rhythm with the same pitches is what stands there; keep one of them")
        if "rhythm" in keep and self.feel == "grid":
            raise RequestError("a kept rhythm has its own timing; leave the feel grid out, or do not keep the rhythm")
        if keep and self.vary is not None:
            raise RequestError("vary keeps some of the notes, keep something of all; ask for one of them")

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
