"""The order of candidates, and how many are written for it."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from midi_rwkv import Ask, Note, Region
from midi_rwkv.fill.infill import Infiller, infill
from midi_rwkv.fill.ranking import ranked, to_write
from midi_rwkv.model.checkpoint import load_checkpoint
from midi_rwkv.score.score import Score, TimeSignature, Track

BEAT = 480
notes = st.lists(st.builds(Note, st.integers(0, 4000), st.integers(60, 64), st.just(100), st.just(80)), max_size=6)
drafts = st.lists(st.tuples(notes, st.floats(0, 9)), min_size=1, max_size=6)


def line(*pitches):
    return {0: [Note(BEAT * i, pitch, BEAT, 80) for i, pitch in enumerate(pitches)]}


def test_the_first_is_like_the_others_and_an_equal_one_comes_last():
    odd, usual, same, near = line(30, 31, 32, 33), line(60, 62, 64, 65), line(60, 62, 64, 65), line(60, 62, 64, 67)
    assert ranked([odd, near, usual, same], [1, 1, 1, 1], BEAT) == [2, 0, 1, 3]


def test_of_two_the_first_is_what_the_model_finds_more_probable():
    assert ranked([line(60), line(70)], [2.0, 0.5], BEAT) == [1, 0]
    assert ranked([line(60), line(70)], [1.0, 1.0], BEAT) == [0, 1]


@given(drafts)
def test_each_is_shown_once_and_the_pitch_of_the_song_does_not_matter(found):
    fills, surprise = [{0: own} for own, _ in found], [nats for _, nats in found]
    order = ranked(fills, surprise, BEAT)
    assert sorted(order) == list(range(len(found)))
    higher = [{0: [n._replace(pitch=n.pitch + 12) for n in own]} for own, _ in found]
    assert ranked(higher, surprise, BEAT) == order


def test_more_are_written_than_shown_in_one_track(checkpoint_folder):
    melody = tuple(Note(b * 1920 + k * 480, 60 + (b + k) % 7, 400, 80) for b in range(8) for k in range(4))
    score = Score(BEAT, (Track("a", 0, melody), Track("b", 32, melody)), (TimeSignature(0, 4, 4),))
    infiller = Infiller(load_checkpoint(checkpoint_folder))
    asks = [Ask(Region.rectangle([0], [(4, 6)]), candidates=2), Ask(Region.rectangle([0, 1], [(4, 6)]), candidates=2)]
    assert [to_write(ask) for ask in asks] == [4, 2]
    for ask in asks:
        seen = []
        found = infiller(score, ask, on_progress=lambda progress, seen=seen: seen.append(len(progress.notes)))
        assert len(found) == 2
        assert set(seen) == {2}
        again = infiller(score, ask)
        assert [c.fills for c in again] == [c.fills for c in found]


def test_a_taste_changes_the_order_alone(checkpoint_folder):
    melody = tuple(Note(b * 1920 + k * 480, 60 + (b + k) % 7, 400, 80) for b in range(8) for k in range(4))
    score = Score(BEAT, (Track("a", 0, melody),), (TimeSignature(0, 4, 4),))
    ask, checkpoint = Ask(Region.rectangle([0], [(4, 6)]), candidates=3), load_checkpoint(checkpoint_folder)
    given = []

    def last_first(song, region, fills):
        given.append((song, region, fills))
        return [2, 1, 0]

    plain = infill(score, ask, checkpoint)
    liked = infill(score, ask, checkpoint, taste=last_first)
    assert liked == plain[::-1]
    assert given == [(score, ask.region, [c.fills for c in plain])]
    assert len(infill(score, replace(ask, candidates=1), checkpoint, taste=last_first)) == len(given) == 1
