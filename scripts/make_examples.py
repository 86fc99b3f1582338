"""Composes the example pieces of the app: original music, written out here and by the rules here.

    python scripts/make_examples.py [FOLDER]     (default: app/examples)

The notation is that of compose.py. The same script makes the same bytes.
"""

from __future__ import annotations

import sys
from pathlib import Path

from compose import TICKS, Chord, Part, Song, pitch, read_line

# Harbour Lights: a pop band in G

VERSE = "Em7|Cadd9|G|D|Em7|Cadd9|Am7|Dsus4 D"
CHORUS = "G|D/F#|Em7|Cadd9|G/B|Cadd9|Am7 D|G"
BAND_FORM = [  # section, chords a bar, how loud the band plays
    ("Intro", "Em7|Cadd9|G|D/F#", 60),
    ("Verse 1", VERSE, 66),
    ("Pre-chorus", "Am7|Bm7|Cadd9|D", 74),
    ("Chorus 1", CHORUS, 88),
    ("Verse 2", VERSE, 72),
    ("Bridge", "Am7|Cm6|G/B|A7 D", 76),
    ("Chorus 2", CHORUS, 94),
    ("Outro", "Em7|Cadd9|G|G", 64),
]
BAND_LEAD = {
    "Verse 1": "rq B4e D5e E5q. D5e | D5q B4e A4e G4h | rq B4e D5e G5q. F#5e | F#5q E5e D5e A4h"
    "| rq B4e D5e E5q. D5e | E5q D5e C5e D5h | rq C5e D5e E5q. D5e | D5q C5e B4e A4h",
    "Pre-chorus": "A4e C5e E5q E5e D5e C5q | B4e D5e F#5q F#5e E5e D5q | C5e E5e G5q G5e F#5e E5q | F#5q G5q A5h",
    "Chorus 1": "D5e G5e B5q. A5e G5q | A5q. G5e F#5q D5q | E5e G5e B5q. A5e G5q | G5q. E5e G5h"
    "| D5e G5e B5q. A5e B5q | C6q. B5e A5q G5q | A5e G5e E5q F#5e G5e A5q | G5h. rq",
    "Verse 2": "re B4e B4e D5e E5q. D5e | D5e E5e D5e B4e G4h | re B4e D5e E5e G5q. F#5e | E5e F#5e E5e D5e A4h"
    "| re B4e B4e D5e E5q. G5e | E5q D5e C5e D5h | re C5e D5e E5e G5q. E5e | G5q E5e D5e A5h",
    "Bridge": "E5h. D5e C5e | Eb5h. D5e C5e | D5h G5h | A5q G5e E5e F#5q A5q",
    "Chorus 2": "D5e G5e B5q. A5e G5q | A5q. G5e F#5e E5e D5q | E5e G5e B5q. A5e G5q | G5q. E5e G5q A5q"
    "| B5e G5e D6q. B5e G5q | C6q. B5e C6e D6e B5q | A5e G5e E5q F#5e G5e A5q | G5h. rq",
    "Outro": "rq B4e D5e E5q. D5e | D5q B4e A4e G4h | rq B4e D5e G5q. A5e | G5w",
}
BAND_COUNTER = "B4w | C5h D5h | D5w | A4h F#4h | G4w | E5h D5h | C5w | A4h C5h"  # strings in verse 2
KICK, RIM, SNARE, HAT, PEDAL_HAT, OPEN_HAT, CRASH, RIDE, TAMBOURINE = 36, 37, 38, 42, 44, 46, 49, 51, 54
TOMS = (50, 47, 43)


def pop_band() -> Song:
    song = Song("Harbour Lights", "G")
    song.tempo(0, 104)
    song.metre(0, 4, 4)
    drums = Part(song, "Drums", 0, 9)
    bass = Part(song, "Bass", 33, 0, 104)
    guitar = Part(song, "Electric Guitar", 27, 1, 84, 40)
    keys = Part(song, "Electric Piano", 4, 2, 88, 84)
    strings = Part(song, "Strings", 48, 3, 80, 70)
    lead = Part(song, "Lead", 65, 4, 108)
    voicings = {guitar: [55, 59, 64, 67], keys: [59, 62, 66, 69], strings: [67, 71, 74]}
    beat = 0.0
    bars = []
    for name, text, loud in BAND_FORM:
        bars += [(name, bar.split(), loud, place) for place, bar in enumerate(text.split("|"))]
    for i, (name, chords, loud, place) in enumerate(bars):
        if place == 0:
            song.section(beat, name)
            if name in BAND_LEAD:
                lead.sing(beat, BAND_LEAD[name], loud + 10)
            if name == "Verse 2":
                strings.sing(beat, BAND_COUNTER, loud - 14, gate=1)
        after = Chord(bars[i + 1][1][0]) if i + 1 < len(bars) else None
        ends = after is None or bars[i + 1][0] != name
        full = "Chorus" in name
        band_drums(drums, beat, name, loud, place, ends, last=after is None)
        for half, symbol in enumerate(chords):
            chord, length = Chord(symbol), 4 / len(chords)
            at = beat + half * length
            target = (Chord(chords[1]) if half + 1 < len(chords) else after) or chord
            band_bass(bass, at, length, chord, target, loud, full, last=after is None)
            for part, (low, high) in {guitar: (52, 72), keys: (57, 76), strings: (62, 81)}.items():
                voicings[part] = chord.voiced(voicings[part], low, high)
            band_guitar(guitar, at, length, voicings[guitar], loud, full, last=after is None)
            hits = {"Intro": [(0, 4)], "Outro": [(0, 4)]}.get(name, [(0, 1.5), (1.5, 1), (2.5, 1.5)])
            for start, held in [(0, 2)] if length == 2 else hits:
                for key in voicings[keys]:
                    keys.play(at + start, held * 0.9, key, loud - 12 + (4 if start == 0 else 0), late=8)
            if full or name in ("Pre-chorus", "Bridge", "Outro"):
                for key in voicings[strings]:
                    strings.play(at, length, key, loud - 22 + 3 * (place % 4))
        beat += 4
    for start, length, _ in read_line(BAND_LEAD["Chorus 2"], 4):  # the last chorus leans into its long notes
        if length >= 1.5:
            at = 36 * 4 + start
            for step in range(5):
                lead.bend(at + step / 16, -1200 + 300 * step)
    return song


def band_bass(
    part: Part, at: float, length: float, chord: Chord, target: Chord, loud: float, full: bool, last: bool
) -> None:
    """Roots on the strong beats, and a step towards the next root before it comes."""
    root, goal = chord.bass_pitch(28), target.bass_pitch(28)
    fifth = root + 7 if chord.bass == chord.classes[0] else root
    lead_in = goal + (-2 if goal > root else 2) if goal != root else fifth
    if lead_in % 12 not in (0, 2, 4, 6, 7, 9, 11):  # stay in G major
        lead_in += 1 if goal < root else -1
    if last:
        part.play(at, length, root, loud)
    elif full:
        for step in range(int(2 * length)):
            key = lead_in if step == 2 * length - 1 else root + 12 if step % 4 == 3 else root
            part.play(at + step / 2, 0.45, key, loud + (5 if step % 2 == 0 else -5), late=5)
    else:
        part.play(at, 1.4, root, loud + 8, late=5)
        part.play(at + 1.5, 0.45, root, loud - 4, late=5)
        if length == 4:
            part.play(at + 2, 1.0, fifth, loud + 3, late=5)
            part.play(at + 3, 0.45, root, loud - 2, late=5)
            part.play(at + 3.5, 0.45, lead_in, loud, late=5)


def band_guitar(part: Part, at: float, length: float, voices: list[int], loud: float, full: bool, last: bool) -> None:
    """Broken chords in quavers; in a chorus strummed, down on the beat and up after it."""
    if last:
        for string, key in enumerate(voices):
            part.play(at + string / 24, length - 0.2, key, loud - 6)
    elif full:
        for start, held in [(0, 0.9), (1, 0.45), (1.5, 0.9), (2.5, 0.45), (3, 0.9)]:
            if start < length:
                strum = voices if start % 1 == 0 else voices[:0:-1]
                for string, key in enumerate(strum):
                    louder = -4 if start in (1, 3) else -10
                    part.play(at + start + string / 60, held - string / 60, key, loud + louder)
    else:
        for step in range(int(2 * length)):
            key = voices[(0, 2, 1, 3, 2, 3, 1, 2)[step]]
            part.play(at + step / 2, 0.9, key, loud - 10 + (6 if step % 4 == 0 else 0), late=6)


def band_drums(part: Part, at: float, name: str, loud: float, place: int, ends: bool, last: bool) -> None:
    """Hats and a rim click at first, the whole kit from the first verse on, and a fill where a section ends."""

    def hit(start: float, key: int, louder: float = 0) -> None:
        part.play(at + start, 0.2, key, loud + louder, late=4)

    if last:
        for key in (KICK, CRASH):
            hit(0, key, 10)
        return
    full, quiet = "Chorus" in name, name in ("Intro", "Outro")
    fill_from = 4.0 if not ends or quiet else 2.0 if full or name in ("Pre-chorus", "Bridge") else 3.0
    if place == 0 and not quiet:
        hit(0, CRASH, 12)
    kicks = {"quiet": (0, 2.5), "verse": (0, 2, 2.5), "full": (0, 1.5, 2, 3.5) if place % 2 else (0, 1.5, 2)}
    for start in kicks["quiet" if quiet else "full" if full else "verse"]:
        if start < fill_from:
            hit(start, KICK, 12 if start == 0 else 4)
    for start in (1, 3):
        if start < fill_from:
            hit(start, RIM if quiet or name == "Verse 1" else SNARE, 12)
    if full or name == "Verse 2":
        for start in (1.75, 2.25) if place % 2 else (2.25,):
            if start < fill_from:
                hit(start, SNARE, -38)
    for step in range(8):
        if step / 2 < fill_from:
            opened = step == 7 and place % 4 == 3 and not full
            hit(step / 2, RIDE if full else OPEN_HAT if opened else HAT, 0 if step % 2 == 0 else -14)
            if full and step % 2:
                hit(step / 2, TAMBOURINE, -20)
    for start in (1, 3):
        if full:
            hit(start, PEDAL_HAT, -20)
    for step in range(round(4 * (4 - fill_from))):
        start = fill_from + step / 4
        drum = SNARE if start < 2.75 else TOMS[min(int(4 * start - 11) // 2, 2)]
        if not (start % 1 == 0.5 and start < 3):
            hit(start, drum, -8 + 4 * (start - fill_from) * 3)


# Minuet for string quartet, in D minor

QUARTET = [  # section, loudness, first violin, second violin, viola, violoncello; eight bars each
    (
        "Minuet", 70,
        "A4q D5q. E5e | F5q E5q C#5q | D5q F5q. G5e | Bb5e G5e E5h"
        "| A4q D5q. E5e | F5q D5q Bb5q | A5q. G5e F5e E5e | D5h.",
        "F4h F4q | G4h E4q | F4h D4q | D4q C#4h"
        "| F4h A4q | F4h E4q | F4h G4q | F4h.",
        "A3h A3q | A3h A3q | A3q A3q Bb3q | Bb3q A3h"
        "| A3h D4q | D4h D4q | D4h C#4q | D4h A3q",
        "D3h F3q | C#3h A2q | D3q C3q Bb2q | G2q A2h"
        "| D3h F3q | Bb2h G2q | A2h A2q | D3q A2q D2q",
    ),
    (
        "The second violin sings", 64,
        "rq A5q F5q | rq G5q E5q | rq A5q D5q | D5q C#5h"
        "| rq A5q F5q | F5q Bb5q D6q | D6q A5q G5q | F5h.",
        "A3q D4q. E4e | F4q E4q C#4q | D4q F4q. G4e | Bb4e G4e E4h"
        "| A3q D4q. E4e | F4q D4q Bb4q | A4q. G4e F4e E4e | D4h.",
        "F3h A3q | A3h A3q | F3q A3q Bb3q | Bb3q A3h"
        "| F3h F3q | Bb3h E4q | F4q D4q C#4q | A3h.",
        "D3q F3q D3q | C#3q E3q A2q | D3q C3q Bb2q | G2q A2e G2e F2e E2e"
        "| D2q F2q D3q | Bb2h G2q | A2q F2q A2q | D3q A2h",
    ),
    (
        "Sequence", 76,
        "C6q A5q. G5e | G5q. A5e Bb5q | A5q F5q. G5e | F5q. D5e E5q"
        "| Bb5q. A5e G5q | A5q. G5e F5q | G5q. F5e E5q | C#5q D5q E5q",
        "A4h A4q | Bb4h G4q | A4h F4q | Bb4h G4q"
        "| F4h E4q | E4h D4q | D4h C#4q | E4q F4q G4q",
        "C4h C4q | C4h C4q | C4h C4q | D4h C4q"
        "| D4h Bb3q | A3h A3q | Bb3h G3q | A3q A3q A3q",
        "F3q A3q F3q | E3q G3q E3q | F3h A2q | Bb2h C3q"
        "| G2h C3q | F3h Bb2q | E3h A2q | A2q A2q A2q",
    ),
    (
        "Trio", 66,
        "F#5h A5q | G5q. F#5e E5q | A4q D5q. E5e | B5h A5q"
        "| F#5h B5q | G5q. F#5e E5q | F#5q D5q C#5q | D5h.",
        "D5h F#5q | E5q. D5e C#5q | F#4h A4q | D5h C#5q"
        "| D5h D5q | E5q. D5e B4q | A4h G4q | F#4h.",
        "A3e D4e F#4e D4e A3e D4e | C#4e A3e G3e A3e C#4e A3e | A3e D4e F#4e D4e A3e D4e | B3e D4e G4e B3e C#4e E4e"
        "| D4e F#4e D4e B3e D4e F#4e | E4e B3e E4e B3e E4e B3e | D4e A3e D4e A3e C#4e E4e | D4h A3q",
        "D3h. | E3h. | F#3h. | G3h A3q"
        "| B3h A3q | G3h. | A3h A2q | D3q A2q D3q",
    ),
    (
        "Minuet again", 74,
        "A4q D5q. E5e | F5q E5q C#5q | D5q F5q. G5e | Bb5e G5e E5h"
        "| A4q D5q. E5e | Bb5q. G5e Eb5q | D5h C#5q | D5h.",
        "re F4e re F4e re F4e | re G4e re G4e re E4e | re F4e re F4e re D4e | D4q C#4h"
        "| F4h F4q | Bb4h Bb4q | A4h G4q | F#4h.",
        "re A3e re A3e re A3e | re A3e re A3e re A3e | re A3e re A3e re Bb3e | Bb3q A3h"
        "| A3h D4q | Eb4h Bb3q | D4h E4q | D4q A3h",
        "D3q rq F3q | C#3q rq A2q | D3q C3q Bb2q | G2q A2h"
        "| D3h F3q | G3h G3q | A3h A2q | D3q D2h",
    ),
]  # fmt: skip


def string_quartet() -> Song:
    song = Song("Minuet for String Quartet", "Dm")
    song.metre(0, 3, 4)
    players = [("Violin I", 40, 30), ("Violin II", 40, 52), ("Viola", 41, 76), ("Violoncello", 42, 98)]
    parts = [Part(song, name, program, i, 100, pan) for i, (name, program, pan) in enumerate(players)]
    sings = {"The second violin sings": 1}
    for number, (name, loud, *lines) in enumerate(QUARTET):
        beat = 24.0 * number
        song.section(beat, name)
        song.tempo(beat, 96 if name == "Trio" else 108)
        for i, (part, line) in enumerate(zip(parts, lines, strict=True)):
            louder = 8 if i == sings.get(name, 0) else -6 if i in (1, 2) else 0
            part.sing(beat, line, loud + louder, bar=3, gate=0.98 if name in ("Trio", "Sequence") else 0.9)
            for bar in range(8):  # the bow breathes with the phrase
                part.control(beat + 3 * bar, 11, 96 + 7 * (bar % 4) if bar % 4 < 3 else 104)
    for step, slower in enumerate((100, 92, 80, 66)):
        song.tempo(24 * 5 - 6 + 1.5 * step, slower)
    return song


# Barcarolle: piano, with a pickup, two metres and a tempo that breathes

TUNE = (
    "F5q. A5q G5e | G5q E5e C5q D5e | F5q. D5q E5e | D5q F5e E5q."
    "| F5q. A5q C6e | D6q C6e B5q. | C6q A5e G5q E5e | F5q. rq C5e"
)
TUNE_AGAIN = (
    "F5e G5e F5e A5q G5e | G5q E5e C5e D5e E5e | F5q. D5q F5e | E5q C#5e A4q. | D5q F5e Bb5q A5e | G5q Bb5e D6q C6e"
    "| Bb5q F5e E5q G5e | F5h."
)
STORM = (
    "D5q. E5e F5q A5q | Bb5q. A5e G5h | A5q. G5e E5q C#5q | D5e E5e F5e A5e D6h | D6q. C6e Bb5q F5q | C6q. Bb5e A5q F5q"
    "| Bb5q. A5e G5q D5q | E5e F5e G5e A5e C#6h | D6q. C#6e D6q F6q | D6q. E6e F6q D6q | E6q D6e C6e Bb5q G5q"
)
TUNE_ADORNED = (
    "F5e E5e F5e A5q G5e | G5e A5e G5e E5e C5e D5e | F5q. D5e F5e E5e | D5e E5e F5e E5q. | F5e A5e C6e F6q C6e"
    "| D6q C6e B5e Ab5e B5e | C6q A5e G5e Bb5e E5e | F5q. rq."
)
FAREWELL = "Db6q Bb5e F5q. | A5q C5e F5q. | Db5q F5e Bb5q. | A4+C5+F5h."
TUNE_CHORDS = "F|C7/E|Dm|Bb C7|F/A|Bb Bdim7|F/C C7|F"
PIANO_FORM = [  # section, quarters a minute, metre, line, chords a bar, loudness
    ("Barcarolle", 84, 6, TUNE, TUNE_CHORDS, 62),
    ("", 86, 6, TUNE_AGAIN, "F|C7/E|Dm|A7/E A7|Bb|Gm7|Csus4 C7|F", 66),
    ("Storm", 132, 8, STORM, "Dm|Gm/D|A7/C#|Dm|Bb|F/A|Gm|A7|Dm Dm/C|Bb G7/B|C7", 84),
    ("", 100, 4, "Bb5s A5s G5s F5s E5e C5e", "C7", 74),
    ("Barcarolle again", 80, 6, TUNE_ADORNED, TUNE_CHORDS, 60),
    ("Farewell", 76, 6, FAREWELL, "Bbm|F|Bbm6/F|F", 54),
]


def piano() -> Song:
    song = Song("Barcarolle", "F")
    song.metre(0, 1, 8)
    right, left = Part(song, "Right hand", 0, 0), Part(song, "Left hand", 0, 0)
    right.play(0, 0.5, pitch("C5"), 56)
    beat, metre, near = 0.5, 1, [53, 57, 60]
    for name, tempo, quavers, line, chords, loud in PIANO_FORM:
        bar = quavers / 2
        if name:
            song.section(beat, name)
        if quavers != metre:
            song.metre(beat, *((6, 8) if quavers == 6 else (quavers // 2, 4)))
            metre = quavers
        song.tempo(beat, tempo)
        right.sing(beat, line, loud + 10, bar=bar, gate=1)
        bars = [text.split() for text in chords.split("|")]
        for number, symbols in enumerate(bars):
            for half, symbol in enumerate(symbols):
                at, length = beat + number * bar + half * bar / len(symbols), bar / len(symbols)
                near = Chord(symbol).voiced(near, 48, 62)
                piano_left(left, at, length, Chord(symbol), near, loud - 8, quavers, end=symbols is bars[-1])
                piano_inner(right, at, Chord(symbol), loud - 4)
                left.control(at, 64, 0)
                left.control(at + 0.06, 64, 127)
        end = beat + len(bars) * bar
        for step in range(3):  # the end of a section holds back
            song.tempo(end - bar + step * bar / 3, tempo * (0.94, 0.86, 0.76)[step])
        beat = end
    left.control(beat, 64, 0)
    return song


def piano_left(
    part: Part, at: float, length: float, chord: Chord, voices: list[int], loud: float, quavers: int, end: bool
) -> None:
    """Waves: the bass note, then the chord up and down in quavers."""
    bass = chord.bass_pitch(36)
    steps = round(2 * length)
    part.play(at, length if end else 1, bass, loud + 6)
    if quavers == 8:
        part.play(at, 1, bass - 12 if bass >= 40 else bass, loud)
    upper = [key for key in voices if key > bass + 2]
    for step in range(1, steps):
        key = upper[(0, 1, 2, 1, 0, 1, 2, 1)[step - 1] % len(upper)]
        part.play(at + step / 2, (length - step / 2) if end else 0.5, key, loud - 6 + 2 * (step % 3 == 0), late=6)


def piano_inner(part: Part, at: float, chord: Chord, loud: float) -> None:
    """A note of the chord a third to an octave below the melody, where one begins on the chord."""
    start = round(at * TICKS)
    tops = [(tick, key) for tick, key in part.notes if start <= tick < start + 5]
    if len(tops) == 1:
        tick, top = tops[0]
        below = [top - step for step in (3, 4, 5, 6, 8, 9) if (top - step) % 12 in chord.classes]
        if below and below[0] > 62:
            length = (part.notes[tick, top][0] - tick) / TICKS
            part.play(at, min(length, 1.5), below[0], loud)


PIECES = {"pop_band.mid": pop_band, "string_quartet.mid": string_quartet, "piano.mid": piano}


def main(folder: str | Path = Path(__file__).parents[1] / "app" / "examples") -> None:
    for name, compose in PIECES.items():
        compose().save(Path(folder) / name)


if __name__ == "__main__":
    main(*sys.argv[1:2])
