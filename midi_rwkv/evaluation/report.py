"""Turns records into a report: means with bootstrap intervals, paired tests, Markdown tables, and a page."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from midi_rwkv.files import whole_file
from midi_rwkv.score.instruments import program_name
from midi_rwkv.score.score import Note, Region, Score

from .cases import Case, Songs
from .metrics import METRICS, Metric
from .musical import musical_markdown
from .systems import ORIGINAL
from .tables import markdown_table

if TYPE_CHECKING:
    from .report_html import ComparedCase

Records = Mapping[str, Mapping[str, Mapping[str, Any]]]  # system -> case id -> record
Costs = Mapping[str, Mapping[str, Any]]  # system -> see `measure_cost`
RESAMPLES = 1000
FEWEST_PAIRS = 6  # with fewer, a Wilcoxon test cannot reach p < 0.05
ALL_METRICS: dict[str, Metric] = {
    "nats_per_note": Metric(
        "Nats per note", "lower", "nats", "Nats that the original's notes cost, per note; each cell's end is included."
    ),
    **METRICS,
    "notes_in_silence": Metric("Notes in silence", "lower", "notes/bar", "Notes written where the original has none."),
    "met_density": Metric("Density met", "higher", "0-1", "Share of bars with as many notes as asked for."),
    "met_polyphony": Metric("Polyphony met", "higher", "0-1", "Share of onsets with as many notes as asked for."),
    "met_pitch_range": Metric("Range met", "higher", "0-1", "Share of notes within the range asked for."),
    "met_key": Metric("Key met", "higher", "0-1", "Share of notes of the pitch classes asked for."),
}
HEADLINE = (
    "nats_per_note",
    "onset_f1",
    "onset_pattern_f1",
    "content_preservation",
    "groove_to_original",
    "pitch_overlap",
    "density_error",
)
SETTING_TITLES = {
    "song": "One pitched track, the whole song as context",
    "near": "The same cases, 4 N bars of context on either side",
    "continuation": "The same cases, only what stands before them as context (a continuation)",
    "controls": "The same cases, the original's density, polyphony, range and pitch classes asked for",
    "drums": "One drum track, the whole song as context",
    "all": "Every track of the bars, the whole song as context",
    "rewrite": "One pitched track whose bars sound, what stands there refused",
    "rewrite-all": "Every track of bars that sound, what stands there refused",
    "played": "One track off the grid, as a person plays, the whole song as context",
}


def summarise(cases: Sequence[Case], records: Records, main: str, seed: int) -> dict[str, Any]:
    """The groups of one setting and number of bars each.

    A group has `systems` (mean, 95 % interval and count of each metric), `tests` of `main` against each other system,
    and `by_source` (nats per note, as the ratio of sums).
    """
    groups = []
    for setting, n_bars in dict.fromkeys((c.setting, c.n_bars) for c in cases):
        own = [c for c in cases if (c.setting, c.n_bars) == (setting, n_bars)]
        tables = {name: _table(own, of) for name, of in records.items()}
        silent = sum(not records[main][c.id]["original_notes"] for c in own)
        groups.append(
            {
                "setting": setting,
                "bars": n_bars,
                "cases": len(own),
                "files": len({c.file for c in own}),
                "silent_cases": silent,
                "systems": {name: _intervals(table, seed) for name, table in tables.items()},
                "tests": _tests(tables, main),
                "by_source": _by_source(own, records),
            }
        )
    return {"main": main, "groups": groups}


def _table(cases: Sequence[Case], records: Mapping[str, Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Metric -> its value in each case, nan if not defined. Metrics that are never defined are left out."""
    table = {}
    for name in ALL_METRICS:
        values = [records[c.id]["metrics"].get(name) for c in cases]
        if any(v is not None for v in values):
            table[name] = np.array([np.nan if v is None else v for v in values])
    return table


def _intervals(table: Mapping[str, np.ndarray], seed: int) -> dict[str, dict[str, float]]:
    from scipy.stats import bootstrap

    if not table:
        return {}
    matrix = np.stack(list(table.values()))
    means, counts = np.nanmean(matrix, 1), (~np.isnan(matrix)).sum(1)
    low = high = means
    if matrix.shape[1] > 1:
        with warnings.catch_warnings():  # a resample may contain none of the few cases in which a metric is defined
            warnings.simplefilter("ignore", RuntimeWarning)
            result = bootstrap(
                (matrix,),
                lambda x, axis: np.nanmean(x, axis),
                n_resamples=RESAMPLES,
                vectorized=True,
                axis=1,
                method="percentile",
                rng=np.random.default_rng(seed),
            )
            sample = result.bootstrap_distribution
            low, high = np.nanquantile(sample, 0.025, axis=-1), np.nanquantile(sample, 0.975, axis=-1)
    return {
        name: {"mean": _digits(m), "low": _digits(a), "high": _digits(b), "n": int(n)}
        for name, m, a, b, n in zip(table, means, low, high, counts, strict=True)
    }


def _digits(value: float) -> float:
    return round(float(value), 5)


def _tests(tables: Mapping[str, Mapping[str, np.ndarray]], main: str) -> dict[str, dict[str, dict[str, float]]]:
    """Wilcoxon's signed-rank test of main against each other system on the cases both have, headline metrics only.

    `effect` is the matched-pairs rank-biserial correlation, -1 to 1, above 0 if main is better. `q` is p adjusted for
    all of these tests (Benjamini and Hochberg).
    """
    from scipy.stats import false_discovery_control, rankdata, wilcoxon

    tests: dict[str, dict[str, dict[str, float]]] = {}
    for other, table in tables.items():
        for name in HEADLINE:
            if other in (main, ORIGINAL) or name not in table or name not in tables[main]:
                continue
            d = tables[main][name] - table[name]
            d = d[~np.isnan(d)]
            moved = d[d != 0]
            if len(moved) < FEWEST_PAIRS:
                continue
            ranks = rankdata(np.abs(moved))
            sign = 1 if ALL_METRICS[name].better == "higher" else -1
            tests.setdefault(other, {})[name] = {
                "difference": _digits(d.mean()),
                "effect": _digits(sign * float((ranks * np.sign(moved)).sum() / ranks.sum())),
                "p": float(f"{wilcoxon(moved).pvalue:.3g}"),
                "n": len(d),
            }
    found = [test for of in tests.values() for test in of.values()]
    if found:
        for test, q in zip(found, false_discovery_control([t["p"] for t in found]), strict=True):
            test["q"] = float(f"{q:.3g}")
    return tests


def _by_source(cases: Sequence[Case], records: Records) -> dict[str, dict[str, float]]:
    out: dict[str, dict[str, float]] = {}
    for source in sorted({c.source for c in cases}):
        for system, of in records.items():
            rows = [of[c.id] for c in cases if c.source == source]
            pairs = [(r["metrics"].get("nats_per_note"), r["original_notes"]) for r in rows]
            pairs = [(nats, notes) for nats, notes in pairs if nats is not None]
            if pairs:
                total = sum(nats * notes for nats, notes in pairs)
                out.setdefault(source, {})[system] = _digits(total / sum(notes for _, notes in pairs))
    return out


@dataclass(frozen=True)
class Results:
    """The results of an evaluation."""

    cases: Sequence[Case]
    records: Records
    report: Mapping[str, Any]  # the summary of the records (`summarise`), and the protocol
    costs: Costs
    models: Sequence[str]  # the systems that are no copies, nor the original


def write_report(out: Path, results: Results, songs: Songs, *, html: bool, audio: bool) -> None:
    """Write report.md and, with html, report.html (with audio, WAV files beside it)."""
    with whole_file(out / "report.md") as partial:
        partial.write_text(markdown(results.report, results.costs), encoding="utf-8")
    if html:
        from midi_rwkv.sound.soundfont import find_soundfont

        from .report_html import markdown_tables_to_html, write_html

        shown = [_compared(case, heading, results, songs) for case, heading in _chosen(results)]
        soundfont = find_soundfont() if audio and shown else None
        intro = markdown_tables_to_html(markdown(results.report, results.costs, brief=True))
        write_html(out, "Evaluation of fills", intro, shown, audio=results.models, soundfont=soundfont)


def markdown(report: Mapping[str, Any], costs: Costs, *, brief: bool = False) -> str:
    """All tables, with 95 % intervals by bootstrap over cases. `brief`: only the headline metrics, without title."""
    protocol = report["protocol"]
    parts = [] if brief else ["# Evaluation\n"]
    parts.append(
        f"{protocol['files']}; seed {protocol['seed']}; evaluated: **{report['main']}**. Means over cases with 95 % "
        'bootstrap intervals. "original" is the original against itself: the ceiling.\n'
    )
    if protocol["unused"]:
        reasons = "; ".join(f"{count} {why}" for why, count in protocol["unused"].items())
        parts.append(f"Files that were tried and gave no case: {reasons}.\n")
    if not brief:
        parts.append(
            "Tests: the evaluated system minus the other, r = rank-biserial correlation (above 0: the evaluated is "
            "better), q = Wilcoxon's p adjusted for all tests of the table; **better** or **worse** where q < 0.05.\n"
        )
    for group in report["groups"]:
        parts += [
            f"## {SETTING_TITLES[group['setting']]}: N = {group['bars']}\n",
            f"{group['cases']} cases from {group['files']} files; in {group['silent_cases']} the original is silent "
            "(no metric but the notes written there).\n",
            _metric_table(group["systems"], HEADLINE, intervals=True),
        ]
        if not brief:
            others = [m for m in ALL_METRICS if m not in HEADLINE]
            parts.append(_metric_table(group["systems"], others, intervals=False))
        if group["tests"] and not brief:
            parts.append(_test_table(group["tests"]))
    parts += ["## Nats per note by source (one pitched track, the whole song)\n", _source_table(report["groups"])]
    if costs:
        parts += ["## Cost of a fill\n", cost_table(costs)]
    if not brief:
        parts += ["## Beside the originals, as music\n", musical_markdown(report.get("musical", {}))]
        rows = [f"- **{m.title}** ({m.unit}, best: {m.better}): {m.definition}" for m in ALL_METRICS.values()]
        parts += ["## What the columns mean\n", *rows]
    return "\n".join(parts) + "\n"


def _metric_table(systems: Mapping[str, Mapping[str, Any]], names: Sequence[str], *, intervals: bool) -> str:
    names = [n for n in names if any(n in of for of in systems.values())]
    if not names:
        return ""
    rows = [["system", *(ALL_METRICS[n].title for n in names)]]
    for system, of in systems.items():
        cells = []
        for n in names:
            v = of.get(n)
            span = f" [{v['low']:.3f}, {v['high']:.3f}]" if v and intervals else ""
            cells.append(f"{v['mean']:.3f}{span}" if v else "")
        if any(cells):
            rows.append([system, *cells])
    return markdown_table(rows)


def _test_table(tests: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    names = [n for n in HEADLINE if any(n in of for of in tests.values())]
    rows = [["against", *(ALL_METRICS[n].title for n in names)]]
    for other, of in tests.items():
        cells = []
        for n in names:
            if n not in of:
                cells.append("")
                continue
            t = of[n]
            verdict = "" if t["q"] >= 0.05 else " **better**" if t["effect"] > 0 else " **worse**"
            cells.append(f"{t['difference']:+.3f} (r {t['effect']:+.2f}, q {t['q']:.1g}){verdict}")
        rows.append([other, *cells])
    return markdown_table(rows)


def _source_table(groups: Sequence[Mapping[str, Any]]) -> str:
    """The mean over N of each source's nats per note in the setting "song"."""
    own = [g for g in groups if g["setting"] == "song"] or list(groups)
    systems = list(dict.fromkeys(s for g in own for of in g["by_source"].values() for s in of))
    sources = sorted({source for g in own for source in g["by_source"]})
    if not systems:
        return ""
    values = np.array(
        [
            [np.mean([g["by_source"][o][s] for g in own if s in g["by_source"].get(o, {})]) for s in systems]
            for o in sources
        ]
    )
    rows = [["source", *systems]]
    rows += [[o, *(f"{v:.3f}" for v in row)] for o, row in zip(sources, values, strict=True)]
    return markdown_table([*rows, ["mean over sources", *(f"{v:.3f}" for v in values.mean(0))]])


def cost_table(costs: Costs) -> str:
    """The cost of a fill with one candidate on one thread, with each system alone in its process."""
    rows = [["system", "fills", "median s", "95 % s", "steps read a second", "steps written a second", "peak MiB"]]
    for system, c in costs.items():
        speeds = [f"{c[k]:,.0f}" if k in c else "" for k in ("read_steps_per_second", "written_steps_per_second")]
        seconds = [f"{c['median_seconds']:.2f}", f"{c['p95_seconds']:.2f}"]
        rows.append([system, str(c["fills"]), *seconds, *speeds, f"{c['peak_mib']:,}"])
    return markdown_table(rows)


def _chosen(results: Results) -> list[tuple[Case, str]]:
    """Best, median and worst case by onset F1 of each group of one pitched track, and the median of drums and all."""
    of = results.records[results.report["main"]]
    out = []
    for group in results.report["groups"]:
        own = [c for c in results.cases if (c.setting, c.n_bars) == (group["setting"], group["bars"])]
        scored = [
            (of[c.id]["metrics"]["onset_f1"], c.id, c) for c in own if of[c.id]["metrics"].get("onset_f1") is not None
        ]
        scored.sort(key=lambda row: row[:2])
        if not scored or group["setting"] not in ("song", "drums", "all"):
            continue
        places = [("median", len(scored) // 2)]
        if group["setting"] == "song":
            places = [("best", len(scored) - 1), *places, ("worst", 0)]
        title = {"song": "one track", "drums": "drums", "all": "all tracks"}[group["setting"]]
        out += [(scored[i][2], f"{title}, {group['bars']} bars: {rank} by onset F1") for rank, i in places]
    return out


def _compared(case: Case, heading: str, results: Results, songs: Songs) -> ComparedCase:
    from .report_html import ComparedCase

    score = songs.read(case.file)
    fills: dict[str, Score] = {}
    lines: dict[str, str] = {}
    for system, of in results.records.items():
        record = of[case.id]
        if system == ORIGINAL or record["notes"] is None:
            continue
        filled = score
        for t, notes in record["notes"].items():
            cells = Region.rectangle([int(t)], [(case.first, case.last)])
            filled = filled.with_fill(cells, {int(t): [Note(*n) for n in notes]})
        fills[system] = filled
        m = record["metrics"]
        figures = [("F1", "onset_f1"), ("content", "content_preservation"), ("nats per note", "nats_per_note")]
        shown = [f"{label} {m[name]:.2f}" for label, name in figures if m.get(name) is not None]
        lines[system] = ", ".join([*shown, f"{sum(map(len, record['notes'].values()))} notes"])
    tracks = [score.tracks[t] for t in case.tracks]
    names = ", ".join(t.name or program_name(t.program, is_drum=t.is_drum) for t in tracks)
    bars = f"bars {case.first + score.first_bar_number}-{case.last - 1 + score.first_bar_number}"
    count = results.records[results.report["main"]][case.id]["original_notes"]
    return ComparedCase(heading, f"{case.file}, {bars}, {names}", score, case.region, fills, lines, f"{count} notes")
