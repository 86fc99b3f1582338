"""The tab where a style is learned."""

import re

import pytest

pytestmark = pytest.mark.slow


def test_personalise(visit, start_app, checkpoint_folder, build_midi, note, tmp_path):
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
        "/ s left; best so far/.test(document.querySelector('#mr-told').innerText)", timeout=240_000
    )
    page.page.wait_for_function("/is learned/.test(document.querySelector('#mr-told').innerText)", timeout=240_000)
    assert re.search(r"mine is learned, in \d+ s: [\d.]+ → [\d.]+ nats a note", told.inner_text())
    page.press("Hear the same bars")
    page.page.wait_for_function("document.querySelectorAll('audio, [data-testid^=waveform]').length >= 2")
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
