"""Makes an `Ask` of what a person types: the command, the page and the API take the same words here.

A word's own errors name the option as the caller writes it: `--no-quotes`, `no_quotes` or a label of the page.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from midi_rwkv.errors import MidiRwkvError, RequestError
from midi_rwkv.model.checkpoint import load_vocabulary
from midi_rwkv.model.config import SamplingConfig
from midi_rwkv.score.chord_markers import asked_chords
from midi_rwkv.score.harmony import ChordSpan
from midi_rwkv.score.midi import Source
from midi_rwkv.score.score import Region, Score
from midi_rwkv.tokens.chords import chord_spans

from .arguments import parse_pitch, parse_range, parse_tracks
from .ask import FEELS, KEEPS, Ask, Like, Pitches, Span
from .places import looks_like_bars, parse_bars, parse_locked

NOTHING, ITSELF = "none", "itself"  # words of `like`
BASSES = ("root", "free")
AUTO = "auto"  # chords as the other tracks play them
SURE = 0.5  # confidence from which these count
SONG = re.compile(r"(.*?\.(?:midi?|kar))(?::(.*))?", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What must hold of the new notes, as people write it. What is empty, or None, is not asked for.

    Attributes:
        only: a range of pitches, like "C4-C7"; only notes in it are replaced and written.
        keep: words of KEEPS, or a range of pitches whose notes stay; each text may hold several, with commas.
        lock: notes that stay, by bar, beat and pitch, like "9.1:C4".
        vary: the share of the notes to write anew, 0-1.
        chords: a progression (score/progression.py), "file" for the chord symbols of the file, or "auto" for those
            that the tracks around the new notes play.
        chords_bass: "root", or "free" for a bass that need not play a chord's bass note where the chord begins.
        like: bars to follow: "1-4", "Lead:9-12", "other.mid:Lead:9-12", "none" or "itself".
        again: whether what stood in the region may come back.
        feel: one of FEELS, or bars to take the feel from.
        no_quotes: new notes repeat no run of so many notes from the training music or from the style's pieces.
    """

    only: str | None = None
    keep: Sequence[str] = ()
    lock: Sequence[str] = ()
    vary: float | None = None
    chords: str | None = None
    chords_bass: str = "root"
    like: str | None = None
    again: bool = False
    feel: str = "track"
    no_quotes: int | None = None


@dataclass(frozen=True)
class Wording:
    """How the caller names the options, and which songs they may be about.

    Attributes:
        name: an option's name for messages, from its name in `Wishes`.
        source: the file of the song that is filled, for its chord symbols.
        find_song: reads the other song that `like` names; None: it may name none.
        other: the song of which `like` names tracks and bars; None: the one that is filled.
    """

    name: Callable[[str], str]
    source: bytes | Source
    find_song: Callable[[str], Score] | None = None
    other: Score | None = None


def ask_for(
    wishes: Wishes, score: Score, region: Region, sampling: SamplingConfig, *, wording: Wording, **others: Any
) -> Ask:
    """The request for a fill of a region. `others` are fields of `Ask` as they are, which count before wishes.

    Raises:
        RequestError: a wish cannot be read, or does not fit the song.
    """
    Ask(region).check(score)
    name = wording.name
    keep, spare = parse_keep(wishes.keep, name("keep"))
    if wishes.chords_bass not in BASSES:
        raise RequestError(f"{name('chords_bass')} must be {' or '.join(BASSES)}, got {wishes.chords_bass!r}")
    if wishes.chords_bass != BASSES[0] and not wishes.chords:
        raise RequestError(f"{name('chords_bass')} is for chords that are asked for; give {name('chords')} too")
    if (wishes.like or "").strip().lower() == NOTHING:
        sampling = replace(sampling, follow=0.0)
    asked: dict[str, Any] = {
        "locked": parse_locked(wishes.lock, score, region, name("lock")),
        "only": parse_pitches(wishes.only, name("only")),
        "spare": spare,
        "keep": keep,
        "vary": wishes.vary,
        "chords": _chords(wishes.chords, score, region, wording),
        "free_bass": wishes.chords_bass == "free",
        "like": parse_like(wishes.like, score, wording),
        "again": wishes.again,
        "feel": parse_feel(wishes.feel, score, name("feel")),
        "quotes": wishes.no_quotes,
    }
    try:
        return Ask(region, sampling, **{**asked, **others})
    except RequestError as error:
        field = re.split(r"\W", str(error), maxsplit=1)[0]
        wish = "no_quotes" if field == "quotes" else field
        if not hasattr(wishes, wish):
            raise
        raise RequestError(name(wish) + str(error)[len(field) :]) from None


def parse_pitches(text: str | None, name: str) -> Pitches | None:
    """`C4-C7` to the lowest and the highest pitch."""
    span = parse_range(name, text or None, parse_pitch)
    if span and not span[0] <= span[1] <= 127:
        raise RequestError(f"{name} must rise and end at G9 (127), got {text}")
    return span


def parse_keep(texts: Sequence[str], name: str) -> tuple[frozenset[str], Pitches | None]:
    """Words of KEEPS and a range of pitches, in one text with commas or in several, to what is kept and spared."""
    words, spare = set(), None
    for text in (part.strip() for whole in texts for part in whole.split(",")):
        if text.lower() in KEEPS:
            words.add(text.lower())
            continue
        if re.fullmatch("[A-Za-z]+", text) or not text:
            raise RequestError(f"{name} takes {', '.join(KEEPS)}, or pitches like C1-B3, got {text!r}")
        if spare:
            raise RequestError(f"{name} takes one range of pitches, got {text!r} as a second")
        spare = parse_pitches(text, name)
    return frozenset(words), spare


def parse_like(text: str | None, score: Score, wording: Wording) -> Like | None:
    """Which bars to follow, in the forms that `Wishes` shows. "none" is a matter of `SamplingConfig.follow`."""
    name, text = wording.name("like"), (text or "").strip()
    if text.lower() in ("", NOTHING) and not wording.other:
        return None
    if text.lower() == ITSELF and not wording.other:
        return Like(itself=True)
    source, other = wording.other or score, wording.other
    if found := SONG.fullmatch(text):
        if wording.find_song is None:
            raise RequestError(f"{name} takes bars of this song, {NOTHING} or {ITSELF}, got {text!r}")
        source = other = wording.find_song(found[1])
        text = found[2] or ""
    track, _, bars = text.rpartition(":")
    if bars.strip() and not looks_like_bars(bars):  # a name, perhaps with a colon in it
        track, bars = text, ""
    index = _track(track, source, name) if track.strip() else None
    ranges: tuple[Span, ...] = tuple(parse_bars([bars], source, name, continues=False)) if bars.strip() else ()
    return Like(ranges, index, other)


def parse_feel(text: str, score: Score, name: str) -> str | tuple[Span, ...]:
    """One of FEELS as it is, or bars to their half-open ranges."""
    word = text.strip().lower()
    if word in FEELS:
        return word
    if not looks_like_bars(text):
        raise RequestError(f"{name} must be {', '.join(FEELS)} or bars like 5-8, got {text!r}")
    return tuple(parse_bars([text], score, name, continues=False))


def _track(text: str, score: Score, name: str) -> int:
    try:
        tracks = parse_tracks(text, score)
    except MidiRwkvError as error:
        raise RequestError(f"{name}: {error}") from None
    if len(tracks) != 1:
        raise RequestError(f"{name} follows one track or each its own, got {text!r}; name one")
    return tracks[0]


def _chords(text: str | None, score: Score, region: Region, wording: Wording) -> tuple[ChordSpan, ...]:
    text, name = (text or "").strip(), wording.name("chords")
    if not text:
        return ()
    if text.lower() == AUTO:
        return _heard(score, region, name)
    return asked_chords(text, wording.source, score, region.bar_runs(), name)


def _heard(score: Score, region: Region, name: str) -> tuple[ChordSpan, ...]:
    """The chords that the rest of the song plays in a region, where it is clear which, over their roots."""
    music = score.with_fill(region, {t: [] for t in region.tracks})
    bars = [score.bar(b)[:2] for b in region.bars]
    found = tuple(
        replace(chord, bass=chord.root)  # the bass may be what is to be written
        for chord in chord_spans(music, load_vocabulary())
        if chord.tones and chord.confidence >= SURE and any(lo <= chord.start_ticks < hi for lo, hi in bars)
    )
    if not found:
        raise RequestError(f"{name} {AUTO}: no chord is clear from the other tracks in these bars; write the chords")
    return found
