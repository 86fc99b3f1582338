"""The training loop: token shards in, a checkpoint folder out.

    python -m midi_rwkv.train SHARDS RUN --threads 2

A run is a folder. `state.pt` holds everything needed to go on exactly where it stopped (written whole every
`save_seconds`, so a kill at any moment loses no more than that); `curve.csv` the losses; `checkpoint/` what
`load_checkpoint` reads. Starting the same command again resumes. The learning rate is warmed up, held and decayed
linearly over the last `decay_fraction` of `total_tokens`; since the held part does not depend on the end, a run may be
stopped and resumed with another `--total-tokens`.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .checkpoint import Checkpoint, load_checkpoint, save_checkpoint, tokenizer_hash
from .config import ARCHS, PRESETS, ModelConfig, TrainConfig
from .corpus import Shard
from .dataset import FILL, NOT_MUSIC, TrainingRows, to_batches, validation_samples
from .model import RWKV7, ModelState, make_model
from .tokenizer import Tokenizer
from .transformer import Transformer

EVAL_FILLS_PER_SOURCE = 8
EVAL_CONTEXT = 1024  # ids a fill, whatever the rows' length, so that curves compare


def learning_rate(config: TrainConfig, tokens: int) -> float:
    """Warm-up, hold, linear decay to zero, as a function of the tokens seen."""
    warm = min(1.0, (tokens + 1) / config.warmup_tokens)
    left = (config.total_tokens - tokens) / (config.decay_fraction * config.total_tokens)
    return config.lr * min(warm, 1.0, max(0.0, left))


def make_optimizers(model: RWKV7 | Transformer, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Muon for the square-ish matrices inside the blocks, AdamW for the rest; or AdamW for all."""
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    matrices = [p for n, p in named if n.startswith("blocks.") and n.endswith(".weight") and p.ndim == 2]
    if config.optimizer == "adamw":
        muon: list[torch.nn.Parameter] = []
    elif config.optimizer == "muon":
        if not hasattr(torch.optim, "Muon"):
            raise ValueError(f"torch {torch.__version__} has no Muon; use torch 2.9 or newer, or optimizer=adamw")
        muon = matrices
    else:
        raise ValueError(f"optimizer must be muon or adamw, got {config.optimizer}")
    taken = {id(p) for p in muon}
    rest = [(n, p) for n, p in named if id(p) not in taken]
    decayed = [p for n, p in rest if p.ndim == 2 and not n.endswith("r_k")]
    plain = [p for n, p in rest if p.ndim != 2 or n.endswith("r_k")]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=1e-10)]
    if muon:
        optimizers.append(
            torch.optim.Muon(
                muon, lr=config.lr, weight_decay=config.weight_decay, momentum=0.95, adjust_lr_fn="match_rms_adamw"
            )
        )
    return optimizers


def autocast(config: TrainConfig, device: torch.device) -> Any:
    """bf16 for the matrix products where asked for; a CPU must have instructions for it to be quick."""
    return torch.autocast(device.type, torch.bfloat16) if config.bf16 else nullcontext()


def loss_of(model: RWKV7 | Transformer, ids: Tensor, roles: Tensor, starts: Tensor | None = None) -> Tensor:
    """Mean nats over the target ids that carry music. ids, roles, starts: (B, T + 1); None: a sample a row."""
    logits, _ = model(ids[:, :-1], starts=None if starts is None else starts[:, :-1])
    # All rows of one shape through the head: picking out the music first makes a new shape, and new buffers, every
    # step.
    targets = ids[:, 1:].masked_fill(roles[:, 1:] == NOT_MUSIC, -100)
    return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=-100)


def wanted_nats(
    model: RWKV7 | Transformer, ids: np.ndarray, wanted: np.ndarray, state: ModelState | None = None
) -> tuple[Tensor, Tensor]:
    """Nats of the wanted ids and the row of each, both (N,); differentiable. ids, wanted: (B, T + 1).

    state: what an RWKV-7 has read before, for each row; None: nothing.
    """
    device = model.head.weight.device
    tokens, mask = torch.from_numpy(ids).to(device), torch.from_numpy(wanted[:, 1:]).to(device)
    if isinstance(model, RWKV7):
        h, _ = model.hidden(tokens[:, :-1], state)
    else:
        h, _ = model.hidden(tokens[:, :-1])
    nats = F.cross_entropy(model.head(h[mask]).float(), tokens[:, 1:][mask], reduction="none")
    return nats, mask.nonzero()[:, 0]


def by_row(nats: Tensor, rows: Tensor, count: int) -> np.ndarray:
    """Sums over each of `count` rows, (count,), of what `wanted_nats` gives."""
    return np.bincount(rows.cpu().numpy(), nats.detach().double().cpu().numpy(), count)


@torch.no_grad()
def fill_nats(
    model: RWKV7 | Transformer,
    batches: Sequence[tuple[np.ndarray, np.ndarray, list[int]]],
    wkv: Tensor | None = None,
) -> np.ndarray:
    """Nats of each validation sample's fill, the closing tokens included. (samples,)

    wkv: an RWKV-7's initial state (L, H, K, V), None: zeros.
    """
    out = np.zeros(sum(len(b[2]) for b in batches))
    for ids, roles, numbers in batches:
        state = None
        if wkv is not None:
            assert isinstance(model, RWKV7)
            state = model.new_state(len(ids), wkv)
        out[numbers] = by_row(*wanted_nats(model, ids, roles == FILL, state), len(numbers))
    return out


class Trainer:
    """One run in one folder: `Trainer(...).run()`."""

    def __init__(
        self,
        shards: Path,
        run: Path,
        model_config: ModelConfig,
        config: TrainConfig,
        device: str = "auto",
        start: Path | None = None,
    ):
        """start: a checkpoint folder whose weights a new run begins with; a run that has a state goes on from that."""
        self.run_folder, self.config = run, config
        self.device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        self.tokenizer = Tokenizer.load(shards / "tokenizer.json")
        self.model_config = replace(model_config, vocab_size=self.tokenizer.vocab_size)
        torch.manual_seed(config.seed)
        self.model = make_model(self.model_config).to(self.device)
        self.optimizers = make_optimizers(self.model, config)
        self.rows = TrainingRows(shards, self.tokenizer, config.seq_len, config.seed, config.source_weights or None)
        samples = validation_samples(Shard(shards / "valid.npz"), self.tokenizer, EVAL_CONTEXT, EVAL_FILLS_PER_SOURCE)
        self.valid_sources = np.array([s for s, _, _ in samples])
        self.valid_notes = np.array([n for _, _, n in samples])
        self.valid_batches = to_batches([s for _, s, _ in samples], self.rows.pad, rows=4)
        self.row = self.tokens = 0
        run.mkdir(parents=True, exist_ok=True)
        self.state_path, self.curve_path = run / "state.pt", run / "curve.csv"
        if self.state_path.exists():
            self._resume()
        elif start is not None:
            self._start_from(load_checkpoint(start))

    def _start_from(self, checkpoint: Checkpoint) -> None:
        """A new run from a checkpoint's weights; ValueError where model or tokenizer differ."""
        if checkpoint.config != self.model_config:
            raise ValueError(
                f"{checkpoint.path} is {checkpoint.config}, the run is {self.model_config}; use its preset"
            )
        if tokenizer_hash(checkpoint.tokenizer) != tokenizer_hash(self.tokenizer):
            raise ValueError(
                f"{checkpoint.path} has another tokenizer than the shards; build them with its tokenizer.json"
            )
        self.model.load_state_dict({k: torch.from_numpy(v) for k, v in checkpoint.weights.items()})

    def _resume(self) -> None:
        state = torch.load(self.state_path, map_location=self.device, weights_only=True)
        if state["model_config"] != self.model_config.to_dict():
            raise ValueError(
                f"{self.state_path} holds another model; name a new run folder, or the same --preset and --arch"
            )
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.row, self.tokens = state["row"], state["tokens"]
        if self.curve_path.exists():  # drop what was logged after the last save
            with self.curve_path.open(newline="") as f:
                kept = [r for r in csv.reader(f) if not r[0].isdigit() or int(r[0]) <= self.tokens]
            with self.curve_path.open("w", newline="") as f:
                csv.writer(f).writerows(kept)

    def save(self) -> None:
        """`state.pt` and `checkpoint/`, each whole or not at all."""
        state = {
            "model": self.model.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
            "row": self.row,
            "tokens": self.tokens,
            "model_config": self.model_config.to_dict(),
        }
        partial = self.state_path.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, self.state_path)
        weights = {k: v.detach().cpu() for k, v in self.model.state_dict().items()}
        training = {"tokens_seen": self.tokens, **self.config.to_dict()}
        save_checkpoint(self.run_folder / "checkpoint", self.model_config, weights, self.tokenizer, training)

    def log(self, values: dict[str, float | str]) -> None:
        names = ["tokens", "kind", "loss", "lr", "tokens_per_second", "by_source"]
        new = not self.curve_path.exists()
        with self.curve_path.open("a", newline="") as f:
            writer = csv.writer(f)
            if new:
                writer.writerow(names)
            writer.writerow([values.get(n, "") for n in names])
        print(" ".join(f"{k}={v}" for k, v in values.items()), flush=True)

    def evaluate(self) -> float:
        """Nats per note on the fixed validation fills, mean over the sources; logged."""
        self.model.eval()
        with autocast(self.config, self.device):
            nats = fill_nats(self.model, self.valid_batches)
        self.model.train()
        by_source = {
            s: round(float(nats[m].sum() / self.valid_notes[m].sum()), 4)
            for s in np.unique(self.valid_sources)
            for m in [self.valid_sources == s]
        }
        mean = float(np.mean(list(by_source.values())))
        self.log({"tokens": self.tokens, "kind": "valid", "loss": round(mean, 4), "by_source": json.dumps(by_source)})
        return mean

    def batches(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        while self.tokens < self.config.total_tokens:
            rows = [self.rows[self.row + j] for j in range(self.config.batch_size)]
            ids, roles, starts = (torch.from_numpy(np.stack(x)).to(self.device) for x in zip(*rows, strict=True))
            yield ids, roles, starts

    def run(self) -> None:
        """Train to `total_tokens`. Ctrl-C and SIGTERM save first."""
        c = self.config
        for stop in (signal.SIGINT, signal.SIGTERM):
            signal.signal(stop, signal.default_int_handler)
        saved = logged = time.monotonic()
        losses: list[float] = []
        clocked = 0  # tokens since `logged`
        try:
            for ids, roles, starts in self.batches():
                lr = learning_rate(c, self.tokens)
                for optimizer in self.optimizers:
                    for group in optimizer.param_groups:
                        group["lr"] = lr
                with autocast(c, self.device):
                    loss = loss_of(self.model, ids, roles, starts)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), c.clip)
                for optimizer in self.optimizers:
                    optimizer.step()
                    optimizer.zero_grad()
                losses.append(loss.item())
                before, self.tokens = self.tokens, self.tokens + roles[:, 1:].numel()
                self.row += c.batch_size
                clocked += self.tokens - before
                now = time.monotonic()
                if len(losses) == 20:
                    rate = clocked / (now - logged)
                    mean = round(sum(losses) / len(losses), 4)
                    self.log(
                        {
                            "tokens": self.tokens,
                            "kind": "train",
                            "loss": mean,
                            "lr": lr,
                            "tokens_per_second": round(rate),
                        }
                    )
                    losses, logged, clocked = [], now, 0
                if before // c.eval_tokens != self.tokens // c.eval_tokens:
                    self.evaluate()
                    logged, clocked = time.monotonic(), 0
                if now - saved > c.save_seconds:
                    self.save()
                    saved = now
        except KeyboardInterrupt:
            self.save()
            raise
        self.evaluate()
        self.save()


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m midi_rwkv.train SHARDS RUN`"""
    parser = argparse.ArgumentParser(prog="midi_rwkv.train", description=__doc__.splitlines()[0])
    parser.add_argument("shards", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--start", type=Path, metavar="DIR", help="begin a new run from this checkpoint's weights")
    parser.add_argument("--preset", choices=PRESETS, default="small")
    parser.add_argument("--arch", choices=ARCHS, default="rwkv7", help="transformer: the same size, for comparison")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: torch's choice")
    defaults = TrainConfig()
    for name in (
        "seq_len",
        "batch_size",
        "total_tokens",
        "lr",
        "optimizer",
        "decay_fraction",
        "seed",
        "save_seconds",
        "eval_tokens",
    ):
        value = getattr(defaults, name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    for name in ("n_layer", "n_embd"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, help="instead of the preset's")
    options = vars(parser.parse_args(arguments))
    shards, run, start = (options.pop(k) for k in ("shards", "run", "start"))
    preset, device, threads = (options.pop(k) for k in ("preset", "device", "threads"))
    shape = {k: v for k in ("n_layer", "n_embd") if (v := options.pop(k))}
    if threads:
        torch.set_num_threads(threads)
    arch = options.pop("arch")
    model_config = ModelConfig(
        arch=arch, **{**{k: getattr(PRESETS[preset], k) for k in ("n_layer", "n_embd")}, **shape}
    )
    Trainer(shards, run, model_config, replace(defaults, **options), device, start).run()


if __name__ == "__main__":
    main()
