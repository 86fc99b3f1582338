"""Places to fill in a composer's pieces, in the settings in which a style may help, and how each is shown to the model.

A place is four bars of some tracks of one piece. In each setting the model sees something else of the piece:

- song: one track is asked for; everything else of the piece is there, before and after.
- sketch: all tracks that play are asked for; only the four bars before are there.
- new track: one track is asked for, and has no note anywhere; the other tracks are whole. A piece of one track is then
  an empty song.
- continuation: all tracks that play are asked for; everything before is there and nothing after.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from midi_rwkv import Ask, Infiller, Note, Region, Score
from midi_rwkv.evaluation.cases import Case
from midi_rwkv.score.clip import excerpt

SETTINGS = ("song", "sketch", "new track", "continuation")
ONE_TRACK = ("song", "new track")  # settings that ask for one track
BARS = 4  # of a place, and of a sketch
FEWEST_NOTES = 8  # the composer's own in a place
MOST_TRACKS = 8  # of a piece to fill: a fill shall take about a second
MOST_BARS = 160  # read of a piece
EVERY = 2  # bars between the places of a piece
Notes = dict[int, list[Note]]


@dataclass(frozen=True, eq=False)
class Place:
    """A place in one setting.

    Attributes:
        case: its tracks and bars in `song`.
        song: what the model sees, with the composer's own notes in the cells.
        given: what the model sees, without them.
    """

    setting: str
    case: Case
    song: Score
    given: Score

    @property
    def own(self) -> Notes:
        """The composer's own notes in the cells."""
        return self.case.original(self.song)

    def near(self, bars: int) -> tuple[Case, Score]:
        """The place in `given` cut to so many bars on either side, with all tracks."""
        last = self.case.last
        low, high = max(0, self.case.first - bars), min(max(last, len(self.given.bars)), last + bars)
        cut = excerpt(self.given, Region.rectangle(range(len(self.given.tracks)), [(low, high)]))
        return replace(self.case, first=self.case.first - low), cut

    def fill(self, infiller: Infiller) -> Notes:
        """What the model writes: the same seed in every setting of style and strength."""
        return infiller(self.given, Ask(self.case.region, seed=self.case.seed))[0].fills


@dataclass(frozen=True)
class Kind:
    """Which tracks of other people's pieces compare with a composer's: of drums, pitched or both, and how many."""

    drums: bool
    pitched: bool
    tracks: int

    @classmethod
    def of(cls, scores: Sequence[Score]) -> Kind:
        """The kind of a composer's pieces: of those that may be filled, what most of them have."""
        small = [s.tracks for s in scores if len(s.tracks) <= MOST_TRACKS]
        drums = np.mean([any(t.is_drum for t in tracks) for tracks in small]) > 0.5
        pitched = np.mean([any(not t.is_drum for t in tracks) for tracks in small]) > 0.5
        return cls(bool(drums), bool(pitched), int(np.median([len(tracks) for tracks in small])))

    def reduced(self, score: Score, rng: np.random.Generator) -> Score | None:
        """A piece with no more tracks than the composer's pieces have, drawn among those of the kind."""
        fitting = [t for t, track in enumerate(score.tracks) if (self.drums if track.is_drum else self.pitched)]
        if not fitting or (self.drums and not any(t.is_drum for t in score.tracks)):
            return None
        chosen = sorted(rng.permutation(fitting)[: self.tracks].tolist())
        return replace(score, tracks=tuple(score.tracks[t] for t in chosen))


def places(score: Score, file: str, setting: str, count: int) -> list[Place]:
    """At most `count` places of a piece, drawn from a seed that its name and the setting give."""
    rng = np.random.default_rng(zlib.crc32(f"{file} {setting}".encode()))
    last = min(len(score.bars), MOST_BARS) - BARS
    firsts = [b for b in range(BARS, last + 1, EVERY) if _even(score, b)]
    found: list[Place] = []
    for first in rng.permutation(firsts).astype(int).tolist():
        tracks = _asked(score, setting, first, rng)
        if tracks and len(found) < count:
            found.append(_place(score, file, setting, tracks, first))
    return found


def _even(score: Score, first: int) -> bool:
    """Whether the bars are as long as the one before them, as a continuation has them."""
    return len({(b.end_ticks - b.start_ticks, *b[2:]) for b in map(score.bar, range(first - 1, first + BARS))}) == 1


def _asked(score: Score, setting: str, first: int, rng: np.random.Generator) -> list[int]:
    """The tracks of a place; none where the composer's own notes are too few."""

    def notes(track: int, low: int) -> int:
        return sum(len(score.notes_in(track, b)) for b in range(low, low + BARS))

    sizes = [notes(t, first) for t in range(len(score.tracks))]
    if setting in ONE_TRACK:
        enough = [t for t, n in enumerate(sizes) if n >= FEWEST_NOTES]
        return [int(rng.choice(enough))] if enough else []
    playing = [t for t in range(len(score.tracks)) if notes(t, first - BARS)]
    return playing if sum(sizes[t] for t in playing) >= FEWEST_NOTES else []


def _place(score: Score, file: str, setting: str, tracks: Sequence[int], first: int) -> Place:
    case = Case("song", 0, file, tuple(tracks), first, BARS)
    if setting == "new track":
        for t, notes in case.original(score).items():
            score = score.with_notes(t, notes)
    if setting in ONE_TRACK:
        return Place(setting, case, score, case.given(score))
    begin = first - BARS if setting == "sketch" else 0
    song = excerpt(score, Region.rectangle(tracks, [(begin, first + BARS)]))
    case = replace(case, tracks=tuple(range(len(tracks))), first=first - begin)
    return Place(setting, case, song, excerpt(song, Region.rectangle(case.tracks, [(0, case.first)])))
