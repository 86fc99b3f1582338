"""Fills beside their originals, as piano rolls: one PNG each, over different sources.

    python scripts/plot_fills.py valid.zip OUT_DIR [--checkpoint DIR] [--count 10] [--seed 0]
    python scripts/plot_fills.py song.mid OUT_DIR [--bars 8-12] [--tracks Bass] [--seed 0]
    python scripts/plot_fills.py song.mid OUT_DIR --style mine --strengths 0,0.5,1

Above the original, below the fill, or one for each strength of a style. The region is shaded; the masked tracks are
coloured, brightly inside the region; the other tracks are grey. Drums are drawn by their key numbers like all else.
"""

from __future__ import annotations

import argparse
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from midi_rwkv.fill.arguments import parse_bars, parse_tracks, sounding_tracks
from midi_rwkv.fill.infill import Infiller
from midi_rwkv.model.checkpoint import load_checkpoint
from midi_rwkv.score.instruments import program_name
from midi_rwkv.score.midi import read_midi
from midi_rwkv.score.score import Region, Score
from midi_rwkv.style.style import find_style

MARGIN_BARS = 4  # shown on either side of the region
COLOURS = ("#d1495b", "#00798c", "#edae49", "#5f4b8b", "#66a182", "#2e4057")
GREY = "#b8b8b8"
TRIES = 50


def choose_region(score: Score, rng: np.random.Generator) -> Region | None:
    """2-8 bars of one track, or of two or three, all with notes there; None where the song has none such."""
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


def draw(axes: Axes, score: Score, region: Region, title: str) -> None:
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
    """fills: by what to call them."""
    panels = {"original": original, **fills}
    figure = Figure(figsize=(13, 2.5 + 2.75 * len(fills)), layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True, sharey=True)
    for ax, (name, score) in zip(axes, panels.items(), strict=True):
        count = sum(len(score.notes_in(t, b)) for t, b in region.cells)
        draw(ax, score, region, f"{name}: {count} notes in the region")
    axes[0].set_ylim(*pitch_span(list(panels.values()), region))
    axes[-1].set_xlabel("bar")
    handles = [Patch(color=colour_of(region, t), label=f"track {t + 1}") for t in region.tracks]
    axes[0].legend(handles=handles, loc="upper right", fontsize=8)
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, dpi=80)


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="a zip of MIDI files, in a folder for each source; or one song")
    parser.add_argument("out", type=Path)
    parser.add_argument("--checkpoint", type=Path, help="another checkpoint than the one that ships")
    parser.add_argument("--style", help="a style's name or file")
    parser.add_argument("--strengths", default="0,0.5,1", help="of the style")
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bars", default="8-12", help="of one song")
    parser.add_argument("--tracks", help="of one song")
    args = parser.parse_args()
    cases: Iterable[tuple[str, Score, Region]]
    if args.source.suffix == ".zip":
        cases = chosen_cases(zipfile.ZipFile(args.source), args.count, np.random.default_rng(args.seed))
    else:
        score = read_midi(args.source)
        bars = parse_bars([args.bars], score)
        tracks = parse_tracks(args.tracks, score) if args.tracks else sounding_tracks(score, bars)
        region = Region.rectangle(tracks, bars)
        cases = [(args.source.name, score, region)]
    checkpoint = load_checkpoint(args.checkpoint)
    strengths = [float(x) for x in args.strengths.split(",")] if args.style else [0.0]
    infillers = {
        f"strength {s:g}" if args.style else "fill": Infiller(
            checkpoint, style=find_style(args.style, checkpoint, s) if args.style else None
        )
        for s in strengths
    }
    args.out.mkdir(parents=True, exist_ok=True)
    for number, (name, score, region) in enumerate(cases):
        fills = {what: infiller(score, region, seed=args.seed)[0].score for what, infiller in infillers.items()}
        names = []
        for t in region.tracks:
            track = score.tracks[t]
            instrument = program_name(track.program, is_drum=track.is_drum)
            names.append(f"{t + 1} {track.name} ({instrument})" if track.name else f"{t + 1} {instrument}")
        bars = [b + score.first_bar_number for b in region.bars]
        title = f"{name} · track {', '.join(names)} · bars {bars[0]}-{bars[-1]}"
        path = args.out / f"{number + 1:02d}-{name.replace('/', '-').removesuffix('.mid')}.png"
        plot(path, score, fills, region, title)
        print(f"{path.name}: {title}", flush=True)


if __name__ == "__main__":
    main()
