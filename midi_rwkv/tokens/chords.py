"""Which chords a song plays, told from its notes.

A bar is cut into beats; each beat has a profile, how long each pitch class sounds in it. A chord fits a profile as far
as its own tones sound and others don't; the best sequence of chords over the song, where a change costs something and
less on a bar line than inside a bar, is found by dynamic programming (Viterbi).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from midi_rwkv.score.harmony import NO_CHORD as NO_CHORD_NAME
from midi_rwkv.score.harmony import ChordSpan, chord_name, read_chord
from midi_rwkv.score.score import Score

from .attributes import DRUMS, POSITIONS_PER_QUARTER, Vocabulary
from .notes import AT, BarGrid, SongNotes, encode

# MidiTok's names, and the semitones above the root.
QUALITIES: dict[str, tuple[int, ...]] = {
    "maj": (0, 4, 7),
    "min": (0, 3, 7),
    "7dom": (0, 4, 7, 10),
    "7min": (0, 3, 7, 10),
    "7maj": (0, 4, 7, 11),
    "sus4": (0, 5, 7),
    "sus2": (0, 2, 7),
    "dim": (0, 3, 6),
    "7halfdim": (0, 3, 6, 10),
    "7dim": (0, 3, 6, 9),
    "aug": (0, 4, 8),
    "7aug": (0, 4, 8, 10),
    "9maj": (0, 4, 7, 11, 2),
    "9min": (0, 3, 7, 10, 2),
}
_RARITY = (0.0, 0.02, 0.08, 0.08, 0.14, 0.15, 0.17, 0.1, 0.12, 0.12, 0.17, 0.22, 0.35, 0.35)
_NO_CHORD = 0.25  # what no chord scores
_CHANGE_IN_BAR, _CHANGE_AT_BAR = 0.45, 0.2
_FOREIGN = 1.0  # what a foreign tone costs, where a chord tone earns 1
_MISSING = (0.25, 0.25, 0.08, 0.2, 0.15)  # for a root, third, fifth, seventh, ninth that does not sound
_BASS_IS_ROOT = 0.12
_SURE = 0.2  # the margin at which the confidence is 1 - 1/e
NO_CHORD = -1


@dataclass(frozen=True)
class Chord:
    """A chord from a position of a bar on. quality: a key of QUALITIES, "" for no chord; root, bass: pitch classes."""

    position: int
    quality: str
    root: int = 0
    bass: int = 0


@dataclass(frozen=True)
class SongChords:
    """A chord a beat. Beats of bar b are rows `offsets[b]` to `offsets[b + 1]` of `beats`.

    beats: (n, 4) the position in the bar, an index into QUALITIES or NO_CHORD, the pitch class of the root, and that of
    the lowest note, or of the root where the lowest note is no chord tone.
    """

    beats: np.ndarray
    offsets: np.ndarray  # (B + 1,)

    def moved(self, semitones: int) -> SongChords:
        """The chords of the song in another key."""
        beats = self.beats.copy()
        beats[:, 2:] = (beats[:, 2:] + semitones) % 12
        return SongChords(beats, self.offsets)

    def in_bar(self, bar: int) -> list[Chord]:
        """The chord that the bar begins with, and those that follow in it."""
        names = list(QUALITIES)
        out: list[Chord] = []
        for position, quality, root, bass in self.beats[self.offsets[bar] : self.offsets[bar + 1]].tolist():
            chord = Chord(position, names[quality], root, bass) if quality != NO_CHORD else Chord(position, "")
            if not out or (chord.quality, chord.root) != (out[-1].quality, out[-1].root):
                out.append(chord)
        return out


def _templates() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each quality at root 0: tones (Q, 12), what each missing tone costs (Q, 12), rarity (Q,)."""
    tones, missing = np.zeros((len(QUALITIES), 12)), np.zeros((len(QUALITIES), 12))
    for q, steps in enumerate(QUALITIES.values()):
        tones[q, list(steps)] = 1
        missing[q, list(steps)] = _MISSING[: len(steps)]
    return tones, missing, np.array(_RARITY)


def beat_positions(song: SongNotes, vocabulary: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
    """Where each bar's beats begin, in positions: (n,), and offsets by bar, (B + 1,).

    A beat is a quarter, in x/2 a half, in 3/8, 6/8, 9/8 and 12/8 a dotted quarter.
    """
    positions = []
    for header, length in zip(song.headers.tolist(), song.lengths.tolist(), strict=True):
        numerator, denominator = map(int, vocabulary.tokens[header].removeprefix("TimeSig_").split("/"))
        if denominator >= 8 and numerator % 3 == 0:
            beat = 3 * 4 * POSITIONS_PER_QUARTER // denominator
        else:
            beat = min(48, max(24, 4 * POSITIONS_PER_QUARTER // denominator))
        positions.append(np.arange(0, length, beat))
    offsets = np.concatenate([[0], np.cumsum([len(p) for p in positions])])
    return np.concatenate([np.zeros(0, np.int64), *positions]), offsets


def find_chords(song: SongNotes, vocabulary: Vocabulary) -> SongChords:
    """The chords of a song's pitched tracks."""
    beats = _beats(song, vocabulary)
    return _on_path(_viterbi(_fits(beats), beats.positions == 0), beats)


def chord_spans(score: Score, vocabulary: Vocabulary) -> tuple[ChordSpan, ...]:
    """The chords of a song as musicians write them, each within one bar, with the confidence in its root and third.

    The bass is that of the chord's first beat; sharps or flats are those of the major key whose scale sounds longest.
    The confidence is the mean over a chord's beats of 1 - exp(-m / 0.2), where m is how much more the best sequence of
    chords scores than the best that has another root or third, and other tones, at that beat. A bar in which nothing
    sounds has no chord.
    """
    beats = _beats(encode(vocabulary, score), vocabulary)
    fits, at_bar = _fits(beats), beats.positions == 0
    path = _viterbi(fits, at_bar)
    confidence = 1 - np.exp(-_margins(fits, at_bar, path) / _SURE)
    sounding = np.add.reduceat(beats.profile.sum(1), beats.offsets[:-1])
    silent = np.repeat(sounding == 0, np.diff(beats.offsets))
    path[silent], confidence[silent] = fits.shape[1] - 1, 1.0
    chords = _on_path(path, beats).beats.tolist()
    tonic = _tonic(beats.profile.sum(0))
    grid, names = BarGrid(vocabulary, score.bars, score.ticks_per_beat), list(QUALITIES)
    spans = []
    for bar, (low, high) in enumerate(pairwise(beats.offsets.tolist())):
        ticks = grid.position_ticks(bar)
        firsts = [i for i in range(low, high) if i == low or chords[i][1:3] != chords[i - 1][1:3]]
        for first, stop in pairwise([*firsts, high]):
            position, quality, root, bass = chords[first]
            end = int(ticks[chords[stop][0]]) if stop < high else score.bars[bar].end_ticks
            name = chord_name(names[quality], root, bass, tonic) if quality != NO_CHORD else NO_CHORD_NAME
            chord = read_chord(name, int(ticks[position]), end)
            assert chord is not None, name
            spans.append(replace(chord, confidence=round(float(confidence[first:stop].mean()), 3)))
    return tuple(spans)


class _Beats(NamedTuple):
    """The beats of a song (`beat_positions`) and what sounds in them (`_profiles`)."""

    positions: np.ndarray  # (n,)
    offsets: np.ndarray  # (B + 1,)
    profile: np.ndarray  # (n, 12)
    lowest: np.ndarray  # (n,)


def _beats(song: SongNotes, vocabulary: Vocabulary) -> _Beats:
    positions, offsets = beat_positions(song, vocabulary)
    starts = np.concatenate([[0], np.cumsum(song.lengths.astype(np.int64))])
    bar_of_beat = np.repeat(np.arange(song.n_bars), np.diff(offsets))
    begins = starts[bar_of_beat] + positions
    return _Beats(positions, offsets, *_profiles(song, vocabulary, starts, np.append(begins, starts[-1])))


def _fits(beats: _Beats) -> np.ndarray:
    """How well each chord fits each beat, (n, 12 Q + 1): column root * Q + quality, the last one for no chord."""
    total = beats.profile.sum(1, keepdims=True)
    share = beats.profile / np.maximum(total, 1e-9)
    tones, missing, rarity = _templates()
    Q = len(QUALITIES)
    score = np.zeros((len(beats.positions), Q * 12 + 1))
    score[:, -1] = _NO_CHORD
    for root in range(12):
        turned = np.roll(share, -root, axis=1)
        sounding = turned @ tones.T
        fits = sounding - _FOREIGN * (1 - sounding) - (turned < 0.03) @ missing.T - rarity
        score[:, root * Q : (root + 1) * Q] = fits + _BASS_IS_ROOT * (beats.lowest % 12 == root)[:, None]
    silent = total[:, 0] <= 0
    score[silent] = 0
    score[silent, -1] = 0.02
    return score


def _on_path(path: np.ndarray, beats: _Beats) -> SongChords:
    """The chords of a path through the columns of `_fits`."""
    Q = len(QUALITIES)
    tones, _, _ = _templates()
    chord = path < Q * 12
    qualities = np.where(chord, path % Q, NO_CHORD)
    roots = np.where(chord, path // Q, 0)
    is_tone = tones[np.maximum(qualities, 0), (beats.lowest - roots) % 12] > 0
    basses = np.where(chord & is_tone & (beats.lowest < 128), beats.lowest % 12, roots)
    return SongChords(np.stack([beats.positions, qualities, roots, basses], 1).astype(np.int16), beats.offsets)


def _tonic(profile: np.ndarray) -> int:
    """The tonic of the major key whose scale sounds longest; of several, the one whose triad does. profile: (12,)."""
    scale = np.zeros(12)
    scale[[0, 2, 4, 5, 7, 9, 11]] = 1
    scale[[0, 4, 7]] += 1e-3
    return int(np.argmax([np.roll(scale, tonic) @ profile for tonic in range(12)]))


def _profiles(
    song: SongNotes, vocabulary: Vocabulary, starts: np.ndarray, edges: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How long each pitch class sounds in each beat, (n, 12), and the lowest pitch that sounds as it begins, (n,),
    128 where none does. edges: (n + 1,) positions from the song's start."""
    n = len(edges) - 1
    profile, lowest = np.zeros((n, 12)), np.full(n, 128)
    cell = np.repeat(np.arange(len(song.offsets) - 1), np.diff(song.offsets))
    bar, track = np.divmod(cell, max(1, song.n_tracks))
    pitched = song.programs[track] != DRUMS
    notes, bar = song.notes[pitched].astype(np.int64), bar[pitched]
    if not len(notes) or not n:
        return profile, lowest
    begin = starts[bar] + notes[:, AT.position]
    end = np.minimum(begin + vocabulary.durations[notes[:, AT.duration]], edges[-1])
    first = np.searchsorted(edges, begin, side="right") - 1
    last = np.maximum(first, np.searchsorted(edges, end, side="left") - 1)
    count = last - first + 1
    note = np.repeat(np.arange(len(notes)), count)
    beat = first[note] + np.arange(len(note)) - np.repeat(np.cumsum(count) - count, count)
    inside = np.minimum(end[note], edges[beat + 1]) - np.maximum(begin[note], edges[beat])
    np.add.at(profile, (beat, notes[note, AT.pitch] % 12), np.maximum(inside, 1))
    early = begin[note] <= edges[beat] + POSITIONS_PER_QUARTER // 6  # a bass note that comes later is a passing one
    np.minimum.at(lowest, beat[early], notes[note[early], AT.pitch])
    return profile, lowest


def _viterbi(score: np.ndarray, at_bar: np.ndarray) -> np.ndarray:
    """The path of the highest score less its changes. score (n, S), at_bar (n,): whether a beat begins a bar."""
    n = len(score)
    back = np.zeros(score.shape, np.int16)
    best = np.zeros(score.shape[1])
    stay = np.arange(score.shape[1])
    for i in range(n):
        top = int(best.argmax())
        change = best[top] - (_CHANGE_AT_BAR if at_bar[i] else _CHANGE_IN_BAR)
        back[i] = np.where(change > best, top, stay)
        best = np.maximum(best, change) + score[i]
    path = np.zeros(n, np.int64)
    state = int(best.argmax()) if n else 0
    for i in range(n - 1, -1, -1):
        path[i] = state
        state = int(back[i, state])
    return path


def _margins(score: np.ndarray, at_bar: np.ndarray, path: np.ndarray) -> np.ndarray:
    """How much less than the path the best one scores that has, at a beat, another root or third and other tones, (n,).

    score, at_bar: as for `_viterbi`, which found the path.
    """
    change = np.where(at_bar, _CHANGE_AT_BAR, _CHANGE_IN_BAR)
    until = np.zeros(score.shape)  # the best score of the beats up to each one, with each chord on it
    best = np.zeros(score.shape[1])
    for i in range(len(score)):
        best = np.maximum(best, best.max() - change[i]) + score[i]
        until[i] = best
    rivals = _rivals()
    margins = np.zeros(len(score))
    after = np.zeros(score.shape[1])  # the best score of the beats after this one, with each chord on it
    for i in range(len(score) - 1, -1, -1):
        through = until[i] + after
        margins[i] = through[path[i]] - through[rivals[path[i]]].max()
        after = after + score[i]
        after = np.maximum(after, after.max() - change[i])
    return margins


def _rivals() -> np.ndarray:
    """Which columns of `_fits` are chords of another root or third, and of other tones: (12 Q + 1, 12 Q + 1)."""
    kinds = [(root, 3 in steps, 4 in steps) for root in range(12) for steps in QUALITIES.values()]
    tones = [frozenset((root + s) % 12 for s in steps) for root in range(12) for steps in QUALITIES.values()]
    both = list(zip([*kinds, (NO_CHORD, False, False)], [*tones, frozenset()], strict=True))
    return np.array([[kind != other and sounding != others for other, others in both] for kind, sounding in both])
