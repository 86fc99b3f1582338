"""Programs that ask for notes (`/api/infill`) get the first ones no later than the page shows them."""

import json
import statistics
import time
import urllib.request
from pathlib import Path

import pytest

from midi_rwkv.score.clip import notes_json
from midi_rwkv.score.midi import read_midi

pytestmark = pytest.mark.slow
BAND = Path(__file__).parents[3] / "app" / "examples" / "pop_band.mid"
TRACK, FIRST, LAST, SEED = 1, 7, 11, 1  # bars 8-12 of the bass
TIMES = 5
SLACK = 1.1

# Presses the button, and tells how many milliseconds later the roll is drawn with the first new notes.
ON_THE_PAGE = """(track) => new Promise((resolve) => {
  const { model } = document.querySelector(".mr-roll").roll, before = model.candidates, began = performance.now();
  const look = () => {
    const [candidate] = model.running ? model.candidates : [];
    if (candidate && model.candidates !== before && (candidate.fill[track] || []).length)
      return requestAnimationFrame(() => resolve(performance.now() - began));
    requestAnimationFrame(look);
  };
  [...document.querySelectorAll("button")].find((b) => b.textContent.trim() === "Infill the marked bars").click();
  look();
})"""


def seconds_on_the_page(page):
    seconds = page.evaluate(ON_THE_PAGE, TRACK) / 1000
    page.wait("!model.running && model.candidates.length")
    return seconds


def seconds_at_the_endpoint(url, asked):
    headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
    began = time.perf_counter()
    seconds = kind = None
    with urllib.request.urlopen(urllib.request.Request(f"{url}api/infill", asked, headers), timeout=120) as answer:
        for line in answer:
            name, _, value = line.decode().strip().partition(": ")
            kind = value if name == "event" else kind
            if name == "data" and kind == "bar" and seconds is None and any(json.loads(value)["notes"]):
                seconds = time.perf_counter() - began
    assert kind == "answer"
    return seconds


def test_the_first_notes_come_no_later_than_on_the_page(visit, app):
    page = visit()
    page.example("Pop band", "pop_band.mid")
    page.drag(TRACK, FIRST, TRACK, LAST)
    page.candidates(1)
    page.infill(seed=SEED)  # warms the engine up for both
    song = json.loads(notes_json(read_midi(BAND)))
    asked = {"song": song, "tracks": [TRACK + 1], "bars": f"{FIRST + 1}-{LAST + 1}", "candidates": 1, "seed": SEED}
    data = json.dumps(asked).encode()
    seconds_at_the_endpoint(app.url, data)
    pairs = [(seconds_at_the_endpoint(app.url, data), seconds_on_the_page(page)) for _ in range(TIMES)]
    endpoint, shown = (statistics.median(times) for times in zip(*pairs, strict=True))
    told = f"{endpoint:.3f} s and {shown:.3f} s of " + ", ".join(f"{e:.3f}/{p:.3f}" for e, p in pairs)
    print(f"medians at the endpoint and on the page: {told}")
    assert endpoint <= SLACK * shown, told
