"""The first step of a fill: empties the cells to write, and encodes the song once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from midi_rwkv.score.keyswitches import without_keyswitches
from midi_rwkv.score.score import Bar, Cell, Note, Score
from midi_rwkv.tokens.notes import SongNotes

from .ask import Ask
from .encoder import Encoder
from .limits import Place


@dataclass(frozen=True)
class Blanked:
    """A song with the cells of an ask emptied. Keyswitches, which are not music, are only in `whole` and `switches`."""

    ask: Ask  # without the keyswitches among its locked notes
    whole: Score  # as it was read
    score: Score  # the music, with the present notes of the region
    blank: Score  # the music, without them
    switches: Mapping[int, frozenset[Note]]  # by track of the region
    bars: tuple[Bar, ...]  # of the song, and of the region where that continues beyond the song
    before: SongNotes  # `score` over these bars
    song: SongNotes  # `blank` over these bars
    alone: Score  # the music, but with only the locked notes in the tracks that have some
    places: Mapping[Cell, Sequence[Place]]  # the locked notes as the model places them, ascending


def blank_cells(encoder: Encoder, score: Score, ask: Ask) -> Blanked:
    """Empties the cells. Raises RequestError if the score has no such region, or a locked note is outside it."""
    ask.check(score)
    region, music = ask.region, without_keyswitches(score)
    switches = {t: frozenset(score.tracks[t].notes) - set(music.tracks[t].notes) for t in region.tracks}
    ask = replace(ask, locked={t: [n for n in ns if n not in switches[t]] for t, ns in ask.locked.items()})
    blank = music.with_fill(region, {t: [] for t in region.tracks})
    bars = tuple(music.bar(b) for b in range(max(len(music.bars), region.bars[-1] + 1)))
    alone = music
    for t, notes in ask.locked.items():
        alone = alone.with_notes(t, notes)
    before = encoder.encode(music, bars)
    return Blanked(
        ask=ask,
        whole=score,
        score=music,
        blank=blank,
        switches=switches,
        bars=bars,
        before=before,
        song=encoder.emptied(before, region.cells),
        alone=alone,
        places=encoder.places(alone, [cell for cell in region.cells if ask.locked.get(cell.track)], bars),
    )
