"""The methods that state tuning is compared with, behind one interface (see scripts/compare_styles.py).

Each method learns from the same pieces, in the settings of settings.py, and `Adapted.nats` then measures the loss on
fills of other pieces. One of the pieces is held out (two, if there are more than eight): the loss on its fills is the
method's `curve`, and decides at which check to stop unless the recipe says to go on to the last step. LoRA and MiSS are
peft's (`pip install peft`), on the projections of the trunk's time and channel mix.

What is learned serves from the first cell on, as a style's state does: the engine reads everything before it with the
base's weights, once. A recipe with `context` has the adapted model read all of it, at several times the cost.

| method | what is learned |
|---|---|
| lora-4, lora-32 | LoRA of that rank, with alpha twice the rank |
| miss | MiSS of rank 16 |
| heads | the heads; the trunk's output is computed once |
| tables-heads | the embeddings and the heads |
| full | every weight |
| initial-state | the initial wkv state before the prompt, as in the paper |
| run-state | a state added before the first cell, of which `personalize` tunes one a fold |
| state-tables-heads, state-lora-tables-heads | these together |
| prefix | nothing: one of the composer's pieces is read before the prompt |
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from midi_rwkv.engine.engine import State, VectorEngine
from midi_rwkv.engine.make import make_engine
from midi_rwkv.engine.tables import StepTables
from midi_rwkv.errors import RequestError
from midi_rwkv.model.step_checkpoint import StepCheckpoint, step_model_of
from midi_rwkv.model.steps import StepModel

from .pieces import Piece, draw_fills
from .settings import draw_in_settings
from .tuning import Fill, batches, fill_losses, fill_of, fills_nats, given_to_heads, read_fill

# The parts that each learns, and their learning rates. initial-state: the paper's. The others: tried with version 8 of
# the model; see data/styles/map.md.
METHODS: dict[str, dict[str, float]] = {
    "lora-4": {"lora-4": 1e-3},
    "lora-32": {"lora-32": 5e-4},
    "miss": {"miss": 1e-4},
    "heads": {"heads": 1e-4},
    "tables-heads": {"tables": 2e-4, "heads": 2e-4},
    "full": {"full": 5e-5},
    "run-state": {"run-state": 1e-1},
    "state-tables-heads": {"run-state": 1e-1, "tables": 2e-4, "heads": 1e-4},
    "state-lora-tables-heads": {"run-state": 1e-1, "lora-32": 5e-4, "tables": 2e-4, "heads": 1e-4},
    "initial-state": {"initial-state": 5e-2},
    "prefix": {},
}
TARGETS = ["receptance", "key", "value", "output"]
STEPS, CHECK_EVERY, WARMUP_STEPS = 20, 5, 4
BATCH = 320  # of the model's steps, per step of tuning
CONTEXT = 1536  # at most this many steps of the model in a sample
CONTEXT_ADAPTED = 1024  # where the adapted model itself reads them, and in the prefix
TUNE_FILLS, HELD_OUT_FILLS = 160, 24


@dataclass(frozen=True)
class Recipe:
    """How a method is tuned, written METHOD[@STEPS][=RATE][+context][+last], as in "lora-32@200=0.0005+last"."""

    method: str
    steps: int = STEPS
    rate: float | None = None  # of the last part, the others in proportion; None: those of `METHODS`
    context: bool = False  # the adapted model reads the context, too
    last: bool = False  # keep the last step rather than the best on the held-out piece

    @classmethod
    def parse(cls, text: str) -> Recipe:
        """Raises RequestError for what is none."""
        head, *options = text.split("+")
        found = re.fullmatch(r"([a-z0-9-]+?)(?:@(\d+))?(?:=([0-9.]+(?:e-?\d+)?))?", head)
        if not found or found[1] not in METHODS:
            raise RequestError(f"method must be one of {', '.join(METHODS)}, got {head!r}")
        if not set(options) <= {"context", "last"}:
            raise RequestError(f"a method's options are +context and +last, got {text!r}")
        method, steps, rate = found.groups()
        context = "context" in options or method == "initial-state"
        return cls(method, int(steps or STEPS), float(rate) if rate else None, context, "last" in options)

    @property
    def rates(self) -> dict[str, float]:
        """The learning rate of each part."""
        own = METHODS[self.method]
        factor = 1.0 if self.rate is None else self.rate / list(own.values())[-1]
        return {part: factor * rate for part, rate in own.items()}


@dataclass
class Adapted:
    """The result of a method."""

    checkpoint: StepCheckpoint
    model: StepModel
    context: bool = False  # the adapted model reads the context, too
    wkv: Tensor | None = None  # (L, H, K, V), added to what a fill begins with
    prefix: np.ndarray | None = None  # (n, columns)
    steps: int = 0
    parameters: int = 0
    curve: list[tuple[int, float]] = field(default_factory=list)  # step, and held-out nats per note

    def nats(self, samples: Sequence[np.ndarray], read: Sequence[Fill]) -> np.ndarray:
        """(samples,) nats of each sample's answer. A sample is (n, columns).

        read: the same samples, the base having read what is before their first cell.
        """
        if self.prefix is not None:
            engine, tables = _reader(self.checkpoint)
            before = engine.new_state(1)
            engine.prefill_vectors(tables(self.prefix), before)
            read = read_samples(self.checkpoint, samples, before)
        elif self.context:
            read = unread(self.checkpoint, samples)
        return fills_nats(self.model, read, self.wkv)


def adapt(recipe: Recipe, checkpoint: StepCheckpoint, pieces: Sequence[Piece], *, seed: int) -> Adapted:
    """Learns from the pieces."""
    torch.manual_seed(seed)
    adapted = Adapted(checkpoint, step_model_of(checkpoint), recipe.context)
    if recipe.method == "prefix":
        adapted.prefix = _prefix(checkpoint, pieces, seed)
        return adapted
    adapted.model.requires_grad_(requires_grad=False)
    groups: list[dict[str, Any]] = [
        {"params": _inject(adapted, part), "rate": rate} for part, rate in recipe.rates.items()
    ]
    adapted.parameters = sum(p.numel() for g in groups for p in g["params"])
    _tune(adapted, groups, recipe, pieces, seed)
    return adapted


def read_samples(checkpoint: StepCheckpoint, samples: Sequence[np.ndarray], before: State | None = None) -> list[Fill]:
    """Fills of which the base has read what is before the first cell, after the state `before`."""
    engine, tables = _reader(checkpoint)
    return [read_fill(engine, tables, checkpoint.vocabulary, sample, 0, before) for sample in samples]


def _reader(checkpoint: StepCheckpoint) -> tuple[VectorEngine[State], StepTables]:
    engine = make_engine(checkpoint.trunk, checkpoint.config.head_size)
    return engine, StepTables(checkpoint.weights, checkpoint.vocabulary.sizes)


def unread(checkpoint: StepCheckpoint, samples: Sequence[np.ndarray]) -> list[Fill]:
    """Fills of which nothing is read yet, so that the adapted model itself reads their context."""
    nothing = State.new(checkpoint.config, 1, None)
    return [fill_of(checkpoint.vocabulary, sample, nothing, 0) for sample in samples]


def _inject(adapted: Adapted, part: str) -> list[Tensor]:
    """Puts the learnable parameters of a part in place, and returns them."""
    model = adapted.model
    if part in ("initial-state", "run-state"):
        c = model.config
        adapted.wkv = torch.zeros(c.n_layer, c.n_head, c.head_size, c.head_size, requires_grad=True)
        return [adapted.wkv]
    if part in ("full", "heads", "tables"):
        own = {"full": model, "heads": model.heads, "tables": model.tables}[part]
        return list(own.requires_grad_(requires_grad=True).parameters())
    import peft

    if part == "miss":
        config: Any = peft.MissConfig(r=16, target_modules=TARGETS)
    else:
        rank = int(part.removeprefix("lora-"))
        config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=TARGETS)
    peft.inject_adapter_in_model(config, model.trunk)
    return [p for p in model.trunk.parameters() if p.requires_grad]


def _tune(adapted: Adapted, groups: list[dict[str, Any]], recipe: Recipe, pieces: Sequence[Piece], seed: int) -> None:
    checkpoint, model = adapted.checkpoint, adapted.model
    parameters = [p for g in groups for p in g["params"]]
    out = 1 if len(pieces) <= 8 else 2
    read = unread if recipe.context else read_samples
    held = read(checkpoint, _drawn(checkpoint, pieces[-out:], HELD_OUT_FILLS, recipe, seed, held_out=True))
    train = read(checkpoint, _drawn(checkpoint, pieces[:-out], TUNE_FILLS, recipe, seed, held_out=False))
    loss = _loss_of(adapted, train, only_heads=recipe.method == "heads")
    notes = sum(f.notes for f in held)

    def check(step: int) -> float:
        adapted.curve.append((step, float(fills_nats(model, held, adapted.wkv).sum()) / notes))
        return adapted.curve[-1][1]

    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.0)
    best, rng = check(0), np.random.default_rng(seed)
    kept = [p.detach().clone() for p in parameters]
    queue: list[list[int]] = []
    for step in range(recipe.steps):
        queue = queue or batches(train, BATCH, rng)
        loss(queue.pop()).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = group["rate"] * min(1.0, (step + 1) / WARMUP_STEPS) * (1 - step / recipe.steps)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % CHECK_EVERY == 0 or step + 1 == recipe.steps:
            now = check(step + 1)
            if now < best or recipe.last:
                best, adapted.steps = now, step + 1
                kept = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        for p, k in zip(parameters, kept, strict=True):
            p.copy_(k)


def _loss_of(adapted: Adapted, train: Sequence[Fill], *, only_heads: bool) -> Callable[[Sequence[int]], Tensor]:
    """The mean nats of the answers of some fills, by their numbers."""
    model = adapted.model
    if not only_heads:
        return lambda chosen: fill_losses(model, [train[i] for i in chosen], adapted.wkv)[0].mean()
    with torch.no_grad():
        given = [given_to_heads(model, [fill])[0] for fill in train]

    def loss(chosen: Sequence[int]) -> Tensor:
        h, targets, following, known = (torch.cat(x) for x in zip(*(given[i] for i in chosen), strict=True))
        return model.heads.nats(h, targets, following, known).sum(1).mean()

    return loss


def _drawn(
    checkpoint: StepCheckpoint, pieces: Sequence[Piece], count: int, recipe: Recipe, seed: int, *, held_out: bool
) -> list[np.ndarray]:
    units = [(p, (0, len(p.score.bars))) for p in pieces]
    budget = min(CONTEXT_ADAPTED if recipe.context else CONTEXT, checkpoint.context)
    drawn = draw_in_settings(units, checkpoint.vocabulary, count=count, seed=seed, held_out=held_out, budget=budget)
    return [sample for *_, sample in drawn]


def _prefix(checkpoint: StepCheckpoint, pieces: Sequence[Piece], seed: int) -> np.ndarray:
    """One of the pieces as a sample shows it, its bars around a region and the region's answer: (n, columns)."""
    piece = pieces[int(np.random.default_rng(seed).integers(len(pieces)))]
    units, budget = [(piece, (0, len(piece.score.bars)))], min(CONTEXT_ADAPTED, checkpoint.context)
    [(_, sample)] = draw_fills(units, checkpoint.vocabulary, count=1, seed=seed, held_out=True, budget=budget)
    return sample
