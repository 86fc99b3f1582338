"""What the page's fields ask for."""

import numpy as np
import pytest

from midi_rwkv import Like
from midi_rwkv.app.fills import FIELDS, LABELS, plan, settings_of
from midi_rwkv.app.folder import Folder
from midi_rwkv.app.session import TabSession
from midi_rwkv.model.checkpoint import load_checkpoint
from midi_rwkv.score.midi import read_midi
from midi_rwkv.style.style import Style, save_style, styles_folder
from midi_rwkv.tokens.notes import encode

BAR = 1920
USUAL = {"candidates": 3, "temperature": 0.85, "follow": 1.0, "style": "none", "strength": 1.0, "key": "any", "vary": 0}
USUAL |= {"keep": "nothing", "feel": "track", "memory": 1.0}


@pytest.fixture
def checkpoint(checkpoint_folder):
    return load_checkpoint(checkpoint_folder)


@pytest.fixture
def planned(checkpoint, build_midi, note, tmp_path, monkeypatch):
    """planned(chords="Am", ...) -> the request for bars 5-6 with these settings; the others are as the page opens."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    session = TabSession(Folder(tmp_path))
    session.open(build_midi([[e for b in range(8) for e in note(b * BAR, 60 + b, 480)]]), "song.mid")
    session.mark([(0, 4), (0, 5)])

    def request(**settings):
        values = {**USUAL, **settings}
        return plan(session, settings_of(tuple(values.get(n) for n in FIELDS)), checkpoint, alike=False).request

    return request


@pytest.fixture
def asked(planned):
    """The Ask of `planned`."""
    return lambda **settings: planned(**settings).ask


def test_untouched_fields_ask_for_nothing(asked):
    ask = asked()
    assert (ask.keep, ask.vary, ask.chords, ask.like, ask.feel, ask.again) == (set(), None, (), None, "track", False)
    assert ask.sampling.density is None


def test_each_field_is_a_wish(asked):
    assert [c.name for c in asked(chords="Am | F").chords] == ["Am", "F"]
    assert asked(keep="rhythm").keep == {"rhythm"}
    assert asked(vary=0.3).vary == 0.3
    assert asked(like="1-4").like == Like(((0, 4),))
    assert asked(like="itself").like == Like(itself=True)
    assert asked(like="none").sampling.follow == 0
    assert asked(feel="grid").feel == "grid"
    assert asked(density="sparse").sampling.density == "sparse"


def test_what_was_learned_and_what_is_remembered_have_strengths_of_their_own(planned, checkpoint, build_midi, note):
    song = encode(checkpoint.vocabulary, read_midi(build_midi([[e for b in range(8) for e in note(b * BAR, 60, 480)]])))
    c = checkpoint.config
    run = np.ones((c.n_layer, c.n_head, c.head_size, c.head_size), np.float32)
    save_style(Style("mine", run=run, pieces=((song, 1.0),)), styles_folder() / "mine.safetensors")
    style = planned(style="mine", strength=0.5, memory=0.25).style
    assert style.run.max() == 0.5
    assert [weight for _, weight in style.pieces] == [0.25]
    assert planned(style="mine", strength=0, memory=1).style.run is None
    assert planned(style="mine", strength=0, memory=0).style is None


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"chords": "Am H"}, "^'H' in bar 1 of Chords is no chord"),
        ({"keep": "rhythm", "vary": 0.3}, "^Vary keeps some of the notes"),
        ({"like": "other.mid"}, "^Like takes bars of this song, none or itself"),
        ({"like": "20"}, "^Like 20: song.mid has bars 1-8"),
        ({"density": "lots"}, "^Notes a bar must be sparse, normal, busy or LOW-HIGH"),
    ],
)
def test_a_wrong_field_is_named_by_its_label(asked, settings, words):
    with pytest.raises(ValueError, match=words):
        asked(**settings)


def test_every_field_has_a_label():
    assert set(FIELDS) == set(LABELS)
