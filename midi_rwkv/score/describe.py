"""Names a song's tracks, shows how each is interpreted, and warns of what may spoil a fill."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from .harmony import ChordSpan
from .instruments import pitch_name, program_name
from .keyswitches import keyswitches
from .score import Score, Track

MOST_CELLS = 250_000  # largest table, tracks x bars
MOST_LISTED = 12  # tracks or instruments named in a line
PULSES = (1, 2, 3, 4, 5, 6, 8)  # per quarter; a player who hears a click keeps to at least one of them
MIN_PULSE, CHANCE, MOST_PULSE = 0.15, 1.3, 0.3  # see `keeps_to_a_beat`
MIN_NOTES = 24  # fewer notes show nothing
DRUM_WORDS = re.compile(
    r"\b(drums?|drum ?set|(drum ?)?kit|perc|percussion|kick|snare|hi-?hats?|cymbals?"
    r"|schlagzeug|batter(ie|ia)|bater[ií]a)\b",
    re.IGNORECASE,
)
PITCHED_PERCUSSION = (47, *range(112, 120))  # programs whose tracks may be called drums
KIT, KICK, SNARE = range(35, 60), (35, 36), (37, 38, 39, 40)
CYMBALS = (42, 44, 46, 49, 51, 52, 53, 55, 57, 59)


class TrackNames(NamedTuple):
    """All names of one track, normalised by `normal`, the most specific first."""

    numbered: tuple[str, ...]  # with its number
    shown: tuple[str, ...]  # its name, or else its instrument; then the same with the instrument
    instruments: tuple[str, ...]


def label(track: Track, index: int) -> str:
    """The track's number and name, or its instrument if it has no name."""
    return f"{index + 1} {_shown(track)}"


def labels(score: Score, tracks: Iterable[int]) -> str:
    """The labels of tracks in one line; of many, only the first."""
    return listed([label(score.tracks[t], t) for t in tracks])


def listed(names: Sequence[str]) -> str:
    """Names in one line; of many, only the first."""
    more = len(names) - MOST_LISTED
    return ", ".join(names[:MOST_LISTED]) + (f" and {more} more" if more > 0 else "")


def heading(score: Score, index: int) -> str:
    """The label and the interpretation of a track, as `inspect` prints them."""
    named, text = score.tracks[index].name.strip(), instrument_text(score, index)
    return f"{index + 1} {named} ({text})" if named else f"{index + 1} {text}"


def instrument_text(score: Score, index: int) -> str:
    """How the track is interpreted: one instrument, or "Electric Bass (finger), then Flute from bar 9"."""
    stretches = _stretches(score, index)
    first = score.first_bar_number
    texts = [stretches[0][0]] + [f"then {name} from bar {bar + first}" for name, bar in stretches[1:]]
    return listed(texts)


def track_rows(score: Score) -> list[dict[str, Any]]:
    """One row per track, or per instrument of a track that changes program, with the number and places of its notes.

    `from_bar` is the number of the first bar of the instrument; `notes_per_bar` is None if the song is too big for a
    table.
    """
    rows = []
    table = None if too_big_for_a_table(score) else score.note_counts()
    for i, track in enumerate(score.tracks):
        runs = [run for run in _program_runs(score, i) if run[1] < len(score.bars)]
        starts = [bar for _, bar in runs]
        sounding = [runs[bisect_right(starts, score.bar_index_at(n.onset_ticks)) - 1][0] for n in track.notes]
        for program in dict.fromkeys(program for program, _ in runs):
            own = None
            if table is not None:
                own = [
                    n if len(runs) == 1 or runs[bisect_right(starts, b) - 1][0] == program else 0
                    for b, n in enumerate(table[i])
                ]
            rows.append(
                {
                    "number": i + 1,
                    "name": track.name,
                    "program": None if track.is_drum else program,
                    "instrument": program_name(program, is_drum=track.is_drum),
                    "from_bar": next(bar for p, bar in runs if p == program) + score.first_bar_number,
                    "channel": track.channel,
                    "notes": sounding.count(program),
                    "notes_per_bar": own,
                }
            )
    return rows


def too_big_for_a_table(score: Score) -> bool:
    """True if the song has more cells than anyone reads; only files made to be big have that many."""
    return len(score.tracks) * len(score.bars) > MOST_CELLS


def track_names(score: Score) -> list[TrackNames]:
    """The names of each track."""
    found = []
    for i, track in enumerate(score.tracks):
        number, shown = str(i + 1), _shown(track)
        instruments = [program_name(p, is_drum=track.is_drum) for p in track.programs]
        named = (shown, *(f"{shown} ({text})" for text in instruments))
        numbered = (number, heading(score, i), *(f"{number} {text}" for text in (*named, *instruments)))
        found.append(TrackNames(*(tuple(map(normal, x)) for x in (numbered, named, instruments))))
    return found


def normal(text: str) -> str:
    """A name in the form in which names are compared: without case, and without spaces around words and commas.

    An accent may be a character of its own, as in the names of files on a Mac.
    """
    return re.sub(r" ?, ?", ",", " ".join(unicodedata.normalize("NFC", text).casefold().split()))


def remarks(score: Score, remedy: str = '--as "{tracks}=Drums" takes {them} for drums') -> list[str]:
    """One line per thing in the song that may spoil a fill. `remedy` is the advice on tracks that look like drums."""
    found = []
    if not keeps_to_a_beat(score):
        found.append(
            "no beat grid: the notes lie anywhere between the file's beats, as in a recording without a click, and new "
            "notes will keep to the file's beats; set its tempo to the playing first (your sequencer's tempo detection)"
        )
    drums = [i for i, t in enumerate(score.tracks) if looks_like_drums(t, score.ticks_per_beat)]
    if drums:
        many = len(drums) > 1
        taken = listed(sorted({program_name(score.tracks[t].program) for t in drums}))
        said = remedy.format(tracks=",".join(str(t + 1) for t in drums), them="them" if many else "it")
        found.append(
            f"{labels(score, drums)} {'look' if many else 'looks'} like drums but {'are' if many else 'is'} not on "
            f"channel 10, so {'they are' if many else 'it is'} taken for {taken}; {said}"
        )
    return found


def keyswitch_remarks(score: Score) -> list[str]:
    """One line for each track with keyswitches."""
    found = []
    for t, track in enumerate(score.tracks):
        if notes := keyswitches(track, score.ticks_per_beat):
            pitches = listed([pitch_name(p) for p in sorted({n.pitch for n in notes})])
            found.append(
                f"{label(track, t)}: {len(notes)} notes at {pitches} are taken for keyswitches, not music; they stay "
                "where they are"
            )
    return found


def keeps_to_a_beat(score: Score) -> bool:
    """False if the song's notes do not follow the file's beats; True if there are too few notes to tell.

    For n notes without any beat, chance alone gives a strength that falls with the square root of n.
    """
    count = sum(len(t.notes) for t in score.tracks)
    return count < MIN_NOTES or pulse_strength(score) >= min(MOST_PULSE, MIN_PULSE + CHANCE / count**0.5)


def pulse_strength(score: Score) -> float:
    """How closely the onsets of all tracks follow an even division of the quarter, 0-1; the best of `PULSES`.

    This is the length of the mean of the onsets' phases. Swing and loose timing lower it, and a recording without a
    click has almost none (docs/decisions.md has the figures).
    """
    starts = np.array([b.start_ticks for b in score.bars])
    onsets = np.array([n.onset_ticks for t in score.tracks for n in t.notes])
    if not len(onsets):
        return 1.0
    bar = np.clip(np.searchsorted(starts, onsets, side="right") - 1, 0, None)
    quarters = (onsets - starts[bar]) / score.ticks_per_beat
    return max(float(abs(np.exp(2j * np.pi * pulse * quarters).mean())) for pulse in PULSES)


def looks_like_drums(track: Track, ticks_per_beat: int) -> bool:
    """True if a track that is read as pitched seems to be drums, by its name or by its notes."""
    if track.is_drum or track.is_overridden or not track.notes or track.program in PITCHED_PERCUSSION:
        return False
    return bool(DRUM_WORDS.search(track.name)) or _plays_a_kit(track, ticks_per_beat)


def _plays_a_kit(track: Track, ticks_per_beat: int) -> bool:
    """True for short notes on bass drum, snare and cymbals that are often struck together, and few other notes."""
    notes = track.notes
    pitches = np.array([n.pitch for n in notes])

    def share(of: Iterable[int]) -> float:
        return float(np.isin(pitches, list(of)).mean())

    if len(notes) < MIN_NOTES or np.median([n.duration_ticks for n in notes]) > ticks_per_beat / 2:
        return False
    kick, snare, cymbals, kit = share(KICK), share(SNARE), share(CYMBALS), share(KIT)
    if min(kick, snare) < 0.05 or cymbals < 0.1 or kit < 0.75 or kit - kick - snare - cymbals > 0.25:
        return False
    struck: dict[int, set[int]] = defaultdict(set)
    for n in notes:  # a person does not strike two notes at the same tick
        struck[round(n.onset_ticks * 8 / ticks_per_beat)].add(n.pitch)
    together = [bool(s.intersection(CYMBALS) and s.intersection(KICK + SNARE)) for s in struck.values()]
    return sum(together) >= 0.1 * len(together)


def _shown(track: Track) -> str:
    return track.name.strip() or program_name(track.program, is_drum=track.is_drum)


def _stretches(score: Score, index: int) -> list[tuple[str, int]]:
    """The instruments in order, each with the index of its first bar; the bar after the song counts too."""
    track = score.tracks[index]
    if not track.program_changes:
        return [(program_name(track.program, is_drum=track.is_drum), 0)]
    return [(program_name(program, is_drum=track.is_drum), bar) for program, bar in _program_runs(score, index)]


def _program_runs(score: Score, index: int) -> list[tuple[int, int]]:
    """The programs in order, each with the index of its first bar; the bar after the song counts too."""
    track, end = score.tracks[index], len(score.bars)
    at = {score.bar_index_at(change.tick) for change in track.program_changes}
    bars = sorted({0, *(b for b in at if b <= end), *(b + 1 for b in at if b < end)})  # elsewhere it stays
    runs: list[tuple[int, int]] = []
    for bar in bars:
        program = track.program_in(score.bar(bar))
        if not runs or runs[-1][0] != program:
            runs.append((program, bar))
    return runs


def chord_rows(score: Score, chords: Sequence[ChordSpan]) -> list[dict[str, Any]]:
    """One row per chord: its bar, the beat on which it begins and how many it lasts, as the time signature counts."""
    rows = []
    for c in chords:
        index = score.bar_index_at(c.start_ticks)
        bar = score.bar(index)
        beat = 4 * score.ticks_per_beat / bar.denominator
        rows.append(
            {
                "bar": index + score.first_bar_number,
                "beat": round(1 + (c.start_ticks - bar.start_ticks) / beat, 3),
                "beats": round((c.end_ticks - c.start_ticks) / beat, 3),
                "name": c.name,
                "confidence": c.confidence,
            }
        )
    return rows
