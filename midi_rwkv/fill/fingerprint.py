"""A fingerprint of the training music: which runs of notes stand in it, with no run of it missed, in a few megabytes.

A *run* is consecutive notes of one track in the order of onset and pitch. Each of its notes but the first is told by a
*step*: how far it lies from the note before, in semitones (a drum by its key instead), and which of a few note values
the time since that note is nearest to. So a run is the same in another key, elsewhere in the bar, and played freely.

Of every `RUN` notes in a row, which have `RUN - 1` steps, the fingerprint keeps one: the `GRAM` steps whose hash is the
lowest (winnowing: Schleimer, Wilkerson and Aiken, SIGMOD 2003). A Bloom filter holds these. To look a run up, its
lowest gram is looked up; longer runs are runs of `RUN` notes in a row that overlap in all but one note each. What is
found need not be in the training music: the gram can stand there among other notes, or share its bits with others. What
is there is always found.

Runs of few different steps (`VARIED`) are nobody's: repeated notes, scales, trills, arpeggios and beats of a bar or so.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from midi_rwkv.errors import CheckpointError
from midi_rwkv.files import whole_file
from midi_rwkv.tokens.notes import AT, SongNotes

RUN = 12  # notes: shorter runs are not told
GRAM = 9  # steps
VARIED = 5  # different steps that a run of RUN notes must have to be told
FILE = "quotes.bin"
FORMAT = 1
BITS = 39_990_000  # five megabytes, less a header
PROBES = 4  # bits that a gram sets
_VALUES = np.array([0, 3, 6, 8, 12, 18, 24, 36, 48, 72, 96])  # note values in positions, 24 to a quarter
_BETWEEN = (_VALUES[1:] + _VALUES[:-1]) / 2
_DRUMS = 256  # steps to pitches are 1-255, drums lie above
_ODD = np.uint64(0x9E3779B97F4A7C15)


class Line(NamedTuple):
    """The notes of a track, ascending by onset and pitch, each place and pitch once."""

    onsets: np.ndarray  # (n,) positions since the beginning of the song
    pitches: np.ndarray  # (n,)
    is_drum: bool


def bar_starts(song: SongNotes) -> np.ndarray:
    """(B + 1,) where bars begin, in positions since the beginning of the song."""
    return np.concatenate([[0], np.cumsum(song.lengths, dtype=np.int64)])


def line_of(song: SongNotes, track: int) -> Line:
    """The line of a track."""
    cells = np.arange(song.n_bars) * song.n_tracks + track
    sizes = np.diff(song.offsets)[cells]
    rows = np.repeat(song.offsets[cells] - np.cumsum(sizes) + sizes, sizes) + np.arange(sizes.sum())
    notes = song.notes[rows].astype(np.int64)
    keys = np.repeat(bar_starts(song)[:-1], sizes) * 128 + notes[:, AT.position] * 128 + notes[:, AT.pitch]
    onsets, pitches = np.divmod(np.unique(keys), 128)
    return Line(onsets, pitches, song.is_drum(track))


def steps_of(onsets: np.ndarray, pitches: np.ndarray, *, is_drum: bool) -> np.ndarray:
    """The steps between the notes of lines: (..., n - 1), positive, from onsets and pitches (..., n)."""
    values = np.searchsorted(_BETWEEN, np.diff(onsets))
    told = _DRUMS + pitches[..., 1:] if is_drum else 128 + np.diff(pitches)
    steps: np.ndarray = told * len(_VALUES) + values
    return steps


def lowest_grams(steps: np.ndarray) -> np.ndarray:
    """The hash that stands for each run of RUN notes: (..., m - RUN + 2) uint64, from (..., m) steps."""
    m = steps.shape[-1]
    mixed, grams = _mixed(steps.astype(np.uint64)), m - GRAM + 1
    hashes = np.zeros((*steps.shape[:-1], grams), np.uint64)
    for k in range(GRAM):
        hashes *= _ODD
        hashes += mixed[..., k : k + grams]
    hashes = _mixed(hashes)
    runs = m - RUN + 2
    lowest = hashes[..., :runs]
    for k in range(1, RUN - GRAM):
        lowest = np.minimum(lowest, hashes[..., k : k + runs])
    return lowest


def is_told(steps: np.ndarray) -> np.ndarray:
    """Whether each run of RUN notes is varied enough to be told, and whole: (..., m - RUN + 2) bool. Steps of 0 are
    gaps."""
    runs = steps.shape[-1] - RUN + 2
    since = np.full(steps.shape, RUN, np.int64)  # how many steps ago there was the same
    for back in range(RUN - 2, 0, -1):
        since[..., back:][steps[..., back:] == steps[..., :-back]] = back
    gap = np.cumsum(steps == 0, axis=-1)
    different, first = np.zeros((*steps.shape[:-1], runs), np.int64), gap[..., :runs] - (steps[..., :runs] == 0)
    for k in range(RUN - 1):
        different += since[..., k : k + runs] > k
    told: np.ndarray = (different >= VARIED) & (gap[..., RUN - 2 :] == first)
    return told


def joined(shared: np.ndarray) -> list[tuple[int, int]]:
    """The half-open ranges of notes that runs of RUN notes in a row make up: shared (n - RUN + 1,) says which do."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], shared, [False]]).astype(np.int8)))
    return [(first, end + RUN - 1) for first, end in edges.reshape(-1, 2).tolist()]


class Fingerprint:
    """The runs of some music. `grams` tells how many different ones it keeps."""

    def __init__(self, bits: np.ndarray, grams: int = 0):
        """bits: (BITS / 8,) uint8."""
        self.bits, self.grams = bits, grams

    def shares(self, steps: np.ndarray) -> np.ndarray:
        """Which runs of RUN notes are in the music: (..., max(0, m - RUN + 2)) bool, from (..., m) steps."""
        if steps.shape[-1] < RUN - 1:
            return np.zeros((*steps.shape[:-1], 0), bool)
        found = np.ones((*steps.shape[:-1], steps.shape[-1] - RUN + 2), bool)
        for at in _bits_of(lowest_grams(steps)):
            found &= (self.bits[at >> np.uint64(3)] >> (at & np.uint64(7)).astype(np.uint8) & 1).astype(bool)
        if found.any():
            found &= is_told(steps)
        return found

    def joined_with(self, other: Fingerprint) -> Fingerprint:
        """That of the music of both; its `grams` are at most these."""
        return Fingerprint(self.bits | other.bits, self.grams + other.grams)

    def runs(self, line: Line) -> list[tuple[int, int]]:
        """The longest runs that a line shares with the music: half-open ranges of its notes, ascending."""
        return joined(self.shares(steps_of(line.onsets, line.pitches, is_drum=line.is_drum)))

    def save(self, path: Path) -> None:
        """Writes the file, whole or not at all."""
        header = {"format": FORMAT, "grams": self.grams, "bytes": len(self.bits)}
        with whole_file(path) as partial:
            partial.write_bytes(json.dumps(header).encode() + b"\n" + self.bits.tobytes())


@lru_cache(maxsize=2)
def load_fingerprint(path: Path) -> Fingerprint:
    """What `save` wrote. Raises CheckpointError if there is none, or it cannot be used."""
    if not path.exists():
        raise CheckpointError(
            f"{path.parent} has no {path.name}, the fingerprint of its training music; make it with "
            "scripts/make_quotes.py"
        )
    first, _, rest = path.read_bytes().partition(b"\n")
    try:
        header = json.loads(first)
        whole = header["format"] == FORMAT and header["bytes"] == len(rest) == BITS // 8
        grams = int(header["grams"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); copy it again") from error
    if not whole:
        raise CheckpointError(f"{path} is damaged or of another version; copy it again")
    return Fingerprint(np.frombuffer(rest, np.uint8), grams)


def make_fingerprint(songs: Iterable[SongNotes]) -> Fingerprint:
    """The fingerprint of all tracks of some songs."""
    filled = np.zeros(BITS, bool)
    grams = 0
    for song in songs:
        lines = [line_of(song, t) for t in range(song.n_tracks)]
        parts = [steps_of(line.onsets, line.pitches, is_drum=line.is_drum) for line in lines]
        steps = np.concatenate([np.append(p, 0) for p in parts])
        if len(steps) < RUN - 1:
            continue
        hashes = np.unique(lowest_grams(steps)[is_told(steps)])
        places = np.stack(_bits_of(hashes))
        grams += int(np.count_nonzero(~filled[places].all(0)))
        filled[places] = True
    return Fingerprint(np.packbits(filled, bitorder="little"), grams)


def _mixed(x: np.ndarray) -> np.ndarray:
    """SplitMix64's finalizer, of uint64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = x ^ (x >> np.uint64(31))
    return mixed


def _bits_of(hashes: np.ndarray) -> list[np.ndarray]:
    """The bits of each gram: PROBES arrays of the same shape."""
    again = _mixed(hashes + _ODD)  # the lowest of several hashes are not spread evenly
    low, high = again & np.uint64(0xFFFFFFFF), again >> np.uint64(32) | np.uint64(1)
    return [(low + np.uint64(k) * high) % np.uint64(BITS) for k in range(PROBES)]
