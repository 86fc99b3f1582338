"""The statistics of the report: means, intervals, paired tests, by hand."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from midi_rwkv.evaluation.cases import Case
from midi_rwkv.evaluation.report import HEADLINE, Records, markdown, summarise
from midi_rwkv.evaluation.systems import ORIGINAL


def made_up(
    columns: Mapping[str, Mapping[str, Sequence[float | None]]], notes: list[int] | None = None
) -> tuple[list[Case], Records]:
    """Cases and records from metrics by system: {"a": {"onset_f1": [...]}}."""
    size = len(next(iter(next(iter(columns.values())).values())))
    cases = [Case("song", i, f"{'ab'[i % 2]}/{i}.mid", (0,), 4, 2) for i in range(size)]
    counts = notes or [8] * size
    records = {
        system: {
            c.id: {"original_notes": counts[i], "metrics": {name: values[i] for name, values in of.items()}}
            for i, c in enumerate(cases)
        }
        for system, of in columns.items()
    }
    return cases, records


def test_means_and_intervals():
    values = [0.1, 0.5, None, 0.9, 0.3, 0.2, None, 0.6]
    cases, records = made_up({"a": {"onset_f1": values, "pitch_overlap": [None] * 8}, "b": {"onset_f1": [0.25] * 8}})
    [group] = summarise(cases, records, "a", 0)["groups"]
    of = group["systems"]["a"]
    assert list(of) == ["onset_f1"]  # a metric that is nowhere defined is left out
    assert of["onset_f1"]["mean"] == pytest.approx(2.6 / 6, abs=1e-5)
    assert of["onset_f1"]["n"] == 6
    assert of["onset_f1"]["low"] < of["onset_f1"]["mean"] < of["onset_f1"]["high"]
    assert of["onset_f1"]["low"] >= 0.1
    assert of["onset_f1"]["high"] <= 0.9
    assert group["systems"]["b"]["onset_f1"] == {"mean": 0.25, "low": 0.25, "high": 0.25, "n": 8}
    assert summarise(cases, records, "a", 0) == summarise(cases, records, "a", 0)
    assert (group["cases"], group["files"], group["silent_cases"]) == (8, 8, 0)


def test_an_interval_is_as_wide_as_the_normal_one():
    values = np.random.default_rng(0).normal(5, 2, 400)
    cases, records = made_up({"a": {"density_error": values.tolist()}})
    [group] = summarise(cases, records, "a", 0)["groups"]
    of = group["systems"]["a"]["density_error"]
    half = 1.96 * values.std() / 20
    assert of["low"] == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert of["high"] == pytest.approx(values.mean() + half, abs=0.15 * half)


def test_the_test_knows_which_way_is_better():
    """Ten cases, the main system better in every one: higher F1, fewer nats; against itself nothing moves."""
    f1, nats = [0.5 + 0.03 * i for i in range(10)], [2 + 0.1 * i for i in range(10)]
    worse = {"onset_f1": [v - 0.01 * (i + 1) for i, v in enumerate(f1)], "nats_per_note": [v + 0.5 for v in nats]}
    better = {"onset_f1": [v + 0.2 for v in f1], "nats_per_note": [v - 0.1 * (i + 1) for i, v in enumerate(nats)]}
    columns: dict[str, dict[str, list[float]]]
    columns = {"main": {"onset_f1": f1, "nats_per_note": nats}, "worse": worse, "better": better}
    columns |= {"same": columns["main"], ORIGINAL: {"onset_f1": [1.0] * 10}}
    [group] = summarise(*made_up(columns), "main", 0)["groups"]
    tests = group["tests"]
    assert set(tests) == {"worse", "better"}
    for name in ("onset_f1", "nats_per_note"):
        assert tests["worse"][name]["effect"] == 1
        assert tests["better"][name]["effect"] == -1
        for other in ("worse", "better"):
            test = tests[other][name]
            assert test["p"] == pytest.approx(2 / 2**10, rel=0.01)  # all of ten signs the same
            assert test["q"] >= test["p"]
            assert test["n"] == 10
    assert tests["worse"]["onset_f1"]["difference"] == pytest.approx(0.055)
    assert tests["worse"]["nats_per_note"]["difference"] == pytest.approx(-0.5)


def test_the_page_says_what_is_better_and_worse():
    f1 = np.linspace(0.3, 0.7, 12)
    noise = np.random.default_rng(0).normal(0, 0.1, 12)
    others = {"low": f1 - 0.1, "high": f1 + 0.1, "like": f1 + noise - noise.mean()}
    columns = {s: {"onset_f1": x.tolist()} for s, x in {"main": f1, **others}.items()}
    report = summarise(*made_up(columns), "main", 0)
    text = markdown({"protocol": {"files": "12 files", "seed": 0, "unused": {"no drum track": 2}}, **report}, {})
    assert "gave no case: 2 no drum track." in text
    rows = {line.split(" | ")[0]: line for line in text.partition("| against")[2].splitlines()}
    assert "+0.100 (r +1.00, q " in rows["| low"]
    assert "**better**" in rows["| low"]
    assert "-0.100 (r -1.00, q " in rows["| high"]
    assert "**worse**" in rows["| high"]
    assert "**" not in rows["| like"]


def test_effect_and_p_by_hand():
    """Differences 1, 2, 3, 4, 5, 6, -7 and 0: ranks 21 against 7 of 28, so r = 0.5; the 0 and the None are left out."""
    d = [0.01, 0.02, 0.03, 0.04, 0.05, 0.06, -0.07, 0.0]
    others = [0.5] * 8 + [None]
    columns: dict[str, dict[str, Sequence[float | None]]]
    columns = {"main": {"onset_f1": [0.5 + x for x in d] + [0.9]}, "other": {"onset_f1": others}}
    [group] = summarise(*made_up(columns), "main", 0)["groups"]
    test = group["tests"]["other"]["onset_f1"]
    assert test["effect"] == pytest.approx(0.5)
    assert test["difference"] == pytest.approx(0.14 / 8)
    assert test["n"] == 8
    ways = [sum(r for r in range(1, 8) if bits >> r & 1) for bits in range(0, 256, 2)]
    assert test["p"] == pytest.approx(2 * sum(w <= 7 for w in ways) / len(ways), rel=0.01)


def test_few_pairs_are_not_tested():
    columns = {"main": {"onset_f1": [0.9] * 5 + [0.5] * 20}, "other": {"onset_f1": [0.1] * 5 + [0.5] * 20}}
    [group] = summarise(*made_up(columns), "main", 0)["groups"]
    assert group["tests"] == {}


def test_many_tests_raise_q_above_p():
    rng = np.random.default_rng(2)
    columns = {s: {name: rng.random(12).tolist() for name in HEADLINE} for s in ("main", "x", "y", "z")}
    [group] = summarise(*made_up(columns), "main", 0)["groups"]
    tests = [t for of in group["tests"].values() for t in of.values()]
    assert len(tests) == 3 * len(HEADLINE)
    assert all(t["p"] <= t["q"] <= 1 for t in tests)
    assert any(t["q"] > 1.5 * t["p"] for t in tests)
    ordered = sorted(tests, key=lambda t: t["p"])
    assert ordered[0]["q"] == pytest.approx(min(t["p"] * len(tests) / (i + 1) for i, t in enumerate(ordered)), rel=0.01)


def test_by_source_is_sums_over_sums():
    columns: dict[str, dict[str, Sequence[float | None]]]
    columns = {"main": {"nats_per_note": [2.0, 1.0, 4.0, None]}, ORIGINAL: {"onset_f1": [1.0] * 4}}
    [group] = summarise(*made_up(columns, [10, 5, 30, 0]), "main", 0)["groups"]
    assert group["by_source"] == {"a": {"main": (2 * 10 + 4 * 30) / 40}, "b": {"main": 1.0}}
    assert group["silent_cases"] == 1
