"""Writes an HTML page that shows originals beside fills: piano rolls, figures and sound. It loads nothing from
elsewhere.

`write_html` writes `report.html` and, beside it, `audio/*.wav`. The rolls are inline SVG in the text's own colour, so
that they are readable on light and dark backgrounds and on paper.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from midi_rwkv.files import whole_file
from midi_rwkv.score.instruments import pitch_name, program_name
from midi_rwkv.score.score import Note, Region, Score
from midi_rwkv.sound.synth import SAMPLE_RATE, render, write_wav

MARGIN_BARS = 2  # bars shown and heard on either side of the region
HEIGHT = 220  # pixels of the page's rolls
COLOURS = ("#d1495b", "#0a8ea8", "#dd8b1f", "#7a5fc0", "#4c9a63", "#b3548f")
LEFT, TOP = 24, 14  # pixels for the names of octaves and the bar numbers
THINNEST = 2.4  # minimum height of a note in pixels
LABEL_PIXELS = 22  # width that a bar number needs
# The kinds of line; any other line belongs to a paragraph.
MARKDOWN_LINES = (("", r"\s*$"), ("h", r"#{1,3} "), ("table", r"\|"), ("ul", r"[-*] "))

STYLE = """
:root { color-scheme: light dark; --ink: #1d2329; --soft: #5d6873; --page: #fbfbf9; --card: #ffffff; --line: #dcdfe2; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8ea; --soft: #9aa5af; --page: #15181b; --card: #1d2125; --line: #343a40; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem; max-width: 1500px; color: var(--ink); background: var(--page);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; } h2 { font-size: 1.25rem; } h3 { font-size: 1rem; }
.intro > p, .intro > ul { max-width: 75ch; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: left; }
th { border-bottom-color: var(--soft); }
.right { text-align: right; } .center { text-align: center; }
code { font-size: .92em; background: color-mix(in srgb, var(--ink) 8%, transparent); padding: 0 .25em;
  border-radius: 3px; }
.case { margin: 2rem 0 0; padding-top: 1rem; border-top: 1px solid var(--line); }
.case h2 { margin: 0; }
.caption, .figures { color: var(--soft); margin: .2rem 0 0; overflow-wrap: anywhere; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; list-style: none; margin: .4rem 0 0; padding: 0;
  font-size: .9em; }
.legend i { display: inline-block; width: .8em; height: .8em; margin-right: .4em; border-radius: 2px;
  print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.legend .others { background: color-mix(in srgb, var(--ink) 22%, transparent); }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 430px), 1fr)); gap: .9rem;
  margin-top: .8rem; }
figure { margin: 0; padding: .6rem .7rem .7rem; background: var(--card); border: 1px solid var(--line);
  border-radius: 6px; break-inside: avoid; }
figcaption { font-weight: 600; margin-bottom: .3rem; overflow-wrap: anywhere; }
figure.original { border-color: var(--soft); }
.figures { font-size: .9em; font-variant-numeric: tabular-nums; }
svg { display: block; width: 100%; height: auto; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
audio { display: block; width: 100%; height: 34px; margin-top: .5rem; }
@media print {
  :root { --ink: #000; --soft: #444; --page: #fff; --card: #fff; --line: #bbb; }
  body { padding: 0; font-size: 10pt; } audio { display: none; }
  .grid { grid-template-columns: repeat(2, 1fr); } h2, .caption, .legend { break-after: avoid; }
}
"""


@dataclass(frozen=True)
class ComparedCase:
    """A case on the page: the original, and the fills of all systems."""

    heading: str  # "track, 4 bars: median by F1"
    caption: str  # file, bars, track names
    score: Score  # the original song
    region: Region  # masked cells
    fills: dict[str, Score]  # system name -> the song with that fill in place
    notes: dict[str, str]  # system name -> a short line of figures under its roll ("F1 0.42, ...")
    truth: str = ""  # the same for the original


def write_html(
    folder: Path,
    title: str,
    intro_html: str,
    shown: Sequence[ComparedCase],
    *,
    audio: Collection[str] = (),
    soundfont: Path | None = None,
) -> Path:
    """Writes `folder/report.html` and returns its path. Each case has the original, then its fills in order.

    With a soundfont it also writes `folder/audio/*.wav` of the original and of the systems named in `audio`: the region
    and two bars on either side. `intro_html` is trusted; every other string is escaped. The page is written last.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cases = []
    for number, case in enumerate(shown, 1):
        pitches = pitch_span([case.score, *case.fills.values()], case.region)
        versions = [("original", case.score, case.truth, True)]
        versions += [(name, fill, case.notes.get(name, ""), name in audio) for name, fill in case.fills.items()]
        figures = []
        for place, (name, score, figure, heard) in enumerate(versions):
            sound = ""
            if soundfont is not None and heard:
                slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40]
                sound = f"audio/{number:02d}-{place}-{slug}.wav"
                _write_sound(folder / sound, case, score, soundfont)
            figures.append(
                _figure(
                    name,
                    figure,
                    roll_svg(score, case.region, height=HEIGHT, pitches=pitches),
                    sound,
                    original=place == 0,
                )
            )
        cases.append(
            f'<section class="case">\n<h2>{escape(case.heading)}</h2>\n<p class="caption">{escape(case.caption)}</p>\n'
            f'{_legend(case)}\n<div class="grid">\n{"".join(figures)}</div>\n</section>\n'
        )
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n"
        f'<div class="intro">\n{intro_html}\n</div>\n{"".join(cases)}</body>\n</html>\n'
    )
    path = folder / "report.html"
    with whole_file(path) as partial:
        partial.write_text(page, encoding="utf-8")
    return path


def _write_sound(path: Path, case: ComparedCase, score: Score, soundfont: Path) -> None:
    first, last = window(case.region)
    last = min(last, max(len(case.score.bars), case.region.bars[-1] + 1))  # without silence after the song's end
    path.parent.mkdir(exist_ok=True)
    write_wav(path, render(score, (first, last), soundfont), SAMPLE_RATE)


def _figure(name: str, figures: str, svg: str, sound: str, *, original: bool) -> str:
    lines = [f"<figcaption>{escape(name)}</figcaption>", svg]
    if figures:
        lines.append(f'<p class="figures">{escape(figures)}</p>')
    if sound:
        lines.append(f'<audio controls preload="none" src="{sound}" aria-label="{escape(name)}"></audio>')
    opening = '<figure class="original">' if original else "<figure>"
    return "\n".join([opening, *lines, "</figure>\n"])


def _legend(case: ComparedCase) -> str:
    items = []
    for t in case.region.tracks:
        track = case.score.tracks[t]
        instrument = program_name(track.program, is_drum=track.is_drum)
        name = track.name.strip()
        label = f"{t + 1} {name} ({instrument})" if name and name != instrument else f"{t + 1} {instrument}"
        items.append(f'<li><i style="background:{_colour(case.region, t)}"></i>{escape(label)}</li>')
    if len(case.score.tracks) > len(case.region.tracks):
        items.append('<li><i class="others"></i>the other tracks</li>')
    return f'<ul class="legend">{"".join(items)}</ul>'


def _colour(region: Region, track: int) -> str:
    return COLOURS[region.tracks.index(track) % len(COLOURS)]


def window(region: Region) -> tuple[int, int]:
    """The half-open range of bar indices shown: the region's whole span and two bars on either side."""
    return max(0, region.bars[0] - MARGIN_BARS), region.bars[-1] + 1 + MARGIN_BARS


def pitch_span(scores: Sequence[Score], region: Region) -> tuple[int, int]:
    """Lowest and highest pitch in any version, so that all rolls share one axis; (60, 72) without notes."""
    pitches = [note.pitch for score in scores for _, note in visible_notes(score, region)]
    return min(pitches, default=60), max(pitches, default=72)


def visible_notes(score: Score, region: Region) -> Iterator[tuple[int, Note]]:
    """(track index, note) of the notes that sound in the window. Masked tracks come last, so that they are on top."""
    first, last = window(region)
    lo, hi = score.bar(first).start_ticks, score.bar(last).start_ticks
    for t in sorted(range(len(score.tracks)), key=lambda t: (t in region.tracks, t)):
        for note in score.tracks[t].notes:
            if note.onset_ticks < hi and note.onset_ticks + note.duration_ticks > lo:
                yield t, note


def roll_svg(
    score: Score, region: Region, *, width: int = 560, height: int = 170, pitches: tuple[int, int] | None = None
) -> str:
    """A piano roll as an SVG element for HTML: x in ticks with bar numbers, y in pitches.

    The region is shaded. Masked tracks are coloured, and outlined where they were masked; other tracks are grey. Drums
    are diamonds at their onsets. `pitches` is the lowest and highest row, by default those that this score needs.
    """
    low, high = pitches or pitch_span([score], region)
    roll = _Roll(score, region, width, height, low - 1, high + 1)
    shapes = [*roll.region_shapes(), *roll.grid_shapes(), *roll.note_shapes()]
    first, last = (b + score.first_bar_number for b in (region.bars[0], region.bars[-1]))
    count = sum(len(score.notes_in(t, b)) for t, b in region.cells)
    label = f"piano roll: {count} notes to write in bars {first} to {last}"
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{label}">\n' + "\n".join(shapes) + "\n</svg>"


@dataclass(frozen=True)
class _Roll:
    """The geometry of a roll; lengths in pixels."""

    score: Score
    region: Region
    width: int
    height: int
    low: int  # the lowest row's pitch
    high: int

    @property
    def row(self) -> float:
        return (self.height - TOP) / (self.high - self.low + 1)

    def x(self, tick: int) -> float:
        first, last = window(self.region)
        left, right = self.score.bar(first).start_ticks, self.score.bar(last).start_ticks
        return LEFT + (min(max(tick, left), right) - left) / (right - left) * (self.width - LEFT)

    def y(self, pitch: int) -> float:
        """The upper edge of a pitch's row."""
        return TOP + (self.high - pitch) * self.row

    def region_shapes(self) -> Iterator[str]:
        for lo, hi in self.region.bar_runs():
            begin, end = self.x(self.score.bar(lo).start_ticks), self.x(self.score.bar(hi).start_ticks)
            yield (
                f'<rect class="region" x="{begin:.1f}" y="{TOP}" width="{end - begin:.1f}" '
                f'height="{self.height - TOP}" fill="#e8b023" fill-opacity=".17"/>'
            )

    def grid_shapes(self) -> Iterator[str]:
        """Bar lines, as many bar numbers as there is room for, and a line below every C."""
        first, last = window(self.region)
        every = -(-LABEL_PIXELS * (last - first) // (self.width - LEFT))
        text = 'font-size="9" fill="currentColor" fill-opacity=".65"'
        line = 'stroke="currentColor" stroke-width=".7" stroke-opacity'
        for bar in range(first, last + 1):
            at = self.x(self.score.bar(bar).start_ticks)
            yield f'<path d="M{at:.1f} {TOP}V{self.height}" {line}=".2"/>'
            if bar < last and (bar - first) % every == 0:
                yield f'<text x="{at + 2:.1f}" y="{TOP - 4}" {text}>{bar + self.score.first_bar_number}</text>'
        for pitch in range(-(-self.low // 12) * 12, self.high + 1, 12):
            at = self.y(pitch) + self.row
            yield f'<path d="M{LEFT} {at:.1f}H{self.width}" {line}=".12"/>'
            yield f'<text x="{LEFT - 4}" y="{at:.1f}" text-anchor="end" {text}>{pitch_name(pitch)}</text>'

    def note_shapes(self) -> Iterator[str]:
        """The notes, grouped by appearance, so that a page of many rolls stays small."""
        groups: dict[str, list[str]] = {}
        for t, note in visible_notes(self.score, self.region):
            bar = self.score.bar_of(t, note.onset_ticks)
            look = 'fill="currentColor" fill-opacity=".22"'
            if t in self.region.tracks:
                inside = (t, bar) in self.region.cells
                look = f'fill="{_colour(self.region, t)}" '
                look += 'stroke="currentColor" stroke-width=".5"' if inside else 'fill-opacity=".6"'
            groups.setdefault(look, []).append(self.note_shape(t, note, bar + self.score.first_bar_number))
        for look, notes in groups.items():
            yield f"<g {look}>\n" + "\n".join(notes) + "\n</g>"

    def note_shape(self, t: int, note: Note, bar_number: int) -> str:
        begin, thick = self.x(note.onset_ticks), max(self.row, THINNEST)
        middle = self.y(note.pitch) + self.row / 2
        if self.score.tracks[t].is_drum:
            r = min(thick * 0.8, 4.5)
            name, tag = f"drum {note.pitch}", "path"
            place = f'd="M{begin - r:.1f} {middle:.1f}l{r:.1f} {-r:.1f} {r:.1f} {r:.1f} {-r:.1f} {r:.1f}z"'
        else:
            length = max(self.x(note.onset_ticks + note.duration_ticks) - begin - 0.4, 1)  # repeated notes stay apart
            name, tag = pitch_name(note.pitch), "rect"
            place = f'x="{begin:.1f}" y="{middle - thick / 2:.1f}" width="{length:.1f}" height="{thick:.1f}"'
        return f'<{tag} class="note" {place}><title>{name}, bar {bar_number}, track {t + 1}</title></{tag}>'


def markdown_tables_to_html(text: str) -> str:
    """Converts the Markdown of our reports to HTML: headings, paragraphs, tables, lists, `code`, **bold**.

    A table consists of lines that begin with a bar, of which the second has dashes (`---:` right, `:---:` centred); a
    bar inside a cell is written `\\|`. List items begin with `- `, and the lines that follow belong to the item.
    Everything is escaped: no HTML passes through, and links stay text.
    """
    blocks: list[tuple[str, list[str]]] = []  # kind and lines
    for line in text.splitlines():
        kind = next((k for k, pattern in MARKDOWN_LINES if re.match(pattern, line)), "p")
        before = blocks[-1][0] if blocks else ""
        if kind == "p" and before == "ul":
            blocks[-1][1][-1] += " " + line.strip()
        elif kind == before and kind != "h":
            blocks[-1][1].append(line)
        else:
            blocks.append((kind, [line]))
    return "\n".join(_block(kind, lines) for kind, lines in blocks if kind)


def _block(kind: str, lines: list[str]) -> str:
    if kind == "h":
        marks, text = lines[0].split(" ", 1)
        return f"<h{len(marks)}>{_inline(text)}</h{len(marks)}>"
    if kind == "ul":
        return "<ul>" + "".join(f"<li>{_inline(line[2:])}</li>" for line in lines) + "</ul>"
    if kind == "p":
        return f"<p>{_inline(' '.join(line.strip() for line in lines))}</p>"
    rows = [re.split(r"(?<!\\)\|", line.strip().removeprefix("|").removesuffix("|")) for line in lines]
    rows = [[cell.strip().replace(r"\|", "|") for cell in row] for row in rows]
    sides = [""] * max(map(len, rows))
    headed = len(rows) > 1 and all(re.fullmatch(":?-+:?", cell) for cell in rows[1])
    if headed:
        sides = [_side(cell) for cell in rows.pop(1)]
    html = []
    for i, row in enumerate(rows):
        tag = "th" if headed and i == 0 else "td"
        cells = [f"<{tag}{side}>{_inline(cell)}</{tag}>" for cell, side in zip(row, sides, strict=False)]
        html.append(f"<tr>{''.join(cells)}</tr>\n")
    return f'<div class="scroll"><table>\n{"".join(html)}</table></div>'


def _side(dashes: str) -> str:
    """A cell's attribute from its column's `---`, `---:` or `:---:`."""
    if not dashes.endswith(":"):
        return ""
    return ' class="center"' if dashes.startswith(":") else ' class="right"'


def _inline(text: str) -> str:
    return _marked(escape(text))


def _marked(text: str) -> str:
    return re.sub(
        r"`([^`]+)`|\*\*(.+?)\*\*",
        lambda m: f"<code>{m[1]}</code>" if m[1] else f"<strong>{_marked(m[2])}</strong>",
        text,
    )
