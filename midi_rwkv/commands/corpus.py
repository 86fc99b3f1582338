"""`midi-rwkv corpus`: its options. Heavy modules are imported only after the options have been parsed."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from midi_rwkv.errors import RequestError

from .terminal import Parser, say

EXAMPLE = "example: midi-rwkv corpus pop909=POP909/ scores.zip gigamidi=v1.1.0/train SHARDS --jobs 4"


def build_parser() -> argparse.ArgumentParser:
    from midi_rwkv.corpus.build import CorpusConfig
    from midi_rwkv.corpus.engines import ENGINES

    config = CorpusConfig()
    filters = config.filters
    parser = Parser(
        prog="midi-rwkv corpus", description="Convert MIDI files to note shards for training.", epilog=EXAMPLE
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="[NAME=]INPUT",
        help="a source: a folder, a zip, or a parquet file with a column of bytes; or a folder of SOURCE.train.zip "
        "files with a valid.zip. A manifest.csv beside it (columns id, licence) gives the licences",
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder to write; an existing tokenizer.json is kept")
    parser.add_argument("--valid", type=float, default=config.valid, help="share of held-out pieces (default: 0.05)")
    parser.add_argument("--test", type=float, default=config.test, help="share of test pieces (default: 0)")
    parser.add_argument(
        "--licence", action="append", default=[], metavar="SOURCE=TEXT", help="the licence of a source; may be repeated"
    )
    for name, text in {
        "min_bars": "leave out pieces with fewer bars",
        "min_notes": "leave out pieces with fewer notes",
        "max_notes": "leave out pieces with more notes",
        "max_same": "leave out pieces in which one pitch has a larger share of the notes",
        "max_metre_changes": "leave out pieces with a larger share of bars in a new metre",
        "min_steady": "leave out pieces with a smaller share of notes on usual parts of the beat; 0 takes free timing",
        "duplicate": "similarity from which on a piece counts as a copy and is left out",
        "related": "similarity from which on two pieces go into the same split",
    }.items():
        value = getattr(filters, name)
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=type(value), default=value, help=f"{text} (default: {value})")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes; -1: one per core (default: 1)")
    parser.add_argument("--engine", choices=ENGINES, default="local", help="where the work runs (default: local)")
    parser.add_argument(
        "--address", default="", help="address of the Dask scheduler or Ray head (default: start one here)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace existing shards in OUT")
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
