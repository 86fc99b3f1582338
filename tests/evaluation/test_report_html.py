"""The page of fills beside originals."""

import re
import wave
from typing import Any

import numpy as np
import pytest
from soundfonts import sine_font

from midi_rwkv.evaluation.report_html import (
    ComparedCase,
    markdown_tables_to_html,
    pitch_span,
    roll_svg,
    visible_notes,
    write_html,
)
from midi_rwkv.score.score import Cell, Note, Region, Score, TimeSignature, Track
from midi_rwkv.sound.synth import SAMPLE_RATE

BAR = 1920


@pytest.fixture(scope="module")
def soundfont(tmp_path_factory):
    return sine_font(tmp_path_factory.mktemp("font"))


def song(melody=(), bars=10, name="Lead <b>"):
    """Ten bars of 4/4 at 120: a melody, a bass note and two drum hits in every bar."""
    bass = tuple(Note(BAR * b, 40, BAR, 80) for b in range(bars))
    drums = tuple(Note(BAR * b + at, 36, 60, 90) for b in range(bars) for at in (0, 960))
    melody = melody or [Note(BAR * b + at, 69 + b % 3, 470, 90) for b in range(bars) for at in (0, 480, 960)]
    tracks = (Track(name, 0, tuple(melody)), Track("Bass", 32, bass), Track("Kit", 0, drums, is_drum=True))
    return Score(480, tracks, (TimeSignature(0, 4, 4),), end_ticks=BAR * bars)


def filled(score, pitch):
    """The song with one note of that pitch in each of bars 4 and 5 of the melody."""
    kept = [n for n in score.tracks[0].notes if not 4 * BAR <= n.onset_ticks < 6 * BAR]
    return score.with_notes(0, [*kept, Note(4 * BAR, pitch, 960, 90), Note(5 * BAR, pitch, 960, 90)])


REGION = Region.rectangle([0], [(4, 6)])


def shown(**changes):
    score = song()
    fills = {"RWKV & co": filled(score, 84), "copy": filled(score, 50)}
    case: dict[str, Any] = {
        "heading": "track, 2 bars <i>",
        "caption": "file<script>.mid",
        "score": score,
        "region": REGION,
        "fills": fills,
        "notes": {"copy": "F1 0.42 < 1"},
        "truth": "6 notes",
    }
    return ComparedCase(**(case | changes))


def read_wav(path):
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, SAMPLE_RATE)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2")


def test_a_roll_holds_one_shape_for_every_visible_note():
    svg = roll_svg(song(), REGION)
    # Bars 2-7 are shown; the bass of bar 1 ends on the bar line.
    assert svg.count('<rect class="note"') == 6 * (3 + 1)
    assert svg.count('<path class="note"') == 6 * 2
    assert svg.count("<title>") == 6 * 6
    assert "<title>A4, bar 4, track 1</title>" in svg
    assert 'role="img"' in svg
    assert "6 notes to write in bars 5 to 6" in svg
    outlined = re.search(r'<g [^>]*stroke="currentColor"[^>]*>(.*?)</g>', svg, re.DOTALL)
    assert outlined
    assert outlined[1].count("<title>") == 6


def test_a_note_that_rings_into_the_window_is_drawn_from_its_edge():
    score = song([Note(0, 60, 3 * BAR, 80), Note(9 * BAR, 60, 480, 80)])
    assert [note for t, note in visible_notes(score, REGION) if t == 0] == [Note(0, 60, 3 * BAR, 80)]
    rolled = [float(x) for x in re.findall(r'<rect class="note" x="([\d.]+)"', roll_svg(score, REGION))]
    assert min(rolled) == 24
    assert len(rolled) == 7


def test_bars_before_the_first_and_after_the_last_are_not_needed():
    score = song(bars=2)
    svg = roll_svg(score, Region.rectangle([0], [(0, 2)]))
    assert svg.count('class="note"') == 2 * 6


def test_several_masked_tracks_have_a_colour_each_and_a_legend(tmp_path):
    region = Region(frozenset({Cell(0, 4), Cell(1, 4), Cell(1, 5), Cell(2, 7)}))
    page = write_html(tmp_path, "t", "", [shown(region=region)]).read_text("utf-8")
    legend = page[page.index('<ul class="legend">') : page.index("</ul>")]
    colours = re.findall(r"background:(#\w+)", legend)
    assert len(set(colours)) == 3
    assert all(page.count(f'fill="{colour}"') for colour in colours)
    assert "the other tracks" not in legend
    original = page[page.index("<svg") : page.index("</svg>")]
    assert original.count('class="region"') == 2


def test_the_page_escapes_names_and_loads_nothing(tmp_path):
    path = write_html(tmp_path, "Fills & <originals>", "<p>trusted <b>figures</b></p>", [shown()])
    page = path.read_text("utf-8")
    assert path == tmp_path / "report.html"
    assert "<p>trusted <b>figures</b></p>" in page
    for text in (
        "1 Lead &lt;b&gt; (",
        "track, 2 bars &lt;i&gt;",
        "file&lt;script&gt;.mid",
        "RWKV &amp; co",
        "0.42 &lt; 1",
    ):
        assert text in page
    assert "Lead <b>" not in page
    assert "<script" not in page
    assert "http" not in page
    assert "<audio" not in page
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    assert page.index(">original<") < page.index(">RWKV &amp; co<") < page.index(">copy<")


def test_a_case_without_fills_shows_its_original(tmp_path):
    assert write_html(tmp_path, "t", "", [shown(fills={})]).read_text("utf-8").count("<svg") == 1


def test_the_versions_of_a_case_share_their_axis(tmp_path):
    case = shown()
    assert pitch_span([case.score, *case.fills.values()], case.region) == (36, 84)
    rolls = re.findall(r"<svg.*?</svg>", write_html(tmp_path, "t", "", [case]).read_text("utf-8"), re.DOTALL)
    assert len(rolls) == 3
    basses = [re.findall(r'<rect class="note" [^>]*><title>E2,', roll) for roll in rolls]
    assert basses[0] == basses[1] == basses[2]
    assert len(basses[0]) == 6
    assert len({tuple(re.findall(r'y="([\d.]+)"[^>]*>C4<', roll)) for roll in rolls}) == 1


def test_sound_is_written_for_the_original_and_the_systems_named(tmp_path, soundfont):
    page = write_html(tmp_path, "t", "", [shown()], audio=["copy"], soundfont=soundfont).read_text("utf-8")
    assert re.findall(r'<audio controls preload="none" src="([^"]+)"', page) == [
        "audio/01-0-original.wav",
        "audio/01-2-copy.wav",
    ]
    assert sorted(p.name for p in (tmp_path / "audio").iterdir()) == ["01-0-original.wav", "01-2-copy.wav"]
    first, second = (read_wav(p) for p in sorted((tmp_path / "audio").iterdir()))
    assert len(first) == pytest.approx((6 * 2 + 1) * SAMPLE_RATE, rel=0.1)  # six bars of two seconds, and the tail
    assert len(first) == len(second)
    assert np.abs(first).max() == pytest.approx(0.9 * 32767, rel=0.01)
    assert not np.array_equal(first, second)


def test_markdown_becomes_html():
    text = """# Title
Two lines of
one **paragraph** with `a < b`.

| name | F1 | side |
|---|---:|:-:|
| a \\| b | **0.42** | x |
| <i> | | |
- one
  goes on
- two `**not bold**`
"""
    assert markdown_tables_to_html(text).splitlines() == [
        "<h1>Title</h1>",
        "<p>Two lines of one <strong>paragraph</strong> with <code>a &lt; b</code>.</p>",
        '<div class="scroll"><table>',
        '<tr><th>name</th><th class="right">F1</th><th class="center">side</th></tr>',
        '<tr><td>a | b</td><td class="right"><strong>0.42</strong></td><td class="center">x</td></tr>',
        '<tr><td>&lt;i&gt;</td><td class="right"></td><td class="center"></td></tr>',
        "</table></div>",
        "<ul><li>one goes on</li><li>two <code>**not bold**</code></li></ul>",
    ]


def test_markdown_escapes_everything():
    html = markdown_tables_to_html('### <script>\n\n<img onerror="x"> [a](javascript:b)\n\n| `<b>` |\n\n- <u>')
    assert re.findall(r"<(\w+)", html) == ["h3", "p", "div", "table", "tr", "td", "code", "ul", "li"]
