"""What a step can say: MidiTok's MMM vocabulary, sorted into the attributes of a step.

A step is a row of small integers, one a `Column`. TOKEN says what kind of step it is: a structural token ("Tempo_120",
"TimeSig_4/4", "FillBar_Start") or a note, at a new position (`Note_New`) or at the position of the note before
(`Note_Same`). The note's own attributes and what a reader of the step has to know beside them are the other columns; in
each of them 0 means that the step has no such attribute.

MidiTok makes the vocabulary and its JSON; micro-timing tokens are written as MidiTok's PerTok writes them.
"""

from __future__ import annotations

import json
from enum import IntEnum
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from midi_rwkv.files import whole_file

POSITIONS_PER_QUARTER = 24
MICROS_PER_POSITION = 10  # so micro-timing counts 240ths of a quarter
MICRO_MIN, MICRO_MAX = -20, 5  # the early ones are downbeats that a player rushes
DRUMS = 128  # a track's program where it plays drums
MAX_DISTANCE = 20  # buckets on either side of the run
MAX_LEFT = 16  # bars left in a run, the current one included
RESTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)
STRUCTURE = (
    "PAD",
    "BOS",
    "Song_Start",
    "Song_End",
    "Note_New",
    "Note_Same",
    "Infill_Track",
    "Infill_Bar",
    "FillBar_Start",
    "Fill_From",
    "Fill_To",
    "Fill_Low",
    "Fill_High",
    "Kept_Start",
    "Chord_None",
    "Chord_Bass",
    *(f"Rest_{n}" for n in RESTS),
)


class Column(IntEnum):
    """The columns of a step."""

    TOKEN = 0
    POSITION = 1  # 1 + position in the bar
    MICRO = 2  # 1 + index of the micro-timing
    PITCH = 3  # 1 + pitch; 129 + pitch for a drum
    VELOCITY = 4  # 1 + level
    DURATION = 5  # 1 + index of the duration; 0 for a drum
    PROGRAM = 6  # 1 + program of the step's track
    ROLE = 7  # a `Role`
    DISTANCE = 8  # where the step's bar is, seen from the run (`distance_of`)
    # What stands around a note's place (surroundings.py): in the other tracks,
    LOWEST = 9  # 1 + lowest pitch that sounds
    HIGHEST = 10  # 1 + highest
    CHROMA = 11  # pitch classes that sound, a bit each
    STRUCK = 12  # how many tracks strike a note, pitched ones and drums (`struck_of`)
    # and in the source that is followed: its note at the place,
    THERE_MICRO = 13
    THERE_PITCH = 14
    THERE_VELOCITY = 15  # those of the best source that has this pitch there, or else of the first
    THERE_DURATION = 16
    # In a cell to write, what comes next; the last value where nothing does:
    NEXT_STRUCK = 17  # 1 + the next position at which another track strikes a note
    NEXT_THERE = 18  # 1 + position of the next note of the source that is followed
    NEXT_PITCH = 19  # its pitch
    BEFORE = 20  # the pitch of the note that was read last (`with_before`)
    # Of the notes that other tracks strike at the place:
    STRUCK_VELOCITY = 21  # that of the loudest
    STRUCK_DURATION = 22  # that of the longest, drums left out
    # Of the sources that are followed (following.py), where the best that differs from the first says the next note is,
    # and which pitch it has at the place; and how far the first is to be trusted in both.
    NEXT_SECOND = 23
    NEXT_TRUST = 24
    THERE_SECOND = 25
    THERE_TRUST = 26
    # The same of the cells of other pieces that are followed beside them (memory.py), where there are any.
    MEMORY_MICRO = 27
    MEMORY_PITCH = 28
    MEMORY_VELOCITY = 29
    MEMORY_DURATION = 30
    MEMORY_NEXT = 31
    MEMORY_NEXT_PITCH = 32
    MEMORY_NEXT_SECOND = 33
    MEMORY_NEXT_TRUST = 34
    MEMORY_SECOND = 35
    MEMORY_TRUST = 36


# What is known of the next note once its place is, and once its pitch is.
AT_PLACE = (
    Column.LOWEST,
    Column.HIGHEST,
    Column.CHROMA,
    Column.STRUCK,
    Column.THERE_MICRO,
    Column.THERE_PITCH,
    Column.STRUCK_VELOCITY,
    Column.STRUCK_DURATION,
    Column.THERE_SECOND,
    Column.THERE_TRUST,
    Column.MEMORY_MICRO,
    Column.MEMORY_PITCH,
    Column.MEMORY_SECOND,
    Column.MEMORY_TRUST,
)
AT_PITCH = (Column.THERE_VELOCITY, Column.THERE_DURATION, Column.MEMORY_VELOCITY, Column.MEMORY_DURATION)
# By stage of the heads after the place, the note that the source has there, and that of the memory.
THERE = (Column.THERE_MICRO, Column.THERE_PITCH, Column.THERE_VELOCITY, Column.THERE_DURATION)
MEMORY = (Column.MEMORY_MICRO, Column.MEMORY_PITCH, Column.MEMORY_VELOCITY, Column.MEMORY_DURATION)
MEMORY_COLUMNS = tuple(c for c in Column if c.name.startswith("MEMORY_"))
PITCH_CLASSES = 12
MOST_STRUCK = 3  # that are counted, of pitched tracks and of drums
TRUST_LEVELS, SHARE_LEVELS = 13, 6  # of a source's score, and of the share of the sources that say the same


# What the columns of a step imply, and a model would otherwise have to work out: where in the quarter it is, in which
# quarter of the bar, of which pitch class, whether the reference has the same note (1), another pitch at its place (2)
# or none there (3), the interval from the note before, and the pitch class above the lowest pitch. How many values each
# has; 0 where the step has none.
INTERVALS = 24  # semitones up and down
IMPLIED_SIZES = (1 + POSITIONS_PER_QUARTER, 1 + 17, 1 + 12, 1 + 3, 1 + 2 * INTERVALS + 1, 1 + 12)


class Role(IntEnum):
    """What a step is to the fill."""

    NONE = 0
    CONTEXT = 1
    ANSWER = 2
    KEPT = 3


def distance_of(bar: np.ndarray | int, first: int, last: int) -> np.ndarray:
    """Column DISTANCE of bars before, in or after the run [first, last).

    1 to 20 before the run (1: the bar right before it), 21 to 40 after it, 41 to 56 inside it by the bars left; a
    distance of more than 8 bars is told in steps that grow.
    """
    bar = np.asarray(bar)
    near = np.where(bar < first, first - bar, bar - last + 1)
    outside = _BUCKETS[np.clip(near, 0, len(_BUCKETS) - 1)] + MAX_DISTANCE * (bar >= last)
    left = 2 * MAX_DISTANCE + np.minimum(last - bar, MAX_LEFT)
    found: np.ndarray = np.where((bar >= first) & (bar < last), left, outside)
    return found


def _buckets(reach: int = 1024) -> np.ndarray:
    """By the distance in bars: 1 to 8 as they are, then one for each further factor of the square root of two."""
    bars = np.arange(reach)
    far = np.floor(2 * np.log2(np.maximum(bars, 8) / 8)).astype(np.int64)
    bucket: np.ndarray = np.minimum(np.clip(bars, 1, 8) + far, MAX_DISTANCE)
    return bucket


_BUCKETS = _buckets()


class Vocabulary:
    """The attributes' values, from the JSON that MidiTok writes."""

    def __init__(self, params: dict[str, Any]):
        self.params = params
        names: list[str] = params["midi_rwkv"]["tokens"]
        attributes = ("Position_", "MicroTiming_", "Pitch_", "PitchDrum_", "Velocity_", "Duration_", "Program_")
        self.tokens = tuple(n for n in names if not n.startswith(attributes))
        self._ids = {name: i for i, name in enumerate(self.tokens)}

        def values(kind: str) -> list[str]:
            return [n.removeprefix(f"{kind}_") for n in names if n.startswith(f"{kind}_")]

        self.n_positions = len(values("Position"))
        self.micros = np.array(sorted(int(v) for v in values("MicroTiming")))
        self.velocities = np.array(sorted(int(v) for v in values("Velocity")))
        self.durations = np.array(sorted(_positions(v) for v in values("Duration")))  # in positions
        self.time_signatures = [(int(n), int(d)) for n, d in (v.split("/") for v in values("TimeSig"))]
        self.tempos = np.array(sorted(float(v) for v in values("Tempo")))

    @classmethod
    def load(cls, path: str | Path) -> Vocabulary:
        """Read what `save` wrote."""
        return cls(json.loads(Path(path).read_text(encoding="utf-8")))

    def save(self, path: Path) -> None:
        """Write the JSON, whole or not at all."""
        with whole_file(path, overwrite=True) as partial:
            partial.write_text(json.dumps(self.params, ensure_ascii=False), encoding="utf-8")

    def id(self, name: str) -> int:
        """Column TOKEN of a structural token. KeyError where there is none."""
        return self._ids[name]

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """How many values each column has, 0 included; of CHROMA, how many bits."""
        micro, pitch = 1 + len(self.micros), 1 + 256
        velocity, duration = 1 + len(self.velocities), 1 + len(self.durations)
        return (
            len(self.tokens),
            1 + self.n_positions,
            micro,
            pitch,
            velocity,
            duration,
            1 + DRUMS + 1,
            len(Role),
            1 + 2 * MAX_DISTANCE + MAX_LEFT,
            1 + 128,
            1 + 128,
            PITCH_CLASSES,
            1 + (1 + MOST_STRUCK) ** 2,
            micro,
            pitch,
            velocity,
            duration,
            2 + self.n_positions,
            2 + self.n_positions,
            pitch,
            pitch,
            velocity,
            duration,
            2 + self.n_positions,
            1 + TRUST_LEVELS * SHARE_LEVELS,
            pitch,
            1 + TRUST_LEVELS * SHARE_LEVELS,
            micro,
            pitch,
            velocity,
            duration,
            2 + self.n_positions,
            pitch,
            2 + self.n_positions,
            1 + TRUST_LEVELS * SHARE_LEVELS,
            pitch,
            1 + TRUST_LEVELS * SHARE_LEVELS,
        )

    @property
    def nothing(self) -> int:
        """Where nothing comes next, columns NEXT_STRUCK, NEXT_THERE, NEXT_SECOND, MEMORY_NEXT, MEMORY_NEXT_SECOND."""
        return 1 + self.n_positions

    @cached_property
    def note_tokens(self) -> tuple[int, int]:
        """Column TOKEN of a note at a new position, and of one at the position of the note before."""
        return self.id("Note_New"), self.id("Note_Same")

    def time_signature_id(self, numerator: int, denominator: int, quarters: float) -> int:
        """The TimeSig token of a bar so many quarters long; for a metre that has none, the nearest in length."""
        exact = self._ids.get(f"TimeSig_{numerator}/{denominator}")
        if exact is not None:
            return exact
        n, d = min(
            self.time_signatures,
            key=lambda s: (abs(4 * s[0] / s[1] - quarters), abs(s[1] - denominator), -s[0] / s[1]),
        )
        return self.id(f"TimeSig_{n}/{d}")

    def tempo_id(self, beats_per_minute: float) -> int:
        """The Tempo token nearest to a tempo."""
        return self.id(f"Tempo_{self.tempos[int(np.abs(self.tempos - beats_per_minute).argmin())]}")


def _positions(duration: str) -> int:
    """MidiTok's "beats.part.resolution" in positions."""
    beats, part, resolution = map(int, duration.split("."))
    return beats * POSITIONS_PER_QUARTER + part * POSITIONS_PER_QUARTER // resolution


def miditok_config() -> Any:
    """MidiTok's configuration of our vocabulary (`TokenizerConfig`)."""
    from miditok import TokenizerConfig

    return TokenizerConfig(
        pitch_range=(0, 127),
        drums_pitch_range=(0, 127),
        beat_res={(0, 4): POSITIONS_PER_QUARTER, (4, 8): POSITIONS_PER_QUARTER // 2, (8, 32): 4},
        num_velocities=32,
        special_tokens=[*STRUCTURE, *(f"MicroTiming_{m}" for m in range(MICRO_MIN, MICRO_MAX + 1))],
        use_programs=True,
        use_pitchdrum_tokens=True,
        use_note_duration_programs=list(range(128)),
        use_chords=True,
        use_tempos=True,
        num_tempos=32,
        tempo_range=(40, 240),
        use_time_signatures=True,
        time_signature_range={d: list(range(1, n + 1)) for d, n in ((1, 4), (2, 8), (4, 16), (8, 16), (16, 16))},
        encode_ids_split="no",
        base_tokenizer="REMI",
        ac_polyphony_bar=True,
        ac_note_density_bar=True,
        ac_note_duration_bar=True,
    )


def make_vocabulary() -> Vocabulary:
    """Our vocabulary, made by MidiTok."""
    import tempfile

    from miditok import MMM

    tokenizer = MMM(miditok_config())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.json"
        tokenizer.save(path)
        params = json.loads(path.read_text(encoding="utf-8"))
    params["midi_rwkv"] = {"tokens": list(tokenizer.vocab)}
    return Vocabulary(params)
