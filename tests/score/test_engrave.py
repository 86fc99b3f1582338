"""How notes are written: grids, ties at beats, triplets, beams, names; and what becomes of a measure."""

from __future__ import annotations

import itertools
from fractions import Fraction as F

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from midi_rwkv.score.engrave import Manuscript, Name, Piece, Tone, engraved, on_grid, pitch_element

METRES = [(4, 4), (3, 4), (6, 8), (7, 8), (2, 2)]
TYPES = {"whole": F(4), "half": F(2), "quarter": F(1), "eighth": F(1, 2)}
TYPES |= {"16th": F(1, 4), "32nd": F(1, 8), "64th": F(1, 16)}


def written(pieces, metre=(4, 4)):
    manuscript = Manuscript(metre, lambda tone: Name(pitch_element(tone.pitch, 0)), "1", None)
    return [(p.start, p.end, elements) for p, elements in engraved(pieces, manuscript)]


def shown(pieces, metre=(4, 4)):
    """Each value as in "quarter." (dotted), "eighth3" (of a triplet), "-" after a rest, "~" before a tie."""
    found = []
    for _, _, elements in written(pieces, metre):
        note = elements[0]
        text = note.findtext("type", "?") + "." * len(note.findall("dot"))
        text += "3" if note.find("time-modification") is not None else ""
        text += "-" if note.find("rest") is not None else ""
        found.append(text + ("~" if any(t.get("type") == "start" for t in note.findall("tie")) else ""))
    return found


def tone(pitch=60):
    return (Tone(pitch, "90"),)


@pytest.mark.parametrize(
    ("spans", "metre", "values"),
    [
        ([(0, 4)], (4, 4), ["whole"]),
        ([(0, F(5, 2))], (4, 4), ["half~", "eighth"]),
        ([(F(1, 2), F(3, 2))], (4, 4), ["quarter"]),
        ([(F(1, 4), F(5, 4))], (4, 4), ["eighth.~", "16th"]),
        ([(0, F(3, 2)), (F(3, 2), 3)], (6, 8), ["quarter.", "quarter."]),
        ([(0, 2)], (6, 8), ["quarter.~", "eighth"]),
        ([(0, F(1, 3)), (F(1, 3), 1)], (4, 4), ["eighth3", "quarter3"]),
        ([(F(1, 2), F(5, 3))], (4, 4), ["eighth~", "quarter3"]),
        ([(0, F(1, 5))], (4, 4), ["?"]),
    ],
)
def test_values(spans, metre, values):
    assert shown([Piece(F(lo), F(hi), tone()) for lo, hi in spans], metre) == values


def test_beams_and_brackets():
    pieces = [Piece(F(k, 4), F(k + 1, 4), tone()) for k in (0, 1)] + [Piece(F(1, 2), F(1), tone())]
    notes = [elements[0] for *_, elements in written(pieces)]
    beams = [[(b.get("number"), b.text) for b in note.findall("beam")] for note in notes]
    assert beams == [[("1", "begin"), ("2", "begin")], [("1", "continue"), ("2", "end")], [("1", "end")]]
    triplet = [elements[0] for *_, elements in written([Piece(F(k, 3), F(k + 1, 3), tone()) for k in range(3)])]
    assert [n.find("notations/tuplet").get("type") if n.find("notations") is not None else "" for n in triplet] == [
        "start",
        "",
        "stop",
    ]


@pytest.mark.parametrize(
    ("pitch", "fifths", "name"),
    [(61, 0, "C#4"), (61, -3, "Db4"), (70, 0, "Bb4"), (70, 4, "A#4"), (60, 7, "B#3"), (71, -6, "Cb5"), (60, 0, "C4")],
)
def test_names(pitch, fifths, name):
    element = pitch_element(pitch, fifths)
    alter = {None: "", "1": "#", "-1": "b"}[element.findtext("alter")]
    assert element.findtext("step") + alter + element.findtext("octave") == name


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_every_piece_is_written_in_full(data):
    """Values are notatable, add up, and are tied together; on places of 32nds and triplets none lacks a type."""
    metre = data.draw(st.sampled_from(METRES))
    length = F(4 * metre[0], metre[1])
    places = [F(k, d) for d in (8, 6) for k in range(int(length * d) + 1)]
    cuts = sorted(data.draw(st.sets(st.sampled_from(places), min_size=2, max_size=9)))
    onsets, ends = on_grid(list(itertools.pairwise(cuts)), is_drum=False), cuts[-1]
    pieces = [Piece(lo, hi, tone(60 + k)) for k, (lo, hi) in enumerate(onsets)]
    assert all(p.start < p.end for p in pieces)
    assert all(a.end <= b.start or a.start == b.start for a, b in itertools.pairwise(pieces))
    pieces = [p for k, p in enumerate(pieces) if k == 0 or pieces[k - 1].start != p.start]
    assert pieces[-1].end <= ends + F(1, 2)
    for piece in pieces:
        values = list(written([piece], metre))
        assert (values[0][0], values[-1][1]) == (piece.start, piece.end)
        assert all(a[1] == b[0] for a, b in itertools.pairwise(values))
    for start, end, [note] in written(pieces, metre):
        value = TYPES[note.findtext("type")] * (2 - F(1, 2 ** len(note.findall("dot"))))
        assert end - start == value * (F(2, 3) if note.find("time-modification") is not None else 1)
        assert F(note.findtext("quarters")) == end - start


@given(st.lists(st.tuples(st.integers(0, 383), st.integers(1, 200)), min_size=1, max_size=12))
@settings(max_examples=100, deadline=None)
def test_the_grid_moves_no_onset_far(spans):
    """Onsets anywhere go to the nearest place of some grid, at most half a quarter's sixth... of a beat away."""
    spans = [(F(onset, 96), F(onset + length, 96)) for onset, length in spans]
    for (onset, _), (new, end) in zip(spans, on_grid(spans, is_drum=False), strict=True):
        assert abs(new - onset) <= F(1, 2)
        assert end > new
