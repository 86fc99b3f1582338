"""Both engines against the equations of RWKV-7 in float64 numpy, one token at a time."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from midi_rwkv.engine.engine import Engine, State
from midi_rwkv.engine.make import make_engine
from midi_rwkv.engine.pack import quantised

VOCABULARY = 90  # not a multiple of 16


def random_weights(
    layers: int = 2, size: int = 128, head_size: int = 64, ranks=(24, 16, 32, 40), seed: int = 0
) -> dict[str, np.ndarray]:
    """A random RWKV-7 in RWKV-LM's names; `ranks` are those of w, a, v, g."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int, scale: float = 1.0) -> np.ndarray:
        return (rng.normal(size=shape) * scale).astype(np.float32)

    def norm(name: str) -> dict[str, np.ndarray]:
        return {f"{name}.weight": 1 + normal(size, scale=0.1), f"{name}.bias": normal(size, scale=0.1)}

    weights = {"emb.weight": normal(VOCABULARY, size), **norm("blocks.0.ln0"), **norm("ln_out")}
    weights["head.weight"] = normal(VOCABULARY, size, scale=size**-0.5)
    for layer in range(layers):
        att, ffn = f"blocks.{layer}.att.", f"blocks.{layer}.ffn."
        weights |= {**norm(f"blocks.{layer}.ln1"), **norm(f"blocks.{layer}.ln2"), **norm(att + "ln_x")}
        for x in "rwkvag":
            weights[f"{att}x_{x}"] = rng.random((1, 1, size), np.float32)
        for x, rank in zip("wavg", ranks, strict=True):
            if x == "v" and layer == 0:
                continue
            weights[f"{att}{x}1"] = normal(size, rank, scale=size**-0.5)
            weights[f"{att}{x}2"] = normal(rank, size, scale=rank**-0.5)
            if x != "g":
                weights[f"{att}{x}0"] = normal(1, 1, size)
        weights[att + "k_k"], weights[att + "k_a"] = 1 + normal(1, 1, size, scale=0.2), normal(1, 1, size)
        weights[att + "r_k"] = normal(size // head_size, head_size, scale=0.3)
        for x in ("receptance", "key", "value", "output"):
            weights[f"{att}{x}.weight"] = normal(size, size, scale=size**-0.5)
        weights[ffn + "x_k"] = rng.random((1, 1, size), np.float32)
        weights[ffn + "key.weight"] = normal(4 * size, size, scale=size**-0.5)
        weights[ffn + "value.weight"] = normal(size, 4 * size, scale=(4 * size) ** -0.5)
    return weights


class Definition:
    """RWKV-7 x070 in float64, one row, one token at a time."""

    def __init__(self, weights: dict[str, np.ndarray], head_size: int) -> None:
        self.w = {name: x.astype(np.float64).squeeze() for name, x in weights.items()}
        self.head_size, self.size = head_size, weights["emb.weight"].shape[1]
        self.layers = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
        self.heads = self.size // head_size
        self.att_shift = np.zeros((self.layers, self.size))
        self.ffn_shift = np.zeros((self.layers, self.size))
        self.wkv = np.zeros((self.layers, self.heads, head_size, head_size))

    def norm(self, x: np.ndarray, name: str) -> np.ndarray:
        x = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
        return x * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def step(self, token: int) -> np.ndarray:
        x, first_values = self.norm(self.w["emb.weight"][token], "blocks.0.ln0"), None
        for layer in range(self.layers):
            h = self.norm(x, f"blocks.{layer}.ln1")
            out, first_values = self.time_mix(h, layer, first_values)
            x = x + out
            h, ffn = self.norm(x, f"blocks.{layer}.ln2"), f"blocks.{layer}.ffn."
            mixed = h + (self.ffn_shift[layer] - h) * self.w[ffn + "x_k"]
            x = x + self.w[ffn + "value.weight"] @ np.maximum(self.w[ffn + "key.weight"] @ mixed, 0) ** 2
            self.ffn_shift[layer] = h
        return self.w["head.weight"] @ self.norm(x, "ln_out")

    def time_mix(self, h: np.ndarray, layer: int, first_values: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        w = {name.split("att.")[1]: x for name, x in self.w.items() if name.startswith(f"blocks.{layer}.att.")}
        shifted = self.att_shift[layer] - h
        xr, xw, xk, xv, xa, xg = (h + shifted * w[f"x_{x}"] for x in "rwkvag")
        self.att_shift[layer] = h
        r, k, v = w["receptance.weight"] @ xr, w["key.weight"] @ xk, w["value.weight"] @ xv
        z = w["w0"] + np.tanh(xw @ w["w1"]) @ w["w2"]
        decay = np.exp(-np.exp(-np.log1p(np.exp(-z)) - 0.5))
        if first_values is None:
            first_values = v
        else:
            v = v + (first_values - v) * sigmoid(w["v0"] + xv @ w["v1"] @ w["v2"])
        a = sigmoid(w["a0"] + xa @ w["a1"] @ w["a2"])
        g = sigmoid(xg @ w["g1"]) @ w["g2"]
        kk = (k * w["k_k"]).reshape(self.heads, -1)
        kk /= np.maximum(np.linalg.norm(kk, axis=1, keepdims=True), 1e-12)
        k = k * (1 + (a - 1) * w["k_a"])
        r, k, v, a, decay = (x.reshape(self.heads, -1) for x in (r, k, v, a, decay))
        y = np.empty_like(v)
        for i in range(self.heads):
            s = self.wkv[layer, i]
            s = decay[i][:, None] * s + np.outer(kk[i] * a[i], -kk[i] @ s) + np.outer(k[i], v[i])
            self.wkv[layer, i], y[i] = s, s.T @ r[i]
        y = (y - y.mean(1, keepdims=True)) / np.sqrt(y.var(1, keepdims=True) + 64e-5)
        y = y.reshape(-1) * w["ln_x.weight"] + w["ln_x.bias"]
        y = y.reshape(self.heads, -1) + (r * k * w["r_k"]).sum(1, keepdims=True) * v
        return w["output.weight"] @ (y.reshape(-1) * g), first_values


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def relative_error(got: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


def assert_state(state: State, definition: Definition, row: int = 0, limit: float = 1e-5) -> None:
    for name in ("att_shift", "ffn_shift", "wkv"):
        error = relative_error(getattr(state, name)[:, row], getattr(definition, name))
        assert error < limit, f"{name}: relative error {error:.1e}"


WEIGHTS = random_weights()


@pytest.fixture(params=["numba", "torch"])
def engine(request) -> Engine:
    return make_engine(WEIGHTS, backend=request.param)


def random_tokens(count: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, VOCABULARY, count)


@pytest.mark.parametrize("length", [1, 63, 1000])
def test_step_prefill_and_the_definition_agree(engine: Engine, length: int):
    tokens, definition = random_tokens(length), Definition(WEIGHTS, 64)
    stepped, read = engine.new_state(), engine.new_state()
    for token in tokens:
        expected = definition.step(token)
        logits = engine.step([token], stepped)
    assert relative_error(logits[0], expected) < 1e-5
    assert_state(stepped, definition)
    logits = engine.prefill(tokens, read)
    assert logits.shape == (1, VOCABULARY)
    assert relative_error(logits[0], expected) < 1e-5
    assert_state(read, definition)


@pytest.mark.parametrize("head_size", [16, 48, 128])
def test_other_head_sizes(head_size: int):
    weights = random_weights(3, 384, head_size, seed=head_size)
    definition, tokens = Definition(weights, head_size), random_tokens(12)
    expected = [definition.step(token) for token in tokens][-1]
    for backend in ("numba", "torch"):
        engine = make_engine(weights, head_size, backend=backend)
        state = engine.new_state()
        assert relative_error(engine.prefill(tokens, state)[0], expected) < 1e-5
        assert_state(state, definition)


def test_a_prompt_read_in_pieces_is_the_prompt(engine: Engine):
    tokens = random_tokens(300)
    whole, pieces = engine.new_state(), engine.new_state()
    logits = engine.prefill(tokens, whole)
    for piece in np.split(tokens, [1, 5, 133, 250]):
        last = engine.prefill(piece, pieces)
    assert relative_error(last, logits) < 1e-5
    assert relative_error(pieces.wkv, whole.wkv) < 1e-5


@pytest.mark.parametrize(("backend", "threads"), [("numba", 1), ("numba", 2), ("torch", 1)])
@pytest.mark.parametrize("batch", [1, 2, 5, 8])
def test_rows_are_independent(batch: int, backend: str, threads: int):
    engine = make_engine(WEIGHTS, backend=backend, threads=threads)
    prompt, columns = random_tokens(260), random_tokens(3 * batch).reshape(3, batch)
    state = engine.new_state(batch)
    engine.prefill(prompt, state)
    for column in columns:
        logits = engine.step(column, state)
    for row in {0, batch - 1}:
        definition = Definition(WEIGHTS, 64)
        for token in [*prompt, *columns[:, row]]:
            expected = definition.step(token)
        assert relative_error(logits[row], expected) < 1e-5
        assert_state(state, definition, row)


def test_repeat_select_concat_and_copy(engine: Engine):
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


def test_a_tuned_initial_state(engine: Engine):
    wkv0 = np.random.default_rng(5).normal(size=(2, 2, 64, 64)).astype(np.float32)
    definition = Definition(WEIGHTS, 64)
    definition.wkv = wkv0.astype(np.float64)
    state = engine.new_state(3, wkv0)
    logits = engine.step([7, 8, 9], state)
    assert relative_error(logits[0], definition.step(7)) < 1e-5
    assert_state(state, definition)
    with pytest.raises(ValueError, match=r"wkv0 must have shape \(2, 2, 64, 64\)"):
        engine.new_state(1, wkv0[0])


def test_wrong_tokens_are_refused(engine: Engine):
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


def test_extreme_activations_stay_finite():
    """The exponential is clamped; sigmoids saturate where float32's would."""
    weights = dict(WEIGHTS)
    weights["blocks.0.att.w0"] = np.full((1, 1, 128), 300, np.float32)
    weights["blocks.0.att.a0"] = np.full((1, 1, 128), -300, np.float32)
    definition = Definition(weights, 64)
    engine = make_engine(weights, backend="numba")
    state = engine.new_state()
    with np.errstate(over="ignore"):
        assert relative_error(engine.step([4], state)[0], definition.step(4)) < 1e-5


def rounded(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The weights that int8 stands for: matrices rounded row by row, as they are applied to a column."""
    result = dict(weights)
    for name, x in weights.items():
        adapter = name.split(".")[-1] in ("w1", "w2", "v1", "v2", "a1", "a2", "g1", "g2")
        if adapter or (x.ndim == 2 and name.endswith(".weight") and name != "emb.weight"):
            whole, scales = quantised(x.T if adapter else x)
            result[name] = whole.T * scales if adapter else whole * scales[:, None]
    return result


ROUNDED = rounded(WEIGHTS)


def test_quantised_is_within_half_a_step():
    rng = np.random.default_rng(2)
    matrix = (rng.normal(size=(40, 64)) * rng.exponential(size=(40, 1))).astype(np.float32)
    matrix[3] = 0
    whole, scales = quantised(matrix)
    assert (whole.dtype, scales.dtype, scales.shape) == (np.int8, np.float32, (40,))
    assert (np.abs(whole).max(1) == np.where(np.arange(40) == 3, 0, 127)).all()
    assert (np.abs(whole * scales[:, None] - matrix).max(1) <= 0.5001 * scales).all()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("batch", [1, 3, 4, 8])
def test_int8_is_the_definition_of_the_rounded_weights(batch: int, threads: int):
    """A prompt, then steps: every way through the int8 products, of one, four and more inputs."""
    engine = make_engine(WEIGHTS, threads=threads, precision="int8")
    prompt, columns = random_tokens(150), random_tokens(3 * batch).reshape(3, batch)
    state = engine.new_state(batch)
    engine.prefill(prompt, state)
    for column in columns:
        logits = engine.step(column, state)
    for row in {0, batch - 1}:
        definition = Definition(ROUNDED, 64)
        for token in [*prompt, *columns[:, row]]:
            expected = definition.step(token)
        assert relative_error(logits[row], expected) < 1e-5
        assert_state(state, definition, row)


def test_int8_of_other_shapes():
    weights = random_weights(3, 384, 48, seed=4)
    definition, engine = Definition(rounded(weights), 48), make_engine(weights, 48, precision="int8")
    stepped, read, tokens = engine.new_state(), engine.new_state(), random_tokens(12)
    for token in tokens:
        expected, logits = definition.step(token), engine.step([token], stepped)
    assert relative_error(logits[0], expected) < 1e-5
    assert relative_error(engine.prefill(tokens, read)[0], expected) < 1e-5
    assert_state(read, definition)


def test_auto_precision_is_int8_where_it_can_be_had():
    said: list[str] = []
    for options in ({}, {"backend": "torch"}):
        make_engine(WEIGHTS, precision="auto", on_choice=said.append, **options)
    assert said == ["decoding with numba in int8", "decoding with torch, as asked"]


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
    monkeypatch.setattr("midi_rwkv.engine.make.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="numba is not installed; use precision='float32'"):
        make_engine(WEIGHTS, precision="int8")


def test_auto_takes_numba_and_says_so(monkeypatch):
    said: list[str] = []
    assert make_engine(WEIGHTS, on_choice=said.append).name == "numba"
    monkeypatch.setattr("midi_rwkv.engine.make.find_spec", lambda name: None)
    assert make_engine(WEIGHTS, on_choice=said.append).name == "torch"
    assert said == ["decoding with numba", "decoding with torch: numba is not installed"]
    with pytest.raises(ValueError, match="numba is not installed; use backend='torch'"):
        make_engine(WEIGHTS, backend="numba")


def test_auto_takes_torch_for_odd_heads():
    weights, said = random_weights(1, 48, 24), []
    engine = make_engine(weights, 24, on_choice=said.append)
    assert engine.name == "torch"
    assert "multiple of 16" in said[0]


def test_unsuitable_weights_are_refused():
    with pytest.raises(ValueError, match="backend must be one of auto, numba, torch, triton, given 'cuda'"):
        make_engine(WEIGHTS, backend="cuda")
    with pytest.raises(ValueError, match="not the state dict of an RWKV-7"):
        make_engine({"wte": np.zeros((2, 2), np.float32)})
    with pytest.raises(ValueError, match="heads of 64 channels, given head_size=32"):
        make_engine(WEIGHTS, 32)


PROGRAM = """
import sys
from midi_rwkv.engine import numba_engine
print(len(numba_engine.advance("float32")._cache_hits), "torch" in sys.modules)
"""


def run_program(cache: Path) -> str:
    environment = os.environ | {"NUMBA_CACHE_DIR": str(cache)}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, check=True, capture_output=True, text=True
    ).stdout


def test_the_second_process_does_not_compile_and_a_damaged_cache_is_made_anew(tmp_path: Path):
    assert run_program(tmp_path) == "0 False\n"
    files = list(tmp_path.glob("midi-rwkv-*/**/*.nb*"))
    assert len(files) == 2
    assert run_program(tmp_path) == "1 False\n"
    for file in files:
        file.write_bytes(file.read_bytes()[:100])
    assert run_program(tmp_path) == "0 False\n"


def test_an_unusable_cache_folder_is_no_obstacle(tmp_path: Path):
    (tmp_path / "file").write_text("not a folder")
    assert run_program(tmp_path / "file") == "0 False\n"


def test_the_triton_engine_agrees_with_torch():
    """In Triton's interpreter where there is no GPU."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("triton")
    weights = random_weights(2, 64, 32)
    ours, torchs = make_engine(weights, 32, backend="triton"), make_engine(weights, 32, backend="torch")
    limit = 1e-2 if torch.cuda.is_available() else 1e-5  # matrices are bfloat16 on a GPU
    state, expected = ours.new_state(), torchs.new_state()
    assert relative_error(ours.prefill([1, 2, 3, 4], state), torchs.prefill([1, 2, 3, 4], expected)) < limit
    state, expected = state.repeat(2), expected.repeat(2)
    for tokens in ([5, 6], [7, 89]):
        assert relative_error(ours.step(tokens, state), torchs.step(tokens, expected)) < limit
    state, expected = state.concat([state.select([1]), state]), expected.concat([expected.select([1]), expected])
    assert state.batch == 3
    for name in ("att_shift", "ffn_shift", "wkv"):
        assert relative_error(getattr(state, name).cpu().numpy(), getattr(expected, name)) < limit


def test_states_take_turns_in_the_triton_engine(monkeypatch):
    """A state lives in the buffers that a step writes; another one of as many rows must not change it."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("triton")
    engine = make_engine(random_weights(1, 64, 32), 32, backend="triton")
    alone, one, other = (engine.new_state() for _ in range(3))
    expected = [engine.step([token], alone) for token in (3, 9)]
    turns = [[engine.step([token], state) for state in (one, other)] for token in (3, 9)]
    for logits, own in zip(turns, expected, strict=True):
        assert all(np.array_equal(x, own) for x in logits)
    before = [x.clone() for x in one.tensors]
    copies = []
    monkeypatch.setattr(torch.Tensor, "clone", lambda self, **_: copies.append(self))
    engine.step([7], other)  # it is in the buffers already: nothing is copied
    assert not copies
    monkeypatch.undo()
    assert all(torch.equal(x, y) for x, y in zip(one.tensors, before, strict=True))


def test_the_triton_engine_says_why_it_cannot_run(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ValueError, match="no GPU that torch can use; use backend='auto'"):
        make_engine(random_weights(1, 64, 32), 32, backend="triton")
    monkeypatch.setattr("midi_rwkv.engine.make.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="triton is not installed"):
        make_engine(random_weights(1, 64, 32), 32, backend="triton")
