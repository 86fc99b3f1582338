"""A MusicXML score as the song: what is read of it, and what a fill leaves as it was."""

from __future__ import annotations

import io
import re
import zipfile
from collections import Counter
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from written_scores import document

from midi_rwkv.commands.cli import main
from midi_rwkv.errors import MidiRwkvError
from midi_rwkv.score.heard import hear
from midi_rwkv.score.midi import load_midi, read_midi
from midi_rwkv.score.musicxml import read_document
from midi_rwkv.score.score import Note, Region, Track
from midi_rwkv.score.splice import splice
from midi_rwkv.score.to_musicxml import in_own_score

CONTAINER = '<container><rootfiles><rootfile full-path="a.xml"/></rootfiles></container>'


@pytest.fixture
def song(tmp_path):
    path = tmp_path / "song.musicxml"
    path.write_bytes(document())
    return path


@pytest.fixture
def run(song, checkpoint_folder, tmp_path, capsys):
    """run("--bars", "3-4", ...) -> (exit code, stdout, stderr) of `midi-rwkv infill song ... --format musicxml`."""

    def call(*arguments, path=song, output=tmp_path / "out.musicxml", form="musicxml"):
        command = ["infill", str(path), "--checkpoint", str(checkpoint_folder), "-o", str(output), "--format", form]
        code = main([*command, "--seed", "3", "--overwrite", *map(str, arguments)])
        return code, *capsys.readouterr()

    return call


def heard(data):
    return hear(read_document(data, "song"), "song")


def measures(data):
    """The bytes of each measure, by part and index."""
    found = read_document(data, "song")
    return {
        (p, k): found.data[slice(*m.span)] for p, part in enumerate(found.parts) for k, m in enumerate(part.measures)
    }


def outside(data, part, bars):
    """The notes that begin outside some measures of a part: part, onset, end, pitch, velocity."""
    song = heard(data)
    span = song.starts[bars[0]], song.starts[bars[-1] + 1]
    return [
        (p, n.onset, n.end, n.pitch, n.velocity)
        for p, played in enumerate(song.parts)
        for n in played.notes
        if p != part or not span[0] <= n.onset < span[1]
    ]


def test_what_is_read(song):
    score = read_midi(song)
    assert [(t.name, t.program, t.is_drum) for t in score.tracks] == [
        ("Clarinet in B♭", 71, False),
        ("Piano", 0, False),
        ("Drumset", 0, True),
    ]
    assert (score.first_bar_number, score.last_bar_number) == (0, 6)
    assert [f"{b.numerator}/{b.denominator}" for b in score.bars] == ["4/4"] * 5 + ["3/4"] * 2
    assert score.tempo_at(0) == pytest.approx(90, abs=0.01)
    beat = score.ticks_per_beat
    got = [(Fraction(n.onset_ticks, beat), n.pitch, Fraction(n.duration_ticks, beat)) for n in score.tracks[0].notes]
    third = Fraction(1, 3)
    assert got == [
        (0, 67, 1),
        (1, 72, third),
        (1 + third, 74, third),
        (1 + 2 * third, 76, third),
        (2, 77, 1),
        (3, 79, 3),  # tied from bar 1 into bar 2
        (6, 81, 1),
        (7, 71, 7),  # through bars 2 to 4
        (14, 72, 1),
        (15, 74, 5),  # into the first bar of 3/4
        (20, 76, 3),
    ]
    assert [n.velocity for n in score.tracks[0].notes] == [80] * 7 + [112] * 4
    assert Counter(n.pitch for n in score.tracks[2].notes) == {36: 11, 38: 12}


@pytest.mark.parametrize(
    ("part", "bars"), [(0, (2, 3)), (0, (0, 0)), (0, (4, 4)), (1, (1, 4)), (1, (5, 6)), (2, (2, 5))]
)
def test_all_outside_the_region_is_as_it_was(run, tmp_path, part, bars):
    code, _, err = run("--tracks", part + 1, "--bars", f"{bars[0]}-{bars[1]}", "--density", "3-9")
    assert (code, err) == (0, "")
    new, was = (tmp_path / "out.musicxml").read_bytes(), document()
    inside = range(bars[0], bars[1] + 1)
    assert outside(new, part, inside) == outside(was, part, inside)
    before, after = measures(was), measures(new)
    tails = {(0, (2, 3)): {4}, (0, (4, 4)): {5}}.get((part, bars), set())  # of notes that were tied out of the region
    assert {cell for cell in before if before[cell] != after[cell]} == {(part, k) for k in {*inside, *tails}}
    assert new.startswith(was[: was.index(b"<part id")])
    assert heard(new).starts == heard(was).starts
    for k in tails:
        assert b"<rest" in after[part, k]
        assert b'type="stop"' not in after[part, k]


def test_another_reader_finds_the_same(run, tmp_path):
    """music21 reads the score with a fill: outside the region it has what it had, and nothing is out of place."""
    music21 = pytest.importorskip("music21")

    def read(data):
        (tmp_path / "read.musicxml").write_bytes(data)
        score = music21.converter.parse(tmp_path / "read.musicxml", format="musicxml", forceSource=True)
        found = [
            (measure.number, float(n.getOffsetInHierarchy(part)), str(n), float(n.quarterLength))
            for part in score.parts
            for measure in part.getElementsByClass("Measure")
            for n in measure.recurse().notes
        ]
        ends = [[(m.number, float(m.highestTime)) for m in p.getElementsByClass("Measure")] for p in score.parts]
        return found, ends

    assert run("--tracks", "1,2,3", "--bars", "2-3", "--density", "2-9")[0] == 0
    (before, ends), (after, new_ends) = read(document()), read((tmp_path / "out.musicxml").read_bytes())
    tail = {(4, 13.0)}  # a note of bars 2 to 4
    kept = [n for n in before if n[0] not in (2, 3) and n[:2] not in tail]
    assert len(kept) > 30
    assert [n for n in after if n[0] not in (2, 3) and n[:2] not in tail] == kept
    assert new_ends == ends


def test_what_a_fill_writes_is_what_the_midi_file_has(run, tmp_path):
    """Twelve divisions have all places that the model writes to but 32nds, so few are moved."""
    arguments = ("--tracks", "1", "--bars", "2-3", "--density", "4-8")
    assert run(*arguments)[0] == 0
    assert run(*arguments, output=tmp_path / "out.mid", form="midi")[0] == 0
    score, midi = read_midi(tmp_path / "out.musicxml"), read_midi(tmp_path / "out.mid")
    got, wanted = ([n for b in (2, 3) for n in s.notes_in(0, b)] for s in (score, midi))
    assert len(wanted) >= 8
    close = [
        any(w.pitch == n.pitch and abs(w.onset_ticks - n.onset_ticks) <= 60 for n in got) for w in wanted
    ]  # a 32nd at most
    assert all(close)
    assert all(abs(a.velocity - b.velocity) <= 1 for a, b in zip(got, wanted, strict=False) if a[:2] == b[:2])


def test_kept_notes_keep_their_elements(run, tmp_path):
    """Half a bar is written anew: what hangs on the notes of the other half stays."""
    assert run("--tracks", "1", "--bars", "2.3-2.4", "--density", "2-9")[0] == 0
    measure = measures((tmp_path / "out.musicxml").read_bytes())[0, 2].decode()
    assert '<tie type="stop" />' in measure
    assert "<lyric>" in measure
    assert measure.index("<lyric>") < measure.index("<dynamics>")
    whole = [n for n in heard((tmp_path / "out.musicxml").read_bytes()).parts[0].notes if 5 <= n.onset < 7]
    assert [(n.onset, n.end, n.pitch) for n in whole] == [(6, 7, 81)]


def test_staves_and_voices_of_a_piano(run, tmp_path):
    """One hand is written anew: the other keeps its elements, and the measure its harmony."""
    assert run("--tracks", "2", "--bars", "2", "--only", "C4-C7", "--density", "4-9")[0] == 0
    measure = read_document((tmp_path / "out.musicxml").read_bytes(), "").parts[1].measures[2].element
    assert len(measure.findall("harmony")) == 1
    left = [n for n in measure.findall("note") if n.findtext("staff") == "2"]
    assert [(n.findtext("pitch/step"), n.findtext("voice")) for n in left] == [("C", "5")]
    assert all(n.findtext("staff") == "1" for n in measure.findall("note") if n not in left)


def test_drums_are_hits_of_their_kit(run, tmp_path):
    assert run("--tracks", "3", "--bars", "2-3", "--density", "6-12")[0] == 0
    drums = heard((tmp_path / "out.musicxml").read_bytes()).parts[2]
    known = {i.get("id") for i in drums.part.head.findall("score-instrument")}
    new = [n.elements[0][1] for n in drums.notes if 5 <= n.onset < 13]
    assert len(new) >= 6  # noise of a random model, of which some falls on the same places
    assert all(n.find("unpitched") is not None and n.find("instrument").get("id") in known for n in new)


def test_an_empty_part_is_filled_and_a_missing_one_added(run, tmp_path):
    for name, count in (("Cello", 4), ("Flute", 5)):
        assert run("--new-track", name, "--bars", "2-8", "--density", "2-6")[0] == 0
        new = heard((tmp_path / "out.musicxml").read_bytes())
        assert len(new.parts) == count
        assert len(new.parts[-1].notes) >= 14
        assert (new.parts[-1].program, len(new.metres)) == ({"Cello": 42, "Flute": 73}[name], 9)  # two bars more
        others = [n for n in outside((tmp_path / "out.musicxml").read_bytes(), 99, [0]) if n[0] != count - 1]
        assert others == outside(document(), 99, [0])


@pytest.mark.parametrize("clip", [False, True])
def test_a_new_track_without_notes_is_an_empty_part(clip):
    """Of two new tracks the first is left silent, which a MIDI file has no track for."""
    source = load_midi(document())
    score = read_midi(source)
    added = [Track("Flute", 73, ()), Track("Oboe", 68, ())]
    score = replace(score, tracks=(*score.tracks, *added))
    region = Region.rectangle([3, 4], [(2, 3)])
    fill = {3: [], 4: [Note(score.bar(2).start_ticks, 70, score.ticks_per_beat, 80)]}
    midi = splice(source.data, score, region, fill)
    new = in_own_score(document(), midi, score.with_fill(region, fill), region, clip=clip)
    parts = heard(new).parts[-2:]
    assert [(p.part.name, [n.pitch for n in p.notes]) for p in parts] == [("Flute", []), ("Oboe", [70])]


def test_a_clip_and_a_song_without_a_score(run, tmp_path):
    assert run("--tracks", "1,3", "--bars", "2-3", "--clip")[0] == 0
    clip = heard((tmp_path / "out.musicxml").read_bytes())
    assert [p.part.key for p in clip.parts] == ["P1", "P3"]
    assert (len(clip.metres), clip.tempos, clip.parts[0].program) == (2, {0: 90}, 71)
    assert run("--tracks", "1,2", "--bars", "2-3", output=tmp_path / "out.mid", form="midi")[0] == 0
    (tmp_path / "out.mid").rename(tmp_path / "song.mid")
    for form, output in (("midi", "out.mid"), ("musicxml", "out.musicxml")):
        assert (
            run("--tracks", "2", "--bars", "5", path=tmp_path / "song.mid", output=tmp_path / output, form=form)[0] == 0
        )
    midi, score = read_midi(tmp_path / "out.mid"), read_midi(tmp_path / "out.musicxml")
    assert midi.ticks_per_beat == score.ticks_per_beat
    assert [bar[:3] for bar in midi.bars] == [bar[:3] for bar in score.bars]
    named = [[(t.name, t.program, t.is_drum, t.notes[:5]) for t in s.tracks] for s in (midi, score)]
    assert named[0][0] == named[1][0]
    assert [n[:3] for n in named[0]] == [n[:3] for n in named[1]]


@pytest.mark.parametrize("encoding", ["UTF-16", "ISO-8859-1"])
def test_encodings(run, song, tmp_path, encoding):
    song.write_bytes(document(encoding))
    assert run("--tracks", "1", "--bars", "2")[0] == 0
    new = (tmp_path / "out.musicxml").read_bytes()
    assert outside(new, 0, [2]) == outside(document(), 0, [2])
    assert [p.part.name for p in heard(new).parts] == [p.part.name for p in heard(document()).parts]


def zipped(members):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def test_an_mxl_file(run, tmp_path):
    path = tmp_path / "song.mxl"
    path.write_bytes(zipped({"META-INF/container.xml": CONTAINER, "a.xml": document()}))
    assert main(["inspect", str(path)]) == 0
    assert run("--tracks", "1", "--bars", "2", path=path)[0] == 0
    from_mxl = (tmp_path / "out.musicxml").read_bytes()
    assert run("--tracks", "1", "--bars", "2")[0] == 0
    assert (tmp_path / "out.musicxml").read_bytes() == from_mxl
    code, _, err = run("--bars", "2", output=tmp_path / "out.mxl")
    assert (code, err.count("\n")) == (2, 1)
    assert "would not be an .mxl file; name it .musicxml" in err
    code, _, err = run("--bars", "2", output=tmp_path / "other.musicxml", form="midi")
    assert "would not be a .musicxml file; add --format musicxml" in err
    assert not (tmp_path / "other.musicxml").exists()


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
OUTSIDE = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>'


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (document().replace(b"</score-partwise>", b""), "is no sound MusicXML"),
        (re.sub(b"<!DOCTYPE[^>]*>", BOMB.encode(), document()), "declares entities"),
        (re.sub(b"<!DOCTYPE[^>]*>", OUTSIDE.encode(), document()), "declares entities"),
        (b"<html><body>404</body></html>", "is a <html>; export the score as MusicXML"),
        (b"<score-timewise/>", "save it as score-partwise"),
        (b"<score-partwise/>", "has no measures"),
        (b"<score-partwise>" + b"<a>" * 100_000, "more than 60 deep"),
        (document().replace(b"<duration>12<", b"<duration>1e9<", 1), "<duration> must have a number, got '1e9'"),
        (document().replace(b"<divisions>12<", b"<divisions>0<", 1), "<divisions> must be above 0, got 0"),
        (document().replace(b'<part id="P2">', b'<part id="P9">', 1), "its list of parts has no 'P9'"),
        (document().replace(b"<measure ", b"<other ", 1).replace(b"</measure>", b"</other>", 1), "6 to 7 measures"),
        (zipped({"META-INF/container.xml": CONTAINER}), "is a zip without a score"),
        (zipped({"META-INF/container.xml": CONTAINER, "a.xml": b" " * 30_000_000}), "unzips to more than"),
        (zipped({"a": b"b"})[:40], "is a damaged or encrypted zip"),
    ],
    ids=lambda value: value if isinstance(value, str) else "file",  # not its bytes: a zip has the time of day
)
def test_what_is_no_score_gets_a_line(run, song, tmp_path, data, says):
    song.write_bytes(data)
    code, out, err = run("--bars", "2")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert says in err
    assert len(err) < 250
    assert not (tmp_path / "out.musicxml").exists()


NUMBERS = [b"0", b"-1", b"7", b"17", b"0.5", b"128", b"4001", b"999999999", b"", b"x"]


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_damaged_score_is_refused_or_filled(data):
    """Numbers are others and elements are gone or twice there: it is refused in a line, or keeps all outside."""
    pieces = re.split(rb"(?<=>)([0-9]+)(?=<)", document())
    for at in data.draw(st.lists(st.integers(0, len(pieces) // 2 - 1), max_size=2)):
        pieces[2 * at + 1] = data.draw(st.sampled_from(NUMBERS))
    score = b"".join(pieces)
    found = list(re.finditer(rb"<(note|backup|attributes|duration|pitch|staff|barline)\b.*?</\1>", score, re.S))
    for match in data.draw(st.lists(st.sampled_from(found), max_size=1)):
        score = score[: match.start()] + data.draw(st.sampled_from([b"", 2 * match[0]])) + score[match.end() :]
    refused = ""
    try:
        source = load_midi(score, "song")
        song = read_midi(source)
        region = Region.rectangle([0], [(2, 4)])
        fill = [Note(song.bar(2).start_ticks, 60, song.ticks_per_beat, 80)]
        new = in_own_score(score, splice(source.data, song, region, {0: fill}), song, region)
    except MidiRwkvError as error:
        refused = str(error)
    assert "\n" not in refused
    assert len(refused) < 250
    if not refused:
        assert outside(new, 0, [2, 3]) == outside(score, 0, [2, 3])


def test_the_song_itself_is_replaced_only_as_a_score(run, song):
    assert run("--tracks", "1", "--bars", "2", output=song)[0] == 0
    assert load_midi(song).notation == song.read_bytes() != document()
    assert outside(song.read_bytes(), 0, [2]) == outside(document(), 0, [2])
