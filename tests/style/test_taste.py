"""A listener's taste: what is recorded and forgotten, what is learned from it, and when it is used."""

import math
import stat
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from midi_rwkv.style import choices as module
from midi_rwkv.style.choices import PLACE, Choice, Choices, read_choices, write_choices
from midi_rwkv.style.taste import FALLS, FEWEST, LATEST, Guess, Replay, guesses, judge_taste

NAMES = ("dense", "high", "loud", "repeated")


@pytest.fixture
def choices(tmp_path):
    return Choices(tmp_path / "data" / "taste")


def asks(count, seed=0, candidates=3):
    """Asks with random features, in the plain order."""
    rng = np.random.default_rng(seed)
    tables = rng.normal(size=(count, len(NAMES), candidates))
    rows = [dict(zip(NAMES, table.tolist(), strict=True)) for table in tables]
    return [Choice(str(i), {PLACE: list(range(candidates)), **of}) for i, of in enumerate(rows)]


def kept(made, worth):
    """The asks with what a listener keeps, by the worth of each candidate."""
    return [replace(c, kept=int(np.argmax(worth(c)))) for c in made]


def likes_sparse_and_high(choice):
    return np.array(choice.rows["high"]) - np.array(choice.rows["dense"])


def by_chance(seed):
    rng = np.random.default_rng(seed)
    return lambda choice: rng.random(choice.candidates)


def test_a_record_is_read_as_it_was_written(choices):
    first = Choice("a", {PLACE: [1, 0], "dense": [0.25, math.nan]}, kept=1, starred=(0,))
    second = Choice("b", {PLACE: [0, 1, 2]}, thrown=(2,))
    for choice in (first, second):
        choices.record(choice)
    found = choices.read()
    assert [(c.ask, c.kept, c.starred, c.thrown) for c in found] == [("a", 1, (0,), ()), ("b", None, (), (2,))]
    assert math.isnan(found[0].rows["dense"][1])
    assert found[0].levels == [1, 2]
    assert found[1].levels == [0, 0, -1]
    assert stat.S_IMODE(choices.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(choices.folder.stat().st_mode) == 0o700


def test_the_last_word_on_an_ask_counts(choices):
    said = Choice("a", {PLACE: [0, 1]}, kept=1, starred=(0,))
    choices.record(said)
    choices.record(replace(said, ask="b"))
    choices.record(replace(said, kept=0))
    assert [(c.ask, c.kept) for c in choices.read()] == [("b", 1), ("a", 0)]
    choices.take_back("a")
    choices.take_back("another")
    assert [(c.ask, c.kept, c.starred) for c in choices.read()] == [("b", 1, (0,)), ("a", None, (0,))]
    choices.record(Choice("a", {PLACE: [0, 1]}, starred=(0, 1)))  # prefers none
    assert [c.ask for c in choices.read()] == ["b"]


def test_it_is_switched_off_and_forgotten(choices):
    assert (choices.is_on, choices.forget()) == (True, 0)
    assert not choices.folder.exists()  # asking leaves nothing behind
    choices.record(Choice("a", {PLACE: [0, 1]}, kept=1))
    choices.switch(on=False)
    assert (choices.is_on, len(choices.read())) == (False, 1)
    assert not Choices(choices.folder).is_on
    assert choices.forget() == 1
    assert (choices.read(), choices.path.exists()) == ([], False)
    choices.switch(on=True)
    assert choices.is_on


def test_what_is_broken_is_left_out_and_the_oldest_goes(choices, monkeypatch):
    monkeypatch.setattr(module, "MOST", 2)
    good = Choice("a", {PLACE: [0, 1]}, kept=1)
    choices.record(good)
    lines = ["{", "[]", "7", '{"ask": "x"}', '{"ask":"x","rows":{"dense":[1]},"kept":0,"starred":[],"thrown":[]}']
    lines += ['{"ask":"x","rows":{"place":[0,1],"dense":[1]},"kept":0,"starred":[],"thrown":[]}']
    lines += ['{"ask":"x","rows":{"place":[0,1]},"kept":2,"starred":[],"thrown":[]}']
    choices.path.write_text("\n".join([*lines, choices.path.read_text()]))
    assert [c.ask for c in choices.read()] == ["a"]
    for name in "bc":
        choices.record(replace(good, ask=name))
    assert [c.ask for c in choices.read()] == ["b", "c"]
    choices.path.write_bytes(b"\xff\xfe")
    assert choices.read() == []


def test_a_known_preference_is_learned_and_used(tmp_path):
    write_choices(tmp_path / "choices.jsonl", kept(asks(60), likes_sparse_and_high))
    verdict = judge_taste(read_choices(tmp_path / "choices.jsonl"))
    assert verdict.helps
    assert verdict.replay.taste > 1.5 * verdict.replay.plain
    weights = verdict.taste.weights
    assert weights["high"] > 0 > weights["dense"]
    assert max(abs(weights[n]) for n in (PLACE, "loud", "repeated")) < min(weights["high"], -weights["dense"])
    assert verdict.taste.order({"dense": [2, 0, 1], "high": [0, 0, 0]}) == [1, 2, 0]
    assert verdict.why.startswith(f"used: of 59 kept fills it would have shown {verdict.replay.taste} first")


def test_it_is_not_used_before_enough_is_kept():
    clear = kept(asks(FEWEST), lambda c: -np.array(c.rows["dense"]))
    assert judge_taste(clear).helps
    early = judge_taste(clear[:-1])
    assert early.replay.helps
    assert early.taste is None
    assert early.why == "not used yet: it is tried from 20 kept fills on, 1 to go"
    assert judge_taste([]).taste is None


@pytest.mark.parametrize("seed", range(3))
def test_it_stays_off_for_a_listener_without_a_taste(seed):
    verdict = judge_taste(kept(asks(60, seed), by_chance(seed)))
    assert verdict.taste is None
    assert verdict.learned is not None
    assert verdict.why.startswith("not used: of 59 kept fills")


def test_it_stays_off_where_the_plain_order_is_right():
    verdict = judge_taste(kept(asks(60), lambda c: -np.array(c.rows[PLACE])))
    assert (verdict.replay.plain, verdict.taste) == (59, None)


def test_a_taste_that_changes_ends_its_use():
    made = asks(160)
    before = kept(made[:40], lambda c: -np.array(c.rows["dense"]))
    after = kept(made[40:], lambda c: -np.array(c.rows[PLACE]))
    assert judge_taste(before).helps
    assert not judge_taste([*before, *after]).helps


def test_a_guess_knows_only_what_came_before():
    made = kept(asks(40), likes_sparse_and_high)
    later, earlier = (Replay.of(found) for found in (guesses(made)[:19], guesses(made[:20])))
    assert later == earlier


def test_stars_and_what_is_thrown_away_are_learned_from():
    made = kept(asks(30), by_chance(0))
    likes = [replace(c, kept=None, starred=(int(np.argmin(c.rows["loud"])),)) for c in made]
    hates = [replace(c, kept=None, thrown=(int(np.argmax(c.rows["loud"])),)) for c in made]
    for found in (likes, hates):
        verdict = judge_taste(found)
        assert verdict.learned.weights["loud"] < -0.5
        assert (verdict.kept, verdict.taste) == (0, None)


def test_features_that_are_missing_or_never_differ_do_no_harm():
    made = kept(asks(60), likes_sparse_and_high)
    more = {"same": [1.0] * 3, "unknown": [math.nan] * 3}
    odd = [replace(c, rows={**c.rows, **(more if i % 2 else {"loud": [math.nan] * 3})}) for i, c in enumerate(made)]
    verdict = judge_taste(odd)
    assert verdict.helps
    assert verdict.taste.weights["same"] == verdict.taste.weights["unknown"] == 0
    assert verdict.taste.order({"new": [1, 2]}) == [0, 1]


def test_only_the_latest_are_learned_from():
    made = asks(LATEST + 5)
    turned = [*kept(made[:5], lambda c: np.array(c.rows["high"])), *kept(made[5:], lambda c: -np.array(c.rows["high"]))]
    assert judge_taste(turned).kept == LATEST


def test_the_evidence_is_against_the_best_guess_by_place():
    by_place = np.log(np.full((2, len(FALLS)), 0.5))
    by_place[1, 3] = np.log(0.6)
    found = Replay.of([Guess(taste=True, plain=False, chance=np.log(0.9), by_place=by_place)] * 7)
    assert (found.asks, found.taste, found.plain) == (7, 7, 0)
    assert found.evidence == pytest.approx(7 * np.log(1.5))
    assert not found.helps  # 17 times as probable
    assert Replay.of([Guess(taste=True, plain=False, chance=np.log(0.9), by_place=by_place)] * 8).helps
    assert Replay.of([]).evidence == 0


def test_what_is_kept_for_being_shown_first_is_no_evidence():
    """Candidates come in the order of a taste, and the first is kept whatever it is."""
    made = asks(60)
    shown = []
    for choice in made:
        order = np.argsort(choice.rows["dense"])
        shown.append(replace(choice, rows={n: np.array(v)[order].tolist() for n, v in choice.rows.items()}, kept=0))
    verdict = judge_taste(shown)
    assert verdict.replay.taste > verdict.replay.plain
    assert verdict.taste is None


@given(st.lists(st.lists(st.floats(-9, 9) | st.just(math.nan), min_size=4, max_size=4), min_size=1, max_size=8))
def test_each_candidate_is_shown_once(table):
    taste = judge_taste(kept(asks(30), likes_sparse_and_high)).learned
    rows = dict(zip(NAMES, zip(*table, strict=True), strict=True))
    assert sorted(taste.order(rows)) == list(range(len(table)))
