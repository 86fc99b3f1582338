"""Makes pictures: fills beside their originals, the recipes of docs/infill.md, a training curve, the page's states.

    python scripts/pictures.py fills valid.zip OUT [--checkpoint DIR] [--count 10] [--seed 0]
    python scripts/pictures.py fills song.mid OUT [--bars 8-12] [--tracks Bass] [--style mine --strengths 0,0.5,1]
    python scripts/pictures.py fills song.mid OUT --bars 9-12 --new-track drums --style mine
    python scripts/pictures.py recipes docs/infill.md [--only rewrite,keep] [--checkpoint DIR]
    python scripts/pictures.py curve RUN/curve.csv OUT.png
    python scripts/pictures.py curve data/training/curve.csv docs/curve.png     # of the checkpoint that ships
    python scripts/pictures.py app docs --pieces FOLDER                         # needs Chromium

Fills are piano rolls, with the original above and the fill below, or one fill for each strength of a style. The region
is shaded. Masked tracks are coloured, more brightly inside the region, and other tracks are grey. Drums are drawn by
their key numbers like other notes. Recipes are the page's own commands, run on the songs of app/examples, before and
after; the pictures lie where the page shows them. A curve shows nats per note on the validation fills over steps, by
source and as their mean; a column `run`, if the file has one, separates runs that continue one another but were
measured on other fills.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import shutil
import tempfile
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from script_helpers.app_driver import App, Page, serve, visit
from script_helpers.recipes import draw, panels_of, read_recipes

from midi_rwkv.files import whole_file
from midi_rwkv.fill.arguments import parse_tracks, sounding_tracks
from midi_rwkv.fill.ask import Ask
from midi_rwkv.fill.infill import Infiller
from midi_rwkv.fill.places import parse_bars
from midi_rwkv.model.checkpoint import load_checkpoint
from midi_rwkv.score.instruments import find_program, program_name
from midi_rwkv.score.midi import read_midi
from midi_rwkv.score.score import Region, Score, Track
from midi_rwkv.style.style import find_style

MARGIN_BARS = 4  # shown on either side of the region
COLOURS = ("#d1495b", "#00798c", "#edae49", "#5f4b8b", "#66a182", "#2e4057")
GREY = "#b8b8b8"
TRIES = 50


def choose_region(score: Score, rng: np.random.Generator) -> Region | None:
    """2-8 bars of one to three tracks that all have notes there, or None if the song has none."""
    for _ in range(TRIES):
        count = min(int(rng.choice((2, 4, 4, 8))), len(score.bars))
        first = int(rng.integers(0, len(score.bars) - count + 1))
        bars = range(first, first + count)
        busy = [t for t in range(len(score.tracks)) if sum(bool(score.notes_in(t, b)) for b in bars) > count / 2]
        if busy:
            wanted = min(int(rng.choice((1, 1, 2, 3))), len(busy))
            chosen = sorted(int(t) for t in rng.choice(busy, wanted, replace=False))
            return Region.rectangle(chosen, [(first, first + count)])
    return None


def colour_of(region: Region, track: int) -> str:
    return COLOURS[region.tracks.index(track) % len(COLOURS)]


def draw_roll(axes: Axes, score: Score, region: Region, title: str) -> None:
    """One piano roll: x in bars of the song as people count them, y in MIDI pitches."""
    first, last = region.bars[0], region.bars[-1] + 1
    lo, hi = max(0, first - MARGIN_BARS), min(len(score.bars), last + MARGIN_BARS)
    edges = [score.bar(b).start_ticks for b in range(lo, hi + 1)]
    numbers = np.arange(lo, hi + 1) + score.first_bar_number
    boxes: dict[tuple[str, float], list[Rectangle]] = defaultdict(list)
    for t, track in sorted(enumerate(score.tracks), key=lambda item: item[0] in region.tracks):
        masked = t in region.tracks
        for note in track.notes:
            if not (note.onset_ticks < edges[-1] and note.onset_ticks + note.duration_ticks > edges[0]):
                continue
            inside = masked and first <= score.bar_of(t, note.onset_ticks) < last
            colour = colour_of(region, t) if masked else GREY
            start, end = np.interp([note.onset_ticks, note.onset_ticks + note.duration_ticks], edges, numbers)
            width = max(end - start, 0.02)
            boxes[colour, 1.0 if inside else 0.45].append(Rectangle((start, note.pitch - 0.45), width, 0.9))
    for (colour, alpha), rectangles in boxes.items():
        edge = "black" if colour != GREY and alpha == 1 else "none"
        axes.add_collection(PatchCollection(rectangles, facecolor=colour, alpha=alpha, edgecolor=edge, linewidth=0.4))
    axes.axvspan(first + score.first_bar_number, last + score.first_bar_number, color="#fff3c4", zorder=0)
    axes.set_xlim(numbers[0], numbers[-1])
    axes.set_xticks(numbers[:-1])
    axes.grid(axis="x", color="#dddddd", linewidth=0.6, zorder=0)
    axes.set_axisbelow(True)
    axes.set_ylabel(title)


def pitch_span(scores: list[Score], region: Region) -> tuple[int, int]:
    """Lowest and highest pitch near the region, of all scores."""
    lo = scores[0].bar(max(0, region.bars[0] - MARGIN_BARS)).start_ticks
    hi = scores[0].bar(region.bars[-1] + MARGIN_BARS).end_ticks
    pitches = [n.pitch for s in scores for t in s.tracks for n in t.notes if lo <= n.onset_ticks < hi]
    return min(pitches) - 2, max(pitches) + 2


def plot(path: Path, original: Score, fills: dict[str, Score], region: Region, title: str) -> None:
    """Draws the original, if it has notes in the region, and the `fills`, which are by name."""
    there = any(original.notes_in(t, b) for t, b in region.cells)
    panels = {"original": original, **fills} if there else fills
    figure = Figure(figsize=(13, 2.75 * len(panels) - 0.25), layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for ax, (name, score) in zip(axes, panels.items(), strict=True):
        count = sum(len(score.notes_in(t, b)) for t, b in region.cells)
        draw_roll(ax, score, region, f"{name}: {count} notes in the region")
    axes[0].set_ylim(*pitch_span(list(panels.values()), region))
    axes[-1].set_xlabel("bar")
    handles = [Patch(color=colour_of(region, t), label=f"track {t + 1}") for t in region.tracks]
    axes[0].legend(handles=handles, loc="upper right", fontsize=8)
    figure.suptitle(title, fontsize=11)
    save(figure, path, dpi=80)


def chosen_cases(archive: zipfile.ZipFile, count: int, rng: np.random.Generator) -> Iterator[tuple[str, Score, Region]]:
    """Songs of a zip, a source at a time, with a random region each."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in sorted(n for n in archive.namelist() if n.lower().endswith((".mid", ".midi"))):
        groups[name.split("/")[0]].append(name)
    order = rng.permutation(sorted(groups)).tolist()
    for number in range(count):
        name = str(rng.choice(groups[order[number % len(order)]]))
        score = read_midi(archive.read(name), name)
        region = choose_region(score, rng)
        if region is not None:
            yield name, score, region


Point = tuple[str, float, float, dict[str, float]]  # run, million steps, mean, by source


def read_curve(path: Path) -> list[Point]:
    """Every evaluation of a `curve.csv`. Raises ValueError if there is none."""
    with path.open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if r.get("kind") == "valid"]
    if not rows:
        raise ValueError(f"{path} has no evaluation yet; a run makes one every --eval-steps steps")
    return [
        (r.get("run") or "", int(r["tokens"]) / 1e6, float(r["loss"]), json.loads(r["by_source"] or "{}")) for r in rows
    ]


def draw_curve(points: Sequence[Point]) -> Figure:
    """The mean of each run as a thick line, sources as thin ones."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.add_subplot()
    sources = sorted({s for p in points for s in p[3]})
    colours = dict(zip(sources, matplotlib.color_sequences["tab20"], strict=False))
    for run, group in groupby(points, key=lambda p: p[0]):
        mine = list(group)
        millions = [p[1] for p in mine]
        for source in sources:
            known = [(p[1], p[3][source]) for p in mine if source in p[3]]
            if known:
                axes.plot(*zip(*known, strict=True), color=colours.get(source, "grey"), linewidth=0.9)
        axes.plot(millions, [p[2] for p in mine], color="black", linewidth=2.2, marker=".")
        axes.annotate(run, (millions[0], mine[0][2]), textcoords="offset points", xytext=(4, 6), fontsize=8)
    for source in sources:
        axes.plot([], [], color=colours.get(source, "grey"), label=source)
    axes.plot([], [], color="black", linewidth=2.2, label="mean over sources")
    axes.set(xlabel="million steps", ylabel="nats per note, validation fills", ylim=(0, None))
    axes.grid(alpha=0.25)
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return figure


SMALL, LARGE = {"width": 1280, "height": 800}, {"width": 1920, "height": 1080}


def save_page(page: Page, out: Path, name: str) -> None:
    """One picture, of few colours; k-means keeps the colour of the notes, which are small."""
    from PIL import Image

    page.evaluate("window.scrollTo(0, 0)")
    page.page.wait_for_timeout(300)
    shot = Image.open(io.BytesIO(page.page.screenshot(type="png"))).convert("RGB")
    with whole_file(out / f"app-{name}.png") as partial:
        shot.quantize(200, kmeans=3, dither=Image.Dither.NONE).save(partial, format="PNG", optimize=True)


def picture_song(app: App, browser: Any, out: Path, names: dict[str, str], *, dark: bool = False) -> None:
    """Pictures of the song tab from empty to kept. `names` are the file names by state."""
    size, scheme = (LARGE, "dark") if dark else (SMALL, "light")
    context = browser.new_context(viewport=size, color_scheme=scheme)
    page = visit(context.new_page(), f"{app.url}?__theme={scheme}")

    def picture(state: str) -> None:
        if state in names:
            save_page(page, out, names[state])

    picture("empty")
    page.example("Pop band", "pop_band.mid")
    page.drag(1, 7, 2, 11)
    page.drag(5, 8, 5, 9, shift=True)
    picture("marked")
    page.candidates(3)
    page.evaluate("window.before = document.querySelector('.mr-roll').roll.model.candidates")
    page.press("Infill the marked bars")
    page.wait("model.running && model.candidates.every((c) => Object.values(c.fill).flat().length > 40)")
    picture("writing")
    page.wait("!model.running && model.candidates !== window.before && model.candidates.length")
    for _ in range(3):
        page.press("Zoom in")
    page.evaluate(
        """() => { const { model, view } = document.querySelector(".mr-roll").roll;
        document.querySelector(".mr-scroll").scrollLeft = model.song.bars[4] * view.scale; }"""
    )
    picture("candidates")
    page.locator(".mr-card").nth(2).click()
    page.press("Keep this one")
    page.wait("model.song.version === 1")
    page.press("Play")
    page.wait("player.playing && player.position > 960")
    picture("playing")
    context.close()


def picture_learning(app: App, browser: Any, out: Path, pieces: list[Path]) -> None:
    """The personalise tab."""
    page = visit(browser.new_context(viewport=LARGE).new_page(), app.url)
    page.get_by_role("tab", name="Personalise").click()
    with tempfile.TemporaryDirectory() as folder:
        broken = Path(folder) / "notes.mid"
        broken.write_text("not music")
        page.locator("#mr-mine input[type=file]").set_input_files([*pieces, broken])
        page.page.get_by_text("skipped: notes.mid").first.wait_for(state="attached")
    page.get_by_label("Name of the style").fill("mine")
    page.press("Learn the style")
    page.locator("#mr-told").get_by_text("is learned").wait_for(timeout=1_800_000)
    page.press("Hear the same bars")
    page.page.wait_for_function("document.querySelectorAll('[data-testid^=waveform]').length >= 2", timeout=60_000)
    page.page.wait_for_timeout(1500)
    save_page(page, out, "personalise")


def save(figure: Figure, path: Path, *, dpi: int) -> None:
    """Writes one picture, in the format of its file name."""
    with whole_file(path) as partial:
        figure.savefig(partial, format=path.suffix[1:], dpi=dpi)


def with_new_track(score: Score, program: int, *, is_drum: bool) -> tuple[Score, list[int]]:
    """The song with a further track, in place of any drums where these are new; and the new track's index."""
    kept = tuple(t for t in score.tracks if not (is_drum and t.is_drum))
    return replace(score, tracks=(*kept, Track("New", program, (), is_drum=is_drum))), [len(kept)]


def picture_fills(options: argparse.Namespace) -> None:
    cases: Iterable[tuple[str, Score, Region]]
    if options.source.suffix == ".zip":
        cases = chosen_cases(zipfile.ZipFile(options.source), options.count, np.random.default_rng(options.seed))
    else:
        score = read_midi(options.source)
        bars = parse_bars([options.bars], score)
        if options.new_track:
            program, is_drum = find_program(options.new_track)
            score, tracks = with_new_track(score, program, is_drum=is_drum)
        else:
            tracks = parse_tracks(options.tracks, score) if options.tracks else sounding_tracks(score, bars)
        region = Region.rectangle(tracks, bars)
        cases = [(options.source.name, score, region)]
    checkpoint = load_checkpoint(options.checkpoint)
    strengths = [float(x) for x in options.strengths.split(",")] if options.style else [0.0]
    infillers = {
        f"strength {s:g}" if options.style else "fill": Infiller(
            checkpoint, style=find_style(options.style, checkpoint, s) if options.style else None
        )
        for s in strengths
    }
    options.out.mkdir(parents=True, exist_ok=True)
    for number, (name, score, region) in enumerate(cases):
        fills = {what: infiller(score, Ask(region, seed=options.seed))[0].score for what, infiller in infillers.items()}
        names = []
        for t in region.tracks:
            track = score.tracks[t]
            instrument = program_name(track.program, is_drum=track.is_drum)
            names.append(f"{t + 1} {track.name} ({instrument})" if track.name else f"{t + 1} {instrument}")
        first, last = (region.bars[k] + score.first_bar_number for k in (0, -1))
        title = f"{name} · track {', '.join(names)} · bars {first}-{last}"
        path = options.out / f"{number + 1:02d}-{name.replace('/', '-').removesuffix('.mid')}.png"
        plot(path, score, fills, region, title)
        print(f"{path.name}: {title}", flush=True)


def picture_recipes(options: argparse.Namespace) -> None:
    further = ["--checkpoint", str(options.checkpoint.absolute())] if options.checkpoint else []
    wanted = options.only.split(",") if options.only else None
    for recipe in read_recipes(options.page):
        path = (options.out or options.page.parent) / recipe.picture
        if wanted is None or path.stem in wanted:
            path.parent.mkdir(parents=True, exist_ok=True)
            save(draw(recipe, panels_of(recipe, further)), path, dpi=80)


def picture_curve(options: argparse.Namespace) -> None:
    save(draw_curve(read_curve(options.curve)), options.out, dpi=110)


def picture_app(options: argparse.Namespace) -> None:
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        app = serve(Path(temporary))
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        try:
            if options.only != "learning":
                states = ("empty", "marked", "writing", "candidates", "playing")
                picture_song(app, browser, options.out, {"candidates": "dark"}, dark=True)
                picture_song(app, browser, options.out, {s: s for s in states})  # now everything is compiled
            if options.pieces and options.only != "song":
                picture_learning(app, browser, options.out, sorted(options.pieces.glob("*.mid"))[:5])
        finally:
            browser.close()
            app.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_subparsers(required=True, metavar="fills, recipes, curve or app")
    p = what.add_parser("fills")
    p.set_defaults(run=picture_fills)
    p.add_argument("source", type=Path, help="a zip of MIDI files, in a folder for each source; or one song")
    p.add_argument("out", type=Path, help="a folder")
    p.add_argument("--checkpoint", type=Path, help="another checkpoint than the one that ships")
    p.add_argument("--style", help="a style's name or file")
    p.add_argument("--strengths", default="0,0.5,1", help="of the style")
    p.add_argument("--count", type=int, default=10)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--bars", default="8-12", help="of one song")
    p.add_argument("--tracks", help="of one song")
    p.add_argument("--new-track", metavar="INSTRUMENT", help="for one song, instead")
    p = what.add_parser("recipes")
    p.set_defaults(run=picture_recipes)
    p.add_argument("page", type=Path, help="a page with recipes")
    p.add_argument("--out", type=Path, help="a folder, instead of the page's")
    p.add_argument("--only", help="pictures by name, with commas")
    p.add_argument("--checkpoint", type=Path, help="another checkpoint than the one that ships")
    p = what.add_parser("curve")
    p.set_defaults(run=picture_curve)
    p.add_argument("curve", type=Path, help="a run's curve.csv")
    p.add_argument("out", type=Path, help="a .png or .svg")
    p = what.add_parser("app")
    p.set_defaults(run=picture_app)
    p.add_argument("out", type=Path, help="a folder")
    p.add_argument("--pieces", type=Path, help="a folder of MIDI files of one composer, for the style's picture")
    p.add_argument("--only", choices=("song", "learning"))
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
