"""The fold: a step model's probabilities, summed over what version 6's tokens could not tell apart."""

import numpy as np
import pytest
import torch
from song import vocabulary

from midi_rwkv.engine.heads import NoteHeads
from midi_rwkv.evaluation.fold import DURATIONS, VELOCITIES, Asked, Fold
from midi_rwkv.model.steps import Heads
from midi_rwkv.score.score import Bar
from midi_rwkv.tokens.attributes import AT_PITCH, Column
from midi_rwkv.tokens.notes import TrackArray, encode_arrays
from midi_rwkv.tokens.pointers import END, FIRST_POSITION, SAME

SIZES = vocabulary().sizes
LENGTH = 96  # positions in a bar of 4/4


@pytest.fixture(scope="module")
def heads():
    torch.manual_seed(0)
    made = Heads(vocabulary().sizes, 32)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return made


@pytest.fixture(scope="module")
def plain(heads):
    weights = {f"heads.{name}": w.detach().numpy() for name, w in heads.named_parameters()}
    return NoteHeads(weights, vocabulary().sizes)


@pytest.fixture(scope="module")
def fold():
    return Fold(vocabulary())


class Around:
    """What stands around a place: something else at every place, and of every pitch."""

    def at_place(self, position):
        rng = np.random.default_rng(position)
        return np.array([rng.integers(2**12 if c == Column.CHROMA else n) for c, n in zip(Column, SIZES, strict=True)])

    def at_pitch(self, columns, position, pitch):
        columns[list(AT_PITCH)] = np.random.default_rng((position, pitch)).integers(9, size=len(AT_PITCH))
        return columns


def asked(targets, before=-1, seed=0):
    """The same hidden vector for every target. before: the position of a note of pitch 50."""
    hidden = np.random.default_rng(seed).normal(size=(1, 32)).astype(np.float32)
    targets = np.array(targets)
    n = len(targets)
    note = np.tile([before, 50 if before >= 0 else -1], (n, 1))
    return Asked(
        np.repeat(hidden, n, 0),
        targets,
        note,
        np.full(n, LENGTH),
        [Around()] * n,
        np.tile([4, 9, 30, 13, -1, before], (n, 1)),
        np.full(n, 51),
    )


def target(position=30, micro=0, pitch=60, velocity=10, duration=20):
    return [FIRST_POSITION + position, 1 + micro + 20, 1 + pitch, 1 + velocity, 1 + duration]


def test_places_that_cannot_be_told_apart_are_summed_with_all_else(heads, plain, fold):
    """By hand: every place, velocity and duration of the note's class, one after another."""
    v = vocabulary()
    one = asked([target()], before=29)
    twelfth = fold.place(LENGTH)
    pairs = [(p, m) for p in range(v.n_positions) for m in range(26) if twelfth[p, m] == twelfth[30, 20]]
    rows = []
    for p, m in pairs:
        places = [FIRST_POSITION + p] if p > 29 else []
        places += [SAME] if p == 29 else []
        for place in places:
            for level in np.flatnonzero(fold.velocity == fold.velocity[10]):
                for length in np.flatnonzero(fold.duration == fold.duration[20]):
                    rows.append([place, 1 + m, 61, 1 + level, 1 + length])
    assert {r[0] for r in rows} == {SAME, FIRST_POSITION + 30, FIRST_POSITION + 31, FIRST_POSITION + 32}
    assert len(rows) > 50
    around = Around()
    following = []
    for place, _, pitch, *_ in [*rows, one.targets[0].tolist()]:
        position = 29 if place == SAME else place - FIRST_POSITION
        following.append(around.at_pitch(around.at_place(position), position, pitch - 1))
    around_rows = torch.from_numpy(np.stack(following))
    around_rows[:, Column.BEFORE] = 51
    with torch.no_grad():
        hidden = torch.from_numpy(one.hidden)
        marked = torch.from_numpy(one.marked)
        fine = heads.nats(
            hidden.expand(len(rows), -1), torch.tensor(rows), around_rows[:-1], marked.expand(len(rows), -1)
        ).sum(1)
        raw = heads.nats(hidden, torch.tensor(one.targets), around_rows[-1:], marked).sum()
    assert fold.nats(plain, one).sum() == pytest.approx(-float(torch.logsumexp(-fine.double(), 0)), abs=1e-4)
    assert fold.nats(plain, one).sum() < raw


def test_the_probabilities_of_all_classes_are_one(plain, fold):
    v = vocabulary()
    length = v.n_positions
    twelfths = {int(q): p for p, q in enumerate(fold.place(length)[:, 20])}
    places = asked([[END] * 5, *(target(position=p) for p in twelfths.values())])
    places.lengths[:] = length
    levels = [int(np.flatnonzero(fold.velocity == q)[0]) for q in np.unique(fold.velocity)]
    lengths = [int(np.flatnonzero(fold.duration == q)[0]) for q in np.unique(fold.duration)]
    logits = plain.logits(0, places.hidden[:1], places.marked[:1]).astype(float)
    same = np.exp(logits - logits.max())[0, SAME] / np.exp(logits - logits.max()).sum()  # there is no note before
    assert np.exp(-fold.nats(plain, places)[:, 0]).sum() == pytest.approx(1 - same, abs=1e-3)
    for column, of in (
        (2, asked([target(pitch=p) for p in range(256)])),
        (3, asked([target(velocity=x) for x in levels])),
        (4, asked([target(duration=x) for x in lengths])),
    ):
        assert np.exp(-fold.nats(plain, of)[:, column]).sum() == pytest.approx(1, abs=1e-5)


def test_a_drum_has_no_duration_and_an_end_only_a_place(plain, fold):
    drum = target(pitch=128 + 38)
    drum[4] = 0
    nats = fold.nats(plain, asked([drum, [END] * 5]))
    assert (nats[0, [0, 2, 3]] > 0).all()
    assert nats[0, 4] == pytest.approx(0, abs=1e-9)
    assert nats[1, 0] > 0
    assert (nats[1, 1:] == 0).all()


def test_the_grid_is_version_6s():
    """The velocities and durations that MidiTok makes of its configuration."""
    from miditok import MMM, TokenizerConfig

    beat_res = {(0, 2): 12, (2, 4): 4, (4, 8): 2, (8, 16): 1}
    names = MMM(TokenizerConfig(beat_res=beat_res, num_velocities=16, base_tokenizer="REMI")).vocab
    values = {
        kind: [n.partition("_")[2] for n in names if n.startswith(f"{kind}_")] for kind in ("Velocity", "Duration")
    }
    assert sorted(map(int, values["Velocity"])) == VELOCITIES.tolist()
    parts = [tuple(map(int, value.split("."))) for value in values["Duration"]]
    assert sorted(12 * beats + 12 * part // resolution for beats, part, resolution in parts) == DURATIONS.tolist()


def test_the_classes_are_the_nearest_of_the_grid(fold):
    """Random notes in twelfths, levels and durations: one track a note, so that none is left out or moved."""
    rng = np.random.default_rng(0)
    bars = [Bar(0, 1920, 4, 4), Bar(1920, 3840, 4, 4)]
    onsets, lengths, velocities = rng.integers(0, 1890, 300), rng.integers(1, 4000, 300), rng.integers(1, 128, 300)
    tracks = [np.array([[o, 60, d, v]]) for o, d, v in zip(onsets, lengths, velocities, strict=True)]
    ours = encode_arrays(vocabulary(), [TrackArray(t, 0, 20) for t in tracks], bars, [120, 120], ticks_per_beat=480)
    found = []
    for k in range(len(tracks)):
        [note] = ours.cell(k, 0)
        [[place, pitch, velocity, duration]] = fold.tokens(note[None], LENGTH).tolist()
        assert pitch == 60
        found.append(
            (
                place - np.rint(onsets[k] / 40),
                velocity - np.abs(VELOCITIES - velocities[k]).argmin(),
                duration - np.abs(DURATIONS - lengths[k] / 40).argmin(),
            )
        )
    apart = np.array(found)
    assert (np.abs(apart).max(0) <= 1).all()  # a value right between two classes falls to the lower
    assert ((apart != 0).mean(0) < [0.04, 0.4, 0.15]).all()
    assert set(np.bincount(fold.velocity)[1:-1].tolist()) == {2}  # as many classes as the tokens had, as wide
    assert len(np.unique(fold.velocity)) == len(VELOCITIES)


def test_the_classes_by_hand(fold):
    """As they were when version 6's figures were published."""
    assert fold.velocity.tolist() == [max(0, (k - 1) // 2) for k in range(32)]
    assert fold.place(LENGTH)[[0, 0, 1, 1, 94, 95], [0, 20, 20, 21, 20, 25]].tolist() == [0, 0, 0, 1, 47, 47]
    assert fold.place(36)[35].max() == 17
    durations = vocabulary().durations
    twelfths = DURATIONS[fold.duration]
    assert {int(d): int(t) for d, t in zip(durations, twelfths, strict=True) if d in (1, 2, 3, 24, 50, 54, 384)} == {
        1: 1, 2: 1, 3: 1, 24: 12, 50: 24, 54: 27, 384: 192,
    }  # fmt: skip


def test_tokens_are_what_a_cell_is_on_the_grid(fold):
    """Notes that differ in what version 6 could not tell are one; their order does not count."""
    notes = np.array([[24, 0, 60, 20, 12], [25, -8, 60, 20, 12], [0, 3, 64, 21, 13], [48, 0, 60, 9, 12]])
    found = fold.tokens(notes, LENGTH)
    assert found.tolist() == sorted(found.tolist())
    assert found[:, :2].tolist() == [[0, 64], [12, 60], [24, 60]]
    assert fold.tokens(notes[::-1], LENGTH).tolist() == found.tolist()
    assert fold.tokens(notes[:0], LENGTH).shape == (0, 4)
