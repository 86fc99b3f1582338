"""Makes the fingerprint of the training music (midi_rwkv/fill/fingerprint.py) from note shards, or measures it.

    python scripts/make_quotes.py SHARDS [--output midi_rwkv/checkpoints/base/quotes.bin]
    python scripts/make_quotes.py SHARDS --measure [--output ...]

Every training source in SHARDS goes in; `valid` and `valid_more` stay out. The same shards give the same bytes.

`--measure` prints, for runs of 12, 16, 20 and 24 notes of the songs in `valid` and `valid_more`: how many there are,
which share of them is in the training music (told exactly), which share of the others the fingerprint reports all the
same, and which share of its reports is right. It does so for these songs with the pitches of each track shuffled, too.
Of excerpts of the training music in other keys it prints how many are found: as they are, and with each onset moved by
up to a 24th of a quarter.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from script_helpers.tables import markdown

from midi_rwkv.corpus.note_shards import NoteShard
from midi_rwkv.corpus.shards import sources_in
from midi_rwkv.fill.fingerprint import (
    FILE,
    RUN,
    Fingerprint,
    Line,
    is_told,
    line_of,
    load_fingerprint,
    make_fingerprint,
    steps_of,
)
from midi_rwkv.model.checkpoint import DEFAULT_CHECKPOINT
from midi_rwkv.tokens.notes import SongNotes

HELD_OUT = ("valid", "valid_more")
LENGTHS = (12, 16, 20, 24)
EXCERPTS = 4000
LONGEST = 40  # notes of an excerpt


def songs_of(folder: Path, sources: list[str]) -> Iterator[SongNotes]:
    """The songs of some sources, one after another."""
    for source in sources:
        shard = NoteShard(folder / f"{source}.npz")
        print(f"{source}: {len(shard)} songs, {shard.n_notes} notes", file=sys.stderr)
        for i in range(len(shard)):
            yield shard[i]


def lines_of(songs: Iterator[SongNotes]) -> Iterator[Line]:
    """The tracks that have a run."""
    for song in songs:
        for t in range(song.n_tracks):
            line = line_of(song, t)
            if len(line.onsets) >= RUN:
                yield line


def steps(line: Line) -> np.ndarray:
    """The steps of a line."""
    return steps_of(line.onsets, line.pitches, is_drum=line.is_drum)


def whole_runs(steps: np.ndarray) -> np.ndarray:
    """A hash of each run of RUN notes."""
    hashes = np.zeros(len(steps) - RUN + 2, np.uint64)
    for k in range(RUN - 1):
        hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + steps[k : k + len(hashes)].astype(np.uint64)
        hashes ^= hashes >> np.uint64(29)
    return hashes


def row_of(flags: np.ndarray, length: int) -> np.ndarray:
    """Whether so many notes in a row are made of flagged runs of RUN notes."""
    n = length - RUN + 1
    seen = np.concatenate([[0], np.cumsum(flags)])
    return seen[n:] - seen[:-n] == n if len(flags) >= n else np.zeros(0, bool)


def shuffled(line: Line, rng: np.random.Generator) -> Line:
    """The line with its pitches in another order."""
    keys = np.unique(line.onsets * 128 + rng.permutation(line.pitches))
    return Line(keys // 128, keys % 128, line.is_drum)


def moved(line: Line, rng: np.random.Generator) -> Line:
    """The line with each of its chords up to a position early or late."""
    chords, of = np.unique(line.onsets, return_inverse=True)
    keys = np.unique((chords + rng.integers(-1, 2, len(chords)))[of] * 128 + line.pitches)
    return Line(keys // 128, keys % 128, line.is_drum)


def measure(fingerprint: Fingerprint, folder: Path, sources: list[str]) -> None:
    """Prints the tables."""
    known = []
    rng = np.random.default_rng(0)
    excerpts = found = played = 0
    for line in lines_of(songs_of(folder, sources)):
        s = steps(line)
        known.append(whole_runs(s)[is_told(s)])
        if rng.random() < 0.1 and excerpts < EXCERPTS:
            first = int(rng.integers(0, len(line.onsets) - RUN + 1))
            part = slice(first, first + int(rng.integers(RUN, LONGEST)))
            up = 0 if line.is_drum else int(rng.integers(-11, 12))
            excerpt = Line(line.onsets[part] + int(rng.integers(1, 96)), line.pitches[part] + up, line.is_drum)
            s = steps(excerpt)
            if (told := is_told(s)).any():
                excerpts += 1
                found += bool((fingerprint.shares(s) == told).all())
                played += len(fingerprint.runs(moved(excerpt, rng))) > 0
    print(
        f"\nExcerpts of the training music in other keys: {found} of {excerpts} found whole, {played} of them partly or"
    )
    print("whole where onsets were moved.\n")
    runs = np.unique(np.concatenate(known))
    print(f"{len(runs)} different runs of {RUN} notes; the fingerprint keeps {fingerprint.grams} grams.\n")
    rows = []
    for name in ("as they are", "pitches shuffled"):
        counts = np.zeros((len(LENGTHS), 3), np.int64)
        for line in lines_of(songs_of(folder, list(HELD_OUT))):
            s = steps(shuffled(line, rng) if name != "as they are" else line)
            if len(s) < RUN - 1:
                continue
            told, shared = is_told(s), fingerprint.shares(s)
            hashes = whole_runs(s)
            at = np.minimum(np.searchsorted(runs, hashes), len(runs) - 1)
            true = told & (runs[at] == hashes)
            for i, length in enumerate(LENGTHS):
                all_told, all_true, all_shared = (row_of(x, length) for x in (told, true, shared))
                counts[i] += all_told.sum(), all_true.sum(), all_shared.sum()
        for length, (n, true, reported) in zip(LENGTHS, counts.tolist(), strict=True):
            rows.append([name, length, n, true / n, (reported - true) / max(1, n - true), true / max(1, reported)])
    head = ["held-out songs", "notes", "runs", "in the training music", "others reported", "reports that are right"]
    print(markdown(head, rows))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", type=Path)
    parser.add_argument("--output", type=Path, default=DEFAULT_CHECKPOINT / FILE)
    parser.add_argument("--measure", action="store_true")
    args = parser.parse_args()
    sources = [s for s in sources_in(args.shards) if s not in HELD_OUT]
    if args.measure:
        measure(load_fingerprint(args.output), args.shards, sources)
        return 0
    fingerprint = make_fingerprint(songs_of(args.shards, sources))
    fingerprint.save(args.output)
    print(f"{args.output}: {fingerprint.grams} grams, {args.output.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
