"""`midi-rwkv taste`, and `midi-rwkv infill --taste`."""

import json
from pathlib import Path

import pytest

from midi_rwkv.commands.cli import main
from midi_rwkv.style.choices import PLACE, Choice, Choices

SONG = Path(__file__).parents[2] / "app" / "examples" / "string_quartet.mid"


@pytest.fixture
def choices(monkeypatch, tmp_path):
    """The record in a data folder of its own."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return Choices()


@pytest.fixture
def likes_the_last(choices):
    """Twenty kept fills of a listener who likes what is usually shown last, and loud."""
    for i in range(20):
        choices.record(Choice(str(i), {PLACE: [0, 1, 2], "velocity": [0.0, 0.0, i % 4]}, kept=2, thrown=(0,)))


def said(capsys, *arguments):
    assert main(["taste", *arguments]) == 0
    return capsys.readouterr().out


@pytest.mark.usefixtures("likes_the_last")
def test_what_is_known_is_said_in_plain_words(choices, capsys):
    lines = said(capsys).splitlines()
    assert lines[:3] == [
        "20 fills kept, 0 starred, 20 thrown away",
        "used: of 19 kept fills it would have shown 19 first, the plain order 0",
        "you like it louder",
    ]
    assert lines[3] == f"recorded in {choices.path}, on this machine only; midi-rwkv taste --forget deletes it"
    told = json.loads(said(capsys, "--json"))
    assert (told["recording"], told["kept"], told["used"], told["likes"]) == (True, 20, True, ["louder"])
    choices.switch(on=False)
    assert "switched off on the page" in said(capsys)
    assert json.loads(said(capsys, "--json"))["used"] is False


@pytest.mark.usefixtures("likes_the_last")
def test_nothing_is_known_at_first_and_after_it_is_forgotten(choices, capsys):
    assert said(capsys, "--forget") == "forgotten: what became of 20 fills\n"
    assert json.loads(said(capsys, "--forget", "--json")) == {"forgotten": 0}
    assert said(capsys).splitlines()[:2] == [
        "0 fills kept, 0 starred, 0 thrown away",
        "not used yet: it is tried from 20 kept fills on, 20 to go",
    ]
    assert not choices.path.exists()


@pytest.mark.usefixtures("likes_the_last")
def test_a_fill_comes_in_the_order_of_the_taste(checkpoint_folder, tmp_path, capsys):
    def filled(name, *arguments):
        base = ["infill", str(SONG), "--bars", "5-6", "--tracks", "2", "--candidates", "3", "--seed", "4"]
        out = tmp_path / name
        out.mkdir()
        assert main([*base, "--checkpoint", str(checkpoint_folder), "-o", str(out / "a.mid"), *arguments]) == 0
        return [path.read_bytes() for path in sorted(out.iterdir())]

    plain = filled("plain")
    assert filled("off", "--taste", "off") == plain
    assert filled("on", "--taste", "on") != plain
    assert sorted(filled("again", "--taste", "on")) == sorted(plain)
    assert len(set(plain)) == 3
    assert main(["taste", "--forget"]) == 0
    capsys.readouterr()
    assert filled("forgotten", "--taste", "on") == plain
    assert capsys.readouterr().err == "midi-rwkv: the taste is not used (midi-rwkv taste says why)\n"
