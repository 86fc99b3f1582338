"""Style files, their names, weights and blends, and what they do to a fill."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from midi_rwkv import Ask
from midi_rwkv.commands.cli import main
from midi_rwkv.commands.convert import convert
from midi_rwkv.errors import StyleError
from midi_rwkv.fill.fingerprint import FILE, line_of, make_fingerprint
from midi_rwkv.fill.infill import Infiller, infill
from midi_rwkv.fill.origin import origins
from midi_rwkv.model.checkpoint import checkpoint_hash
from midi_rwkv.score.score import Note, Region, Score, TimeSignature, Track
from midi_rwkv.style.style import (
    Style,
    blend,
    check_name,
    describe,
    find_style,
    load_style,
    parse_blend,
    read_info,
    save_style,
    style_path,
    styles_folder,
)
from midi_rwkv.tokens.notes import encode

SHAPE = (2, 1, 64, 64)


@pytest.fixture(autouse=True)
def data_folder(tmp_path, monkeypatch):
    """A user's data folder of this test's own."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return styles_folder()


@pytest.fixture
def keep(checkpoint):
    """keep("mine", run=array, ...) keeps a style of the tiny checkpoint by name."""

    def call(name, run=None, wkv=None, **info):
        save_style(
            Style(name, wkv, run, {"base": checkpoint_hash(checkpoint), **info}),
            styles_folder() / f"{name}.safetensors",
        )
        return styles_folder() / f"{name}.safetensors"

    return call


def random_state(seed, scale=3.0):
    return (scale * np.random.default_rng(seed).normal(size=SHAPE)).astype(np.float32)


@pytest.fixture(scope="module")
def song():
    notes = tuple(Note(b * 1920 + k * 480, 60 + (b + k) % 7, 240, 80) for b in range(8) for k in range(4))
    bass = tuple(Note(b * 1920, 36 + b % 5, 960, 80) for b in range(8))
    return Score(480, (Track("Lead", 73, notes), Track("Bass", 33, bass)), (TimeSignature(0, 4, 4),))


REGION = Region.rectangle([0, 1], [(2, 4), (6, 7)])


def fills_of(candidates):
    return [c.fills for c in candidates]


def test_a_style_comes_back_as_it_was_kept(checkpoint, keep):
    run = random_state(0)
    path = keep("my songs", run, files="5")
    found = load_style("my songs", checkpoint)
    assert np.array_equal(found.run, run)
    assert found.wkv is None
    assert (found.name, found.info["files"]) == ("my songs", "5")
    assert np.array_equal(load_style(path, checkpoint).run, run)
    assert sorted(p.name for p in styles_folder().iterdir()) == [path.name]


@pytest.fixture
def whole(checkpoint, song):
    """A style with a state, changed weights and two pieces."""
    rng = np.random.default_rng(5)
    pairs = {}
    for name in ("tables.weight", "heads.out.2.weight", "trunk.blocks.1.ffn.key.weight"):
        rows, columns = checkpoint.weights[name].shape
        shapes = (2, columns), (rows, 2)
        pairs[name] = tuple(rng.normal(0, 0.3, s).astype(np.float16).astype(np.float32) for s in shapes)
    notes = encode(checkpoint.vocabulary, song)
    return Style("whole", run=random_state(3), pairs=pairs, pieces=((notes, 1.0), (notes.part(0, 4), 1.0)))


def test_all_of_a_style_comes_back(checkpoint, whole, song, tmp_path):
    path = tmp_path / "whole.safetensors"
    save_style(whole, path)
    found = load_style(path, checkpoint)
    assert np.array_equal(found.run, whole.run)
    for name, pair in whole.pairs.items():
        for kept, own in zip(found.pairs[name], pair, strict=True):
            assert np.array_equal(kept, own)
    for (kept, weight), (own, _) in zip(found.pieces, whole.pieces, strict=True):
        assert weight == 1
        assert np.array_equal(kept.notes, own.notes)
        assert np.array_equal(kept.offsets, own.offsets)
    one, two = (fills_of(infill(song, Ask(REGION, seed=1), checkpoint, style=s)) for s in (whole, found))
    assert one == two


def test_what_is_tuned_and_what_is_remembered_are_turned_apart(checkpoint, whole, song):
    ask = Ask(REGION, seed=1)
    plain = fills_of(infill(song, ask, checkpoint))
    assert blend([(whole, 1.0)], 0.0) is None
    assert blend([(whole, 0.0)], 1.0, 1.0) is None
    memory, tuned, half = (blend([(whole, 1.0)], s, m) for s, m in ((0.0, 1.0), (1.0, 0.0), (0.5, 0.25)))
    assert memory.run is None
    assert not memory.pairs
    assert not tuned.cells
    assert len(tuned.pieces) == 2  # they may still not be quoted
    assert np.array_equal(half.run, whole.run / 2)
    assert {weight for _, weight in half.pieces} == {0.25}
    name = "heads.out.2.weight"
    change, half_of_it = (s.applied(checkpoint.weights)[name] - checkpoint.weights[name] for s in (whole, half))
    np.testing.assert_allclose(half_of_it, change / 2, atol=1e-5)
    for style in (memory, tuned):
        assert fills_of(infill(song, ask, checkpoint, style=style)) != plain
    both = blend([(whole, 0.5), (whole, 0.5)])
    np.testing.assert_allclose(
        both.applied(checkpoint.weights)[name], whole.applied(checkpoint.weights)[name], atol=1e-5
    )
    assert len(both.pieces) == 4


def test_a_style_that_does_not_remember_keeps_its_pieces(checkpoint, whole, tmp_path):
    path = tmp_path / "forgets.safetensors"
    save_style(replace(whole, info={"memory": "no"}), path)
    found = load_style(path, checkpoint)
    assert len(found.pieces) == 2
    assert not found.cells


def test_quotes_of_the_pieces_are_told_and_can_be_forbidden(checkpoint, tmp_path):
    pitches = np.random.default_rng(0).integers(55, 80, 32).tolist()
    notes = tuple(Note(k * 480, pitch, 240, 80) for k, pitch in enumerate(pitches))
    melody = Score(480, (Track("Lead", 73, notes),), (TimeSignature(0, 4, 4),))
    piece = encode(checkpoint.vocabulary, melody)
    style = Style("mine", pieces=((piece, 0.0),))
    make_fingerprint([]).save(tmp_path / FILE)
    with_fingerprint = replace(checkpoint, path=tmp_path)
    for chosen, runs in ((style, [(0, 32)]), (None, [])):
        assert Infiller(with_fingerprint, style=chosen).writing.fingerprint().runs(line_of(piece, 0)) == runs
    ask = Ask(Region.rectangle([0], [(2, 6)]), seed=1, quotes=12)
    again = {0: notes[8:24]}
    assert [o.longest_own for o in origins(with_fingerprint, melody, ask, [again], style)] == [16]
    assert origins(with_fingerprint, melody, ask, [again])[0].own is None
    fills = fills_of(Infiller(with_fingerprint, style=style)(melody, ask))
    assert origins(with_fingerprint, melody, ask, fills, style)[0].longest_own < 12


def test_a_style_of_an_older_version_is_refused(keep, checkpoint):
    keep("old", random_state(0), format="midi-rwkv style 1")
    with pytest.raises(
        StyleError, match=r"older version \(midi-rwkv style 1\); personalize again from the same pieces"
    ):
        load_style("old", checkpoint)


def test_strength_0_is_exactly_the_base_model(checkpoint, keep, song):
    keep("mine", random_state(0))
    plain = infill(song, Ask(REGION, candidates=2, seed=3), checkpoint)
    nothing = infill(song, Ask(REGION, candidates=2, seed=3), checkpoint, style=find_style("mine", checkpoint, 0.0))
    zero = infill(song, Ask(REGION, candidates=2, seed=3), checkpoint, style="mine:0")
    assert fills_of(plain) == fills_of(nothing) == fills_of(zero)
    assert find_style("mine", checkpoint, 0.0) is None
    full = infill(song, Ask(REGION, candidates=2, seed=3), checkpoint, style="mine")
    assert fills_of(full) != fills_of(plain)


def with_empty_bar(song):
    """Without the notes of the fourth bar, so that every candidate is asked for the same."""
    return song.with_fill(Region.rectangle([0], [(3, 4)]), {0: ()})


@pytest.mark.parametrize("place", ["run", "wkv"])
def test_a_state_is_put_in_its_place(checkpoint, model, song, place):
    """What the heads read before the first note is that of the plain form with the state put in by hand."""
    state = random_state(1)
    infiller = Infiller(checkpoint, style=Style("mine", **{place: state}), precision="float32")
    seen = []
    prefill = infiller.engine.prefill_vectors

    def spy(vectors, rows):
        h = prefill(vectors, rows)
        seen.append((vectors.copy(), h.copy()))
        return h

    infiller.engine.prefill_vectors = spy
    infiller(with_empty_bar(song), Ask(Region.rectangle([0], [(3, 4)]), seed=0))
    [(prompt, _), (cell, found)] = seen  # the context is read once
    start = model.trunk.new_state(1)
    if place == "wkv":
        start.wkv += torch.from_numpy(state)[:, None]
    with torch.no_grad():
        _, after = model.trunk.hidden(torch.from_numpy(prompt)[None], start)
        if place == "run":
            after.wkv += torch.from_numpy(state)[:, None]
        expected, _ = model.trunk.hidden(torch.from_numpy(cell)[None], after)
    np.testing.assert_allclose(found[0], expected[0, -1].numpy(), rtol=1e-3, atol=1e-3)


def test_candidates_that_read_the_same_read_it_once(checkpoint, keep, song):
    keep("mine", random_state(0))
    infiller = Infiller(checkpoint, style=find_style("mine", checkpoint))
    rows = []
    prefill = infiller.engine.prefill_vectors
    infiller.engine.prefill_vectors = lambda x, state: rows.append(state.batch) or prefill(x, state)
    infiller(with_empty_bar(song), Ask(Region.rectangle([0], [(3, 4)]), candidates=3, seed=0))
    assert rows == [1, 1]


def test_blends_are_weighted_sums(checkpoint, keep):
    a, b = random_state(0), random_state(1)
    keep("a", a)
    keep("b", b)
    mixed = find_style("a:0.7,b:0.3", checkpoint, 0.5)
    np.testing.assert_allclose(mixed.run, 0.35 * a + 0.15 * b, rtol=1e-5, atol=1e-6)
    assert mixed.name == "a:0.35+b:0.15"
    assert np.array_equal(find_style("a", checkpoint).run, a)
    both = blend([(Style("x", wkv=a), 0.5), (Style("y", run=b), 1.0)])
    np.testing.assert_allclose(both.wkv, 0.5 * a)
    np.testing.assert_allclose(both.run, b)


@given(
    st.lists(
        st.tuples(st.from_regex(r"[a-z][a-z0-9 _.-]{0,9}[a-z]", fullmatch=True), st.integers(0, 100)),
        min_size=1,
        max_size=4,
    )
)
def test_what_is_written_as_a_blend_is_read_as_one(parts):
    text = ",".join(f"{name}:{weight / 100}" for name, weight in parts)
    assert parse_blend(text) == [(name, weight / 100) for name, weight in parts]
    assert parse_blend(",".join(name for name, _ in parts)) == [(name, 1.0) for name, _ in parts]


def test_a_path_may_hold_a_colon():
    assert parse_blend(r"C:\styles\mine.safetensors") == [(r"C:\styles\mine.safetensors", 1.0)]
    assert parse_blend(r"C:\styles\mine.safetensors:0.5") == [(r"C:\styles\mine.safetensors", 0.5)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gone", "no style is called 'gone'; there are: mine"),
        ("gone.safetensors", "no style file gone.safetensors"),
        ("../mine", "no style file ../mine"),
        ("mine:1.5", "weight must lie in 0-1, got 1.5 for mine"),
        ("mine:-1", "weight must lie in 0-1"),
        ("mine:nan", "weight must lie in 0-1"),
        ("mine,", "NAME or NAME:WEIGHT"),
        ("", "NAME or NAME:WEIGHT"),
        (":0.5", "no style is called ':0.5'"),
    ],
)
def test_bad_texts_are_refused(checkpoint, keep, text, words):
    keep("mine", random_state(0))
    with pytest.raises(ValueError, match=re.escape(words)):
        find_style(text, checkpoint)


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "a:b", "a,b", "x" * 65, "mine.safetensors", "a\nb"])
def test_bad_names_are_refused(name):
    with pytest.raises(ValueError, match="a style's name is letters"):
        check_name(name)


def test_a_style_of_another_checkpoint_is_refused(checkpoint, keep):
    path = keep("mine", random_state(0), base="0123456789abcdef")
    with pytest.raises(ValueError, match=r"mine was tuned on another checkpoint \(0123456789abcdef\)"):
        load_style(path, checkpoint)
    keep("wide", np.zeros((2, 2, 64, 64), np.float32))
    with pytest.raises(ValueError, match=r"holds 'run' of shape \(2, 2, 64, 64\)"):
        load_style("wide", checkpoint)
    keep("broken", np.full(SHAPE, np.nan, np.float32))
    with pytest.raises(ValueError, match="holds values that are no numbers"):
        load_style("broken", checkpoint)


def test_a_model_without_a_state_takes_no_style(checkpoint, keep):
    keep("mine", random_state(0))
    other = replace(checkpoint, config=replace(checkpoint.config, arch="transformer"))
    with pytest.raises(ValueError, match="is a transformer, which has no state to tune; leave the style out"):
        find_style("mine", other)


def test_strength_needs_a_style_and_lies_in_0_to_1(checkpoint, keep):
    keep("mine", random_state(0))
    with pytest.raises(ValueError, match="needs a style"):
        find_style(None, checkpoint, 0.5)
    with pytest.raises(ValueError, match="strength must lie in 0-1, got 2"):
        find_style("mine", checkpoint, 2.0)


def test_a_full_disk_leaves_the_old_style(keep, monkeypatch):
    path = keep("mine", random_state(0))
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OSError, match=r"mine.safetensors could not be written: No space left on device"):
        keep("mine", random_state(1))
    assert path.read_bytes() == before
    assert len(list(styles_folder().iterdir())) == 1


def test_the_command_lists_shows_and_removes(keep, capsys):
    assert main(["styles"]) == 0
    assert "midi-rwkv personalize my1.mid my2.mid --name mine" in capsys.readouterr().out
    gain = {"setting": "all", "before": 2.0, "after": 1.9, "low": -0.12, "high": -0.08}
    facts = {"files": "5", "bars": "64", "notes": "900", "date": "2026-01-02"}
    path = keep("mine", random_state(0), gains=json.dumps([gain]), **facts)
    keep("plain", random_state(0))
    assert main(["styles"]) == 0
    line = (
        "5 files, 64 bars, 900 notes; held out 2.000 -> 1.900 nats a note (95 % between -0.120 and -0.080); 2026-01-02"
    )
    assert f"mine   {line}" in capsys.readouterr().out
    assert describe(read_info(path)) == line
    assert main(["styles", "mine"]) == 0
    assert '  gains: [{"setting": "all"' in capsys.readouterr().out
    assert main(["styles", "mine", "--remove"]) == 0
    assert not path.exists()
    assert main(["styles", "mine", "--remove"]) == 2
    assert "no style is called 'mine'; there are: plain" in capsys.readouterr().err
    assert style_path("plain").exists()


def test_rwkv_peft_files_come_in_and_go_out(checkpoint, keep, song, tmp_path):
    state = random_state(2)
    keep("mine", state)
    convert(style_path("mine"), tmp_path / "state.pth")
    saved = torch.load(tmp_path / "state.pth", weights_only=True)
    assert np.array_equal(saved["blocks.1.att.time_state"].numpy(), state[1].transpose(0, 2, 1))
    convert(tmp_path / "state.pth", tmp_path / "back.safetensors")
    back = load_style(tmp_path / "back.safetensors", checkpoint)
    assert np.array_equal(back.wkv, state)
    assert infill(song, Ask(REGION, seed=1), checkpoint, style=back)
    save_style(Style("both", state, state), tmp_path / "both.safetensors")
    with pytest.raises(ValueError, match="has room for one"):
        convert(tmp_path / "both.safetensors", tmp_path / "both.pth")
