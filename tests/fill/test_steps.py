"""Filling with a model of steps: what is laid out before a cell, and where its notes may lie."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from midi_rwkv import Ask, Note, Region, Score, Track, load_checkpoint
from midi_rwkv.fill.infill import Infiller
from midi_rwkv.fill.session import Session
from midi_rwkv.fill.steps import LONGEST_RUN
from midi_rwkv.model.config import SamplingConfig
from midi_rwkv.score.score import TimeSignature
from midi_rwkv.tokens.attributes import Column, Role
from midi_rwkv.tokens.notes import AT
from midi_rwkv.tokens.surroundings import CellSurroundings

BAR = 1920
BUSY = SamplingConfig(density=(4, 12))


@pytest.fixture(scope="module")
def infiller(checkpoint_folder):
    return Infiller(load_checkpoint(checkpoint_folder))


def song(bars: int = 24, *, late: int = 0) -> Score:
    """A tune of four bars that comes again and again, its notes `late` by some ticks, over a bass."""
    tune = {0: (60, 64, 67, 72), 1: (62, 65, 69, 74), 2: (60, 64, 67, 71), 3: (59, 62, 67, 71)}
    lead = [Note(b * BAR + 480 * k + late, p, 400, 80) for b in range(bars) for k, p in enumerate(tune[b % 4])]
    bass = [Note(b * BAR, tune[b % 4][0] - 24, 1900, 80) for b in range(bars)]
    return Score(480, (Track("lead", 0, tuple(lead)), Track("bass", 33, tuple(bass))), (TimeSignature(0, 4, 4),))


@pytest.fixture
def laid(monkeypatch):
    """What is laid out before each cell of the first candidate, as it is written."""
    seen = []
    write = Session.write

    def spy(self, asked, writers, *rest):
        seen.append(asked[0])
        write(self, asked, writers, *rest)

    monkeypatch.setattr(Session, "write", spy)
    return seen


@pytest.mark.parametrize("late", [0, 7])
def test_micro_timing_is_asked_for_only_where_the_track_has_some(infiller, monkeypatch, late):
    asked, logits = set(), infiller.writing.heads.logits
    monkeypatch.setattr(
        infiller.writing.heads, "logits", lambda stage, *given: asked.add(stage) or logits(stage, *given)
    )
    infiller(song(late=late), Ask(Region.rectangle([0], [(8, 10)]), BUSY, candidates=2))
    assert asked == ({0, 1, 2, 3, 4} if late else {0, 2, 3, 4})


def test_what_the_song_says_elsewhere_is_followed(infiller, laid, monkeypatch):
    """In bars whose notes are not known, the most alike; where they are to be replaced, one that is not the same."""
    followed = []

    def spy(*given):
        followed.append([r.notes[:, AT.pitch].tolist() for r in given[4]])
        return CellSurroundings(*given)

    monkeypatch.setattr("midi_rwkv.fill.steps.CellSurroundings", spy)
    empty = song().with_fill(Region.rectangle([0], [(8, 10)]), {0: []})
    infiller(empty, Ask(Region.rectangle([0], [(8, 10)]), BUSY))
    assert [steps[-1, Column.NEXT_PITCH] - 1 for steps in laid] == [60, 62]
    assert followed[0][0] == [60, 64, 67, 72]
    followed.clear()
    infiller(song(), Ask(Region.rectangle([0], [(8, 10)]), BUSY))
    assert [60, 64, 67, 72] not in followed[0]
    assert [60, 64, 67, 71] in followed[0]
    laid.clear()
    infiller(song(), Ask(Region.rectangle([0], [(8, 10)]), replace(BUSY, follow=0)))
    assert not laid[0][:, [Column.NEXT_PITCH, Column.NEXT_THERE]].any()


@pytest.mark.parametrize("ostinato", [False, True], ids=["tune", "ostinato"])
def test_a_fill_says_a_bar_again_as_often_as_its_track_does(infiller, monkeypatch, ostinato):
    """The first bar is given, note by note; whether the second follows bars that are the same depends on the track."""
    followed = []

    def spy(*given):
        followed.append([r.notes[:, AT.pitch].tolist() for r in given[4]])
        return CellSurroundings(*given)

    monkeypatch.setattr("midi_rwkv.fill.steps.CellSurroundings", spy)
    score, again = song(), (60, 64, 67, 72)
    if ostinato:
        score = score.with_notes(
            0, [Note(b * BAR + 480 * k, p, 400, 80) for b in range(24) for k, p in enumerate(again)]
        )
    locked = {0: [n for n in score.tracks[0].notes if 8 * BAR <= n.onset_ticks < 9 * BAR]}
    wanted = Ask(
        Region.rectangle([0], [(8, 10)]), SamplingConfig(density=(4, 4)), candidates=8, locked=locked, again=True
    )
    infiller(score, wanted)
    second = [list(again) in sources for sources in followed[len(followed) // 2 :]]
    assert sum(second) >= 6 if ostinato else not any(second)


def test_wishes_and_locked_notes_are_laid_out(infiller, laid):
    sampling = SamplingConfig(density=(5, 5), polyphony=(1, 2), pitch_range=(55, 70))
    locked = {0: [Note(8 * BAR + 960, 66, 200, 80)]}
    names = infiller.writing.vocabulary.tokens
    infiller(song(), Ask(Region.rectangle([0], [(8, 9)]), sampling, locked=locked))
    [steps] = laid
    said = {names[t] for t in steps[:, Column.TOKEN]}
    assert {"ACBarNoteDensity_4", "ACBarOnsetPolyphonyMin_1", "ACBarOnsetPolyphonyMax_2"} <= said
    assert {"Fill_Low", "Fill_High", "Kept_Start"} <= said
    kept = steps[(steps[:, Column.ROLE] == Role.KEPT) & (steps[:, Column.POSITION] > 0)]
    assert kept[:, [Column.POSITION, Column.PITCH]].tolist() == [[1 + 48, 1 + 66]]


def test_a_long_run_is_written_in_pieces(infiller):
    region = Region.rectangle([0, 1], [(1, 20), (22, 23)])
    runs = infiller.writing.runs(region)
    assert [b for lo, hi in runs for b in range(lo, hi)] == [*range(1, 20), 22]
    assert max(hi - lo for lo, hi in runs) <= LONGEST_RUN
    said = []
    infiller(song(), Ask(region, BUSY), on_progress=lambda p: said.append((p.track, p.bar)))
    assert sorted(said) == sorted(tuple(c) for c in region.cells)
    lo, hi = runs[0]
    assert said[: 2 * (hi - lo)] == [(t, b) for t in (0, 1) for b in range(lo, hi)]


def test_a_later_run_reads_what_an_earlier_one_wrote(infiller, monkeypatch):
    seen = []
    prompt = type(infiller.writing)._prompt

    def spy(self, blanked, shown, run, hidden):
        seen.append(shown)
        return prompt(self, blanked, shown, run, hidden)

    monkeypatch.setattr(type(infiller.writing), "_prompt", spy)
    candidates = infiller(song(), Ask(Region.rectangle([0], [(1, 2), (6, 7)]), BUSY, candidates=2))
    first, *later = seen  # one for all candidates, then one each
    assert not len(first.cell(0, 1))
    for candidate in candidates:
        whole = infiller.writing.encoder.encode(candidate.score, candidate.score.bars)
        assert any(np.array_equal(shown.cell(0, 1), whole.cell(0, 1)) for shown in later)
    assert not any(len(shown.cell(0, 6)) for shown in later)
    assert not np.array_equal(later[0].cell(0, 1), later[1].cell(0, 1))


def test_fills_lie_on_the_grid_where_the_track_does(infiller):
    region = Region.rectangle([0], [(4, 8)])
    on, off = (
        [n.onset_ticks % 20 for n in infiller(s, Ask(region, BUSY, seed=3))[0].fills[0]] for s in (song(), song(late=7))
    )
    assert set(on) == {0}
    assert len(set(off)) > 1


def test_a_section_is_not_left_silent(infiller):
    """A model that wants to end every bar at once still writes something, once a section."""
    quiet = Infiller(infiller.writing.checkpoint)
    logits = quiet.writing.heads.logits

    def hush(stage, *given):
        found = logits(stage, *given)
        if stage == 0:
            found[:, 0] = 99
        return found

    quiet.writing.heads.logits = hush
    [candidate] = quiet(song(), Ask(Region.rectangle([0, 1], [(2, 5), (7, 8)])))
    for notes in candidate.fills.values():
        assert [n.onset_ticks // BAR for n in notes] == [4, 7]
