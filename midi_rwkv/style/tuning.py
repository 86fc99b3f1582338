"""State tuning: learns one state matrix per head, added where a run begins, and leaves the weights as they are.

The decoding engine reads everything before the run (`Context_Middle`, see prompt.py) once and keeps it as a state,
because nothing that is tuned changes it. Only the run itself, some hundred tokens, goes through the differentiable
sequence form again and again. This is why minutes on two cores are enough.

The learning rate and the number of steps need no choice. Every fold (one file left out, or one part of the bars) is
tuned with all `LEARNING_RATES` side by side. The held-out music decides which rate continues after `RATE_STEPS`, which
step to keep, and by which of `SCALES` to multiply the states at the end. The style is the mean of the folds' states.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from midi_rwkv.engine.engine import Engine, State
from midi_rwkv.engine.tables import StepTables
from midi_rwkv.model.rwkv7 import RWKV7, ModelState
from midi_rwkv.model.steps import StepModel
from midi_rwkv.tokens.attributes import Column, Role, Vocabulary
from midi_rwkv.tokens.layout import targets_of
from midi_rwkv.tokens.pointers import places_known
from midi_rwkv.training.dataset import FILL, Sample
from midi_rwkv.training.losses import by_row, wanted_logits, wanted_nats

from .style import Style

LEARNING_RATES = (0.03, 0.1)
SCALES = (1.0, 1.25, 1.5)
STEPS = 48
RATE_STEPS = 8  # with every rate; then only the best continues
CHECK_EVERY = 8  # steps
STEP_IDS = 512  # tokens that a fold reads per step, approximately
WARMUP_STEPS = 4
BETAS = (0.9, 0.98)
PATIENCE = 2  # checks without a gain by any rate after which tuning stops


@dataclass(frozen=True)
class Fill:
    """A prepared sample: the state after everything before the run, and the run."""

    ids: np.ndarray  # (T,) tokens from Context_Middle on; or of a model of steps, (T, columns)
    roles: np.ndarray  # (T,) of the tokens; or of what each step predicts
    state: State  # one row
    notes: int  # in the fill
    unit: int  # fills of one unit are held out together: a file, or a part of the bars
    targets: np.ndarray | None = None  # (T, 5) of `layout.targets_of`, for a model of steps
    following: np.ndarray | None = None  # (T, columns) the steps that come next, for a model of steps
    marked: np.ndarray | None = None  # (T, 3) `pointers.places_known`, for a model of steps


def read_fill(
    engine: Engine[State], sample: Sample, middle: int, *, notes: int, unit: int, known: State | None = None
) -> Fill:
    """Reads everything before the token at `middle` with the engine. `known` is what it has already read."""
    at = sample.ids.index(middle)
    state = engine.new_state(1) if known is None else known.copy()
    engine.prefill(sample.ids[:at], state)
    return Fill(np.array(sample.ids[at:]), np.array(sample.roles[at:], np.int8), state, notes, unit)


def read_step_fill(
    engine: Engine[State], tables: StepTables, vocabulary: Vocabulary, sample: np.ndarray, unit: int
) -> Fill:
    """Reads everything before the first cell of a sample of steps, (n, columns), with the engine."""
    at = int((sample[:, Column.ROLE] == Role.ANSWER).argmax())
    state = engine.new_state(1)
    engine.prefill_vectors(tables(sample[:at]), state)
    run = np.concatenate([sample[at:], np.zeros((1, len(Column)), sample.dtype)])  # after it the last cell has ended
    targets, roles = targets_of(run, vocabulary)
    notes = int((targets[roles == Role.ANSWER, 0] > 0).sum())
    return Fill(run[:-1], roles, state, notes, unit, targets, run[1:], places_known(run[:-1], vocabulary.nothing))


def fill_losses(model: RWKV7 | StepModel, fills: Sequence[Fill], added: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(N,) nats of all tokens or notes of the fills' answers, and (N,) the fill that each belongs to.

    `added` is a state for the place before the run, (L, H, K, V).
    """
    trunk = model.trunk if isinstance(model, StepModel) else model
    device = trunk.ln_out.weight.device
    width = max(len(f.ids) for f in fills)
    ids = np.zeros((len(fills), width, *fills[0].ids.shape[1:]), np.int64)
    roles = np.zeros((len(fills), width), np.int8)
    for row, fill in enumerate(fills):
        ids[row, : len(fill.ids)], roles[row, : len(fill.ids)] = fill.ids, fill.roles
    kept = State.concat([f.state for f in fills])
    state = ModelState(*(torch.from_numpy(x).to(device) for x in (kept.att_shift, kept.ffn_shift, kept.wkv)))
    if added is not None:
        state.wkv = state.wkv + added[:, None]
    if isinstance(model, RWKV7):
        return wanted_nats(model, ids, roles == FILL, state)
    rows, places = np.nonzero(roles == Role.ANSWER)
    known = [[x[f.roles == Role.ANSWER] for x in (f.targets, f.following, f.marked) if x is not None] for f in fills]
    h = model.hidden(torch.from_numpy(ids).to(device), state)[torch.from_numpy(rows), torch.from_numpy(places)]
    nats = model.heads.nats(h, *(torch.from_numpy(np.concatenate(x)).to(device) for x in zip(*known, strict=True)))
    return nats.sum(1), torch.from_numpy(rows).to(device)


@torch.no_grad()
def fills_nats(
    model: RWKV7 | StepModel, fills: Sequence[Fill], added: Tensor | None = None, ids: int = 2 * STEP_IDS
) -> np.ndarray:
    """(len(fills),) nats of each fill, computed about `ids` tokens at a time."""
    out = np.zeros(len(fills))
    for chosen in batches(fills, ids):
        out[chosen] = by_row(*fill_losses(model, [fills[i] for i in chosen], added), len(chosen))
    return out


@torch.no_grad()
def styled_nats(model: RWKV7, sample: Sample, middle: int, style: Style) -> float:
    """Nats of one sample's answer under a style; `middle` is the token at which a run begins."""
    answer = torch.tensor([i for i, role in zip(sample.ids, sample.roles, strict=True) if role == FILL])
    return float(F.cross_entropy(styled_logits(model, sample, middle, style), answer, reduction="sum"))


@torch.no_grad()
def styled_logits(model: RWKV7, sample: Sample, middle: int, style: Style) -> Tensor:
    """(N, vocabulary) logits for each token of the answer, before the model reads it."""
    ids, roles = np.array([sample.ids]), np.array([sample.roles])
    at = sample.ids.index(middle)
    wkv, run = (None if x is None else torch.from_numpy(x) for x in (style.wkv, style.run))
    _, state = model.hidden(torch.from_numpy(ids[:, :at]), model.new_state(1, wkv))
    if run is not None:
        state.wkv = state.wkv + run[:, None]
    return wanted_logits(model, ids[:, at:], roles[:, at:] == FILL, state)[0]


def batches(fills: Sequence[Fill], ids: int, rng: np.random.Generator | None = None) -> list[list[int]]:
    """Batches of indices of fills of similar length, with about `ids` tokens per batch including padding.

    `rng` shuffles the batches, and the order of lengths slightly.
    """
    lengths = np.array([len(f.ids) for f in fills], float)
    order = np.argsort(lengths if rng is None else lengths * rng.uniform(0.8, 1.25, len(fills)), kind="stable")
    found: list[list[int]] = [[]]
    for i in map(int, order):
        width = max([len(fills[i].ids)] + [len(fills[k].ids) for k in found[-1]])
        if found[-1] and width * (len(found[-1]) + 1) > ids:
            found.append([])
        found[-1].append(i)
    if rng is not None:
        found = [found[i] for i in rng.permutation(len(found))]
    return found


@dataclass(frozen=True)
class Check:
    """The progress of a tuning. Held-out losses are nats per note, over all folds."""

    step: int
    steps: int
    before: float
    now: float  # loss of the best rate at this step
    best: float  # lowest loss so far
    seconds_left: float


@dataclass
class Tuning:
    """The tunings of all folds, side by side. `run()` may be interrupted at any time; `best_state` then exists."""

    model: RWKV7 | StepModel
    fills: Sequence[Fill]
    held_out: Sequence[Fill]  # each is used for the fold that holds out its unit
    folds: Sequence[Sequence[int]]  # the units that each fold holds out
    seed: int = 0
    steps: int = STEPS
    rates: Sequence[float] = LEARNING_RATES
    step: int = 0
    curve: list[dict[str, Any]] = field(default_factory=list)  # step, and held-out nats per note for each running rate

    def __post_init__(self) -> None:
        trunk = self.model.trunk if isinstance(self.model, StepModel) else self.model
        c, device = trunk.config, trunk.ln_out.weight.device
        shape = (c.n_layer, c.n_head, c.head_size, c.head_size)
        self.states = [[torch.zeros(shape, device=device, requires_grad=True) for _ in self.folds] for _ in self.rates]
        groups = [{"params": row, "lr": lr, "rate": lr} for row, lr in zip(self.states, self.rates, strict=True)]
        self.optimizer = torch.optim.Adam(groups, betas=BETAS)
        self.running = list(range(len(self.rates)))  # numbers of the rates that are still running
        self._train = [[f for f in self.fills if f.unit not in out] for out in self.folds]
        self._left_out = [[f for f in self.held_out if f.unit in out] for out in self.folds]
        if not all(self._train) or not all(self._left_out):
            raise ValueError("every fold needs fills to tune on and fills that are held out")
        self._notes = sum(f.notes for fold in self._left_out for f in fold)
        self.before = sum(float(fills_nats(self.model, fold).sum()) for fold in self._left_out) / self._notes
        self.best, self.best_rate, self.best_step, self.scale = self.before, 0.0, 0, 1.0
        self.best_states = [torch.zeros_like(s.detach()) for s in self.states[0]]  # one per fold

    @property
    def best_state(self) -> Tensor:
        """The best state so far."""
        return self.scale * torch.stack(self.best_states).mean(0)

    def run(self, on_check: Callable[[Check], None] = lambda _: None) -> None:
        """Tunes to the end, or until there is no more gain, and finds the scale."""
        began, first = time.monotonic(), self.step
        while self.step < self.steps and not self._is_over():
            for _ in range(min(CHECK_EVERY, self.steps - self.step)):
                self._step()
            now = self._check()
            done, to_do = self._work(first, self.step), self._work(self.step, self.steps)
            left = (time.monotonic() - began) / done * to_do
            on_check(Check(self.step, self.steps, self.before, now, self.best, 0.0 if self._is_over() else left))
        if self.best < self.before:
            losses = [self._left_out_loss([scale * s for s in self.best_states]) for scale in SCALES]
            self.best, self.scale = min(losses), SCALES[int(np.argmin(losses))]

    def _is_over(self) -> bool:
        return self.step - self.best_step >= PATIENCE * CHECK_EVERY

    def _work(self, first: int, last: int) -> int:
        """The steps between the two, once for each rate that takes them."""
        return len(self.rates) * max(0, min(last, RATE_STEPS) - first) + max(0, last - max(first, RATE_STEPS))

    def _step(self) -> None:
        for number, fills in enumerate(self._train):
            rng = np.random.default_rng((self.seed, self.step, number))
            some = [fills[i] for i in rng.choice(len(fills), min(len(fills), 64), replace=False)]
            chosen = [some[i] for i in batches(some, STEP_IDS, rng)[0]]
            for k in self.running:  # one after another, because together they would need twice the memory
                self.losses(chosen, self.states[k][number]).mean().backward()  # type: ignore[no-untyped-call]
        for group in self.optimizer.param_groups:
            group["lr"] = group["rate"] * min(1.0, (self.step + 1) / WARMUP_STEPS) * (1 - self.step / self.steps)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1

    def _check(self) -> float:
        """Measures every running rate and keeps the best. Returns its held-out nats per note."""
        losses = {k: self._left_out_loss([s.detach() for s in self.states[k]]) for k in self.running}
        self.curve.append({"step": self.step, "losses": {self.rates[k]: loss for k, loss in losses.items()}})
        k = min(losses, key=losses.__getitem__)
        if losses[k] < self.best:
            self.best, self.best_rate, self.best_step = losses[k], self.rates[k], self.step
            self.best_states = [s.detach().clone() for s in self.states[k]]
        if self.step >= RATE_STEPS:
            self.running = [k]
        return losses[k]

    def _left_out_loss(self, states: Sequence[Tensor]) -> float:
        """Nats per note of the held-out fills, each under the state of its own fold."""
        nats = (float(self.all_nats(fold, s).sum()) for fold, s in zip(self._left_out, states, strict=True))
        return sum(nats) / self._notes

    def nats(self, fills: Sequence[Fill]) -> np.ndarray:
        """Nats of other fills under the best state."""
        return self.all_nats(fills, self.best_state)

    def losses(self, fills: Sequence[Fill], state: Tensor) -> Tensor:
        """Nats of all tokens of the fills' answers, differentiable in the tuned states."""
        return fill_losses(self.model, fills, state)[0]

    def all_nats(self, fills: Sequence[Fill], state: Tensor) -> np.ndarray:
        """Nats of each fill."""
        return fills_nats(self.model, fills, state)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to resume exactly here."""
        return {
            "states": [[s.detach() for s in row] for row in self.states],
            "optimizer": self.optimizer.state_dict(),
            "best": [self.best, self.best_rate, self.best_step],
            "best_states": self.best_states,
            "step": self.step,
            "running": self.running,
            "curve": self.curve,
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        with torch.no_grad():
            for row, kept in zip(self.states, saved["states"], strict=True):
                for s, k in zip(row, kept, strict=True):
                    s.copy_(k)
        self.optimizer.load_state_dict(saved["optimizer"])
        self.best, self.best_rate, self.best_step = saved["best"]
        self.best_states, self.step = saved["best_states"], saved["step"]
        self.running, self.curve = saved["running"], saved["curve"]
