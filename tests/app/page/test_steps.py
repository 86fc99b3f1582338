"""What is a step that undo takes back, what stays where it is, and what does not stop a fill."""

from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
EXAMPLE = Path(__file__).parents[3] / "app" / "examples" / "piano.mid"


def tracks(page):
    return page.roll("model.song.tracks.map((t) => t.name)")


def add(page, instrument, count):
    page.page.locator("#mr-add input").fill(instrument)
    page.page.get_by_role("option", name=instrument, exact=True).click()
    page.wait(f"model.song.tracks.length === {count}")


def press(page, button, version):
    page.press(button)
    page.wait(f"model.song.version === {version}")


def test_added_tracks_join_each_other(visit):
    page = visit()
    page.example("Piano", "piano.mid")
    page.drag(0, 2, 0, 3)
    add(page, "Flute", 3)
    add(page, "Violin", 4)
    assert tracks(page)[2:] == ["Flute", "Violin"]
    page.drag(2, 4, 3, 5)
    page.candidates(1)
    page.infill()
    press(page, "Keep this one", 3)
    assert tracks(page)[2:] == ["Flute", "Violin"]
    assert all(page.roll("model.song.tracks.map((t) => t.notes.length)"))
    press(page, "Undo", 2)
    assert page.marked() == "bars 4-5 of Flute, Violin"
    press(page, "Undo", 1)
    assert tracks(page)[2:] == ["Flute"]
    assert page.marked() == "bars 4-5 of Flute"
    press(page, "Undo", 0)
    assert len(tracks(page)) == 2
    for version in (1, 2, 3):
        press(page, "Redo", version)
    assert tracks(page)[2:] == ["Flute", "Violin"]


def test_the_choice_of_tracks_is_left_without_choosing(visit):
    """Tab, Escape and a click elsewhere choose nothing; a fill goes on meanwhile, and when a track is added."""
    page = visit()
    page.example("Pop band", "pop_band.mid")
    page.drag(1, 0, 3, 20)
    page.candidates(8)
    page.press("Infill the marked bars")
    page.wait("model.running && model.candidates.some((c) => Object.keys(c.fill).length)")
    box, count = page.page.locator("#mr-add input"), len(tracks(page))
    box.focus()
    page.keyboard.press("Tab")
    box.click()
    page.keyboard.press("Tab")
    box.fill("Flu")
    page.locator(".mr-legend").click()
    page.wait_for_timeout(1000)
    assert page.roll("model.running")
    assert len(tracks(page)) == count
    assert box.input_value() == "Add a track …"
    add(page, "Flute", count + 1)
    assert page.roll("model.running")
    page.press("Cancel")
    page.wait("!model.running")
    assert page.status() == "stopped; the song is as it was"
    assert tracks(page)[-1] == "Flute"


def test_candidates_survive_a_misclick_and_keep_then_undo(visit):
    page = visit()
    page.example("String quartet", "string_quartet.mid")
    page.drag(0, 4, 0, 5)
    page.candidates(2)
    page.infill()
    page.locator(".mr-card").nth(2).click()
    page.wait("model.chosen === 1")
    shelf = page.roll("model.candidates")
    page.drag(2, 9, 3, 9)  # a misclick
    page.locator(".mr-card").nth(0).click()
    page.keyboard.press("Escape")
    page.settle()
    page.reload()
    page.wait("model.candidates.length === 2")
    assert page.roll("[model.candidates, model.chosen]") == [shelf, -1]
    page.locator(".mr-card").nth(1).click()
    page.drag(2, 9, 3, 9)
    press(page, "Keep this one", 1)
    assert page.status() == "kept: bars 5-6 of Violin I"
    assert page.marked() == "bar 10 of Viola, Violoncello"
    press(page, "Undo", 0)
    assert page.status() == "undone: bars 5-6 of Violin I"
    assert page.roll("[model.candidates, model.chosen]") == [shelf, 0]
    assert page.marked() == "bar 10 of Viola, Violoncello"
    page.drag(0, 4, 0, 5)
    press(page, "Keep this one", 1)
    press(page, "Undo", 0)
    assert page.marked() == "bars 5-6 of Violin I"


def test_what_cannot_be_read_does_not_stop_a_fill(visit, tmp_path):
    broken = tmp_path / "broken.mid"
    broken.write_bytes(b"MThd nonsense")
    page = visit()
    page.example("Pop band", "pop_band.mid")
    page.drag(1, 0, 3, 20)
    page.candidates(8)
    page.press("Infill the marked bars")
    page.wait("model.running && model.candidates.some((c) => Object.keys(c.fill).length)")
    page.locator('input[data-testid^="Open MIDI"]').set_input_files(broken)
    page.page.get_by_text("broken.mid").first.wait_for(state="attached")  # it is shown for a moment
    assert page.roll("model.running")
    page.locator('input[data-testid^="Open MIDI"]').set_input_files(str(EXAMPLE))
    page.wait("model.song.name === 'piano.mid'")
    page.wait("!model.running")


def test_a_reload_does_not_stop_a_fill(visit):
    """The page that comes up goes on where the one before was; Cancel works there too."""
    page = visit()
    page.example("Pop band", "pop_band.mid")
    page.drag(1, 0, 3, 10)
    page.candidates(4)
    page.press("Infill the marked bars")
    page.wait("model.running && model.candidates.some((c) => Object.keys(c.fill).length)")
    page.reload()
    page.wait("model.running && model.candidates.some((c) => Object.keys(c.fill).length)")
    page.wait("!model.running && model.candidates.length === 4")
    assert page.status().startswith("4 candidates in ")
    before = page.roll("model.candidates")
    page.press("Infill the marked bars")
    page.wait("model.running && model.candidates.some((c) => Object.keys(c.fill).length)")
    page.reload()
    page.wait("model.running")
    page.press("Cancel")
    page.wait("!model.running")
    assert page.status() == "stopped; the song is as it was"
    assert page.roll("model.candidates") == before
