"""The first step of a fill: empties the cells to write, and encodes the song once."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from midi_rwkv.score.keyswitches import without_keyswitches
from midi_rwkv.score.score import Bar, Cell, Note, Score
from midi_rwkv.tokens.tokenizer import TokenizedSong, Tokenizer

from .ask import Ask
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
    before: TokenizedSong  # `score` over these bars
    song: TokenizedSong  # `blank` over these bars
    places: Mapping[Cell, Sequence[Place]]  # the locked notes as the model writes them, ascending


def blank_cells(tokenizer: Tokenizer, score: Score, ask: Ask) -> Blanked:
    """Empties the cells. Raises RequestError if the score has no such region, or a locked note is outside it."""
    ask.check(score)
    region, music = ask.region, without_keyswitches(score)
    switches = {t: frozenset(score.tracks[t].notes) - set(music.tracks[t].notes) for t in region.tracks}
    ask = replace(ask, locked={t: [n for n in ns if n not in switches[t]] for t, ns in ask.locked.items()})
    blank = music.with_fill(region, {t: [] for t in region.tracks})
    bars = tuple(music.bar(b) for b in range(max(len(music.bars), region.bars[-1] + 1)))
    before = tokenizer.encode(music, bars)
    return Blanked(
        ask=ask,
        whole=score,
        score=music,
        blank=blank,
        switches=switches,
        bars=bars,
        before=before,
        song=before.with_cells(encode_cells(tokenizer, blank, region.cells, bars)),
        places=_places(tokenizer, music, ask, bars),
    )


def encode_cells(
    tokenizer: Tokenizer, score: Score, cells: Collection[Cell], bars: Sequence[Bar]
) -> dict[Cell, list[int]]:
    """The tokens of some cells of a score, as from `Tokenizer.encode`."""
    texts: dict[Cell, str] = {}
    for t in sorted({cell.track for cell in cells}):
        track = score.tracks[t]
        notes = np.array(track.notes, np.int64).reshape(-1, 4)
        lead = score.lead_ticks(track)
        of_track = tokenizer.cell_texts(notes, bars, score.ticks_per_beat, is_drum=track.is_drum, lead=lead)
        texts.update((cell, of_track[cell.bar]) for cell in cells if cell.track == t)
    return dict(zip(texts, tokenizer.encode_cells(list(texts.values())), strict=True))


def _places(tokenizer: Tokenizer, score: Score, ask: Ask, bars: Sequence[Bar]) -> dict[Cell, list[Place]]:
    alone = score
    for t, notes in ask.locked.items():
        alone = alone.with_notes(t, notes)
    found = {}
    cells = [cell for cell in ask.region.cells if ask.locked.get(cell.track)]
    for cell, ids in encode_cells(tokenizer, alone, cells, bars).items():
        position, pitch, _ = tokenizer.places(np.array(ids, np.int64))
        if len(pitch):
            found[cell] = list(zip(position.tolist(), pitch.tolist(), strict=True))
    return found
