"""Songs as attributes, made by code, for the tests of this folder and of what builds on it."""

from __future__ import annotations

import functools

import numpy as np

from midi_rwkv.score.score import Bar
from midi_rwkv.tokens.attributes import DRUMS, Vocabulary, make_vocabulary
from midi_rwkv.tokens.notes import SongNotes, TrackArray, encode_arrays

TICKS = 480
BAR = 4 * TICKS


@functools.cache
def vocabulary() -> Vocabulary:
    """Ours, made once."""
    return make_vocabulary()


def song_of(tracks: list[tuple[int, list[tuple[int, int, int]]]], bars: int) -> SongNotes:
    """A song in 4/4: per track its program and notes (sixteenth from the start, pitch, length in sixteenths)."""
    arrays = [
        TrackArray(
            np.array([(120 * at, pitch, 120 * length, 79) for at, pitch, length in notes]).reshape(-1, 4), program, 20
        )
        for program, notes in tracks
    ]
    grid = [Bar(BAR * b, BAR * (b + 1), 4, 4) for b in range(bars)]
    return encode_arrays(vocabulary(), arrays, grid, [120.0] * bars, ticks_per_beat=TICKS)


def random_song(seed: int, *, tracks: int = 3, bars: int = 12) -> SongNotes:
    """Notes anywhere on the grid of sixteenths; the last track plays drums, and some bars are empty."""
    rng = np.random.default_rng(seed)
    parts = []
    for t in range(tracks):
        notes = []
        for b in range(bars):
            if rng.random() < 0.2:
                continue
            for at in rng.choice(16, rng.integers(1, 8), replace=False).tolist():
                notes.append((16 * b + at, int(rng.integers(40, 80)), int(rng.integers(1, 8))))
        parts.append((DRUMS if t == tracks - 1 else int(rng.integers(0, 128)), notes))
    return song_of(parts, bars)


def repeating_song(bars: int = 16) -> SongNotes:
    """A tune of four bars, A B A C, over a bass, again and again."""
    tune = {0: (60, 64, 67, 72), 1: (62, 65, 69, 74), 2: (60, 64, 67, 72), 3: (59, 62, 67, 71)}
    lead = [(16 * b + 4 * k, p, 4) for b in range(bars) for k, p in enumerate(tune[b % 4])]
    bass = [(16 * b + 8 * k, tune[b % 4][0] - 24, 8) for b in range(bars) for k in range(2)]
    return song_of([(0, lead), (32, bass)], bars)
