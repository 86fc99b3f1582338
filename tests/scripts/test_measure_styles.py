"""Whose fills are said to be, and what they quote, on small songs and a model of random weights."""

from __future__ import annotations

import json

import numpy as np
import pytest

from midi_rwkv import load_checkpoint, read_midi
from midi_rwkv.score.score import Note
from midi_rwkv.style.style import Style, save_style

BARS = 12
TRACKS = 2


def song(build_midi, note, rng, *, steps: bool) -> bytes:
    """Two tracks of eighths: up and down by steps, or anywhere."""
    tracks = []
    for channel in range(TRACKS):
        walk = 60 + np.cumsum(rng.choice([-2, -1, 1, 2], 8 * BARS)) if steps else rng.integers(40, 90, 8 * BARS)
        pitches = np.clip(walk, 30, 100).tolist()
        tracks.append([e for i, p in enumerate(pitches) for e in note(240 * i, p, 230, channel=channel)])
    return build_midi(tracks)


@pytest.fixture(scope="module")
def folders(build_midi, note, tmp_path_factory):
    """Styles of one composer, who goes by steps, and other people's pieces."""
    rng, home = np.random.default_rng(0), tmp_path_factory.mktemp("songs")
    for part, count in (("styles/stepper/tune", 5), ("styles/stepper/test", 3), ("valid/a", 6), ("valid/b", 6)):
        (home / part).mkdir(parents=True)
        for i in range(count):
            data = song(build_midi, note, rng, steps=part.startswith("styles"))
            (home / part / f"{i}.mid").write_bytes(data)
    return home


def test_the_settings_show_what_they_say(script, folders):
    script("measure_styles")
    from script_helpers.style_places import SETTINGS, places

    score = read_midi(folders / "styles/stepper/test/0.mid")
    for setting in SETTINGS:
        found = places(score, "0.mid", setting, 3)
        assert len(found) == 3
        for place in found:
            case, given = place.case, place.given
            assert all(not given.notes_in(t, b) for t, b in case.region.cells)
            sizes = np.array(given.note_counts())
            before, after = sizes[:, : case.first], sizes[:, case.last :]
            if setting == "song":
                assert len(case.tracks) == 1
                assert (before == 8).all()
                assert (after == 8).all()
            elif setting == "new track":
                [t] = case.tracks
                assert sizes.sum(1)[t] == 0
                assert sizes.sum() == 8 * BARS
            else:
                assert case.tracks == (0, 1)
                assert (before == 8).all()
                assert after.size == 0
                assert setting == "continuation" or case.first == 4
            assert [len(own) for own in place.own.values()] == [32] * len(case.tracks)
            assert len({n.pitch for n in place.own[case.tracks[0]]}) > 1


def test_own_notes_are_told_alike_wherever_they_stand(script, folders):
    """Features are of a part of the song; the notes must be moved with it."""
    script("measure_styles")
    from script_helpers.style_places import places
    from script_helpers.whose import told

    score = read_midi(folders / "styles/stepper/test/0.mid")
    place = places(score, "0.mid", "song", 1)[0]
    of = told(place, place.own)
    assert of["notes a bar"] == 8
    assert of["manner: gap of 0.5"] == 1
    assert of["manner: in the beat at 0"] == 0.5
    assert told(place, {t: [] for t in place.case.tracks}) == {}
    low = {t: [Note(n.onset_ticks, 40, n.duration_ticks, n.velocity) for n in own] for t, own in place.own.items()}
    assert told(place, low)["manner: top moves up to +0"] == 1


@pytest.mark.slow
def test_fills_are_judged_once(script, folders, checkpoint_folder, tmp_path, capsys):
    """The whole script: the composer's own bars are told, noise is not, and nothing is done twice."""
    checkpoint = load_checkpoint(checkpoint_folder)
    config = checkpoint.config
    shape = (config.n_layer, config.n_head, config.head_size, config.head_size)
    run = np.random.default_rng(0).normal(0, 1, shape).astype(np.float32)
    save_style(Style("stepper", run=run), tmp_path / "made" / "stepper.safetensors")
    out = tmp_path / "out"
    arguments = [str(folders / "styles"), str(folders / "valid"), str(out), "--cases", "3"]
    arguments += ["--checkpoint", str(checkpoint_folder)]
    script("measure_styles").main(arguments)
    assert len((out / "fills.jsonl").read_text().splitlines()) == 12
    script("measure_styles").main([*arguments, "--styles-folder", str(tmp_path / "made")])
    lines = (out / "fills.jsonl").read_text().splitlines()
    assert len(lines) == len({json.loads(line)["key"] for line in lines}) == 36
    table = (out / "table.md").read_text()
    script("measure_styles").main([*arguments, "--table"])
    assert (out / "table.md").read_text() == table
    assert (out / "fills.jsonl").read_text().splitlines() == lines
    quality = next(line for line in table.splitlines() if line.startswith("| stepper | song |")).split(" | ")
    assert float(quality[3]) > 0.9
    [row] = [x for x in table.split("Whose is it? Song")[1].split("##")[0].splitlines() if x.startswith("| stepper")]
    own_less_base = float(row.split(" | ")[6].split(" [")[0])
    assert own_less_base > 0
    assert "stepper at 1: 12 fills" in capsys.readouterr().out
