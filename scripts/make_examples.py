"""Composes the example pieces of the app: original music, written out here and by the rules here.

    python scripts/make_examples.py [FOLDER]     (default: app/examples)

The notation is that of script_helpers/compose.py. The same script makes the same bytes.
"""

from __future__ import annotations

import sys
from pathlib import Path

from script_helpers.compose import TICKS, Chord, Part, Song, Span, pitch
from script_helpers.pop_band import pop_band

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
                piano_left(
                    left, Span(at, length, Chord(symbol)), near, loud - 8, big=quavers == 8, end=symbols is bars[-1]
                )
                piano_inner(right, at, Chord(symbol), loud - 4)
                left.control(at, 64, 0)
                left.control(at + 0.06, 64, 127)
        end = beat + len(bars) * bar
        for step in range(3):  # the end of a section holds back
            song.tempo(end - bar + step * bar / 3, tempo * (0.94, 0.86, 0.76)[step])
        beat = end
    left.control(beat, 64, 0)
    return song


def piano_left(part: Part, span: Span, voices: list[int], loud: float, *, big: bool, end: bool) -> None:
    """Waves: the bass note, then the chord up and down in quavers."""
    at, length, chord = span
    bass = chord.bass_pitch(36)
    steps = round(2 * length)
    part.play(at, length if end else 1, bass, loud + 6)
    if big:
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
