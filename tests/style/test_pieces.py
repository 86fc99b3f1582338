"""The files that a style is learned from: which of them serve, what is drawn from them, and what is said of others."""

import shutil
from itertools import pairwise

import numpy as np
import pytest

from midi_rwkv import Ask
from midi_rwkv.fill.infill import infill
from midi_rwkv.score.midi import read_midi, write_midi
from midi_rwkv.score.score import Note, Region, Score, Track
from midi_rwkv.style.pieces import Piece, draw_fills, read_pieces
from midi_rwkv.style.preparing import _parts
from midi_rwkv.style.style import read_info, styles_folder
from midi_rwkv.tokens.attributes import DRUMS, Column, Role

pytestmark = pytest.mark.usefixtures("small")


def test_parts_cover_the_bars():
    for n in (2, 5, 16, 33):
        parts = _parts(n, 4)
        assert parts[0][0] == 0
        assert parts[-1][1] == n
        assert all(a[1] == b[0] for a, b in pairwise(parts))
        assert all(hi - lo >= 2 for lo, hi in parts)


def test_regions_stay_within_their_part(checkpoint):
    """Every bar has a pitch of its own, so that what is to be written says where it stood."""
    notes = tuple(Note(b * 1920 + k * 480, 40 + b, 240, 80) for b in range(16) for k in range(4))
    piece = Piece("x", Score(480, (Track("Piano", 0, notes),)), b"")
    for part in _parts(16, 4):
        found = set()
        for _, sample in draw_fills(
            [(piece, part)], checkpoint.vocabulary, count=20, seed=0, held_out=True, budget=512
        ):
            answer = (sample[:, Column.ROLE] == Role.ANSWER) & (sample[:, Column.VELOCITY] > 0)
            found |= set(sample[answer, Column.PITCH] - 1 - 40)
        assert found == set(range(*part))


def test_files_of_one_name_in_two_folders_are_two(pieces, midi, checkpoint, tmp_path):
    [first] = pieces(1)
    (tmp_path / "other").mkdir()
    second = tmp_path / "other" / first.name
    second.write_bytes(midi(7, bars=30, drums=True))
    found, skipped = read_pieces([first, second])
    assert not skipped
    units = [(p, (0, len(p.score.bars))) for p in found]
    together = list(draw_fills(units, checkpoint.vocabulary, count=8, seed=0, held_out=True, budget=512))
    assert {unit for unit, _ in together} == {0, 1}
    for unit, sample in together:
        assert set(sample[:, Column.PROGRAM]) == {0, 1 + (0, DRUMS)[unit]}


def test_fills_to_tune_on_are_transposed_but_for_their_drums(checkpoint):
    """The piano plays but one pitch, and the drums but one."""
    tracks = [
        Track(name, 0, tuple(Note(k * 480, pitch, 240, 80) for k in range(64)), is_drum=name == "Drums")
        for name, pitch in (("Piano", 60), ("Drums", 36))
    ]
    piece = Piece("x", Score(480, tuple(tracks)), b"")
    shifts = {}
    for held_out in (False, True):
        drawn = draw_fills([(piece, (0, 16))], checkpoint.vocabulary, count=40, seed=0, held_out=held_out, budget=512)
        shifts[held_out] = []
        for _, sample in drawn:
            pitches = set(sample[sample[:, Column.VELOCITY] > 0, Column.PITCH] - 1) - {128 + 36}
            assert len(pitches) <= 1
            shifts[held_out] += [p - 60 for p in pitches]
    assert set(shifts[True]) == {0}
    assert len(set(shifts[False])) > 6
    assert set(shifts[False]) <= set(range(-6, 7))


def test_what_cannot_serve_is_named_and_skipped(run, pieces, build_midi, note, tmp_path):
    good = pieces(3)
    twin, three, broken = tmp_path / "twin.mid", tmp_path / "three.mid", tmp_path / "broken.mid"
    shutil.copy(good[0], twin)
    three.write_bytes(build_midi([[*note(0, 60, 240), *note(480, 62, 240), *note(960, 64, 240)]]))
    broken.write_bytes(b"MThd and no more")
    code, _, err = run(*good, twin, three, broken, tmp_path / "gone.mid", "--name", "mine")
    assert code == 0
    assert f"skipped {twin}: its bars are those of 0.mid" in err
    assert f"skipped {three}: 3 notes in 1 different bars are too few to learn from" in err
    assert f"skipped {broken}: " in err
    assert f"skipped {tmp_path / 'gone.mid'}: " in err
    assert read_info(styles_folder() / "mine.safetensors")["files"] == "3"


@pytest.mark.parametrize("options", [{"drums": True}, {}], ids=["only drums", "pitched"])
def test_one_file_is_enough(run, pieces, options):
    code, _, err = run(*pieces(1, bars=24, **options), "--name", "mine")
    assert code == 0, err
    assert read_info(styles_folder() / "mine.safetensors")["held_out"] == "bars"


METRES = [(0, bytes.fromhex("ff580405021808")), (12 * 2400, bytes.fromhex("ff580407031808"))]  # 12 bars of 5/4, 7/8


@pytest.mark.parametrize(("metres", "loose"), [(METRES, 0), ([], 97)], ids=["other metres", "no click"])
def test_music_off_the_usual_bars_serves(  # noqa: PLR0913 - fixtures
    run, build_midi, note, check_fill, checkpoint, tmp_path, metres, loose
):
    """Other metres that change; and bars that only the sequencer drew, on notes that were played beside them."""
    rng = np.random.default_rng(1)
    for i in range(3):
        at = 240 * np.arange(200) + rng.integers(-loose, loose + 1, 200) + loose
        notes = [e for tick, pitch in zip(at, rng.integers(55, 80, 200), strict=True) for e in note(tick, pitch, 200)]
        (tmp_path / f"{i}.mid").write_bytes(build_midi([sorted([*metres, *notes], key=lambda e: e[0])]))
    files = sorted(tmp_path.glob("*.mid"))
    code, _, err = run(*files, "--name", "mine", "--keep-anyway")
    assert code == 0, err
    score, region = read_midi(files[0]), Region.rectangle([0], [(11, 14)])
    [answer] = infill(score, Ask(region, seed=0), checkpoint, style="mine")
    write_midi(tmp_path / "new.mid", files[0], score, region, fills=answer.fills)
    first, last = score.bars[11], score.bars[13]
    mask = [(score.tracks[0].chunk, score.tracks[0].channel, first.start_ticks, last.end_ticks)]
    assert check_fill(files[0], tmp_path / "new.mid", mask) == []


def test_copies_of_one_file_count_once(run, pieces, tmp_path):
    [file] = pieces(1, bars=24)
    for i in range(3):
        shutil.copy(file, tmp_path / f"copy{i}.mid")
    code, _, err = run(file, *sorted(tmp_path.glob("copy*.mid")), "--name", "mine")
    assert code == 0
    assert err.count("its bars are those of 0.mid") == 3
    assert read_info(styles_folder() / "mine.safetensors")["files"] == "1"


def test_a_folder_stands_for_its_files(run, pieces):
    assert run(pieces(3)[0].parent, "--name", "mine")[0] == 0
    assert read_info(styles_folder() / "mine.safetensors")["files"] == "3"


def test_a_long_file_serves(run, tmp_path, midi):
    """Forty minutes at 120 beats a minute: 1,200 bars."""
    (tmp_path / "long.mid").write_bytes(midi(0, bars=1200))
    assert run(tmp_path / "long.mid", "--name", "mine")[0] == 0
    assert read_info(styles_folder() / "mine.safetensors")["bars"] == "1200"


def test_nothing_to_learn_from_is_an_error(run, tmp_path):
    (tmp_path / "a.mid").write_bytes(b"nothing")
    code, out, err = run(tmp_path / "a.mid", "--name", "mine")
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith("midi-rwkv: error: nothing to learn from: ")
    (tmp_path / "empty").mkdir()
    code, _, err = run(tmp_path / "empty", "--name", "mine")
    assert code == 2
    assert "no MIDI files in" in err
    assert not list(styles_folder().glob("*"))
