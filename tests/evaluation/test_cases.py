"""The evaluation's protocol: which cases are drawn, and what a system is shown of them."""

import zipfile
from dataclasses import replace
from typing import Any

import pytest

from midi_rwkv.evaluation.cases import PAIRED, SETTINGS, Case, Songs, draw_cases
from midi_rwkv.score.midi import read_midi
from midi_rwkv.score.score import Note

BAR = 1920


@pytest.fixture(scope="module")
def song(build_midi, note):
    """song(bars, drums=..., silent=...): a lead and a bass, 4/4; drums where asked; the lead silent in some bars.

    Every other bass note is held over the next bar line.
    """

    def build(bars: int, *, drums: bool = False, silent=(), shift: int = 0, bass: bool = True) -> bytes:
        metre = [(0, bytes.fromhex("ff58040402" + "1808"))]
        sounding = [b for b in range(bars) if b not in silent]
        lead = [e for b in sounding for k in range(4) for e in note(b * BAR + k * 480, 60 + (b + k + shift) % 9, 240)]
        low = [
            e
            for b in range(bars)
            for e in note(b * BAR + 960, 36 + b % 7, 1440 if b % 2 and b + 1 < bars else 480, channel=1)
        ]
        kit = [e for b in range(bars) for k in range(4) for e in note(b * BAR + k * 480, 36 + 2 * (k % 2), 60, 80, 9)]
        tracks = [lead, *([sorted(low, key=lambda e: e[0])] if bass else []), *([kit] if drums else [])]
        return build_midi([metre, *tracks], end=bars * BAR)

    return build


@pytest.fixture(scope="module")
def files(song, tmp_path_factory):
    """Sources of one, two and six songs; `a` alone has drums; `c` has a long one that is nearly silent."""
    folder = tmp_path_factory.mktemp("songs")
    songs = {"a/drums.mid": song(24, drums=True), "b/one.mid": song(16), "b/two.mid": song(33, shift=3)}
    songs |= {f"c/deep/{i}.mid": song(12 + 4 * i, shift=i) for i in range(5)}
    songs["c/silent.mid"] = song(40, silent=range(2, 38), bass=False)
    for name, data in songs.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return Songs(folder)


def of(cases, setting, n_bars=2):
    return [c for c in cases if (c.setting, c.n_bars) == (setting, n_bars)]


def place(case):
    return case.file, case.tracks, case.first, case.n_bars


def test_the_seed_decides(files):
    once, again, other = (draw_cases(files, 12, (2, 4), seed=seed) for seed in (5, 5, 6))
    assert once == again == draw_cases(Songs(files.path), 12, (4, 2, 2), seed=5)
    assert {place(c) for c in of(once, "song")} != {place(c) for c in of(other, "song")}
    assert {place(c) for c in of(once, "drums")} != {place(c) for c in of(other, "drums")}


def test_more_cases_begin_with_the_fewer(files):
    few, many = (draw_cases(files, count, (2,), settings=["song"]) for count in (5, 14))
    assert many[:5] == few
    assert len(many) == 14


def test_a_setting_alone_has_the_cases_it_has_among_others(files):
    everything = draw_cases(files, 9, (2, 4))
    for setting in SETTINGS:
        assert draw_cases(files, 9, (2, 4), settings=[setting]) == [c for c in everything if c.setting == setting]


def test_every_case_keeps_the_rules(files):
    cases = draw_cases(files, 60, (2, 4, 8))
    assert len({c.id for c in cases}) == len(cases)
    assert {(c.setting, c.n_bars) for c in cases} == {(s, n) for s in SETTINGS for n in (2, 4, 8)}
    for case in cases:
        score = files.read(case.file)
        assert case.first % 4 == 0
        assert case.first >= case.n_bars
        assert case.last + case.n_bars <= len(score.bars)
        assert case.last - case.first == case.n_bars
        drums = [score.tracks[t].is_drum for t in case.tracks]
        if case.setting == "all":
            assert case.tracks == tuple(range(len(score.tracks)))
        else:
            assert drums == [case.setting == "drums"]
    for setting in SETTINGS:
        for n in (2, 4, 8):
            places = [place(c) for c in of(cases, setting, n)]
            assert len(set(places)) == len(places)
    assert {len(files.read(c.file).bars) for c in of(cases, "song", 8)} == {24, 28, 33, 40}  # 3 N bars at least


def test_paired_settings_share_their_cases_and_seeds(files):
    cases = draw_cases(files, 7, (2, 4), settings=[*SETTINGS, "rewrite", "rewrite-all"])
    for n in (2, 4):
        song, near, continuation, controls, rewrite = ([*map(place, of(cases, s, n))] for s in PAIRED)
        assert song == near == rewrite
        for asked, every in zip(of(cases, "rewrite-all", n), of(cases, "all", n), strict=True):
            sounding = tuple(t for t, notes in every.original(files.read(every.file)).items() if notes)
            assert place(asked) == place(replace(every, tracks=sounding or every.tracks))
        assert continuation == controls == song[:3]  # a third, rounded up
        assert len(of(cases, "drums", n)) == len(of(cases, "all", n)) == 3
        assert [c.seed for c in of(cases, "song", n)] == [c.seed for c in of(cases, "near", n)]
    assert len({c.seed for c in cases}) == len({place(c) for c in cases})
    assert of(cases, "near", 4)[2].id == "near/4/0002"


def test_sources_are_dealt_in_turn_and_files_as_seldom_as_possible(files):
    cases = draw_cases(files, 27, (2,), settings=["song"])
    assert [c.source for c in cases[:12]] == ["a", "b", "c"] * 4
    assert [c.number for c in cases] == list(range(27))
    for source, songs in (("b", 2), ("c", 6)):
        names = [c.file for c in cases if c.source == source]
        for at in range(0, len(names) - songs + 1, songs):
            assert len(set(names[at : at + songs])) == songs
    assert {c.source for c in draw_cases(files, 9, (2,), settings=["drums"])} == {"a"}


def test_a_source_that_has_run_out_leaves_the_others_going(song, tmp_path):
    for name, bars in (("a/short.mid", 8), ("b/long.mid", 44)):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(song(bars, bass=False))
    skipped = []
    cases = draw_cases(
        Songs(tmp_path), 50, (2,), settings=["song"], on_skip=lambda name, why: skipped.append((name, why))
    )
    assert sorted(c.first for c in cases if c.source == "a") == [4]
    assert sorted(c.first for c in cases if c.source == "b") == list(range(4, 41, 4))
    assert [name for name, _ in skipped] == ["a/short.mid", "b/long.mid"]
    assert all("no (further) 2 bars" in why for _, why in skipped)


def test_silent_cases_are_kept(files):
    cases = [c for c in draw_cases(files, 200, (2,), settings=["song"]) if c.file == "c/silent.mid"]
    score = files.read("c/silent.mid")
    assert sorted(c.first for c in cases) == list(range(4, 37, 4))
    assert not any(score.notes_in(0, b) for c in cases for b in range(c.first, c.last))


def test_bars_of_another_metre_are_no_case(build_midi, note, tmp_path):
    """3/4 in three bars from the eleventh on: a case has one metre, that of the bar before it."""
    signatures = [(0, "0402"), (10 * BAR, "0302"), (10 * BAR + 3 * 1440, "0402")]
    metre = [(tick, bytes.fromhex(f"ff5804{text}1808")) for tick, text in signatures]
    notes = [e for k in range(160) for e in note(k * 480, 60 + k % 9, 240)]
    (tmp_path / "metre.mid").write_bytes(build_midi([metre, notes]))
    bars = read_midi(tmp_path / "metre.mid").bars
    assert [b.numerator for b in bars[9:14]] == [4, 3, 3, 3, 4]
    assert len(bars) == 41
    cases = draw_cases(Songs(tmp_path), 99, (2,), settings=["song"])
    assert sorted(c.first for c in cases) == [4, 8, 16, 20, 24, 28, 32, 36]


def notes_between(score, track, low, high):
    return [n for n in score.tracks[track].notes if low <= n.onset_ticks < high]


@pytest.mark.parametrize("setting", ["song", "near", "controls", "drums", "all"])
def test_what_is_given_lacks_the_regions_notes_alone(files, setting):
    score = files.read("a/drums.mid")
    tracks = {"drums": (2,), "all": (0, 1, 2)}.get(setting, (1,))
    case = Case(setting, 0, "a/drums.mid", tracks, 8, 4)
    given = case.given(score)
    assert given.bars == score.bars
    for t, track in enumerate(score.tracks):
        hidden = notes_between(score, t, 8 * BAR, 12 * BAR) if t in tracks else []
        assert sorted([*given.tracks[t].notes, *hidden]) == list(track.notes)
        assert not set(hidden) & set(given.tracks[t].notes)
        assert len(hidden) >= 4 * (t in tracks)
    assert case.with_answer(score) == score
    assert case.region.cells == {(t, b) for t in tracks for b in range(8, 12)}


def test_a_rewrite_shows_what_is_to_be_replaced(files):
    score = files.read("a/drums.mid")
    for setting, shows in (("rewrite", True), ("rewrite-all", True), ("song", False), ("all", False)):
        case = Case(setting, 0, "a/drums.mid", (1,), 8, 4)
        assert (case.shown(score) == score) == shows
        assert case.given(score) != score


def test_a_track_off_the_grid_is_one_that_a_person_played(build_midi, note, tmp_path):
    """Of a stiff track and one that is late by 3 to 13 ticks of 480, the second."""
    stiff = [e for k in range(96) for e in note(k * 480, 60, 240)]
    played = [e for k in range(96) for e in note(k * 480 + 3 + k % 11, 40, 240, channel=1)]
    metre = [(0, bytes.fromhex("ff580404021808"))]
    for name, tracks in (("both", [metre, stiff, played]), ("stiff", [metre, stiff])):
        (tmp_path / f"{name}.mid").write_bytes(build_midi(tracks))
    skipped: dict[str, str] = {}
    cases = draw_cases(Songs(tmp_path), 9, (4,), settings=["played"], on_skip=skipped.__setitem__)
    assert {(c.file, c.tracks) for c in cases} == {("both.mid", (1,))}
    assert len(cases) == 3
    assert skipped["stiff.mid"] == "no track off the grid"


def test_a_continuation_is_given_what_stands_before_it(files):
    score = files.read("a/drums.mid")
    case = Case("continuation", 0, "a/drums.mid", (0,), 8, 2)
    given = case.given(score)
    assert given.bars == score.bars[:8]
    assert given.end_ticks == 8 * BAR
    for t, track in enumerate(score.tracks):
        assert list(given.tracks[t].notes) == [n for n in track.notes if n.onset_ticks < 8 * BAR]
    answered = case.with_answer(score)
    assert notes_between(answered, 0, 0, 99 * BAR) == notes_between(score, 0, 0, 10 * BAR)
    assert answered.tracks[1:] == given.tracks[1:]  # the others' notes in these bars stay hidden


def test_a_continuation_knows_nothing_of_a_later_metre(build_midi, note, tmp_path):
    metre = [(0, bytes.fromhex("ff580404021808")), (14 * BAR, bytes.fromhex("ff580403021808"))]
    (tmp_path / "x.mid").write_bytes(build_midi([metre, [e for k in range(80) for e in note(k * 480, 60, 240)]]))
    score = read_midi(tmp_path / "x.mid")
    given = Case("continuation", 0, "x.mid", (0,), 8, 4).given(score)
    assert given.bars == score.bars[:8]
    assert [given.bar(b) for b in range(8, 12)] == list(score.bars[8:12])
    longer = given.with_notes(0, [Note(20 * BAR, 60, 1, 80)])  # as a fill may make it
    assert {(b.numerator, b.denominator) for b in longer.bars} == {(4, 4)}


@pytest.mark.parametrize(
    ("setting", "first", "n_bars", "window"),
    [
        ("song", 8, 2, (0, 33)),
        ("near", 16, 2, (8, 26)),
        ("near", 4, 2, (0, 14)),
        ("near", 24, 4, (8, 33)),
        ("continuation", 8, 2, (0, 8)),
        ("controls", 8, 4, (0, 33)),
        ("all", 8, 4, (0, 33)),
    ],
)
def test_the_window_that_may_be_read(files, setting, first, n_bars, window):
    case = Case(setting, 0, "b/two.mid", (0,), first, n_bars)
    assert case.window(files.read("b/two.mid")) == window
    assert case.context_bars == (4 * n_bars if setting == "near" else None)


def test_files_that_cannot_serve_are_named_with_the_reason(song, tmp_path):
    songs = {"good.mid": song(12), "short.mid": song(5), "text.mid": b"no music", "cut.MID": song(12)[:90]}
    for name, data in songs.items():
        (tmp_path / name).write_bytes(data)
    skipped: dict[str, str] = {}
    cases = draw_cases(Songs(tmp_path), 2, (2,), settings=["song", "drums"], on_skip=skipped.__setitem__)
    assert {(c.file, c.source) for c in cases} == {("good.mid", "files")}
    assert set(skipped) == {"good.mid", "short.mid", "text.mid", "cut.MID"}
    assert skipped["good.mid"] == "no drum track"
    assert "text.mid" in skipped["text.mid"]
    assert "cut.MID" in skipped["cut.MID"]
    skipped.clear()
    assert len(draw_cases(Songs(tmp_path), 9, (2,), settings=["all"], on_skip=skipped.__setitem__)) == 2
    assert skipped["short.mid"] == "no (further) 2 bars in one metre with as many on either side"
    assert set(skipped) == {"good.mid", "short.mid", "text.mid", "cut.MID"}


def test_a_zip_is_a_folder(files, tmp_path):
    with zipfile.ZipFile(tmp_path / "songs.zip", "w") as archive:
        for name, data in files.data.items():
            archive.writestr(name, data)
        archive.writestr("readme.txt", "not music")
    zipped = Songs(tmp_path / "songs.zip")
    assert draw_cases(zipped, 9, (2,)) == draw_cases(files, 9, (2,))
    assert zipped.digest == files.digest
    assert zipped.digest.startswith("9 files, ")


def test_the_digest_says_which_files_these_are(song, tmp_path):
    (tmp_path / "a.mid").write_bytes(song(12))
    before = Songs(tmp_path).digest
    (tmp_path / "a.mid").rename(tmp_path / "b.mid")
    renamed = Songs(tmp_path).digest
    (tmp_path / "b.mid").write_bytes(song(12, shift=1))
    assert len({before, renamed, Songs(tmp_path).digest}) == 3


def test_what_cannot_be_drawn_is_an_error(files, song, tmp_path):
    bad: tuple[tuple[dict[str, Any], str], ...] = (
        ({"settings": ["song", "nonsense", "far"]}, "settings must be among song, near, .*, played, got far, nonsense"),
        ({"count": 0}, "at least one case and one bar"),
        ({"bars": ()}, "at least one case and one bar"),
        ({"bars": (4, 0)}, "at least one case and one bar"),
        ({"bars": (14,)}, "no song that can be filled: 42 bars or more are needed"),
    )
    usual: dict[str, Any] = {"count": 3, "bars": (2,)}
    for arguments, words in bad:
        with pytest.raises(ValueError, match=words):
            draw_cases(files, **(usual | arguments))
    with pytest.raises(ValueError, match="no song that can be filled"):
        draw_cases(Songs(tmp_path), 3)
    with pytest.raises(ValueError, match="no such file or folder"):
        Songs(tmp_path / "gone")
    (tmp_path / "one.mid").write_bytes(song(12))
    with pytest.raises(ValueError, match="name the folder it lies in"):
        Songs(tmp_path / "one.mid")
