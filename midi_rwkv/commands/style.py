"""`midi-rwkv personalize` and `midi-rwkv styles`. Heavy imports are inside the commands."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from midi_rwkv.errors import RequestError, StyleError
from midi_rwkv.model.config import check_seed, check_threads

from .terminal import say, stoppable

if TYPE_CHECKING:
    from midi_rwkv.style.preparing import PersonalizeProgress
    from midi_rwkv.style.tuning import Gain


def add_style_options(p: argparse.ArgumentParser) -> None:
    """Adds --style and --style-strength, for commands that fill."""
    p.add_argument(
        "--style",
        metavar="NAME|FILE",
        help="write in a style from `midi-rwkv personalize`; NAME:0.7,OTHER:0.3 blends",
    )
    p.add_argument(
        "--style-strength", type=float, default=1.0, metavar="0-1", help="from 0, which is no style, to 1 (default: 1)"
    )
    p.add_argument(
        "--style-memory",
        type=float,
        metavar="0-1",
        help="how strongly the style's pieces are remembered (default: as --style-strength)",
    )


def add_style_commands(commands: Any) -> None:
    """Adds the parsers of both commands."""
    p = commands.add_parser(
        "personalize",
        help="learn a style from a few MIDI files",
        description="Learn a style from a few of your own MIDI files, for midi-rwkv infill song.mid --style NAME.",
    )
    p.set_defaults(run=run_personalize, stops_at_once=True)  # until `stoppable` takes over
    p.add_argument("files", nargs="+", help="MIDI files or folders of them; five pieces or more are best")
    p.add_argument("--name", metavar="NAME", help="the name of the style")
    p.add_argument("-o", "--output", metavar="FILE", help="write the style to this .safetensors file instead")
    p.add_argument("--overwrite", action="store_true", help="replace the style if it exists")
    p.add_argument(
        "--keep-anyway",
        action="store_true",
        help="keep the style even if it does not help by more than chance on held-out music",
    )
    p.add_argument("--checkpoint", metavar="DIR", help="a checkpoint folder (default: the one that ships)")
    p.add_argument("--seed", type=int, default=0, help="the same seed gives the same style (default: 0)")
    p.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all cores)")
    p.add_argument("--json", action="store_true", help="print the report as JSON")

    p = commands.add_parser("styles", help="list, show or remove styles", description="List, show or remove styles.")
    p.set_defaults(run=run_styles)
    p.add_argument("names", nargs="*", metavar="NAME", help="show everything known about these (default: list all)")
    p.add_argument("--remove", action="store_true", help="remove the named styles")
    p.add_argument("--json", action="store_true", help="print JSON")


def show_progress(check: Callable[[], None]) -> Callable[[PersonalizeProgress], None]:
    """A progress line that is redrawn on a terminal, else one line per evaluation. Calls `check` each time."""
    shown = sys.stderr.isatty()

    def update(progress: PersonalizeProgress) -> None:
        check()
        left = f"{progress.seconds_left:.0f} s left"
        if progress.check is None:
            if not shown and progress.done < progress.total:
                return
            line = f"reading: {progress.done} of {progress.total} fills, {left}"
        else:
            c = progress.check
            line = (
                f"step {c.step} of {c.steps}: held-out {c.now:.3f} nats a note "
                f"(without a style {c.before:.3f}, best {c.best:.3f}), {left}"
            )
        end = "" if shown else "\n"
        print(f"{chr(13) + chr(27) + '[K' if shown else ''}{line}", end=end, file=sys.stderr, flush=True)

    return update


def run_personalize(options: argparse.Namespace) -> None:
    check_seed(options.seed, "--seed")
    if options.threads is not None:
        check_threads(options.threads, "--threads")

    from midi_rwkv.model.checkpoint import load_checkpoint
    from midi_rwkv.style.personalize import PersonalizeOptions, personalize

    try:
        with stoppable() as check:
            made = personalize(
                options.files,
                options.name,
                PersonalizeOptions(
                    output=options.output,
                    overwrite=options.overwrite,
                    keep_anyway=options.keep_anyway,
                    seed=options.seed,
                    threads=options.threads,
                ),
                checkpoint=load_checkpoint(options.checkpoint),
                on_progress=show_progress(check),
                say=lambda line: say(line, sys.stderr),
            )
    finally:
        if sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr)  # the next output begins on a clean line
    if options.json:
        report = {
            "style": str(made.path) if made.path else None,
            "skipped": made.skipped,
            **dict(made.style.info),
            "gains": [asdict(g) for g in made.gains],
        }
        say(json.dumps(report))
        return
    for gain in made.gains:
        say(gain_line(gain))
    if made.helps:
        how = f"--style {options.name}" if options.name else f"--style {options.output}"
        say(f"kept in {made.path}; use it: midi-rwkv infill song.mid --bars 8-12 {how}")
    else:
        kept = f"kept all the same in {made.path}" if made.path else "not kept (--keep-anyway would)"
        say(
            "the style does not help by more than chance on music it was not tuned on: "
            f"{kept}; give more files, or files more like each other"
        )


def gain_line(gain: Gain) -> str:
    """What a style brings in one setting, for people."""
    where = "in all settings" if gain.setting == "all" else gain.setting
    change = gain.after - gain.before
    sure = "" if gain.certain else ", which may be chance"
    return (
        f"{where}: {gain.before:.3f} -> {gain.after:.3f} nats a note on what was held out, "
        f"{change:+.3f} (95 %: {gain.low:+.3f} to {gain.high:+.3f}{sure})"
    )


def run_styles(options: argparse.Namespace) -> None:
    from midi_rwkv.style.style import describe, progress_path, read_info, style_files, style_path, styles_folder

    if options.remove:
        if not options.names:
            raise RequestError("--remove needs the names of the styles to remove")
        for path in [style_path(name) for name in options.names]:
            path.unlink()
            progress_path(path).unlink(missing_ok=True)
            say(f"removed {path}")
        return
    found = [style_path(name) for name in options.names] if options.names else style_files()
    infos: list[tuple[Path, dict[str, str]]] = []
    for path in found:
        try:
            infos.append((path, read_info(path)))
        except StyleError as error:
            say(f"skipped {error}", sys.stderr)
    if options.json:
        say(json.dumps([{"name": path.stem, "path": str(path), **info} for path, info in infos]))
    elif options.names:
        for path, info in infos:
            say("\n".join([f"{path.stem} ({path})", *(f"  {k}: {v}" for k, v in sorted(info.items()))]))
    elif not infos:
        say(f"no styles in {styles_folder()}; make one: midi-rwkv personalize my1.mid my2.mid --name mine")
    else:
        width = max(len(path.stem) for path, _ in infos)
        say("\n".join(f"{path.stem.ljust(width)}  {describe(info)}" for path, info in infos))
