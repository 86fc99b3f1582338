"""What the page says and which of its buttons can act."""

import re
from urllib.parse import urlsplit

import pytest

pytestmark = pytest.mark.slow
BUTTONS = ("infill", "cancel", "keep", "alike", "star", "throw", "undo", "redo")


def enabled(page):
    return {name for name in BUTTONS if page.locator(f"#mr-{name}").is_enabled()}


def test_buttons_that_cannot_act_are_disabled(visit):
    page = visit()
    page.locator("#mr-infill:disabled").wait_for()
    assert enabled(page) == set()
    assert page.locator(".mr-bar button:enabled").count() == 0
    page.example("Piano", "piano.mid")
    assert page.locator(".mr-song").inner_text() == "piano.mid"
    assert enabled(page) == set()
    assert page.get_by_role("button", name="Clear marks").is_disabled()
    assert page.get_by_role("button", name="Play").is_enabled()
    page.drag(0, 2, 0, 9)
    assert enabled(page) == {"infill"}
    page.candidates(8)
    page.press("Infill the marked bars")
    page.wait("model.running")
    assert enabled(page) == {"infill", "cancel"}
    page.press("Cancel")
    page.wait("!model.running")
    assert enabled(page) == {"infill"}
    assert page.evaluate("document.activeElement.className").startswith("mr-view")  # the focus is not lost
    page.candidates(1)
    page.infill()
    assert enabled(page) == {"infill", "keep", "alike", "star", "throw"}
    page.locator(".mr-card").nth(0).click()  # as it was
    assert enabled(page) == {"infill"}
    page.locator(".mr-card").nth(1).click()
    page.press("Keep this one")
    page.wait("model.song.version === 1")
    assert {"undo"} <= enabled(page) <= {"undo", "infill"}
    page.press("Undo")
    page.wait("model.song.version === 0")
    assert {"redo"} <= enabled(page)
    assert "undo" not in enabled(page)


def test_opening_the_wishes_leaves_the_seed_empty(visit):
    page = visit()
    page.example("Piano", "piano.mid")
    page.press("What the notes should be like")
    seed = page.get_by_label("Seed")
    seed.wait_for()
    assert seed.input_value() == ""
    page.drag(0, 2, 0, 2)
    page.candidates(1)
    seeds = set()
    for _ in range(2):
        page.infill()
        seeds |= set(re.findall(r"seed (\d+)", page.status()))
    assert len(seeds) == 2
    page.infill(seed=7)
    assert "seed 7)" in page.status()
    page.infill(seed=2**63 - 1)  # not rounded
    assert f"seed {2**63 - 1})" in page.status()
    for wrong in ("-1", "1.5", str(2**63)):
        seed.fill(wrong)
        page.press("Infill the marked bars")
        said = f"Seed must be a whole number from 0 to 2^63 - 1, got '{wrong}'"
        page.locator(".mr-error").get_by_text(said).wait_for()


def test_an_error_covers_nothing_and_goes_by_itself(visit, tmp_path):
    page = visit()
    page.example("Piano", "piano.mid")
    broken = tmp_path / "broken.mid"
    broken.write_bytes(b"nothing")
    page.locator('input[data-testid^="Open MIDI"]').set_input_files(broken)
    error = page.locator(".mr-error")
    error.wait_for()
    assert "broken.mid" in error.inner_text()
    page.locator('[data-testid="toast-body"]').wait_for(state="hidden")
    covered = """() => [...document.querySelectorAll("button")].filter((b) => {
        const { x, y, width, height } = b.getBoundingClientRect();
        const top = document.elementFromPoint(x + width / 2, y + height / 2);
        const seen = b.checkVisibility({ visibilityProperty: true, opacityProperty: true }) && y + height < innerHeight;
        return seen && !b.disabled && !b.closest('[aria-hidden="true"]') && top && !b.contains(top) && !top.contains(b);
    }).map((b) => b.outerHTML)"""
    assert page.evaluate(covered) == []
    page.locator(".mr-error").wait_for(state="detached")
    assert page.status() != error


def test_a_dead_server_is_one_line_until_it_is_back_with_the_work(visit, start_app, browser):
    app = start_app()
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = visit(app.url, context)
    page.example("Piano", "piano.mid")
    page.drag(0, 2, 0, 3)
    page.candidates(1)
    page.infill()
    page.press("Keep this one")
    page.wait("model.song.version === 1")
    notes = page.roll("model.song.tracks[0].notes")
    app.stop()
    page.locator(".mr-view").focus()
    for _ in range(3):
        page.keyboard.press("Shift+ArrowRight")
    line = page.locator("#mr-away")
    line.wait_for()
    assert line.inner_text() == (
        "The app's server does not answer. Start it again (midi-rwkv app): your song is saved, and the page goes on by "
        "itself."
    )
    page.wait_for_timeout(1500)
    assert line.count() == 1
    assert [t for t in page.locator('[data-testid="toast-body"]').all() if t.is_visible()] == []
    assert page.status() == ""
    assert enabled(page) == set()
    again = start_app(folder=app.folder, port=urlsplit(app.url).port)
    line.wait_for(state="detached")
    page.wait("model.song && model.song.name === 'piano.mid'")
    assert page.roll("model.song.tracks[0].notes") == notes
    page.press("Undo")
    page.wait("model.song.version === 0")
    page.drag(0, 5, 0, 6)
    page.infill()
    context.close()
    again.stop()
