"""Whose is it, and is it a quote? What a style makes of fills, on folders STYLE/tune and STYLE/test of MIDI files.

    python scripts/measure_styles.py styles.zip valid.zip OUT                        # the base only
    python scripts/measure_styles.py styles.zip valid.zip OUT --styles-folder MADE   # MADE/STYLE.safetensors or /STYLE
    python scripts/measure_styles.py styles.zip valid.zip OUT --table                # OUT/table.md of what is there

Fills of places in the composer's test pieces, in four settings (script_helpers/style_places.py), without a style and
with it at two strengths, with the same seeds. Two things are told of them:

- A classifier that never saw the model (script_helpers/whose.py) says how much like the composer's they are, beside the
  composer's own bars in the same places.
- Runs of twelve notes and more that stand in the composer's tuning pieces, in any key (fill/fingerprint.py).

OUT/fills.jsonl and OUT/windows keep what was done, and nothing is done twice.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from script_helpers.style_places import MOST_TRACKS, SETTINGS, Place, places
from script_helpers.whose import Window, windows
from script_helpers.whose_tables import Measured, measure, report

from midi_rwkv import Infiller, Note, RequestError, load_checkpoint
from midi_rwkv.evaluation.cases import Songs
from midi_rwkv.evaluation.music import Notes
from midi_rwkv.files import whole_file
from midi_rwkv.style.style import SUFFIX, find_style

STRENGTHS = (0.5, 1.0)


def cases(style: str, setting: str, styles: Songs, count: int) -> list[Place]:
    """Places in the test pieces, which take turns."""
    own = [name for name in sorted(styles.data) if name.startswith(f"{style}/test/")]
    scores = {name: styles.read(name) for name in own}
    each = [places(s, name, setting, count) for name, s in scores.items() if len(s.tracks) <= MOST_TRACKS]
    turns = [found[k] for k in range(count) for found in each if k < len(found)]
    return turns[:count]


def style_of(folder: Path | None, style: str) -> str | None:
    """The path of a style's file, or folder; None where there is none."""
    for name in (f"{style}{SUFFIX}", style):
        if folder and (folder / name).exists():
            return str(folder / name)
    return None


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def read_windows(path: Path) -> list[Window]:
    return [Window(**line) for line in read_lines(path)]


def tell(style: str, styles: Songs, valid: Songs, out: Path) -> None:
    """Writes what the classifiers of a style learn from."""
    path = out / "windows" / f"{style}.jsonl"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        found = [json.dumps(asdict(w)) + "\n" for w in windows(style, styles, valid)]
        with whole_file(path) as partial:
            partial.write_text("".join(found), encoding="utf-8")
        print(f"{style}: {len(found)} places to learn from and to test on", flush=True)


def fill(style: str, styles: Songs, options: argparse.Namespace) -> None:
    """Writes the fills of a style that are not there yet."""
    path = options.out / "fills.jsonl"
    known = {line["key"] for line in read_lines(path)}
    checkpoint = load_checkpoint(options.checkpoint)
    infiller = Infiller(checkpoint)
    made = style_of(options.styles_folder, style)
    asked = {setting: cases(style, setting, styles, options.cases) for setting in SETTINGS}
    for strength in (0.0, *(STRENGTHS if made else ())):
        infiller.style = (find_style(made, checkpoint, strength) if strength else None) or infiller.style
        began, done = time.monotonic(), 0
        with path.open("a", encoding="utf-8") as file:
            for number, setting, place in ((n, s, p) for s, found in asked.items() for n, p in enumerate(found)):
                key = f"{style}/{setting}/{number}/{strength:g}"
                if key in known:
                    continue
                notes = {str(t): [list(n) for n in own] for t, own in place.fill(infiller).items()}
                record = {"key": key, "style": style, "setting": setting, "number": number, "strength": strength}
                file.write(json.dumps({**record, "file": place.case.file, "notes": notes}) + "\n")
                file.flush()
                done += 1
        print(f"{style} at {strength:g}: {done} fills, {time.monotonic() - began:.0f} s", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("styles", type=Path, help="a folder or zip of STYLE/tune, STYLE/test")
    parser.add_argument("valid", type=Path, help="a folder or zip of other people's pieces, SOURCE/*.mid")
    parser.add_argument("out", type=Path)
    parser.add_argument("--styles-folder", type=Path, metavar="DIR", help="holds the style files, by name")
    parser.add_argument("--checkpoint", metavar="DIR", help="the model (default: the one that ships)")
    parser.add_argument("--only", help="only these styles, with commas")
    parser.add_argument("--cases", type=int, default=24, help="places of each style in each setting (default: 24)")
    parser.add_argument("--table", action="store_true", help="only write OUT/table.md")
    options = parser.parse_args(argv)
    styles, valid = Songs(options.styles), Songs(options.valid)
    names = sorted({name.split("/")[0] for name in styles.data if name.count("/") == 2})
    chosen = options.only.split(",") if options.only else names
    if unknown := sorted(set(chosen) - set(names)):
        raise RequestError(f"{options.styles} has no style {', '.join(unknown)}; there are {', '.join(names)}")
    options.out.mkdir(parents=True, exist_ok=True)
    for style in () if options.table else chosen:
        tell(style, styles, valid, options.out)
    for style in () if options.table else chosen:
        fill(style, styles, options)
    measured = [m for style in chosen for m in measured_of(style, styles, options)]
    if not measured:
        raise RequestError(f"{options.out} holds no fills yet; leave --table out")
    with whole_file(options.out / "table.md", overwrite=True) as partial:
        partial.write_text(report(measured), encoding="utf-8")
    return 0


def measured_of(style: str, styles: Songs, options: argparse.Namespace) -> Iterator[Measured]:
    """What the fills of a style that are there came to."""
    fills: dict[tuple[str, int, float | str], Notes] = {}
    for line in read_lines(options.out / "fills.jsonl"):
        if line["style"] == style:
            notes = {int(t): [Note(*n) for n in own] for t, own in line["notes"].items()}
            fills[line["setting"], line["number"], line["strength"]] = notes
    if fills:
        tune = [styles.read(name) for name in sorted(styles.data) if name.startswith(f"{style}/tune/")]
        found = {setting: cases(style, setting, styles, options.cases) for setting in SETTINGS}
        yield from measure(style, tune, read_windows(options.out / "windows" / f"{style}.jsonl"), found, fills)


if __name__ == "__main__":
    sys.exit(main())
