"""The instruments of General MIDI: their names, and what each can play."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

import numpy as np

from midi_rwkv.errors import RequestError

PROGRAM_NAMES = [
    "Acoustic Grand Piano",
    "Bright Acoustic Piano",
    "Electric Grand Piano",
    "Honky-tonk Piano",
    "Electric Piano 1",
    "Electric Piano 2",
    "Harpsichord",
    "Clavinet",
    "Celesta",
    "Glockenspiel",
    "Music Box",
    "Vibraphone",
    "Marimba",
    "Xylophone",
    "Tubular Bells",
    "Dulcimer",
    "Drawbar Organ",
    "Percussive Organ",
    "Rock Organ",
    "Church Organ",
    "Reed Organ",
    "Accordion",
    "Harmonica",
    "Tango Accordion",
    "Acoustic Guitar (nylon)",
    "Acoustic Guitar (steel)",
    "Electric Guitar (jazz)",
    "Electric Guitar (clean)",
    "Electric Guitar (muted)",
    "Overdriven Guitar",
    "Distortion Guitar",
    "Guitar Harmonics",
    "Acoustic Bass",
    "Electric Bass (finger)",
    "Electric Bass (pick)",
    "Fretless Bass",
    "Slap Bass 1",
    "Slap Bass 2",
    "Synth Bass 1",
    "Synth Bass 2",
    "Violin",
    "Viola",
    "Cello",
    "Contrabass",
    "Tremolo Strings",
    "Pizzicato Strings",
    "Orchestral Harp",
    "Timpani",
    "String Ensemble 1",
    "String Ensemble 2",
    "Synth Strings 1",
    "Synth Strings 2",
    "Choir Aahs",
    "Voice Oohs",
    "Synth Voice",
    "Orchestra Hit",
    "Trumpet",
    "Trombone",
    "Tuba",
    "Muted Trumpet",
    "French Horn",
    "Brass Section",
    "Synth Brass 1",
    "Synth Brass 2",
    "Soprano Sax",
    "Alto Sax",
    "Tenor Sax",
    "Baritone Sax",
    "Oboe",
    "English Horn",
    "Bassoon",
    "Clarinet",
    "Piccolo",
    "Flute",
    "Recorder",
    "Pan Flute",
    "Blown Bottle",
    "Shakuhachi",
    "Whistle",
    "Ocarina",
    "Lead 1 (square)",
    "Lead 2 (sawtooth)",
    "Lead 3 (calliope)",
    "Lead 4 (chiff)",
    "Lead 5 (charang)",
    "Lead 6 (voice)",
    "Lead 7 (fifths)",
    "Lead 8 (bass + lead)",
    "Pad 1 (new age)",
    "Pad 2 (warm)",
    "Pad 3 (polysynth)",
    "Pad 4 (choir)",
    "Pad 5 (bowed)",
    "Pad 6 (metallic)",
    "Pad 7 (halo)",
    "Pad 8 (sweep)",
    "FX 1 (rain)",
    "FX 2 (soundtrack)",
    "FX 3 (crystal)",
    "FX 4 (atmosphere)",
    "FX 5 (brightness)",
    "FX 6 (goblins)",
    "FX 7 (echoes)",
    "FX 8 (sci-fi)",
    "Sitar",
    "Banjo",
    "Shamisen",
    "Koto",
    "Kalimba",
    "Bagpipe",
    "Fiddle",
    "Shanai",
    "Tinkle Bell",
    "Agogo",
    "Steel Drums",
    "Woodblock",
    "Taiko Drum",
    "Melodic Tom",
    "Synth Drum",
    "Reverse Cymbal",
    "Guitar Fret Noise",
    "Breath Noise",
    "Seashore",
    "Bird Tweet",
    "Telephone Ring",
    "Helicopter",
    "Applause",
    "Gunshot",
]

# Sounding ranges as MIDI pitches, by first and last program: the professional ranges of orchestration handbooks. All
# other programs have 21-108.
_RANGES = {
    (6, 6): (29, 89), (8, 8): (60, 108), (9, 9): (79, 108), (11, 11): (53, 89), (12, 12): (45, 96),
    (13, 13): (65, 108), (14, 14): (60, 77), (16, 20): (36, 96), (21, 21): (41, 93), (22, 22): (60, 96),
    (24, 31): (40, 88), (32, 39): (23, 67), (40, 40): (55, 103), (41, 41): (48, 91), (42, 42): (36, 81),
    (43, 43): (24, 67), (44, 45): (28, 103), (46, 46): (24, 103), (47, 47): (36, 60), (48, 51): (28, 103),
    (52, 54): (36, 84), (56, 56): (52, 86), (57, 57): (34, 77), (58, 58): (26, 65), (59, 59): (52, 86),
    (60, 60): (34, 77), (61, 61): (34, 86), (64, 64): (56, 88), (65, 65): (49, 81), (66, 66): (44, 76),
    (67, 67): (36, 69), (68, 68): (58, 91), (69, 69): (52, 81), (70, 70): (34, 77), (71, 71): (50, 94),
    (72, 72): (74, 108), (73, 73): (59, 98), (74, 74): (60, 98), (104, 104): (48, 77), (105, 105): (48, 88),
    (109, 109): (58, 81), (110, 110): (55, 103),
    (80, 95): (40, 96),  # synthesizers have no range; nine tenths of their notes in the corpus are in this one
}  # fmt: skip
MOST_LISTED = 12  # names in a message
# Notes per quarter by General MIDI family (eight programs each): lower quartile, median and upper quartile over tracks
# of the median over the bars in which a track sounds. From the tracks of 16 notes and more in 90 songs of each training
# source, with equal weight for each source.
_FAMILY_NOTES = [
    (1.25, 2.0, 3.5),  # piano
    (0.75, 1.25, 1.83),  # chromatic percussion
    (1.0, 1.33, 2.0),  # organ
    (1.0, 2.0, 3.25),  # guitar
    (0.5, 1.0, 1.25),  # bass
    (0.75, 1.0, 1.67),  # strings
    (0.5, 1.0, 1.33),  # ensemble
    (0.5, 1.0, 1.62),  # brass
    (0.75, 1.25, 1.5),  # reed
    (1.0, 1.25, 1.88),  # pipe
    (1.0, 1.5, 2.0),  # synth lead
    (0.5, 0.75, 1.0),  # synth pad
    (0.75, 2.5, 2.89),  # synth effects
    (1.5, 1.75, 3.0),  # ethnic
    (0.75, 1.5, 2.44),  # percussive
    (0.83, 1.0, 4.0),  # sound effects
]
_DRUM_NOTES = (1.5, 3.25, 4.25)
USUAL_KIT = range(35, 60)  # bass drum to ride cymbal 2
GM_KIT = range(35, 82)  # General MIDI's percussion key map
KIT_HITS = 8
_PITCH_CLASSES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
REGISTER_NOTES, REGISTER_MARGIN = 16, 5


def program_name(program: int, *, is_drum: bool = False) -> str:
    return "Drums" if is_drum else PROGRAM_NAMES[program]


def pitch_name(pitch: int) -> str:
    """The name of a MIDI pitch: 60 is C4, and black keys are sharps."""
    return f"{_PITCH_CLASSES[pitch % 12]}{pitch // 12 - 1}"


def find_program(text: str) -> tuple[int, bool]:
    """(program, is_drum) for a General MIDI number 0-127 or (part of) a name; "drums" is the kit.

    Raises:
        RequestError: the name is unknown, or is part of several names.
    """
    wanted = " ".join(text.casefold().split())
    if re.fullmatch("[0-9]{1,9}", wanted):
        if int(wanted) > 127:
            raise RequestError(f"program must be 0-127 or an instrument's name, got {text}")
        return int(wanted), False
    if wanted in ("drums", "drum", "percussion", "drum kit"):
        return 0, True
    names = [n.lower() for n in PROGRAM_NAMES]
    found = [i for i, n in enumerate(names) if n == wanted] or [
        i for i, n in enumerate(names) if wanted and wanted in n
    ]
    if not found:
        raise RequestError(
            f"no General MIDI instrument is called {text!r}; use 0-127, or a name such as Violin, Flute or Drums"
        )
    if len(found) > 1:
        there = ", ".join(PROGRAM_NAMES[i] for i in found[:MOST_LISTED])
        more = f" and {len(found) - MOST_LISTED} more" if len(found) > MOST_LISTED else ""
        raise RequestError(f"several General MIDI instruments are called {text!r}: {there}{more}; name one of them")
    return found[0], False


def instrument_range(program: int) -> tuple[int, int]:
    """Lowest and highest pitch of a pitched instrument."""
    return next((span for (a, b), span in _RANGES.items() if a <= program <= b), (21, 108))


def playable(program: int, used: Iterable[int], *, is_drum: bool = False) -> np.ndarray:
    """(128,) bool: the pitches that the instrument can play or its track already uses.

    A drum track with a handful of hits keeps to the drums it uses, because nothing is known about the rest of its kit.
    """
    allowed = np.zeros(128, bool)
    used = list(used)
    if is_drum:
        allowed[used] = True
        if len(used) < KIT_HITS:
            allowed[list(USUAL_KIT)] = True
        return allowed
    low, high = instrument_range(program)
    allowed[min([low, *used]) : max([high, *used]) + 1] = True
    return allowed


def usual_notes(program: int, *, is_drum: bool = False) -> tuple[float, float, float]:
    """Notes per quarter of such tracks in the bars where they sound: lower quartile, median, upper quartile."""
    return _DRUM_NOTES if is_drum else _FAMILY_NOTES[program // 8]


def plays_single_notes(program: int, *, is_drum: bool = False) -> bool:
    """Whether this instrument is usually monophonic: basses, solo winds and brass."""
    return not is_drum and (32 <= program < 40 or 56 <= program < 61 or 64 <= program < 80)


def register(used: Collection[int]) -> range:
    """The pitches that a pitched track keeps to: from a fourth below its lowest note to a fourth above its highest.

    These are all 128 pitches if the track has too few notes. Of the notes in 4,141 masked parts of validation songs,
    0.02 % are outside the register of the rest of their track.
    """
    if len(used) < REGISTER_NOTES:
        return range(128)
    return range(max(0, min(used) - REGISTER_MARGIN), min(127, max(used) + REGISTER_MARGIN) + 1)
