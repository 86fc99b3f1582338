"""The training loop, from token shards to a checkpoint folder.

    midi-rwkv train SHARDS RUN --threads 2
    torchrun --nproc-per-node 2 -m midi_rwkv train SHARDS RUN --batch-size 2

A run is a folder. `state.pt` holds everything needed to resume exactly (it is written completely every `save_seconds`,
so a kill loses at most that much), `curve.csv` the losses, and `checkpoint/` what `load_checkpoint` reads. The same
command resumes. The learning rate is warmed up, held, and decayed linearly over the last `decay_fraction` of
`total_tokens`. Since the held part does not depend on the end, a run may be stopped and resumed with another
`--total-tokens`.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from midi_rwkv.corpus.shards import Shard
from midi_rwkv.errors import CheckpointError, CorpusError, RequestError
from midi_rwkv.model.checkpoint import Checkpoint, load_token_checkpoint, save_checkpoint, tokenizer_hash
from midi_rwkv.model.config import ModelConfig, TrainConfig
from midi_rwkv.model.packing import PackedRWKV7
from midi_rwkv.model.rwkv7 import RWKV7
from midi_rwkv.tokens.tokenizer import Tokenizer

from .compiled import compile_blocks, uncompiled
from .dataset import TrainingRows, to_batches, validation_samples
from .loader import Batch, Loader
from .losses import fill_nats, music_nats, music_targets, target_weights, targets_nats
from .muon import has_fast_bf16
from .optim import learning_rate, make_optimizers, moving_average
from .parallel import Group, join
from .run_files import Curve, read_state, write_state
from .state_passing import backward_in_pieces

EVAL_FILLS_PER_SOURCE = 8
EVAL_CONTEXT = 1024  # tokens per fill, whatever the length of rows, so that curves can be compared
LOG_STEPS = 20


@dataclass(frozen=True, kw_only=True)
class Machine:
    """How a machine executes the steps of a run. The weights do not depend on it, up to rounding.

    Attributes:
        device: "auto" or a torch device.
        workers: processes that make rows ahead of time; None is up to 8 for a GPU and none for a CPU.
        rows_at_once: rows per forward pass, if a step's share does not fit into memory; 0 is all.
        piece: tokens of a row at a time, for rows that do not fit (state_passing.py); 0 is whole rows.
        compiled: train through torch.compile (compiled.py).
    """

    device: str = "auto"
    workers: int | None = None
    rows_at_once: int = 0
    piece: int = 0
    compiled: bool = False


THIS_MACHINE = Machine()


class Trainer:
    """One run in one folder: `Trainer(...).run()`. Under torchrun each process has one; the first writes the files."""

    def __init__(
        self,
        shards: Path,
        run: Path,
        model_config: ModelConfig,
        config: TrainConfig,
        *,
        machine: Machine = THIS_MACHINE,
        start: Path | None = None,
    ):
        """`start` is a checkpoint folder whose weights a new run begins with. A run with a state resumes from that."""
        self.run_folder, self.config, self.machine = run, config, machine
        if not (shards / "tokenizer.json").exists():
            raise CorpusError(f"{shards} holds no token shards (no tokenizer.json); make them with `midi-rwkv corpus`")
        self.tokenizer = Tokenizer.load(shards / "tokenizer.json")
        self.rows = TrainingRows(
            shards,
            self.tokenizer,
            config.seq_len,
            seed=config.seed,
            weights=config.source_weights or None,
            order=config.order,
        )
        self.group: Group = join(machine.device)
        self.device = self.group.device
        cores = (os.cpu_count() or 1) // self.group.size
        usual = min(8, max(1, cores)) if self.device.type == "cuda" else 0
        self.workers = usual if machine.workers is None else machine.workers
        if machine.piece and (self.group.size > 1 or model_config.arch != "rwkv7"):
            raise RequestError("--piece is for one process and an RWKV-7; use --rows-at-once to save memory")
        self.model_config = replace(model_config, vocab_size=self.tokenizer.vocab_size)
        torch.manual_seed(config.seed)
        self.model = self.make_model().to(self.device)
        if machine.compiled:
            compile_blocks(self.model)
        self.optimizers = make_optimizers(self.model, config)
        self.average = moving_average(self.model, config.ema) if config.ema else None
        samples = validation_samples(
            Shard(shards / "valid.npz"),
            self.tokenizer,
            EVAL_CONTEXT,
            per_source=EVAL_FILLS_PER_SOURCE,
            order=config.order,
        )
        self.valid_sources = np.array([s for s, _, _ in samples])
        self.valid_notes = np.array([n for _, _, n in samples])
        self.valid_batches = to_batches([s for _, s, _ in samples], self.rows.pad, rows=4)
        self.row = self.tokens = self.step = 0
        self.window = torch.zeros(2, dtype=torch.float64, device=self.device)  # nats and targets since the last log
        run.mkdir(parents=True, exist_ok=True)
        self.state_path, self.curve = run / "state.pt", Curve(run / "curve.csv")
        if self.state_path.exists():
            self._resume()
        elif start is not None:
            self._start_from(load_token_checkpoint(start))
        self.parallel = self.group.wrap(PackedRWKV7(self.model) if isinstance(self.model, RWKV7) else self.model)

    def make_model(self) -> nn.Module:
        """A fresh model of the configured shape, whose forward takes `starts` unless it is an RWKV-7.

        A subclass trains another architecture (evaluation/transformer.py).
        """
        if self.model_config.arch != "rwkv7":
            raise ValueError(f"this trains an RWKV-7, the configuration is a {self.model_config.arch}'s")
        return RWKV7(self.model_config)

    def _start_from(self, checkpoint: Checkpoint) -> None:
        """Takes over a checkpoint's weights. Raises CheckpointError if its vocabulary or shape differs."""
        if tokenizer_hash(checkpoint.tokenizer) != tokenizer_hash(self.tokenizer):
            raise CheckpointError(
                f"{checkpoint.path} has another vocabulary than the shards; build them with its tokenizer.json"
            )
        if checkpoint.config != self.model_config:
            raise CheckpointError(
                f"{checkpoint.path} is {checkpoint.config}, the run is {self.model_config}; use its preset"
            )
        self.model.load_state_dict({name: torch.from_numpy(w) for name, w in checkpoint.weights.items()})

    def _resume(self) -> None:
        state = read_state(self.state_path, self.device)
        if state["model_config"] != self.model_config.to_dict():
            raise RequestError(
                f"{self.state_path} holds another model; name a new run folder, or the same --preset and --arch"
            )
        if state.get("tokenizer", tokenizer_hash(self.tokenizer)) != tokenizer_hash(self.tokenizer):
            raise CheckpointError(
                f"{self.state_path} was trained on shards with another tokenizer; name a new run folder"
            )
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.row, self.tokens, self.step = state["row"], state["tokens"], state.get("step", 0)
        if "window" in state:
            self.window = state["window"]
        if self.average and state.get("average"):
            self.average.load_state_dict(state["average"])
        if self.group.first:
            self.curve.cut(self.tokens)
            print(f"going on at {self.tokens:,} tokens", flush=True)
            self._save_checkpoint("checkpoint", self.model)  # a kill may have come between the state and this

    def save(self) -> None:
        """Writes `state.pt` and `checkpoint/`, each file completely or not at all, in the first process."""
        if not self.group.first:
            return
        state = {
            "model": self.model.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
            "average": self.average.state_dict() if self.average else None,
            "row": self.row,
            "tokens": self.tokens,
            "step": self.step,
            "window": self.window,
            "model_config": self.model_config.to_dict(),
            "tokenizer": tokenizer_hash(self.tokenizer),
        }
        write_state(self.state_path, state)
        self._save_checkpoint("checkpoint", self.model)

    def _save_checkpoint(self, name: str, model: torch.nn.Module) -> None:
        weights = {k: v.detach().cpu() for k, v in model.state_dict().items()}
        training = {"tokens_seen": self.tokens, **self.config.to_dict()}
        order = self.config.order
        save_checkpoint(
            self.run_folder / name, self.model_config, weights, self.tokenizer, training=training, prompt=order
        )

    def autocast(self) -> Any:
        """bfloat16 for the matrix products, if requested and if the machine is fast at it."""
        quick = self.config.bf16 and has_fast_bf16(self.device)
        return torch.autocast(self.device.type, torch.bfloat16) if quick else nullcontext()

    def evaluate(self, model: Any = None, kind: str = "valid") -> float:
        """Nats per note on the fixed validation fills, as the mean over sources, logged as `kind`.

        Every process takes its share of the fills.
        """
        model = self.model if model is None else model
        model.eval()
        mine = self.valid_batches[self.group.rank :: self.group.size]
        with self.autocast(), uncompiled() if self.machine.compiled else nullcontext():
            nats = self.group.total(fill_nats(model, mine, samples=len(self.valid_notes)))
        model.train()
        by_source = {
            str(s): round(float(nats[m].sum() / self.valid_notes[m].sum()), 4)
            for s in np.unique(self.valid_sources)
            for m in [self.valid_sources == s]
        }
        mean = float(np.mean(list(by_source.values())))
        if self.group.first:
            by = json.dumps(by_source)
            self.curve.log({"tokens": self.tokens, "kind": kind, "loss": round(mean, 4), "by_source": by})
        return mean

    def gradients(self, batch: Batch, targets: float) -> Tensor:
        """Adds the gradients of the mean over `targets` (of all processes). Returns the sum over this process's, ()."""
        chunk = self.machine.rows_at_once or len(batch.ids)
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for at in range(0, len(batch.ids), chunk):
            ids, roles, starts = (x[at : at + chunk].to(self.device, non_blocking=True) for x in batch[:3])
            last = at + chunk >= len(batch.ids)  # gradients are exchanged only with the last chunk
            with nullcontext() if last or self.group.size == 1 else self.parallel.no_sync():  # type: ignore[operator]
                if self.machine.piece:
                    total += self.gradients_by_piece(ids, roles, starts, targets)
                    continue
                with self.autocast():
                    nats = music_nats(
                        self.parallel, ids, roles, starts=starts, context_weight=self.config.context_weight
                    )
                # The processes' gradients are averaged, not summed.
                torch.autograd.backward(nats * (self.group.size / targets))
            total += nats.detach()
        return total

    def gradients_by_piece(self, ids: Tensor, roles: Tensor, starts: Tensor, targets: float) -> float:
        """`gradients` for some rows, in the memory of one piece of them. Returns their nats."""
        assert isinstance(self.model, RWKV7)
        wanted, weights = music_targets(ids, roles), target_weights(roles, self.config.context_weight)

        def share(logits: Tensor, place: slice) -> Tensor:
            return targets_nats(logits, wanted[:, place], None if weights is None else weights[:, place]) / targets

        with self.autocast():
            mean = backward_in_pieces(self.model, ids[:, :-1], share, self.machine.piece, starts=starts[:, :-1])
        return mean * targets

    def train_step(self, batch: Batch, targets: float) -> float:
        """One step of the optimizers; `targets` are those of all processes. Returns the learning rate."""
        lr = learning_rate(self.config, self.tokens)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr
        nats = self.group.total_on_device(self.gradients(batch, targets))
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.window += torch.stack([nats, torch.full_like(nats, targets)])
        self.tokens += self.config.batch_size * self.config.seq_len
        self.row += self.config.batch_size
        self.step += 1
        if self.average:
            self.average.update_parameters(self.model)
        return lr

    def batches(self) -> Loader:
        """The batches that are left to train on."""
        c = self.config
        steps = -(-max(0, c.total_tokens - self.tokens) // (c.batch_size * c.seq_len))
        return Loader(self.rows, c, self.group, first_row=self.row, steps=steps, workers=self.workers)

    def run(self) -> None:
        """Trains to `total_tokens`. Ctrl-C and SIGTERM save between two steps, and then raise KeyboardInterrupt."""
        c = self.config
        loader = self.batches()
        saved = logged = time.monotonic()
        clocked = 0  # tokens since `logged`
        waited = 0.0  # seconds waited until `logged`
        with stop_requests(insist=self.group.size == 1) as stop:
            for batch in loader:
                targets, stopping = self.group.total(np.array([batch.targets, stop.is_set()]))
                if stopping:  # all processes see this before the same step
                    self.save()
                    raise KeyboardInterrupt(f"saved at {self.tokens:,} tokens; the same command goes on from there")
                before = self.tokens
                lr = self.train_step(batch, targets)
                clocked += self.tokens - before
                if self.step % LOG_STEPS == 0:
                    nats, count = self.window.tolist()
                    self.window.zero_()
                    now = time.monotonic()
                    seconds = now - logged
                    if self.group.first:
                        self.curve.log(
                            {
                                "tokens": self.tokens,
                                "kind": "train",
                                "loss": round(nats / count, 4),
                                "lr": lr,
                                "tokens_per_second": round(clocked / seconds),
                                "waited": round((loader.waited - waited) / seconds, 4),
                            }
                        )
                    logged, clocked, waited = now, 0, loader.waited
                if before // c.eval_tokens != self.tokens // c.eval_tokens:
                    self.evaluate()
                    logged, clocked, waited = time.monotonic(), 0, loader.waited
                if time.monotonic() - saved > c.save_seconds:
                    self.save()
                    saved = time.monotonic()
        self.finish()

    def finish(self) -> None:
        """Makes the last evaluation, also of the average, and writes all files."""
        self.save()
        done = {(r["kind"], r["tokens"]) for r in self.curve.rows()} if self.group.first else set()
        if not self.group.total(np.array([("valid", str(self.tokens)) in done]))[0]:
            self.evaluate()
        if self.average and int(self.average.n_averaged):
            self.evaluate(self.average.module, "valid average")
            if self.group.first:
                self._save_checkpoint("checkpoint-average", self.average.module)
        self.group.close()


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
