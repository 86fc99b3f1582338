"""evaluate() measures a checkpoint's fills, against copies of other bars and other checkpoints.

Every system writes the same cases (cases.py), each fill is compared with the original's bars (metrics.py), and the
report (report.py, report_html.py) has intervals and paired tests. Results are written case by case, so that an
evaluation that was stopped can resume. The same files, seed and systems give the same `report.json`.

A script that calls it needs `if __name__ == "__main__":` around its own code, because it starts processes.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from midi_rwkv.errors import RequestError, packages_for
from midi_rwkv.files import whole_file

if TYPE_CHECKING:
    from midi_rwkv.model.config import SamplingConfig

    from .cases import Case, Songs
    from .systems import Setup, System

CHUNK = 6  # cases per task of a process
COST_CASES = 12


@dataclass(frozen=True)
class Done:
    """The progress of one system."""

    system: str
    done: int
    total: int
    seconds_left: float


def evaluate(  # noqa: PLR0913 - what people call: a keyword for each of the command's options
    files: str | Path,
    out: str | Path,
    *,
    checkpoint: str | Path | None = None,
    style: str | None = None,
    compare: Sequence[str | Path] = (),
    shards: str | Path | None = None,
    cases: int = 300,
    bars: Sequence[int] = (2, 4, 8),
    settings: Sequence[str] | None = None,
    baselines: Sequence[str] | None = None,
    sampling: SamplingConfig | None = None,
    seed: int = 0,
    jobs: int = 2,
    fills_only: bool = False,
    html: bool = True,
    audio: bool = True,
    on_progress: Callable[[Done], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Evaluate fills on a folder or zip of MIDI files.

    Writes report.json, report.md, report.html, cost.json, cases.json and what is needed to resume into `out`.

    Args:
        checkpoint: the folder of the model that is evaluated; None for the one that ships
        style: a style for that model, as `find_style` takes it
        compare: folders of other checkpoints
        shards: the folder of the training data's note shards (`midi-rwkv corpus`), which the search for copies of
            training music needs
        cases: how many for each number of bars in `bars`, see `draw_cases`
        settings: some of `cases.ALL_SETTINGS`; None for `cases.SETTINGS`
        baselines: some of `systems.BASELINES`; None for all
        jobs: how many processes
        fills_only: neither nats nor cost, which together take longer than the fills
        html: whether to write the page with piano rolls
        audio: whether that page has sound

    Returns:
        what is in `out/report.json`

    Raises:
        RequestError: on bad input, and when `out` holds an evaluation of something else
        CorpusError: `shards` holds no note shards
    """
    _check_installed()
    from midi_rwkv.model.config import SamplingConfig, check_seed

    from .cases import ALL_SETTINGS, SETTINGS, Songs, draw_cases
    from .judge import can_judge
    from .musical import summarise_musical
    from .report import Results, summarise, write_report
    from .systems import MODEL

    check_seed(seed)
    if jobs < 1:
        raise RequestError(f"jobs must be 1 or more, got {jobs}")
    if html and audio:
        from midi_rwkv.sound.soundfont import find_soundfont

        find_soundfont()  # fails now rather than at the end
    out = Path(out)
    songs = Songs(files)
    if settings and set(settings) <= set(ALL_SETTINGS):
        settings = [s for s in ALL_SETTINGS if s in settings]
    skipped: dict[str, str] = {}
    drawn = draw_cases(songs, cases, bars, settings=settings or SETTINGS, seed=seed, on_skip=skipped.__setitem__)
    if can_judge(case.file for case in drawn):
        with packages_for("the judge of an evaluation"):
            import sklearn  # noqa: F401
    main = _main_setup(checkpoint, style, sampling or SamplingConfig(), seed)
    main = replace(main, fills_only=fills_only)
    setups = _setups(main, compare, baselines, shards=shards, reference=out / "reference", say=say)
    used = {case.file for case in drawn}
    protocol = {
        "files": songs.digest,
        "unused": dict(sorted(Counter(why for name, why in skipped.items() if name not in used).items())),
        "seed": seed,
        "cases": cases,
        "bars": sorted(set(bars)),
        "settings": list(settings or SETTINGS),
        "sampling": setups[0].sampling.to_dict(),
        "systems": {s.name: s.fingerprint for s in setups},
    }
    (out / "records").mkdir(parents=True, exist_ok=True)
    _write_json(out / "cases.json", [{"id": c.id, **asdict(c)} for c in drawn])
    records: dict[str, dict[str, dict[str, Any]]] = {}
    for setup in setups:
        records[setup.name] = _run(setup, songs, drawn, out, jobs=jobs, on_progress=on_progress)
    report = {"protocol": protocol, **summarise(drawn, records, setups[0].name, seed)}
    models = [s.name for s in setups if s.kind == MODEL]
    report["musical"] = summarise_musical(drawn, records, songs, systems=models, seed=seed)
    _write_json(out / "report.json", report)
    costs = {} if fills_only else _costs(setups, songs.path, drawn, out / "cost.json")
    results = Results(drawn, records, report, costs, models)
    write_report(out, results, songs, html=html, audio=audio)
    return report


def records_path(out: Path, system: str) -> Path:
    """The path of a system's records."""
    return out / "records" / f"{re.sub(r'[^A-Za-z0-9._]+', '-', system).strip('-')}.jsonl"


def _check_installed() -> None:
    with packages_for("evaluate"):
        import mir_eval  # noqa: F401
        import scipy  # noqa: F401
        import torch  # noqa: F401


def _main_setup(checkpoint: str | Path | None, style: str | None, sampling: SamplingConfig, seed: int) -> Setup:
    """The system that is evaluated, without its reference yet."""
    from midi_rwkv.model.checkpoint import load_checkpoint
    from midi_rwkv.style.style import find_style

    from .systems import MODEL, Setup

    loaded = load_checkpoint(checkpoint)
    find_style(style, loaded)  # fails now if something is wrong with it
    return Setup(_name(loaded.path, loaded.config.arch), MODEL, loaded.path, style, None, sampling, seed)


def _setups(
    main: Setup,
    compare: Sequence[str | Path],
    baselines: Sequence[str] | None,
    *,
    shards: str | Path | None,
    reference: Path,
    say: Callable[[str], None],
) -> list[Setup]:
    """All systems, the one that is evaluated first. reference: the folder that is made of the shards."""
    from midi_rwkv.model.checkpoint import load_checkpoint

    from .reference import build_reference
    from .systems import ORIGINAL, UNFOLLOWED

    chosen = _baselines(baselines, main)
    if shards is None:
        say("without shards: no search for training music")
    else:
        build_reference(Path(shards), reference, say)
        main = replace(main, reference=reference)
    setups = [main]
    for path in compare:
        loaded = load_checkpoint(path)
        name = _name(loaded.path, loaded.config.arch)
        if name in {setup.name for setup in setups}:
            name = f"{name} {len(setups) + 1}"
        setups.append(replace(main, name=name, checkpoint=loaded.path, style=None))
    if UNFOLLOWED in chosen:
        setups.append(replace(main, name=UNFOLLOWED, sampling=replace(main.sampling, follow=0.0)))
    others = [*(b for b in chosen if b != UNFOLLOWED), ORIGINAL]
    return setups + [replace(main, name=kind, kind=kind, style=None) for kind in others]


def _baselines(wanted: Sequence[str] | None, main: Setup) -> list[str]:
    """The requested baselines (None: all) that differ from the model itself. Raises RequestError for an unknown one."""
    from .systems import BASELINES, UNFOLLOWED

    unknown = sorted(set(wanted or ()) - set(BASELINES))
    if unknown:
        raise RequestError(f"baselines must be among {', '.join(BASELINES)}, got {', '.join(unknown)}")
    follows = main.sampling.follow > 0
    return [b for b in BASELINES if (wanted is None or b in wanted) and (follows or b != UNFOLLOWED)]


def _name(path: Path, arch: str) -> str:
    """What the report calls a checkpoint: its folder, or for `.../NAME/checkpoint` the run's; and the architecture."""
    folder = path.resolve()
    return f"{folder.parent.name if folder.name == 'checkpoint' else folder.name} ({arch})"


def _run(
    setup: Setup, songs: Songs, cases: Sequence[Case], out: Path, *, jobs: int, on_progress: Callable[[Done], None]
) -> dict[str, dict[str, Any]]:
    """One system's records by case id: those that are in its file already, and new ones, which are added to it."""
    path = records_path(out, setup.name)
    head = {"system": setup.name, "fingerprint": setup.fingerprint, "files": songs.digest}
    found = _read_records(path, head)
    todo = [case for case in cases if case.id not in found]
    todo.sort(key=lambda c: (c.file, c.n_bars, c.first))  # cases of one file together, so that it is read once
    chunks = [todo[i : i + CHUNK] for i in range(0, len(todo), CHUNK)]
    began, done = time.monotonic(), 0
    with path.open("a", encoding="utf-8") as file:
        if file.tell() == 0:
            file.write(json.dumps(head) + "\n")
        for batch in _work(setup, songs.path, chunks, jobs):
            for record in batch:
                found[record["case"]] = record
                file.write(json.dumps(record, allow_nan=False) + "\n")
            file.flush()
            done += len(batch)
            left = (time.monotonic() - began) / done * (len(todo) - done)
            on_progress(Done(setup.name, len(cases) - len(todo) + done, len(cases), left))
    return {case.id: found[case.id] for case in cases}


def _read_records(path: Path, head: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The records of an earlier run; a line that was cut off by a kill is removed."""
    if not path.exists():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]
    if len(whole) < len(lines):
        with whole_file(path) as partial:
            partial.write_text("".join(whole), encoding="utf-8")
    if not whole:
        return {}
    if json.loads(whole[0]) != dict(head):
        raise RequestError(
            f"{path.parent.parent} holds an evaluation of other files or of another {head['system']}; "
            "name another folder, or delete it"
        )
    return {record["case"]: record for record in map(json.loads, whole[1:])}


def _work(setup: Setup, files: Path, chunks: Sequence[Sequence[Case]], jobs: int) -> Iterator[list[dict[str, Any]]]:
    if jobs == 1 or len(chunks) < 2:
        if chunks:
            _start(setup, files)
        yield from map(_evaluate_chunk, chunks)
        return
    context = multiprocessing.get_context("spawn")
    others = multiprocessing.active_children()
    with ProcessPoolExecutor(min(jobs, len(chunks)), context, _start, (setup, files)) as pool:
        try:
            yield from pool.map(_evaluate_chunk, chunks)
        except BaseException:
            for process in multiprocessing.active_children():
                if process not in others:
                    process.terminate()  # finished records are written; waiting for the rest would take seconds
            raise


_worker: tuple[System, Songs]  # of this process


def _start(setup: Setup, files: Path) -> None:
    global _worker
    if multiprocessing.parent_process() is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from .cases import Songs
    from .systems import System

    _worker = System(setup), Songs(files)


def _evaluate_chunk(cases: Sequence[Case]) -> list[dict[str, Any]]:
    system, songs = _worker
    from .measure import evaluate_case

    return [evaluate_case(system, case, songs.read(case.file)) for case in cases]


def _costs(
    setups: Sequence[Setup], files: Path, cases: Sequence[Case], path: Path
) -> dict[str, dict[str, float | str | int]]:
    """Per system what a fill costs, each measured alone in a process of its own; what `path` has is not done again."""
    from .systems import ORIGINAL

    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    own = [c for c in cases if c.setting == "song"] or list(cases)
    chosen = own[:: max(1, len(own) // COST_CASES)][:COST_CASES]
    costs: dict[str, dict[str, float | str | int]] = {}
    for setup in setups:
        if setup.kind == ORIGINAL:
            continue
        if known.get(setup.name, {}).get("fingerprint") == setup.fingerprint:
            costs[setup.name] = known[setup.name]
            continue
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _start, (setup, files)) as pool:
            costs[setup.name] = {"fingerprint": setup.fingerprint, **pool.submit(_measure_cost, chosen).result()}
    _write_json(path, costs)
    return costs


def _measure_cost(cases: Sequence[Case]) -> dict[str, float | int]:
    from .measure import measure_cost

    system, songs = _worker
    return measure_cost(system, [(case, songs.read(case.file)) for case in cases])


def _write_json(path: Path, value: Any) -> None:
    with whole_file(path) as partial:
        partial.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")
