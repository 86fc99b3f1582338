"""The methods that state tuning is compared with, behind one interface (see scripts/compare_styles.py).

Each method learns from the same pieces, and `Adapted.nats` then measures the loss on fills of other pieces. One of the
pieces is held out (two, if there are more than eight): the loss on its fills decides at which check to stop. LoRA and
Bone are peft's (`pip install peft`; Bone is its MiSS with init_weights="bat"), on the projections of the trunk's time
and channel mix.

| method | what is learned |
|---|---|
| lora-4, lora-32 | LoRA of that rank, with alpha twice the rank |
| bone | block affine, blocks of 16 |
| full | every weight |
| initial-state | the initial wkv state before the prompt, as in the paper |
| prefix | nothing: one of the composer's pieces is read before the prompt |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from midi_rwkv.engine.engine import State
from midi_rwkv.engine.make import make_engine
from midi_rwkv.engine.tables import StepTables
from midi_rwkv.errors import RequestError
from midi_rwkv.model.step_checkpoint import StepCheckpoint, step_model_of
from midi_rwkv.model.steps import StepModel

from .pieces import Piece, draw_fills
from .tuning import Fill, fill_losses, fill_of, fills_nats, read_fill

# Chosen with version 6 of the model, among two to four rates on pieces 9-16 of two of the styles (lang, giuliani);
# initial-state: the paper's.
RATES = {"lora-4": 5e-4, "lora-32": 2e-4, "bone": 4e-5, "full": 2e-5, "initial-state": 5e-2}
METHODS = ("lora-4", "lora-32", "bone", "full", "initial-state", "prefix")
TARGETS = ["receptance", "key", "value", "output"]
STEPS, CHECK_EVERY, WARMUP_STEPS = 20, 5, 4
BATCH, CONTEXT = 2048, 1024  # of the model's steps: per step of tuning; at most per sample, and in the prefix
HELD_OUT_FILLS = 16


@dataclass
class Adapted:
    """The result of a method."""

    checkpoint: StepCheckpoint
    model: StepModel
    wkv: Tensor | None = None  # (L, H, K, V) initial state
    prefix: np.ndarray | None = None  # (n, columns)
    steps: int = 0
    parameters: int = 0
    held_out: tuple[float, float] = (0.0, 0.0)  # nats, before and after

    def nats(self, samples: Sequence[np.ndarray]) -> np.ndarray:
        """(samples,) nats of each sample's answer. A sample is (n, columns)."""
        if self.prefix is None:
            return fills_nats(self.model, unread(self.checkpoint, samples), self.wkv)
        vocabulary = self.checkpoint.vocabulary
        engine = make_engine(self.checkpoint.trunk, self.checkpoint.config.head_size)
        tables, before = StepTables(self.checkpoint.weights, vocabulary.sizes), engine.new_state(1)
        engine.prefill_vectors(tables(self.prefix), before)
        return fills_nats(self.model, [read_fill(engine, tables, vocabulary, s, 0, before) for s in samples])


def adapt(
    method: str, checkpoint: StepCheckpoint, pieces: Sequence[Piece], *, seed: int, steps: int = STEPS
) -> Adapted:
    """Learns from the pieces in at most `steps` steps. Raises RequestError for an unknown method."""
    if method not in METHODS:
        raise RequestError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    torch.manual_seed(seed)
    adapted = Adapted(checkpoint, step_model_of(checkpoint))
    if method == "prefix":
        adapted.prefix = _prefix(checkpoint, pieces, seed)
        return adapted
    parameters = _inject(adapted, method)
    adapted.parameters = sum(p.numel() for p in parameters)
    _tune(adapted, parameters, RATES[method], pieces, seed, steps)
    return adapted


def unread(checkpoint: StepCheckpoint, samples: Sequence[np.ndarray]) -> list[Fill]:
    """Fills of which nothing is read yet, so that the adapted model itself reads their context."""
    nothing = State.new(checkpoint.config, 1, None)
    return [fill_of(checkpoint.vocabulary, sample, nothing, 0) for sample in samples]


def _inject(adapted: Adapted, method: str) -> list[Tensor]:
    """Puts the learnable parameters in place, and returns them."""
    model = adapted.model
    if method == "full":
        return list(model.parameters())
    model.requires_grad_(requires_grad=False)
    if method == "initial-state":
        c = model.config
        adapted.wkv = torch.zeros(c.n_layer, c.n_head, c.head_size, c.head_size, requires_grad=True)
        return [adapted.wkv]
    import peft

    if method == "bone":
        config: Any = peft.MissConfig(r=16, init_weights="bat", target_modules=TARGETS)
    else:
        rank = int(method.removeprefix("lora-"))
        config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=TARGETS)
    peft.inject_adapter_in_model(config, model)
    return [p for p in model.parameters() if p.requires_grad]


def _tune(
    adapted: Adapted, parameters: list[Tensor], rate: float, pieces: Sequence[Piece], seed: int, steps: int
) -> None:
    checkpoint, model = adapted.checkpoint, adapted.model
    out = 1 if len(pieces) <= 8 else 2
    held = unread(checkpoint, _drawn(checkpoint, pieces[-out:], HELD_OUT_FILLS, seed, held_out=True))
    train = unread(checkpoint, _drawn(checkpoint, pieces[:-out], 4 * steps, seed, held_out=False))
    optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.98), weight_decay=0.0)
    before = best = float(fills_nats(model, held, adapted.wkv).sum())
    kept = [p.detach().clone() for p in parameters]
    rng = np.random.default_rng(seed)
    for step in range(steps):
        some = [train[i] for i in rng.permutation(len(train))]
        count = int(np.searchsorted(np.cumsum([len(f.steps) for f in some]), BATCH)) + 1
        nats, _ = fill_losses(model, some[:count], adapted.wkv)
        nats.mean().backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.param_groups[0]["lr"] = rate * min(1.0, (step + 1) / WARMUP_STEPS) * (1 - step / steps)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % CHECK_EVERY == 0:
            now = float(fills_nats(model, held, adapted.wkv).sum())
            if now < best:
                best, adapted.steps = now, step + 1
                kept = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        for p, k in zip(parameters, kept, strict=True):
            p.copy_(k)
    adapted.held_out = before, best


def _drawn(
    checkpoint: StepCheckpoint, pieces: Sequence[Piece], count: int, seed: int, *, held_out: bool
) -> list[np.ndarray]:
    """Samples of whole pieces, as `draw_fills` draws them."""
    units = [(p, (0, len(p.score.bars))) for p in pieces]
    budget = min(CONTEXT, checkpoint.context)
    drawn = draw_fills(units, checkpoint.vocabulary, count=count, seed=seed, held_out=held_out, budget=budget)
    return [sample for _, sample in drawn]


def _prefix(checkpoint: StepCheckpoint, pieces: Sequence[Piece], seed: int) -> np.ndarray:
    """One of the pieces as a sample shows it, its bars around a region and the region's answer: (n, columns)."""
    piece = pieces[int(np.random.default_rng(seed).integers(len(pieces)))]
    [sample] = _drawn(checkpoint, [piece], 1, seed, held_out=True)
    return sample
