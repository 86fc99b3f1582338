"""How often the chords told from notes (`tokens/chords.py`) have the root and third that the song's chords have.

    python scripts/measure_chords.py CORPUS [--songs 300] [-o chords.json]

CORPUS is a folder with manifest.csv, nottingham.train.zip and nottingham_band.train.zip. The truth is the track of
block chords that the folk tunes of the first have. The chords are told from those files, where it sounds with the
tune, and from the same tunes in the second, where it has become an accompaniment of bass, guitars and so on. Beats
without a block chord are not counted.
"""

from __future__ import annotations

import argparse
import csv
import json
import zipfile
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path

import numpy as np

from midi_rwkv.files import whole_file
from midi_rwkv.model.checkpoint import load_vocabulary
from midi_rwkv.score.harmony import ChordSpan
from midi_rwkv.score.midi import read_midi
from midi_rwkv.score.progression import UNSURE
from midi_rwkv.score.score import Note, Score
from midi_rwkv.tokens.attributes import Vocabulary
from midi_rwkv.tokens.chords import chord_spans

TUNES, BAND, CHORDS = "nottingham", "nottingham_band", "Chords"
Chord = tuple[int, frozenset[int]]  # root, and semitones above it


def third(steps: frozenset[int]) -> int:
    """3, 4, or 0 for none."""
    return next((s for s in (4, 3) if s in steps), 0)


def block_chords(score: Score, ticks: Sequence[int]) -> list[Chord | None]:
    """What the track of block chords plays at some ticks. The lowest note is the root."""
    [track] = [t for t in score.tracks if t.name == CHORDS]
    blocks: dict[int, list[Note]] = defaultdict(list)
    for n in track.notes:
        blocks[n.onset_ticks].append(n)
    onsets, chords = sorted(blocks), []
    for tick in ticks:
        i = bisect_right(onsets, tick)
        notes = [n for n in blocks[onsets[i - 1]] if n.onset_ticks + n.duration_ticks > tick] if i else []
        lowest = min((n.pitch for n in notes), default=0)
        chords.append((lowest % 12, frozenset((n.pitch - lowest) % 12 for n in notes)) if notes else None)
    return chords


def agreement(truth: Score, song: Score, vocabulary: Vocabulary) -> list[tuple[bool, bool, float]]:
    """By beat (quarters): whether the root is right, whether the third is too, and the confidence."""
    ticks = list(range(0, min(truth.bars[-1].end_ticks, song.bars[-1].end_ticks), song.ticks_per_beat))
    spans = chord_spans(song, vocabulary)
    rows = []
    for tick, chord in zip(ticks, block_chords(truth, ticks), strict=True):
        if chord is None:
            continue
        told: ChordSpan = spans[bisect_right(spans, tick, key=attrgetter("start_ticks")) - 1]
        root = told.quality != "" and told.root == chord[0]
        steps = frozenset((t - told.root) % 12 for t in told.tones)
        rows.append((root, root and third(steps) == third(chord[1]), told.confidence))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="a folder with manifest.csv and the sources' zips")
    parser.add_argument("--songs", type=int, default=300, help="at most so many, by the tune's name (default 300)")
    parser.add_argument("-o", "--output", type=Path, help="a JSON file for the figures")
    options = parser.parse_args()
    with (options.corpus / "manifest.csv").open(encoding="utf-8", newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["split"] == "train" and r["source"] in (TUNES, BAND)]
    by_tune: dict[str, dict[str, str]] = defaultdict(dict)
    for row in rows:
        by_tune[row["origin"]][row["source"]] = f"{row['id']}.mid"
    pairs = [by_tune[tune] for tune in sorted(by_tune) if len(by_tune[tune]) == 2][: options.songs]
    vocabulary, figures = load_vocabulary(), {}
    with (
        zipfile.ZipFile(options.corpus / f"{TUNES}.train.zip") as tunes,
        zipfile.ZipFile(options.corpus / f"{BAND}.train.zip") as band,
    ):
        for source, files in ((TUNES, tunes), (BAND, band)):
            beats = []
            for pair in pairs:
                truth = read_midi(tunes.read(pair[TUNES]))
                song = truth if source == TUNES else read_midi(files.read(pair[source]))
                beats += agreement(truth, song, vocabulary)
            root, both, confidence = np.array(beats, float).T
            sure = confidence >= UNSURE
            figures[source] = {
                "songs": len(pairs),
                "beats": len(beats),
                "root": round(root.mean(), 3),
                "root and third": round(both.mean(), 3),
                "unsure": round(1 - sure.mean(), 3),
                "root and third, sure": round(both[sure].mean(), 3),
                "root and third, unsure": round(both[~sure].mean(), 3),
            }
    text = json.dumps(figures, indent=1)
    print(text)
    if options.output:
        with whole_file(options.output, overwrite=True) as partial:
            partial.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
