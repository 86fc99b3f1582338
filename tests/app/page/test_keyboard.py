"""The song by keyboard."""

import pytest

pytestmark = pytest.mark.slow


def test_by_keyboard(visit):
    page = visit()
    page.example("String quartet", "string_quartet.mid")
    page.locator(".mr-view").focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "Shift+ArrowRight", "Shift+ArrowDown"):
        page.keyboard.press(key)
    assert page.marked() == "bars 2-3 of Violin II, Viola"
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    assert page.marked() == "bar 2 of Violin II; bars 2-3 of Viola"
    page.settle()
    page.infill()
    page.locator(".mr-view").focus()
    page.keyboard.press("2")
    assert page.roll("model.chosen") == 1
    page.keyboard.press("o")
    assert page.roll("model.chosen") == -1
    page.keyboard.press("Escape")
    assert page.marked().startswith("nothing marked")
    before = page.roll("view.scale")
    page.keyboard.press("+")
    assert page.roll("view.scale") > before
    before = page.roll("view.lane")
    page.keyboard.press("t")
    assert page.roll("view.lane") == 2 * before
