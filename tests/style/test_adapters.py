"""What state tuning is compared with: each method learns in its own parameters, and the script adds it up."""

import json
import re
import zipfile

import numpy as np
import pytest
import torch

from midi_rwkv.errors import RequestError
from midi_rwkv.model.step_checkpoint import step_model_of
from midi_rwkv.style import adapters
from midi_rwkv.style.adapters import Adapted, Recipe, adapt, read_samples, unread
from midi_rwkv.style.pieces import read_pieces
from midi_rwkv.style.settings import LITTLE_SHOWN, SETTINGS, draw_in_settings
from midi_rwkv.style.tuning import fills_nats


@pytest.fixture(scope="module")
def folder(build_midi, note, tmp_path_factory):
    """STYLE/tune and STYLE/test of two styles: one climbs, one stays."""
    root = tmp_path_factory.mktemp("styles")
    for style, step in (("climbing", 1), ("staying", 0)):
        for part, count in (("tune", 4), ("test", 2)):
            (root / style / part).mkdir(parents=True)
            for i in range(count):
                rng = np.random.default_rng((step, i, part == "test"))
                events = [(0, bytes.fromhex("ff580404021808"))]
                for b in range(12):
                    start = 55 + int(rng.integers(0, 12))
                    for k in range(4):
                        events += note(b * 1920 + k * 480, start + step * k, 240)
                (root / style / part / f"{i}.mid").write_bytes(build_midi([sorted(events, key=lambda e: e[0])]))
    return root


@pytest.fixture(scope="module")
def pieces(folder):
    return read_pieces([folder / "climbing" / "tune"])[0]


@pytest.fixture(scope="module")
def samples(folder, checkpoint):
    units = [(p, (0, 12)) for p in read_pieces([folder / "climbing" / "test"])[0]]
    drawn = draw_in_settings(units, checkpoint.vocabulary, count=8, seed=0, held_out=True, budget=512)
    return [sample for *_, sample in drawn]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("lora-4", 2 * 4 * (4 * 128 + 2 * 320)),
        ("miss", 2 * 16 * (4 * 64 + 256 + 64)),
        ("heads", "heads."),
        ("tables-heads", ("heads.", "tables.")),
        ("full", ""),
        ("state-tables-heads", ("heads.", "tables.")),
        ("initial-state", 2 * 1 * 64 * 64),
        ("run-state", 2 * 1 * 64 * 64),
    ],
)
def test_a_method_learns_in_its_own_parameters(checkpoint, pieces, samples, method, parameters):
    own = {k for k in checkpoint.weights if not isinstance(parameters, int) and k.startswith(parameters)}
    before = fills_nats(step_model_of(checkpoint), unread(checkpoint, samples)).sum()
    adapted = adapt(Recipe.parse(f"{method}=1e-2"), checkpoint, pieces, seed=0)
    state = 2 * 1 * 64 * 64 if method.startswith("state") else 0
    expected = sum(checkpoint.weights[k].size for k in own) + state or parameters
    assert adapted.parameters == expected
    assert adapted.curve[0][0] == 0
    assert dict(adapted.curve)[adapted.steps] == min(nats for _, nats in adapted.curve) < adapted.curve[0][1]
    assert adapted.nats(samples, read_samples(checkpoint, samples)).sum() < before
    weights = {k.replace(".base_layer", ""): v for k, v in adapted.model.state_dict().items()}
    changed = {k for k, w in checkpoint.weights.items() if not np.array_equal(weights[k].numpy(), w)}
    assert bool(changed) == bool(own)  # else the base weights stay
    assert changed <= own


@pytest.mark.slow
def test_the_last_step_is_kept_where_that_is_asked(checkpoint, pieces):
    """A rate that only does harm."""
    kept = [adapt(Recipe.parse(f"heads@10=10{last}"), checkpoint, pieces, seed=0) for last in ("", "+last")]
    assert [adapted.steps for adapted in kept] == [0, 10]
    before, after = (adapted.model.state_dict()["heads.out.0.weight"].numpy() for adapted in kept)
    np.testing.assert_array_equal(before, checkpoint.weights["heads.out.0.weight"])
    assert not np.array_equal(after, before)


def test_what_reads_the_context(checkpoint, samples):
    """A changed model reads the cells alone, or with `context` what is before them, too."""
    model = step_model_of(checkpoint)
    with torch.no_grad():
        model.tables.weight.normal_()
    read = read_samples(checkpoint, samples)
    nats = {c: Adapted(checkpoint, model, context=c).nats(samples, read) for c in (False, True)}
    np.testing.assert_allclose(nats[True], fills_nats(model, unread(checkpoint, samples)))
    np.testing.assert_allclose(nats[False], fills_nats(model, read))
    assert not np.allclose(nats[True], nats[False])


def test_a_prefix_is_read_before_the_prompt(checkpoint, model, pieces, samples, plain_nats):
    adapted = adapt(Recipe.parse("prefix"), checkpoint, pieces, seed=0)
    expected = plain_nats(model, checkpoint.vocabulary, samples[0], before=adapted.prefix)
    assert adapted.nats(samples[:1], [])[0] == pytest.approx(expected, rel=3e-4)
    assert plain_nats(model, checkpoint.vocabulary, samples[0]) != pytest.approx(expected, rel=1e-3)


def test_losses_are_those_of_the_plain_form(checkpoint, model, samples, plain_nats):
    expected = [plain_nats(model, checkpoint.vocabulary, sample) for sample in samples]
    np.testing.assert_allclose(fills_nats(model, unread(checkpoint, samples)), expected, rtol=1e-4)


def test_recipes():
    assert Recipe.parse("full") == Recipe("full", adapters.STEPS)
    assert Recipe.parse("state-tables-heads=2e-4").rates == {"run-state": 0.2, "tables": 4e-4, "heads": 2e-4}
    assert Recipe.parse("lora-32@200=0.001+last") == Recipe("lora-32", 200, 0.001, last=True)
    assert Recipe.parse("lora-4=5e-4+context") == Recipe("lora-4", adapters.STEPS, 5e-4, context=True)
    assert Recipe.parse("initial-state").context


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", "method must be one of lora-4, lora-32, miss, "),
        ("lora-4@many", "got 'lora-4@many'"),
        ("lora-4+first", r"options are \+context and \+last, got 'lora-4\+first'"),
    ],
)
def test_what_is_no_recipe_is_refused(text, message):
    with pytest.raises(RequestError, match=message):
        Recipe.parse(text)


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_the_script_compares_and_adds_up(folder, checkpoint_folder, script, tmp_path, monkeypatch):
    compare = script("compare_styles")
    monkeypatch.setattr("midi_rwkv.model.checkpoint.DEFAULT_CHECKPOINT", checkpoint_folder)
    for cached in (compare.test_fills, compare.frozen_model):
        cached.cache_clear()
    records = []
    for style in ("climbing", "staying"):
        for method in ("base", "style", "prefix"):
            job = compare.Job(style, 0 if method == "base" else 4, method, 0)
            records += compare.do(job, folder, tmp_path, 4)
    (tmp_path / "results.jsonl").write_text("\n".join(map(json.dumps, records)))
    text = compare.tables(tmp_path)
    by_key = {r["key"]: r for r in records}
    base, state = by_key["climbing/0/base/0"], by_key["climbing/4/tuned/0"]
    assert {s: base["settings"].count(s) for s in SETTINGS} == dict.fromkeys(SETTINGS, 4)
    for setting in SETTINGS:
        before, after = (compare.per_note(r, setting) for r in (base, state))
        [table] = re.findall(rf"4 pieces, {setting}\n\n(.*?)\n\n", text, re.DOTALL)
        assert f"| base | {before:.4f} |" in table
        assert f"| tuned | {after - before:+.4f} ± " in table
    little = [compare.per_note(state, s) - compare.per_note(base, s) for s in LITTLE_SHOWN]
    [table] = re.findall(r"4 pieces, mean of sketch, new track, continuation\n\n(.*?)\n\n", text, re.DOTALL)
    assert f"| tuned | {np.mean(little):+.4f} ± " in table
    with zipfile.ZipFile(tmp_path / "valid.zip", "w") as archive:
        for i in range(2):
            archive.write(folder / "staying" / "test" / f"{i}.mid", f"folk/{i}.mid")
    text = compare.more(folder, tmp_path, tmp_path / "valid.zip", 4, 4)
    shown = [k for k, s in enumerate(base["settings"]) if s in LITTLE_SHOWN]
    change = np.sum(np.take(state["nats"], shown) - np.take(base["nats"], shown)) / np.take(base["notes"], shown).sum()
    assert f"| climbing | {change:+.4f} |" in text
    assert "6 fills of 1 sources of valid.zip" in text


def test_an_interval_is_that_of_a_ratio_over_pieces(script):
    """Of many draws of ten pieces, the intervals hold the true change, 0.1 a note, as often as they say."""
    tables, rng, held = script("script_helpers.style_tables"), np.random.default_rng(0), 0
    for _ in range(300):
        notes = rng.integers(5, 30, 20)
        nats = 0.1 * notes + np.repeat(rng.normal(0, 1, 10), 2) + rng.normal(0, 1, 20)
        base = {"style": "x", "settings": ["a"] * 20, "pieces": np.repeat(np.arange(10), 2).astype(str).tolist()}
        base |= {"nats": [0.0] * 20, "notes": notes.tolist()}
        gain = tables.gain(base, [{"nats": nats.tolist()}], "a")
        assert gain.mean == pytest.approx(nats.sum() / notes.sum())
        held += abs(gain.mean - 0.1) < gain.half
    assert 0.9 < held / 300 < 0.99
