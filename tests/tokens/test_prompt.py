"""The prompt says what it should, hides what is masked, and keeps to its budget."""

import numpy as np
import pytest

from midi_rwkv.corpus.shards import Shard, write_shard
from midi_rwkv.score.score import Cell, Note, Score, TimeSignature, Track
from midi_rwkv.tokens.prompt import ORDERS, PromptTokens, Shown, build_prompt, control_ids, prompt_budget
from midi_rwkv.training.dataset import FILL, NOT_MUSIC, RegionSampler, TrainingRows, count_notes, validation_samples


@pytest.fixture(scope="module")
def score():
    def part(pitch, silent=()):
        return tuple(
            Note(b * 1920 + k * 480, pitch + b % 12 + k, 240, 80)
            for b in range(20)
            if b not in silent
            for k in range(4)
        )

    tracks = (
        Track("lead", 73, part(70)),
        Track("bass", 33, part(30, silent=range(15))),
        Track("drums", 0, tuple(n._replace(pitch=36) for n in part(36)), is_drum=True),
    )
    return Score(480, tracks, (TimeSignature(0, 4, 4),))


@pytest.fixture(scope="module")
def song(tokenizer, score):
    return tokenizer.encode(score)


@pytest.fixture(scope="module")
def tokens(tokenizer):
    return PromptTokens(tokenizer)


def names(tokenizer, ids):
    return [tokenizer.base_names[b] for i in ids for b in tokenizer.expansions[i]]


def test_layout(tokenizer, tokens, song):
    prompt = build_prompt(tokens, song, {8: (0,), 9: (0,)}, Shown(context_bars=2))
    asked = names(tokenizer, prompt.asked)
    assert asked[0] == "BOS_None"
    assert asked[1].startswith("Tempo")
    assert asked[2:] == ["Infill_Track", "Program_73", "Infill_Bar", "Infill_Bar"]
    assert (prompt.first_bar, prompt.last_bar) == (6, 12)
    context = names(tokenizer, prompt.context)
    before = context.index("Context_Before")
    assert context[0] == "Context_After"
    assert context[-1] == "Context_Middle"
    assert context[:before].count("Bar_None") == context[before:].count("Bar_None") == 2
    assert "Program_33" not in context, "a track silent in what is shown is left out"
    assert "Song_Start" not in context
    assert "Song_End" not in context
    given = names(tokenizer, prompt.bars[0].given)
    assert given[:2] == ["Bar_None", "TimeSig_4/4"]
    assert "Program_73" not in given
    assert "Program_-1" in given


@pytest.mark.parametrize("order", ORDERS)
def test_every_order_shows_what_is_visible_and_keeps_the_budget(tokenizer, tokens, song, score, order):
    prompt = build_prompt(tokens, song, {8: (0, 2), 9: (0, 2)}, Shown(budget=100_000), order=order)
    context, given = names(tokenizer, prompt.context), names(tokenizer, [i for p in prompt.bars for i in p.given])
    run = sum(len(score.notes_in(1, b)) for b in (8, 9))
    around = sum(len(score.notes_in(t, b)) for t in range(3) for b in range(20) if b not in (8, 9))
    expected = (around + run, 0) if order == "tracks" else (around, run)
    assert (sum(n.startswith("Pitch") for n in context), sum(n.startswith("Pitch") for n in given)) == expected
    assert [(p.bar, t) for p in prompt.bars for t in p.targets] == (
        [(8, 0), (9, 0), (8, 2), (9, 2)] if order == "tracks" else [(8, 0), (8, 2), (9, 0), (9, 2)]
    )
    where = prompt.context if order == "tracks" else prompt.asked
    assert names(tokenizer, where).count("Infill_Track") == 2
    assert context[-1] == "Context_Middle"
    for budget in (200, 400, 700):
        small = build_prompt(tokens, song, {8: (0,), 9: (0,)}, Shown(budget=budget), order=order)
        assert len(small.asked) + len(small.context) + sum(len(p.given) for p in small.bars) <= budget
        assert small.last_bar - small.first_bar > 2


def test_an_unknown_order_is_refused(tokens, song):
    with pytest.raises(ValueError, match="order must be one of bars, tracks, given 'paper'"):
        build_prompt(tokens, song, {8: (0,)}, order="paper")


def test_masked_notes_appear_nowhere(tokenizer, tokens, song, score):
    masked = {Cell(0, b) for b in (3, 4)}
    prompt = build_prompt(tokens, song, {8: (0, 2), 9: (2,)}, Shown(masked=masked))
    ids = [*prompt.context, *(i for p in prompt.bars for i in p.given)]
    shown = names(tokenizer, ids)
    visible = sum(len(score.notes_in(t, b)) for t in range(3) for b in range(20))
    hidden = sum(len(score.notes_in(t, b)) for t, b in [*masked, (0, 8), (2, 8), (2, 9)])
    assert sum(n.startswith("Pitch") for n in shown) == visible - hidden
    assert shown.count("Infill_Bar") == 2
    assert prompt.bars[1].targets == (2,)
    assert "Program_73" in names(tokenizer, prompt.bars[1].given)


def test_song_ends_and_continuations(tokenizer, tokens, song):
    whole = names(tokenizer, build_prompt(tokens, song, {18: (0,)}).context)
    assert "Song_Start" in whole
    assert "Song_End" in whole
    ending = names(tokenizer, build_prompt(tokens, song, {19: (0,)}).context)
    assert ending[:2] == ["Context_After", "Song_End"]
    open_end = names(tokenizer, build_prompt(tokens, song, {19: (0,)}, Shown(open_end=True)).context)
    assert open_end[:2] == ["Context_After", "Context_Before"]
    cut = names(tokenizer, build_prompt(tokens, song, {10: (0,)}, Shown(open_end=True)).context)
    assert cut[1] == "Context_Before"


@pytest.mark.parametrize("budget", [60, 150, 400, 1000])
def test_budget_keeps_the_nearest_bars(tokens, song, budget):
    prompt = build_prompt(tokens, song, {9: (0,), 10: (0,)}, Shown(budget=budget))
    size = len(prompt.asked) + len(prompt.context) + sum(len(p.given) for p in prompt.bars)
    assert size <= budget
    left, right = 9 - prompt.first_bar, prompt.last_bar - 11
    assert abs(left - right) <= 1 or prompt.first_bar == 0


def test_new_track_is_absent_from_the_context(tokenizer, tokens, song):
    shown = names(tokenizer, build_prompt(tokens, song, {9: (0,)}, Shown(absent=[0])).context)
    assert "Program_73" not in shown


def test_a_run_must_be_consecutive(tokens, song):
    with pytest.raises(ValueError, match="consecutive"):
        build_prompt(tokens, song, {3: (0,), 5: (0,)})


def test_controls_describe_the_cell(tokenizer, tokens, score):
    chord = score.with_notes(0, [Note(0, 60, 240, 80), Note(0, 64, 240, 80), Note(480, 67, 240, 80)])
    cell = tokenizer.encode(chord).cell(Cell(0, 0)).tolist()
    said = names(tokenizer, control_ids(tokenizer, tokens, cell, density=True, polyphony=True))
    assert said == ["ACBarOnsetPolyphonyMin_1", "ACBarOnsetPolyphonyMax_2", "ACBarNoteDensity_3"]


def test_training_rows_are_reproducible_and_well_formed(tokenizer, song, tmp_path):
    write_shard(tmp_path / "a.npz", [("a/1", song), ("a/2", song)])
    again = Shard(tmp_path / "a.npz")[1]
    assert again.headers == song.headers
    assert all(np.array_equal(again.cell(Cell(t, b)), song.cell(Cell(t, b))) for b in range(20) for t in range(3))
    rows = TrainingRows(tmp_path, tokenizer, 512, seed=3, weights={"a": 1.0})
    other = TrainingRows(tmp_path, tokenizer, 512, seed=3, weights={"a": 1.0})
    tokens = PromptTokens(tokenizer)
    for i in (7, 2, 5):
        ids, roles, starts = rows[i]
        assert np.array_equal(ids, other[i][0])
        assert ids.shape == roles.shape == starts.shape == (513,)
        assert starts[0]
        assert np.array_equal(starts, ids == tokens.bos)
        assert (roles == FILL).any()
        assert (roles[ids == tokens.pad] == NOT_MUSIC).all()
        assert (roles[ids == tokens.fill_end] == FILL).all()
        assert not np.array_equal(ids, rows[i + 1][0])


def test_validation_fills_count_their_notes(tokenizer, song, tmp_path):
    write_shard(tmp_path / "valid.npz", [("x/1", song), ("y/1", song)])
    samples = validation_samples(Shard(tmp_path / "valid.npz"), tokenizer, 512, per_source=3)
    assert [s for s, _, _ in samples] == ["x"] * 3 + ["y"] * 3
    sampler = RegionSampler(tokenizer, evaluation=True)
    for _, sample, notes in samples:
        assert notes == count_notes(sampler.tokenizer, sample) > 0
        assert sum(r == FILL for r in sample.roles) > notes / 4


def test_the_budget_leaves_room_for_the_answer(song):
    cell = len(song.cell(Cell(0, 3)))
    assert all(len(song.cell(Cell(0, b))) == cell for b in range(20)), "the lead's bars are alike"
    assert prompt_budget(song, {8: (0,), 9: (0,)}, 1000) == 1000 - int(2 * (1.5 * cell + 3))
    bass = [len(song.cell(Cell(1, b))) for b in range(20)]
    assert prompt_budget(song, {3: (1,)}, 1000) == 1000 - int(1.5 * sum(bass) / 5 + 3), "over the bars that sound"
    assert prompt_budget(song, dict.fromkeys(range(20), (0, 1, 2)), 60) == 30, "at most half is left"
    whole = dict.fromkeys(range(20), (0,))
    others = [n for n in np.diff(song.offsets).reshape(20, 3)[:, 1:].ravel() if n]
    room = int(20 * (1.5 * np.mean(others) + 3))
    assert prompt_budget(song, whole, 10_000) == 10_000 - room, "a track with nothing else goes by the other tracks"
