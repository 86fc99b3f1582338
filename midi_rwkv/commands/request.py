"""What the commands that fill share: the options of a fill, the request that they make, and the model that answers it.

Heavy imports are inside functions.
"""

from __future__ import annotations

import argparse
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from midi_rwkv.errors import RequestError
from midi_rwkv.fill.arguments import parse_as, parse_tracks, sounding_tracks
from midi_rwkv.score.clip import ENDINGS

from .inspect import add_as
from .style import add_style_options
from .taste import add_taste_option, found_taste
from .wishes import add_limits, add_wishes, ask_of
from .written import Written

if TYPE_CHECKING:
    from midi_rwkv.fill.ask import Ask
    from midi_rwkv.fill.infill import Infiller, Progress
    from midi_rwkv.model.step_checkpoint import StepCheckpoint
    from midi_rwkv.score.midi import Source
    from midi_rwkv.score.score import Score
    from midi_rwkv.style.style import Style


def add_request(p: argparse.ArgumentParser) -> None:
    """Adds the options that say what to write, but for the bars."""
    p.add_argument(
        "--tracks",
        metavar='2,4|"Bass"|all',
        help="track numbers, names or instruments, as `midi-rwkv inspect` shows them (default: the tracks that play in "
        "these bars, or all if none plays)",
    )
    add_as(p)
    p.add_argument(
        "--new-track",
        action="append",
        metavar="PROGRAM|NAME",
        help="add a track: 0-127, Violin, Drums ...; may be repeated",
    )
    p.add_argument(
        "--candidates",
        type=int,
        default=1,
        metavar="N",
        help="write N answers, as OUT-1.mid, OUT-2.mid ... (default: 1)",
    )
    add_limits(p)
    add_wishes(p)
    p.add_argument("--seed", type=int, help="the same seed gives the same file (default: a new one, which is printed)")
    p.add_argument(
        "--context-bars", type=int, metavar="N", help="read at most N bars on each side (default: as many as fit)"
    )
    add_style_options(p)


def add_model(p: argparse.ArgumentParser) -> None:
    """Adds the options of `load_model`."""
    add_taste_option(p)
    p.add_argument("--checkpoint", metavar="DIR|file", help="the model (default: the one that ships)")
    p.add_argument(
        "--backend",
        choices=("auto", "numba", "torch", "triton"),
        default="auto",
        help="the engine that runs the model (default: auto)",
    )
    p.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="CPU threads, 1-2, or more with --backend torch (default: 2, or as many as there are cores)",
    )
    p.add_argument(
        "--precision",
        choices=("auto", "float32", "int8"),
        default="auto",
        help="format of the weights; auto (default) is int8 where available, which is faster and nearly the same",
    )


def add_form(p: argparse.ArgumentParser) -> None:
    """Adds the options that say what is written of a song with a fill."""
    p.add_argument(
        "--clip", action="store_true", help="write only these bars of these tracks, beginning with the first"
    )
    p.add_argument(
        "--format",
        choices=tuple(ENDINGS),
        default="midi",
        help="a MIDI file, notes in beats as JSON, a project for Bitwig Studio, Studio One, Cubase and others, or "
        "a score for MuseScore, Sibelius, Dorico and others (default: midi)",
    )


def check_options(options: argparse.Namespace) -> None:
    """Raises RequestError if an option is out of range whatever the song."""
    from midi_rwkv.engine.make import MOST_THREADS
    from midi_rwkv.model.config import check_seed, check_threads

    if options.context_bars is not None and options.context_bars < 0:
        raise RequestError(f"--context-bars must be 0 or more, got {options.context_bars}")
    most = MOST_THREADS if options.backend in ("auto", "numba") else None
    if options.threads is not None:
        check_threads(options.threads, "--threads", most)
    if options.seed is not None:
        check_seed(options.seed, "--seed")


def request_of(options: argparse.Namespace, source: Source, *, songs: Path = Path()) -> tuple[Score, Ask]:
    """The song in `source`, with the tracks that the options add, and the request that they make.

    Without --seed, a new one is drawn. `songs`: see `ask_of`.

    Raises:
        MidiError: the file cannot be read.
        RequestError: an option does not fit the song.
    """
    from midi_rwkv.fill.places import parse_places
    from midi_rwkv.score.midi import read_midi
    from midi_rwkv.score.score import Region, Track
    from midi_rwkv.score.splice import check_new_tracks

    score = parse_as(options.taken_as, read_midi(source, allow_empty=bool(options.new_track)))
    bars, within = parse_places(options.bars, score)
    if options.tracks is not None:
        tracks = parse_tracks(options.tracks, score)
    else:
        tracks = [] if options.new_track else sounding_tracks(score, bars)
    for text in options.new_track or ():
        from midi_rwkv.score.instruments import find_program, program_name

        program, is_drum = find_program(text)
        new = Track(program_name(program, is_drum=is_drum), program, (), is_drum=is_drum)
        tracks.append(len(score.tracks))
        score = replace(score, tracks=(*score.tracks, new))
    check_new_tracks(source.data, score)
    ask = ask_of(
        options,
        source,
        score,
        Region.rectangle(tracks, bars),
        candidates=options.candidates,
        seed=secrets.randbelow(2**31) if options.seed is None else options.seed,
        context_bars=options.context_bars,
        within=within,
        songs=songs,
    )
    return score, ask


StyleWords = tuple[str | None, float, float | None]  # --style, --style-strength and --style-memory


def _style_words(options: argparse.Namespace) -> StyleWords:
    return options.style, options.style_strength, options.style_memory


@dataclass
class Model:
    """The model that a command loaded, for one fill or for many."""

    checkpoint: StepCheckpoint
    infiller: Infiller
    style: Style | None
    style_words: StyleWords

    def take_style(self, options: argparse.Namespace) -> None:
        """Takes the style of the options for the fills that follow. It is read only if it is another than before."""
        from midi_rwkv.style.style import Style, find_style

        wanted = _style_words(options)
        if wanted == self.style_words:
            return
        text, strength, memory = wanted
        self.style = find_style(text, self.checkpoint, strength, memory=memory)
        self.infiller.style = self.style or Style("none")
        self.style_words = wanted

    def fill(
        self,
        paths: Sequence[Path],
        score: Score,
        ask: Ask,
        *,
        on_progress: Callable[[Progress], None],
        began: float,
    ) -> Written:
        """The answer to a request, to be written to `paths`. `began`: when, by `time.monotonic`."""
        from midi_rwkv.fill.origin import origins

        candidates = self.infiller(score, ask, on_progress=on_progress)
        found = origins(self.checkpoint, score, ask, [c.fills for c in candidates], self.style)
        return Written(paths, score, ask, candidates, found, self.style, self.checkpoint, time.monotonic() - began)


def load_model(options: argparse.Namespace) -> Model:
    """The model, style and taste of the options. Raises CheckpointError, StyleError or RequestError."""
    from midi_rwkv.fill.infill import Infiller
    from midi_rwkv.model.checkpoint import load_checkpoint
    from midi_rwkv.model.config import usual_threads
    from midi_rwkv.style.style import find_style

    checkpoint = load_checkpoint(options.checkpoint)
    style = find_style(options.style, checkpoint, options.style_strength, memory=options.style_memory)
    threads = options.threads or usual_threads()
    infiller = Infiller(checkpoint, backend=options.backend, threads=threads, style=style, precision=options.precision)
    infiller.taste = found_taste(checkpoint) if options.taste == "on" else None
    return Model(checkpoint, infiller, style, _style_words(options))
