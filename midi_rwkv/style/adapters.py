"""The methods that state tuning is compared with, behind one interface (see scripts/compare_styles.py).

Each method learns from the same pieces, and `Adapted.nats` then measures the loss on fills of other pieces. One of the
pieces is held out (two, if there are more than eight): the loss on its fills decides at which check to stop. LoRA and
Bone are peft's (`pip install peft`; Bone is its MiSS with init_weights="bat"), on the projections of time and channel
mix.

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

from midi_rwkv.engine.make import make_engine
from midi_rwkv.errors import RequestError
from midi_rwkv.model.checkpoint import Checkpoint
from midi_rwkv.model.rwkv7 import RWKV7
from midi_rwkv.tokens.prompt import PromptTokens
from midi_rwkv.training.dataset import NOT_MUSIC, Sample, to_batches
from midi_rwkv.training.losses import fill_nats, wanted_nats

from .pieces import Piece, draw_fills
from .tuning import fills_nats, read_fill

# Chosen among two to four rates on pieces 9-16 of two of the styles (lang, giuliani); initial-state: the paper's.
RATES = {"lora-4": 5e-4, "lora-32": 2e-4, "bone": 4e-5, "full": 2e-5, "initial-state": 5e-2}
METHODS = ("lora-4", "lora-32", "bone", "full", "initial-state", "prefix")
TARGETS = ["receptance", "key", "value", "output"]
STEPS, CHECK_EVERY, WARMUP_STEPS = 20, 5, 4
STEP_IDS, CONTEXT = 2048, 1024  # tokens per step; tokens per fill that is tuned on
HELD_OUT_FILLS = 16
PREFIX_IDS = 1024


@dataclass
class Adapted:
    """The result of a method."""

    checkpoint: Checkpoint
    model: RWKV7
    wkv: Tensor | None = None  # (L, H, K, V) initial state
    prefix: list[int] | None = None
    steps: int = 0
    parameters: int = 0
    held_out: tuple[float, float] = (0.0, 0.0)  # nats, before and after

    def nats(self, samples: Sequence[Sample]) -> np.ndarray:
        """(samples,) nats of each sample's fill."""
        if self.prefix is None:
            return full_nats(self.model, samples, self.wkv)
        engine = make_engine(self.checkpoint.weights, self.checkpoint.config.head_size)
        middle = PromptTokens(self.checkpoint.tokenizer).middle
        known = engine.new_state(1)
        engine.prefill(self.prefix, known)
        fills = [read_fill(engine, s, middle, notes=0, unit=0, known=known) for s in samples]
        return fills_nats(self.model, fills)


def adapt(method: str, checkpoint: Checkpoint, pieces: Sequence[Piece], *, seed: int, steps: int = STEPS) -> Adapted:
    """Learns from the pieces in at most `steps` steps. Raises RequestError for an unknown method."""
    if method not in METHODS:
        raise RequestError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    torch.manual_seed(seed)
    model = checkpoint.model()
    assert isinstance(model, RWKV7)
    adapted = Adapted(checkpoint, model)
    if method == "prefix":
        adapted.prefix = _prefix(checkpoint, pieces, seed)
        return adapted
    adapted.model, parameters = _inject(model, method, adapted)
    adapted.parameters = sum(p.numel() for p in parameters)
    _tune(adapted, parameters, RATES[method], pieces, seed, steps)
    return adapted


def full_nats(model: RWKV7, samples: Sequence[Sample], wkv: Tensor | None = None) -> np.ndarray:
    """Nats of each sample's fill, with everything before it read by the model itself."""
    return fill_nats(model, to_batches(samples, 0, rows=4), wkv)


def _inject(model: RWKV7, method: str, adapted: Adapted) -> tuple[RWKV7, list[Tensor]]:
    """The model with the learnable parameters in place, and these parameters."""
    if method == "full":
        return model, list(model.parameters())
    model.requires_grad_(requires_grad=False)
    if method == "initial-state":
        adapted.wkv = model.new_state(1).wkv[:, 0].requires_grad_()
        return model, [adapted.wkv]
    import peft

    if method == "bone":
        config: Any = peft.MissConfig(r=16, init_weights="bat", target_modules=TARGETS)
    else:
        rank = int(method.removeprefix("lora-"))
        config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=TARGETS)
    injected: Any = peft.inject_adapter_in_model(config, model)
    return injected, [p for p in injected.parameters() if p.requires_grad]


def _tune(
    adapted: Adapted, parameters: list[Tensor], rate: float, pieces: Sequence[Piece], seed: int, steps: int
) -> None:
    checkpoint, model = adapted.checkpoint, adapted.model
    out = 1 if len(pieces) <= 8 else 2
    units = [(p, (0, len(p.score.bars))) for p in pieces]
    held = [
        s
        for _, s, _ in draw_fills(
            units[-out:], checkpoint, count=HELD_OUT_FILLS, seed=seed, held_out=True, budget=CONTEXT
        )
    ]
    train = [
        s
        for _, s, _ in draw_fills(units[:-out], checkpoint, count=4 * steps, seed=seed, held_out=False, budget=CONTEXT)
    ]
    optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.98), weight_decay=0.0)
    before = best = float(full_nats(model, held, adapted.wkv).sum())
    kept = [p.detach().clone() for p in parameters]
    rng = np.random.default_rng(seed)
    for step in range(steps):
        some = [train[i] for i in rng.permutation(len(train))]
        count = int(np.searchsorted(np.cumsum([len(s.ids) for s in some]), STEP_IDS)) + 1
        [(ids, roles, _)] = to_batches(some[:count], 0, rows=count)
        nats, _ = wanted_nats(model, ids, roles != NOT_MUSIC, model.new_state(count, adapted.wkv))
        nats.mean().backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.param_groups[0]["lr"] = rate * min(1.0, (step + 1) / WARMUP_STEPS) * (1 - step / steps)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % CHECK_EVERY == 0:
            now = float(full_nats(model, held, adapted.wkv).sum())
            if now < best:
                best, adapted.steps = now, step + 1
                kept = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        for p, k in zip(parameters, kept, strict=True):
            p.copy_(k)
    adapted.held_out = before, best


def _prefix(checkpoint: Checkpoint, pieces: Sequence[Piece], seed: int) -> list[int]:
    """The beginning of one of the pieces as a sample shows it, including the region's answer."""
    rng = np.random.default_rng(seed)
    piece = pieces[int(rng.integers(len(pieces)))]
    unit = (piece, (0, len(piece.score.bars)))
    [(_, sample, _)] = draw_fills([unit], checkpoint, count=1, seed=seed, held_out=True, budget=PREFIX_IDS)
    return sample.ids
