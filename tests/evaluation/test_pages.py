"""What an evaluation writes to be read: report.md, report.html, sound."""

import pytest
from evaluated import MODEL, group_of, small

from midi_rwkv.evaluation.cases import SETTINGS
from midi_rwkv.evaluation.report import SETTING_TITLES
from midi_rwkv.evaluation.systems import COPIES, ORIGINAL, UNFOLLOWED


def test_the_report_has_every_table(done):
    text = (done / "report.md").read_text()
    for setting in SETTINGS:
        assert f"## {SETTING_TITLES[setting]}: N = 2" in text
    for title in ("Nats per note by source", "Cost of a fill", "What the columns mean"):
        assert f"## {title}" in text
    tables = [part for part in text.split("\n\n") if part.lstrip().startswith("| system")]
    assert len(tables) == 6 + 6 + 1  # the headline's and the others' of each setting, and the cost
    group = group_of(done, "song")
    assert f"| {MODEL} | {group['systems'][MODEL]['nats_per_note']['mean']:.3f} [" in text
    for system in (MODEL, UNFOLLOWED, *COPIES, ORIGINAL):
        assert text.count(f"\n| {system} | ") >= 8
    lines = [line for line in text.splitlines() if line.startswith(("| folk", "| mean over sources"))]
    assert len(lines) == 2
    assert lines[0].count("|") == 4  # the source, the model, and the model with nothing followed
    assert "nan" not in text


def test_the_page_has_rolls_and_loads_nothing(done):
    page = (done / "report.html").read_text()
    assert "http" not in page
    assert page.count('<section class="case">') == 5  # one track: best, median, worst; drums; all
    assert page.count("<svg") == 5 * 6  # the original and five systems
    assert 'class="note"' in page
    for heading in ("one track, 2 bars: best by onset F1", "drums, 2 bars: median", "all tracks, 2 bars: median"):
        assert heading in page
    assert "<audio" not in page
    assert not (done / "audio").exists()


def test_the_page_has_sound(songs, tiny, tmp_path):
    pytest.importorskip("pretty_midi")
    small(songs, tmp_path / "out", tiny, cases=1, html=True, audio=True)
    page = (tmp_path / "out" / "report.html").read_text()
    sounds = sorted(p.name for p in (tmp_path / "out" / "audio").iterdir())
    assert sounds == sorted(part.split('"')[0] for part in page.split('src="audio/')[1:])
    assert len(sounds) == 6  # best, median and worst are one case here: the original and the model of each
    assert all((tmp_path / "out" / "audio" / s).stat().st_size > 40_000 for s in sounds)
