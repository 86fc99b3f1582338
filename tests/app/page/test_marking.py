"""What is marked, with the mouse and by keys; what is locked; a new track."""

import pytest

pytestmark = pytest.mark.slow
NOTHING = "nothing marked: drag over the bars that you want written anew"


def head(page, track):
    return page.locator(".mr-whole").nth(track)


def note_on_screen(page, track, onset, pitch):
    """Where a note begins, in the middle of its height."""
    x, y = page.evaluate(
        """([t, onset, pitch]) => { const { model, view } = document.querySelector(".mr-roll").roll;
        const track = model.song.tracks[t], size = (view.lane - 6) / (track.high - track.low + 1);
        const scroll = document.querySelector(".mr-scroll");
        return [onset * view.scale - scroll.scrollLeft,
            36 + (t + 1) * view.lane - 3 - (pitch - track.low + 0.5) * size - scroll.scrollTop]; }""",
        [track, onset, pitch],
    )
    return page.on_screen(x, y)


@pytest.fixture
def sparse(build_midi, note, tmp_path):
    """A song of 8 bars with one note in each, on its first beat."""
    path = tmp_path / "sparse.mid"
    path.write_bytes(build_midi([[e for b in range(8) for e in note(b * 1920, 60 + 6 * (b % 2), 480)]]))
    return path


def test_everything_a_track_and_bars_of_all_tracks(visit):
    page = visit()
    page.example("String quartet", "string_quartet.mid")
    bars = page.roll("model.song.ownBars")
    page.locator(".mr-view").focus()
    page.keyboard.press("Control+a")
    assert page.roll("model.cells.size") == 4 * bars
    assert page.evaluate("String(getSelection())") == ""
    page.drag(0, 2, 1, 4)  # marking still works
    assert page.marked() == "bars 3-5 of Violin I, Violin II"
    page.get_by_role("button", name="Play").focus()
    page.keyboard.press("Control+a")
    assert page.roll("model.cells.size") == 4 * bars

    head(page, 2).click()
    assert page.marked() == f"bars 1-{bars} of Viola"
    head(page, 3).click(modifiers=["Shift"])
    assert page.marked() == f"bars 1-{bars} of Viola, Violoncello"
    head(page, 2).click(modifiers=["Shift"])
    assert page.marked() == f"bars 1-{bars} of Violoncello"

    ruler = [page.on_screen(page.at(0, b)[0] - page.on_screen(0, 0)[0], 20) for b in (4, 6)]
    page.mouse.move(*ruler[0])
    page.mouse.down()
    page.mouse.move(*ruler[1], steps=4)
    page.mouse.up()
    assert page.marked() == "bars 5-7 of Violin I, Violin II, Viola, Violoncello"
    page.mouse.click(*ruler[1])  # a click there moves the playhead only
    assert page.roll("player.position === model.song.bars[6]")
    assert page.marked() == "bars 5-7 of Violin I, Violin II, Viola, Violoncello"


def test_text_that_is_selected_does_not_break_marking(visit):
    page = visit()
    page.example("Piano", "piano.mid")
    page.evaluate("getSelection().selectAllChildren(document.body)")
    page.drag(0, 2, 0, 4)
    assert page.marked() == "bars 2-4 of Right hand"


def test_keys_in_a_field_are_the_fields_own(visit):
    page = visit()
    page.example("Piano", "piano.mid")
    page.press("What the notes should be like")
    field = page.get_by_role("textbox", name="Range")
    field.fill("C3-C6")
    field.press("Control+a")
    field.press("Backspace")
    assert field.input_value() == ""
    assert page.marked() == NOTHING


def test_a_note_is_hit_within_six_pixels_and_a_miss_changes_nothing(visit, sparse):
    page = visit()
    page.open(sparse)
    page.drag(0, 1, 0, 5)
    marked = page.marked()
    x, y = note_on_screen(page, 0, 2 * 1920, 60)
    height = page.roll("(view.lane - 6) / (model.song.tracks[0].high - model.song.tracks[0].low + 1)")
    for dy, locks in ((height / 2 + 4, True), (height / 2 + 9, False), (0, True)):
        before = page.roll("model.locked.size")
        page.mouse.click(x + 5, y + dy)
        assert (page.roll("model.locked.size") != before) == locks
        assert page.marked() == marked
    page.mouse.click(x - 4, y)
    assert page.roll("model.locked.size") == 1
    page.mouse.click(*page.at(0, 2, 0.8))  # no note near
    assert page.roll("[...model.locked]") == ["0,3840,60"]
    assert page.marked() == marked
    page.keyboard.down("Shift")  # one bar goes, though a note is there
    page.mouse.click(x + 5, y)
    page.keyboard.up("Shift")
    assert page.marked() == "bars 2, 4-6 of Acoustic Grand Piano"
    page.mouse.click(*page.at(0, 7))
    assert page.marked() == "bar 8 of Acoustic Grand Piano"


def test_undo_and_redo_by_keys(visit):
    page = visit()
    page.example("Piano", "piano.mid")
    page.drag(0, 2, 0, 2)
    page.candidates(1)
    page.infill()
    page.press("Keep this one")
    page.wait("model.song.version === 1")
    for keys, version in (
        ("Control+z", 0),
        ("Control+y", 1),
        ("Meta+z", 0),
        ("Meta+Shift+Z", 1),
        ("Control+z", 0),
        ("Control+Shift+Z", 1),
    ):
        page.locator(f"#mr-{'redo' if version else 'undo'}:enabled").wait_for()
        page.keyboard.press(keys)
        page.wait(f"model.song.version === {version}")
    page.get_by_role("tab", name="Personalise").click()  # where there is nothing that one sees it undo
    page.keyboard.press("Control+z")
    page.get_by_role("tab", name="Song").click()
    page.settle()
    assert page.roll("model.song.version") == 1


def test_each_region_is_named_with_its_tracks_and_the_pickup_is_bar_0(visit, build_midi, note, tmp_path):
    song = tmp_path / "pickup.mid"
    metre = [(0, bytes.fromhex("ff580401021808")), (480, bytes.fromhex("ff580404021808"))]  # 1/4, then 4/4
    names = [[(0, b"\xff\x03" + bytes([len(n)]) + n)] for n in (b"Bass", b"Strings", b"Brass")]
    notes = [e for k in range(60) for e in note(k * 480, 60, 240)]
    song.write_bytes(build_midi([metre, *([*name, *notes] for name in names)]))
    page = visit()
    page.open(song)
    page.drag(0, 0, 0, 0)
    page.drag(0, 4, 0, 4, shift=True)
    page.drag(1, 10, 2, 13, shift=True)
    assert page.marked() == "bars 0, 4 of Bass; bars 10-13 of Strings, Brass"


def test_a_new_track_is_scrolled_into_view(visit):
    page = visit(viewport={"width": 1280, "height": 600})
    page.example("Pop band", "pop_band.mid")
    bottom = "36 + model.song.tracks.length * view.lane - document.querySelector('.mr-scroll').scrollTop"
    for name in ("Flute", "Trumpet"):
        page.page.locator("#mr-add input").fill(name)
        page.page.get_by_role("option", name=name, exact=True).click()
        page.wait(f"model.song.tracks.at(-1).name === '{name}'")
        assert page.evaluate("document.querySelector('.mr-scroll').scrollTop") > 0
        assert page.roll(f"{bottom} <= view.height")
        page.evaluate("document.querySelector('.mr-scroll').scrollTop = 0")
