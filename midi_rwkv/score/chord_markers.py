"""The chord symbols that a MIDI file carries as markers or texts, where many programs write them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from midi_rwkv.errors import RequestError

from .harmony import ChordSpan, read_chord
from .midi import Source, load_midi
from .progression import parse_chords
from .score import Score
from .smf import MARKER, META, TEXT, decoded, meta_payload, read_events, read_layout

IN_FILE = "file"


def asked_chords(
    text: str,
    source: str | Path | bytes | Source,
    score: Score,
    bars: Sequence[tuple[int, int]],
    name: str = "--chords",
) -> tuple[ChordSpan, ...]:
    """The chords of a progression over some bars (`parse_chords`), or for "file" those that the file has there.

    Args:
        source: the file from which the score was read.
        bars: half-open ranges of bar indices.
        name: what the text is called in messages.

    Raises:
        RequestError: the text cannot be read, or the file has no chords in these bars.
    """
    if text.strip().lower() != IN_FILE:
        return parse_chords(text, score, bars, name)
    written = chords_in_file(source, score)
    inside = []
    for low, high in bars:
        start, end = score.bar(low).start_ticks, score.bar(high - 1).end_ticks
        inside += [
            replace(c, start_ticks=max(start, c.start_ticks), end_ticks=min(end, c.end_ticks))
            for c in written
            if c.start_ticks < end and c.end_ticks > start
        ]
    if not inside:
        where = "in these bars" if written else "among its markers and texts"
        raise RequestError(f"{name} {IN_FILE}: {score.name} has no chords {where}; write some like 'Am F | C G/B'")
    return tuple(inside)


def chords_in_file(source: str | Path | bytes | BinaryIO | Source, score: Score) -> tuple[ChordSpan, ...]:
    """The chord symbols among a file's markers and texts, each up to the next or to the song's end; () if it has none.

    Many programs write chords there. The texts of one kind in a chunk are read if at least half of them are chords, so
    that lyrics are not; letters in alphabetical order from A on name sections and are not read either.

    Raises:
        MidiError: the file cannot be read.
    """
    data, name, *_ = load_midi(source, score.name)
    layout = read_layout(data, name)
    found: dict[int, ChordSpan] = {}
    for chunk in range(len(layout.tracks)):
        events, _ = read_events(layout, chunk)
        for kind in (TEXT, MARKER):
            texts = [(e[0], decoded(meta_payload(e[2]))) for e in events if e[1] == META and e[2][0] == kind]
            chords = [c for tick, text in texts if (c := read_chord(text, tick))]
            if 2 * len(chords) >= len(texts) and not _name_sections([c.name for c in chords]):
                found.update((c.start_ticks, c) for c in chords)
    spans = [found[tick] for tick in sorted(found)]
    if not spans:
        return ()
    ends = [*(s.start_ticks for s in spans[1:]), max(score.bars[-1].end_ticks, spans[-1].start_ticks + 1)]
    return tuple(replace(s, end_ticks=end) for s, end in zip(spans, ends, strict=True))


def _name_sections(names: Sequence[str]) -> bool:
    return list(dict.fromkeys(names)) == list("ABCDEFG"[: len(set(names))])
