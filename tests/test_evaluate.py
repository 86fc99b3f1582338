"""evaluate() and its command: repeatable, resumable, right in its figures, and one line where it cannot."""

import importlib
import json
import shutil
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import torch

import midi_rwkv
from midi_rwkv import load_checkpoint, read_midi
from midi_rwkv.cases import SETTINGS, Case, Songs, draw_cases
from midi_rwkv.checkpoint import save_checkpoint
from midi_rwkv.cli import main
from midi_rwkv.config import ModelConfig, SamplingConfig
from midi_rwkv.dataset import FILL, lay_out
from midi_rwkv.evaluate import records_path
from midi_rwkv.measure import wishes
from midi_rwkv.prompt import PromptTokens, build_prompt, prompt_budget
from midi_rwkv.report import SETTING_TITLES
from midi_rwkv.score import Note, Score, TimeSignature, Track
from midi_rwkv.systems import ALONE, COPIES, NGRAM, ORIGINAL, Setup, System
from midi_rwkv.transformer import Transformer

BAR = 1920
MODEL = "tiny (rwkv7)"
module = importlib.import_module("midi_rwkv.evaluate")  # `midi_rwkv.evaluate` is the function


class InThisProcess:
    """Stands in for a pool: to start a process takes seconds."""

    def __init__(self, workers, context, start, arguments):
        start(*arguments)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def submit(self, function, *arguments):
        class Finished:
            def result(self):
                return function(*arguments)

        return Finished()


@pytest.fixture(scope="module", autouse=True)
def no_processes():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ProcessPoolExecutor", InThisProcess)
        patch.setattr(module, "COST_CASES", 1)
        yield


@pytest.fixture(scope="module")
def songs(build_midi, note, tmp_path_factory):
    """Two sources of two songs each, sixteen bars of lead, bass and, in one source, drums; one lead is often silent."""
    rng = np.random.default_rng(1)
    folder = tmp_path_factory.mktemp("songs")
    metre = [(0, bytes.fromhex("ff580404021808"))]
    for i, name in enumerate(("folk/one", "folk/two", "pop/one", "pop/two")):
        lead, bass, kit = [], [], []
        for b in range(16):
            for beat in range(4):
                at = b * BAR + beat * 480
                if name != "folk/two" or not 4 <= b < 14:
                    pitch = 60 + int(rng.integers(0, 12))
                    lead += note(at, pitch, 240)
                    if beat == 2:
                        lead = sorted([*lead, *note(at, pitch + 4, 240)], key=lambda event: event[0])
                kit += note(at, 36 + 2 * (beat % 2), 60, 90, 9)
            bass += note(b * BAR, 36 + (b * (i + 2)) % 7, 900, channel=1)
        tracks = [metre, lead, [(0, b"\xc1\x21"), *bass], *([kit] if name.startswith("pop") else [])]
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / f"{name}.mid").write_bytes(build_midi(tracks))
    return folder


@pytest.fixture(scope="module")
def tiny(checkpoint_folder, tmp_path_factory):
    """The tiny checkpoint under a name of its own, as if trained on 4,096 ids of these shards."""
    folder = shutil.copytree(checkpoint_folder, tmp_path_factory.mktemp("trained") / "tiny")
    record = json.loads((folder / "config.json").read_text())
    record["training"] = {"seq_len": 256, "tokens_seen": 4096, "source_weights": {"a": 1.0}}
    (folder / "config.json").write_text(json.dumps(record))
    return folder


OPTIONS = {"cases": 6, "bars": (2,), "seed": 3, "jobs": 1, "audio": False}


@pytest.fixture(scope="module")
def done(songs, shards, tiny, tmp_path_factory):
    """The folder of an evaluation of everything."""
    out = tmp_path_factory.mktemp("evaluation") / "out"
    report = midi_rwkv.evaluate(songs, out, tiny, shards=shards, **OPTIONS)
    assert json.loads((out / "report.json").read_text()) == json.loads(json.dumps(report))
    return out


@pytest.fixture
def command(songs, shards, tiny, capsys):
    """command("--seed", 3, out=...) -> (exit code, stdout, stderr) of `midi-rwkv evaluate` with the options above."""

    def call(*arguments, out, files=songs, checkpoint=tiny):
        options = ["--shards", shards, "--cases", 6, "--bars", 2, "--seed", 3, "--jobs", 1, "--no-audio"]
        whole = ["evaluate", files, "--out", out, "--checkpoint", checkpoint, *options, *arguments]
        return main([str(a) for a in whole]), *capsys.readouterr()

    return call


def small(files, out, checkpoint, **options):
    """A report of four cases of one pitched track, of the model alone."""
    options = {"cases": 4, "settings": ["song"], "baselines": [], "html": False, **options}
    return midi_rwkv.evaluate(files, out, checkpoint, **{**OPTIONS, **options})


def records_of(out, system=MODEL):
    head, *lines = records_path(out, system).read_text().splitlines()
    assert json.loads(head)["system"] == system
    return {record["case"]: record for record in map(json.loads, lines)}


def cases_of(out):
    rows = json.loads((out / "cases.json").read_text())
    return [Case(**{k: tuple(v) if k == "tracks" else v for k, v in row.items() if k != "id"}) for row in rows]


def group_of(out, setting):
    [group] = [g for g in json.loads((out / "report.json").read_text())["groups"] if g["setting"] == setting]
    return group


@pytest.fixture(scope="module")
def recalling(tiny, tmp_path_factory):
    """The tiny checkpoint with recall weights: what the sources say is worth much where the surroundings agree."""
    folder = shutil.copytree(tiny, tmp_path_factory.mktemp("recalling") / "tiny")
    weights = {"likeness": 20, "prefix": 3, "suffix": 3, "start": 3, "twin": 0, "gate": [-4, 8, *[0] * 10]}
    weights |= {"outline": [20, 1, -1, -1, 1, 0], "outline_gate": [-4, 4, *[0] * 15]}
    (folder / "recall.json").write_text(json.dumps(weights))
    return folder


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
    for case in draw_cases(found, 4, (2,), ("near", "continuation")):
        score = found.read(case.file)
        song = system.tokenizer.encode(score)
        cells = [(b, t) for b in range(case.first, case.last) for t in case.tracks]
        memory, _ = next(system._memory(case, score, song, cells))
        infiller = system.infiller
        given = case.given(score)
        [of_fill] = infiller._memories(given, given, case.region, 1, case.context_bars)
        own = of_fill.cell(case.first, case.tracks[0])
        assert sorted(own.sources) == sorted(memory.sources)
        np.testing.assert_allclose(np.sort(own.like), np.sort(memory.like))


# -- repeatable and resumable -----------------------------------------------------------------------------------------


def test_the_same_evaluation_elsewhere_gives_the_same_report(done, command, tmp_path):
    code, out, err = command(out=tmp_path / "again")
    assert code == 0, err
    assert "20 cases; " in out
    assert "report.html" in out
    for name in ("report.json", "cases.json", "reference/made_from.json"):
        assert (tmp_path / "again" / name).read_bytes() == (done / name).read_bytes()
    for system in (MODEL, *COPIES, NGRAM, ORIGINAL):
        assert records_of(tmp_path / "again", system) == records_of(done, system)
        assert f"{system}: 20 of 20 cases" in err
    assert not list((tmp_path / "again").rglob("*.partial"))


@pytest.mark.slow
def test_two_processes_write_what_one_does(done, command, tmp_path, monkeypatch):
    out = shutil.copytree(done, tmp_path / "out")
    records_path(out, MODEL).unlink()
    (out / "report.json").unlink()
    monkeypatch.setattr(module, "ProcessPoolExecutor", ProcessPoolExecutor)
    code, _, err = command("--jobs", 2, "--no-html", out=out)
    assert code == 0, err
    assert (out / "report.json").read_bytes() == (done / "report.json").read_bytes()


@pytest.fixture
def evaluated(monkeypatch):
    """(system, case id) of every case that is evaluated from now on."""
    from midi_rwkv import measure

    calls, original = [], measure.evaluate_case

    def spy(system, case, score):
        calls.append((system.setup.name, case.id))
        return original(system, case, score)

    monkeypatch.setattr(measure, "evaluate_case", spy)
    return calls


def test_an_evaluation_that_was_killed_goes_on(done, command, tmp_path, evaluated):
    """In the middle of a line of the model's records; the systems after it had not begun."""
    out = shutil.copytree(done, tmp_path / "out")
    path = records_path(out, MODEL)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:8]) + lines[8][: len(lines[8]) // 2])
    for system in (*COPIES, NGRAM):
        records_path(out, system).unlink()
    (out / "report.json").unlink()
    code, _, err = command(out=out)
    assert code == 0, err
    assert (out / "report.json").read_bytes() == (done / "report.json").read_bytes()
    assert records_of(out) == records_of(done)  # the cut line is gone
    finished = {json.loads(line)["case"] for line in lines[1:8]}
    missing = {c.id for c in cases_of(done)} - finished
    assert sorted(case for system, case in evaluated if system == MODEL) == sorted(missing)
    assert len(evaluated) == len(missing) + 20 * (len(COPIES) + 1)  # the original's are all there


def test_a_finished_evaluation_is_not_done_again(done, command, tmp_path, evaluated):
    out = shutil.copytree(done, tmp_path / "out")
    assert command(out=out)[0] == 0
    assert evaluated == []
    for name in ("report.json", "report.md", "cost.json", "report.html"):
        assert (out / name).read_bytes() == (done / name).read_bytes()


def test_more_cases_need_the_new_ones_alone(done, command, tmp_path, evaluated):
    out = shutil.copytree(done, tmp_path / "out")
    assert command("--cases", 7, "--no-html", out=out)[0] == 0
    assert {case for _, case in evaluated} == {c.id for c in cases_of(out)} - {c.id for c in cases_of(done)}
    assert {case for _, case in evaluated if case.startswith("song")} == {"song/2/0006"}


def test_a_folder_of_another_evaluation_is_refused(done, songs, command, tiny, tmp_path):
    """Another seed, other sampling, another checkpoint of that name, other files."""
    other = shutil.copytree(tiny, tmp_path / "tiny")
    weights = (other / "model.safetensors").read_bytes()
    (other / "model.safetensors").write_bytes(weights[:-2] + bytes([weights[-2] ^ 1, weights[-1]]))
    files = shutil.copytree(songs, tmp_path / "songs")
    (files / "pop" / "one.mid").unlink()
    out = shutil.copytree(done, tmp_path / "out")
    for arguments, changed in (
        (("--seed", 4), {}),
        (("--temperature", 0.9), {}),
        ((), {"checkpoint": other}),
        ((), {"files": files}),
    ):
        code, said, err = command(*arguments, out=out, **changed)
        assert (code, said) == (2, "")
        assert "holds an evaluation of other files or of another tiny (rwkv7); name another folder" in err
        assert err.count("\n") == 1
    assert (out / "report.json").read_bytes() == (done / "report.json").read_bytes()
    assert records_of(out) == records_of(done)


# -- the figures ------------------------------------------------------------------------------------------------------


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
        tracks.append(Track(track.name, track.program, track.is_drum, kept))
    return Score(480, tuple(tracks), (TimeSignature(0, 4, 4),), score.tempos, case.last * BAR)


def nats_by_hand(checkpoint, case, score, open_end):
    """Of the fill's ids, one softmax after another."""
    tokens = PromptTokens(checkpoint.tokenizer)
    shown = shown_of(case, score)
    song = checkpoint.tokenizer.encode(shown)
    targets = dict.fromkeys(range(case.first, case.last), case.tracks)
    budget = prompt_budget(song, targets, checkpoint.context)
    reach = 8 if case.setting == "near" else None
    prompt = build_prompt(tokens, song, targets, budget=budget, context_bars=reach, open_end=open_end)
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
        nats = nats_by_hand(checkpoint, case, score, case.setting == "continuation")
        assert record["metrics"]["nats_per_note"] == pytest.approx(nats / count, rel=1e-4), case.id
        checked.add(case.setting)
        if case.setting == "song":
            left = nats_by_hand(checkpoint, case, score, True)
            assert record["metrics"]["nats_per_note_left_only"] == pytest.approx(left / count, rel=1e-4)
            assert record["metrics"]["nats_per_note_left_only"] != record["metrics"]["nats_per_note"]
        else:
            assert "nats_per_note_left_only" not in record["metrics"]
    assert checked == set(SETTINGS) - {"controls"}


def test_copies_have_nats_with_shards_only(done, songs, tiny, tmp_path):
    said = []
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


# -- the pages --------------------------------------------------------------------------------------------------------


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
    for system in (MODEL, *COPIES, NGRAM, ORIGINAL):
        assert text.count(f"\n| {system} | ") >= 8
    lines = [line for line in text.splitlines() if line.startswith(("| folk", "| mean over sources"))]
    assert len(lines) == 2
    assert lines[0].count("|") == 7
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


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--bars", "x"], "--bars must be numbers like 2,4,8, got 'x'"),
        (["--bars", "2,0"], "at least one case and one bar"),
        (["--bars", "6"], "no song that can be filled: 18 bars or more are needed"),
        (["--jobs", "0"], "jobs must be 1 or more, got 0"),
        (["--cases", "0"], "at least one case and one bar"),
        (["--settings", "nonsense"], "settings must be among song, near,"),
        (["--settings", "song,nonsense"], "got nonsense"),
        (["--baselines", "copy"], "baselines must be among without recall, copy before,"),
        (["--shards", "gone"], "gone has not the checkpoint's tokenizer"),
        (["--checkpoint", "gone"], "gone is not a checkpoint: config.json is missing"),
        (["--style", "gone.safetensors"], "name a .safetensors file"),
        (["--temperature", "0"], "temperature must lie in"),
        (["--recall", "2"], "recall must lie in"),
    ],
)
def test_bad_options_are_one_line_and_write_nothing(command, tmp_path, arguments, words):
    code, out, err = command(*arguments, out=tmp_path / "out")
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_bad_files_are_one_line_and_write_nothing(command, songs, tiny, tmp_path, tmp_path_factory):
    from safetensors.numpy import save_file

    folder = tmp_path_factory.mktemp("bad")
    (folder / "empty").mkdir()
    save_file({"wkv": np.zeros((2, 1, 64, 32), np.float32)}, folder / "narrow.safetensors")
    save_file({"state": np.zeros((2, 1, 64, 64), np.float32)}, folder / "nameless.safetensors")
    (folder / "text.safetensors").write_text("no tensors")
    for changed, arguments, words in (
        ({"files": folder / "gone"}, [], "no such file or folder"),
        ({"files": folder / "empty"}, [], "has no song that can be filled"),
        ({"files": songs / "pop" / "one.mid"}, [], "name the folder it lies in"),
        ({"checkpoint": folder}, [], "is not a checkpoint"),
        ({}, ["--style", folder / "narrow.safetensors"], "holds 'wkv' of shape (2, 1, 64, 32); for"),
        ({}, ["--style", folder / "nameless.safetensors"], "is no style: it holds neither"),
        ({}, ["--style", folder / "text.safetensors"], "cannot be read as a style"),
    ):
        code, out, err = command(*arguments, out=tmp_path / "out", **changed)
        assert (code, out) == (2, ""), words
        assert words in err
        assert err.count("\n") == 1
        assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("mine")
    code, _, err = command(out=tmp_path / "file")
    assert code == 2
    assert "is a file; --out names a folder" in err
    assert (tmp_path / "file").read_text() == "mine"


def test_the_ngram_needs_shards(songs, tiny, tmp_path):
    with pytest.raises(ValueError, match="counted on training data; name its shards"):
        small(songs, tmp_path / "out", tiny, baselines=["n-gram"])
    assert not (tmp_path / "out").exists()


def test_a_missing_extra_is_named_with_its_remedy(command, tmp_path, monkeypatch):
    found = importlib.util.find_spec
    gone = ("mir_eval", "scipy")
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *a: None if name in gone else found(name, *a))
    code, out, err = command(out=tmp_path / "out")
    assert (code, out) == (2, "")
    assert err == "midi-rwkv: error: evaluation needs mir_eval, scipy; run: pip install 'midi-rwkv[evaluate]'\n"
    assert list(tmp_path.iterdir()) == []


def test_wishes_stay_within_what_can_be_asked_for():
    crowded = tuple(Note(b * 1920 + k // 25 * 200, 40 + k % 25, 5, 80) for b in range(12) for k in range(225))
    score = Score(480, (Track("a", 0, False, crowded),), (TimeSignature(0, 4, 4),), end_ticks=12 * 1920)
    asked = wishes(Case("controls", 0, "x", (0,), 4, 2), score, SamplingConfig())
    assert asked.density == (200, 200)
    assert asked.polyphony == (20, 20)
