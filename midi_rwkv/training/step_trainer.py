"""The training loop of the step model: note shards in, a checkpoint folder out.

    python -m midi_rwkv.training.step_trainer SHARDS RUN
    python -m midi_rwkv.training.step_trainer SHARDS BRANCH --branch RUN --decay 2000000

A run is a folder. `state.pt` holds everything needed to go on exactly where it stopped, on another machine too; it is
written whole every few minutes, on Ctrl-C and on SIGTERM. A run has no end: its learning rate is held, and where it
stops at `--total`, the average of its weights is its checkpoint. A branch begins with a run's state, leaves the run as
it is, and ends in the checkpoint that its falling learning rate makes. Where only a checkpoint is left of a run,
`--start CHECKPOINT` goes on from its weights, with a new warm-up.

Each process reads rows of its own, their gradients are averaged, and Muon's matrices are shared out.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from midi_rwkv.corpus.note_shards import NoteShard
from midi_rwkv.errors import CorpusError, RequestError
from midi_rwkv.model.checkpoint import load_checkpoint
from midi_rwkv.model.config import ModelConfig, StepTrainConfig
from midi_rwkv.model.step_checkpoint import StepCheckpoint, save_step_checkpoint, step_shapes
from midi_rwkv.model.steps import StepModel
from midi_rwkv.tokens.attributes import Role, Vocabulary
from midi_rwkv.tokens.layout import targets_of
from midi_rwkv.tokens.pointers import places_known

from .average import RunAverage
from .compiled import can_compile, compile_blocks, compile_heads, uncompiled
from .launch import launch, processes_here
from .muon import Muon, has_fast_bf16
from .parallel import Group, join
from .rows import TrainingRows
from .run_files import Curve, read_state, write_state
from .trainer import THIS_MACHINE, Machine, stop_requests
from .valid import ATTRIBUTES, validation_fills

LOG_STEPS = 20  # of the optimizer
OPTIONS = (
    "seq_len",
    "rows",
    "lr",
    "warmup_steps",
    "context_weight",
    "weight_decay",
    "seed",
    "save_seconds",
    "eval_steps",
)


class StepTrainer:
    """One run in one folder: `StepTrainer(...).run()`. Each process has one; the first writes the files."""

    def __init__(
        self,
        shards: Path,
        folder: Path,
        model_config: ModelConfig,
        config: StepTrainConfig,
        *,
        machine: Machine = THIS_MACHINE,
        origin: Path | None = None,
    ):
        """machine: its device, and whether to go through torch.compile. origin: what a new run begins with: the run
        that it is a branch of, or the folder of a checkpoint."""
        if not (shards / "tokenizer.json").exists():
            raise CorpusError(f"{shards} holds no note shards (no tokenizer.json)")
        self.folder, self.config = folder, config
        self.vocabulary = Vocabulary.load(shards / "tokenizer.json")
        self.rows = TrainingRows(shards, self.vocabulary, config.seq_len, seed=config.seed)
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
        self.window = torch.zeros(2, dtype=torch.float64)  # weighted nats and weights since the last log
        folder.mkdir(parents=True, exist_ok=True)
        self.state_path, self.curve = folder / "state.pt", Curve(folder / "curve.csv")
        if self.state_path.exists():
            self._resume(self.state_path)
        elif origin is not None and config.decay_steps:
            self._resume(origin / "state.pt")
            self.config = replace(self.config, branch_at=self.steps)
        elif origin is not None:
            self._start_from(origin)
        if machine.compiled:
            compile_blocks(self.model.trunk)
            compile_heads(self.model.heads)

    def _resume(self, path: Path) -> None:
        state = read_state(path, self.device)
        if state["model_config"] != self.model_config.to_dict() or tuple(state["sizes"]) != self.model.sizes:
            raise RequestError(f"{path} holds another model; name a new run folder, or the same --n-layer and --n-embd")
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.steps, self.row = state["step"], state["steps"], state["row"]
        self.warm_from = state.get("warm_from", 0)
        self.config = replace(self.config, branch_at=state["branch_at"] if path == self.state_path else 0)
        if self.group.first:
            self.curve.cut(self.steps)
            print(f"going on at {self.steps:,} steps", flush=True)

    def _start_from(self, folder: Path) -> None:
        """Takes over a checkpoint's weights, and reads on after what it has read."""
        checkpoint = load_checkpoint(folder)
        if not isinstance(checkpoint, StepCheckpoint) or step_shapes(
            checkpoint.config, checkpoint.vocabulary.sizes
        ) != step_shapes(self.model_config, self.vocabulary.sizes):
            raise RequestError(f"{folder} holds another model; name the same --n-layer and --n-embd")
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
        self._sum_gradients()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), c.clip)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.average.update_parameters(self.model)
        self.window += torch.tensor([nats.item(), weight], dtype=torch.float64)
        self.row += c.rows * g.size
        self.steps += c.rows * g.size * c.seq_len
        self.step += 1
        return c.lr * warm * left

    def _sum_gradients(self) -> None:
        """Over the processes; each has divided by the weights of all."""
        if self.group.size == 1:
            return
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        at = 0
        for gradient in gradients:
            gradient.copy_(flat[at : at + gradient.numel()].view_as(gradient))
            at += gradient.numel()

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
                    nats, weight = self.group.total(self.window.numpy()).tolist()
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


def make_optimizers(model: StepModel, config: StepTrainConfig, group: Group) -> list[torch.optim.Optimizer]:
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


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m midi_rwkv.training.step_trainer SHARDS RUN`"""
    defaults = StepTrainConfig()
    parser = argparse.ArgumentParser(prog="step_trainer", description="Note shards in, a model of steps out.")
    parser.add_argument("shards", type=Path)
    parser.add_argument("folder", type=Path, help="the run's; the same command again goes on in it")
    parser.add_argument("--branch", type=Path, metavar="RUN", help="begin with this run's state and let it decay")
    parser.add_argument("--start", type=Path, metavar="CHECKPOINT", help="begin with a checkpoint's weights")
    parser.add_argument("--decay", type=int, default=0, dest="decay_steps", help="steps of a branch")
    parser.add_argument("--total", type=int, default=0, help="where a run ends; 0: when it is stopped")
    parser.add_argument(
        "--processes", type=int, help="of one thread each; default: one for each physical core that memory allows"
    )
    parser.add_argument("--n-layer", type=int, default=4)
    parser.add_argument("--n-embd", type=int, default=384)
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        dest="compiled",
        help="fuse what lies between the matrix products with torch.compile; default: where there is a C++ compiler",
    )
    for name in OPTIONS:
        value = getattr(defaults, name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    options = vars(parser.parse_args(arguments))
    if bool(options["branch"]) != bool(options["decay_steps"]):
        parser.error("--branch and --decay go together")
    if options["branch"] and options["start"]:
        parser.error("--start is for a run, which --branch takes its own beginning from; give one of them")
    names = ("shards", "folder", "branch", "start", "total", "processes", "n_layer", "n_embd", "device", "compiled")
    own = {k: options.pop(k) for k in names}
    model = ModelConfig(n_layer=own["n_layer"], n_embd=own["n_embd"], vocab_size=1)
    config = StepTrainConfig(**options)
    processes = own["processes"] or processes_here(model, config, own["device"])
    if processes > 1:
        launch(processes, sys.argv[1:] if arguments is None else arguments)
        return
    torch.set_num_threads(1)
    compiled = can_compile(own["device"]) if own["compiled"] is None else own["compiled"]
    trainer = StepTrainer(
        own["shards"],
        own["folder"],
        model,
        config,
        machine=Machine(device=own["device"], compiled=compiled),
        origin=own["branch"] or own["start"],
    )
    if trainer.group.first and own["compiled"] is None and not compiled:
        print("no C++ compiler (g++ or clang++) here: training goes on without --compile, more slowly", flush=True)
    code = 0
    try:
        trainer.run(own["total"])
    except KeyboardInterrupt as stopped:
        print(stopped if trainer.group.first else "", flush=True)
        code = 130
    if trainer.group.size > 1:  # all is written, and gloo's threads now and then abort a process that ends in order
        sys.stdout.flush()
        os._exit(code)
    if code:
        sys.exit(code)


if __name__ == "__main__":
    main()
