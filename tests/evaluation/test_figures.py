"""The figures of an evaluation are right: of the original, the model, copies, and with recall and styles."""

import json

import numpy as np
import pytest
import torch
from evaluated import BAR, MODEL, cases_of, group_of, records_of, small

from midi_rwkv import load_checkpoint, read_midi
from midi_rwkv.evaluation.cases import SETTINGS, Case, Songs, draw_cases
from midi_rwkv.evaluation.evaluate import records_path
from midi_rwkv.evaluation.measure import wishes
from midi_rwkv.evaluation.systems import ALONE, COPIES, NGRAM, ORIGINAL, Setup, System
from midi_rwkv.evaluation.transformer import Transformer
from midi_rwkv.fill.ask import Ask
from midi_rwkv.fill.blank import blank_cells
from midi_rwkv.fill.flat import TokenEncoder
from midi_rwkv.model.checkpoint import save_checkpoint
from midi_rwkv.model.config import ModelConfig, SamplingConfig
from midi_rwkv.score.score import Cell, Note, Score, TimeSignature, Track
from midi_rwkv.tokens.prompt import PromptTokens, Shown, build_prompt, prompt_budget
from midi_rwkv.training.dataset import FILL, lay_out


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
    for system in (MODEL, *COPIES, NGRAM, ORIGINAL):
        records = records_of(done, system)
        for case in cases:
            able = system in (MODEL, NGRAM) if case.setting == "controls" else True
            able &= (case.setting, system) != ("continuation", "copy after")
            assert (records[case.id]["notes"] is not None) == able, (system, case.id)
    assert len({json.dumps([r["notes"] for r in records_of(done, s).values()]) for s in (MODEL, *COPIES, NGRAM)}) == 5


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
    for system in (MODEL, NGRAM):
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


def nats_by_hand(checkpoint, case, score, *, open_end):
    """Of the fill's ids, one softmax after another."""
    tokens = PromptTokens(checkpoint.tokenizer)
    shown = shown_of(case, score)
    song = checkpoint.tokenizer.encode(shown)
    targets = dict.fromkeys(range(case.first, case.last), case.tracks)
    budget = prompt_budget(song, targets, checkpoint.context)
    reach = 8 if case.setting == "near" else None
    prompt = build_prompt(tokens, song, targets, Shown(budget=budget, context_bars=reach, open_end=open_end))
    sample = lay_out(checkpoint.tokenizer, tokens, song, prompt)
    with torch.no_grad():
        p = checkpoint.model()(torch.tensor([sample.ids]))[0][0].double().log_softmax(-1)
    return -sum(float(p[i - 1, sample.ids[i]]) for i, role in enumerate(sample.roles) if role == FILL)


def test_nats_are_the_models(done, songs, tiny):
    checkpoint, records = load_checkpoint(tiny), records_of(done)
    checked = set()
    for case in cases_of(done):
        record, score = records[case.id], read_midi(songs / case.file)
        count = sum(len(score.notes_in(t, b)) for t in case.tracks for b in range(case.first, case.last))
        assert record["original_notes"] == count
        if case.setting == "controls" or not count or (case.setting in checked and case.setting != "song"):
            continue
        nats = nats_by_hand(checkpoint, case, score, open_end=case.setting == "continuation")
        assert record["metrics"]["nats_per_note"] == pytest.approx(nats / count, rel=1e-4), case.id
        checked.add(case.setting)
        if case.setting == "song":
            left = nats_by_hand(checkpoint, case, score, open_end=True)
            assert record["metrics"]["nats_per_note_left_only"] == pytest.approx(left / count, rel=1e-4)
            assert record["metrics"]["nats_per_note_left_only"] != record["metrics"]["nats_per_note"]
        else:
            assert "nats_per_note_left_only" not in record["metrics"]
    assert checked == set(SETTINGS) - {"controls"}


def test_copies_have_nats_with_shards_only(done, songs, tiny, tmp_path):
    said: list[str] = []
    without = small(songs, tmp_path / "out", tiny, baselines=None, say=said.append)
    [group] = without["groups"]
    assert list(group["systems"]) == [MODEL, *COPIES, ORIGINAL]
    assert "nats_per_note" in group["systems"][MODEL]
    for system in COPIES:
        assert "nats_per_note" not in group["systems"][system]
        assert "onset_f1" in group["systems"][system]
    assert all("copies_training" not in of for of in group["systems"].values())
    assert len(said) == 1
    assert "no n-gram" in said[0]
    of = group_of(done, "song")
    for system in (MODEL, *COPIES, NGRAM):
        assert of["systems"][system]["nats_per_note"]["mean"] > 0
        assert set(of["by_source"]["folk"]) == {MODEL, *COPIES, NGRAM}
    assert "nats_per_note" not in group_of(done, "continuation")["systems"]["copy after"]


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
        if record["original_notes"]:
            losses = [r["metrics"]["nats_per_note"] for r in (same, record)]
            assert losses[0] == pytest.approx(losses[1], rel=1e-5)  # summed in another order
            assert styled["metrics"]["nats_per_note"] != record["metrics"]["nats_per_note"]


def test_checkpoints_are_compared_by_name(songs, tiny, tokenizer, tmp_path):
    config = ModelConfig(n_layer=1, n_embd=64, vocab_size=tokenizer.vocab_size, arch="transformer")
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "run" / "checkpoint", config, Transformer(config).state_dict(), tokenizer)
    compare = [tmp_path / "run" / "checkpoint", tiny]
    report = small(songs, tmp_path / "out", tiny, cases=2, compare=compare)
    [group] = report["groups"]
    assert list(group["systems"]) == [MODEL, "run (transformer)", f"{MODEL} 3", ORIGINAL]
    assert group["systems"][MODEL] == group["systems"][f"{MODEL} 3"] != group["systems"]["run (transformer)"]
    spent = json.loads((tmp_path / "out" / "cost.json").read_text())
    assert set(spent) == {MODEL, "run (transformer)", f"{MODEL} 3"}
    assert all(c["written_ids_per_second"] > 0 and c["median_seconds"] > 0 for c in spent.values())


def test_recall_is_evaluated_beside_the_model_alone(songs, recalling, tiny, tmp_path):
    """The same nats as a checkpoint without it; with it fewer, for the drums repeat bar by bar."""
    options = {"settings": ["drums", "near", "continuation"], "baselines": None, "shards": None}
    small(songs, tmp_path / "with", recalling, **options)
    small(songs, tmp_path / "without", tiny, **options)
    ours, alone = (records_of(tmp_path / "with", s) for s in (MODEL, ALONE))
    plain = records_of(tmp_path / "without")
    assert not records_path(tmp_path / "without", ALONE).exists()
    assert alone == plain

    def nats(records, case):
        return records[case]["metrics"]["nats_per_note"]

    drums = [c for c in ours if c.startswith("drums")]
    assert drums
    assert sum(nats(ours, c) for c in drums) < 0.5 * sum(nats(alone, c) for c in drums)
    assert any(ours[c]["notes"] != alone[c]["notes"] for c in ours)


def test_what_recall_expects_is_what_it_writes_from(songs, recalling):
    """The memory of the nats is the memory of the fill: the same bars may be read."""
    system = System(Setup("x", "model", recalling))
    found = Songs(songs)
    for case in draw_cases(found, 4, (2,), settings=("near", "continuation")):
        score = found.read(case.file)
        song = system.tokenizer.encode(score)
        cells = [Cell(t, b) for b in range(case.first, case.last) for t in case.tracks]
        memories, infiller = system._memory(case, score, song, cells), system.infiller
        assert memories is not None
        assert infiller is not None
        memory, _ = next(memories)
        given = case.given(score)
        asked = Ask(case.region, context_bars=case.context_bars)
        of_fill = infiller.writing.memory(blank_cells(TokenEncoder(system.tokenizer), given, asked))
        assert of_fill is not None
        own = of_fill.cell(Cell(case.tracks[0], case.first))
        assert sorted(own.sources) == sorted(memory.sources)
        np.testing.assert_allclose(np.sort(own.like), np.sort(memory.like))


def test_wishes_stay_within_what_can_be_asked_for():
    crowded = tuple(Note(b * 1920 + k // 25 * 200, 40 + k % 25, 5, 80) for b in range(12) for k in range(225))
    score = Score(480, (Track("a", 0, crowded),), (TimeSignature(0, 4, 4),), end_ticks=12 * 1920)
    asked = wishes(Case("controls", 0, "x", (0,), 4, 2), score, SamplingConfig())
    assert asked.density == (200, 200)
    assert asked.polyphony == (20, 20)
