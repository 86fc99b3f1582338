"""The training loop: note shards in, a checkpoint folder out.

    midi-rwkv train SHARDS RUN
    midi-rwkv train SHARDS BRANCH --branch RUN --decay 2000000

A run is a folder. `state.pt` holds everything needed to go on exactly where it stopped, on another machine too; it is
written whole every few minutes, on Ctrl-C and on SIGTERM. A run has no end: its learning rate is held, and where it
stops at `--total`, the average of its weights is its checkpoint. A branch begins with a run's state, leaves the run as
it is, and ends in the checkpoint that its falling learning rate makes. Where only a checkpoint is left of a run,
`--start CHECKPOINT` goes on from its weights, with a new warm-up.

Each process reads rows of its own, their gradients are averaged, and Muon's matrices are shared out.
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from midi_rwkv.corpus.note_shards import NoteShard
from midi_rwkv.model.config import ModelConfig, TrainConfig
from midi_rwkv.model.rwkv7 import RWKV7
from midi_rwkv.model.step_checkpoint import StepCheckpoint, save_step_checkpoint
from midi_rwkv.model.steps import StepModel
from midi_rwkv.tokens.attributes import Role
from midi_rwkv.tokens.layout import targets_of
from midi_rwkv.tokens.pointers import places_known

from .average import RunAverage
from .beginning import THIS_MACHINE, Machine, open_shards, read_run, read_start, state_to_read
from .compiled import check_compiled, compile_blocks, compile_heads, uncompiled
from .muon import Muon, has_fast_bf16
from .parallel import Group, join
from .rows import TrainingRows
from .run_files import Curve, write_state
from .valid import ATTRIBUTES, validation_fills

LOG_STEPS = 20  # of the optimizer


class Trainer:
    """One run in one folder: `Trainer(...).run()`. Each process has one; the first writes the files."""

    def __init__(
        self,
        shards: Path,
        folder: Path,
        model_config: ModelConfig,
        config: TrainConfig,
        *,
        machine: Machine = THIS_MACHINE,
        origin: Path | None = None,
    ):
        """origin: what a new run begins with: the run that it is a branch of, or the folder of a checkpoint."""
        self.folder, self.config = folder, config
        self.vocabulary = open_shards(shards, config)
        self.rows = TrainingRows(
            shards, self.vocabulary, config.seq_len, seed=config.seed, weights=config.source_weights
        )
        self.group: Group = join(machine.device)
        self.device = self.group.device
        torch.manual_seed(config.seed)
        self.model_config = model_config
        self.model = StepModel(model_config, self.vocabulary.sizes).to(self.device)
        self.average = RunAverage(self.model)
        self.optimizers = make_optimizers(self.model, config, self.group)
        self.valid = validation_fills(NoteShard(shards / "valid.npz"), self.vocabulary)
        self.step = self.steps = 0  # of the optimizer; of the model, over all processes
        self.warm_from = self.row = 0
        self.window = torch.zeros(2, dtype=torch.float64)  # weighted nats and weights since the last log, of all
        self.state_path, self.curve = folder / "state.pt", Curve(folder / "curve.csv")
        path = state_to_read(folder, config, origin)
        if machine.compiled:
            check_compiled(model_config.arch, machine.device)
        if path is not None:
            self._resume(read_run(path, model_config, self.model.sizes, self.device), own=path == self.state_path)
        elif origin is not None:
            self._start_from(read_start(origin, model_config, self.model.sizes))
        folder.mkdir(parents=True, exist_ok=True)
        if machine.compiled and isinstance(self.model.trunk, RWKV7):
            compile_blocks(self.model.trunk)
            compile_heads(self.model.heads)

    def _resume(self, state: dict[str, Any], *, own: bool) -> None:
        """own: whether it is this run's state, rather than that of the run that it is a branch of."""
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.steps, self.row = state["step"], state["steps"], state["row"]
        self.warm_from = state.get("warm_from", 0)
        if own and "window" in state:
            self.window = state["window"].cpu()
        self.config = replace(self.config, branch_at=state["branch_at"] if own else self.steps)
        if self.group.first:
            self.curve.cut(self.steps)
            print(f"going on at {self.steps:,} steps", flush=True)

    def _start_from(self, checkpoint: StepCheckpoint) -> None:
        """Takes over a checkpoint's weights, and reads on after what it has read."""
        for model in (self.model, self.average.module):
            model.load_state_dict({k: torch.from_numpy(w) for k, w in checkpoint.weights.items()})
        self.steps = self.warm_from = int(checkpoint.training.get("steps_seen", 0))
        self.row = self.steps // self.config.seq_len

    def save(self) -> None:
        """`state.pt`, whole or not at all; the first process's work.

        Muon's momentum is the same in every process: each averages all gradients.
        """
        if not self.group.first:
            return
        write_state(
            self.state_path,
            {
                "model": self.model.state_dict(),
                "average": self.average.state_dict(),
                "optimizers": [o.state_dict() for o in self.optimizers],
                "step": self.step,
                "steps": self.steps,
                "row": self.row,
                "warm_from": self.warm_from,
                "window": self.window,
                "branch_at": self.config.branch_at,
                "model_config": self.model_config.to_dict(),
                "sizes": list(self.model.sizes),
            },
        )

    def autocast(self) -> Any:
        """bf16 for the matrix products where asked for, and where the machine is quick at it."""
        quick = self.config.bf16 and has_fast_bf16(self.device)
        return torch.autocast(self.device.type, torch.bfloat16) if quick else nullcontext()

    @property
    def best(self) -> StepModel:
        """The model at its best: the average of the run, or a branch as it is."""
        return self.model if self.config.decay_steps else self.average.module

    @torch.no_grad()
    def evaluate(self) -> float:
        """Nats per note of `best` on the fixed validation fills, mean over the sources. Each process takes its share of
        them."""
        model = self.best.eval()
        sources = sorted({f.source for f in self.valid})
        sums = np.zeros((len(sources), len(ATTRIBUTES) + 1))
        for fill in self.valid[self.group.rank :: self.group.size]:
            targets, roles = targets_of(fill.steps, self.vocabulary)
            asked = torch.from_numpy(roles == Role.ANSWER)
            with uncompiled():
                with self.autocast():
                    h = model.hidden(torch.from_numpy(fill.steps[None, :-1]).to(self.device))[0]
                marks = places_known(fill.steps[:-1], self.vocabulary.nothing)
                known = (torch.from_numpy(x)[asked].to(self.device) for x in (targets, fill.steps[1:], marks))
                nats = model.heads.nats(h[asked.to(self.device)].float(), *known)
            sums[sources.index(fill.source), :-1] += nats.double().sum(0).cpu().numpy()
            sums[sources.index(fill.source), -1] += fill.notes
        model.train()
        sums = self.group.total(sums)
        by_source = sums[:, :-1] / sums[:, -1:]
        mean = float(by_source.sum(1).mean())
        if self.group.first:
            parts = dict(zip(ATTRIBUTES, by_source.mean(0).round(4).tolist(), strict=True))
            by = {s: round(float(n), 4) for s, n in zip(sources, by_source.sum(1), strict=True)}
            self.curve.log(
                {
                    "tokens": self.steps,
                    "kind": "valid",
                    "loss": round(mean, 4),
                    "by_source": json.dumps({**parts, **by}),
                }
            )
        return mean

    def loss(self, steps: np.ndarray, starts: np.ndarray) -> tuple[Tensor, float]:
        """Weighted nats of the rows' notes, and their weights. steps (B, T + 1, columns), starts (B, T + 1)."""
        pairs = [targets_of(row, self.vocabulary) for row in steps]
        targets, roles = (np.stack(x) for x in zip(*pairs, strict=True))
        asked = torch.from_numpy(roles != Role.NONE)
        weights = np.where(roles == Role.ANSWER, 1.0, self.config.context_weight).astype(np.float32)
        weight = torch.from_numpy(weights)[asked].to(self.device)
        with self.autocast():
            h = self.model.hidden(
                torch.from_numpy(steps[:, :-1]).to(self.device), starts=torch.from_numpy(starts[:, :-1]).to(self.device)
            )
            marks = np.stack([places_known(row[:-1], self.vocabulary.nothing) for row in steps])
            known = (torch.from_numpy(x)[asked].to(self.device) for x in (targets, steps[:, 1:], marks))
            nats = self.model.heads.nats(h[asked.to(self.device)], *known)
        return nats.sum(1) @ weight, float(weight.sum())

    def train_step(self) -> float:
        """One step of the optimizers; returns the learning rate."""
        c, g = self.config, self.group
        warm = min(1.0, (self.steps - self.warm_from + 1) / c.warmup_steps)
        left = c.falling(self.steps)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = c.lr * warm * left
                group["weight_decay"] = group["full_decay"] * left
        mine = [self.rows[self.row + k * g.size + g.rank] for k in range(c.rows)]
        steps, starts = (np.stack(x) for x in zip(*mine, strict=True))
        nats, weight = self.loss(steps, starts)
        total = float(g.total(np.array([weight]))[0])
        torch.autograd.backward(nats / total)
        summed = self._sum_gradients(nats)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), c.clip)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.average.update_parameters(self.model)
        self.window += torch.tensor([summed, total], dtype=torch.float64)
        self.row += c.rows * g.size
        self.steps += c.rows * g.size * c.seq_len
        self.step += 1
        return c.lr * warm * left

    def _sum_gradients(self, nats: Tensor) -> float:
        """Sums the gradients over the processes, each of which has divided by the weights of all. Returns the sum of
        their nats."""
        if self.group.size == 1:
            return nats.item()
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        flat = torch.cat([*(g.flatten() for g in gradients), nats.detach().view(1)])
        dist.all_reduce(flat)
        at = 0
        for gradient in gradients:
            gradient.copy_(flat[at : at + gradient.numel()].view_as(gradient))
            at += gradient.numel()
        return flat[at].item()

    def run(self, total: int = 0) -> None:
        """Train: a branch to its end, a run to `total` steps (0: until it is stopped).

        Ctrl-C and SIGTERM save first, in the middle of nothing: then KeyboardInterrupt.
        """
        c = self.config
        end = c.branch_at + c.decay_steps if c.decay_steps else total
        saved = logged = time.monotonic()
        clocked = self.steps
        with stop_requests(insist=self.group.size == 1) as stop:
            while not end or self.steps < end:
                if self.group.total(np.array([stop.is_set()]))[0]:  # all processes see it before the same step
                    self.save()
                    raise KeyboardInterrupt(f"saved at {self.steps:,} steps; the same command goes on from there")
                before = self.steps
                lr = self.train_step()
                if self.step % LOG_STEPS == 0:
                    nats, weight = self.window.tolist()
                    self.window.zero_()
                    now = time.monotonic()
                    if self.group.first:
                        speed = round((self.steps - clocked) / (now - logged))
                        values = {"tokens": self.steps, "kind": "train", "loss": round(nats / weight, 4), "lr": lr}
                        self.curve.log({**values, "tokens_per_second": speed})
                    logged, clocked = now, self.steps
                if before // c.eval_steps != self.steps // c.eval_steps:
                    self.evaluate()
                    logged, clocked = time.monotonic(), self.steps
                if time.monotonic() - saved > c.save_seconds:
                    self.save()
                    saved = time.monotonic()
        measured = self.group.first and self.curve.has("valid", self.steps)
        if not self.group.total(np.array([measured]))[0]:
            self.evaluate()
        self.save()
        if self.group.first:
            self.write_model()
        self.group.close()

    def write_model(self) -> None:
        """The checkpoint of `best`, in the run's folder."""
        training = {"steps_seen": self.steps, **self.config.to_dict()}
        save_step_checkpoint(
            self.folder,
            self.model_config,
            self.best.state_dict(),
            self.vocabulary,
            context=self.config.seq_len,
            training=training,
        )


@contextmanager
def stop_requests(*, insist: bool) -> Iterator[threading.Event]:
    """An event that Ctrl-C or SIGTERM sets. With `insist`, the second one interrupts at once."""
    stop = threading.Event()

    def request(number: int, _: Any) -> None:
        stop.set()
        if insist:
            signal.signal(number, signal.default_int_handler)

    usual = {}
    if threading.current_thread() is threading.main_thread():
        usual = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)


def make_optimizers(model: StepModel, config: TrainConfig, group: Group) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks and between the heads, AdamW for the rest."""
    named = list(model.named_parameters())
    inner = ("trunk.blocks.", "heads.up.", "heads.down.")
    matrices = [p for n, p in named if n.startswith(inner) and n.endswith(".weight") and p.ndim == 2]
    taken = {id(p) for p in matrices}
    rest = [(n, p) for n, p in named if id(p) not in taken]
    decayed = [p for n, p in rest if p.ndim == 2 and not n.endswith("r_k")]
    plain = [p for n, p in rest if p.ndim != 2 or n.endswith("r_k")]
    adam = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=config.lr,
        betas=config.betas,
        eps=1e-10,
        fused=True,
    )
    muon = Muon(matrices, config.lr, config.weight_decay, rank=group.rank, size=group.size)
    for optimizer in (adam, muon):
        for parameters in optimizer.param_groups:
            parameters["full_decay"] = parameters["weight_decay"]
    return [adam, muon]
