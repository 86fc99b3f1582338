"""Another model in RWKV-LM's names, such as the paper's: it converts with its own tokenizer, the engines decode it as a
plain RWKV-7, and what cannot be done with it is said in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from random_rwkv7 import random_weights

from midi_rwkv.commands.cli import main
from midi_rwkv.engine.make import make_engine
from midi_rwkv.model.checkpoint import load_checkpoint
from midi_rwkv.model.config import ModelConfig
from midi_rwkv.model.rwkv7 import RWKV7
from midi_rwkv.model.token_checkpoint import load_token_checkpoint, read_tokenizer

LAYERS, SIZE = 3, 64


@pytest.fixture(scope="module")
def other_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer as the paper's: MidiTok's MMM over REMI with BPE, and without our Context tokens."""
    from miditok import MMM, TokenizerConfig

    special = ["PAD", "BOS", "EOS", "Infill_Bar", "Infill_Track", "FillBar_Start", "FillBar_End"]
    config = TokenizerConfig(
        special_tokens=special, num_velocities=24, use_programs=True, encode_ids_split="no", base_tokenizer="REMI"
    )
    tokenizer = MMM(config)
    tokenizer.train(vocab_size=len(tokenizer.vocab) + 1, model="BPE", iterator=[])
    path = tmp_path_factory.mktemp("paper") / "tokenizer.json"
    tokenizer.save(path)
    return path


@pytest.fixture(scope="module")
def state(other_tokenizer: Path) -> dict[str, torch.Tensor]:
    """A random state dict as RWKV-LM's trainer saves it: layer 0 too has value adapters, which nothing uses; bf16."""
    _, vocabulary = read_tokenizer(other_tokenizer)
    weights = random_weights(LAYERS, SIZE)
    rng = np.random.default_rng(3)
    for name in ("emb.weight", "head.weight"):
        weights[name] = rng.normal(size=(vocabulary, SIZE), scale=SIZE**-0.5).astype(np.float32)
    for x in "012":
        weights[f"blocks.0.att.v{x}"] = weights[f"blocks.0.att.a{x}"]
    return {name: torch.from_numpy(x).bfloat16() for name, x in weights.items()}


@pytest.fixture(scope="module")
def pth(state: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pth") / "rwkv-final.pth"
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def converted(pth: Path, other_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("converted") / "paper"
    assert main(["convert", str(pth), str(folder), "--tokenizer", str(other_tokenizer)]) == 0
    return folder


RANKS = {"decay": "w", "iclr": "a", "value": "v", "gate": "g"}


def expected_logits(state: dict[str, torch.Tensor], ids: NDArray[np.int64]) -> NDArray[Any]:
    """(T, V) of `RWKV7`, which is built from the shapes in the state dict and nothing of `convert`'s."""
    ranks = {f"{name}_rank": state[f"blocks.1.att.{x}1"].shape[1] for name, x in RANKS.items()}
    config = ModelConfig(n_layer=LAYERS, n_embd=SIZE, vocab_size=len(state["emb.weight"]), **ranks)
    model = RWKV7(config, fresh=False).double()
    model.load_state_dict(
        {name: x for name, x in state.items() if not name.startswith("blocks.0.att.v") or "value" in name}
    )
    with torch.no_grad():
        found: NDArray[Any] = model(torch.from_numpy(ids[None]), backend="reference")[0][0].numpy()
    return found


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_the_engines_decode_it(converted: Path, state: dict[str, torch.Tensor], backend: str) -> None:
    checkpoint = load_token_checkpoint(converted)
    assert checkpoint.config.vocab_size == len(state["emb.weight"])
    engine = make_engine(checkpoint.weights, checkpoint.config.head_size, backend=backend)
    ids = np.random.default_rng(1).integers(0, engine.vocab_size, 40)
    wanted = expected_logits(state, ids)
    read = engine.new_state()
    assert np.abs(engine.prefill(ids[:-2].tolist(), read) - wanted[-3]).max() < 1e-4
    assert np.abs(engine.step(ids[-2:-1], read) - wanted[-2]).max() < 1e-4
    assert np.abs(engine.step(ids[-1:], read) - wanted[-1]).max() < 1e-4


@pytest.mark.parametrize("backend", ["numba", "torch", "triton"])
def test_an_engine_takes_the_pth_as_it_is(state: dict[str, torch.Tensor], backend: str) -> None:
    """In float32, with what layer 0 never uses and a tuned state of RWKV-PEFT's among the weights."""
    if backend == "triton":
        pytest.importorskip("triton")
    tuned = {f"blocks.{i}.att.time_state": torch.randn(1, 64, 64) for i in range(LAYERS)}
    weights = {name: x.float().numpy() for name, x in (state | tuned).items()}
    ids = np.array([5, 7, 9])
    found = make_engine(weights, backend=backend)
    read = found.new_state()
    found.prefill(ids[:-1].tolist(), read)
    limit = 0.1 if backend == "triton" and torch.cuda.is_available() else 1e-4  # matrices are bfloat16 on a GPU
    assert np.abs(found.step(ids[-1:], read) - expected_logits(state, ids)[-1]).max() < limit


def test_it_comes_back_as_it_went(converted: Path, state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    assert main(["convert", str(converted), str(tmp_path / "back.pth")]) == 0
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    assert {name for name in state if name not in back} == {f"blocks.0.att.v{x}" for x in "012"}
    assert all(x.dtype == torch.bfloat16 and torch.equal(x, state[name].view(x.shape)) for name, x in back.items())


def test_infill_refuses_it_in_one_line(
    converted: Path, tmp_path: Path, build_midi: Any, note: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    song = tmp_path / "song.mid"
    song.write_bytes(build_midi([[e for b in range(8) for e in note(b * 1920, 60, 480)]]))
    code = main(["infill", str(song), "--bars", "3-4", "--checkpoint", str(converted), "-o", str(tmp_path / "out.mid")])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert err.startswith(
        f"midi-rwkv: error: {converted} is a plain RWKV-7 over tokens, which engines decode and which cannot fill"
    )
    assert not (tmp_path / "out.mid").exists()


def test_a_tokenizer_of_another_size_is_refused(
    pth: Path, tmp_path: Path, other_tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    params = json.loads(other_tokenizer.read_text())
    model = json.loads(params["_model"])
    model["model"]["vocab"].popitem()
    (tmp_path / "t.json").write_text(json.dumps({**params, "_model": json.dumps(model)}))
    assert main(["convert", str(pth), str(tmp_path / "out"), "--tokenizer", str(tmp_path / "t.json")]) == 2
    assert "they do not belong together" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_trunk_alone_is_no_model(
    state: dict[str, torch.Tensor], other_tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({k: x for k, x in state.items() if k not in ("emb.weight", "head.weight")}, tmp_path / "trunk.pth")
    arguments = [str(tmp_path / "trunk.pth"), str(tmp_path / "out"), "--tokenizer", str(other_tokenizer)]
    assert main(["convert", *arguments]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "emb.weight is missing" in err
    assert not (tmp_path / "out").exists()


def test_our_model_becomes_a_pth_of_its_trunk(checkpoint_folder: Path, tmp_path: Path) -> None:
    assert main(["convert", str(checkpoint_folder), str(tmp_path / "trunk.pth")]) == 0
    saved = torch.load(tmp_path / "trunk.pth", weights_only=True)
    trunk = load_checkpoint(checkpoint_folder).trunk
    assert set(saved) == set(trunk)
    assert all(np.array_equal(saved[name].float().numpy(), x) for name, x in trunk.items())
    vectors = np.random.default_rng(0).normal(size=(9, SIZE)).astype(np.float32)
    engines = [make_engine(w) for w in (trunk, {name: x.float().numpy() for name, x in saved.items()})]
    one, other = (e.prefill_vectors(vectors, e.new_state()) for e in engines)
    assert np.array_equal(one, other)
