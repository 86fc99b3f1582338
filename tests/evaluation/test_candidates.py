"""What describes the candidates of an ask, and their order in the ears of a listener."""

import math

import pytest

from midi_rwkv import Note, Region, load_checkpoint
from midi_rwkv.evaluation.candidates import TRAITS, candidate_features, in_words, order_of, own_taste
from midi_rwkv.score.score import Score, TimeSignature, Track
from midi_rwkv.style.choices import PLACE, Choice, Choices
from midi_rwkv.style.taste import Taste
from midi_rwkv.tokens.attributes import make_vocabulary

BAR = 1920
VOCABULARY = make_vocabulary()


def line(bar, *pitches, length=200, velocity=80):
    return [Note(bar * BAR + i * BAR // len(pitches), pitch, length, velocity) for i, pitch in enumerate(pitches)]


@pytest.fixture
def song():
    lead = [n for b in range(8) for n in line(b, 60, 64, 67, 72)]
    chords = [n for b in range(8) for pitch in (48, 52, 55) for n in line(b, pitch, length=1800)]
    kit = [n._replace(pitch=36) for n in lead]
    tracks = (
        Track("lead", 73, tuple(lead)),
        Track("piano", 0, tuple(sorted(chords))),
        Track("kit", 0, tuple(kit), is_drum=True),
        Track("new", 40, ()),
    )
    return Score(480, tracks, (TimeSignature(0, 4, 4),))


def test_candidates_differ_as_they_sound(song):
    quiet = line(4, 60, 64, velocity=60)
    busy = line(4, 72, 72, 72, 72, 84, 84, 72, 72)
    off = line(4, 61, 63, 66, 68)
    of = candidate_features(song, Region.rectangle([0], [(4, 5)]), [{0: n} for n in (quiet, busy, off)], VOCABULARY)
    assert set(of) == set(TRAITS)
    dense, high, repeated = of["onsets beside nearby"], of["pitch beside nearby"], of["repeats beside nearby"]
    assert dense[0] < dense[2] < dense[1]
    assert high[0] < high[1]
    assert repeated[0] == repeated[2] < repeated[1]
    assert of["velocity"][0] == of["velocity"][1] - 20
    assert of["chord_tones"] == [1, 1, 0]
    assert of["leaps"][1] > of["leaps"][0] == 0


@pytest.mark.parametrize(
    "cells",
    [[(0, 4)], [(2, 4)], [(3, 0)], [(3, 9)], [(0, 8), (0, 9), (1, 9)], [(0, 1), (2, 5), (3, 7)]],
    ids=["one", "drums", "new", "beyond", "continued", "scattered"],
)
def test_every_region_is_described(song, cells):
    region = Region(frozenset(cells))
    some = {t: [n for track, b in cells if track == t for n in line(b, 60, 62)] for t in region.tracks}
    of = candidate_features(song, region, [some, {t: [] for t in region.tracks}, some], VOCABULARY)
    assert all(len(values) == 3 for values in of.values())
    assert all(values[0] == values[2] or math.isnan(values[0]) for values in of.values())
    assert not math.isnan(of["onsets beside nearby"][0])
    assert not any(math.isinf(v) for values in of.values() for v in values)


def test_a_song_without_a_note_is_described():
    empty = Score(480, (Track("new", 0, ()),), (TimeSignature(0, 4, 4),))
    of = candidate_features(empty, Region.rectangle([0], [(0, 2)]), [{0: line(0, 60, 64)}, {0: []}], VOCABULARY)
    assert of["range"][0] == 4


def test_a_taste_orders_and_is_said_in_words(song):
    taste = Taste(
        {"onsets beside nearby": -2.0, "velocity": 1.0, PLACE: -9.0, "leaps": 0.0},
        dict.fromkeys(("onsets beside nearby", "velocity", PLACE, "leaps"), 1.0),
    )
    assert in_words(taste) == ["sparser", "louder"]
    fills = [{0: line(4, *pitches)} for pitches in ((60,) * 4, (60,) * 8)]
    order = order_of(Taste({"onsets beside nearby": 1.0}, {"onsets beside nearby": 1.0}), VOCABULARY)
    assert order(song, Region.rectangle([0], [(4, 5)]), fills) == [1, 0]


def test_this_machines_taste_is_used_only_where_it_helps_and_is_on(monkeypatch, tmp_path):
    checkpoint = load_checkpoint()
    monkeypatch.setattr("platformdirs.user_data_path", lambda name: tmp_path / name)
    assert own_taste(checkpoint) is None
    choices = Choices()
    for i in range(20):
        choices.record(Choice(str(i), {PLACE: [0, 1], "velocity": [1.0, 2.0 + i % 3]}, kept=1))
    assert own_taste(checkpoint) is not None
    choices.switch(on=False)
    assert own_taste(checkpoint) is None
