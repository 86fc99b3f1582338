"""What is opened, and what is found again."""

import pytest

pytestmark = pytest.mark.slow
HOSTILE = "${7*7}{{7*7}}<img src=x onerror=window.hacked=1>"


def test_a_reload_keeps_the_work(visit):
    """That a new server keeps it too is in test_messages.py."""
    page = visit()
    page.example("Piano", "piano.mid")
    page.drag(0, 2, 0, 3)
    page.candidates(2)
    page.infill()
    page.locator(".mr-card").nth(2).click()
    page.settle()
    before = page.roll("[model.song, [...model.cells], model.candidates, model.chosen]")
    page.reload()
    page.wait("model.candidates.length === 2")
    assert page.roll("[model.song, [...model.cells], model.candidates, model.chosen]") == before


def test_names_are_text_and_broken_files_a_line(visit, build_midi, note, tmp_path):
    name = HOSTILE.encode()
    lead = [
        (0, b"\xff\x03" + bytes([len(name)]) + name),
        *[e for k in range(40) for e in note(k * 480, 60 + k % 9, 240)],
    ]
    song = tmp_path / "${6*6}.mid"
    song.write_bytes(build_midi([lead]))
    page = visit()
    page.open(song)
    assert page.locator(".mr-head b").inner_text() == f"1 {HOSTILE}"
    page.drag(0, 1, 0, 2)
    assert page.marked() == f"bars 2-3 of {HOSTILE}"
    page.infill()
    page.press("Keep this one")
    page.page.get_by_text(f"kept: bars 2-3 of {HOSTILE}").wait_for()
    assert page.evaluate("window.hacked") is None
    assert page.locator(".mr-roll img").count() == 0

    broken = tmp_path / "broken.mid"
    broken.write_bytes(b"MThd\0\0\0\6nonsense")
    page.locator('input[data-testid^="Open MIDI"]').set_input_files(broken)
    page.locator(".mr-error").wait_for()
    assert page.status() == "broken.mid is a type 28271 file; types 0 and 1 are read; export it as type 1"
    assert page.roll("model.song.version") == 1  # the song that was open still is
