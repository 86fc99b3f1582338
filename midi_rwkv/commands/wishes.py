"""The options of `midi-rwkv infill` that say what the new notes must be like, and what becomes of them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from midi_rwkv.fill.arguments import parse_density, parse_key, parse_pitch, parse_range

from .evaluate import add_sampling
from .inspect import read_source

if TYPE_CHECKING:
    from midi_rwkv.fill.ask import Ask
    from midi_rwkv.model.config import SamplingConfig
    from midi_rwkv.score.midi import Source
    from midi_rwkv.score.score import Region, Score


def add_limits(p: argparse.ArgumentParser) -> None:
    """Adds the options of `SamplingConfig`."""
    add_sampling(p)
    p.add_argument(
        "--density",
        metavar="LOW-HIGH|WORD",
        help="notes per bar in each track, or sparse, normal or busy, relative to what the track plays elsewhere "
        "(default: free; in a new track, as many as its kind usually has)",
    )
    p.add_argument(
        "--polyphony",
        metavar="LOW-HIGH",
        help="notes struck together; 1: one note at a time (default: 1 if the track is monophonic, else free)",
    )
    p.add_argument(
        "--pitch-range",
        metavar="C3-C6",
        help="lowest and highest pitch, C4 = 60 (default: the track's range elsewhere, plus a fourth on either side; "
        "for drums those it uses)",
    )
    p.add_argument("--key", metavar='"A minor"', help="use only pitches of this key")


def add_wishes(p: argparse.ArgumentParser) -> None:
    """Adds the options of `fill.wishes.Wishes`, each by its name there."""
    p.add_argument("--only", metavar="C4-C7", help="replace and write only notes of these pitches")
    p.add_argument(
        "--keep",
        action="append",
        default=[],
        metavar="WHAT",
        help="what of the present notes stays: rhythm, pitches, contour, velocities (with one of the others), or the "
        "notes of a range of pitches like C1-B3; may be repeated",
    )
    p.add_argument(
        "--lock",
        action="append",
        default=[],
        metavar="9.1:C4",
        help="keep a note, by bar, beat and pitch (9.2.5:C4 begins half a beat after 9.2); may be repeated",
    )
    p.add_argument("--vary", type=float, metavar="0-1", help="write this share of the notes anew, phrase by phrase")
    p.add_argument(
        "--chords",
        metavar='"Am F | C G/B"|file|auto',
        help="the chords under the new notes, bar by bar (docs/chords.md), file for the file's own, or auto for those "
        "that the other tracks play: on strong beats pitched tracks play only their tones",
    )
    p.add_argument(
        "--chords-bass",
        default="root",
        choices=("root", "free"),
        help="where a chord begins the bass plays its root or slash note, or any of its tones (default: root)",
    )
    p.add_argument(
        "--like",
        metavar="BARS|TRACK:BARS|FILE|WORD",
        help='the bars to follow: 1-4, "Lead:9-12", other.mid[:TRACK][:BARS]; none: follow nothing; itself: what stood '
        "there, for a variation of it (default: the bars that are most alike)",
    )
    p.add_argument("--again", action="store_true", help="what stood in these bars may come back")
    p.add_argument(
        "--feel",
        default="track",
        metavar="track|grid|model|BARS",
        help="timing and velocities: as the track has them at the same place of the bar, on the grid, as the model "
        "writes them, or as these bars have them (default: track)",
    )
    p.add_argument(
        "--no-quotes",
        type=int,
        metavar="N",
        help="repeat no run of N notes from the music that the model was trained on, or from the pieces of --style",
    )


def sampling_of(options: argparse.Namespace) -> SamplingConfig:
    """How notes are sampled, and within what limits. Raises RequestError if an option is out of range."""
    from midi_rwkv.model.config import SamplingConfig

    return SamplingConfig(
        temperature=options.temperature,
        top_p=options.top_p,
        min_p=options.min_p,
        density=parse_density("--density", options.density),
        polyphony=parse_range("--polyphony", options.polyphony),
        pitch_range=parse_range("--pitch-range", options.pitch_range, parse_pitch),
        key=parse_key(options.key),
        follow=options.follow,
    )


def ask_of(
    options: argparse.Namespace, source: Source, score: Score, region: Region, *, songs: Path = Path(), **others: Any
) -> Ask:
    """The request for a fill of the song in `source` that the options make.

    Args:
        songs: the folder in which a song that --like names is looked for; by default the current one.
        others: see `fill.wishes.ask_for`.
    """
    from dataclasses import fields

    from midi_rwkv.fill.wishes import Wishes, Wording, ask_for
    from midi_rwkv.score.midi import read_midi

    wishes = Wishes(**{field.name: getattr(options, field.name) for field in fields(Wishes)})
    wording = Wording(
        lambda field: "--" + field.replace("_", "-"), source, lambda path: read_midi(read_source(str(songs / path)))
    )
    return ask_for(wishes, score, region, sampling_of(options), wording=wording, **others)
