"""`midi-rwkv train`: its options. Heavy modules are imported only after the options have been parsed."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from midi_rwkv.errors import RequestError
from midi_rwkv.model.config import ARCHS, ModelConfig, TrainConfig

from .terminal import Parser, say

NUMBERS = {  # options of a TrainConfig
    "seq_len": "steps per row",
    "rows": "rows of a process for each step of the optimizer",
    "lr": "learning rate that is held",
    "warmup_steps": "steps during which the learning rate rises",
    "context_weight": "weight of a context note in the loss, 0-1; one of the answer has 1",
    "weight_decay": "weight decay that is held",
    "seed": "the same seed gives the same rows",
    "save_seconds": "seconds between saved states",
    "eval_steps": "steps between evaluations",
}


def build_parser() -> argparse.ArgumentParser:
    """The options of `midi-rwkv train`. Its counts are steps of the model, one a note or token, over all processes."""
    parser = Parser(prog="midi-rwkv train", description="Train a checkpoint on note shards.")
    parser.add_argument("shards", type=Path, help="a folder that `midi-rwkv corpus` wrote")
    parser.add_argument("run", type=Path, help="the run's folder; the same command again goes on in it")
    parser.add_argument("--branch", type=Path, metavar="RUN", help="begin with this run's state and let it decay")
    parser.add_argument(
        "--decay", type=int, default=0, dest="decay_steps", metavar="N", help="steps of the branch, to its end"
    )
    parser.add_argument("--start", type=Path, metavar="CHECKPOINT", help="begin with a checkpoint's weights")
    parser.add_argument(
        "--total", type=int, default=0, metavar="N", help="steps at which a run ends (default: when it is stopped)"
    )
    parser.add_argument(
        "--processes",
        type=int,
        metavar="N",
        help="of one thread each (default: one for each physical core that memory allows)",
    )
    parser.add_argument("--n-layer", type=int, default=4, help="layers of the model (default: 4)")
    parser.add_argument("--n-embd", type=int, default=384, help="channels of the model (default: 384)")
    parser.add_argument(
        "--arch", choices=ARCHS, default="rwkv7", help="transformer is of the same size, for comparison"
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, or auto (default)")
    parser.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        dest="compiled",
        help="fuse what lies between the matrix products with torch.compile (default: where there is a C++ compiler)",
    )
    parser.add_argument(
        "--source-weights",
        default="",
        metavar="A=1,B=0.5",
        help="how often each source is drawn; sources not named are left out (default: see docs/train.md)",
    )
    defaults = TrainConfig()
    for name, text in NUMBERS.items():
        value = getattr(defaults, name)
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=type(value), default=value, help=f"{text} (default: {value})")
    return parser


def parse_weights(text: str) -> dict[str, float]:
    """`games=1,pop909=0.5` -> weights by source."""
    weights = {}
    for part in (p.strip() for p in text.split(",") if p.strip()):
        source, _, weight = part.partition("=")
        try:
            weights[source] = float(weight)
        except ValueError:
            raise RequestError(f"--source-weights must be like games=1,pop909=0.5, got {part!r}") from None
        if not weights[source] > 0:
            raise RequestError(f"--source-weights must be above 0, got {part!r}; leave the source out")
    return weights


def main(arguments: Sequence[str]) -> None:
    """`midi-rwkv train SHARDS RUN`"""
    options = build_parser().parse_args(arguments)
    config = TrainConfig(
        decay_steps=options.decay_steps,
        source_weights=parse_weights(options.source_weights),
        **{name: getattr(options, name) for name in NUMBERS},
    )
    if (options.branch is not None) != (config.decay_steps > 0):
        raise RequestError("--branch and --decay go together; give both or neither")
    if options.branch and options.start:
        raise RequestError("--start is for a run, and a branch begins with one; give --start or --branch")
    for name, least in (("total", 0), ("processes", 1), ("n_layer", 1), ("n_embd", 64)):
        if (value := getattr(options, name)) is not None and value < least:
            raise RequestError(f"--{name.replace('_', '-')} must be {least} or more, got {value}")
    model = ModelConfig(arch=options.arch, n_layer=options.n_layer, n_embd=options.n_embd, vocab_size=1)

    import torch

    from midi_rwkv.training.beginning import Machine, check_run
    from midi_rwkv.training.compiled import can_compile
    from midi_rwkv.training.launch import launch, processes_here
    from midi_rwkv.training.trainer import Trainer

    choose = options.compiled is None and options.arch == "rwkv7"
    compiled = can_compile(options.device) if choose else bool(options.compiled)
    machine = Machine(device=options.device, compiled=compiled)
    origin = options.branch or options.start
    processes = options.processes or processes_here(model, config, options.device)
    if processes > 1:
        check_run(options.shards, options.run, model, config, machine=machine, origin=origin)
        launch(processes, arguments)
        return
    torch.set_num_threads(1)
    trainer = Trainer(options.shards, options.run, model, config, machine=machine, origin=origin)
    if trainer.group.first and choose and not compiled:
        say("no C++ compiler (g++ or clang++) here: training goes on without --compile, more slowly")
    try:
        trainer.run(options.total)
    except KeyboardInterrupt:
        if trainer.group.first:
            raise
        _leave(130)
    if trainer.group.size > 1:
        _leave(0)


def _leave(code: int) -> NoReturn:
    """Ends one of several processes at once: all is written, and gloo's threads now and then abort one that ends in
    order."""
    sys.stdout.flush()
    os._exit(code)
