"""The settings in which a style is measured: what each of them shows, and that nothing else is known."""

from collections import Counter

import numpy as np
import pytest

from midi_rwkv.score.score import Note, Score, Track
from midi_rwkv.style.pieces import Piece, draw_fills
from midi_rwkv.style.settings import SETTINGS, draw_in_settings
from midi_rwkv.tokens.attributes import Column, Role
from midi_rwkv.training.rows import RowSampler

BARS = 16


def shown(setting, tracks, first, last):
    """The cells (track, bar) that a question for some tracks and bars [first, last) shows."""
    low = first - 4 if setting == "sketch" else 0
    high = last if setting in ("sketch", "continuation") else BARS
    cells = {(t, b) for t in range(3) for b in range(low, high) if not (t in tracks and first <= b < last)}
    return {(t, b) for t, b in cells if t not in tracks} if setting == "new track" else cells


def piece(tracks=3, others=frozenset()):
    """Notes at random. others: the cells (track, bar) that are different from those of other calls."""
    usual, other = np.random.default_rng(0), np.random.default_rng(1)
    parts = []
    for t in range(tracks):
        notes = []
        for b in range(BARS):
            pitches = [40 + rng.integers(0, 24, 4) for rng in (usual, other)][(t, b) in others]
            notes += [Note(b * 1920 + k * 480, int(p), 240, 80) for k, p in enumerate(pitches)]
        parts.append(Track(f"{t}", 8 * t, tuple(notes)))
    return Piece("x", Score(480, tuple(parts)), b"")


@pytest.fixture
def draw(checkpoint, monkeypatch):
    """draw(piece, setting, seed) -> a sample and its region: tracks, first bar and the bar after the last."""
    regions, region = [], RowSampler._region

    def note_region(*args):
        regions.append(region(*args))
        return regions[-1]

    monkeypatch.setattr(RowSampler, "_region", note_region)

    def call(of, setting, seed, *, held_out=True):
        [(_, sample)] = draw_fills(
            [(of, (0, BARS))],
            checkpoint.vocabulary,
            count=1,
            seed=seed,
            held_out=held_out,
            budget=2048,
            question=SETTINGS[setting],
        )
        return sample, regions[-1]

    return call


@pytest.mark.parametrize("setting", SETTINGS)
def test_nothing_is_known_but_what_is_shown(draw, setting):
    """A sample is the same whatever stands in the cells that are neither shown nor asked for; what is read first is the
    same whatever stands in those that are asked for; and each track's shown bars do matter."""
    everything = {(t, b) for t in range(3) for b in range(BARS)}
    for seed in range(6):
        sample, (tracks, first, last) = draw(piece(), setting, seed)
        known = shown(setting, tracks, first, last)
        asked = {(t, b) for t in tracks for b in range(first, last)}
        again, _ = draw(piece(others=everything - known - asked), setting, seed)
        np.testing.assert_array_equal(again, sample)
        again, _ = draw(piece(others=asked), setting, seed)
        start = int((sample[:, Column.ROLE] == Role.ANSWER).argmax())
        np.testing.assert_array_equal(again[:start], sample[:start])
        for track in {t for t, _ in known}:
            again, _ = draw(piece(others={cell for cell in known if cell[0] == track}), setting, seed)
            assert not np.array_equal(again, sample)


@pytest.mark.parametrize("setting", ["sketch", "continuation"])
def test_what_has_no_end_has_a_beginning(draw, setting):
    for seed in range(12):
        sample, (_, first, _) = draw(piece(), setting, seed)
        assert first >= 4
        assert (sample[:, Column.ROLE] == Role.CONTEXT).any()


def test_a_new_track_has_others_beside_it_if_there_are_any(draw):
    for seed in range(12):
        _, (tracks, *_) = draw(piece(), "new track", seed)
        assert len(tracks) < 3
        sample, _ = draw(piece(1), "new track", seed)
        assert not (sample[:, Column.ROLE] == Role.CONTEXT).any()


def test_fills_to_tune_on_are_transposed_and_nothing_else(draw):
    pitches = set()
    for seed in range(12):
        sample, (tracks, first, last) = draw(piece(), "sketch", seed, held_out=False)
        answer = sample[(sample[:, Column.ROLE] == Role.ANSWER) & (sample[:, Column.VELOCITY] > 0)]
        assert len(answer) == 4 * len(tracks) * (last - first)  # nothing is kept
        own = draw(piece(), "sketch", seed)[0]
        pitches.add(int(answer[0, Column.PITCH]) - int(own[own[:, Column.ROLE] == Role.ANSWER][2, Column.PITCH]))
    assert len(pitches) > 3


def test_settings_take_equal_shares(checkpoint):
    units = [(piece(), (0, BARS))]
    drawn = draw_in_settings(units, checkpoint.vocabulary, count=22, seed=0, held_out=True, budget=2048)
    assert Counter(setting for setting, *_ in drawn) == dict(zip(SETTINGS, (5, 6, 5, 6), strict=True))
