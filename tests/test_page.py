"""The page in a real browser (Debian's Chromium through Playwright), with the model that ships.

Skipped where no Chromium is installed, unless pytest is told --need-browser, as `.ci/run` does.
"""

import json
import re
import shutil
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from midi_rwkv.midi import read_midi

pytestmark = pytest.mark.slow
EXAMPLES = Path(__file__).parents[1] / "app" / "examples"
HOSTILE = "${7*7}{{7*7}}<img src=x onerror=window.hacked=1>"


@pytest.fixture(scope="module")
def browser(request):
    path = shutil.which("chromium")
    if path is None:
        if request.config.getoption("--need-browser"):
            pytest.fail("no chromium is installed, and --need-browser was given")
        pytest.skip("no chromium is installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def app(start_app):
    return start_app()


@pytest.fixture
def visit(browser, app, script):
    """visit() -> a Page on a page of its own browser context; checks at the end that nothing else was asked for."""
    drive_app = script("drive_app")
    contexts = []

    def go(url=app.url, context=None):
        if context is None:
            context = browser.new_context(viewport={"width": 1280, "height": 800}, accept_downloads=True)
            contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(90_000)  # a busy machine's browser may take its time
        page.asked, page.errors = set(), []
        page.on("request", lambda r: page.asked.add(urlsplit(r.url).hostname or urlsplit(r.url).scheme))
        page.on("pageerror", lambda e: page.errors.append(f"{e} {e.stack}"))
        return drive_app.visit(page, url)

    yield go
    for context in contexts:
        for page in context.pages:
            assert page.errors == []
            assert page.asked <= {"127.0.0.1", "data", "blob"}
        context.close()


def mask_of(song, tracks, first, last):
    """The checker's mask of bars [first, last) of some tracks."""
    score = read_midi(song)
    span = (score.bar(first).start_ticks, score.bar(last - 1).end_ticks)
    return [(score.tracks[t].chunk, score.tracks[t].channel, *span) for t in tracks]


def test_the_first_infill(visit, check_fill, tmp_path):
    page = visit()
    page.example("Pop band", "pop_band.mid")
    assert page.locator(".mr-head b").all_inner_texts() == [
        f"{i + 1} {t.name}" for i, t in enumerate(read_midi(EXAMPLES / "pop_band.mid").tracks)
    ]
    page.drag(1, 7, 2, 11)
    assert page.marked() == "bars 8-12 of Bass, Electric Guitar"
    page.drag(5, 8, 5, 9, shift=True)
    assert page.marked() == "bars 8-12 of Bass, Electric Guitar; bars 9-10 of Lead"
    page.candidates(2)

    # notes appear as they are written, with a bar of progress and the time left
    page.evaluate(
        """() => { const { model } = document.querySelector(".mr-roll").roll; window.seen = [];
        const look = () => { if (model.running) window.seen.push([
            model.candidates.map((c) => Object.values(c.fill).flat().length).join("+"),
            document.querySelector(".mr-status").textContent]); requestAnimationFrame(look); };
        look(); }"""
    )
    page.infill()
    seen = page.evaluate("window.seen")
    assert len({notes for notes, _ in seen}) > 4
    assert any(re.fullmatch(r"\d+ of 12 cells written, \d+ s left", text) for _, text in seen)
    assert page.roll("model.candidates.length") == 2
    assert page.status().startswith("2 candidates in ")
    assert page.locator(".mr-card").count() == 3

    # another one is cancelled, and what was there is there
    page.candidates(8)
    page.press("Infill the marked bars")
    page.wait("model.running && model.candidates.some((c) => Object.keys(c.fill).length)")
    began = time.monotonic()
    page.press("Cancel")
    page.wait("!model.running")
    assert time.monotonic() - began < 0.5
    assert page.status() == "stopped; the song is as it was"
    assert page.roll("model.candidates.length") == 2

    # the second one is kept, undone and kept again
    page.locator(".mr-card").nth(2).click()
    page.wait("model.chosen === 1")
    page.wait_for_timeout(150)
    shown = page.roll("model.candidates[1].fill[1]")
    page.press("Keep this one")
    page.wait("model.song.version === 1")
    assert page.status() == "kept: bars 8-12 of Bass, Electric Guitar, Lead"
    kept = page.roll("model.song.tracks[1].notes")
    assert json.dumps(shown)[1:-1] in json.dumps(kept)
    page.press("Undo")
    page.wait("model.song.version === 0")
    page.press("Undo")
    page.page.get_by_text("nothing to undo").wait_for()
    page.press("Redo")
    page.wait("model.song.version === 1")
    assert page.roll("model.song.tracks[1].notes") == kept
    assert page.download(tmp_path / "out.mid") == "pop_band-infill.mid"
    original = EXAMPLES / "pop_band.mid"
    mask = mask_of(original, (1, 2), 7, 12) + mask_of(original, (5,), 8, 10)
    assert check_fill(original, tmp_path / "out.mid", mask) == []
    assert (tmp_path / "out.mid").read_bytes() != original.read_bytes()


def test_a_reload_and_a_new_server_keep_the_work(visit, start_app, browser):
    app = start_app()
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = visit(app.url, context)
    page.example("Piano", "piano.mid")
    page.drag(0, 2, 0, 3)
    page.candidates(2)
    page.infill()
    page.locator(".mr-card").nth(2).click()
    page.wait_for_timeout(200)
    before = page.roll("[model.song, [...model.cells], model.candidates, model.chosen]")
    page.reload()
    page.wait("model.candidates.length === 2")
    assert page.roll("[model.song, [...model.cells], model.candidates, model.chosen]") == before
    page.press("Keep this one")
    page.wait("model.song.version === 1")
    notes = page.roll("model.song.tracks[0].notes")
    app.stop()
    again = start_app(folder=app.folder)
    page = visit(again.url, context)
    page.wait("model.song && model.song.version === 1")
    assert page.roll("model.song.tracks[0].notes") == notes
    page.press("Undo")
    page.wait("model.song.version === 0")
    context.close()
    again.stop()


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
    toast = page.locator(".toast-body")
    toast.wait_for()
    assert "broken.mid is a type 28271 file; types 0 and 1 are read" in toast.inner_text()
    assert "Traceback" not in toast.inner_text()
    assert page.roll("model.song.version") == 1  # the song that was open still is


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
    page.wait_for_timeout(200)
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


def test_more_like_this_and_locked_notes(visit):
    page = visit()
    page.example("String quartet", "string_quartet.mid")
    page.drag(0, 4, 0, 9)
    page.candidates(1)
    page.infill(seed=4)
    first = page.roll("model.candidates[0].fill[0]")
    page.infill()
    assert page.roll("model.candidates[0].fill[0]") == first  # the same seed
    page.write("More like this")
    alike = page.roll("model.candidates[0].fill[0]")
    chords = [{tuple(notes[i : i + 4]) for i in range(0, len(notes), 4)} for notes in (first, alike)]
    assert alike != first
    assert len(chords[0] & chords[1]) >= len(chords[0]) // 5

    onset, _, pitch, _ = alike[:4]
    x, y = page.evaluate(
        """([onset, pitch]) => { const { model, view } = document.querySelector(".mr-roll").roll;
        const t = model.song.tracks[0], size = (view.lane - 6) / (t.high - t.low + 1);
        return [onset * view.scale + 3, 36 + view.lane - 3 - (pitch - t.low + 0.5) * size]; }""",
        [onset, pitch],
    )
    page.mouse.click(*page.on_screen(x, y))
    page.wait("model.locked.size === 1")
    page.wait_for_timeout(200)
    page.infill(seed=5)
    again = page.roll("model.candidates[0].fill[0]")
    assert [onset, pitch] in [[again[i], again[i + 2]] for i in range(0, len(again), 4)]
    assert again != alike


def test_playing(visit):
    page = visit()
    page.example("Pop band", "pop_band.mid")
    page.press("Play")
    page.wait("player.playing && player.position > 480")
    assert page.roll("view.playhead") > 0
    assert page.locator(".mr-at").inner_text().startswith("bar ")
    page.locator('[title="Mute Drums"]').click()
    page.wait("player.playing && player.sources.length")
    page.press("Pause")
    at = page.roll("player.position")
    page.wait_for_timeout(300)
    assert page.roll("player.position") == at
    page.drag(1, 20, 1, 20)
    page.press("Loop marked")
    page.press("Play")
    page.wait("player.playing && player.position >= model.song.bars[20] && player.position < model.song.bars[21]")
    page.wait_for_timeout(3000)  # a bar lasts 2.3 s
    assert page.roll("player.position >= model.song.bars[20] && player.position < model.song.bars[21]")


def test_two_composers_and_a_new_track(visit, tmp_path, check_fill):
    one, two = visit(), visit()
    one.example("Piano", "piano.mid")
    two.example("String quartet", "string_quartet.mid")
    two.page.locator("#mr-add input").fill("Flute")
    two.page.get_by_role("option", name="Flute", exact=True).click()
    two.wait("model.song.tracks.length === 5")
    for page, track in ((one, 0), (two, 4)):
        page.drag(track, 3, track, 4)
        page.candidates(1)
        page.press("Infill the marked bars")
    for page in (one, two):
        page.wait("!model.running && model.candidates.length === 1")
        page.press("Keep this one")
        page.wait("model.song.version === 1")
    assert one.roll("model.song.name") == "piano.mid"
    two.download(tmp_path / "two.mid")
    original = EXAMPLES / "string_quartet.mid"
    score = read_midi(tmp_path / "two.mid")
    flute = score.tracks[4]
    assert (flute.name, flute.program) == ("Flute", 73)
    assert flute.notes
    mask = [(flute.chunk, flute.channel, score.bar(3).start_ticks, score.bar(4).end_ticks)]
    assert check_fill(original, tmp_path / "two.mid", mask, new_tracks=1) == []


def test_personalise(visit, start_app, checkpoint_folder, browser, build_midi, note, tmp_path):
    files = []
    for i in range(3):
        lead = [
            e for b in range(24) for k in range(4) for e in note(b * 1920 + k * 480, 60 + (i + 2 * b + 3 * k) % 12, 240)
        ]
        files.append(tmp_path / f"mine{i}.mid")
        files[-1].write_bytes(build_midi([[(0, bytes.fromhex("ff580404021808")), *lead]]))
    broken = tmp_path / "broken.mid"
    broken.write_bytes(b"nothing")
    app = start_app("--checkpoint", checkpoint_folder)
    page = visit(app.url)
    page.get_by_role("tab", name="Personalise").click()
    page.locator("#mr-mine input[type=file]").set_input_files([*files, broken])
    page.page.get_by_text("skipped: broken.mid").first.wait_for(state="attached")
    page.get_by_label("Name of the style").fill("mine")
    page.press("Learn the style")
    told = page.locator("#mr-told")
    page.page.wait_for_function(
        "/ s left; best so far/.test(document.querySelector('#mr-told').innerText)", timeout=120_000
    )
    page.page.wait_for_function("/is learned/.test(document.querySelector('#mr-told').innerText)", timeout=240_000)
    assert re.search(r"mine is learned, in \d+ s: [\d.]+ → [\d.]+ nats a note", told.inner_text())
    page.press("Hear the same bars")
    page.page.wait_for_function(
        "document.querySelectorAll('audio, [data-testid^=waveform]').length >= 2", timeout=60_000
    )
    page.press("Learn the style")
    toast = page.locator(".toast-body")
    toast.wait_for()
    assert "mine is taken" in toast.inner_text()
    page.get_by_role("tab", name="Song").click()
    assert page.get_by_label("Style", exact=True).input_value() == "mine"
    page.example("Piano", "piano.mid")
    page.drag(0, 2, 0, 3)
    page.infill()
    app.stop()
