"""The trivial systems: what a copy copies and guesses, and the n-gram and runs that stand for the training data."""

import json
import shutil
from typing import Any

import numpy as np
import pytest

from midi_rwkv import Note, Score, Track, load_checkpoint
from midi_rwkv.corpus.shards import Shard, write_shard
from midi_rwkv.evaluation.baselines import (
    COPIES,
    NO_GUESS,
    STREAKS,
    CellNotes,
    calibrate,
    copied_notes,
    copy_probability,
    guesses,
    source_bar,
)
from midi_rwkv.evaluation.cases import Case
from midi_rwkv.evaluation.metrics import RUN_NOTES, runs
from midi_rwkv.evaluation.reference import Reference, build_reference, shard_runs
from midi_rwkv.evaluation.systems import NGRAM, Setup, System
from midi_rwkv.score.score import Cell, TimeSignature
from midi_rwkv.tokens.tokenizer import TokenizedSong, Tokenizer

END = 99
BAR = 1920


# -- what is copied ---------------------------------------------------------------------------------------------------


def test_notes_move_by_whole_bars():
    notes = (Note(0, 60, 480, 80), Note(1440, 64, 480, 70), Note(1920, 67, 960, 60), Note(5000, 50, 10, 90))
    score = Score(480, (Track("a", 0, notes),), (TimeSignature(0, 4, 4),), end_ticks=8 * BAR)
    assert copied_notes(score, 0, 0, first=4, n_bars=2) == [
        Note(4 * BAR, 60, 480, 80),
        Note(4 * BAR + 1440, 64, 480, 70),
        Note(5 * BAR, 67, 960, 60),
    ]
    assert copied_notes(score, 0, 2, first=0, n_bars=1) == [Note(5000 - 2 * BAR, 50, 10, 90)]
    assert copied_notes(score, 0, 4, first=0, n_bars=2) == []


def test_a_longer_bar_is_cut_and_nothing_sounds_beyond_the_region():
    """Two bars of 4/4 into two of 3/4: what begins on the fourth beat has no place, what rings on ends with them."""
    first = 4 * BAR  # where 3/4 begins
    notes = (Note(0, 60, 5000, 80), Note(1440, 62, 100, 80), Note(1920 + 960, 64, 960, 80))
    signatures = (TimeSignature(0, 4, 4), TimeSignature(first, 3, 4))
    score = Score(480, (Track("a", 0, notes),), signatures, end_ticks=first + 4 * 1440)
    assert copied_notes(score, 0, 0, first=4, n_bars=2) == [
        Note(first, 60, 2880, 80),
        Note(first + 1440 + 960, 64, 480, 80),
    ]


def test_a_shorter_bar_keeps_its_beats():
    """Two bars of 3/4 into two of 4/4: the fourth beats stay empty."""
    first = 2 * 1440
    notes = (Note(0, 60, 480, 80), Note(960, 62, 480, 80), Note(1440, 64, 480, 80))
    signatures = (TimeSignature(0, 3, 4), TimeSignature(first, 4, 4))
    score = Score(480, (Track("a", 0, notes),), signatures, end_ticks=first + 2 * BAR)
    assert copied_notes(score, 0, 0, first=2, n_bars=2) == [
        Note(first, 60, 480, 80),
        Note(first + 960, 62, 480, 80),
        Note(first + BAR, 64, 480, 80),
    ]


# -- where from -------------------------------------------------------------------------------------------------------

PHRASES = {  # (beat, pitch) of the second track, in two bars
    "P": [[(0, 40), (1, 42), (2, 47)], [(1, 43), (2, 44), (3, 45)]],
    "Q": [[(0, 52), (1, 55)], [(0, 50), (3, 57)]],
    "R": [[(1, 64), (3, 62)], [(0, 66), (2, 69)]],
}


def phrased(order: str, melody=lambda bar: 70 + bar) -> Score:
    """A second track of two-bar phrases under a first whose bars are all different."""
    bars = [bar for phrase in order for bar in PHRASES[phrase]]
    lead = tuple(Note(b * BAR, melody(b), 480, 80) for b in range(len(bars)))
    low = tuple(Note(b * BAR + k * 480, pitch, 240, 80) for b, bar in enumerate(bars) for k, pitch in bar)
    tracks = (Track("lead", 0, lead), Track("low", 32, low))
    return Score(480, tracks, (TimeSignature(0, 4, 4),), end_ticks=len(bars) * BAR)


def similar(tokenizer, score, first, window=None, tracks=(0,), n_bars=2):
    cells = CellNotes(tokenizer, tokenizer.encode(score))
    return source_bar("copy similar", cells, tracks, first=first, n_bars=n_bars, window=window or (0, len(score.bars)))


def test_before_and_after_are_the_neighbours_in_the_window():
    unread: Any = None  # the song, at which only "copy similar" looks

    def at(kind, first, window, n_bars=4):
        return source_bar(kind, unread, [0], first=first, n_bars=n_bars, window=window)

    assert at("copy before", 8, (0, 20)) == 4
    assert at("copy before", 8, (4, 20)) == 4
    assert at("copy before", 8, (5, 20)) is None
    assert at("copy before", 4, (0, 20)) == 0
    assert at("copy after", 8, (0, 20)) == 12
    assert at("copy after", 8, (0, 16)) == 12
    assert at("copy after", 8, (0, 15)) is None
    assert at("copy after", 8, (0, 8)) is None  # a continuation
    with pytest.raises(ValueError, match="a copy must be one of copy before, copy after, copy similar, got 'copy'"):
        at("copy", 8, (0, 20))


def test_similar_is_where_the_same_stands_around(tokenizer):
    """P between two Qs is at bars 2 and 14, P between two Rs at bar 8."""
    score = phrased("QPQRPRQPQ")
    assert similar(tokenizer, score, 2) == 14
    assert similar(tokenizer, score, 14) == 2
    assert similar(tokenizer, score, 14, window=(6, 18)) == 8  # the better one may not be read
    assert similar(tokenizer, score, 8) in (2, 14)
    assert similar(tokenizer, score, 2, window=(0, 4)) == 0
    assert similar(tokenizer, score, 2, window=(2, 5)) is None


def test_similar_does_not_read_what_is_hidden(tokenizer):
    """The lead's bars 2-3 are in truth those of bars 8-9; that must not be known."""
    score = phrased("QPQRPRQPQ", melody=lambda bar: 70 + bar + 6 * (bar in (2, 3)))
    assert similar(tokenizer, score, 2) == 14
    assert similar(tokenizer, score, 2, tracks=(0, 1)) == 14  # by the neighbours alone


def test_of_several_alike_the_nearest_is_taken(tokenizer):
    """What stands beside the region has the hidden cells beside it, and so is less like it than what stands apart."""
    score = phrased("PPPPPPPPP", melody=lambda _: 70)
    assert similar(tokenizer, score, 8) == 4
    assert similar(tokenizer, score, 8, window=(8, 18)) == 10
    assert similar(tokenizer, score, 8, window=(6, 12)) == 6


def test_cell_notes_are_the_songs_notes(tokenizer):
    score = phrased("PQR")
    cells = CellNotes(tokenizer, tokenizer.encode(score))
    assert cells.of(Cell(1, 1)) == {(12, 43), (24, 44), (36, 45)}
    for b in range(6):
        for t in range(2):
            found = {((n.onset_ticks - b * BAR) // 40, n.pitch) for n in score.notes_in(t, b)}
            assert cells.of(Cell(t, b)) == found


# -- what is guessed --------------------------------------------------------------------------------------------------


def song_of(*bars: list[list[int]]) -> TokenizedSong:
    """A song from the ids of its cells, bar by bar, track by track."""
    cells = [cell for bar in bars for cell in bar]
    return TokenizedSong(
        programs=np.zeros(len(bars[0]), np.int32),
        headers=((0,),) * len(bars),
        tempos=np.zeros(len(bars), np.int32),
        cells=np.array([i for cell in cells for i in cell], np.int32),
        offsets=np.cumsum([0, *map(len, cells)]),
    )


def guessed(source: list[int], true: list[int]) -> list[tuple[int, int, int]]:
    return list(guesses(song_of([source], [true]), [0], 0, first=1, n_bars=1, end_id=END))


@pytest.mark.parametrize(
    ("source", "true", "expected"),
    [
        ([1, 2], [1, 2], [(1, 1, 0), (2, 2, 1), (END, END, 2)]),
        # a miss: the source goes on behind what it had guessed
        ([1, 2, 3, 4], [1, 2, 9, 4], [(1, 1, 0), (2, 2, 1), (9, 3, 2), (4, 4, 0), (END, END, 1)]),
        # something left out: found again in the source
        ([1, 2, 3, 4], [1, 3, 4], [(1, 1, 0), (3, 2, 1), (4, 4, 0), (END, END, 1)]),
        # something put in: found again one behind
        ([1, 2], [5, 1, 2], [(5, 1, 0), (1, 2, 0), (2, 2, 0), (END, END, 1)]),
        # of several places the nearest
        ([7, 1, 7, 2, 7, 3], [1, 3, 7, 3], [(1, 7, 0), (3, 7, 0), (7, END, 0), (3, 3, 0), (END, END, 1)]),
        # the source has come to its end
        ([1], [1, 2, 3], [(1, 1, 0), (2, END, 1), (3, NO_GUESS, 0), (END, NO_GUESS, 0)]),
        ([], [], [(END, END, 0)]),
        ([4], [], [(END, 4, 0)]),
    ],
)
def test_guesses_by_hand(source, true, expected):
    assert guessed(source, true) == expected


def test_a_streak_goes_on_from_cell_to_cell_and_is_cut_at_the_most():
    """Two tracks in two bars, in the order in which a fill is written; each cell's end counts."""
    a, b, c, d = [1, 2, 3, 4], [5, 6, 7], [8, 9], [10, 11, 12, 13, 14]
    found = list(guesses(song_of([a, b], [c, d], [a, b], [c, d]), [0, 1], 0, first=2, n_bars=2, end_id=END))
    assert [true for true, _, _ in found] == [*a, END, *b, END, *c, END, *d, END]
    assert all(true == guess for true, guess, _ in found)
    assert [streak for _, _, streak in found] == [min(i, STREAKS) for i in range(18)]
    only = list(guesses(song_of([a, b], [c, d], [a, b], [c, d]), [1], 0, first=2, n_bars=2, end_id=END))
    assert [true for true, _, _ in only] == [*b, END, *d, END]


def test_a_mixture_by_hand():
    found = [(1, 1, 0), (2, 3, 1), (4, NO_GUESS, 2)]
    p = copy_probability(found, np.array([0.1, 0.2, 0.3]), np.array([0.5, 0.6, 0.7]))
    assert p == pytest.approx([0.5 + 0.5 * 0.1, 0.4 * 0.2, 0.3])


def test_a_mixture_sums_to_one_over_the_vocabulary():
    rng = np.random.default_rng(0)
    size = 40
    ngram = rng.dirichlet(np.ones(size))
    confidence = rng.random(STREAKS + 1)
    for guess, streak in ((7, 0), (39, STREAKS), (NO_GUESS, 5)):
        p = copy_probability([(v, guess, streak) for v in range(size)], ngram, confidence)
        assert p.sum() == pytest.approx(1)
        assert p.argmax() == (guess if guess != NO_GUESS else ngram.argmax())


# -- the training data ------------------------------------------------------------------------------------------------


def tune(rng, bars: int, notes: int = 4) -> list[Note]:
    return [Note(b * BAR + k * 480, int(rng.integers(48, 84)), 240, 80) for b in range(bars) for k in range(notes)]


@pytest.fixture(scope="module")
def scores():
    """A training corpus: random tunes, of which the second halves repeat the first."""
    rng = np.random.default_rng(3)
    songs = []
    for i in range(6):
        half = tune(rng, 12)
        lead = (*half, *(n._replace(onset_ticks=n.onset_ticks + 12 * BAR) for n in half))
        kit = tuple(Note(b * 960, 36 + 2 * (b % 2), 120, 100) for b in range(48))
        tracks = (Track("a", i, lead), Track("kit", 0, kit, is_drum=True))
        songs.append(Score(480, tracks, (TimeSignature(0, 4, 4),), end_ticks=24 * BAR))
    return songs


@pytest.fixture(scope="module")
def shards(scores, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    write_shard(folder / "a.npz", [(f"a/{i}", tokenizer.encode(s)) for i, s in enumerate(scores)])
    tokenizer.save(folder / "tokenizer.json")
    return folder


@pytest.fixture(scope="module")
def checkpoint_of_shards(checkpoint_folder, tmp_path_factory):
    """The tiny checkpoint, as if trained on 8,192 ids of the source `a`."""
    folder = shutil.copytree(checkpoint_folder, tmp_path_factory.mktemp("trained") / "tiny")
    record = json.loads((folder / "config.json").read_text())
    record["training"] = {"seq_len": 256, "tokens_seen": 8192, "seed": 4, "source_weights": {"a": 1.0}}
    (folder / "config.json").write_text(json.dumps(record))
    return folder


@pytest.fixture(scope="module")
def reference(shards, checkpoint_of_shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference") / "reference"
    build_reference(shards, load_checkpoint(checkpoint_of_shards), folder)
    return folder


def test_a_copy_of_a_song_that_repeats_costs_far_less_than_the_ngram(checkpoint_of_shards, reference):
    """A tune of four bars over and over, which is in no training song; and one that never repeats."""
    rng = np.random.default_rng(8)
    four = tune(rng, 4)
    repeating = [n._replace(onset_ticks=n.onset_ticks + 4 * BAR * k) for k in range(5) for n in four]
    tracks = (Track("a", 0, tuple(repeating)),)
    literal = Score(480, tracks, (TimeSignature(0, 4, 4),), end_ticks=20 * BAR)
    other = literal.with_notes(0, tune(rng, 20))
    case = Case("song", 0, "x.mid", (0,), 8, 4)

    def nats(kind, score):
        return System(Setup(kind, kind, checkpoint_of_shards, None, reference)).nats(case, score)

    ngram = nats(NGRAM, literal)
    assert ngram / 16 > 2  # notes
    for kind in COPIES:
        assert nats(kind, literal) < 0.25 * ngram
        assert nats(kind, other) > 2 * nats(kind, literal)


def test_calibration_counts_how_often_a_guess_is_right(tokenizer, shards, tmp_path):
    """Where all repeats a copy is trusted, the more the longer it was right; where nothing does, not at the pitches."""
    rng = np.random.default_rng(0)
    same, noise = tune(rng, 1), [tuple(tune(rng, 24)) for _ in range(6)]
    loop = tuple(n._replace(onset_ticks=n.onset_ticks + BAR * b) for b in range(24) for n in same)
    found = []
    for name, tunes in (("loop", [loop] * 6), ("noise", noise)):
        songs = [Score(480, (Track("a", 0, notes),), (TimeSignature(0, 4, 4),)) for notes in tunes]
        write_shard(tmp_path / f"{name}.npz", [(name, tokenizer.encode(s)) for s in songs])
        found.append(calibrate([Shard(tmp_path / f"{name}.npz")], tokenizer))
    certain, doubtful = found
    assert set(certain) == set(COPIES)
    for kind in COPIES:
        assert len(certain[kind]) == STREAKS + 1
        assert min(certain[kind]) > 0.8
        assert certain[kind][STREAKS] > 0.97
        assert min(doubtful[kind]) < 0.4
        assert all(0 < c < 1 for c in doubtful[kind])
    assert calibrate([Shard(shards / "a.npz")], tokenizer) == calibrate([Shard(shards / "a.npz")], tokenizer)


def test_runs_of_a_shard_are_those_of_the_songs_notes(tokenizer, tmp_path):
    """In any metre, with chords, drums, silent bars and silent tracks, and notes on thirds of a beat."""
    rng = np.random.default_rng(5)
    songs = []
    metres = [(4, 4), (3, 4), (6, 8), (5, 4)]
    for i, (n, d) in enumerate(metres):
        length = 480 * 4 * n // d
        end = 20 * length
        onsets = np.unique(rng.integers(0, end // 160, 90)) * 160
        lead = {(int(t), int(p)) for t in onsets for p in rng.integers(40, 80, rng.integers(1, 4))}
        kit = {(t, int(rng.choice([36, 38, 42]))) for t in range(4 * length, 9 * length, 240)}
        few = {(k * length, 60 + k) for k in range(RUN_NOTES - 1)}
        tracks = tuple(
            Track(name, i, tuple(Note(t, p, 120, 80) for t, p in sorted(notes)), is_drum=name == "kit")
            for name, notes in (("lead", lead), ("silent", set()), ("kit", kit), ("few", few))
        )
        signatures = [TimeSignature(0, n, d)]
        if i == 3:
            signatures.append(TimeSignature(10 * length, 3, 4))
        songs.append(Score(480, tracks, tuple(signatures), end_ticks=end))
    songs.insert(1, Score(480, (Track("silent", 0, ()),), (TimeSignature(0, 4, 4),), end_ticks=BAR))
    write_shard(tmp_path / "a.npz", [(str(i), tokenizer.encode(s)) for i, s in enumerate(songs)])
    found = list(shard_runs(Shard(tmp_path / "a.npz"), tokenizer))
    own = [track for song in songs for track in song.tracks]
    assert len(found) == len(own)
    for hashes, track in zip(found, own, strict=True):
        pitches, onsets = np.array([(n.pitch, n.onset_ticks) for n in track.notes], np.int64).reshape(-1, 2).T
        expected = runs(pitches, onsets / 480)
        np.testing.assert_array_equal(hashes, expected)
        assert len(expected) == max(0, len(track.notes) - RUN_NOTES + 1)
    assert sum(map(len, found)) > 500


def test_a_reference_holds_what_was_counted(reference, scores):
    loaded = Reference.load(reference)
    assert set(loaded.confidence) == set(COPIES)
    assert all(c.shape == (STREAKS + 1,) for c in loaded.confidence.values())
    assert (np.diff(loaded.runs.astype(object)) > 0).all()  # sorted, each once
    own = [runs(*np.array([(n.pitch, n.onset_ticks / 480) for n in t.notes]).T) for s in scores for t in s.tracks]
    np.testing.assert_array_equal(loaded.runs, np.unique(np.concatenate(own)))
    made_from = json.loads((reference / "made_from.json").read_text())
    assert (made_from["ngram_ids"], made_from["seq_len"], made_from["seed"], made_from["songs"]) == (8192, 256, 4, 6)
    assert loaded.ngram.distribution(np.zeros(4, np.int64)).sum() == pytest.approx(1)


def test_a_reference_is_reused_and_made_anew_for_other_shards(shards, checkpoint_of_shards, tmp_path):
    checkpoint = load_checkpoint(checkpoint_of_shards)
    said: list[str] = []
    mine = shutil.copytree(shards, tmp_path / "shards")
    made_from = build_reference(mine, checkpoint, tmp_path / "reference", said.append)
    assert len(said) == 3
    (tmp_path / "reference" / "runs.npy").write_bytes(b"touched")
    assert build_reference(mine, checkpoint, tmp_path / "reference", said.append) == made_from
    assert len(said) == 3
    assert (tmp_path / "reference" / "runs.npy").read_bytes() == b"touched"
    songs = [Shard(mine / "a.npz")[i] for i in range(5)]
    write_shard(mine / "a.npz", [(f"a/{i}", song) for i, song in enumerate(songs)])
    assert build_reference(mine, checkpoint, tmp_path / "reference", said.append)["songs"] == 5
    assert len(said) == 6
    assert len(Reference.load(tmp_path / "reference").runs) > 100


def test_a_reference_half_made_is_made_anew(shards, checkpoint_of_shards, tmp_path, monkeypatch):
    """Stopped before its end, it has no marker."""

    def stop(*_):
        raise KeyboardInterrupt

    checkpoint = load_checkpoint(checkpoint_of_shards)
    with monkeypatch.context() as patch:
        patch.setattr("midi_rwkv.evaluation.reference.shard_runs", stop)
        with pytest.raises(KeyboardInterrupt):
            build_reference(shards, checkpoint, tmp_path / "reference")
    assert (tmp_path / "reference" / "confidence.json").exists()
    build_reference(shards, checkpoint, tmp_path / "reference")
    assert len(Reference.load(tmp_path / "reference").runs) > 100


def test_shards_of_another_tokenizer_are_refused(shards, checkpoint_of_shards, tmp_path):
    checkpoint = load_checkpoint(checkpoint_of_shards)
    mine = shutil.copytree(shards, tmp_path / "shards")
    other = Tokenizer({**checkpoint.tokenizer.params, "midi_rwkv": {"grid": "beat"}})
    other.save(mine / "tokenizer.json")
    with pytest.raises(ValueError, match=r"has not the checkpoint's tokenizer; put .*tiny/tokenizer\.json there"):
        build_reference(mine, checkpoint, tmp_path / "reference")
    (mine / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="has not the checkpoint's tokenizer"):
        build_reference(mine, checkpoint, tmp_path / "reference")
    assert not (tmp_path / "reference").exists()
