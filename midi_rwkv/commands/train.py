"""`midi-rwkv train`: its options. Heavy modules are imported only after the options have been parsed."""

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
    parser = Parser(prog="midi-rwkv train", description="Train a checkpoint on token shards.")
    parser.add_argument("shards", type=Path, help="a folder that `midi-rwkv corpus` wrote")
    parser.add_argument("run", type=Path, help="the run's folder; the same command resumes there")
    parser.add_argument("--start", type=Path, metavar="DIR", help="begin a new run with this checkpoint's weights")
    parser.add_argument("--preset", choices=PRESETS, default="small", help="the model's shape (default: small)")
    parser.add_argument(
        "--arch", choices=ARCHS, default="rwkv7", help="transformer is of the same size, for comparison"
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, or auto (default)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: PyTorch chooses)")
    parser.add_argument("--workers", type=int, help="processes that make rows (default: up to 8 on a GPU, else 0)")
    parser.add_argument(
        "--piece",
        type=int,
        default=0,
        metavar="N",
        help="train through rows N tokens at a time with exact gradients, which needs less memory for long rows",
    )
    parser.add_argument("--rows-at-once", type=int, default=0, metavar="N", help="rows per forward pass (default: all)")
    parser.add_argument(
        "--order", choices=ORDERS, default="bars", help="the prompt order, see prompt.py (default: bars)"
    )
    parser.add_argument(
        "--compile", action="store_true", dest="compiled", help="use torch.compile: faster, needs a C++ compiler"
    )
    parser.add_argument("--float32", action="store_true", help="do not use bfloat16, even where it is fast")
    parser.add_argument(
        "--source-weights",
        default="",
        metavar="A=1,B=0.5",
        help="how often each source is drawn; sources not named are left out (default: see docs/train.md)",
    )
    defaults = TrainConfig()
    for name, text in {
        "seq_len": "tokens per row",
        "batch_size": "rows per step, over all processes",
        "total_tokens": "length of the run",
        "warmup_tokens": "tokens during which the learning rate rises",
        "lr": "highest learning rate",
        "decay_fraction": "share of the run during which the learning rate falls",
        "ema": "decay of an exponential moving average of the weights, such as 0.999; 0: none",
        "context_weight": "weight of a context token in the loss, 0-1; a fill token has 1",
        "seed": "the same seed gives the same rows",
        "save_seconds": "seconds between saved states",
        "eval_tokens": "tokens between evaluations",
    }.items():
        value = getattr(defaults, name)
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=type(value), default=value, help=f"{text} (default: {value})"
        )
    for name in ("n_layer", "n_embd"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, help="override the preset")
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

    from midi_rwkv.evaluation.transformer import TransformerTrainer
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
    kind = TransformerTrainer if arch == "transformer" else Trainer
    kind(shards, run, model_config, replace(TrainConfig(), **options), machine=Machine(**machine), start=start).run()
