"""The options of `midi-rwkv` and its commands. Heavy imports are inside the commands, so that `--help` is fast."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from midi_rwkv.app.mcp_stdio import add_mcp_command
from midi_rwkv.app.serve import add_app_options, run_app
from midi_rwkv.app.serve_notes import add_serve_command

from .evaluate import add_evaluate_command
from .infill import add_infill_command
from .inspect import add_inspect_command
from .reaper import add_reaper_command
from .style import add_style_commands
from .taste import add_taste_command
from .terminal import Parser, say
from .watch import add_watch_command


def run_convert(options: argparse.Namespace) -> None:
    from .convert import convert

    say(
        convert(
            Path(options.source),
            Path(options.target),
            tokenizer=options.tokenizer,
            overwrite=options.overwrite,
            bf16=options.bf16,
        )
    )


def run_module(name: str) -> Callable[[argparse.Namespace], None]:
    def run(options: argparse.Namespace) -> None:
        from importlib import import_module

        import_module(f".{name}", __package__).main(options.arguments)

    return run


class Version(argparse.Action):
    """Prints the versions and exits. Nothing is looked up before that."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import version

        from midi_rwkv.model.checkpoint import load_checkpoint

        shipped = load_checkpoint()
        print(f"midi-rwkv {version('midi-rwkv')}, checkpoint {shipped.path.name} {shipped.version}")
        parser.exit()


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="midi-rwkv",
        description="Rewrite chosen bars of a MIDI song; everything else in the file stays as it is.",
        epilog="example: midi-rwkv infill song.mid --bars 8-12 --tracks Bass --candidates 3 -o new.mid",
    )
    parser.add_argument(
        "--version", action=Version, nargs=0, help="print the version of the program and of the checkpoint"
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error; allowed anywhere")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    add_infill_command(commands)
    add_watch_command(commands)
    add_inspect_command(commands)
    p = commands.add_parser(
        "convert",
        help="convert checkpoints and states from and to RWKV-LM's files",
        description="Convert a checkpoint folder <-> an RWKV-LM .pth, or RWKV-PEFT's time_state .pth <-> .safetensors.",
    )
    p.set_defaults(run=run_convert)
    p.add_argument("source")
    p.add_argument("target")
    p.add_argument(
        "--tokenizer", metavar="tokenizer.json", help="the tokenizer, for a .pth that becomes a checkpoint folder"
    )
    p.add_argument("--bf16", action="store_true", help="round the weights to bfloat16 (default: as they are)")
    p.add_argument("--overwrite", action="store_true", help="replace the target if it exists")

    add_evaluate_command(commands)
    add_style_commands(commands)
    add_taste_command(commands)
    p = commands.add_parser(
        "app", help="open the page: see, mark, infill, listen", description="Serve the page on this machine."
    )
    p.set_defaults(run=run_app)
    add_app_options(p)
    add_serve_command(commands)
    add_mcp_command(commands)
    add_reaper_command(commands)
    for name, text in (
        ("corpus", "convert MIDI files to note shards"),
        ("train", "train a checkpoint on note shards"),
    ):
        p = commands.add_parser(name, help=text, add_help=False)
        p.set_defaults(run=run_module(name))
        p.add_argument("arguments", nargs=argparse.REMAINDER)
    return parser
