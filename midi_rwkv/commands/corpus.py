"""`midi-rwkv corpus`: the options, and nothing heavy before they are read."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from midi_rwkv.errors import RequestError

from .terminal import Parser, say

EXAMPLE = "example: midi-rwkv corpus pop909=POP909/ scores.zip gigamidi=v1.1.0/train SHARDS --jobs 4 --transpose 2"


def build_parser() -> argparse.ArgumentParser:
    from midi_rwkv.corpus.build import CorpusConfig
    from midi_rwkv.corpus.engines import ENGINES

    config = CorpusConfig()
    filters = config.filters
    parser = Parser(prog="midi-rwkv corpus", description="MIDI files -> token shards to train on.", epilog=EXAMPLE)
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="[NAME=]INPUT",
        help="a folder, zip, or parquet file with a column of bytes, each a source; or a folder of SOURCE.train.zip "
        "files with valid.zip. A manifest.csv beside it (columns id, licence) tells the licences",
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder to write; a tokenizer.json in it is kept")
    parser.add_argument("--valid", type=float, default=config.valid, help="share of the pieces (default: 0.05)")
    parser.add_argument("--test", type=float, default=config.test, help="share of the pieces (default: 0)")
    parser.add_argument("--transpose", type=int, default=0, metavar="N", help="copies in other keys (default: 0)")
    parser.add_argument(
        "--licence", action="append", default=[], metavar="SOURCE=TEXT", help="of a source; may be repeated"
    )
    for name, text in {
        "min_bars": "fewer bars are too short",
        "min_notes": "fewer notes are too short",
        "max_notes": "more notes are too long",
        "max_same": "share of one pitch that counts as one note repeated",
        "max_metre_changes": "share of bars with a new metre that counts as wrong bars",
        "min_steady": "share of notes on the usual parts of the beat below which bars are wrong; 0 for free timing",
        "duplicate": "similarity from which a piece is a copy",
        "related": "similarity from which two pieces stand in the same split",
    }.items():
        value = getattr(filters, name)
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=type(value), default=value, help=f"{text} (default: {value})")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes; -1: one a core (default: 1)")
    parser.add_argument("--engine", choices=ENGINES, default="local", help="who does the work (default: local)")
    parser.add_argument("--address", default="", help="of the Dask scheduler or Ray head (default: start one here)")
    parser.add_argument("--overwrite", action="store_true", help="replace the shards that are in OUT")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """`midi-rwkv corpus INPUT ... OUT`"""
    from dataclasses import fields

    from midi_rwkv.corpus.build import CorpusConfig, build
    from midi_rwkv.corpus.checks import Filters
    from midi_rwkv.corpus.engines import Engine

    options = build_parser().parse_args(arguments)
    licences = {}
    for text in options.licence:
        source, equals, licence = text.partition("=")
        if not (source and equals and licence):
            raise RequestError(f"--licence must be SOURCE=TEXT, got {text!r}")
        licences[source] = licence
    filters = Filters(**{f.name: getattr(options, f.name) for f in fields(Filters)})
    config = CorpusConfig(
        valid=options.valid,
        test=options.test,
        transpose=options.transpose,
        filters=filters,
        licences=licences,
    )
    engine = Engine(options.engine, options.jobs, options.address)
    build(
        options.inputs,
        options.out,
        config=config,
        engine=engine,
        overwrite=options.overwrite,
        say=lambda line: say(line),
    )
