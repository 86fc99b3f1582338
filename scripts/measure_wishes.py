"""How exactly wishes are met on songs that the model has not seen, alone and in pairs, and what they cost.

    python scripts/measure_wishes.py VALID.zip wishes.md [--cases 60] [--pairs 60] [--bars 4]

Each wish is asked for in the same cases (one pitched track, a few bars; `evaluation/cases.py`), derived from the case
where that makes sense: the original's chords, a range of its densities. What is met is told from the spliced file read
back, by checks that know nothing of how fills are made. Beside them stand the share of the cases refused, the time of a
fill as a ratio to one without wishes of the same case, and how far the fill is from the original, by onset F1 and the
overlap of pitches, beside the same without wishes. Pairs are drawn at random.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from script_helpers.style_fills import frozen_model
from script_helpers.tables import markdown
from script_helpers.wishes import WISHES, Filled, Wish, notes_of

from midi_rwkv import Ask, Infiller, RequestError, SamplingConfig, load_checkpoint, read_midi
from midi_rwkv.evaluation.cases import Case, Songs, draw_cases
from midi_rwkv.evaluation.metrics import Section, onset_f1, pitch_overlap
from midi_rwkv.files import whole_file
from midi_rwkv.score.splice import splice
from midi_rwkv.style.adapters import read_samples
from midi_rwkv.style.tuning import fills_nats
from midi_rwkv.tokens.notes import encode
from midi_rwkv.training.rows import PLAIN
from midi_rwkv.training.valid import Place, lay_out


@dataclass
class Row:
    """What a wish, or two, came to."""

    name: str
    met: list[float] = field(default_factory=list)  # the least of the wishes' shares, by case
    refused: int = 0
    slower: list[float] = field(default_factory=list)
    near: list[tuple[float, float]] = field(default_factory=list)  # onset F1 and pitch overlap
    plain: list[tuple[float, float]] = field(default_factory=list)  # of the same cases without wishes
    nats: list[tuple[float, float]] = field(default_factory=list)  # a note, with and without

    def cells(self) -> list[Any]:
        """A row of the table."""
        n = max(1, len(self.met))
        near, plain = (np.mean(x, 0) if x else np.zeros(2) for x in (self.near, self.plain))
        return [
            self.name,
            len(self.met),
            self.refused,
            f"{sum(m == 1 for m in self.met) / n:.1%}",
            f"{sum(self.met) / n:.1%}",
            round(statistics.median(self.slower or [0]), 2),
            *(f"{a:.2f} ({b:.2f})" for a, b in zip(near, plain, strict=True)),
            "{:.2f} ({:.2f})".format(*np.mean(self.nats, 0)) if self.nats else "",
        ]


HEAD = [
    *("wish", "cases", "refused", "met wholly", "share met", "time"),
    *("onset F1 (without)", "pitch overlap (without)", "nats a note (without)"),
]


class Measurement:
    """Fills cases and checks them."""

    def __init__(self, songs: Songs, seed: int):
        self.songs, self.seed = songs, seed
        self.infiller = Infiller(load_checkpoint())
        self._plain: dict[str, tuple[float, tuple[float, float], float | None]] = {}

    def fill(self, case: Case, wishes: Sequence[Wish]) -> tuple[Filled, float]:
        """A fill and its processor time in seconds."""
        data = self.songs.data[case.file]
        score = read_midi(data)
        sampling = SamplingConfig(**{k: v for w in wishes for k, v in w.sampling(case, score).items()})
        asked = {k: v for w in wishes for k, v in w.asked(case, score).items()}
        if len(wishes) == 2 and all("keep" in w.asked(case, score) for w in wishes):
            asked["keep"] = {k for w in wishes for k in w.asked(case, score)["keep"]}
        ask = Ask(case.region, sampling, seed=case.seed, **asked)
        began = time.process_time()
        [found] = self.infiller(score, ask)
        seconds = time.process_time() - began
        after = read_midi(splice(data, score, case.region, found.fills))
        return Filled(case, ask, score, after), seconds

    def nats(self, filled: Filled) -> float | None:
        """Nats a note of the bars as they have become, asked for nothing; None where they have become empty."""
        case, vocabulary = filled.case, self.infiller.writing.vocabulary
        place = Place("", 0, [filled.track], (case.first, case.last), PLAIN)
        steps, notes = lay_out(vocabulary, encode(vocabulary, filled.after), place)
        if not notes:
            return None
        nats: float = fills_nats(frozen_model(), read_samples(load_checkpoint(), [steps[:-1]]))[0] / notes
        return nats

    def nats_before(self, cases: Sequence[Case]) -> float:
        """Nats a note of the bars as they were, the mean over the cases."""
        scores = [self.songs.read(case.file) for case in cases]
        found = [self.nats(Filled(c, Ask(c.region), s, s)) for c, s in zip(cases, scores, strict=True)]
        return float(np.mean([nats for nats in found if nats is not None]))

    def measure(self, wishes: Sequence[Wish], cases: Sequence[Case]) -> Row:
        """What some wishes come to in some cases."""
        row = Row(" and ".join(w.name for w in wishes))
        for case in cases:
            if case.id not in self._plain:
                filled, seconds = self.fill(case, [])
                self._plain[case.id] = seconds, nearness(filled), self.nats(filled)
            try:
                filled, seconds = self.fill(case, wishes)
            except RequestError:
                row.refused += 1
                continue
            row.met.append(min(w.met(filled) for w in wishes))
            row.slower.append(seconds / self._plain[case.id][0])
            row.near.append(nearness(filled))
            row.plain.append(self._plain[case.id][1])
            nats = (self.nats(filled) if len(wishes) == 1 else None), self._plain[case.id][2]
            if nats[0] is not None and nats[1] is not None:
                row.nats.append((nats[0], nats[1]))
        return row


def nearness(filled: Filled) -> tuple[float, float]:
    """Onset F1 and pitch overlap with the original."""
    score, case, track = filled.before, filled.case, filled.before.tracks[filled.track]
    bars = [score.bar(b) for b in range(case.first, case.last)]
    new, old = (Section.of(ns, bars, score.ticks_per_beat, is_drum=track.is_drum) for ns in (filled.new, filled.old))
    return onset_f1(new, old), pitch_overlap(new, old)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("songs", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--cases", type=int, default=60)
    parser.add_argument("--pairs", type=int, default=60, help="pairs of wishes")
    parser.add_argument("--cases-a-pair", type=int, default=60)
    parser.add_argument("--bars", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    songs = Songs(options.songs)
    cases = [
        case
        for case in draw_cases(songs, 2 * options.cases, [options.bars], settings=["rewrite"], seed=options.seed)
        if notes_of(songs.read(case.file), case)
    ][: options.cases]
    measurement, rng = Measurement(songs, options.seed), np.random.default_rng(options.seed)
    measurement.fill(cases[0], [])  # compiles
    before = f"The bars as they were have {measurement.nats_before(cases):.2f} nats a note."
    print(before, flush=True)
    tables: list[list[list[Any]]] = [[], []]
    for wish in WISHES:
        tables[0].append(measurement.measure([wish], cases).cells())
        print(*tables[0][-1], sep=" | ", flush=True)
    pairs = list(itertools.combinations(WISHES, 2))
    for k in rng.choice(len(pairs), min(options.pairs, len(pairs)), replace=False).tolist():
        tables[1].append(measurement.measure(pairs[k], cases[: options.cases_a_pair]).cells())
        print(*tables[1][-1], sep=" | ", flush=True)
    with whole_file(options.out, overwrite=True) as partial:
        parts = [before, *(markdown(HEAD, rows) for rows in tables if rows)]
        partial.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
