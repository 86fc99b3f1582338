"""How fills compare with the originals as music: what a musician notices, feel, and a judge that knows no model.

All of it is told from the notes in the records, so that it can be told again without filling again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from midi_rwkv.score.score import Note, Score

from . import feel as feel_module
from . import music
from .cases import PLAYED, Case, Songs
from .features import features
from .judge import Features, Pair, judge
from .tables import markdown_table

ASKED = {
    "unknown": ("song", "all"),
    "rewrite": ("rewrite", "rewrite-all"),
}
ASKED_TITLES = {
    "unknown": "As the evaluation has it (what stood there is unknown)",
    "rewrite": "As a composer meets it (bars that sound, what stood there refused)",
}
Records = Mapping[str, Mapping[str, Any]]  # case id -> record


@dataclass(frozen=True)
class _Told:
    """What is told of one case's fill or original."""

    counts: Mapping[str, music.Count]
    features: Features


def summarise_musical(
    cases: Sequence[Case], records: Mapping[str, Records], songs: Songs, *, systems: Iterable[str], seed: int
) -> dict[str, Any]:
    """By system: `music` and `judge` by the way of asking (`ASKED`), and `feel`; what has no cases is left out."""
    originals: dict[str, _Told] = {}
    return {name: _summarise(cases, records[name], songs, originals, seed) for name in systems}


def _summarise(
    cases: Sequence[Case], records: Records, songs: Songs, originals: dict[str, _Told], seed: int
) -> dict[str, Any]:
    out: dict[str, Any] = {"music": {}, "judge": {}}
    every: list[Pair] = []
    for asked, settings in ASKED.items():
        own = [c for c in cases if c.setting in settings and records[c.id]["notes"] is not None]
        told = _tell(own, records, songs, originals)
        if not own:
            continue
        counts = [(told[c.id].counts, originals[_place(c)].counts) for c in own]
        out["music"][asked] = {"cases": len(own), "measures": {}}
        for name in music.MEASURES:
            compared = music.compare_counts([f[name] for f, _ in counts], [o[name] for _, o in counts], seed)
            if compared is not None:
                out["music"][asked]["measures"][name] = compared
        pairs = [
            Pair(c.file, told[c.id].features, originals[_place(c)].features)
            for c in own
            if _written(records[c.id]) and records[c.id]["original_notes"]
        ]
        every += pairs
        out["judge"][asked] = judge(pairs, seed)
    if len(out["judge"]) > 1:
        out["judge"]["both"] = judge(every, seed)
    out["judge"] = {asked: verdict for asked, verdict in out["judge"].items() if verdict is not None}
    played = _feel([c for c in cases if c.setting == PLAYED and records[c.id]["notes"] is not None], records, songs)
    return out | ({"feel": played} if played else {})


def _place(case: Case) -> str:
    """What the original of a case is told by, in all settings that share the case."""
    return f"{case.file} {case.tracks} {case.first} {case.n_bars}"


def _written(record: Mapping[str, Any]) -> dict[int, list[Note]]:
    notes = {int(t): [Note(*n) for n in own] for t, own in record["notes"].items()}
    return notes if any(notes.values()) else {}


def _tell(cases: Sequence[Case], records: Records, songs: Songs, originals: dict[str, _Told]) -> dict[str, _Told]:
    """Of the cases' fills by case; adds what is missing of the originals."""
    told: dict[str, _Told] = {}
    for case in sorted(cases, key=lambda c: c.file):
        score = songs.read(case.file)
        chords = music.harmonies(case, score)

        def tell(notes: music.Notes, case: Case = case, score: Score = score, chords: Any = chords) -> _Told:
            return _Told(music.count_music(case, score, notes, chords), features(case, score, notes, chords))

        told[case.id] = tell(_written(records[case.id]) or {t: [] for t in case.tracks})
        if _place(case) not in originals:
            originals[_place(case)] = tell(case.original(score))
    return told


def _feel(cases: Sequence[Case], records: Records, songs: Songs) -> dict[str, Any] | None:
    """Of the fills and of the originals: each track's measures, and over all tracks that have enough notes the ratio of
    the mean distances, which one track with hardly any spread can't rule, and the means of the rest."""
    rows: list[dict[str, Any]] = []
    for case in sorted(cases, key=lambda c: c.file):
        score = songs.read(case.file)
        fill = feel_module.feel(case, score, _written(records[case.id]) or {t: [] for t in case.tracks})
        original = feel_module.feel(case, score, case.original(score))
        if fill is not None and original is not None:
            rows.append({"case": case.id, "file": case.file, "fill": _digits(fill), "original": _digits(original)})
    if not rows:
        return None
    return {"tracks": len(rows), "fill": _means(rows, "fill"), "original": _means(rows, "original"), "rows": rows}


def _means(rows: Sequence[Mapping[str, Any]], who: str) -> dict[str, float]:
    values = {m: [r[who][m] for r in rows if r[who][m] is not None] for m in feel_module.MEASURES}
    means = {m: float(np.mean(v)) if v else 0.0 for m, v in values.items()}
    for m in ("timing", "velocity"):
        means[m] = means[f"{m}_distance"] / means[f"{m}_halves"] if means[f"{m}_halves"] else 0.0
    return {m: round(v, 5) for m, v in means.items()}


def _digits(values: Mapping[str, float]) -> dict[str, float | None]:
    return {k: None if np.isnan(v) else round(float(v), 6) for k, v in values.items()}


def musical_markdown(musical: Mapping[str, Mapping[str, Any]]) -> str:
    """Tables of `summarise_musical`."""
    parts: list[str] = []
    for system, of in musical.items():
        for asked, found in of["music"].items():
            rows = [["measure", "cases", "fills", "originals", "difference [95 %]"]]
            for name, v in found["measures"].items():
                apart = f"{v['difference']:+.3f} [{v['low']:+.3f}, {v['high']:+.3f}]"
                rows.append(
                    [music.MEASURES[name], str(v["cases"]), f"{v['fills']:.3f}", f"{v['originals']:.3f}", apart]
                )
            parts += [f"### {system}, music. {ASKED_TITLES[asked]}: {found['cases']} cases\n", markdown_table(rows)]
        if "feel" in of:
            rows = [["feel", "fills", "originals"]]
            rows += [
                [title, f"{of['feel']['fill'][m]:.3f}", f"{of['feel']['original'][m]:.3f}"]
                for m, title in feel_module.MEASURES.items()
            ]
            parts += [f"### {system}, feel: {of['feel']['tracks']} tracks off the grid\n", markdown_table(rows)]
        for asked, verdict in of["judge"].items():
            parts += [f"### {system}, told from originals by a judge: {asked}\n", _verdict(verdict)]
    return "\n".join(parts)


def _verdict(verdict: Mapping[str, Any]) -> str:
    rows = [["what tells", "AUC lost without it", "alone", "fills", "originals"]]
    for f in verdict["features"]:
        values = ["" if f[k] is None else f"{f[k]:.3f}" for k in ("importance", "alone", "fills", "originals")]
        rows.append([f["name"], *values])
    auc = f"AUC {verdict['auc']:.3f} [{verdict['low']:.3f}, {verdict['high']:.3f}]"
    return f"{auc} on {verdict['fills']} fills of {verdict['songs']} songs.\n\n{markdown_table(rows)}"
