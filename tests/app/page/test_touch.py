"""The song by finger."""

import pytest

pytestmark = pytest.mark.slow


def swipe(page, start, end):
    """A finger from one point to another."""
    devices = page.context.new_cdp_session(page.page)
    for kind, share in (("touchStart", 0), *(("touchMove", k / 6) for k in range(1, 7)), ("touchEnd", 1)):
        point = [a + share * (b - a) for a, b in zip(start, end, strict=True)]
        points = [] if kind == "touchEnd" else [{"x": point[0], "y": point[1]}]
        devices.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        page.wait_for_timeout(30)
    page.settle()


def test_a_switch_decides_whether_a_finger_scrolls_or_marks(visit):
    page = visit(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page.example("Pop band", "pop_band.mid")
    for _ in range(4):
        page.locator('[data-do="in"]').tap()
    page.evaluate("document.querySelector('.mr-scroll').scrollLeft = 0")
    switch = page.locator('[data-do="mark"]')
    assert switch.get_attribute("aria-pressed") == "false"
    swipe(page, page.at(1, 9), page.at(1, 2))
    assert page.evaluate("document.querySelector('.mr-scroll').scrollLeft") > 20
    assert page.roll("model.cells.size") == 0
    page.evaluate("document.querySelector('.mr-scroll').scrollLeft = 0")
    page.wait_for_timeout(500)

    page.touchscreen.tap(*page.at(2, 1))  # a tap marks a bar
    assert page.marked() == "bar 2 of Electric Guitar"
    switch.tap()
    assert switch.get_attribute("aria-pressed") == "true"
    swipe(page, page.at(0, 1), page.at(1, 2))
    assert page.marked() == "bars 2-3 of Drums, Bass; bar 2 of Electric Guitar"
    assert page.evaluate("document.querySelector('.mr-scroll').scrollLeft") == 0
    switch.tap()
    swipe(page, page.at(1, 9), page.at(1, 2))
    assert page.marked() == "bars 2-3 of Drums, Bass; bar 2 of Electric Guitar"


def test_with_a_mouse_there_is_no_switch(visit):
    page = visit()
    assert not page.locator('[data-do="mark"]').is_visible()
