"""The taste on the page: what the buttons note, the switch, the button that forgets, and the order of candidates."""

import json
from pathlib import Path

import httpx
import pytest
from gradio_client import Client, handle_file

from midi_rwkv.app.folder import Folder
from midi_rwkv.app.guard import Hosts
from midi_rwkv.app.session import TabSession
from midi_rwkv.app.taste_desk import TasteDesk
from midi_rwkv.app.versions import StoredCandidate
from midi_rwkv.score.score import Note
from midi_rwkv.style.choices import PLACE, Choice, Choices, read_choices
from midi_rwkv.tokens.attributes import make_vocabulary

BAR = 1920
TAB = "1" * 32
VOCABULARY = make_vocabulary()
EXAMPLE = Path(__file__).parents[2] / "app" / "examples" / "piano.mid"


@pytest.fixture
def session(build_midi, note, tmp_path):
    made = TabSession(Folder(tmp_path / "tab"))
    made.open(build_midi([[e for b in range(8) for k in range(4) for e in note(b * BAR + k * 480, 60, 240)]]), "a.mid")
    made.mark([(0, 4)])
    return made


@pytest.fixture
def choices(tmp_path):
    return Choices(tmp_path / "taste")


def fills(*counts):
    """Fills of bar 5 with so many notes each."""
    return [{0: [Note(4 * BAR + i * 120, 64, 100, 80) for i in range(count)]} for count in counts]


def answer(session, *counts):
    session.answer([StoredCandidate(1, fill, place) for place, fill in enumerate(fills(*counts))], session.view.cells)


def keep(session, desk, number):
    session.choose(number)
    before = session.score, session.view
    session.keep()
    desk.note(*before, kept=True)


def sparse(number):
    """What a listener who likes few notes has kept."""
    rows = {PLACE: [0, 1, 2], "onsets beside nearby": [0.5, 0.1 * (number % 3), -0.5]}
    return Choice(str(number), rows, kept=2)


def test_what_is_kept_starred_and_thrown_away_is_noted(session, choices):
    desk = TasteDesk(choices, VOCABULARY)
    answer(session, 8, 4, 1)
    session.choose(1)
    session.like(-1)
    desk.note(session.score, session.view)
    keep(session, desk, 2)
    [choice] = choices.read()
    assert (choice.kept, choice.starred, choice.thrown) == (2, (), (1,))
    dense = choice.rows["onsets beside nearby"]
    assert dense[0] > dense[1] > dense[2]
    assert choice.rows[PLACE] == [0, 1, 2]


def test_what_is_undone_is_taken_back_with_the_next_fill(session, choices):
    desk = TasteDesk(choices, VOCABULARY)
    answer(session, 8, 4, 1)
    keep(session, desk, 2)
    session.step(-1)
    session.step(1)  # only to compare
    desk.take_back(session)
    assert [c.kept for c in choices.read()] == [2]
    session.step(-1)
    keep(session, desk, 0)
    assert [c.kept for c in choices.read()] == [0]
    session.step(-1)
    desk.take_back(session)
    assert choices.read() == []


def test_a_star_is_taken_back_by_a_second_one(session, choices):
    desk = TasteDesk(choices, VOCABULARY)
    answer(session, 8, 4)
    for starred in ([(0,)], []):
        session.like(1)
        desk.note(session.score, session.view)
        assert [c.starred for c in choices.read()] == starred
    session.like(1)
    found = TabSession(Folder(session.folder.path))
    found.load()
    assert found.view == session.view


def test_nothing_is_noted_of_a_single_candidate_or_when_switched_off(session, choices):
    desk = TasteDesk(choices, VOCABULARY)
    answer(session, 3)
    keep(session, desk, 0)
    desk.switch(on=False)
    assert desk.load() == (False, desk.switch(on=False))
    session.mark([(0, 4)])
    answer(session, 3, 4)
    keep(session, desk, 0)
    assert choices.read() == []
    assert "switched off" in desk.load()[1]


def test_others_learn_nothing_here(session):
    desk = TasteDesk(None, VOCABULARY)
    answer(session, 3, 4)
    keep(session, desk, 0)
    desk.take_back(session)
    assert (desk.is_ours, desk.order(), desk.load(), desk.forget()) == (False, None, (False, ""), "")
    assert Hosts.of("127.0.0.1").are_this_machine
    assert not Hosts.of("0.0.0.0").are_this_machine
    assert not Hosts.of("127.0.0.1", ["music.example"]).are_this_machine


def test_candidates_come_in_the_order_of_the_taste_until_it_is_forgotten(session, choices):
    desk = TasteDesk(choices, VOCABULARY)
    for number in range(19):
        choices.record(sparse(number))
    assert desk.order() is None
    assert "Not used yet: it is tried from 20 kept fills on, 1 to go." in desk.load()[1]
    choices.record(sparse(19))
    order = desk.order()
    assert order(session.score, session.region, fills(8, 1, 4)) == [1, 2, 0]
    assert (
        "Used: of 19 kept fills it would have shown 19 first, the plain order 0. You like it sparser." in desk.load()[1]
    )
    desk.switch(on=False)
    assert desk.order() is None
    desk.switch(on=True)
    assert desk.order() is not None
    assert desk.forget().startswith("0 fills kept")
    assert desk.order() is None


class Visitor:
    """A browser tab, as the server sees it."""

    def __init__(self, url):
        self.client = httpx.Client(base_url=url, timeout=120)
        self.client.get("")
        self.config = self.client.get("config").json()

    def send(self, name, *values, event=None):
        """Calls a handler of the page, and returns what it ends with."""
        [number] = [d["id"] for d in self.config["dependencies"] if d["api_name"] == name]
        body = {"fn_index": number, "data": values, "session_hash": f"s{number}", "event_data": event}
        self.client.post("gradio_api/queue/join", json=body).raise_for_status()
        with self.client.stream("GET", f"gradio_api/queue/data?session_hash=s{number}") as answer:
            for line in answer.iter_lines():
                told = json.loads(line.removeprefix("data:")) if line.startswith("data:") else {}
                if told.get("msg") == "process_completed":
                    assert told["success"], told
                    return told["output"].get("data")
        raise AssertionError(f"{name} did not end")


@pytest.fixture
def app(start_app, checkpoint_folder):
    app = start_app("--checkpoint", checkpoint_folder)
    yield app
    app.stop()


def test_the_page_notes_and_forgets_and_programs_do_neither(app):
    path = app.folder / "midi-rwkv" / "taste" / "choices.jsonl"
    page = Visitor(app.url)
    settings = [2, 0.85, 1.0, "none", 1.0, 1.0, "", "", "", "any", "5", "", "nothing", 0, "", "track"]
    page.send("open_example", TAB, None)
    marked = json.dumps({"cells": [[0, 2], [0, 3]], "chosen": -1})
    page.send("infill_1", TAB, marked, *settings)
    assert not path.exists()
    chosen = json.dumps({"cells": [[0, 2], [0, 3]], "chosen": 1})
    page.send("star", TAB, chosen)
    assert [(c.kept, c.starred) for c in read_choices(path)] == [(None, (1,))]
    page.send("keep", TAB, chosen)
    assert [(c.kept, c.starred) for c in read_choices(path)] == [(1, (1,))]
    assert "pop_band" not in path.read_text()
    [told] = page.send("switch", *[False])
    assert told.startswith("1 fill kept, 1 starred, 0 thrown away. It is switched off")
    page.send("undo", TAB, chosen)
    page.send("keep", TAB, json.dumps({"cells": [], "chosen": 0}))
    assert [c.kept for c in read_choices(path)] == [1]
    [told] = page.send("forget")
    assert told.startswith("0 fills kept")
    song = handle_file(EXAMPLE)
    program = Client(app.url, verbose=False, httpx_kwargs={"timeout": 120})
    program.predict(song=song, tracks=[0], bars=[2], num_candidates=2, api_name="/infill")
    assert not path.exists()
