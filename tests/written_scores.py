"""A small score: a clarinet in B♭, a piano, drums and an empty cello."""

CLARINET = """<score-part id="P1"><part-name>Clarinet in B♭</part-name>
<score-instrument id="P1-I1"><instrument-name>Clarinet</instrument-name></score-instrument>
<midi-instrument id="P1-I1"><midi-channel>1</midi-channel><midi-program>72</midi-program></midi-instrument>
</score-part>"""
PIANO = '<score-part id="P2"><part-name>Piano</part-name></score-part>'
DRUMS = """<score-part id="P3"><part-name>Drumset</part-name>
<score-instrument id="P3-I37"><instrument-name>Kick</instrument-name></score-instrument>
<score-instrument id="P3-I39"><instrument-name>Snare</instrument-name></score-instrument>
<midi-instrument id="P3-I37"><midi-channel>10</midi-channel><midi-unpitched>37</midi-unpitched></midi-instrument>
<midi-instrument id="P3-I39"><midi-channel>10</midi-channel><midi-unpitched>39</midi-unpitched></midi-instrument>
</score-part>"""
CELLO = '<score-part id="P4"><part-name>Cello</part-name></score-part>'
TRIPLET = "<time-modification><actual-notes>3</actual-notes><normal-notes>2</normal-notes></time-modification>"


def note(pitch, duration, *marks, voice=1, staff=None, chord=False, before=""):
    """A note "F#5", a rest "" or a hit "*P3-I37", with ties "start" and "stop" and other elements."""
    ties = "".join(f'<tie type="{m}"/>' for m in marks if m in ("start", "stop"))
    rest = "".join(m for m in marks if m not in ("start", "stop"))
    if pitch.startswith("*"):
        what = "<unpitched><display-step>C</display-step><display-octave>5</display-octave></unpitched>"
        ties += f'<instrument id="{pitch[1:]}"/>'
    elif pitch:
        alter = {"#": "<alter>1</alter>", "b": "<alter>-1</alter>"}.get(pitch[1], "")
        what = f"<pitch><step>{pitch[0]}</step>{alter}<octave>{pitch[-1]}</octave></pitch>"
    else:
        what = "<rest/>"
    at = f"<staff>{staff}</staff>" if staff else ""
    head = before + ("<chord/>" if chord else "") + what
    return f"<note>{head}<duration>{duration}</duration>{ties}<voice>{voice}</voice>{rest}{at}</note>"


def back(duration):
    return f"<backup><duration>{duration}</duration></backup>"


def attributes(divisions, *, fifths=0, metre="4/4", more=""):
    beats, unit = metre.split("/")
    return (
        f"<attributes><divisions>{divisions}</divisions><key><fifths>{fifths}</fifths></key>"
        f"<time><beats>{beats}</beats><beat-type>{unit}</beat-type></time>{more}</attributes>"
    )


def part(key, bars, first=0):
    measures = "".join(f'\n  <measure number="{first + k}" width="100">{bar}</measure>' for k, bar in enumerate(bars))
    return f'<part id="{key}">{measures}\n</part>'


def clarinet():
    """In B flat: a pickup, triplets, ties over bar lines, a grace note, 3/4 from bar 5 on, a repeat. 12 divisions."""
    transpose = "<transpose><diatonic>-1</diatonic><chromatic>-2</chromatic></transpose>"
    triplets = "".join(note(p, 4, "<type>eighth</type>", TRIPLET) for p in ("D5", "E5", "F#5"))
    tempo = '<direction><direction-type><words>Allegro</words></direction-type><sound tempo="90"/></direction>'
    loud = "<direction><direction-type><dynamics><ff/></dynamics></direction-type></direction>"
    repeat = '<barline location="right"><bar-style>light-heavy</bar-style><repeat direction="backward"/></barline>'
    grace = "<note><grace/><pitch><step>C</step><octave>5</octave></pitch><voice>1</voice></note>"
    slur = '<notations><slur type="start"/><articulations><staccato/></articulations></notations>'
    return [
        attributes(12, fifths=2, more=transpose) + tempo + note("A4", 12),
        triplets + note("G5", 12, slur) + note("A5", 24, "start"),
        note("A5", 12, "stop") + note("B5", 12, "<lyric><text>la</text></lyric>") + loud + note("C#5", 24, "start"),
        note("C#5", 48, "stop", "start"),
        note("C#5", 12, "stop") + grace + note("D5", 12) + note("E5", 24, "start") + repeat,
        attributes(12, fifths=2, metre="3/4", more=transpose) + note("E5", 36, "stop"),
        note("F#5", 36),
    ]


def piano():
    """Two staves; in the right hand two voices. 2 divisions, which have no triplets."""
    clefs = '<staves>2</staves><clef number="1"><sign>G</sign></clef><clef number="2"><sign>F</sign></clef>'
    bars = [attributes(2, more=clefs) + note("", 2, staff=1) + back(2) + note("", 2, voice=5, staff=2)]
    for k in range(6):
        beats = 4 if k < 4 else 3
        upper = note("C5", 2, staff=1) + note("E5", 2 * beats - 2, staff=1)
        inner = note("G4", 2 * beats, voice=2, staff=1) + note("B4", 2 * beats, voice=2, staff=1, chord=True)
        lower = note("C3", 2 * beats, voice=5, staff=2)
        head = attributes(2, metre="3/4") if k == 4 else "<harmony><root><root-step>C</root-step></root></harmony>"
        bars.append(head + upper + back(2 * beats) + inner + back(2 * beats) + lower)
    return bars


def drums():
    bars = [attributes(1) + note("*P3-I37", 1)]
    for k in range(6):
        metre = attributes(1, metre="3/4") if k == 4 else ""
        bars.append(metre + "".join(note("*P3-I37" if b % 2 else "*P3-I39", 1) for b in range(4 if k < 4 else 3)))
    return bars


def cello():
    """Says nothing: a part to be filled."""
    metre = [attributes(1, fifths=0), "", "", "", "", attributes(1, metre="3/4"), ""]
    return [m + note("", n) for m, n in zip(metre, (1, 4, 4, 4, 4, 3, 3), strict=True)]


def document(encoding="UTF-8"):
    heads = CLARINET + PIANO + DRUMS + CELLO
    parts = {"P1": clarinet(), "P2": piano(), "P3": drums(), "P4": cello()}
    text = (
        f'<?xml version="1.0" encoding="{encoding}" standalone="no"?>\n'
        '<!DOCTYPE score-partwise PUBLIC "-//Recordare//DTD MusicXML 4.0 Partwise//EN" "http://127.0.0.1:9/partwise.dtd">\n'
        f'<!-- kept --><score-partwise version="4.0"><part-list>{heads}</part-list>\n'
        f"{''.join(part(key, bars) for key, bars in parts.items())}\n</score-partwise>\n"
    )
    return text.encode(encoding, "xmlcharrefreplace")
