"""What state tuning is compared with: each method learns in its own parameters, and the script adds it up."""

import json
import zipfile

import numpy as np
import pytest

from midi_rwkv.model.step_checkpoint import step_model_of
from midi_rwkv.style import adapters as adapters
from midi_rwkv.style.adapters import adapt, unread
from midi_rwkv.style.pieces import draw_fills, read_pieces
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
    drawn = draw_fills(units, checkpoint.vocabulary, count=6, seed=0, held_out=True, budget=512)
    return [sample for _, sample in drawn]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("lora-4", 2 * 4 * (4 * 128 + 2 * 320)),
        ("bone", 2 * 16 * (4 * 64 + 256 + 64)),
        ("full", None),
        ("initial-state", 2 * 1 * 64 * 64),
    ],
)
def test_a_method_learns_in_its_own_parameters(checkpoint, pieces, samples, method, parameters, monkeypatch):
    monkeypatch.setitem(adapters.RATES, method, 1e-2)
    before = fills_nats(step_model_of(checkpoint), unread(checkpoint, samples)).sum()
    adapted = adapt(method, checkpoint, pieces, seed=0)
    assert adapted.parameters == (parameters or sum(w.size for w in checkpoint.weights.values()))
    assert adapted.held_out[1] < adapted.held_out[0]
    assert adapted.steps > 0
    assert adapted.nats(samples).sum() < before
    weights = {k.replace(".base_layer", ""): v for k, v in adapted.model.state_dict().items()}
    changed = {k for k, w in checkpoint.weights.items() if not np.array_equal(weights[k].numpy(), w)}
    assert bool(changed) == (method == "full")  # else the base weights stay


def test_a_prefix_is_read_before_the_prompt(checkpoint, model, pieces, samples, plain_nats):
    adapted = adapt("prefix", checkpoint, pieces, seed=0)
    expected = plain_nats(model, checkpoint.vocabulary, samples[0], before=adapted.prefix)
    assert adapted.nats(samples[:1])[0] == pytest.approx(expected, rel=3e-4)
    assert plain_nats(model, checkpoint.vocabulary, samples[0]) != pytest.approx(expected, rel=1e-3)


def test_losses_are_those_of_the_plain_form(checkpoint, model, samples, plain_nats):
    expected = [plain_nats(model, checkpoint.vocabulary, sample) for sample in samples]
    np.testing.assert_allclose(fills_nats(model, unread(checkpoint, samples)), expected, rtol=1e-4)


def test_unknown_methods_are_refused(checkpoint, pieces):
    with pytest.raises(ValueError, match="method must be one of lora-4"):
        adapt("nonsense", checkpoint, pieces, seed=0)


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_the_script_compares_and_adds_up(folder, checkpoint_folder, script, tmp_path, monkeypatch):
    compare = script("compare_styles")
    monkeypatch.setattr("midi_rwkv.model.checkpoint.DEFAULT_CHECKPOINT", checkpoint_folder)
    monkeypatch.setattr(compare, "TEST_FILLS", 6)
    for cached in (compare.test_samples, compare.test_fills, compare.frozen_model):
        cached.cache_clear()
    records = []
    for method in ("base", "state", "prefix"):
        for style in ("climbing", "staying"):
            job = compare.Job(style, 0 if method == "base" else 4, method, 0)
            records.append(compare.do(job, folder, tmp_path))
    (tmp_path / "results.jsonl").write_text("\n".join(map(json.dumps, records)))
    text = compare.table(tmp_path)
    by_key = {r["key"]: r for r in records}
    base, state = (compare.per_note(by_key[k]) for k in ("climbing/0/base/0", "climbing/4/state/0"))
    assert f"| base | {base:.4f} |" in text
    assert f"| state | {state - base:+.4f} |" in text
    assert state < base
    assert "| 4, state against base |" in text
    with zipfile.ZipFile(tmp_path / "valid.zip", "w") as archive:
        for i in range(2):
            archive.write(folder / "staying" / "test" / f"{i}.mid", f"folk/{i}.mid")
    monkeypatch.setattr(compare, "VALID_FILLS", 4)
    text = compare.more(folder, tmp_path, tmp_path / "valid.zip", 4)
    assert f"| climbing | {state - base:+.4f} |" in text
    assert "4 fills of 1 sources of valid.zip" in text
