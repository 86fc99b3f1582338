"""The page without a mouse, without eyes, and with weak ones."""

import re

import pytest

pytestmark = pytest.mark.slow
# What Gradio renders and nobody can change from outside: rule -> where.
GRADIOS = {
    "aria-prohibited-attr": "the empty players: a div without a role has the aria-label 'Empty value'",
}
CONTRAST = """(selector) => {
    const light = (colour) => {
        const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map((c) => c / 255)
            .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const element = document.querySelector(selector);
    let behind = element;
    while (/, 0\\)$|transparent/.test(getComputedStyle(behind).backgroundColor)) behind = behind.parentElement;
    const pair = [light(getComputedStyle(element).color), light(getComputedStyle(behind).backgroundColor)];
    return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
}"""


def violations(page):
    """Serious and critical ones, of ours: rule -> what it found."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page.page).response["violations"]
    return {
        v["id"]: [n["html"] for n in v["nodes"]]
        for v in found
        if v["impact"] in ("serious", "critical") and v["id"] not in GRADIOS
    }


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_serious_violation_and_texts_stand_out(visit, app, tmp_path, scheme):
    page = visit(f"{app.url}?__theme={scheme}", color_scheme=scheme)
    assert violations(page) == {}
    page.example("Pop band", "pop_band.mid")
    page.locator(".mr-ms button").first.click()
    page.drag(1, 2, 3, 40)  # long enough to be looked at
    page.candidates(8)
    page.press("Infill the marked bars")
    page.locator("#mr-cancel:enabled").wait_for()
    for selector in ("#mr-infill", "#mr-cancel"):
        page.locator(selector).hover()
        page.settle()
        assert page.evaluate(CONTRAST, selector) >= 4.5
        page.mouse.move(5, 5)
        page.settle()
        assert page.evaluate(CONTRAST, selector) >= 4.5
    assert page.evaluate(CONTRAST, '.mr-ms button[aria-pressed="true"]') >= 4.5
    assert page.evaluate(CONTRAST, '.tab-container:not([aria-hidden="true"]) button.selected') >= 4.5
    page.press("Cancel")
    page.wait("!model.running")
    page.drag(1, 2, 1, 9)
    page.candidates(2)
    page.infill()
    page.press("What the notes should be like")
    broken = tmp_path / "broken.mid"
    broken.write_bytes(b"nothing")
    page.locator('input[data-testid^="Open MIDI"]').set_input_files(broken)
    page.locator(".mr-error").wait_for()
    page.settle()
    assert violations(page) == {}
    assert page.evaluate(CONTRAST, ".mr-error") >= 4.5
    page.get_by_role("tab", name="Personalise").click()
    page.get_by_role("button", name="Learn the style").wait_for()
    page.settle()
    assert violations(page) == {}


def test_one_tab_from_the_toolbar_to_the_song(visit):
    page = visit()
    page.example("Pop band", "pop_band.mid")
    focused = "document.activeElement.dataset.do || document.activeElement.className.split(' ')[0]"
    play = page.get_by_role("button", name="Play")
    play.focus()
    for key in ("ArrowRight", "End", "ArrowLeft", "ArrowRight", "ArrowRight"):
        page.keyboard.press(key)
    assert page.evaluate(focused) == "play"  # Clear and Loop cannot act: they are passed over
    page.keyboard.press("ArrowLeft")
    assert page.evaluate(focused) == "fit"
    page.keyboard.press("Tab")
    assert page.evaluate(focused) == "mr-view"
    page.keyboard.press("Shift+Tab")
    assert page.evaluate(focused) == "fit"
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate(focused) == "mr-whole"
    page.keyboard.press("Enter")
    assert re.fullmatch(r"bars 1-\d+ of Drums", page.marked())


def test_the_cursor_and_the_marks_are_spoken(visit):
    page = visit()
    page.example("Piano", "piano.mid")  # it has a pickup: its first bar is 0
    live = page.locator('.mr-live[aria-live="polite"]')
    page.locator(".mr-view").focus()
    said = []
    for key in ("ArrowRight", "ArrowRight", "Enter", "ArrowDown", "Shift+ArrowRight", "Escape"):
        page.keyboard.press(key)
        said.append(live.text_content())
    assert said == [
        "Right hand, bar 0",
        "Right hand, bar 1",
        "bar 1 of Right hand",
        "Left hand, bar 1",
        "Left hand, bar 2, marked; bars 1-2 of Left hand",
        "nothing marked: drag over the bars that you want written anew",
    ]


def test_candidates_by_arrow_keys(visit):
    page = visit()
    page.example("Piano", "piano.mid")
    page.drag(0, 2, 0, 2)
    page.candidates(3)
    page.infill()
    cards = page.get_by_role("radio")
    assert [card.get_attribute("tabindex") for card in cards.all()] == ["-1", "0", "-1", "-1"]
    cards.nth(1).focus()
    chosen = []
    for key in ("ArrowRight", "ArrowDown", "ArrowRight", "ArrowLeft", "Home", "End"):
        page.keyboard.press(key)
        chosen.append(page.roll("model.chosen"))
    assert chosen == [1, 2, -1, 2, -1, 2]
    assert cards.nth(3).get_attribute("aria-checked") == "true"
    assert page.evaluate("document.activeElement.dataset.number") == "2"
