"""`midi-rwkv inspect`: tracks x bars, how each track is interpreted, and what is unusual about the song."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from midi_rwkv.errors import RequestError

from .terminal import say

if TYPE_CHECKING:
    from midi_rwkv.score.harmony import ChordSpan
    from midi_rwkv.score.midi import Source
    from midi_rwkv.score.score import Score

BARS_PER_LINE, CHORD_BARS_PER_LINE = 16, 4
HEAD_WIDTH = 40


def add_inspect_command(commands: Any) -> None:
    p = commands.add_parser(
        "inspect",
        help="show tracks, bars and note counts",
        description="Show a song's tracks x bars, and how each track is interpreted.",
    )
    p.set_defaults(run=run_inspect, stops_at_once=True)
    p.add_argument("song", help="a MIDI file or a MusicXML score, or - for standard input")
    add_as(p)
    p.add_argument(
        "--chords",
        action="store_true",
        help="also print the chords, told from the notes, as `infill --chords` takes them (? where one is unsure), and "
        "those that the file has as markers or texts",
    )
    p.add_argument("--json", action="store_true", help="print JSON; a track that changes instrument has a row for each")


def add_as(parser: argparse.ArgumentParser) -> None:
    """Adds --as, which overrides how a track is interpreted."""
    parser.add_argument(
        "--as",
        dest="taken_as",
        action="append",
        default=[],
        metavar="TRACK=INSTRUMENT",
        help="treat a track as Drums, or as an instrument by General MIDI number or name, whatever the file says; the "
        "file keeps its programs; may be repeated",
    )


def read_source(song: str) -> Source:
    """The song's bytes, read once, and its name for messages. `-` is standard input."""
    from midi_rwkv.score.midi import load_midi

    if song != "-":
        return load_midi(song)
    if sys.stdin is None or sys.stdin.isatty():
        raise RequestError("there is no song on standard input; send a MIDI file into it: midi-rwkv ... - < song.mid")
    return load_midi(sys.stdin.buffer, "standard input")


def run_inspect(options: argparse.Namespace) -> None:
    from midi_rwkv.fill.arguments import parse_as
    from midi_rwkv.score.describe import chord_rows, keyswitch_remarks, remarks, track_rows
    from midi_rwkv.score.midi import read_midi

    source = read_source(options.song)
    score = parse_as(options.taken_as, read_midi(source, allow_empty=True))
    told, written = _chords(source, score) if options.chords else ((), ())
    if options.json:
        report: dict[str, Any] = {
            "name": score.name,
            "ticks_per_beat": score.ticks_per_beat,
            "tempo_bpm": round(score.tempo_at(0), 2),
            "first_bar": score.first_bar_number,
            "last_bar": score.last_bar_number,
            "time_signatures": [f"{b.numerator}/{b.denominator}" for b in score.bars],
            "tracks": track_rows(score),
            "warnings": remarks(score),
            "remarks": keyswitch_remarks(score),
        }
        if options.chords:
            report |= {"chords": chord_rows(score, told), "chords_in_file": chord_rows(score, written)}
        say(json.dumps(report))
        return
    notes = sum(len(t.notes) for t in score.tracks)
    say(
        f"{score.name}: {len(score.tracks)} tracks, bars {score.first_bar_number}-{score.last_bar_number}, "
        f"{notes} notes, {score.tempo_at(0):.0f} BPM"
    )
    for remark in remarks(score):
        say(f"warning: {remark}")
    for remark in keyswitch_remarks(score):
        say(remark)
    _say_tracks(score)
    for head, chords in (("chords, told from the notes:", told), ("chords in the file:", written)):
        if chords:
            say(f"\n{head}")
            _say_chords(score, chords)


def _chords(source: Source, score: Score) -> tuple[tuple[ChordSpan, ...], tuple[ChordSpan, ...]]:
    """The chords that the notes tell, and those that the file has."""
    from midi_rwkv.model.checkpoint import load_vocabulary
    from midi_rwkv.score.chord_markers import chords_in_file
    from midi_rwkv.tokens.chords import chord_spans

    return chord_spans(score, load_vocabulary()), chords_in_file(source, score)


def _say_chords(score: Score, chords: Sequence[ChordSpan]) -> None:
    """Prints bars with chords as `parse_chords` reads them, each line with the number of its first bar."""
    from midi_rwkv.score.progression import format_chords

    lines = []
    for at in range(0, len(score.bars), CHORD_BARS_PER_LINE):
        lines.append(format_chords(chords, score, range(at, min(at + CHORD_BARS_PER_LINE, len(score.bars)))))
    widths = [max(len(line[k]) for line in lines if k < len(line)) for k in range(len(lines[0]))]
    side = len(str(score.last_bar_number))
    for i, line in enumerate(lines):
        number = str(i * CHORD_BARS_PER_LINE + score.first_bar_number).rjust(side)
        say(f"{number} | {' | '.join(text.ljust(w) for text, w in zip(line, widths, strict=False))} |")


def _say_tracks(score: Score) -> None:
    """Prints the tracks and how many notes each has in each bar."""
    from midi_rwkv.score.describe import heading, too_big_for_a_table

    heads = [heading(score, i) for i in range(len(score.tracks))]
    if too_big_for_a_table(score):
        say(f"{len(score.tracks):,} tracks x {len(score.bars):,} bars are too many for a table; a line a track:")
        for head, track in zip(heads, score.tracks, strict=True):
            first, last = (score.bar_index_at(n.onset_ticks) for n in (track.notes[0], track.notes[-1]))
            bars = f"bars {first + score.first_bar_number}-{last + score.first_bar_number}"
            say(f"{head[:HEAD_WIDTH].ljust(HEAD_WIDTH)}  {len(track.notes)} notes, {bars}")
        return
    for head in heads:
        if len(head) > HEAD_WIDTH:
            say(head)
    side = min(HEAD_WIDTH, max([len(h) for h in heads] + [5]))
    counts = score.note_counts()
    metres = [f"{b.numerator}/{b.denominator}" for b in score.bars]
    for at in range(0, len(score.bars), BARS_PER_LINE):
        span = range(at, min(at + BARS_PER_LINE, len(score.bars)))
        rows = [("bar", [str(b + score.first_bar_number) for b in span]), ("metre", [metres[b] for b in span])]
        rows += [(h[:side], [str(row[b] or ".") for b in span]) for h, row in zip(heads, counts, strict=True)]
        widths = [max(len(cells[k]) for _, cells in rows) for k in range(len(span))]
        say("")
        for head, cells in rows:
            line = " ".join(c.rjust(w) for c, w in zip(cells, widths, strict=True))
            say(f"{head.ljust(side)}  {line}")
