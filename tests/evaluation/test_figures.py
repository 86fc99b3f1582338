"""The figures of an evaluation are right: of the original, the model, copies, with nothing followed and with styles."""

import json

import numpy as np
import pytest
import torch
from evaluated import BAR, MODEL, cases_of, group_of, model_nats, records_of, small

from midi_rwkv import load_checkpoint, read_midi
from midi_rwkv.evaluation.cases import SETTINGS, Case
from midi_rwkv.evaluation.evaluate import records_path
from midi_rwkv.evaluation.measure import wishes
from midi_rwkv.evaluation.systems import COPIES, ORIGINAL, UNFOLLOWED
from midi_rwkv.model.config import ModelConfig, SamplingConfig
from midi_rwkv.model.step_checkpoint import save_step_checkpoint
from midi_rwkv.model.steps import StepModel
from midi_rwkv.score.score import Note, Score, TimeSignature, Track


def test_the_original_is_the_ceiling(done):
    perfect = {
        "onset_f1": 1, "onset_pattern_f1": 1, "content_preservation": 1, "groove_to_original": 1, "pitch_overlap": 1,
        "duration_overlap": 1, "density_error": 0, "density_ratio_error": 0, "entropy_distance": 0,
    }  # fmt: skip
    tonal = {"content_preservation", "duration_overlap", "entropy_distance"}
    for setting in set(SETTINGS) - {"controls"}:
        of = group_of(done, setting)["systems"][ORIGINAL]
        for name, value in perfect.items():
            if setting == "drums" and name in tonal:
                assert name not in of
                continue
            assert {of[name][k] for k in ("mean", "low", "high")} == {value}, (setting, name)
            assert "nats_per_note" not in of
    assert group_of(done, "controls")["systems"][ORIGINAL] == {}


def test_every_system_has_written_what_it_can(done):
    cases = cases_of(done)
    for system in (MODEL, UNFOLLOWED, *COPIES, ORIGINAL):
        records = records_of(done, system)
        for case in cases:
            able = system in (MODEL, UNFOLLOWED) if case.setting == "controls" else True
            able &= (case.setting, system) != ("continuation", "copy after")
            assert (records[case.id]["notes"] is not None) == able, (system, case.id)
    written = [records_of(done, system).values() for system in (MODEL, UNFOLLOWED, *COPIES)]
    assert len({json.dumps([record["notes"] for record in records]) for records in written}) == 5


def test_fills_lie_in_their_bars_and_copies_are_the_bars_beside(done, songs):
    for case in cases_of(done):
        score = read_midi(songs / case.file)
        fill = records_of(done)[case.id]["notes"]
        assert list(fill) == [str(t) for t in case.tracks]
        for notes in fill.values():
            assert all(case.first * BAR <= n[0] and n[0] + n[2] <= case.last * BAR for n in notes)
        for system, source in (("copy before", case.first - 2), ("copy after", case.last)):
            notes = records_of(done, system)[case.id]["notes"]
            for t in case.tracks if notes else ():
                there = [n for b in (source, source + 1) for n in score.notes_in(t, b)]
                moved = [list(n._replace(onset_ticks=n.onset_ticks + (case.first - source) * BAR)) for n in there]
                assert notes[str(t)] == moved


def test_silent_originals_have_only_the_notes_in_silence(done, songs):
    silent = [r for r in records_of(done).values() if r["original_notes"] == 0]
    assert silent
    for record in silent:
        assert set(record["metrics"]) - {"met_density", "met_polyphony", "met_pitch_range", "met_key"} == {
            "notes_in_silence"
        }
        case = next(c for c in cases_of(done) if c.id == record["case"])
        assert record["metrics"]["notes_in_silence"] == sum(map(len, record["notes"].values())) / 2
        assert not read_midi(songs / case.file).notes_in(case.tracks[0], case.first)
    assert group_of(done, "song")["silent_cases"] == sum(r["case"].startswith("song") for r in silent)


def test_wishes_are_met(done):
    for system in (MODEL, UNFOLLOWED):
        of = group_of(done, "controls")["systems"][system]
        for name in ("met_density", "met_polyphony", "met_pitch_range", "met_key"):
            assert (of[name]["mean"], of[name]["low"]) == (1, 1), (system, name)
            assert of[name]["n"] >= 1
        assert "nats_per_note" not in of


def shown_of(case, score):
    """What a system may see and the answer: all, or for a continuation what stands before, and the region's notes."""
    if case.setting != "continuation":
        return score
    tracks = []
    for t, track in enumerate(score.tracks):
        end = case.last if t in case.tracks else case.first
        kept = tuple(n for n in track.notes if n.onset_ticks < end * BAR)
        tracks.append(Track(track.name, track.program, kept, is_drum=track.is_drum))
    return Score(480, tuple(tracks), (TimeSignature(0, 4, 4),), score.tempos, end_ticks=case.last * BAR)


def test_nats_are_the_models(done, songs, tiny):
    checkpoint = load_checkpoint(tiny)
    followed, alone = records_of(done), records_of(done, UNFOLLOWED)
    checked = set()
    for case in cases_of(done):
        record, score = followed[case.id], read_midi(songs / case.file)
        count = sum(len(score.notes_in(t, b)) for t in case.tracks for b in range(case.first, case.last))
        assert record["original_notes"] == count
        if case.setting == "controls" or not count or (case.setting in checked and case.setting != "song"):
            continue
        cells = [(t, b) for t in case.tracks for b in range(case.first, case.last)]
        read = {"reach": 8 if case.setting == "near" else None, "open_end": case.setting == "continuation"}
        for records, follow in ((followed, True), (alone, False)):
            nats = model_nats(checkpoint, shown_of(case, score), cells, follow=follow, **read).sum()
            assert records[case.id]["metrics"]["nats_per_note"] == pytest.approx(nats / count, rel=1e-4), case.id
        checked.add(case.setting)
    assert checked == set(SETTINGS) - {"controls"}


def test_models_alone_have_nats_and_shards_tell_copies_of_training_music(done, songs, tiny, tmp_path):
    said: list[str] = []
    without = small(songs, tmp_path / "out", tiny, baselines=None, say=said.append)
    [group] = without["groups"]
    assert list(group["systems"]) == [MODEL, UNFOLLOWED, *COPIES, ORIGINAL]
    assert all("copies_training" not in of for of in group["systems"].values())
    assert said == ["without shards: no search for training music"]
    for of in (group, group_of(done, "song")):
        for system in (MODEL, UNFOLLOWED):
            assert of["systems"][system]["nats_per_note"]["mean"] > 0
        for system in COPIES:
            assert "nats_per_note" not in of["systems"][system]
            assert "onset_f1" in of["systems"][system]
        assert set(of["by_source"]["folk"]) == {MODEL, UNFOLLOWED}


def test_a_style_changes_the_fills_and_zeros_do_not(songs, tiny, tmp_path):
    from safetensors.numpy import save_file

    config = load_checkpoint(tiny).config
    shape = (config.n_layer, config.n_head, config.head_size, config.head_size)
    wkv = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    save_file({"wkv": wkv}, tmp_path / "some.safetensors")
    save_file({"wkv": 0 * wkv}, tmp_path / "zeros.safetensors")
    plain = small(songs, tmp_path / "plain", tiny)
    some = small(songs, tmp_path / "some", tiny, style=str(tmp_path / "some.safetensors"))
    zeros = small(songs, tmp_path / "zeros", tiny, style=str(tmp_path / "zeros.safetensors"))
    assert plain["groups"] != some["groups"]
    assert len({r["protocol"]["systems"][MODEL] for r in (plain, some, zeros)}) == 3
    for case, record in records_of(tmp_path / "plain").items():
        styled, same = records_of(tmp_path / "some")[case], records_of(tmp_path / "zeros")[case]
        assert same["notes"] == record["notes"] != styled["notes"]
        assert same["metrics"] == record["metrics"]
        if record["original_notes"]:
            assert styled["metrics"]["nats_per_note"] != record["metrics"]["nats_per_note"]


def test_checkpoints_are_compared_by_name(songs, tiny, tmp_path):
    vocabulary = load_checkpoint(tiny).vocabulary
    config = ModelConfig(n_layer=1, n_embd=64, vocab_size=0, arch="transformer")
    torch.manual_seed(0)
    weights = StepModel(config, vocabulary.sizes).state_dict()
    save_step_checkpoint(tmp_path / "run" / "checkpoint", config, weights, vocabulary, context=512, training={})
    compare = [tmp_path / "run" / "checkpoint", tiny]
    report = small(songs, tmp_path / "out", tiny, cases=2, compare=compare)
    [group] = report["groups"]
    assert list(group["systems"]) == [MODEL, "run (transformer)", f"{MODEL} 3", ORIGINAL]
    assert group["systems"][MODEL] == group["systems"][f"{MODEL} 3"] != group["systems"]["run (transformer)"]
    assert group["systems"]["run (transformer)"]["nats_per_note"]["mean"] > 0
    spent = json.loads((tmp_path / "out" / "cost.json").read_text())
    assert set(spent) == {MODEL, "run (transformer)", f"{MODEL} 3"}
    assert all(c["written_steps_per_second"] > 0 and c["median_seconds"] > 0 for c in spent.values())


def test_nothing_followed_is_evaluated_beside_the_model(songs, tiny, tmp_path):
    """As the model itself with that sampling, which is then not evaluated twice."""
    options = {"settings": ["drums", "near", "continuation"], "baselines": None}
    small(songs, tmp_path / "with", tiny, **options)
    small(songs, tmp_path / "without", tiny, sampling=SamplingConfig(follow=0), **options)
    ours, alone = (records_of(tmp_path / "with", s) for s in (MODEL, UNFOLLOWED))
    assert alone == records_of(tmp_path / "without")
    assert not records_path(tmp_path / "without", UNFOLLOWED).exists()
    nats = [[r["metrics"].get("nats_per_note") for r in records.values()] for records in (ours, alone)]
    assert any(a is not None and a != b for a, b in zip(*nats, strict=True))
    assert any(ours[c]["notes"] != alone[c]["notes"] for c in ours)


def test_wishes_stay_within_what_can_be_asked_for():
    crowded = tuple(Note(b * 1920 + k // 25 * 200, 40 + k % 25, 5, 80) for b in range(12) for k in range(225))
    score = Score(480, (Track("a", 0, crowded),), (TimeSignature(0, 4, 4),), end_ticks=12 * 1920)
    asked = wishes(Case("controls", 0, "x", (0,), 4, 2), score, SamplingConfig())
    assert asked.density == (200, 200)
    assert asked.polyphony == (20, 20)
