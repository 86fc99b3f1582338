"""Stars, what is thrown away, and the part about the taste in the Personalise tab."""

import pytest

pytestmark = pytest.mark.slow


def marks(page):
    return page.page.eval_on_selector_all(".mr-card b", "(all) => all.map((b) => b.textContent)")


def test_candidates_are_starred_and_thrown_away_and_all_is_forgotten(visit, app):
    record = app.folder / "midi-rwkv" / "taste" / "choices.jsonl"
    record.unlink(missing_ok=True)  # the server is shared: fills that other tests kept are noted too
    page = visit()
    page.example("String quartet", "string_quartet.mid")
    page.drag(0, 4, 0, 5)
    page.infill()
    page.press("Star")
    page.wait("model.candidates[0].liked === 1")
    assert page.status() == "candidate 1 is starred"
    page.keyboard.press("2")
    page.locator(".mr-card").nth(2).click()
    page.press("Throw away")
    page.wait("model.candidates[1].liked === -1")
    assert marks(page) == ["O: as it was", "1 ★", "2 ✕", "3"]
    assert page.locator("#mr-throw").get_attribute("aria-pressed") == "true"
    page.press("Throw away")
    page.wait("model.candidates[1].liked === 0")
    page.locator(".mr-card").nth(3).click()
    page.press("Keep this one")
    page.wait("model.song.version === 1")
    assert record.exists()
    page.get_by_role("tab", name="Personalise").click()
    told = page.locator("#mr-taste")
    told.get_by_text("1 fill kept, 1 starred, 0 thrown away.").wait_for()
    page.get_by_label("Learn my taste").uncheck()
    told.get_by_text("It is switched off").wait_for()
    page.reload()
    page.get_by_role("tab", name="Personalise").click()
    told.get_by_text("It is switched off").wait_for()
    assert not page.get_by_label("Learn my taste").is_checked()
    page.get_by_label("Learn my taste").check()
    told.get_by_text("Not used yet").wait_for()
    page.press("Forget my taste")
    told.get_by_text("0 fills kept").wait_for()
    assert not record.exists()
