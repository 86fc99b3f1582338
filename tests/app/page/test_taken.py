"""What a track is taken for: chosen on the page, undone, found again after a reload; and what the page warns of."""

import pytest

pytestmark = pytest.mark.slow


def choose(page, where, option):
    page.page.locator(f"{where} input").click()
    page.page.get_by_role("option", name=option, exact=True).click()


def heads(page):
    return page.roll("model.song.tracks.map((t) => [t.instrument, t.drum])")


def test_a_track_is_taken_for_drums(visit, build_midi, note, tmp_path):
    hits = [e for b in range(8) for k in range(8) for e in note(b * 1920 + k * 240, (36, 42, 38, 42)[k % 4], 60)]
    path = tmp_path / "kit.mid"
    path.write_bytes(build_midi([[(0, b"\xff\x03\x03Kit"), *hits], note(0, 60, 480, channel=1)]))
    page = visit()
    page.page.locator("input[type=file]").first.set_input_files(str(path))
    page.wait("model.song && model.song.name === 'kit.mid'")
    page.page.get_by_text("1 Kit looks like drums but is not on channel 10").wait_for()
    page.page.get_by_role("button", name="What the notes should be like").click()
    choose(page, "#mr-take", "1 Kit (Acoustic Grand Piano)")
    choose(page, "#mr-take-for", "Drums")
    page.wait("model.song.tracks[0].drum")
    assert heads(page) == [["Drums", True], ["Acoustic Grand Piano", False]]
    page.page.reload()
    page.wait("model.song && model.song.tracks[0].drum")
    page.press("Undo")
    page.wait("!model.song.tracks[0].drum")
    page.page.get_by_role("button", name="What the notes should be like").click()
    choose(page, "#mr-take", "2 Acoustic Grand Piano")
    choose(page, "#mr-take-for", "Flute")
    page.wait("model.song.tracks[1].instrument === 'Flute'")
    choose(page, "#mr-take", "2 Flute")
    choose(page, "#mr-take-for", "what the file says")
    page.wait("model.song.tracks[1].instrument === 'Acoustic Grand Piano'")
