"""Prompts that begin alike: read once as far as they agree, and to the same bits as each by itself."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_rwkv7 import VOCABULARY, random_weights

from midi_rwkv.engine.make import make_engine
from midi_rwkv.engine.prefix import read_from

ENGINES = {
    (precision, threads): make_engine(random_weights(2, 64, 32), 32, precision=precision, threads=threads)
    for precision, threads in (("float32", 1), ("int8", 1), ("int8", 2))
}
TOKENS = np.random.default_rng(0).integers(0, VOCABULARY, 900).tolist()


VECTORS = random_weights(2, 64, 32)["emb.weight"]


def read_alone(engine, sequences):
    states = [engine.new_state() for _ in sequences]
    last = [engine.prefill_vectors(x, state) for x, state in zip(sequences, states, strict=True)]
    return np.concatenate(last), type(states[0]).concat(states)


def same(found, wanted):
    assert np.array_equal(found[0], wanted[0])
    for kind in ("att_shift", "ffn_shift", "wkv"):
        assert np.array_equal(getattr(found[1], kind), getattr(wanted[1], kind))


cut = st.integers(1, 600)
sequence = st.tuples(cut, st.integers(0, 3), st.integers(0, 40))  # common up to there, then one of few endings


@settings(max_examples=25)
@given(st.sampled_from(list(ENGINES)), st.lists(sequence, min_size=1, max_size=5))
def test_they_read_to_the_same_bits(kind, described):
    sequences = [TOKENS[:common] + [ending] * more for common, ending, more in described]
    engine, vectors = ENGINES[kind], [VECTORS[ids] for ids in sequences]
    same(read_from(engine, engine.new_state(), vectors), read_alone(engine, vectors))


@pytest.mark.parametrize(
    ("sequences", "count"),
    [
        ([TOKENS[:300]] * 4, 300),
        ([TOKENS[:1], TOKENS[:3]], 4),
        ([[*TOKENS[:300], i] for i in range(4)], 256 + 4 * 45),
        ([TOKENS[:300], TOKENS[:256], TOKENS[:100]], 128 + 172 + 128 + 100),
        ([[*TOKENS[:600], 1], [*TOKENS[:600], 2], [*TOKENS[:200], 3]], 128 + 73 + 384 + 2 * 89),
    ],
)
def test_what_they_share_is_read_once(sequences, count, monkeypatch):
    engine, counted, vectors = ENGINES["float32", 1], [], [VECTORS[ids] for ids in sequences]
    prefill = engine.prefill_vectors
    monkeypatch.setattr(engine, "prefill_vectors", lambda x, state: counted.append(len(x)) or prefill(x, state))
    found = read_from(engine, engine.new_state(), vectors)
    assert sum(counted) == count
    monkeypatch.undo()
    same(found, read_alone(engine, vectors))
