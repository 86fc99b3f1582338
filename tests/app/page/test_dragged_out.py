"""What is dragged out of the page: what the browser gives to whoever it is dropped on, and what it fetches then."""

from pathlib import Path

import httpx
import pytest

from midi_rwkv.score.midi import read_midi

pytestmark = pytest.mark.slow
SONG = Path(__file__).parents[3] / "app" / "examples" / "pop_band.mid"
LISTEN = """document.addEventListener("dragstart", (event) => {
    const given = event.dataTransfer;
    window.dragged = event.defaultPrevented ? null : [given.getData("DownloadURL"), given.getData("text/uri-list")];
})"""


def dragged(page, handle):
    """Drags from a handle to the middle of the song: what it carries, as [name, address], or None."""
    page.evaluate("window.dragged = 'nothing'")
    handle.scroll_into_view_if_needed()
    handle.hover()
    page.mouse.down()
    page.mouse.move(600, 300, steps=4)
    page.mouse.up()
    given = page.evaluate("window.dragged")
    if given is None:
        return None
    kind, name, url = given[0].split(":", 2)
    assert (kind, url) == ("audio/midi", given[1])
    return name, url


def fetched(page, url, path):
    """The file that the page's browser gets at an address."""
    answer = page.context.request.get(url)
    assert answer.status == 200
    assert answer.headers["content-type"] == "audio/midi"
    path.write_bytes(answer.body())
    return path


def notes(track):
    return [tuple(n) for n in track.notes]


def rows(flat):
    return [tuple(flat[i : i + 4]) for i in range(0, len(flat), 5)]


def test_song_track_and_candidate_are_dragged_out(visit, tmp_path):
    page = visit()
    page.example("Pop band", "pop_band.mid")
    page.evaluate(LISTEN)
    score = read_midi(SONG)
    name, url = dragged(page, page.locator(".mr-song"))
    assert name == "pop_band-infill.mid"
    assert fetched(page, url, tmp_path / name).read_bytes() == SONG.read_bytes()
    assert dragged(page, page.get_by_role("button", name="Download MIDI")) == (name, url)
    assert page.roll("model.song.version") == 0  # it was dropped on the page, which is no way to open it

    page.drag(1, 7, 2, 8)
    page.candidates(2)
    page.infill(seed=1)
    page.locator(".mr-card").nth(2).click()
    page.settle()
    fills = page.roll("model.candidates.map((c) => [c.fill[1], c.fill[2]])")
    before = page.roll("[[...model.cells], model.chosen, model.song.version]")

    start = score.bar(7).start_ticks
    for card in (1, 2):  # the first of the candidates, though the second is chosen
        name, url = dragged(page, page.locator(".mr-card").nth(card))
        assert name == f"pop_band-candidate {card}.mid"
        clip = read_midi(fetched(page, url, tmp_path / name))
        assert [t.name for t in clip.tracks] == [score.tracks[t].name for t in (1, 2)]
        for track, flat in zip(clip.tracks, fills[card - 1], strict=True):
            wanted = [(max(0, onset - start), pitch) for onset, _, pitch, _ in rows(flat)]
            assert sorted((n.onset_ticks, n.pitch) for n in track.notes) == sorted(wanted)
        assert clip.tempos[0].microseconds_per_beat == round(60e6 / score.tempo_at(start))
    name, url = dragged(page, page.locator(".mr-card").nth(0))
    assert name == "pop_band-as it was.mid"
    old = read_midi(fetched(page, url, tmp_path / name))
    assert notes(old.tracks[0]) == [(n.onset_ticks - start, *n[1:]) for bar in (7, 8) for n in score.notes_in(1, bar)]

    name, url = dragged(page, page.locator(".mr-whole").nth(1))
    assert name == "pop_band-2 Bass.mid"
    [bass] = read_midi(fetched(page, url, tmp_path / name)).tracks
    shown = score.with_notes(1, [n for b in range(len(score.bars)) if b not in (7, 8) for n in score.notes_in(1, b)])
    kept = {(n.onset_ticks, n.pitch) for n in shown.tracks[1].notes}
    assert {(n.onset_ticks, n.pitch) for n in bass.notes} == kept | {(r[0], r[2]) for r in rows(fills[1][0])}

    # clicks and marks are as they were, and so are the drags that mark
    assert page.roll("[[...model.cells], model.chosen, model.song.version]") == before
    page.locator(".mr-whole").nth(3).click()
    assert page.marked().endswith("of " + score.tracks[3].name)
    page.drag(1, 2, 1, 3)
    assert page.marked() == "bars 3-4 of Bass"

    # the address is for this browser, and for what there is
    page.settle()
    assert httpx.get(url).status_code == 404
    assert httpx.get(url, headers={"sec-fetch-site": "cross-site"}).status_code == 403
    for asked in ("?track=99", "?track=x", "?candidate=2", "?candidate=-2", ""):
        answer = page.context.request.get(url.split("?")[0] + asked)
        assert (answer.status == 404) == bool(asked)
        assert not asked or answer.text().count("\n") == 1


def test_a_candidate_that_is_being_written_stays(visit):
    page = visit()
    page.example("Pop band", "pop_band.mid")
    page.evaluate(LISTEN)
    page.drag(1, 2, 3, 40)  # long enough to be tried
    page.press("Infill the marked bars")
    page.wait("model.running && model.candidates.length")
    assert dragged(page, page.locator(".mr-card").nth(1)) is None
    page.press("Cancel")
    page.wait("!model.running")
