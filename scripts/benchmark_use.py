"""Measures what users wait for: the main job on the command line, and the page as a browser sees it.

    python scripts/benchmark_use.py infill [SONG] [--bars 8-12] [--runs 5] [--checkpoint DIR]
    python scripts/benchmark_use.py page                                    # latency and frame times; needs Chromium
    python scripts/benchmark_use.py page --composers 8 --seconds 120        # eight composers at once

`infill`: the first run starts with an empty compile cache, which later runs find. The shares of the time are measured
inside one warm process, over the same fill. `page`: the song for the latencies has 100 bars and 6 tracks, and is the
example band piece repeated.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

from script_helpers.app_driver import App, Page, serve, visit
from script_helpers.tables import markdown

from midi_rwkv.fill.ask import Ask
from midi_rwkv.fill.infill import Infiller
from midi_rwkv.fill.note_writer import NoteWriter
from midi_rwkv.fill.places import parse_bars
from midi_rwkv.model.checkpoint import load_checkpoint
from midi_rwkv.score.midi import read_midi
from midi_rwkv.score.score import Note, Region, Score, TimeSignature, Track
from midi_rwkv.score.splice import splice
from midi_rwkv.tokens.references import RunIndex
from midi_rwkv.tokens.surroundings import CellSurroundings

EXAMPLE = Path(__file__).parents[1] / "app" / "examples" / "pop_band.mid"
EMPTY = bytes.fromhex("4d546864000000060001000101e04d54726b0000000c00ff58040402180800ff2f00")
ROUNDS = 9
FIRST_NOTE = """async (button) => {
    const { model } = document.querySelector(".mr-roll").roll;
    const began = performance.now(), before = model.candidates;
    const some = () => model.candidates.some((c) => Object.values(c.fill).flat().length);
    const written = () => model.candidates !== before && some();
    const frame = () => new Promise(requestAnimationFrame);
    [...document.querySelectorAll("button")].find((b) => b.textContent.trim() === button).click();
    while (!written()) await frame();
    await frame();
    const first = performance.now() - began;
    while (model.running) await frame();
    return [first, performance.now() - began];
}"""
SCROLL = """async () => {
    const { view } = document.querySelector(".mr-roll").roll, scroll = document.querySelector(".mr-scroll");
    const frame = () => new Promise(requestAnimationFrame);
    const gaps = [], drawn = [];
    let before = await frame();
    for (let i = 0; i < 240; i++) {
        scroll.scrollLeft += 12;
        const now = await frame();
        gaps.push(now - before);
        drawn.push(view.drawn);
        before = now;
    }
    return [gaps, drawn];
}"""


def midi(score: Score) -> bytes:
    """A score as a file, in which its tracks are new tracks of an empty file."""
    bars = len(score.bars)
    region = Region.rectangle(range(len(score.tracks)), [(0, bars)])
    return splice(EMPTY, score, region, {t: list(track.notes) for t, track in enumerate(score.tracks)})


def long_song(bars: int) -> bytes:
    """The example piece, repeated."""
    example = read_midi(EXAMPLE)
    tracks = []
    for t in example.tracks:
        notes = []
        for bar in range(bars):
            start = example.bar(bar % len(example.bars)).start_ticks
            shift = bar * 4 * 480 - start * 480 // example.ticks_per_beat
            for n in t.notes:
                if example.bar_index_at(n.onset_ticks) == bar % len(example.bars):
                    ticks = [x * 480 // example.ticks_per_beat for x in (n.onset_ticks, n.duration_ticks)]
                    notes.append(Note(ticks[0] + shift, n.pitch, max(1, ticks[1]), n.velocity))
        tracks.append(Track(t.name, t.program, tuple(sorted(notes)), is_drum=t.is_drum))
    return midi(Score(480, tuple(tracks), (TimeSignature(0, 4, 4),)))


def many_notes(tracks: int, bars: int, notes: int) -> bytes:
    """A song of this many random notes."""
    rng = random.Random(0)
    each = notes // tracks
    made = []
    for t in range(tracks):
        slots = sorted(rng.sample(range(bars * 16), each))
        own = tuple(Note(s * 120, 48 + rng.randrange(24), 110, 80) for s in slots)
        made.append(Track(f"track {t + 1}", 8 * t, own))
    return midi(Score(480, tuple(made), (TimeSignature(0, 4, 4),)))


def latency(page: Page, folder: Path) -> None:
    """Prints a table."""
    path = folder / "long.mid"
    path.write_bytes(long_song(100))
    page.open(path)
    page.candidates(1)
    times: dict[str, list[float]] = {}
    page.drag(1, 2, 1, 5)
    page.evaluate(FIRST_NOTE, "Infill the marked bars")  # the first fill compiles and loads
    for k in range(ROUNDS):
        page.drag(1, 8 + 10 * k, 1, 11 + 10 * k)
        for name in ("a new region", "the same region again"):
            first, whole = page.evaluate(FIRST_NOTE, "Infill the marked bars")
            times.setdefault(f"{name}: click to first new note on screen", []).append(first)
            times.setdefault(f"{name}: click to the end of the 4 bars", []).append(whole)
    rows = [[name, f"{median(values):.0f}", f"{max(values):.0f}"] for name, values in times.items()]
    print(markdown(["what, one track of a 100-bar, 6-track song", "median ms", "largest ms"], rows))


def frames(page: Page, folder: Path) -> None:
    """Prints a table."""
    path = folder / "many.mid"
    path.write_bytes(many_notes(8, 200, 20_000))
    page.open(path)
    page.wait("model.song.tracks.length === 8")
    rows = []
    for name, clicks in (("the whole song in view, zoomed in a little", 1), ("about 16 bars in view", 8)):
        page.press("Fit")
        for _ in range(clicks):
            page.press("Zoom in")
        page.evaluate("document.querySelector('.mr-scroll').scrollLeft = 0")
        gaps, drawn = page.evaluate(SCROLL)
        late = sorted(gaps)[int(0.95 * len(gaps))]
        rows.append([name, f"{median(gaps):.1f}", f"{late:.1f}", f"{median(drawn):.1f}"])
    head = ["scrolling 8 tracks x 200 bars x 20,000 notes", "median ms a frame", "95 %", "drawing alone, median"]
    print("\n" + markdown(head, rows))


def resident(app: App) -> float:
    """The server's resident memory in MiB."""
    lines = Path(f"/proc/{app.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def together(browser: Any, app: App, folder: Path, count: int, seconds: float) -> None:
    """Several composers at once, each filling a song of their own again and again. Prints the result."""
    pages, marks = [], []
    for i in range(count):
        path = folder / f"song{i}.mid"
        path.write_bytes(long_song(24 + i))
        pages.append(visit(browser.new_context().new_page(), app.url))
        pages[i].open(path)
        pages[i].candidates(2)
        pages[i].drag(1 + i % 5, 4, 1 + i % 5, 7)
        marks.append((1 + i % 5, [4, 5, 6, 7]))
    done, waited, sizes = [0] * count, 0, [resident(app)]
    until = time.monotonic() + seconds
    for page in pages:
        page.press("Infill the marked bars")
    while time.monotonic() < until:
        for i, page in enumerate(pages):
            if page.status().startswith("busy"):
                waited += 1
            if not page.roll("model.running") and page.roll("model.candidates.length") == 2:
                check(page, i, marks[i])
                done[i] += 1
                if done[i] % 3 == 0:
                    page.press("Keep this one")
                    page.wait(f"model.song.version === {done[i] // 3}")
                    page.drag(marks[i][0], 4, marks[i][0], 7)
                page.press("Infill the marked bars")
                page.page.wait_for_timeout(50)
        sizes.append(resident(app))
    for i, page in enumerate(pages):
        page.wait("!model.running", 120)
        check(page, i, marks[i])
        assert page.roll("model.song.version") == done[i] // 3, "a version was lost"
    third = len(sizes) // 3
    print(
        f"{count} composers, {seconds:.0f} s: {sum(done)} fills of 2 candidates x 4 bars ({min(done)}-{max(done)} each)"
    )
    print(f"busy seen {waited} times; every song, region and version is its own")
    print(
        f"server memory, MiB: {sizes[0]:.0f} at the start, {median(sizes[third : 2 * third]):.0f} in the middle third, "
        f"{median(sizes[2 * third :]):.0f} in the last"
    )


def check(page: Page, number: int, mark: tuple[int, list[int]]) -> None:
    """Checks that the page shows this composer's own work."""
    track, bars = mark
    assert page.roll("model.song.name") == f"song{number}.mid"
    assert page.roll("model.song.ownBars") == 24 + number
    marked = sorted(page.roll("[...model.cells]"))
    assert marked == sorted(f"{track},{b}" for b in bars), f"{marked} is marked, not bars {bars} of {track}"
    for fill in page.roll("model.candidates.map((c) => c.fill)"):
        assert list(fill) == [str(track)]
        onsets = fill[str(track)][::5]
        assert all(bars[0] * 1920 <= x < (bars[-1] + 1) * 1920 for x in onsets)


def run_once(command: list[str], cache: str) -> tuple[float, float]:
    """(seconds, peak MiB) of one process."""
    began = time.perf_counter()
    process = subprocess.Popen(command, env={**os.environ, "NUMBA_CACHE_DIR": cache}, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return time.perf_counter() - began, usage.ru_maxrss / 1024


def shares(song: Path, bars: str, checkpoint: str | None) -> tuple[dict[str, float], int]:
    """Seconds of one warm call for one candidate, in all, until its first note and by part, and the notes."""
    infiller = Infiller(load_checkpoint(checkpoint))
    score = read_midi(song)
    region = Region.rectangle(range(len(score.tracks)), parse_bars([bars], score))
    ask = Ask(region, seed=1)
    infiller(score, ask)
    spent: dict[str, float] = defaultdict(float)
    calls: dict[str, int] = defaultdict(int)
    start = 0.0

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            began = time.perf_counter()
            if name == "steps" and "first" not in spent:
                spent["first"] = began - start
            result = function(*arguments, **options)
            spent[name] += time.perf_counter() - began
            calls[name] += 1
            return result

        return call

    parts = (
        (infiller.engine, "prefill_vectors", "reading"),
        (infiller.engine, "step_vectors", "steps"),
        (infiller.writing.heads, "logits", "heads"),
        (NoteWriter, "allowed", "limits"),
        (RunIndex, "__init__", "following"),
        (RunIndex, "sources", "following"),
        (CellSurroundings, "__init__", "following"),
        (CellSurroundings, "at_place", "following"),
        (CellSurroundings, "write", "following"),
        (RunIndex, "write", "following"),
        (NoteWriter, "choose", "choosing"),
    )
    with ExitStack() as patched:
        for owner, attribute, name in parts:
            patched.enter_context(mock.patch.object(owner, attribute, timed(name, getattr(owner, attribute))))
        start = time.perf_counter()
        timed("whole", infiller)(score, ask)
    return spent, calls["steps"]


def benchmark_infill(options: argparse.Namespace) -> None:
    """Prints a table, with a column for each checkpoint; their runs alternate."""
    names = [options.checkpoint, *options.against]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "midi_rwkv", "infill", str(options.song), "--bars", options.bars]
        command += ["--seed", "1", "--overwrite", "-o", str(Path(folder) / "out.mid")]
        commands = [[*command, *(["--checkpoint", name] if name else [])] for name in names]
        firsts = [run_once(c, str(Path(folder) / str(k))) for k, c in enumerate(commands)]
        later = [[run_once(c, str(Path(folder) / str(k))) for k, c in enumerate(commands)] for _ in range(options.runs)]
        cache = str(Path(folder) / "0")
        imports = [
            run_once([sys.executable, "-c", "import midi_rwkv.commands.cli, midi_rwkv.engine.numba_engine"], cache)[0]
            for _ in later
        ]
        helps = [run_once([sys.executable, "-m", "midi_rwkv", "--help"], cache)[0] for _ in later]
    columns = [
        _column(first, [runs[k] for runs in later], *shares(options.song, options.bars, name))
        for k, (first, name) in enumerate(zip(firsts, names, strict=True))
    ]
    rows = [[what, *(column[what] for column in columns)] for what in columns[0]]
    print(markdown(["what", *(str(name or "the one that ships") for name in names)], rows))
    print(f"\nImports (numba among them): {median(imports):.2f} s; `midi-rwkv --help`: {median(helps):.2f} s.")


def _column(
    first: tuple[float, float], later: list[tuple[float, float]], spent: dict[str, float], steps: int
) -> dict[str, str]:
    """What was measured of one checkpoint."""
    decoding = spent["steps"] + spent["choosing"] + spent["heads"]
    drawing = spent["choosing"] - spent["limits"]
    return {
        "first run ever": f"{first[0]:.2f} s, {first[1]:.0f} MiB",
        f"later runs, median of {len(later)}": (
            f"{median(t for t, _ in later):.2f} s, {max(m for _, m in later):.0f} MiB"
        ),
        "a warm call": f"{spent['whole']:.2f} s, {steps} steps of the model",
        "of which until the first note": f"{spent['first']:.3f} s",
        "of which reading context and given cells": f"{spent['reading']:.3f} s",
        "of which decoding: steps of the model, and choosing": f"{decoding:.3f} s",
        "share of the limits in decoding": f"{100 * spent['limits'] / decoding:.1f} %",
        "share of drawing": f"{100 * drawing / decoding:.1f} %",
        "share of following the song in the warm call": f"{100 * spent['following'] / spent['whole']:.1f} %",
    }


def benchmark_page(options: argparse.Namespace) -> None:
    """Prints tables."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        folder = Path(temporary)
        app = serve(folder)
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        try:
            if options.composers:
                together(browser, app, folder, options.composers, options.seconds)
            else:
                page = visit(browser.new_context(viewport={"width": 1280, "height": 800}).new_page(), app.url)
                latency(page, folder)
                frames(page, folder)
        finally:
            browser.close()
            app.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_subparsers(required=True, metavar="infill or page")
    p = what.add_parser("infill")
    p.set_defaults(run=benchmark_infill)
    p.add_argument("song", nargs="?", type=Path, default=EXAMPLE)
    p.add_argument("--bars", default="8-12")
    p.add_argument("--runs", type=int, default=5)
    p.add_argument("--checkpoint")
    p.add_argument("--against", action="append", default=[], help="another checkpoint, measured alternately")
    p = what.add_parser("page")
    p.set_defaults(run=benchmark_page)
    p.add_argument("--composers", type=int, default=0)
    p.add_argument("--seconds", type=float, default=120)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
