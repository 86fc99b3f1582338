"""Personalising through the command, with a tiny model: what is learned, kept, skipped, refused, interrupted."""

import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from midi_rwkv import Ask
from midi_rwkv import personalize as public_personalize
from midi_rwkv.commands.cli import main
from midi_rwkv.fill.infill import infill
from midi_rwkv.model.checkpoint import checkpoint_hash, load_checkpoint
from midi_rwkv.score.instruments import playable
from midi_rwkv.score.midi import read_midi, write_midi
from midi_rwkv.score.score import Note, Region, Score, TimeSignature, Track
from midi_rwkv.style.personalize import PersonalizeOptions, _parts, prepare
from midi_rwkv.style.pieces import Piece, draw_fills, read_pieces, transposed, transpositions
from midi_rwkv.style.style import Style, find_style, load_style, read_info, styles_folder
from midi_rwkv.style.tuning import batches, fill_losses, fills_nats, styled_nats
from midi_rwkv.training.dataset import FILL

module = sys.modules["midi_rwkv.style.personalize"]  # `midi_rwkv.style.personalize` is the function
tuning_module = sys.modules["midi_rwkv.style.tuning"]
STYLES = Path(__file__).parents[3] / "shared" / "corpus" / "styles.zip"


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    """A data folder of this test's own, and fewer fills and steps than a real model needs."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setattr(module, "TUNE_FILLS", 40)
    monkeypatch.setattr(module, "HELD_OUT_FILLS", 15)
    for name, steps in {"STEPS": 8, "RATE_STEPS": 4, "CHECK_EVERY": 4}.items():
        monkeypatch.setattr(tuning_module, name, steps)


@pytest.fixture(scope="module")
def checkpoint(checkpoint_folder):
    return load_checkpoint(checkpoint_folder)


@pytest.fixture(scope="module")
def midi(build_midi, note):
    """midi(seed, bars=12, drums=False, one_note=False) -> bytes of a little piece."""

    def call(seed, bars=12, *, drums=False):
        rng = np.random.default_rng(seed)
        events = [(0, bytes.fromhex("ff580404021808")), (0, b"\xc0\x00")]
        channel = 9 if drums else 0
        for b in range(bars):
            for k in range(4):
                pitch = int(rng.choice([36, 38, 42])) if drums else 60 + int(rng.integers(0, 12))
                events += note(b * 1920 + k * 480, pitch, 240, channel=channel)
        return build_midi([sorted(events, key=lambda e: e[0])], end=bars * 1920)

    return call


@pytest.fixture
def pieces(midi, tmp_path):
    """pieces(5) -> files of so many pieces."""

    def call(count, **options):
        folder = tmp_path / "pieces"
        folder.mkdir(exist_ok=True)
        paths = [folder / f"{i}.mid" for i in range(count)]
        for i, path in enumerate(paths):
            path.write_bytes(midi(i, **options))
        return paths

    return call


@pytest.fixture
def run(checkpoint_folder, capsys):
    """run(*arguments) -> (exit code, stdout, stderr) of `midi-rwkv personalize ... --checkpoint tiny --threads 1`."""

    def call(*arguments):
        code = main(["personalize", *map(str, arguments), "--checkpoint", str(checkpoint_folder), "--threads", "1"])
        return code, *capsys.readouterr()

    return call


def test_the_main_job(run, pieces, checkpoint, tmp_path, capsys):
    files = pieces(5)
    code, out, err = run(*files, "--name", "mine")
    assert code == 0, err
    path = styles_folder() / "mine.safetensors"
    assert f"{path}: held-out loss" in out
    assert "use it: midi-rwkv infill song.mid --bars 8-12 --style mine" in out
    assert "reading: 55 of 55 fills" in err
    assert "step 8 of 8: held-out" in err
    info = read_info(path)
    assert (info["files"], info["bars"], info["notes"], info["held_out"]) == ("5", "60", "240", "files")
    assert info["base"] == checkpoint_hash(checkpoint)
    assert float(info["held_out_after"]) < float(info["held_out_before"])
    assert sorted(p.name for p in styles_folder().iterdir()) == ["mine.safetensors"]
    song, new = files[0], tmp_path / "new.mid"
    command = ["infill", song, "--bars", "3-4", "--seed", "1", "--checkpoint", checkpoint.path, "--json"]
    assert main([*map(str, command), "-o", str(new), "--style", "mine"]) == 0
    assert json.loads(capsys.readouterr().out)["style"] == "mine"
    half, plain = tmp_path / "half.mid", tmp_path / "plain.mid"
    assert main([*map(str, command), "-o", str(half), "--style", "mine", "--style-strength", "0"]) == 0
    assert main([*map(str, command), "-o", str(plain)]) == 0
    assert half.read_bytes() == plain.read_bytes()


def test_what_is_learned_helps_on_music_that_was_not_seen(pieces, checkpoint, midi, tmp_path):
    """The loss on a sixth piece falls, by the same measure that evaluate uses."""
    made = public_personalize(pieces(5), "mine", PersonalizeOptions(threads=1), checkpoint=checkpoint)
    assert made.helps
    assert made.after < made.before
    other = tmp_path / "other.mid"
    other.write_bytes(midi(99))
    [piece], _ = read_pieces([other])
    model, style = checkpoint.model(), find_style("mine", checkpoint)
    middle = checkpoint.tokenizer.id("Context_Middle")
    samples = [s for _, s, _ in draw_fills([(piece, (0, 12))], checkpoint, count=6, seed=0, held_out=True)]
    before, after = (sum(styled_nats(model, s, middle, x) for s in samples) for x in (Style("none"), style))
    assert after < before


def test_the_same_seed_gives_the_same_style(run, pieces, checkpoint):
    files = pieces(3)
    states = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert run(*files, "--name", name, "--seed", seed)[0] == 0
        states.append(load_style(name, checkpoint).run)
    assert np.array_equal(states[0], states[1])
    assert not np.array_equal(states[0], states[2])


def test_tuned_losses_are_those_of_the_whole_sequence(pieces, checkpoint):
    """Reading the context once and tuning only the run gives the loss of the plain form, and its gradient is right."""
    model = checkpoint.model().requires_grad_(requires_grad=False)
    found, _ = read_pieces(pieces(3))
    tuning = prepare(found, checkpoint, model)
    fills = tuning.held_out[:5]
    sampled = list(
        draw_fills([(p, (0, 12)) for p in found], checkpoint, count=len(tuning.held_out), seed=0, held_out=True)
    )
    middle = checkpoint.tokenizer.id("Context_Middle")
    state = torch.randn(2, 1, 64, 64) * 0.1
    expected = [styled_nats(model, s, middle, Style("x", run=state.numpy())) for _, s, _ in sampled[:5]]
    np.testing.assert_allclose(fills_nats(model, fills, state, ids=300), expected, rtol=1e-4)
    state.requires_grad_()
    fill_losses(model, fills, state)[0].sum().backward()
    direction = torch.randn_like(state)
    step = 1e-2
    with torch.no_grad():
        up, down = (fills_nats(model, fills, state + sign * step * direction).sum() for sign in (1, -1))
    assert float((state.grad * direction).sum()) == pytest.approx((up - down) / (2 * step), rel=0.05)


@pytest.mark.parametrize(
    ("count", "folds"), [(1, 4), (2, 4), (3, 3), (7, 5)], ids=["bars", "bars of two", "files", "five of seven"]
)
def test_each_fold_is_measured_on_what_it_has_not_seen(pieces, checkpoint, count, folds):
    found, _ = read_pieces(pieces(count, bars=16))
    tuning = prepare(found, checkpoint, checkpoint.model().requires_grad_(requires_grad=False))
    assert len(tuning.folds) == folds
    assert sorted(u for fold in tuning.folds for u in fold) == sorted({f.unit for f in tuning.fills})
    for fold, train, left_out in zip(tuning.folds, tuning._train, tuning._left_out, strict=True):
        assert train
        assert left_out
        assert not {f.unit for f in train} & set(fold)
        assert {f.unit for f in left_out} <= set(fold)


def test_rate_step_and_scale_are_those_best_on_what_was_left_out(pieces, checkpoint):
    found, _ = read_pieces(pieces(3))
    tuning = prepare(found, checkpoint, checkpoint.model().requires_grad_(requires_grad=False))
    checks = []
    tuning.run(checks.append)
    first, second = (c["losses"] for c in tuning.curve)
    assert list(first) == list(tuning_module.LEARNING_RATES)
    assert list(second) == [min(first, key=first.get)]  # the other rate has gone no further
    losses = {(c["step"], rate): x for c in tuning.curve for rate, x in c["losses"].items()}
    assert min(losses, key=losses.get) == (tuning.best_step, tuning.best_rate)
    assert checks[-1].best == min(losses.values())
    left_out = {s: tuning._left_out_loss([s * x for x in tuning.best_states]) for s in tuning_module.SCALES}
    assert left_out[1.0] == pytest.approx(checks[-1].best, rel=1e-5)
    assert tuning.best == min(left_out.values())
    assert left_out[tuning.scale] == tuning.best
    torch.testing.assert_close(tuning.best_state, tuning.scale * sum(tuning.best_states) / 3)


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
    tokenizer = checkpoint.tokenizer
    for low, high in _parts(16, 4):
        found = set()
        for _, sample, _ in draw_fills([(piece, (low, high))], checkpoint, count=20, seed=0, held_out=True):
            fill = [i for i, role in zip(sample.ids, sample.roles, strict=True) if role == FILL]
            names = [tokenizer.base_names[b] for i in fill for b in tokenizer.expansions[i]]
            found |= {int(n.removeprefix("Pitch_")) - 40 for n in names if n.startswith("Pitch_")}
        assert found == set(range(low, high))


def test_files_of_one_name_in_two_folders_are_two(pieces, midi, checkpoint, tmp_path):
    [first] = pieces(1)
    (tmp_path / "other").mkdir()
    second = tmp_path / "other" / first.name
    second.write_bytes(midi(7, bars=30, drums=True))
    found, skipped = read_pieces([first, second])
    assert not skipped
    units = [(p, (0, len(p.score.bars))) for p in found]
    together = list(draw_fills(units, checkpoint, count=8, seed=0, held_out=True))
    assert {unit for unit, _, _ in together} == {0, 1}
    programs = [int(checkpoint.tokenizer.encode(p.score).programs[0]) for p in found]
    assert programs[0] != programs[1]
    for unit, sample, _ in together:
        assert programs[unit] in sample.ids
        assert programs[1 - unit] not in sample.ids


def test_transposed_copies_stay_within_the_instrument():
    high = Score(480, (Track("Flute", 73, (Note(0, 96, 480, 80), Note(480, 60, 480, 80))),))
    shifts = transpositions(high)
    assert 0 in shifts
    assert 6 not in shifts  # 102 is above a flute
    for shift in shifts:
        assert all(playable(73, [60, 96])[n.pitch] for n in transposed(high, shift).tracks[0].notes)
    kit = Score(480, (Track("Drums", 0, (Note(0, 36, 120, 80),), is_drum=True),))
    assert transpositions(kit) == [0]
    both = Score(480, (*kit.tracks, Track("Piano", 0, (Note(0, 60, 480, 80),))))
    moved = transposed(both, 3)
    assert [t.notes[0].pitch for t in moved.tracks] == [36, 63]


def test_batches_are_all_the_fills_once(pieces, checkpoint):
    found, _ = read_pieces(pieces(3))
    fills = prepare(found, checkpoint, checkpoint.model().requires_grad_(requires_grad=False)).fills
    for rng in (None, np.random.default_rng(0)):
        found = batches(fills, 300, rng)
        assert sorted(i for batch in found for i in batch) == list(range(len(fills)))
        assert all(len(b) == 1 or len(b) * max(len(fills[i].ids) for i in b) <= 300 for b in found)


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


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "the style needs a name: add --name NAME"),
        (["--name", "a/b"], "a style's name is letters"),
        (["--name", "mine", "-o", "x.safetensors"], "but not both"),
        (["-o", "x.mid"], "a style file ends in .safetensors, got x.mid"),
        (["--name", "mine", "--seed", "-1"], "--seed must be 0-9223372036854775807, got -1"),
        (["--name", "mine", "--threads", "0"], "--threads must lie in 1-"),
    ],
)
def test_bad_options_are_one_line_and_write_nothing(pieces, capsys, arguments, words, checkpoint_folder):
    files = [str(p) for p in pieces(3)]
    assert main(["personalize", *files, *arguments, "--checkpoint", str(checkpoint_folder)]) == 2
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1
    assert not styles_folder().exists()


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


def test_a_taken_name_is_refused_before_the_work(run, pieces):
    files = pieces(3)
    assert run(*files, "--name", "mine")[0] == 0
    before = (styles_folder() / "mine.safetensors").read_bytes()
    code, _, err = run(*files, "--name", "mine", "--seed", 5)
    assert code == 2
    assert "mine is taken" in err
    assert "reading" not in err
    assert (styles_folder() / "mine.safetensors").read_bytes() == before
    assert run(*files, "--name", "mine", "--seed", 5, "--overwrite")[0] == 0
    assert (styles_folder() / "mine.safetensors").read_bytes() != before


def test_a_style_that_does_not_help_is_not_kept_unless_asked(run, pieces, monkeypatch):
    monkeypatch.setattr(tuning_module.Tuning, "run", lambda *_: None)  # no step is better
    files = pieces(3)
    code, out, _ = run(*files, "--name", "mine")
    assert code == 0
    assert "the style does not help on music it was not tuned on" in out
    assert "not kept (--keep-anyway would)" in out
    assert not list(styles_folder().glob("*"))
    code, out, _ = run(*files, "--name", "mine", "--keep-anyway", "--json")
    assert code == 0
    assert json.loads(out)["held_out_after"] == json.loads(out)["held_out_before"]
    assert (styles_folder() / "mine.safetensors").exists()


def test_a_full_disk_is_one_line(run, pieces, monkeypatch):
    files = pieces(3)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    monkeypatch.setattr("torch.save", full)
    code, out, err = run(*files, "--name", "mine")
    assert (code, out) == (2, "")
    assert err.count("a stop would lose what is done so far: [Errno 28] No space left on device") == 1
    assert err.splitlines()[-1].endswith("could not be written: No space left on device; nothing was kept of it")
    assert not list(styles_folder().glob("*"))


def test_interrupted_it_keeps_the_best_and_goes_on_where_it_was(pieces, checkpoint, tmp_path):
    files = pieces(3)
    whole = public_personalize(
        files, options=PersonalizeOptions(output=tmp_path / "whole.safetensors", threads=1), checkpoint=checkpoint
    )
    target = tmp_path / "part.safetensors"
    asked = PersonalizeOptions(output=target, threads=1)

    def stop(progress):
        if progress.check and progress.check.step >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=r"the best so far is kept in .*part.safetensors; the same command"):
        public_personalize(files, options=asked, checkpoint=checkpoint, on_progress=stop)
    assert read_info(target)["stopped_at_step"] == "4"
    said = []
    again = public_personalize(files, options=asked, checkpoint=checkpoint, say=said.append)
    assert said == ["going on at step 4 of 8"]
    assert np.array_equal(again.style.run, whole.style.run)
    assert again.curve == whole.curve
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
    with pytest.raises(ValueError, match="part is taken"):
        public_personalize(files, options=asked, checkpoint=checkpoint)


def test_another_kind_of_model_is_named(pieces, checkpoint):
    with pytest.raises(
        ValueError, match=r"prompt 'paper'\) cannot be personalized; name an RWKV-7 whose prompt is one of"
    ):
        public_personalize(pieces(3), "mine", checkpoint=replace(checkpoint, prompt="paper"))


def test_ctrl_c_is_one_line(pieces, checkpoint_folder, tmp_path):
    environment = {**os.environ, "XDG_DATA_HOME": str(tmp_path / "data"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "midi_rwkv", "personalize", *map(str, pieces(3, bars=64)), "--name", "mine"]
    process = subprocess.Popen(
        [*command, "--checkpoint", str(checkpoint_folder)], stderr=subprocess.PIPE, text=True, env=environment
    )
    for line in process.stderr:
        if line.startswith("step 8 of"):
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    last = err.splitlines()[-1]
    assert last.startswith("midi-rwkv: stopped; ")
    assert "the same command goes on" in last
    assert "Traceback" not in err


def test_the_styled_fill_leaves_the_rest_of_the_file_alone(run, pieces, checkpoint, check_fill, tmp_path):
    files = pieces(3)
    assert run(*files, "--name", "mine")[0] == 0
    score = read_midi(files[0])
    [answer] = infill(score, Ask(Region.rectangle([0], [(2, 4)]), seed=0), checkpoint, style="mine")
    write_midi(tmp_path / "new.mid", files[0], score, Region.rectangle([0], [(2, 4)]), fills=answer.fills)
    mask = [(score.tracks[0].chunk, score.tracks[0].channel, 2 * 1920, 4 * 1920)]
    assert check_fill(files[0], tmp_path / "new.mid", mask) == []
    assert score.time_signatures == (TimeSignature(0, 4, 4),)


@pytest.mark.slow
@pytest.mark.skipif(not STYLES.exists(), reason="needs the corpus")
def test_the_model_that_ships_learns_a_style(tmp_path, monkeypatch, capsys):
    """Five four-part psalms through the command; other psalms cost less then."""
    monkeypatch.undo()
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    with zipfile.ZipFile(STYLES) as archive:
        archive.extractall(tmp_path)
    files = sorted((tmp_path / "gomolka" / "tune").glob("*.mid"))[:5]
    assert main(["personalize", *map(str, files), "--name", "psalms", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["held_out_after"] < report["held_out_before"]
    checkpoint = load_checkpoint()
    test, _ = read_pieces([tmp_path / "gomolka" / "test"])
    units = [(p, (0, len(p.score.bars))) for p in test]
    model, middle = checkpoint.model(), checkpoint.tokenizer.id("Context_Middle")
    samples = [s for _, s, _ in draw_fills(units, checkpoint, count=30, seed=0, held_out=True)]
    styles = [Style("none"), find_style("psalms", checkpoint)]
    before, after = (sum(styled_nats(model, s, middle, style) for s in samples) for style in styles)
    assert after < before
