"""What the tests of an evaluation share: how it is run here, and how its folder is read."""

import importlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import midi_rwkv
from midi_rwkv.evaluation.cases import Case
from midi_rwkv.evaluation.evaluate import records_path

BAR = 1920
MODEL = "tiny (rwkv7)"
module = importlib.import_module("midi_rwkv.evaluation.evaluate")  # `midi_rwkv.evaluation.evaluate` is the function
OPTIONS: dict[str, Any] = {"cases": 6, "bars": (2,), "seed": 3, "jobs": 1, "audio": False}


class InThisProcess:
    """Stands in for a pool: to start a process takes seconds."""

    def __init__(self, _workers, _context, start, arguments):
        start(*arguments)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def submit(self, function, *arguments):
        class Finished:
            def result(self):
                return function(*arguments)

        return Finished()


@contextmanager
def in_this_process() -> Iterator[None]:
    """Evaluations inside it start no processes, and time one case alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ProcessPoolExecutor", InThisProcess)
        patch.setattr(module, "COST_CASES", 1)
        yield


def small(files, out, checkpoint, **options):
    """A report of four cases of one pitched track, of the model alone."""
    options = {"cases": 4, "settings": ["song"], "baselines": [], "html": False, **options}
    return midi_rwkv.evaluate(files, out, checkpoint=checkpoint, **{**OPTIONS, **options})


def records_of(out, system=MODEL):
    head, *lines = records_path(out, system).read_text().splitlines()
    assert json.loads(head)["system"] == system
    return {record["case"]: record for record in map(json.loads, lines)}


def cases_of(out):
    rows = json.loads((out / "cases.json").read_text())
    return [Case(**{k: v for k, v in row.items() if k != "id"} | {"tracks": tuple(row["tracks"])}) for row in rows]


def group_of(out, setting):
    [group] = [g for g in json.loads((out / "report.json").read_text())["groups"] if g["setting"] == setting]
    return group
