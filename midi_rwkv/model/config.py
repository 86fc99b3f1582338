"""Options, as frozen dataclasses that are stored as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from midi_rwkv.errors import CheckpointError, RequestError


class Config:
    """JSON conversion, shared by the option classes below."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The options of a dict. Raises ValueError for an unknown name."""
        known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
        unknown = sorted(set(values) - known)
        if unknown:
            raise RequestError(f"{cls.__name__} has no {', '.join(unknown)}; it has {', '.join(sorted(known))}")
        return cls(**values)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        return cls.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))

    def to_dict(self) -> dict[str, Any]:
        values: dict[str, Any] = asdict(self)  # type: ignore[call-overload]
        return values


ARCHS = ("rwkv7", "transformer")


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Config):
    """The shape of an RWKV-7 x070, or of the Transformer that it is compared with.

    The ranks are those of RWKV-7's low-rank adapters; 0 means RWKV-LM's default for the width. `ffn_size` is the width
    of the Transformer's SwiGLU; 0 means as many parameters as an RWKV-7 of this shape has.
    """

    n_layer: int = 8
    n_embd: int = 256
    vocab_size: int = 803  # tokens; of a model of steps it means nothing
    head_size: int = 64
    decay_rank: int = 0
    iclr_rank: int = 0
    value_rank: int = 0
    gate_rank: int = 0
    arch: str = "rwkv7"  # one of ARCHS
    ffn_size: int = 0

    def __post_init__(self) -> None:
        if self.arch not in ARCHS:
            raise RequestError(f"arch must be one of {', '.join(ARCHS)}, got {self.arch!r}")
        if self.n_embd % self.head_size:
            raise RequestError(f"n_embd must be a multiple of head_size ({self.head_size}), got {self.n_embd}")
        root = self.n_embd**0.5
        for name, default in (
            ("decay_rank", 1.8 * root),
            ("iclr_rank", 1.8 * root),
            ("value_rank", 1.3 * root),
            ("gate_rank", 0.6 * self.n_embd**0.8),
        ):
            if getattr(self, name) == 0:
                object.__setattr__(self, name, max(32, round(default / 32) * 32))
        if self.arch == "transformer" and self.ffn_size == 0:
            ranks = self.decay_rank + self.iclr_rank + self.gate_rank + self.value_rank * (1 - 1 / self.n_layer)
            size = (8 * self.n_embd + 2 * ranks + 15) / 3  # 15: RWKV-7's vectors, minus the Transformer's two norms
            object.__setattr__(self, "ffn_size", round(size / 8) * 8)

    @property
    def n_head(self) -> int:
        return self.n_embd // self.head_size


def config_of(weights: Mapping[str, Any]) -> ModelConfig:
    """The shape of an RWKV-7, read off its parameters: RWKV-LM's names, arrays or tensors.

    A trunk alone, without embedding and head, has a vocabulary of 0. CheckpointError where they are not an RWKV-7's.
    """
    try:
        (n_embd,) = weights["ln_out.weight"].shape
        vocab_size = weights["emb.weight"].shape[0] if "emb.weight" in weights else 0
        n_layer = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
        decay, iclr, gate = (weights[f"blocks.{n_layer - 1}.att.{c}1"].shape[1] for c in "wag")
        value = weights[f"blocks.{n_layer - 1}.att.v1"].shape[1] if n_layer > 1 else 0
        head_size = weights["blocks.0.att.r_k"].shape[1]
    except (KeyError, ValueError, IndexError) as error:
        raise CheckpointError(
            f"this is no RWKV-7 x070 state dict in RWKV-LM's names ({error} is missing or odd)"
        ) from error
    return ModelConfig(
        n_layer=n_layer,
        n_embd=n_embd,
        vocab_size=vocab_size,
        head_size=head_size,
        decay_rank=decay,
        iclr_rank=iclr,
        value_rank=value,
        gate_rank=gate,
    )


MOST_SEED = 2**63 - 1


def check_seed(seed: int, name: str = "the seed") -> None:
    """Raises RequestError unless the value is a seed: an integer that generators, JSON and tables can hold."""
    if not 0 <= seed <= MOST_SEED:
        raise RequestError(f"{name} must be 0-{MOST_SEED}, got {seed}")


def check_threads(threads: int, name: str = "threads", most: int | None = None) -> None:
    """Raises RequestError unless this many threads can be used: at most `most`, or the number of cores."""
    here = os.cpu_count() or 1
    if not 1 <= threads <= (most or here):
        why = "more would not be used" if most else f"this machine has {here} core{'s' * (here > 1)}"
        raise RequestError(f"{name} must lie in 1-{most or here} ({why}), got {threads}")


def usual_threads() -> int:
    """With how many threads a fill is quickest: two, which share the reading, where there are as many cores."""
    return min(2, os.cpu_count() or 1)


MOST_NOTES, MOST_STRUCK = 200, 20  # largest requests: notes per bar, notes struck together
# Notes a bar, in words: the lowest and highest factor of what the track mostly has.
DENSITY_WORDS = {"sparse": (0.3, 0.7), "normal": (0.75, 1.3), "busy": (1.4, 2.4)}


@dataclass(frozen=True, kw_only=True)
class SamplingConfig(Config):
    """How the next token is drawn, and what the user asked of the notes.

    The ranges are inclusive. density: notes a bar and track, or one of DENSITY_WORDS; polyphony: notes struck
    together; pitch_range: MIDI pitches; key: pitch classes (0 = C) that are allowed, None for all. pitch_range None
    means what the track plays elsewhere and a fourth beyond, and where that is little, what the instrument can play.
    follow: how far the song's own bars are followed (tokens/following.py): 1 as songs do, 0 not at all.
    """

    temperature: float = 0.85
    top_p: float = 0.95
    min_p: float = 0.02
    density: tuple[int, int] | str | None = None
    polyphony: tuple[int, int] | None = None
    pitch_range: tuple[int, int] | None = None
    key: tuple[int, ...] | None = None
    follow: float = 1.0

    def __post_init__(self) -> None:
        check = (
            ("temperature", 0.01, 10.0, self.temperature),
            ("top_p", 0.01, 1.0, self.top_p),
            ("min_p", 0.0, 0.99, self.min_p),
            ("follow", 0.0, 1.0, self.follow),
        )
        for name, low, high, value in check:
            if not low <= value <= high:
                raise RequestError(f"{name} must lie in {low}-{high}, got {value}")
        for name, low, high in (("density", 0, MOST_NOTES), ("polyphony", 1, MOST_STRUCK), ("pitch_range", 0, 127)):
            span = getattr(self, name)
            if isinstance(span, str):
                if span not in DENSITY_WORDS:
                    raise RequestError(f"{name} must be {', '.join(DENSITY_WORDS)} or LOW-HIGH, got {span!r}")
            elif span is not None and not low <= span[0] <= span[1] <= high:
                raise RequestError(
                    f"{name} must be LOW-HIGH with {low} <= LOW <= HIGH <= {high}, got {span[0]}-{span[1]}"
                )
        if self.key is not None and not (self.key and all(0 <= p < 12 for p in self.key)):
            raise RequestError(f"key must name at least one pitch class in 0-11, got {self.key}")


LEAST = {"seq_len": 160, "rows": 1, "warmup_steps": 1, "decay_steps": 0, "eval_steps": 1}  # of a TrainConfig


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Config):
    """A training run. Counts are steps of the model, over all processes.

    The learning rate is warmed up and held for as long as the run goes on. What ships is a branch: it begins with a
    run's state, and in `decay_steps` both the learning rate and the weight decay fall to zero.
    """

    seq_len: int = 3072
    rows: int = 1  # a process and step of the optimizer
    lr: float = 2e-3
    warmup_steps: int = 400_000
    branch_at: int = 0  # steps of the run that this is a branch of; 0: a run of its own
    decay_steps: int = 0
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    bf16: bool = True  # where the machine has instructions for it
    context_weight: float = 0.25  # what a note of the context counts in the loss, one of the answer counting 1
    seed: int = 0
    save_seconds: float = 300.0
    eval_steps: int = 1_000_000  # between two evaluations
    source_weights: dict[str, float] = field(default_factory=dict)  # empty: `training.source_weights.SOURCE_WEIGHTS`

    def __post_init__(self) -> None:
        for name, least in LEAST.items():
            if getattr(self, name) < least:
                raise RequestError(f"{name} must be {least} or more, got {getattr(self, name)}")
        if not 0 <= self.context_weight <= 1:
            raise RequestError(f"context_weight must lie in 0-1, got {self.context_weight}; 1 is as much as an answer")
        check_seed(self.seed)

    def falling(self, steps: int) -> float:
        """What is left of the learning rate and the weight decay after so many steps: 1 before the decay, 0 at its
        end."""
        if not self.decay_steps:
            return 1.0
        return min(1.0, max(0.0, 1 - (steps - self.branch_at) / self.decay_steps))
