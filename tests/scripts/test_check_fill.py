"""The checker of filled files finds each kind of damage, and nothing in a good file."""

import subprocess
import sys
from pathlib import Path

import pytest

BAR = 1920
MASK = [(0, 0, BAR, 2 * BAR)]


def on(tick, pitch, velocity=80):
    return tick, bytes([0x90, pitch, velocity])


def off(tick, pitch):
    return tick, bytes([0x80, pitch, 64])


BEFORE = [(0, b"\xb0\x07\x64"), on(0, 60), on(1890, 61), off(BAR, 60)]
INSIDE = [on(2000, 62), (2100, b"\xb0\x40\x7f"), on(3800, 63)]
AFTER = [on(2 * BAR, 64), off(4000, 61), off(4100, 63), off(4100, 62), off(4200, 64), (4300, b"\xff\x60\x01\x05")]
OTHER = [on(0, 40), off(5000, 40)]
NEW = [on(2000, 70), off(2500, 70), on(3000, 70), off(2 * BAR, 70), (2 * BAR, b"\xb0\x40\x7f")]
KEPT = [*AFTER[:2], *AFTER[4:]]


@pytest.fixture
def original(build_midi):
    return build_midi([[*BEFORE, *INSIDE, *AFTER], OTHER])


def test_a_good_fill_passes(build_midi, check_fill, original):
    assert check_fill(original, build_midi([[*BEFORE, *NEW, *KEPT], OTHER]), MASK) == []
    assert check_fill(original, original, [(0, 0, 10 * BAR, 11 * BAR)]) == []


DAMAGE = {
    "a note outside is gone": ([BEFORE[0], *BEFORE[2:3], *NEW, *KEPT], "outside the mask"),
    "its velocity differs": ([BEFORE[0], on(0, 60, 81), *BEFORE[2:], *NEW, *KEPT], "outside the mask"),
    "it is shifted": ([*BEFORE[:2], on(1889, 61), *BEFORE[3:], *NEW, *KEPT], "outside the mask"),
    "two events changed places": ([BEFORE[1], BEFORE[0], *BEFORE[2:], *NEW, *KEPT], "outside the mask"),
    "a controller is gone": ([*BEFORE[1:], *NEW, *KEPT], "outside the mask"),
    "unknown meta differs": ([*BEFORE, *NEW, *KEPT[:-1], (4300, b"\xff\x60\x01\x06")], "outside the mask"),
    "a note outside is new": ([*BEFORE, *NEW, *KEPT, on(4400, 60), off(4500, 60)], "outside the mask"),
    "new notes overlap": (
        [*BEFORE, NEW[0], on(2100, 70), *NEW[1:2], off(2600, 70), NEW[4], *KEPT],
        "begins inside another",
    ),
    "no note-off": ([*BEFORE, *NEW[:3], NEW[4], *KEPT], "without a note-off"),
    "the pedal is not restored": ([*BEFORE, *NEW[:4], *KEPT], "sustain is 0 instead of 127"),
    "a pedal is new": ([*BEFORE, (1950, b"\xb0\x40\x05"), *NEW, *KEPT], "new sustain events"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_found(build_midi, check_fill, original, case):
    events, expected = DAMAGE[case]
    problems = check_fill(original, build_midi([events, OTHER]), MASK)
    assert any(expected in problem for problem in problems), problems


def test_damage_to_other_chunks_is_found(build_midi, build_chunk, check_fill, original):
    good = [*BEFORE, *NEW, *KEPT]
    cases = {
        "its bytes differ": build_midi([good, [OTHER[0], (5000, b"\x90\x28\x00")]]),
        "chunk 1: not masked": build_midi([good, build_chunk(OTHER, end=5001)]),
        "1 tracks instead of 2": build_midi([good]),
        "header": build_midi([good, OTHER], ticks_per_beat=481),
        "bytes between": build_midi([good, b"JUNK\x00\x00\x00\x00", OTHER]),
        "end-of-track stands": build_midi([build_chunk(good, end=9999), OTHER]),
    }
    for expected, output in cases.items():
        problems = check_fill(original, output, MASK)
        assert any(expected in problem for problem in problems), (expected, problems)
    with pytest.raises(ValueError, match="mido cannot read"):
        check_fill(build_midi([[(0, b"\xf5")], OTHER]), original, MASK)


def test_command_line(build_midi, original, tmp_path):
    good = build_midi([[*BEFORE, *NEW, *KEPT], OTHER])
    for name, data in {"in.mid": original, "good.mid": good, "bad.mid": build_midi([NEW, OTHER])}.items():
        (tmp_path / name).write_bytes(data)
    command = [sys.executable, str(Path(__file__).parents[2] / "scripts" / "check_fill.py"), "in.mid"]
    for output, code in (("good.mid", 0), ("bad.mid", 1)):
        done = subprocess.run(
            [*command, output, "--mask", f"0:0:{BAR}-{2 * BAR}"], cwd=tmp_path, capture_output=True, text=True
        )
        assert (done.returncode, done.stdout == "ok\n") == (code, code == 0)
