"""Tuning: learns one state matrix per head, added where a run begins, and small changes to the weights that write it.

The decoding engine reads everything before the first cell of a run once and keeps it as a state, because nothing that
is tuned changes it. Only the cells themselves, some hundred steps of the model, go through the differentiable sequence
form again and again. This is why minutes on two cores are enough.

The learning rate and the number of steps need no choice. Every fold (one file left out, or one part of the bars) is
tuned with all `LEARNING_RATES` side by side. The held-out music decides which rate continues after `RATE_STEPS`, which
step to keep, and by which of `SCALES` to multiply the changes at the end. The style is the mean of the folds' changes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from midi_rwkv.engine.engine import State, VectorEngine
from midi_rwkv.engine.tables import StepTables
from midi_rwkv.model.rwkv7 import ModelState
from midi_rwkv.model.steps import StepModel
from midi_rwkv.tokens.attributes import Column, Role, Vocabulary
from midi_rwkv.tokens.layout import targets_of
from midi_rwkv.tokens.pointers import places_known

from .adapter import Adapter, mean_of

LEARNING_RATES = (0.03, 0.1)  # of the state
PAIRS_RATE = 0.01  # of the changes to weights, times the state's
SCALES = (1.0, 1.25, 1.5)
STEPS = 48
RATE_STEPS = 8  # with every rate; then only the best continues
CHECK_EVERY = 8  # steps
BATCH = 512  # of the model's steps, which a fold reads per step of tuning, approximately
WARMUP_STEPS = 4
BETAS = (0.9, 0.98)
RESAMPLES = 2000  # for an interval
PATIENCE = 2  # checks without a gain by any rate after which tuning stops


@dataclass(frozen=True)
class Fill:
    """A prepared sample: the state after what has been read of it, and the rest, T of the model's steps."""

    steps: np.ndarray  # (T, columns)
    following: np.ndarray  # (T, columns) the step that comes after each, zeros after the last
    targets: np.ndarray  # (T, 5) what each predicts, as `layout.targets_of` has it
    roles: np.ndarray  # (T,) of the predictions
    known: np.ndarray  # (T, 6) `pointers.places_known`
    state: State  # one row
    unit: int  # fills of one unit are held out together: a file, or a part of the bars
    setting: str = ""  # of `settings.SETTINGS`

    @property
    def notes(self) -> int:
        """The notes of the answer."""
        return int((self.targets[self.roles == Role.ANSWER, 0] > 0).sum())


def fill_of(vocabulary: Vocabulary, rest: np.ndarray, state: State, unit: int, setting: str = "") -> Fill:
    """A fill from the steps of a sample that are not read yet, (T, columns), and the state after those that are."""
    end = np.zeros((1, len(Column)), rest.dtype)  # no note, so the last cell has ended
    ended = np.concatenate([rest, end])
    targets, roles = targets_of(ended, vocabulary)
    return Fill(rest, ended[1:], targets, roles, places_known(rest, vocabulary.nothing), state, unit, setting)


def read_fill(  # noqa: PLR0913 -- what reads, and what it is of
    engine: VectorEngine[State],
    tables: StepTables,
    vocabulary: Vocabulary,
    sample: np.ndarray,
    unit: int,
    before: State | None = None,
    setting: str = "",
) -> Fill:
    """Reads everything before the first cell of a sample, (n, columns), with the engine, after the state `before`."""
    at = int((sample[:, Column.ROLE] == Role.ANSWER).argmax())
    state = engine.new_state(1) if before is None else before.copy()
    engine.prefill_vectors(tables(sample[:at]), state)
    return fill_of(vocabulary, sample[at:], state, unit, setting)


def fill_losses(
    model: StepModel, fills: Sequence[Fill], added: Tensor | Adapter | None = None
) -> tuple[Tensor, Tensor]:
    """(N,) nats of all notes and cell ends of the fills' answers, and (N,) the fill that each belongs to.

    `added` is added to the states of the fills, (L, H, K, V), and if it is an adapter to the weights.
    """
    if isinstance(added, Adapter) and added.pairs:
        weights = {f"model.{name}": weight for name, weight in added.weights(model).items()}
        found: tuple[Tensor, Tensor] = functional_call(_Losses(model), weights, (fills, added.state))
        return found
    given, rows = given_to_heads(model, fills, added.state if isinstance(added, Adapter) else added)
    return model.heads.nats(*given).sum(1), rows


class _Losses(nn.Module):
    """`fill_losses` as a module, so that other weights can be put in for a call."""

    def __init__(self, model: StepModel):
        super().__init__()
        self.model = model

    def forward(self, fills: Sequence[Fill], state: Tensor) -> tuple[Tensor, Tensor]:
        return fill_losses(self.model, fills, state)


def given_to_heads(
    model: StepModel, fills: Sequence[Fill], added: Tensor | None = None
) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """The arguments of `Heads.nats` for the fills' answers, N rows each, and (N,) the fill that each belongs to."""
    device = model.tables.weight.device
    steps = np.zeros((len(fills), max(len(f.steps) for f in fills), len(Column)), np.int64)
    roles = np.zeros(steps.shape[:2], np.int8)
    for row, fill in enumerate(fills):
        steps[row, : len(fill.steps)], roles[row, : len(fill.steps)] = fill.steps, fill.roles
    read = State.concat([f.state for f in fills])
    state = ModelState(*(torch.from_numpy(x).to(device) for x in (read.att_shift, read.ffn_shift, read.wkv)))
    if added is not None:
        state.wkv = state.wkv + added[:, None]
    rows, places = (torch.from_numpy(x) for x in np.nonzero(roles == Role.ANSWER))
    h = model.hidden(torch.from_numpy(steps).to(device), state)[rows, places]
    asked = [[x[f.roles == Role.ANSWER] for x in (f.targets, f.following, f.known)] for f in fills]
    targets, following, known = (torch.from_numpy(np.concatenate(x)).to(device) for x in zip(*asked, strict=True))
    return (h, targets, following, known), rows


@torch.no_grad()
def fills_nats(
    model: StepModel, fills: Sequence[Fill], added: Tensor | Adapter | None = None, size: int = 2 * BATCH
) -> np.ndarray:
    """(len(fills),) nats of each fill's answer, computed about `size` of the model's steps at a time."""
    out = np.zeros(len(fills))
    for chosen in batches(fills, size):
        nats, rows = fill_losses(model, [fills[i] for i in chosen], added)
        out[chosen] = np.bincount(rows.numpy(), nats.double().cpu().numpy(), len(chosen))
    return out


def batches(fills: Sequence[Fill], size: int, rng: np.random.Generator | None = None) -> list[list[int]]:
    """Batches of indices of fills of similar length, with about `size` of the model's steps each, padding included.

    `rng` shuffles the batches, and the order of lengths slightly.
    """
    lengths = np.array([len(f.steps) for f in fills], float)
    order = np.argsort(lengths if rng is None else lengths * rng.uniform(0.8, 1.25, len(fills)), kind="stable")
    found: list[list[int]] = [[]]
    for i in map(int, order):
        width = max([len(fills[i].steps)] + [len(fills[k].steps) for k in found[-1]])
        if found[-1] and width * (len(found[-1]) + 1) > size:
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


@dataclass(frozen=True)
class Gain:
    """Nats per note of held-out fills without a style and with it; and the 95 % interval of the difference, by drawing
    the fills again."""

    setting: str
    before: float
    after: float
    low: float
    high: float

    @classmethod
    def of(cls, setting: str, before: np.ndarray, after: np.ndarray, notes: np.ndarray) -> Gain:
        """From the nats and notes of each fill."""
        drawn = np.random.default_rng(0).integers(0, len(notes), (RESAMPLES, len(notes)))
        changes = (after - before)[drawn].sum(1) / notes[drawn].sum(1)
        low, high = np.quantile(changes, (0.025, 0.975))
        return cls(
            setting, float(before.sum() / notes.sum()), float(after.sum() / notes.sum()), float(low), float(high)
        )

    @property
    def certain(self) -> bool:
        """Whether the style is better by more than chance."""
        return self.high < 0


@dataclass
class Tuning:
    """The tunings of all folds, side by side. `run()` may be interrupted at any time; `best_adapter` then exists."""

    model: StepModel
    fills: Sequence[Fill]
    held_out: Sequence[Fill]  # each is used for the fold that holds out its unit
    plain: Sequence[Fill]  # the same without a memory, which is what the base model has
    folds: Sequence[Sequence[int]]  # the units that each fold holds out
    seed: int = 0
    steps: int = STEPS
    rates: Sequence[float] = LEARNING_RATES
    step: int = 0
    curve: list[dict[str, Any]] = field(default_factory=list)  # step, and held-out nats per note for each running rate

    def __post_init__(self) -> None:
        numbers = range(len(self.folds))
        self.adapters = [[Adapter.begin(self.model, 100 * self.seed + n) for n in numbers] for _ in self.rates]
        groups = []
        for row, rate in zip(self.adapters, self.rates, strict=True):
            states, pairs = [x.state for x in row], [t for x in row for t in x.tensors[1:]]
            groups += [{"params": states, "rate": rate}, {"params": pairs, "rate": PAIRS_RATE * rate}]
        self.optimizer = torch.optim.Adam(groups, lr=0.0, betas=BETAS)
        self.running = list(range(len(self.rates)))  # numbers of the rates that are still running
        self._train = [[f for f in self.fills if f.unit not in out] for out in self.folds]
        self._left_out = [[f for f in self.held_out if f.unit in out] for out in self.folds]
        self._plain = [[f for f in self.plain if f.unit in out] for out in self.folds]
        if not all(self._train) or not all(self._left_out):
            raise ValueError("every fold needs fills to tune on and fills that are held out")
        self._notes = sum(f.notes for fold in self._left_out for f in fold)
        self._before = [fills_nats(self.model, fold) for fold in self._plain]
        self.before = float(sum(x.sum() for x in self._before)) / self._notes
        self.remembers = True
        self.best_rate, self.best_step, self.scale = 0.0, 0, 1.0
        self.best_adapters = [x.detached() for x in self.adapters[0]]  # one per fold
        self.best = min(self.before, self._left_out_loss(self.best_adapters))  # the memory alone may help

    @property
    def best_adapter(self) -> Adapter:
        """The best changes so far."""
        return mean_of(self.best_adapters).scaled(self.scale)

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
            losses = [self._left_out_loss([x.scaled(scale) for x in self.best_adapters]) for scale in SCALES]
            self.best, self.scale = min(losses), SCALES[int(np.argmin(losses))]
        without = [fills_nats(self.model, f, x) for f, x in zip(self._plain, self._scaled, strict=True)]
        self.remembers = bool(sum(x.sum() for x in self.left_out_nats()) < sum(x.sum() for x in without))
        if not self.remembers:
            self.best = min(self.best, float(sum(x.sum() for x in without)) / self._notes)

    def gains(self) -> list[Gain]:
        """What the style brings on the held-out fills, in all of them and in each setting."""
        before = np.concatenate(self._before)
        fills = [f for fold in self._plain for f in fold]
        after = np.concatenate(self.left_out_nats())
        notes, setting = np.array([f.notes for f in fills]), np.array([f.setting for f in fills])
        everywhere = [("all", np.ones(len(fills), bool))]
        some = [*everywhere, *((name, setting == name) for name in dict.fromkeys(setting.tolist()))]
        return [Gain.of(name, before[own], after[own], notes[own]) for name, own in some]

    @property
    def _scaled(self) -> list[Adapter]:
        return [x.scaled(self.scale) for x in self.best_adapters]

    def _is_over(self) -> bool:
        return self.step - self.best_step >= PATIENCE * CHECK_EVERY

    def _work(self, first: int, last: int) -> int:
        """The steps between the two, once for each rate that takes them."""
        return len(self.rates) * max(0, min(last, RATE_STEPS) - first) + max(0, last - max(first, RATE_STEPS))

    def _step(self) -> None:
        for number, fills in enumerate(self._train):
            rng = np.random.default_rng((self.seed, self.step, number))
            some = [fills[i] for i in rng.choice(len(fills), min(len(fills), 64), replace=False)]
            chosen = [some[i] for i in batches(some, BATCH, rng)[0]]
            for k in self.running:  # one after another, because together they would need twice the memory
                nats, _ = fill_losses(self.model, chosen, self.adapters[k][number])
                nats.mean().backward()  # type: ignore[no-untyped-call]
        for group in self.optimizer.param_groups:
            group["lr"] = group["rate"] * min(1.0, (self.step + 1) / WARMUP_STEPS) * (1 - self.step / self.steps)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1

    def _check(self) -> float:
        """Measures every running rate and keeps the best. Returns its held-out nats per note."""
        losses = {k: self._left_out_loss(self.adapters[k]) for k in self.running}
        self.curve.append({"step": self.step, "losses": {self.rates[k]: loss for k, loss in losses.items()}})
        k = min(losses, key=losses.__getitem__)
        if losses[k] < self.best:
            self.best, self.best_rate, self.best_step = losses[k], self.rates[k], self.step
            self.best_adapters = [x.detached() for x in self.adapters[k]]
        if self.step >= RATE_STEPS:
            self.running = [k]
        return losses[k]

    def _left_out_loss(self, adapters: Sequence[Adapter]) -> float:
        """Nats per note of the held-out fills, each under the adapter of its own fold."""
        return float(sum(x.sum() for x in self.left_out_nats(adapters))) / self._notes

    def left_out_nats(self, adapters: Sequence[Adapter] | None = None) -> list[np.ndarray]:
        """By fold the nats of each held-out fill, under the adapter of the fold; None: under the best."""
        adapters = adapters or self._scaled
        fills = self._left_out if self.remembers else self._plain
        return [fills_nats(self.model, fold, x) for fold, x in zip(fills, adapters, strict=True)]

    def nats(self, fills: Sequence[Fill]) -> np.ndarray:
        """Nats of other fills under the best changes."""
        return fills_nats(self.model, fills, self.best_adapter)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to resume exactly here."""
        return {
            "adapters": [[[t.detach() for t in x.tensors] for x in row] for row in self.adapters],
            "optimizer": self.optimizer.state_dict(),
            "best": [self.best, self.best_rate, self.best_step],
            "best_adapters": [x.tensors for x in self.best_adapters],
            "step": self.step,
            "running": self.running,
            "curve": self.curve,
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        for row, kept_row in zip(self.adapters, saved["adapters"], strict=True):
            for adapter, kept in zip(row, kept_row, strict=True):
                adapter.load(kept)
        self.optimizer.load_state_dict(saved["optimizer"])
        self.best, self.best_rate, self.best_step = saved["best"]
        for adapter, kept in zip(self.best_adapters, saved["best_adapters"], strict=True):
            adapter.load(kept)
        self.step = saved["step"]
        self.running, self.curve = saved["running"], saved["curve"]
