"""`midi-rwkv infill`: its options, input and output. Heavy imports are inside functions."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from midi_rwkv.errors import MidiError

from .inspect import read_source
from .request import add_form, add_model, add_request, check_options, load_model, request_of
from .terminal import stoppable
from .written import outputs, report, write

if TYPE_CHECKING:
    from midi_rwkv.fill.infill import Progress


def add_infill_command(commands: Any) -> None:
    p = commands.add_parser(
        "infill", help="rewrite some bars of some tracks", description="Rewrite some bars of some tracks."
    )
    p.set_defaults(run=run_infill, stops_at_once=True)  # until `stoppable` takes over
    p.add_argument("song", help="a MIDI file or a MusicXML score, or - for standard input")
    p.add_argument(
        "--bars",
        action="append",
        required=True,
        metavar="8-12",
        help="bar numbers from 1 (a pickup is bar 0), or bars and beats (8.3-9.2); bars after the last continue the "
        "song; may be repeated",
    )
    add_request(p)
    add_model(p)
    p.add_argument(
        "-o",
        "--output",
        metavar="out.mid",
        help="the output file, or - for standard output (default: SONG-infill.mid beside the song)",
    )
    p.add_argument("--overwrite", action="store_true", help="replace the output if it exists")
    add_form(p)
    p.add_argument("--json", action="store_true", help="print the report as JSON")
    p.add_argument(
        "--progress", action="store_true", help="show the progress on standard error even if that is no terminal"
    )
    p.set_defaults(given=lambda options: _given(p, options))


def show_progress(check: Callable[[], None], *, always: bool = False) -> Callable[[Progress], None]:
    """A progress line that is redrawn on stderr, if that is a terminal or `always`. Calls `check` each time."""

    def update(progress: Progress) -> None:
        check()
        if always or sys.stderr.isatty():
            end = "\n" if progress.done == progress.total else ""
            print(f"\r{progress.done}/{progress.total} cells written", end=end, file=sys.stderr, flush=True)

    return update


NO_WISHES = ("command", "debug", "song", "output", "overwrite", "json", "progress")  # options that change no note


def _given(p: argparse.ArgumentParser, options: argparse.Namespace) -> dict[str, Any]:
    """The options that differ from their defaults, by name."""
    values = {name: value for name, value in vars(options).items() if not callable(value)}
    return {n: v for n, v in values.items() if n not in NO_WISHES and v != p.get_default(n)}


def run_infill(options: argparse.Namespace) -> None:
    began = time.monotonic()
    from midi_rwkv.score.midi import check_output

    paths = outputs(options.song, options.output, options.candidates, options.format)
    source = read_source(options.song)
    for path in paths:
        check_output(path, overwrite=options.overwrite)
    check_options(options)
    score, ask = request_of(options, source)
    model = load_model(options)
    with stoppable() as check:
        written = model.fill(paths, score, ask, on_progress=show_progress(check, always=options.progress), began=began)
        check()
        try:
            write(source, written, options)
        except MidiError as error:
            raise MidiError(f"{error} (--seed {ask.seed} gives the same notes again)") from None
    try:
        report(written, options.given(options) if options.json else None)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the song is written") from None
