"""The recipes of a page of the documentation: their commands, run as they are written there, and their piano rolls.

A recipe is a section with a block of `midi-rwkv infill` commands and a picture. Its songs are those of app/examples.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from midi_rwkv.commands.cli import main
from midi_rwkv.commands.parser import build_parser
from midi_rwkv.fill.places import parse_places
from midi_rwkv.score.instruments import pitch_name
from midi_rwkv.score.midi import read_midi
from midi_rwkv.score.progression import parse_chords
from midi_rwkv.score.score import Note, Score

SONGS = Path(__file__).parents[2] / "app" / "examples"
MARGIN_BARS = 2  # shown on either side, at most; and no more than the bars that are written
NEW, REPLACED, STAYS, OTHERS = "#d1495b", "#00798c", "#8c8c8c", "#e3e3e3"
SHADE = "#fff3c4"


class Recipe(NamedTuple):
    """A section of the page."""

    commands: list[list[str]]  # the arguments of `midi-rwkv`
    picture: str  # its path, from the page


class Panel(NamedTuple):
    """A piano roll."""

    caption: str
    score: Score
    marked: frozenset[tuple[int, Note]]  # what is replaced, or new, by track
    colour: str  # of the marked notes


def read_recipes(page: Path) -> list[Recipe]:
    """The recipes of a page, in their order."""
    found = []
    for section in page.read_text(encoding="utf-8").split("\n## ")[1:]:
        lines = "".join(re.findall(r"^```sh\n(.*?)^```$", section, re.M | re.S)).splitlines()
        commands = [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("midi-rwkv infill ")]
        if picture := re.search(r"!\[[^\]]*\]\((\S+\.png)\)", section):
            found.append(Recipe(commands, picture[1]))
    return found


def run(arguments: Sequence[str]) -> list[Score]:
    """The candidates of one command. Raises RuntimeError if it fails, having said why."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(SONGS):
        if main([*arguments, "-o", str(Path(folder) / "out.mid")]):
            raise RuntimeError(f"midi-rwkv {shlex.join(arguments)} failed")
        return [read_midi(path) for path in sorted(Path(folder).glob("*.mid"))]


def panels_of(recipe: Recipe, further: Sequence[str] = ()) -> list[Panel]:
    """The song before and after each command. further: more arguments, for every command."""
    before = read_midi(SONGS / recipe.commands[0][1])
    old = notes_of(before)
    after = [Panel("before", before, frozenset(), REPLACED)]
    wishes = [_options(arguments) for arguments in recipe.commands]
    for arguments, own in zip(recipe.commands, wishes, strict=True):
        told = [wish for wish in own if not all(wish in other for other in wishes) and "--seed" not in wish]
        scores = run([*arguments, *further])
        for number, score in enumerate(scores, 1):
            which = f", {number} of {len(scores)}" if len(scores) > 1 else ""
            caption = " ".join(["after", *told]) + which
            after.append(Panel(caption, score, notes_of(score) - old, NEW))
    replaced = frozenset().union(*(old - notes_of(panel.score) for panel in after))
    return [after[0]._replace(marked=replaced), *after[1:]]


def _options(arguments: Sequence[str]) -> list[str]:
    """The options of a command, each with its value."""
    starts = [k for k, a in enumerate(arguments) if a.startswith("--")]
    return [" ".join(arguments[a:b]) for a, b in zip(starts, [*starts[1:], len(arguments)], strict=True)]


def notes_of(score: Score) -> frozenset[tuple[int, Note]]:
    """The notes of a song, with the index of their track."""
    return frozenset((t, note) for t, track in enumerate(score.tracks) for note in track.notes)


def draw(recipe: Recipe, panels: Sequence[Panel]) -> Figure:
    """The piano rolls, one above the other."""
    options = build_parser().parse_args(recipe.commands[0])
    score = max((panel.score for panel in panels), key=lambda score: (len(score.bars), len(score.tracks)))
    spans = _spans(options, score)
    window = _window(score, spans)
    tracks = {t for panel in panels for t, _ in panel.marked}
    pitched = {t for t, track in enumerate(score.tracks) if not track.is_drum}
    around = set() if tracks & set(range(len(panels[0].score.tracks))) else pitched - tracks
    tracks = tracks & pitched or tracks
    shown = [_shown(panel.score, tracks | around, window) for panel in panels]
    pitches = [note.pitch for notes in shown for t, note in notes if t in tracks]
    figure = Figure(figsize=(9, 0.4 + 1.5 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for ax, panel, notes in zip(axes, panels, shown, strict=True):
        for start, end in spans:
            ax.axvspan(start, end, color=SHADE, zorder=0)
        for colour in (OTHERS, STAYS, panel.colour):
            boxes = [
                Rectangle((n.onset_ticks, n.pitch - 0.45), max(n.duration_ticks, (window[1] - window[0]) // 300), 0.9)
                for t, n in notes
                if colour == (panel.colour if (t, n) in panel.marked else STAYS if t in tracks else OTHERS)
            ]
            ax.add_collection(PatchCollection(boxes, facecolor=colour, edgecolor="white", linewidth=0.3))
        ax.set_title(panel.caption, fontsize=9, loc="left", pad=2)
        ax.tick_params(labelsize=8)
        ax.grid(axis="x", color="#bbbbbb", linewidth=0.8)
        ax.grid(axis="x", which="minor", color="#dddddd", linewidth=0.5)
        ax.set_axisbelow(True)
    bars = [b for b in range(len(score.bars)) if window[0] <= score.bar(b).start_ticks < window[1]]
    axes[0].set_xticks([score.bar(b).start_ticks for b in bars], [str(b + score.first_bar_number) for b in bars])
    axes[0].set_xticks(range(*window, score.ticks_per_beat), minor=True)
    axes[0].set_xlim(window)
    room = (max(pitches) - min(pitches)) / 5 if options.chords else 2  # for the names of chords
    axes[0].set_ylim(min(pitches) - 2, max(pitches) + room)
    if tracks <= pitched:
        octaves = range(-(-min(pitches) // 12) * 12, max(pitches) + 1, 12)
        axes[0].set_yticks(octaves, [pitch_name(p) for p in octaves])
    if options.chords:
        for chord in parse_chords(options.chords, score, parse_places(options.bars, score).bars):
            for ax in axes[1:]:
                ax.text(chord.start_ticks, max(pitches) + room, f" {chord.name}", fontsize=9, va="top", weight="bold")
    return figure


def _spans(options: Namespace, score: Score) -> list[tuple[int, int]]:
    """The ticks that a command writes in, ascending."""
    places = parse_places(options.bars, score)
    return sorted(places.within or [(score.bar(a).start_ticks, score.bar(b - 1).end_ticks) for a, b in places.bars])


def _window(score: Score, spans: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The ticks that are shown: on either side as many as are written, and at most MARGIN_BARS bars."""
    start, end = spans[0][0], spans[-1][1]
    first = max(0, score.bar_index_at(start) - MARGIN_BARS)
    last = min(len(score.bars) - 1, score.bar_index_at(end - 1) + MARGIN_BARS)
    return (
        max(score.bar(first).start_ticks, start - (end - start)),
        min(score.bar(last).end_ticks, end + (end - start)),
    )


def _shown(score: Score, tracks: set[int], window: tuple[int, int]) -> list[tuple[int, Note]]:
    """The notes of some tracks that sound in the window."""
    return [
        (t, note)
        for t, note in sorted(notes_of(score))
        if t in tracks and note.onset_ticks < window[1] and note.onset_ticks + note.duration_ticks > window[0]
    ]
