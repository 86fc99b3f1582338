"""What the tests of an evaluation share: how it is run here, and how its folder is read."""

import importlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from song import vocabulary

import midi_rwkv
from midi_rwkv.corpus.note_shards import ChordedSong, write_note_shard
from midi_rwkv.evaluation.cases import Case
from midi_rwkv.evaluation.evaluate import records_path
from midi_rwkv.model.step_checkpoint import StepCheckpoint, step_model_of
from midi_rwkv.score.score import Score
from midi_rwkv.tokens.attributes import Role
from midi_rwkv.tokens.chords import find_chords
from midi_rwkv.tokens.layout import EMPTY, CellAsk, Window, cell_answer, cell_steps, prompt_steps, targets_of
from midi_rwkv.tokens.notes import SongNotes, encode
from midi_rwkv.tokens.pointers import places_known
from midi_rwkv.tokens.references import RunIndex
from midi_rwkv.tokens.surroundings import CellSurroundings, with_before

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


def write_shard(path: Path, songs: Sequence[tuple[str, SongNotes]]) -> None:
    """A note shard of these songs, with their chords."""
    write_note_shard(path, [(name, ChordedSong(song, find_chords(song, vocabulary()))) for name, song in songs])


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


def model_nats(
    checkpoint: StepCheckpoint,
    score: Score,
    cells: Sequence[tuple[int, int]],
    *,
    follow: bool = True,
    reach: int | None = None,
    open_end: bool = False,
) -> np.ndarray:
    """Nats of the notes in cells (track, bar), (5,): one softmax after another over the whole sequence, in PyTorch.

    score: with these notes. reach: bars that may be read on either side. open_end: whether nothing after the cells may.
    """
    import torch

    v, whole = checkpoint.vocabulary, encode(checkpoint.vocabulary, score)
    tracks, run = sorted({t for t, _ in cells}), (min(b for _, b in cells), 1 + max(b for _, b in cells))
    low, high = (0, whole.n_bars) if reach is None else (max(0, run[0] - reach), min(whole.n_bars, run[1] + reach))
    unread = [b for b in range(whole.n_bars) if not low <= b < (run[0] if open_end else high)]
    blank = whole.with_cells(dict.fromkeys(cells, EMPTY))
    index = RunIndex(blank, run, {*cells, *((t, b) for t in range(whole.n_tracks) for b in unread)})
    parts = [prompt_steps(v, blank, Window(*run, low, high, open_end=open_end), tracks, cells)]
    for t, b in cells:
        sources = [r for r in index.sources(t, b, written=False) if len(r.notes)] if follow else []
        ask = CellAsk(t, b, around=CellSurroundings(v, index, t, b, sources))
        parts += [cell_steps(v, blank, ask, run), cell_answer(v, blank, ask, whole.cell(t, b), run)]
        index.write(t, b, whole.cell(t, b))
    steps = with_before(np.concatenate([*parts, np.zeros((1, parts[0].shape[1]), np.int16)]))  # the last cell's end too
    targets, roles = targets_of(steps, v)
    with torch.no_grad():
        model = step_model_of(checkpoint)
        h = model.hidden(torch.from_numpy(steps[None, :-1]))[0]
        marked = places_known(steps[:-1], v.nothing)
        known = (torch.from_numpy(x[roles == Role.ANSWER]) for x in (targets, steps[1:], marked))
        nats: np.ndarray = model.heads.nats(h[roles == Role.ANSWER], *known).sum(0).numpy()
    return nats
