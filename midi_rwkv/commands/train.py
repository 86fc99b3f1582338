"""`midi-rwkv train`: the options, and nothing heavy before they are read."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from midi_rwkv.errors import RequestError
from midi_rwkv.model.config import ARCHS, PRESETS, ModelConfig, TrainConfig, check_threads
from midi_rwkv.tokens.prompt import ORDERS

from .terminal import Parser


def build_parser() -> argparse.ArgumentParser:
    """The options of `midi-rwkv train`."""
    parser = Parser(prog="midi-rwkv train", description="Token shards in, a checkpoint folder out.")
    parser.add_argument("shards", type=Path, help="a folder that `midi-rwkv corpus` wrote")
    parser.add_argument("run", type=Path, help="the run's folder; the same command again goes on in it")
    parser.add_argument("--start", type=Path, metavar="DIR", help="begin a new run from this checkpoint's weights")
    parser.add_argument("--preset", choices=PRESETS, default="small", help="the model's shape (default: small)")
    parser.add_argument("--arch", choices=ARCHS, default="rwkv7", help="transformer: the same size, for comparison")
    parser.add_argument("--device", default="auto", help="cpu, cuda, or auto (default)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: torch's choice")
    parser.add_argument("--workers", type=int, help="processes that make rows (default: up to 8 on a GPU, else 0)")
    parser.add_argument(
        "--piece",
        type=int,
        default=0,
        metavar="N",
        help="go through rows N ids at a time, the state carried and gradients exact: long rows in little memory",
    )
    parser.add_argument("--rows-at-once", type=int, default=0, metavar="N", help="rows a forward pass (default: all)")
    parser.add_argument("--order", choices=ORDERS, default="bars", help="of the prompt, see prompt.py (default: bars)")
    parser.add_argument(
        "--compile", action="store_true", dest="compiled", help="through torch.compile: quicker, needs a C++ compiler"
    )
    parser.add_argument("--float32", action="store_true", help="no bf16, even where it is quick")
    parser.add_argument(
        "--source-weights",
        default="",
        metavar="A=1,B=0.5",
        help="how often each source is drawn; sources not named are left out (default: see docs/train.md)",
    )
    defaults = TrainConfig()
    for name, text in {
        "seq_len": "ids in a row",
        "batch_size": "rows a step, over all processes",
        "total_tokens": "where the run ends",
        "warmup_tokens": "of rising learning rate",
        "lr": "highest learning rate",
        "decay_fraction": "of the run, with falling learning rate",
        "ema": "decay of an exponential moving average of the weights, such as 0.999; 0: none",
        "context_weight": "what an id of the context counts in the loss, 0-1, one of a fill counting 1",
        "seed": "same seed, same rows",
        "save_seconds": "between two saved states",
        "eval_tokens": "between two evaluations",
    }.items():
        value = getattr(defaults, name)
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=type(value), default=value, help=f"{text} (default: {value})"
        )
    for name in ("n_layer", "n_embd"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, help="instead of the preset's")
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


def main(arguments: Sequence[str] | None = None) -> None:
    """`midi-rwkv train SHARDS RUN`"""
    options = vars(build_parser().parse_args(arguments))
    import torch

    from midi_rwkv.training.trainer import Machine, Trainer

    shards, run, start = (options.pop(k) for k in ("shards", "run", "start"))
    preset, threads, arch = (options.pop(k) for k in ("preset", "threads", "arch"))
    machine = {k: options.pop(k) for k in ("device", "workers", "rows_at_once", "piece", "compiled")}
    limits = {"threads": 0, "workers": 0, "rows_at_once": 0, "piece": 0, "batch_size": 1, "seq_len": 160}
    for name, least in limits.items():
        value = {"threads": threads, **machine, **options}[name]
        if value is not None and value < least:
            raise RequestError(f"--{name.replace('_', '-')} must be {least} or more, got {value}")
    shape = {k: v for k in ("n_layer", "n_embd") if (v := options.pop(k))}
    if threads:
        check_threads(threads, "--threads")
        torch.set_num_threads(threads)
    model_config = ModelConfig(
        arch=arch, **{**{k: getattr(PRESETS[preset], k) for k in ("n_layer", "n_embd")}, **shape}
    )
    options["bf16"] = not options.pop("float32")
    options["source_weights"] = parse_weights(options["source_weights"])
    Trainer(shards, run, model_config, replace(TrainConfig(), **options), machine=Machine(**machine), start=start).run()
