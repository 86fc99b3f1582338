"""Every tab has its own song, which it finds again: after a reload, a second server, a server that was started anew."""

import json

import pytest

pytestmark = pytest.mark.slow
TAB = "window.midiRwkvTab"


@pytest.fixture
def context(browser):
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    yield context
    context.close()


def opened(page, name):
    page.wait(f"model.song && model.song.name === '{name}'")


def field(page, label):
    if label in ("Key", "Keep", "Feel"):  # choices
        return page.get_by_label(label, exact=True)
    return page.get_by_role("textbox", name=label)


def test_each_tab_has_its_own_song(visit, context, script):
    one = visit(context=context)
    one.example("Piano", "piano.mid")
    one.drag(0, 2, 0, 3)
    two = visit(context=context)
    opened(two, "piano.mid")  # a new tab begins with a copy
    assert two.marked() == "bars 2-3 of Right hand"
    assert two.status().startswith("a copy of piano.mid")
    two.example("String quartet", "string_quartet.mid")
    two.drag(1, 5, 1, 5)
    one.drag(1, 7, 1, 7)
    with context.expect_page() as popup:
        one.evaluate("window.open(location.href)")  # takes what the tab stores along, as duplicating a tab does
    three = script("script_helpers.app_driver").Page(popup.value)
    three.wait_for_selector(".mr-roll")
    three.wait("model.song")
    three.drag(0, 0, 0, 0)
    assert len({page.evaluate(TAB) for page in (one, two, three)}) == 3
    for page, name, marked in (
        (one, "piano.mid", "bar 7 of Left hand"),
        (two, "string_quartet.mid", "bar 6 of Violin II"),
        (three, "piano.mid", "bar 0 of Right hand"),
    ):
        tab = page.evaluate(TAB)
        for _ in range(2):
            page.reload()
            page.wait("model.song && model.cells.size")
            assert page.evaluate(TAB) == tab
            assert page.marked().startswith(marked)
            assert page.roll("model.song.name") == name


def test_two_servers_write_to_sessions_of_their_own(visit, start_app, context):
    first = start_app()
    one = visit(first.url, context)
    one.example("Piano", "piano.mid")
    one.drag(0, 2, 0, 3)
    second = start_app(folder=first.folder)
    two = visit(second.url, context)
    opened(two, "piano.mid")
    assert two.status() == "a copy of piano.mid: another tab or server has the original open"
    two.drag(1, 5, 1, 5)
    one.drag(1, 7, 1, 7)
    first.stop()
    second.stop()
    third = start_app(folder=first.folder)  # the one that was changed last, and nothing is said of it
    page = visit(third.url, context)
    opened(page, "piano.mid")
    assert page.marked() == "bar 7 of Left hand"
    assert page.status() == ""
    third.stop()


KEPT = {
    "temperature": 0.7,
    "density": "2-6",
    "key": "A minor",
    "seed": "42",
    "chords": "Am F",
    "like": "1-4",
    "feel": "grid",
}


def is_kept(app):
    """Whether a session's record holds the settings that the test makes."""
    records = [json.loads(path.read_text())["settings"] for path in app.folder.rglob("session.json")]
    return any(all(settings.get(name) == value for name, value in KEPT.items()) for settings in records)


def test_settings_survive_a_reload(visit, app):
    page = visit()
    page.example("Piano", "piano.mid")
    page.candidates(5)
    page.press("What the notes should be like")
    for _ in range(10):  # on a busy machine the answer to an earlier change may undo a later one
        for label, text in (
            ("Notes a bar", "2-6"),
            ("Range", "C3-C6"),
            ("Chords", "Am F"),
            ("Like", "1-4"),
            ("Seed", "42"),
        ):
            field(page, label).fill(text)
        field(page, "Key").fill("A minor")
        page.get_by_role("option", name="A minor", exact=True).click()
        for label, choice in (("Keep", "rhythm"), ("Feel", "on the grid")):
            field(page, label).click()
            page.get_by_role("option", name=choice, exact=True).click()
        for heat in ("0.8", "0.7"):
            page.get_by_label("number input for Temperature").fill(heat)
            page.keyboard.press("Tab")
        for _ in range(100):  # the fields send what was typed after a moment, and the server keeps it after another
            if is_kept(app):
                break
            page.wait_for_timeout(100)
        else:
            continue
        break
    assert is_kept(app)
    page.reload()
    page.wait("model.song")
    page.press("What the notes should be like")
    labels = ("Notes a bar", "Notes at once", "Range", "Key", "Seed", "Chords", "Like", "Keep", "Feel")
    told = ["2-6", "", "C3-C6", "A minor", "42", "Am F", "1-4", "rhythm", "on the grid"]
    for label, value in (("Cand", "5"), ("Temp", "0.7")):
        page.page.wait_for_function(
            f"document.querySelector('[aria-label^=\"number input for {label}\"]').value === '{value}'"
        )
    assert [field(page, label).input_value() for label in labels] == told
    field(page, "Range").fill("C9-C3")
    page.drag(0, 2, 0, 2)
    page.press("Infill the marked bars")
    page.locator(".mr-error").get_by_text("Range must be LOW-HIGH").wait_for()
