"""The Transformer that RWKV-7 is measured against: its size, its equations, its cache, and all that is made with it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from midi_rwkv import Ask, Infiller, Note, Region, Score, Track, load_checkpoint
from midi_rwkv.commands.cli import main
from midi_rwkv.engine.make import make_engine
from midi_rwkv.evaluation.transformer import KeyValueCache, Transformer, TransformerEngine, module_of
from midi_rwkv.model.checkpoint import CheckpointError, parameter_shapes, save_checkpoint
from midi_rwkv.model.config import PRESETS, ModelConfig, SamplingConfig
from midi_rwkv.score.score import Cell, TimeSignature

CONFIG = ModelConfig(n_layer=3, n_embd=48, vocab_size=90, head_size=16, arch="transformer")


def random_transformer(config: ModelConfig = CONFIG, seed: int = 0) -> Transformer:
    """No parameter at its initial value: norms apart from 1, nothing zero."""
    torch.manual_seed(seed)
    model = Transformer(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p) if p.ndim == 1 else torch.randn_like(p) / p.shape[-1] ** 0.5)
    return model


def random_ids(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, CONFIG.vocab_size, shape))


def parameters(config: ModelConfig) -> int:
    return sum(int(np.prod(s)) for s in parameter_shapes(config).values())


@pytest.fixture(scope="module")
def model() -> Transformer:
    return random_transformer()


@pytest.fixture(scope="module")
def engine(model) -> TransformerEngine:
    return TransformerEngine(model)


@pytest.mark.parametrize("preset", PRESETS)
def test_it_is_as_large_as_the_rwkv_of_its_shape(preset: str):
    rwkv = PRESETS[preset]
    transformer = replace(rwkv, arch="transformer")
    assert parameters(transformer) / parameters(rwkv) == pytest.approx(1, abs=0.01)
    with torch.device("meta"):
        module = Transformer(transformer)
    assert {k: tuple(v.shape) for k, v in module.state_dict().items()} == parameter_shapes(transformer)


def test_a_fresh_model_adds_nothing_to_the_stream():
    """Output and down projections are zero, so that the logits are those of the embedding alone."""
    fresh, ids = Transformer(CONFIG), random_ids(1, 9)
    logits, state = fresh(ids)
    assert state is None
    torch.testing.assert_close(logits, fresh.head(fresh.norm_out(fresh.emb(ids))))
    assert logits.std() > 0.1


def test_a_later_id_does_not_change_an_earlier_logit(model):
    ids = random_ids(2, 20)
    other = ids.clone()
    other[:, 12] = (other[:, 12] + 1) % CONFIG.vocab_size
    with torch.no_grad():
        a, b = model(ids)[0], model(other)[0]
    assert torch.equal(a[:, :12], b[:, :12])
    assert (a[:, 12:] - b[:, 12:]).abs().amax(-1).min() > 1e-3  # all of what follows has read it


def norm(x: np.ndarray, weight: torch.Tensor) -> np.ndarray:
    return x / np.sqrt((x**2).mean() + 1e-6) * weight.numpy()


def turned(x: np.ndarray, position: int) -> np.ndarray:
    """Rotary embedding: pair (i, i + D / 2) as a complex number, turned by position / 10000^(2 i / D)."""
    half = len(x) // 2
    z = (x[:half] + 1j * x[half:]) * np.exp(1j * position * 10_000.0 ** (-np.arange(half) / half))
    return np.concatenate([z.real, z.imag])


def definition(model: Transformer, ids: list[int]) -> np.ndarray:
    """Logits (T, V) from the equations, one position, head and key at a time, in float64."""
    D = model.config.head_size
    stream = [model.emb.weight[i].numpy() for i in ids]
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
    return np.stack([model.head.weight.numpy() @ norm(x, model.norm_out.weight) for x in stream])


def test_it_agrees_with_the_equations():
    exact = random_transformer().double().requires_grad_(requires_grad=False)
    ids = random_ids(1, 23)
    expected = definition(exact, ids[0].tolist())
    got = exact(ids)[0][0].numpy()
    error = np.linalg.norm(got - expected) / np.linalg.norm(expected)
    assert error < 1e-5, f"relative error {error:.1e}"  # the angles are float32


def test_step_by_step_is_the_whole_sequence(model):
    """Two rows that have read different numbers of ids go on together."""
    lengths, together = (3, 11), 17
    ids = random_ids(2, max(lengths) + together)
    with torch.no_grad():
        states = []
        for row, length in enumerate(lengths):
            states.append(model.new_state())
            model(ids[row : row + 1, :length], states[-1])
        state = KeyValueCache.concat(states)
        assert state.lengths.tolist() == list(lengths)
        for step in range(together):
            column = torch.stack([ids[row, length + step] for row, length in enumerate(lengths)])
            logits, _ = model(column[:, None], state)
            for row, length in enumerate(lengths):
                whole = model(ids[row : row + 1, : length + step + 1])[0][0, -1]
                assert (logits[row, 0] - whole).abs().max() < 1e-4


def test_pieces_of_any_length_are_the_whole(model):
    ids = random_ids(2, 40)
    state, pieces = model.new_state(2), []
    with torch.no_grad():
        for piece in ids.split([1, 7, 2, 29, 1], 1):
            pieces.append(model(piece, state)[0])
        whole = model(ids)[0]
    assert (torch.cat(pieces, 1) - whole).abs().max() < 1e-4
    assert state.lengths.tolist() == [40, 40]


def test_the_engine_gives_the_modules_logits(model, engine):
    ids = random_ids(30)
    state = engine.new_state(2)
    logits = engine.prefill(ids[:25].tolist(), state)
    assert logits.shape == (2, CONFIG.vocab_size)
    assert logits.dtype == np.float32
    for a in ids[25:]:
        b = (a + 5) % CONFIG.vocab_size
        logits = engine.step([int(a), int(b)], state)
    with torch.no_grad():
        rows = torch.stack([ids, torch.cat([ids[:25], (ids[25:] + 5) % CONFIG.vocab_size])])
        expected = model(rows)[0][:, -1].numpy()
    assert np.abs(logits - expected).max() < 1e-4


def test_rows_are_selected_repeated_and_joined(engine):
    """As the writing of several candidates needs it: each row keeps what it alone has read."""

    def alone(*lists: list[int]) -> np.ndarray:
        state = engine.new_state()
        return [engine.prefill(ids, state) for ids in lists][-1][0]

    short, long = engine.new_state(), engine.new_state()
    engine.prefill([1, 2, 3], short)
    engine.prefill(list(range(20)), long)
    kept = long.copy()
    both = type(short).concat([long, short])
    many = both.repeat(2)
    assert many.batch == 4
    logits = engine.step([4, 5, 6, 7], many)
    for row, ids in enumerate(([*range(20), 4], [*range(20), 5], [1, 2, 3, 6], [1, 2, 3, 7])):
        assert np.abs(logits[row] - alone(ids)).max() < 1e-4
    some = many.select([3, 0])
    logits = engine.step([8, 9], some)
    assert np.abs(logits[0] - alone([1, 2, 3, 7, 8])).max() < 1e-4
    assert np.abs(logits[1] - alone([*range(20), 4, 9])).max() < 1e-4
    assert many.lengths.tolist() == [21, 21, 4, 4]  # a selection is a copy
    assert np.abs(engine.step([30], kept)[0] - alone([*range(20), 30])).max() < 1e-4
    assert np.abs(engine.step([30], short)[0] - alone([1, 2, 3, 30])).max() < 1e-4


def test_what_is_for_an_rwkv7_is_refused(model, engine):
    weights = {k: v.numpy() for k, v in model.state_dict().items()}
    for backend in ("auto", "numba", "torch"):
        with pytest.raises(ValueError, match="a Transformer's weights, which only `evaluate` runs"):
            make_engine(weights, 16, backend=backend)
    with pytest.raises(ValueError, match="no initial state to tune"):
        engine.new_state(1, np.zeros((3, 3, 16, 16), np.float32))
    with pytest.raises(ValueError, match="0-89, given 90"):
        engine.prefill([90], engine.new_state())
    with pytest.raises(ValueError, match="each of the state's 2 rows"):
        engine.step([1], engine.new_state(2))


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    """A tiny Transformer's checkpoint, its weights random."""
    config = ModelConfig(n_layer=2, n_embd=64, vocab_size=tokenizer.vocab_size, arch="transformer")
    folder = tmp_path_factory.mktemp("transformer")
    save_checkpoint(folder, config, random_transformer(config).state_dict(), tokenizer, training={"seq_len": 512})
    return folder


def test_a_checkpoint_comes_back_as_it_went_out(folder):
    checkpoint = load_checkpoint(folder)
    saved = random_transformer(checkpoint.config).state_dict()
    assert checkpoint.config.arch == "transformer"
    assert set(checkpoint.weights) == set(saved)
    for name, x in saved.items():
        np.testing.assert_array_equal(checkpoint.weights[name], x.to(torch.bfloat16).float().numpy())
    with pytest.raises(CheckpointError, match="is a transformer; name an RWKV-7's checkpoint"):
        checkpoint.model()
    module = module_of(checkpoint)
    assert isinstance(module, Transformer)
    assert not module.training
    ids = random_ids(1, 12)
    engine = TransformerEngine(module)
    with torch.no_grad():
        expected = module(ids)[0][:, -1].numpy()
    assert np.abs(engine.prefill(ids[0].tolist(), engine.new_state()) - expected).max() < 1e-4


def test_weights_of_the_other_architecture_are_refused(folder, checkpoint_folder, tmp_path):
    for name, source in (("config.json", folder), ("tokenizer.json", folder), ("model.safetensors", checkpoint_folder)):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    with pytest.raises(CheckpointError, match=r"wrong config\.json"):
        load_checkpoint(tmp_path)


def test_it_fills_a_song(folder):
    notes = tuple(Note(b * 1920 + k * 480, 60 + (b + k) % 7, 400, 80) for b in range(12) for k in range(4))
    bass = tuple(Note(b * 1920, 40 + b % 5, 1900, 90) for b in range(12))
    tracks = (Track("a", 0, notes), Track("b", 33, bass))
    score = Score(480, tracks, (TimeSignature(0, 4, 4),), end_ticks=12 * 1920)
    region = Region(frozenset({Cell(0, 3), Cell(0, 4), Cell(1, 4), Cell(0, 8)}))
    sampling = SamplingConfig(density=(2, 12))
    checkpoint = load_checkpoint(folder)
    infiller = Infiller(checkpoint, engine=TransformerEngine(module_of(checkpoint)))
    fill = [infiller(score, Ask(region, sampling, candidates=2, seed=seed)) for seed in (1, 1, 2)]
    assert [c.fills for c in fill[0]] == [c.fills for c in fill[1]] != [c.fills for c in fill[2]]
    for candidate in fill[0]:
        for t, track in enumerate(score.tracks):
            kept = [n for n in track.notes if (t, score.bar_index_at(n.onset_ticks)) not in region.cells]
            new = candidate.fills[t]
            assert sorted([*kept, *new]) == list(candidate.score.tracks[t].notes)
            assert {(t, score.bar_index_at(n.onset_ticks)) for n in new} == {c for c in region.cells if c[0] == t}


def test_convert_refuses_it_in_one_line(folder, tmp_path, capsys):
    assert main(["convert", str(folder), str(tmp_path / "out.pth")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "is a transformer; only an RWKV-7 becomes an RWKV-LM .pth" in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
