"""The files of a training run: `state.pt`, from which it resumes, and `curve.csv`, its log."""

from __future__ import annotations

import csv
import pickle
from pathlib import Path
from typing import Any

import torch

from midi_rwkv.errors import CheckpointError
from midi_rwkv.files import whole_file

COLUMNS = ("tokens", "kind", "loss", "lr", "tokens_per_second", "by_source")  # of steps, whose old name is tokens


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Writes the state. The previous state stays until this one is complete and on disk."""
    with whole_file(path) as partial:
        torch.save(state, partial)


def read_state(path: Path, device: torch.device) -> dict[str, Any]:
    """Reads the state. Raises CheckpointError if it cannot be read."""
    if not path.exists():
        raise CheckpointError(f"{path.parent} holds no run that can go on (no state.pt); name a run's folder")
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"{path} is damaged ({error}); name a new run folder, or remove it to begin again"
        ) from error
    return state


class Curve:
    """`curve.csv`, with one line per logging window (kind `train`) and per evaluation (`valid` ...)."""

    def __init__(self, path: Path):
        self.path = path

    def rows(self) -> list[dict[str, str]]:
        """The lines logged so far."""
        if not self.path.exists():
            return []
        with self.path.open(newline="") as file:
            return list(csv.DictReader(file))

    def has(self, kind: str, steps: int) -> bool:
        """Whether such a line was logged at so many steps."""
        return any((row["kind"], row["tokens"]) == (kind, str(steps)) for row in self.rows())

    def cut(self, steps: int) -> None:
        """Drops lines that were logged after the state from which the run resumes, and a partial last line."""
        kept = [r for r in self.rows() if r["tokens"].isdecimal() and int(r["tokens"]) <= steps]
        if self.path.exists():
            with whole_file(self.path) as partial, partial.open("w", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS, restval="", extrasaction="ignore")
                writer.writeheader()
                writer.writerows(kept)

    def log(self, values: dict[str, float | str]) -> None:
        """Adds a line and prints it."""
        new = not self.path.exists()
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, restval="")
            if new:
                writer.writeheader()
            writer.writerow(values)
        print(" ".join(f"{k}={v}" for k, v in values.items()), flush=True)
