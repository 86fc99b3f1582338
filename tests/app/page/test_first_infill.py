"""From a song to a kept candidate; a new track; playing."""

import json
import re
from pathlib import Path

import pytest

from midi_rwkv.score.midi import read_midi

pytestmark = pytest.mark.slow
EXAMPLES = Path(__file__).parents[3] / "app" / "examples"


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
    page.press("Cancel")
    page.wait("!model.running")
    assert page.status() == "stopped; the song is as it was"
    assert page.roll("model.candidates.length") == 2

    # the second one is kept, undone and kept again
    page.locator(".mr-card").nth(2).click()
    page.wait("model.chosen === 1")
    page.settle()
    shown = page.roll("model.candidates[1].fill[1]")
    page.press("Keep this one")
    page.wait("model.song.version === 1")
    assert page.status() == "kept: bars 8-12 of Bass, Electric Guitar; bars 9-10 of Lead"
    kept = page.roll("model.song.tracks[1].notes")
    assert json.dumps(shown)[1:-1] in json.dumps(kept)
    page.press("Undo")
    page.wait("model.song.version === 0")
    assert page.get_by_role("button", name="Undo").is_disabled()
    page.press("Redo")
    page.wait("model.song.version === 1")
    assert page.roll("model.song.tracks[1].notes") == kept
    assert page.download(tmp_path / "out.mid") == "pop_band-infill.mid"
    original = EXAMPLES / "pop_band.mid"
    mask = mask_of(original, (1, 2), 7, 12) + mask_of(original, (5,), 8, 10)
    assert check_fill(original, tmp_path / "out.mid", mask) == []
    assert (tmp_path / "out.mid").read_bytes() != original.read_bytes()


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
    chords = [{tuple(notes[i : i + 5]) for i in range(0, len(notes), 5)} for notes in (first, alike)]
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
    page.settle()
    page.infill(seed=5)
    again = page.roll("model.candidates[0].fill[0]")
    assert [onset, pitch] in [[again[i], again[i + 2]] for i in range(0, len(again), 5)]
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
        before = page.roll("model.song.version")  # adding a track was a version too
        page.press("Keep this one")
        page.wait(f"model.song.version === {before + 1}")
    assert one.roll("model.song.name") == "piano.mid"
    two.download(tmp_path / "two.mid")
    original = EXAMPLES / "string_quartet.mid"
    score = read_midi(tmp_path / "two.mid")
    flute = score.tracks[4]
    assert (flute.name, flute.program) == ("Flute", 73)
    assert flute.notes
    mask = [(flute.chunk, flute.channel, score.bar(3).start_ticks, score.bar(4).end_ticks)]
    assert check_fill(original, tmp_path / "two.mid", mask, new_tracks=1) == []
