"""`midi-rwkv evaluate`, and the sampling options that it shares with `infill`. Heavy imports are inside functions."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from midi_rwkv.errors import RequestError
from midi_rwkv.model.config import SamplingConfig, check_seed

from .terminal import say


def add_sampling(p: argparse.ArgumentParser) -> None:
    """Adds the sampling options, for commands that fill."""
    for name, metavar, text in (
        ("temperature", None, "higher is bolder, lower is plainer"),
        ("top_p", None, "sample from the most probable values that together have this probability"),
        ("min_p", None, "drop values whose probability is below this share of the highest"),
        ("follow", "0-1", "how far the song's own bars are followed: 1 as songs do, 0 not at all"),
    ):
        value = getattr(SamplingConfig, name)
        p.add_argument(
            f"--{name.replace('_', '-')}",
            type=float,
            default=value,
            metavar=metavar,
            help=f"{text} (default: {value:g})",
        )


def add_evaluate_command(commands: Any) -> None:
    """Adds the parser of the command."""
    p = commands.add_parser(
        "evaluate",
        help="measure a checkpoint's fills",
        description="Measure a checkpoint's fills on MIDI files, against copies of other bars and other checkpoints.",
    )
    p.set_defaults(run=run_evaluate)
    p.add_argument("files", help="a folder or zip of MIDI files; each folder in it is a source")
    p.add_argument("--out", required=True, metavar="DIR", help="the report's folder; the same command resumes there")
    p.add_argument("--checkpoint", metavar="DIR", help="a checkpoint folder (default: the one that ships)")
    p.add_argument("--style", metavar="NAME|FILE", help="evaluate it with a style; NAME:0.7,OTHER:0.3 blends")
    p.add_argument(
        "--compare", action="append", default=[], metavar="DIR", help="a checkpoint to compare with; may be repeated"
    )
    p.add_argument(
        "--shards",
        metavar="DIR",
        help="the note shards of the training data, to find copies of training music",
    )
    p.add_argument("--cases", type=int, default=300, metavar="N", help="cases per number of bars (default: 300)")
    p.add_argument("--bars", default="2,4,8", metavar="2,4,8", help="bars to fill (default: 2,4,8)")
    p.add_argument(
        "--settings",
        metavar="LIST",
        help="some of song,near,continuation,controls,drums,all (default: all of these), rewrite,rewrite-all,played",
    )
    p.add_argument(
        "--baselines",
        metavar="LIST",
        help='some of "nothing followed", "copy before", "copy after", "copy similar", or "" (default: all)',
    )
    add_sampling(p)
    p.add_argument("--seed", type=int, default=0, help="same seed, same cases and fills (default: 0)")
    p.add_argument("--jobs", type=int, default=2, metavar="N", help="processes (default: 2)")
    p.add_argument("--fills-only", action="store_true", help="measure neither nats per note nor cost")
    p.add_argument("--no-html", action="store_true", help="write no page with piano rolls")
    p.add_argument("--no-audio", action="store_true", help="put no sound on that page")


def run_evaluate(options: argparse.Namespace) -> None:
    from midi_rwkv.evaluation.evaluate import Done, evaluate

    out = Path(options.out)
    if out.exists() and not out.is_dir():
        raise RequestError(f"{out} is a file; --out names a folder")
    shown = sys.stderr.isatty()

    def progress(done: Done) -> None:
        line = f"{done.system}: {done.done} of {done.total} cases, {done.seconds_left / 60:.0f} min left"
        if shown or done.done == done.total:
            ends = "\n" if not shown or done.done == done.total else ""
            print(f"{chr(13) + chr(27) + '[K' if shown else ''}{line}", end=ends, file=sys.stderr, flush=True)

    def listed(text: str | None) -> list[str] | None:
        return None if text is None else [part.strip() for part in text.split(",") if part.strip()]

    check_seed(options.seed, "--seed")
    try:
        bars = [int(n) for n in options.bars.split(",")]
    except ValueError:
        raise RequestError(f"--bars must be numbers like 2,4,8, got {options.bars!r}") from None
    try:
        report = evaluate(
            options.files,
            out,
            checkpoint=options.checkpoint,
            style=options.style,
            compare=options.compare,
            shards=options.shards,
            cases=options.cases,
            bars=bars,
            settings=listed(options.settings),
            baselines=listed(options.baselines),
            sampling=SamplingConfig(
                temperature=options.temperature, top_p=options.top_p, min_p=options.min_p, follow=options.follow
            ),
            seed=options.seed,
            jobs=options.jobs,
            fills_only=options.fills_only,
            html=not options.no_html,
            audio=not options.no_audio,
            on_progress=progress,
            say=lambda line: say(line, sys.stderr),
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command goes on where this one stopped") from None
    names = [name for name in ("report.html", "report.md", "report.json") if (out / name).exists()]
    say(f"{sum(g['cases'] for g in report['groups'])} cases; " + ", ".join(str(out / name) for name in names))
