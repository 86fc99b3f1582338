"""Whose a style is, and how far it may be turned: every style on every style's fills, along paths, and on other music.

What is tuned is measured, without the memory. Figures are changes in nats a note against the base, over the fills of
all settings in which little of a song is shown.
"""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .style_fills import MeasuredFill, frozen_model, read_fills, style_names, test_fills
from .tables import markdown

VALID_FILLS = 8  # per source
STRENGTHS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


def grid(title: str, heads: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table under a title."""
    return f"\n{title}\n\n{markdown(['', *map(str, heads)], rows)}\n"


def more(folder: Path, out: Path, valid: Path, count: int, per_setting: int) -> str:
    """Every style on every style's fills, along the path from the base and between styles, and on `valid`."""
    from midi_rwkv.model.checkpoint import load_checkpoint
    from midi_rwkv.style.adapter import Adapter, mean_of
    from midi_rwkv.style.style import load_style
    from midi_rwkv.style.tuning import fills_nats

    checkpoint, model, styles = load_checkpoint(), frozen_model(), style_names(folder)
    states: dict[str, list[Adapter]] = {}
    for style in styles:
        paths_of = sorted((out / "styles").glob(f"{style}-{count}-*.safetensors"))
        states[style] = [Adapter.of(load_style(p, checkpoint)) for p in paths_of]

    def losses(fills: Sequence[Any], *chosen: Any) -> list[str]:
        """Against the base, one for each state; a list of states: their mean."""
        plain, notes = fills_nats(model, fills).sum(), sum(f.notes for f in fills)
        sums = [
            np.mean([fills_nats(model, fills, s).sum() for s in (c if isinstance(c, list) else [c])]) for c in chosen
        ]
        return [f"{(x - plain) / notes:+.4f}" for x in sums]

    columns, paths, between = [], [], []
    for k, style in enumerate(styles):
        fills, own = little_shown(test_fills(folder, style, per_setting, 0)), states[style][0]
        other = styles[(k + 1) % len(styles)]
        columns.append(losses(fills, *(states[s] for s in styles)))
        paths.append([style, *losses(fills, *(own.scaled(w) for w in STRENGTHS))])
        mixed = [mean_of([own.scaled(2 * (1 - w)), states[other][0].scaled(2 * w)]) for w in SHARES]
        between.append([f"{style} to {other}", *losses(fills, *mixed)])
        print(style, flush=True)
    fills, plain = valid_fills(valid)
    seeds = f"mean of {len(states[styles[0]])} seeds"
    return "".join(
        [
            grid(
                f"nats a note against the base: the row's style ({count} pieces, {seeds}) on the column's test fills",
                styles,
                [[s, *row] for s, row in zip(styles, zip(*columns, strict=True), strict=True)],
            ),
            grid("the style at strengths", STRENGTHS, paths),
            grid(
                "one style mixed with the next, by the second's share, on the first one's test fills", SHARES, between
            ),
            grid(f"on {plain}", ["against the base"], [[s, *losses(fills, states[s])] for s in styles]),
        ]
    )


def little_shown(fills: Sequence[MeasuredFill]) -> list[Any]:
    """Those in a setting in which little of the song is shown, as they were read."""
    from midi_rwkv.style.settings import LITTLE_SHOWN

    return [f.read for f in fills if f.setting in LITTLE_SHOWN]


def valid_fills(valid: Path) -> tuple[list[Any], str]:
    """Fills of every source's first pieces, and what to call them."""
    from midi_rwkv.style.pieces import read_pieces

    sources: dict[str, list[Path]] = {}
    fills: list[MeasuredFill] = []
    with zipfile.ZipFile(valid) as archive, tempfile.TemporaryDirectory() as temporary:
        archive.extractall(temporary)
        for path in sorted(Path(temporary).rglob("*.mid")):
            sources.setdefault(path.parent.name, []).append(path)
        for paths in sources.values():
            fills += read_fills(read_pieces(paths[:VALID_FILLS])[0], VALID_FILLS)
    chosen = little_shown(fills)
    return chosen, f"{len(chosen)} fills of {len(sources)} sources of {valid.name}"
