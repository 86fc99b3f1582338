"""What all engines have in common, and which one `make_engine` takes."""

from __future__ import annotations

import numpy as np
import pytest
from random_rwkv7 import VOCABULARY, random_tokens, random_weights, relative_error

from midi_rwkv.engine.engine import Engine, State
from midi_rwkv.engine.make import make_engine
from midi_rwkv.engine.pack import quantised

WEIGHTS = random_weights()


@pytest.fixture(params=["numba", "torch"])
def engine(request: pytest.FixtureRequest) -> Engine[State]:
    return make_engine(WEIGHTS, backend=request.param)


def test_a_prompt_read_in_pieces_is_the_prompt(engine: Engine[State]):
    tokens = random_tokens(300)
    whole, pieces = engine.new_state(), engine.new_state()
    logits = engine.prefill(tokens.tolist(), whole)
    for piece in np.split(tokens, [1, 5, 133, 250]):
        last = engine.prefill(piece.tolist(), pieces)
    assert relative_error(last, logits) < 1e-5
    assert relative_error(pieces.wkv, whole.wkv) < 1e-5


def test_repeat_select_concat_and_copy(engine: Engine[State]):
    state = engine.new_state(2)
    logits = engine.step([3, 4], state)
    many = state.repeat(2)
    assert many.batch == 4
    again = engine.step([5, 6, 5, 6], many)
    assert relative_error(again[3], engine.step([6], state.select([1]))[0]) < 1e-6
    assert np.abs(again[0] - again[2]).max() > 1e-3
    joined = State.concat([state.select([1]), state.copy()])
    np.testing.assert_array_equal(joined.wkv, state.wkv[:, [1, 0, 1]])
    copied = state.copy()
    engine.step([1, 1], copied)
    assert not np.array_equal(copied.wkv, state.wkv)
    assert logits.shape == (2, VOCABULARY)


def test_a_tuned_state_of_another_shape_is_refused(engine: Engine[State]) -> None:
    with pytest.raises(ValueError, match=r"wkv0 must have shape \(2, 2, 64, 64\)"):
        engine.new_state(1, np.zeros((2, 64, 64), np.float32))


def test_wrong_tokens_are_refused(engine: Engine[State]):
    state = engine.new_state(2)
    for tokens, message in (
        ([], "at least one"),
        ([1], "each of the state's 2 rows"),
        ([1, VOCABULARY], "0-89, given 90"),
    ):
        with pytest.raises(ValueError, match=message):
            engine.step(tokens, state)
    with pytest.raises(ValueError, match="given -1"):
        engine.prefill([-1], state)
    assert not state.wkv.any()


def test_wrong_vectors_are_refused(engine: Engine[State]) -> None:
    state = engine.new_state(2)
    for vectors, message in (
        (np.zeros((2, 64), np.float32), r"128 numbers each, given shape \(2, 64\)"),
        (np.zeros((0, 128), np.float32), r"given shape \(0, 128\)"),
        (np.zeros((3, 128), np.float32), "each of the state's 2 rows, given 3"),
    ):
        with pytest.raises(ValueError, match=message):
            engine.step_vectors(vectors, state)
    with pytest.raises(ValueError, match=r"given shape \(128,\)"):
        engine.prefill_vectors(np.zeros(128, np.float32), state)
    assert not state.wkv.any()


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_a_trunk_reads_no_tokens(backend: str) -> None:
    trunk = {k: x for k, x in WEIGHTS.items() if k not in ("emb.weight", "head.weight")}
    engine = make_engine(trunk, backend=backend)
    assert engine.vocab_size == 0
    with pytest.raises(ValueError, match="a trunk without an embedding; read vectors"):
        engine.prefill([1], engine.new_state())
    with pytest.raises(ValueError, match=r"only one of emb\.weight and head\.weight"):
        make_engine({**trunk, "emb.weight": WEIGHTS["emb.weight"]}, backend=backend)


def test_quantised_is_within_half_a_step():
    rng = np.random.default_rng(2)
    matrix = (rng.normal(size=(40, 64)) * rng.exponential(size=(40, 1))).astype(np.float32)
    matrix[3] = 0
    whole, scales = quantised(matrix)
    assert (whole.dtype, scales.dtype, scales.shape) == (np.int8, np.float32, (40,))
    assert (np.abs(whole).max(1) == np.where(np.arange(40) == 3, 0, 127)).all()
    assert (np.abs(whole * scales[:, None] - matrix).max(1) <= 0.5001 * scales).all()


def test_auto_precision_is_int8_where_it_can_be_had():
    said: list[str] = []
    for backend in ("auto", "torch"):
        make_engine(WEIGHTS, backend=backend, precision="auto", on_choice=said.append)
    assert said == ["decoding with numba in int8", "decoding with torch: as asked"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int4"}, "precision must be one of auto, float32, int8, given 'int4'"),
        ({"precision": "int8", "backend": "torch"}, "given torch; use precision='float32'"),
    ],
)
def test_a_precision_that_cannot_be_had_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_engine(WEIGHTS, **options)


def test_int8_without_numba_is_refused(monkeypatch):
    monkeypatch.setattr("midi_rwkv.engine.make.find_spec", lambda _: None)
    with pytest.raises(ValueError, match="numba is not installed; use precision='float32'"):
        make_engine(WEIGHTS, precision="int8")


def test_auto_takes_numba_and_says_so(monkeypatch):
    said: list[str] = []
    assert make_engine(WEIGHTS, on_choice=said.append).name == "numba"
    monkeypatch.setattr("midi_rwkv.engine.make.find_spec", lambda _: None)
    assert make_engine(WEIGHTS, on_choice=said.append).name == "torch"
    assert said == ["decoding with numba", "decoding with torch: numba is not installed"]
    with pytest.raises(ValueError, match="numba is not installed; use backend='torch'"):
        make_engine(WEIGHTS, backend="numba")


def test_auto_takes_torch_for_odd_heads():
    weights = random_weights(1, 48, 24)
    said: list[str] = []
    engine = make_engine(weights, 24, on_choice=said.append)
    assert engine.name == "torch"
    assert "multiple of 16" in said[0]


def test_unsuitable_weights_are_refused():
    with pytest.raises(ValueError, match="backend must be one of auto, numba, torch, triton, given 'cuda'"):
        make_engine(WEIGHTS, backend="cuda")
    with pytest.raises(ValueError, match="no RWKV-7 x070 state dict"):
        make_engine({"wte": np.zeros((2, 2), np.float32)})
    with pytest.raises(ValueError, match="heads of 64 channels, given head_size=32"):
        make_engine(WEIGHTS, 32)
