"""Pictures of the page's states for docs/app.md.

    python scripts/picture_app.py docs --pieces FOLDER

Writes OUT/app-STATE.png. Needs Chromium; learning the style for its picture takes one to three minutes.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

from drive_app import Page, serve, visit

SMALL, LARGE = {"width": 1280, "height": 800}, {"width": 1920, "height": 1080}


def save(page: Page, out: Path, name: str) -> None:
    """One picture, of few colours."""
    from PIL import Image

    page.evaluate("window.scrollTo(0, 0)")
    page.page.wait_for_timeout(300)
    path = out / f"app-{name}.png"
    page.page.screenshot(path=path)
    Image.open(path).convert("RGB").quantize(96, dither=Image.Dither.NONE).save(path, optimize=True)


def song(browser: Any, url: str, out: Path, size: dict[str, int], scheme: str, names: dict[str, str]) -> None:
    """The song tab from empty to kept; `names` says what to call which state."""
    context = browser.new_context(viewport=size, color_scheme=scheme)
    page = visit(context.new_page(), f"{url}?__theme={scheme}")

    def picture(state: str) -> None:
        if state in names:
            save(page, out, names[state])

    picture("empty")
    page.example("Pop band", "pop_band.mid")
    page.drag(1, 7, 2, 11)
    page.drag(5, 8, 5, 9, shift=True)
    picture("marked")
    page.candidates(3)
    page.evaluate("window.before = document.querySelector('.mr-roll').roll.model.candidates")
    page.press("Infill the marked bars")
    page.wait("model.running && model.candidates.every((c) => Object.values(c.fill).flat().length > 40)")
    picture("writing")
    page.wait("!model.running && model.candidates !== window.before && model.candidates.length")
    for _ in range(3):
        page.press("Zoom in")
    page.evaluate(
        """() => { const { model, view } = document.querySelector(".mr-roll").roll;
        document.querySelector(".mr-scroll").scrollLeft = model.song.bars[4] * view.scale; }"""
    )
    picture("candidates")
    page.locator(".mr-card").nth(2).click()
    page.press("Keep this one")
    page.wait("model.song.version === 1")
    page.press("Play")
    page.wait("player.playing && player.position > 960")
    picture("playing")
    context.close()


def learning(browser: Any, url: str, out: Path, pieces: list[Path]) -> None:
    """The personalise tab."""
    page = visit(browser.new_context(viewport=LARGE).new_page(), url)
    page.get_by_role("tab", name="Personalise").click()
    broken = out / "notes.mid"
    broken.write_text("not music")
    page.locator("#mr-mine input[type=file]").set_input_files([*pieces, broken])
    page.page.get_by_text("skipped: notes.mid").first.wait_for(state="attached")
    broken.unlink()
    page.get_by_label("Name of the style").fill("mine")
    page.press("Learn the style")
    page.locator("#mr-told").get_by_text("is learned").wait_for(timeout=600_000)
    page.press("Hear the same bars")
    page.page.wait_for_function("document.querySelectorAll('[data-testid^=waveform]').length >= 2", timeout=60_000)
    page.page.wait_for_timeout(1500)
    save(page, out, "personalise")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--pieces", type=Path, help="a folder of MIDI files of one composer, for the style's picture")
    parser.add_argument("--only", choices=("song", "learning"))
    options = parser.parse_args()
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        app = serve(Path(temporary))
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        try:
            if options.only != "learning":
                light = {s: s for s in ("empty", "marked", "writing", "candidates", "playing")}
                song(browser, app.url, options.out, SMALL, "light", light)
                song(browser, app.url, options.out, LARGE, "dark", {"candidates": "dark"})
            if options.pieces and options.only != "song":
                learning(browser, app.url, options.out, sorted(options.pieces.glob("*.mid"))[:5])
        finally:
            browser.close()
            app.stop()


if __name__ == "__main__":
    main()
