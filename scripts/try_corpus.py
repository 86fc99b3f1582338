"""Runs the real `midi-rwkv infill` on every file of a zip of MIDI files, and checks every output.

    python scripts/try_corpus.py valid.zip [--limit 60] [--jobs 2] [--checkpoint DIR] [--subprocess]

Each file gets one random region, drawn from the file's name and `--seed`: 1-8 bars of one track, some tracks or all (no
`--tracks`). Bars, tracks and notes are found with mido alone, and `check_fill.py` compares original and output with
mido alone; the rule for notes that are played before their bar (docs/infill.md) is implemented here again. A section is
one track over the region's bars. Required are that every run finishes, that every output is exact and parses in mido
and symusic, and that 95 % of the sections that had notes get notes; otherwise the exit code is 1. Failed runs are
listed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import multiprocessing
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from bisect import bisect
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median

import mido
import numpy as np
from check_fill import check_fill
from script_helpers.tables import markdown

MAX_BARS = 8
REQUIRED_SECTIONS = 0.95


@dataclass
class Song:
    """What mido sees in a file: `tracks` as (chunk, channel) in the order of `midi-rwkv inspect`, `bars` in ticks."""

    tracks: list[tuple[int, int]]
    onsets: dict[tuple[int, int], np.ndarray]  # ticks of the notes, by track
    bars: list[tuple[int, int]]  # half-open, up to the last note
    first_bar_number: int
    leads: dict[tuple[int, int], int] = field(default_factory=dict)  # ticks a note may come before its bar, by track

    def onsets_between(self, track: tuple[int, int], start: int, end: int) -> tuple[int, int]:
        """Where the notes of a track begin that belong to the bars between two bar lines, half-open."""
        lengths = {stop: stop - begin for begin, stop in self.bars}
        first, last = (line - min(self.leads[track], lengths.get(line, 0) // 2) for line in (start, end))
        return first, last


@dataclass
class Result:
    """One file's run."""

    name: str
    command: str
    seconds: float = 0.0
    finished: bool = False
    exact: bool = False
    parsed: bool = False
    sections: int = 0  # that had notes
    filled: int = 0  # of these, that got notes
    problems: list[str] = field(default_factory=list)


def read_song(data: bytes) -> Song:
    """Bars follow the time signatures of all chunks: one inside a bar ends it, and 4/4 is in force before the first."""
    file = mido.MidiFile(file=io.BytesIO(data), clip=True)
    onsets: dict[tuple[int, int], list[int]] = defaultdict(list)
    metres = {0: (4, 4)}
    for chunk, track in enumerate(file.tracks):
        tick = 0
        for message in track:
            tick += message.time
            if message.type == "note_on" and message.velocity:
                onsets[chunk, message.channel].append(tick)
            elif message.type == "time_signature":
                metres[tick] = (message.numerator, message.denominator)
    end = max(max(ticks) for ticks in onsets.values()) + 1
    changes = sorted(t for t in metres if t < end)
    starts: list[int] = []
    for change, until in zip(changes, [*changes[1:], end], strict=True):
        numerator, denominator = metres[change]
        starts += range(change, until, max(1, round(file.ticks_per_beat * 4 * numerator / denominator)))
    numerator, denominator = metres[changes[-1]]
    stop = starts[-1] + max(1, round(file.ticks_per_beat * 4 * numerator / denominator))
    stop = min([stop, *(t for t in metres if t >= end)])
    bars = list(zip(starts, [*starts[1:], stop], strict=True))
    leads = {t: lead(ticks, [*starts, stop], file.ticks_per_beat) for t, ticks in onsets.items()}
    if any(max(ticks) >= stop - leads[t] for t, ticks in onsets.items()):
        bars.append((stop, stop + max(1, round(file.ticks_per_beat * 4 * numerator / denominator))))
    pickup = len(bars) > 1 and bars[0][1] - bars[0][0] < bars[1][1] - bars[1][0]
    return Song(sorted(onsets), {t: np.array(o) for t, o in onsets.items()}, bars, 0 if pickup else 1, leads)


def lead(onsets: Sequence[int], lines: Sequence[int], ticks_per_beat: int) -> int:
    """Half a grid step, or how early the track's notes at bar lines usually come."""
    step = ticks_per_beat / 12
    around = [lines[max(0, bisect(lines, t) - 1) :][:2] for t in onsets]
    offsets = [min((t - line for line in near), key=abs) for t, near in zip(onsets, around, strict=True)]
    offsets = [x for x in offsets if abs(x) < step]
    usual = 0.0
    if len(offsets) >= 4:
        middle = median(offsets)
        spread = median(abs(x - middle) for x in offsets)
        usual = min(3 * spread - middle, int(step) - 1) if spread <= 3 / 8 * step else 0.0
    return max(ticks_per_beat // 24, int(usual))


def choose_region(song: Song, rng: np.random.Generator) -> tuple[list[str], list[tuple[int, int]], int, int]:
    """-> arguments of `midi-rwkv infill`, tracks, start and end tick."""
    count = min(int(rng.integers(1, MAX_BARS + 1)), len(song.bars))
    first = int(rng.integers(0, len(song.bars) - count + 1))
    number = first + song.first_bar_number
    arguments = ["--bars", f"{number}-{number + count - 1}" if count > 1 else str(number)]
    kind = int(rng.integers(3))
    chosen = list(range(len(song.tracks)))
    if kind < 2:
        most = 1 if kind == 0 else len(chosen)
        chosen = sorted(rng.choice(len(chosen), int(rng.integers(min(2, most), most + 1)), replace=False).tolist())
        arguments += ["--tracks", ",".join(str(i + 1) for i in chosen)]
    return arguments, [song.tracks[i] for i in chosen], song.bars[first][0], song.bars[first + count - 1][1]


def run_command(arguments: list[str], *, in_subprocess: bool) -> tuple[int, str]:
    """`midi-rwkv ARGUMENTS` -> exit code and what it printed."""
    if in_subprocess:
        done = subprocess.run([sys.executable, "-m", "midi_rwkv", *arguments], capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr
    from midi_rwkv.commands.cli import main as midi_rwkv

    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            code = midi_rwkv(arguments)
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except Exception as error:  # a bug in the command is a finding, not the end of the run
            return 1, f"{type(error).__name__}: {error}"
    return code, said.getvalue()


def parse_problems(path: Path) -> list[str]:
    import symusic

    problems = []
    for name, parse in (("mido", mido.MidiFile), ("symusic", symusic.Score)):
        try:
            parse(str(path))
        except Exception as error:  # whatever a parser raises
            problems.append(f"{name} cannot read the output: {error!r}")
    return problems


def try_file(name: str, archive: Path, *, seed: int, checkpoint: str | None, in_subprocess: bool) -> Result:
    with zipfile.ZipFile(archive) as z:
        data = z.read(name)
    song = read_song(data)
    region, tracks, start, end = choose_region(song, np.random.default_rng((seed, zlib.crc32(name.encode()))))
    options = [*region, "--seed", str(seed), *(["--checkpoint", checkpoint] if checkpoint else [])]
    result = Result(name, " ".join(["midi-rwkv infill", name, *options]))
    spans = {t: song.onsets_between(t, start, end) for t in tracks}
    sounding = [t for t in tracks if _begin_in(song.onsets[t], spans[t])]
    result.sections = len(sounding)
    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder) / "song.mid", Path(folder) / "out.mid"
        source.write_bytes(data)
        began = time.perf_counter()
        code, said = run_command(["infill", str(source), *options, "-o", str(output)], in_subprocess=in_subprocess)
        result.seconds = time.perf_counter() - began
        result.finished = code == 0 and output.exists()
        if not result.finished:
            result.problems = [f"exit code {code}: {' '.join(said.split())[-400:]}"]
            return result
        parsing = parse_problems(output)
        result.parsed = not parsing
        mask = [(*t, start, end, *spans[t]) for t in tracks]
        result.problems = parsing + check_fill(data, output.read_bytes(), mask)
        result.exact = not result.problems
        if result.parsed:
            after = read_song(output.read_bytes()).onsets
            result.filled = sum(_begin_in(after[t], spans[t]) for t in sounding if t in after)
    return result


def _begin_in(onsets: np.ndarray, span: tuple[int, int]) -> bool:
    return bool(((onsets >= span[0]) & (onsets < span[1])).any())


def choose_files(names: Sequence[str], limit: int) -> list[str]:
    """At most `limit`, as evenly over the sources (top folders) as they allow, and evenly within each."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in sorted(names):
        groups[name.split("/")[0]].append(name)
    share = dict.fromkeys(groups, 0)
    while sum(share.values()) < min(limit, len(names)):
        share[min((s for s in groups if share[s] < len(groups[s])), key=lambda s: share[s])] += 1
    return [files[i * len(files) // share[s]] for s, files in groups.items() for i in range(share[s])]


def summarise(name: str, results: Sequence[Result]) -> list[str]:
    seconds = [r.seconds for r in results if r.finished] or [float("nan")]
    sections, filled = sum(r.sections for r in results), sum(r.filled for r in results)
    counts = [len(results), *(sum(getattr(r, what) for r in results) for what in ("finished", "exact", "parsed"))]
    share = f" ({100 * filled / sections:.1f} %)" if sections else ""
    times = [f"{np.percentile(seconds, q):.2f}" for q in (50, 95)]
    return [name, *map(str, counts), f"{sections} -> {filled}{share}", *times]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path, help="a zip of MIDI files, in a folder for each source")
    parser.add_argument(
        "--limit", type=int, default=10**9, metavar="N", help="number of files, spread over the sources"
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes (default: 1)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", help="a checkpoint folder (default: the one that ships)")
    parser.add_argument("--subprocess", action="store_true", help="start a new process for every file (slower)")
    args = parser.parse_args()
    with zipfile.ZipFile(args.archive) as z:
        names = choose_files([n for n in z.namelist() if n.lower().endswith((".mid", ".midi"))], args.limit)
    work = partial(
        try_file, archive=args.archive, seed=args.seed, checkpoint=args.checkpoint, in_subprocess=args.subprocess
    )
    results = []
    with contextlib.ExitStack() as stack:
        mapper = map
        if args.jobs > 1:
            context = multiprocessing.get_context("spawn")
            mapper = stack.enter_context(ProcessPoolExecutor(args.jobs, context)).map  # type: ignore[assignment]
        for result in mapper(work, names):
            results.append(result)
            if result.problems:
                print(f"{result.command}\n  " + "\n  ".join(result.problems[:4]), file=sys.stderr, flush=True)
            if len(results) % 25 == 0:
                print(f"{len(results)} of {len(names)} files", file=sys.stderr, flush=True)

    groups: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        groups[result.name.split("/")[0]].append(result)
    rows = [summarise(source, group) for source, group in sorted(groups.items())] + [summarise("all", results)]
    head = ["source", "files", "finished", "exact", "parsed", "sections with notes -> got notes", "median s", "p95 s"]
    print(markdown(head, rows))
    enough = sum(r.filled for r in results) >= REQUIRED_SECTIONS * sum(r.sections for r in results)
    return 0 if enough and all(r.finished and r.exact and r.parsed for r in results) else 1


if __name__ == "__main__":
    sys.exit(main())
