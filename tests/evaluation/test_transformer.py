"""The Transformer that RWKV-7 is measured against: its size, its equations, its cache, and all that is made with it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from song import random_song, vocabulary

from midi_rwkv import Ask, Infiller, Note, Region, Score, Track, load_checkpoint
from midi_rwkv.commands.cli import main
from midi_rwkv.engine.make import make_engine
from midi_rwkv.errors import CheckpointError
from midi_rwkv.evaluation.transformer import TransformerEngine, engine_of
from midi_rwkv.model.config import ModelConfig, SamplingConfig
from midi_rwkv.model.step_checkpoint import save_step_checkpoint, step_model_of
from midi_rwkv.model.steps import StepModel
from midi_rwkv.model.transformer import KeyValueCache, Transformer
from midi_rwkv.model.weights import trunk_shapes
from midi_rwkv.score.score import Cell, TimeSignature
from midi_rwkv.tokens.layout import Window, prompt_steps

CONFIG = ModelConfig(n_layer=3, n_embd=48, vocab_size=0, head_size=16, arch="transformer")
STEPS = ModelConfig(n_layer=2, n_embd=64, vocab_size=0, arch="transformer")


def randomised(model: torch.nn.Module) -> None:
    """Leaves no parameter at its initial value: norms apart from 1, nothing zero."""
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p) if p.ndim == 1 else torch.randn_like(p) / p.shape[-1] ** 0.5)


def random_transformer(config: ModelConfig = CONFIG, seed: int = 0) -> Transformer:
    torch.manual_seed(seed)
    model = Transformer(config).eval()
    randomised(model)
    return model


def random_vectors(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(*shape, CONFIG.n_embd)).astype(np.float32))


def parameters(config: ModelConfig) -> int:
    return sum(int(np.prod(s)) for s in trunk_shapes(config).values())


@pytest.fixture(scope="module")
def model() -> Transformer:
    return random_transformer()


@pytest.fixture(scope="module")
def engine(model: Transformer) -> TransformerEngine:
    return TransformerEngine(model)


@pytest.mark.parametrize("shape", [(8, 256), (4, 384), (12, 384)])
def test_it_is_as_large_as_the_rwkv_of_its_shape(shape: tuple[int, int]) -> None:
    rwkv = ModelConfig(n_layer=shape[0], n_embd=shape[1], vocab_size=0)
    transformer = replace(rwkv, arch="transformer")
    assert parameters(transformer) / parameters(rwkv) == pytest.approx(1, abs=0.01)
    with torch.device("meta"):
        module = Transformer(transformer)
    assert {k: tuple(v.shape) for k, v in module.state_dict().items()} == trunk_shapes(transformer)


def test_a_fresh_model_adds_nothing_to_the_stream() -> None:
    """Output and down projections are zero, so that only the norms are left."""
    fresh, x = Transformer(CONFIG), random_vectors(1, 9)
    h, state = fresh.hidden(x)
    assert state is None
    torch.testing.assert_close(h, fresh.norm_out(fresh.norm_in(x)))


@torch.no_grad()
def test_a_later_vector_does_not_change_an_earlier_output(model: Transformer) -> None:
    x = random_vectors(2, 20)
    other = x.clone()
    other[:, 12] += 1
    a, b = model.hidden(x)[0], model.hidden(other)[0]
    assert torch.equal(a[:, :12], b[:, :12])
    assert (a[:, 12:] - b[:, 12:]).abs().amax(-1).min() > 1e-3  # all of what follows has read it


def norm(x: np.ndarray, weight: torch.Tensor) -> np.ndarray:
    return x / np.sqrt((x**2).mean() + 1e-6) * weight.numpy()


def turned(x: np.ndarray, position: int) -> np.ndarray:
    """Rotary embedding: pair (i, i + D / 2) as a complex number, turned by position / 10000^(2 i / D)."""
    half = len(x) // 2
    z = (x[:half] + 1j * x[half:]) * np.exp(1j * position * 10_000.0 ** (-np.arange(half) / half))
    return np.concatenate([z.real, z.imag])


def definition(model: Transformer, vectors: np.ndarray) -> np.ndarray:
    """Outputs (T, C) from the equations, one position, head and key at a time, in float64."""
    D = model.config.head_size
    stream = [norm(x, model.norm_in.weight) for x in vectors]
    for block in model.layers():
        att, ffn = block.att, block.ffn
        inputs = [norm(x, block.att_norm.weight) for x in stream]
        outputs = [np.zeros_like(x) for x in stream]
        for head in (slice(h * D, (h + 1) * D) for h in range(model.config.n_head)):
            keys = [
                turned(norm(att.key.weight.numpy()[head] @ x, att.key_norm.weight), t) for t, x in enumerate(inputs)
            ]
            values = [att.value.weight.numpy()[head] @ x for x in inputs]
            for t, x in enumerate(inputs):
                query = turned(norm(att.query.weight.numpy()[head] @ x, att.query_norm.weight), t)
                weight = np.exp([query @ key / D**0.5 for key in keys[: t + 1]])
                outputs[t][head] = sum(w * v for w, v in zip(weight / weight.sum(), values, strict=False))
        stream = [x + att.output.weight.numpy() @ y for x, y in zip(stream, outputs, strict=True)]
        for t, x in enumerate(stream):
            h = norm(x, block.ffn_norm.weight)
            gate, up = ffn.gate.weight.numpy() @ h, ffn.up.weight.numpy() @ h
            stream[t] = x + ffn.down.weight.numpy() @ (gate / (1 + np.exp(-gate)) * up)
    return np.stack([norm(x, model.norm_out.weight) for x in stream])


def test_it_agrees_with_the_equations() -> None:
    exact = random_transformer().double().requires_grad_(requires_grad=False)
    x = random_vectors(1, 23).double()
    expected = definition(exact, x[0].numpy())
    got = exact.hidden(x)[0][0].numpy()
    error = np.linalg.norm(got - expected) / np.linalg.norm(expected)
    assert error < 1e-5, f"relative error {error:.1e}"  # the angles are float32


@torch.no_grad()
def test_step_by_step_is_the_whole_sequence(model: Transformer) -> None:
    """Two rows that have read different numbers of vectors go on together."""
    lengths, together = (3, 11), 17
    x = random_vectors(2, max(lengths) + together)
    states = []
    for row, length in enumerate(lengths):
        states.append(model.new_state())
        model.hidden(x[row : row + 1, :length], states[-1])
    state = KeyValueCache.concat(states)
    assert state.lengths.tolist() == list(lengths)
    for step in range(together):
        column = torch.stack([x[row, length + step] for row, length in enumerate(lengths)])
        h, _ = model.hidden(column[:, None], state)
        for row, length in enumerate(lengths):
            whole = model.hidden(x[row : row + 1, : length + step + 1])[0][0, -1]
            assert (h[row, 0] - whole).abs().max() < 1e-4


@torch.no_grad()
def test_pieces_of_any_length_are_the_whole(model: Transformer) -> None:
    x = random_vectors(2, 40)
    state = model.new_state(2)
    pieces = [model.hidden(piece, state)[0] for piece in x.split([1, 7, 2, 29, 1], 1)]
    assert (torch.cat(pieces, 1) - model.hidden(x)[0]).abs().max() < 1e-4
    assert state.lengths.tolist() == [40, 40]


@torch.no_grad()
def test_packed_samples_do_not_meet(model: Transformer) -> None:
    x = random_vectors(2, 50)
    starts = torch.zeros(2, 50, dtype=torch.bool)
    places = ((0, 0, 20), (0, 20, 21), (0, 21, 50), (1, 0, 33), (1, 33, 50))
    for row, first, _ in places:
        starts[row, first] = True
    packed = model.hidden(x, starts=starts)[0]
    for row, first, last in places:
        assert (packed[row, first:last] - model.hidden(x[row : row + 1, first:last])[0][0]).abs().max() < 1e-4
    with pytest.raises(ValueError, match="give it or a state, not both"):
        model.hidden(x, model.new_state(2), starts)


@torch.no_grad()
def test_the_engine_gives_the_modules_outputs(model: Transformer, engine: TransformerEngine) -> None:
    """Also over several blocks of a long prompt, whose cut changes no bit."""
    prompt = 2 * engine.block_tokens + 25
    x, last = random_vectors(prompt + 5), random_vectors(5, seed=2)
    state, cut = engine.new_state(2), engine.new_state(2)
    h = engine.prefill_vectors(x[:prompt].numpy(), state)
    engine.prefill_vectors(x[: engine.block_tokens].numpy(), cut)
    assert np.array_equal(h, engine.prefill_vectors(x[engine.block_tokens : prompt].numpy(), cut))
    assert h.shape == (2, CONFIG.n_embd)
    assert h.dtype == np.float32
    for a, b in zip(x[prompt:], last, strict=True):
        h = engine.step_vectors(torch.stack([a, b]).numpy(), state)
    rows = torch.stack([x, torch.cat([x[:prompt], last])])
    assert np.abs(h - model.hidden(rows)[0][:, -1].numpy()).max() < 1e-4


def test_rows_are_selected_repeated_and_joined(engine: TransformerEngine) -> None:
    """As the writing of several candidates needs it: each row keeps what it alone has read."""
    table = random_vectors(40).numpy()

    def alone(*places: int) -> np.ndarray:
        return engine.prefill_vectors(table[list(places)], engine.new_state())[0]

    def step(places: list[int], state: KeyValueCache) -> np.ndarray:
        return engine.step_vectors(table[places], state)

    short, long = engine.new_state(), engine.new_state()
    engine.prefill_vectors(table[1:4], short)
    engine.prefill_vectors(table[:20], long)
    kept = long.copy()
    both = type(short).concat([long, short])
    many = both.repeat(2)
    assert many.batch == 4
    h = step([4, 5, 6, 7], many)
    for row, places in enumerate(([*range(20), 4], [*range(20), 5], [1, 2, 3, 6], [1, 2, 3, 7])):
        assert np.abs(h[row] - alone(*places)).max() < 1e-4
    some = many.select([3, 0])
    h = step([8, 9], some)
    assert np.abs(h[0] - alone(1, 2, 3, 7, 8)).max() < 1e-4
    assert np.abs(h[1] - alone(*range(20), 4, 9)).max() < 1e-4
    assert many.lengths.tolist() == [21, 21, 4, 4]  # a selection is a copy
    assert np.abs(step([30], kept)[0] - alone(*range(20), 30)).max() < 1e-4
    assert np.abs(step([30], short)[0] - alone(1, 2, 3, 30)).max() < 1e-4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Transformer's checkpoint, its weights random."""
    torch.manual_seed(0)
    model = StepModel(STEPS, vocabulary().sizes)
    randomised(model.trunk)
    folder = tmp_path_factory.mktemp("transformer")
    save_step_checkpoint(folder, STEPS, model.state_dict(), vocabulary(), context=512, training={})
    return folder


def test_what_is_for_an_rwkv7_is_refused(
    model: Transformer, engine: TransformerEngine, folder: Path, checkpoint_folder: Path
) -> None:
    weights = {k: v.numpy() for k, v in model.state_dict().items()}
    for backend in ("auto", "numba", "torch"):
        with pytest.raises(ValueError, match="a Transformer's weights, which only `evaluate` runs"):
            make_engine(weights, 16, backend=backend)
    with pytest.raises(ValueError, match="no initial state to tune"):
        engine.new_state(1, np.zeros((3, 3, 16, 16), np.float32))
    with pytest.raises(ValueError, match="of 48 numbers each"):
        engine.prefill_vectors(np.zeros((3, 40), np.float32), engine.new_state())
    with pytest.raises(ValueError, match="each of the state's 2 rows"):
        engine.step_vectors(np.zeros((1, 48), np.float32), engine.new_state(2))
    with pytest.raises(CheckpointError, match="is an rwkv7; name a Transformer's checkpoint"):
        engine_of(load_checkpoint(checkpoint_folder))
    rwkv = step_model_of(load_checkpoint(checkpoint_folder))
    state = rwkv.trunk.new_state(1)
    with pytest.raises(ValueError, match="no initial state to tune; leave the style out"):
        step_model_of(load_checkpoint(folder)).hidden(torch.zeros(1, 3, 0, dtype=torch.int16), state)


def test_a_checkpoint_comes_back_as_it_went_out(folder: Path) -> None:
    checkpoint = load_checkpoint(folder)
    assert checkpoint.config == STEPS
    model = step_model_of(checkpoint)
    assert isinstance(model.trunk, Transformer)
    assert not model.training
    steps = prompt_steps(vocabulary(), random_song(0), Window(5, 7, 0, 12), [0], [(0, 5), (0, 6)])
    x = torch.from_numpy(steps[None])
    engine = engine_of(checkpoint)
    with torch.no_grad():
        expected = model.hidden(x)[:, -1].numpy()
        vectors = model.tables(x)[0].numpy()
    assert np.abs(engine.prefill_vectors(vectors, engine.new_state()) - expected).max() < 1e-4


def test_weights_of_the_other_architecture_are_refused(folder: Path, checkpoint_folder: Path, tmp_path: Path) -> None:
    for name, source in (
        ("config.json", folder),
        ("tokenizer.json", folder),
        ("model.safetensors", checkpoint_folder),
    ):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    with pytest.raises(CheckpointError, match=r"wrong config\.json"):
        load_checkpoint(tmp_path)


def test_it_fills_a_song(folder: Path) -> None:
    notes = tuple(Note(b * 1920 + k * 480, 60 + (b + k) % 7, 400, 80) for b in range(12) for k in range(4))
    bass = tuple(Note(b * 1920, 40 + b % 5, 1900, 90) for b in range(12))
    tracks = (Track("a", 0, notes), Track("b", 33, bass))
    score = Score(480, tracks, (TimeSignature(0, 4, 4),), end_ticks=12 * 1920)
    region = Region(frozenset({Cell(0, 3), Cell(0, 4), Cell(1, 4), Cell(0, 8)}))
    sampling = SamplingConfig(density=(2, 12))
    checkpoint = load_checkpoint(folder)
    infiller = Infiller(checkpoint, engine=engine_of(checkpoint))
    fill = [infiller(score, Ask(region, sampling, candidates=2, seed=seed)) for seed in (1, 1, 2)]
    assert [c.fills for c in fill[0]] == [c.fills for c in fill[1]] != [c.fills for c in fill[2]]
    for candidate in fill[0]:
        for t, track in enumerate(score.tracks):
            kept = [n for n in track.notes if (t, score.bar_index_at(n.onset_ticks)) not in region.cells]
            new = candidate.fills[t]
            assert sorted([*kept, *new]) == list(candidate.score.tracks[t].notes)
            assert {(t, score.bar_index_at(n.onset_ticks)) for n in new} == {c for c in region.cells if c[0] == t}


def test_convert_refuses_it_in_one_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", str(folder), str(tmp_path / "out.pth")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "is a transformer; only an RWKV-7 becomes an RWKV-LM .pth" in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
