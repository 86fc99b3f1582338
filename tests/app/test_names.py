from midi_rwkv.app.names import region_text
from midi_rwkv.score.score import Cell, Note, Region, Score, TimeSignature, Track


def test_each_region_has_its_own_tracks_and_a_pickup_is_bar_0():
    notes = tuple(Note(k * 480, 60, 240, 80) for k in range(80))
    metres = (TimeSignature(0, 1, 4), TimeSignature(480, 4, 4))
    score = Score(480, tuple(Track(name, 33, notes) for name in ("Bass", "Strings", " ")), metres)
    assert score.first_bar_number == 0
    cells = {Cell(0, 0), Cell(0, 4), *(Cell(t, b) for t in (1, 2) for b in range(10, 14))}
    assert region_text(score, Region(frozenset(cells))) == (
        "bars 0, 4 of Bass; bars 10-13 of Strings, Electric Bass (finger)"
    )
    assert region_text(score, Region(frozenset({Cell(0, 3)}))) == "bar 3 of Bass"
