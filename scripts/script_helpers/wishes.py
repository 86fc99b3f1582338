"""Wishes: how each is asked for in a case, and how much of it was met, told from the notes alone."""

from __future__ import annotations

import itertools
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from midi_rwkv import Ask
from midi_rwkv.evaluation.cases import Case
from midi_rwkv.fill.part import opened, part_of
from midi_rwkv.model.config import DENSITY_WORDS
from midi_rwkv.score.harmony import ChordSpan
from midi_rwkv.score.score import Note, Score
from midi_rwkv.tokens.attributes import make_vocabulary
from midi_rwkv.tokens.chords import QUALITIES, find_chords
from midi_rwkv.tokens.notes import BarGrid, encode

VOCABULARY = make_vocabulary()


@dataclass(frozen=True)
class Filled:
    """A case, what was asked and what came of it."""

    case: Case
    ask: Ask
    before: Score
    after: Score  # of the spliced file

    @property
    def track(self) -> int:
        return self.case.tracks[0]

    @property
    def old(self) -> list[Note]:
        return notes_of(self.before, self.case)

    @property
    def new(self) -> list[Note]:
        return notes_of(self.after, self.case)

    @property
    def written(self) -> list[Note]:
        """The new notes that did not stand there before."""
        return sorted((Counter(self.new) - Counter(self.old)).elements())


def notes_of(score: Score, case: Case) -> list[Note]:
    """The notes of the cells of a case."""
    return [n for t, b in sorted(case.region.cells) for n in score.notes_in(t, b)]


@dataclass(frozen=True)
class Wish:
    """A wish: the fields of `Ask` and of `SamplingConfig` that say it in a case, and the share of it that was met."""

    name: str
    asked: Callable[[Case, Score], dict[str, Any]]
    met: Callable[[Filled], float]
    sampling: Callable[[Case, Score], dict[str, Any]] = lambda *_: {}


def share(values: Sequence[bool]) -> float:
    """The mean of some answers; 1 where nothing was asked."""
    return float(np.mean(values)) if len(values) else 1.0


# -- parts ------------------------------------------------------------------------------------------------------------


def beats(case: Case, score: Score) -> dict[str, Any]:
    """From the third quarter of the first bar to the end of the bar after it."""
    first, second = score.bar(case.first), score.bar(case.first + 1)
    return {"within": ((first.start_ticks + 2 * score.ticks_per_beat, second.end_ticks),)}


def half(case: Case, score: Score) -> int:
    """The pitch that halves the notes of a case."""
    return int(statistics.median([n.pitch for n in notes_of(score, case)] or [60]))


def stays(filled: Filled, note: Note) -> bool:
    """Whether a note is outside what was asked for."""
    ask, score = filled.ask, filled.before
    at = note.onset_ticks + score.lead_ticks(score.tracks[filled.track])
    if ask.within and not any(lo <= at < hi for lo, hi in ask.within):
        return True
    if ask.only and not ask.only[0] <= note.pitch <= ask.only[1]:
        return True
    return bool(ask.spare and ask.spare[0] <= note.pitch <= ask.spare[1]) or note in ask.locked.get(filled.track, ())


def part_met(filled: Filled) -> float:
    """What stays is there, and nothing new is outside the part."""
    kept = Counter(n for n in filled.old if stays(filled, n))
    outside = Counter(n for n in filled.new if stays(filled, n))
    return float(kept == outside)


def locks(case: Case, score: Score) -> dict[str, Any]:
    """Every third note."""
    return {"locked": {case.tracks[0]: notes_of(score, case)[::3]}}


def locks_met(filled: Filled) -> float:
    there = Counter(filled.new)
    return share([there[n] > 0 for n in filled.ask.locked[filled.track]])


# -- what is kept -----------------------------------------------------------------------------------------------------


def replaced(filled: Filled) -> tuple[list[Note], list[Note]]:
    """The notes that were to be replaced, and those that replace them. What was struck together within a position, a
    24th of a quarter, is in the order of pitch."""
    kept = Counter(n for n in filled.old if stays(filled, n))
    score = filled.before
    grid = BarGrid(VOCABULARY, score.bars, score.ticks_per_beat)

    def place(note: Note) -> tuple[int, int, int]:
        bar = score.bar_of(filled.track, note.onset_ticks)
        return bar, int(grid.place(np.array([bar]), np.array([note.onset_ticks]))[0][0]), note.pitch

    return sorted((Counter(filled.old) - kept).elements(), key=place), sorted((Counter(filled.new) - kept).elements())


def rhythm_met(filled: Filled) -> float:
    old, new = ([n.onset_ticks for n in notes] for notes in replaced(filled))
    return float(sorted(old) == new)


def pitches_met(filled: Filled) -> float:
    old, new = ([n.pitch for n in notes] for notes in replaced(filled))
    return float(old == new)


def touch_met(filled: Filled) -> float:
    """The velocities at each place of a kept rhythm."""
    old, new = (sorted((n.onset_ticks, n.velocity) for n in notes) for notes in replaced(filled))
    return float(old == new)


def contour_met(filled: Filled) -> float:
    """Steps within a bar that go the same way."""
    score, t = filled.before, filled.track
    old, new = replaced(filled)
    answers = [len(old) == len(new)]
    for b in range(filled.case.first, filled.case.last):
        was, now = ([n.pitch for n in ns if score.bar_of(t, n.onset_ticks) == b] for ns in (old, new))
        ways = [[np.sign(y - x) for x, y in itertools.pairwise(pitches)] for pitches in (was, now)]
        answers.append(ways[0] == ways[1])
    return share(answers)


def varied_met(filled: Filled) -> float:
    """Whether the share that is gone is no more than a note and a chord, strummed or not, above what was asked."""
    assert filled.ask.vary is not None
    old, new = Counter(filled.old), Counter(filled.new)
    if not old:
        return 1.0
    gone = (old - new).total()
    together = max(Counter(round(12 * n.onset_ticks / filled.before.ticks_per_beat) for n in filled.old).values())
    runs = -(-filled.case.n_bars // 4)
    return float(gone <= filled.ask.vary * old.total() + runs * (1 + together))


# -- harmony, limits and the rest -------------------------------------------------------------------------------------


def chords_of(case: Case, score: Score) -> dict[str, Any]:
    """The chords of the four bars before or after, which are not those of the case itself."""
    song = encode(VOCABULARY, score)
    found, grid = find_chords(song, VOCABULARY), BarGrid(VOCABULARY, score.bars, score.ticks_per_beat)
    spans: list[ChordSpan] = []
    for b in range(case.first, case.last):
        other = b - case.n_bars if b >= case.n_bars else b + case.n_bars
        bar, own = score.bars[b], grid.position_ticks(b)
        chords = [c for c in found.in_bar(other) if c.position < len(own)]
        ticks = [bar.start_ticks, *(int(own[c.position]) for c in chords[1:]), bar.end_ticks]
        for c, (lo, hi) in zip(chords, itertools.pairwise(ticks), strict=True):
            tones = frozenset((c.root + k) % 12 for k in QUALITIES[c.quality]) if c.quality else frozenset()
            spans.append(ChordSpan(lo, hi, c.quality, tones, root=c.root, bass=c.root, quality=c.quality))
    return {"chords": tuple(spans)}


def chords_met(filled: Filled) -> float:
    """Notes struck or held on the first beat of a bar or of a chord that are chord tones."""
    near, answers = filled.before.ticks_per_beat // 24, []
    lines = {filled.before.bar(b).start_ticks for b in range(filled.case.first, filled.case.last)}
    for chord in filled.ask.chords:
        strong = {chord.start_ticks} | {tick for tick in lines if chord.start_ticks <= tick < chord.end_ticks}
        for n in filled.written if chord.tones else ():
            for tick in strong:
                if n.onset_ticks - near <= tick < n.onset_ticks + n.duration_ticks:
                    answers.append(n.pitch % 12 in chord.tones)
    return share(answers)


def within(low: float, high: float, values: Sequence[float]) -> float:
    return share([low <= v <= high for v in values])


def open_bars(filled: Filled) -> list[int]:
    """The bars in which something may be written."""
    cells = opened(filled.before, filled.case.region, part_of(filled.before, filled.ask)).cells
    return sorted(cell.bar for cell in cells)


def counts(filled: Filled) -> list[int]:
    """New and locked notes a bar that is open."""
    part, score, t = part_of(filled.before, filled.ask), filled.before, filled.track
    found = []
    for b in open_bars(filled):
        kept = Counter(n for n in score.notes_in(t, b) if not part.holds(score, t, n))
        found.append((Counter(filled.after.notes_in(t, b)) - kept).total())
    return found


def density(case: Case, score: Score) -> dict[str, Any]:
    found = [len(score.notes_in(case.tracks[0], b)) for b in range(case.first, case.last)]
    return {"density": (max(1, min(found)), max(2, *found))}


def density_met(filled: Filled) -> float:
    asked = filled.ask.sampling.density
    assert isinstance(asked, tuple)
    return within(*asked, counts(filled))


def worded(word: str) -> Callable[[Filled], float]:
    """The notes of each bar against what the track's bars mostly have, by the factors of the word; in a part of a bar,
    to a note."""
    low, high = DENSITY_WORDS[word]

    def met(filled: Filled) -> float:
        score, t, part = filled.before, filled.track, part_of(filled.before, filled.ask)
        each = [sum(bool(part.pitches[n.pitch]) for n in score.notes_in(t, b)) for b in range(len(score.bars))]
        lengths = [b.end_ticks - b.start_ticks for b in score.bars]
        usual = statistics.median([n / length for n, length in zip(each, lengths, strict=True) if n] or [0])
        answers = []
        for b, count in zip(open_bars(filled), counts(filled), strict=True):
            start, end = score.bars[b][:2]
            spans = part.spans or ((start, end),)
            open_ticks = sum(max(0, min(end, hi) - max(start, lo)) for lo, hi in spans)
            slack = int(part.spans is not None)
            least, most = (round(round(x * usual * open_ticks, 6)) for x in (low, high))
            answers.append(not open_ticks or least - slack <= count <= max(1, most) + slack)
        return share(answers)

    return met


def struck_met(filled: Filled) -> float:
    struck = Counter(n.onset_ticks for n in filled.written)
    return share([k == 1 for k in struck.values()])


def spanned(case: Case, score: Score) -> dict[str, Any]:
    middle = half(case, score)
    return {"pitch_range": (max(0, middle - 7), min(127, middle + 7))}


def spanned_met(filled: Filled) -> float:
    assert filled.ask.sampling.pitch_range
    return within(*filled.ask.sampling.pitch_range, [n.pitch for n in filled.written])


def keyed(_: Case, score: Score) -> dict[str, Any]:
    """The seven pitch classes that the song has most."""
    found = Counter(n.pitch % 12 for t in score.tracks if not t.is_drum for n in t.notes)
    return {"key": tuple(sorted(p for p, _ in found.most_common(7)))}


def keyed_met(filled: Filled) -> float:
    assert filled.ask.sampling.key
    return share([n.pitch % 12 in filled.ask.sampling.key for n in filled.written])


def on_grid(filled: Filled) -> float:
    """Positions of 24 a quarter, to half a tick."""
    score, answers = filled.before, []
    for n in filled.written:
        bar = score.bar(score.bar_of(filled.track, n.onset_ticks))
        at = (n.onset_ticks - bar.start_ticks) * 24 / score.ticks_per_beat
        answers.append(abs(at - round(at)) * score.ticks_per_beat / 24 <= 0.5)
    return share(answers)


def fixed(**values: Any) -> Callable[[Case, Score], dict[str, Any]]:
    """The same in every case."""
    return lambda *_: values


WISHES = [
    Wish("--bars 8.3-9 (beats)", beats, part_met),
    Wish("--only (upper half)", lambda c, s: {"only": (half(c, s), 127)}, part_met),
    Wish("--keep C1-B3 (lower half)", lambda c, s: {"spare": (0, half(c, s) - 1)}, part_met),
    Wish("--lock (every third note)", locks, locks_met),
    Wish("--keep rhythm", fixed(keep={"rhythm"}), rhythm_met),
    Wish("--keep pitches", fixed(keep={"pitches"}), pitches_met),
    Wish("--keep contour", fixed(keep={"contour"}), contour_met),
    Wish("--keep rhythm,velocities", fixed(keep={"rhythm", "velocities"}), touch_met),
    *(Wish(f"--vary {x}", fixed(vary=x), varied_met) for x in (0.1, 0.3, 0.6)),
    Wish("--chords", chords_of, chords_met),
    Wish("--density LOW-HIGH", fixed(), density_met, density),
    Wish("--density sparse", fixed(), worded("sparse"), fixed(density="sparse")),
    Wish("--density busy", fixed(), worded("busy"), fixed(density="busy")),
    Wish("--polyphony 1", fixed(), struck_met, fixed(polyphony=(1, 1))),
    Wish("--pitch-range", fixed(), spanned_met, spanned),
    Wish("--key", fixed(), keyed_met, keyed),
    Wish("--feel grid", fixed(feel="grid"), on_grid),
]
