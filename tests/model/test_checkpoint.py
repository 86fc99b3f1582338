"""Checkpoints come back as they went out, from and to RWKV-LM's files too, and broken ones are refused in one line."""

import json
import shutil

import numpy as np
import pytest
import torch
from random_rwkv7 import VOCABULARY, random_weights
from safetensors.numpy import load_file

from midi_rwkv.commands.convert import convert, from_rwkv_lm, time_state_of, to_time_state
from midi_rwkv.errors import CheckpointError
from midi_rwkv.model.checkpoint import checkpoint_hash, load_checkpoint
from midi_rwkv.model.config import ModelConfig
from midi_rwkv.model.rwkv7 import RWKV7
from midi_rwkv.model.step_checkpoint import step_model_of, step_shapes
from midi_rwkv.model.token_checkpoint import load_token_checkpoint, save_token_checkpoint
from midi_rwkv.model.weights import parameter_shapes

PAPERS = ModelConfig(n_layer=12, n_embd=384, vocab_size=16_000)


def tokenizer_of(ids: int, first: str = "a") -> str:
    """The part of MidiTok's file that says how many ids there are."""
    vocab = {first: 0, **{f"token {i}": i for i in range(1, ids)}}
    return json.dumps({"_model": json.dumps({"model": {"type": "BPE", "vocab": vocab}, "added_tokens": []})})


@pytest.fixture
def folder(tmp_path):
    """A plain RWKV-7 of 2 x 64."""
    weights = {k: torch.from_numpy(v).bfloat16() for k, v in random_weights(2, 64).items()}
    config, weights = from_rwkv_lm(weights)
    save_token_checkpoint(tmp_path / "plain", config, weights, tokenizer_of(VOCABULARY), overwrite=False, bf16=True)
    return tmp_path / "plain"


@pytest.fixture(params=["ours", "plain"])
def either(request, checkpoint_folder, folder, tmp_path):
    """A checkpoint folder that may be broken, and what reads it."""
    if request.param == "plain":
        return folder, load_token_checkpoint
    return shutil.copytree(checkpoint_folder, tmp_path / "ours"), load_checkpoint


def test_the_weights_are_those_saved(checkpoint_folder):
    checkpoint = load_checkpoint(checkpoint_folder)
    state = step_model_of(checkpoint).state_dict()
    assert set(state) == set(checkpoint.weights) == set(step_shapes(checkpoint.config, checkpoint.vocabulary.sizes))
    assert all(np.array_equal(v.numpy(), checkpoint.weights[k]) for k, v in state.items())
    assert checkpoint.context == 512
    again = load_checkpoint(checkpoint_folder / "model.safetensors")
    assert again.config == checkpoint.config
    assert checkpoint_hash(again) == checkpoint_hash(checkpoint)


def test_parameter_shapes_are_the_models():
    for config in (PAPERS, ModelConfig(n_layer=3, n_embd=128, vocab_size=100)):
        with torch.device("meta"):
            shapes = {k: tuple(v.shape) for k, v in RWKV7(config, fresh=False).state_dict().items()}
        assert shapes == parameter_shapes(config)
    paper = sum(np.prod(s) for s in parameter_shapes(PAPERS).values())
    assert 33e6 < paper < 37e6  # "about 35 M parameters"


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_named(either, name):
    folder, load = either
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        load(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
@pytest.mark.parametrize("keep", [0, 20, 0.5, 0.99])
def test_a_cut_file_is_refused(either, name, keep):
    folder, load = either
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: int(keep if isinstance(keep, int) else keep * len(data))])
    with pytest.raises(CheckpointError) as error:
        load(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("record", ["[1]", "{}", '{"format": 4}', '{"format": 1}', '{"format": 9}', '"x"'])
def test_a_record_that_lacks_something_is_refused(either, record):
    folder, load = either
    (folder / "config.json").write_text(record)
    with pytest.raises(CheckpointError) as error:
        load(folder)
    assert "\n" not in str(error.value)


def test_another_tokenizer_is_refused(either):
    folder, load = either
    params = json.loads((folder / "tokenizer.json").read_text())
    if load is load_token_checkpoint:
        params = json.loads(tokenizer_of(VOCABULARY, first="b"))
    else:
        params["midi_rwkv"]["tokens"].reverse()
    (folder / "tokenizer.json").write_text(json.dumps(params))
    with pytest.raises(CheckpointError, match="does not belong"):
        load(folder)


def test_a_wrong_shape_is_named(either):
    folder, load = either
    record = json.loads((folder / "config.json").read_text())
    record["model"]["n_layer"] = 3
    (folder / "config.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match=r"blocks\.2"):
        load(folder)


def test_a_plain_model_cannot_fill(folder):
    with pytest.raises(CheckpointError, match=r"plain RWKV-7 over tokens, .* cannot fill; name a") as error:
        load_checkpoint(folder)
    assert "\n" not in str(error.value)


def test_rwkv_lm_state_dict_round_trip(folder, tmp_path):
    pth, back = tmp_path / "model.pth", tmp_path / "back"
    convert(folder, pth)
    state = torch.load(pth, weights_only=True)
    assert not any(name.startswith("blocks.0.att.v") and name[-1] in "012" for name in state)
    assert "blocks.1.att.v1" in state
    convert(pth, back, tokenizer=str(folder / "tokenizer.json"))
    want, got = load_token_checkpoint(folder), load_token_checkpoint(back)
    assert got.config == want.config
    assert all(np.array_equal(got.weights[k], v) for k, v in want.weights.items())


def test_what_layer_0_never_uses_may_be_there(folder, tmp_path):
    """RWKV-LM's trainer saves it."""
    convert(folder, tmp_path / "model.pth")
    state = torch.load(tmp_path / "model.pth", weights_only=True)
    for name, other in (("v0", "a0"), ("v1", "a1"), ("v2", "a2")):
        state[f"blocks.0.att.{name}"] = state[f"blocks.0.att.{other}"]
    torch.save(state, tmp_path / "with.pth")
    convert(tmp_path / "with.pth", tmp_path / "back", tokenizer=str(folder / "tokenizer.json"))
    want, got = load_token_checkpoint(folder), load_token_checkpoint(tmp_path / "back")
    assert all(np.array_equal(got.weights[k], v) for k, v in want.weights.items())


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float32])
def test_numbers_stay_of_their_kind(folder, tmp_path, kind):
    shapes = parameter_shapes(load_token_checkpoint(folder).config)
    state = {name: torch.randn(shape).to(kind) for name, shape in shapes.items()}
    torch.save(state, tmp_path / "model.pth")
    tokenizer = str(folder / "tokenizer.json")
    convert(tmp_path / "model.pth", tmp_path / "kept", tokenizer=tokenizer)
    convert(tmp_path / "kept", tmp_path / "again.pth")
    convert(tmp_path / "kept", tmp_path / "rounded.pth", bf16=True)
    convert(tmp_path / "model.pth", tmp_path / "rounded", tokenizer=tokenizer, bf16=True)
    again, rounded = (torch.load(tmp_path / f"{n}.pth", weights_only=True) for n in ("again", "rounded"))
    other = load_token_checkpoint(tmp_path / "rounded").weights
    for name, weight in state.items():
        assert again[name].dtype == kind
        assert torch.equal(again[name], weight)
        assert torch.equal(rounded[name], weight.bfloat16())
        assert np.array_equal(other[name], weight.bfloat16().float().numpy())


def test_a_models_own_time_state_is_kept_beside_it(folder, tmp_path):
    convert(folder, tmp_path / "model.pth")
    wkv = torch.randn(2, 1, 64, 64)
    state = torch.load(tmp_path / "model.pth", weights_only=True) | to_time_state(wkv)
    torch.save(state, tmp_path / "tuned.pth")
    said = convert(tmp_path / "tuned.pth", tmp_path / "tuned", tokenizer=str(folder / "tokenizer.json"))
    beside = tmp_path / "tuned-state.safetensors"
    assert str(beside) in said
    assert np.array_equal(load_file(beside)["wkv"], wkv.numpy())
    (tmp_path / "new-state.safetensors").write_bytes(b"mine")
    with pytest.raises(CheckpointError, match="exists"):
        convert(tmp_path / "tuned.pth", tmp_path / "new", tokenizer=str(folder / "tokenizer.json"))
    assert not (tmp_path / "new").exists()


def test_options_that_do_not_apply_are_refused(folder, tmp_path):
    torch.save(to_time_state(torch.randn(2, 1, 64, 64)), tmp_path / "state.pth")
    convert(tmp_path / "state.pth", tmp_path / "state.safetensors")
    for source, options, words in (
        (folder, {"tokenizer": "t.json"}, "--tokenizer cannot apply"),
        (tmp_path / "state.pth", {"bf16": True}, "--bf16 cannot apply"),
        (tmp_path / "state.safetensors", {"tokenizer": "t.json", "bf16": True}, "--tokenizer and --bf16 cannot apply"),
    ):
        with pytest.raises(CheckpointError, match=words):
            convert(source, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_the_papers_shape_loads():
    """12 x 384, 16,000 tokens, in RWKV-LM's names."""
    shapes = parameter_shapes(PAPERS)
    generator = torch.Generator().manual_seed(0)
    weights = {k: 0.02 * torch.randn(s, generator=generator) for k, s in shapes.items()}
    config, loaded = from_rwkv_lm(weights)
    assert config == PAPERS
    model = RWKV7(config)
    model.load_state_dict(loaded)
    logits, state = model(torch.tensor([[1, 2, 3]]))
    assert logits.shape == (1, 3, 16_000)
    assert state.wkv.shape == (12, 1, 6, 64, 64)


def test_time_state_round_trip_and_orientation(tmp_path):
    wkv = torch.randn(2, 1, 64, 64)
    entries = to_time_state(wkv)
    assert torch.equal(entries["blocks.1.att.time_state"][0, 3, 5], wkv[1, 0, 5, 3])  # theirs: [value, key]
    torch.save(entries, tmp_path / "style.pth")
    convert(tmp_path / "style.pth", tmp_path / "style.safetensors")
    convert(tmp_path / "style.safetensors", tmp_path / "back.pth")
    assert torch.equal(time_state_of(torch.load(tmp_path / "back.pth", weights_only=True)), wkv)


def test_bad_conversions_are_one_line(folder, tmp_path):
    (tmp_path / "x.pth").write_bytes(b"no pickle")
    torch.save({"emb.weight": torch.zeros(3, 4)}, tmp_path / "y.pth")
    pth = tmp_path / "m.pth"
    convert(folder, pth)
    (tmp_path / "t.json").write_text("[1]")
    for call, words in (
        (lambda: convert(pth, tmp_path / "o", tokenizer=str(tmp_path / "t.json")), "no MidiTok MMM tokenizer"),
        (lambda: convert(tmp_path / "gone", tmp_path / "o"), "no such"),
        (lambda: convert(tmp_path / "x.pth", tmp_path / "o"), "not a PyTorch state dict"),
        (lambda: convert(tmp_path / "y.pth", tmp_path / "o"), "no RWKV-7"),
        (lambda: convert(pth, tmp_path / "o"), "--tokenizer"),
        (lambda: convert(folder, pth), "exists"),
    ):
        with pytest.raises(CheckpointError, match=words) as error:
            call()
        assert "\n" not in str(error.value)
    assert not (tmp_path / "o").exists()
