"""Encodes notes as token ids and decodes them, over MidiTok's MMM vocabulary.

There are two index spaces, which names keep apart: a *base* token is one event ("Position_12", "Pitch_60"), and a plain
*id* is what the model sees. In our own vocabulary an id stands for one base token; in a file with merges (byte-pair
encoding), such as the paper's, it may stand for several. Only `Tokenizer.expansions` and `encode_cells` convert between
them.

MidiTok makes the vocabulary (vocabulary.py) and writes the JSON; this module reads that JSON directly. MidiTok's own
`encode` is not used on songs: it lays its own bar grid over a resampled copy, whereas a fill must agree bar for bar and
tick for tick with the file it is spliced into. A test compares the two.

The unit is the *cell*: the notes of one track in one bar, `(Position (Pitch Velocity Duration)+)*`, sorted by position
and pitch. No merge crosses a cell.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np

from midi_rwkv.files import whole_file
from midi_rwkv.score.score import (
    POSITIONS_PER_BEAT,
    Bar,
    Cell,
    Note,
    Score,
    bar_lines,
    bars_of,
    lead_at_end,
    lead_ticks,
)


class Kind(IntEnum):
    """The kind of a base token in the grammar of a cell."""

    POSITION = 0
    PITCH = 1
    VELOCITY = 2
    DURATION = 3
    OTHER = 4


@dataclass(frozen=True)
class TokenizedSong:
    """A song as ids, cell by cell and bar by bar.

    Cell (bar b, track t) is `cells[offsets[b * T + t] : offsets[b * T + t + 1]]`.
    """

    programs: np.ndarray  # (T,) id of each track's Program token
    headers: tuple[tuple[int, ...], ...]  # per bar: ids of `Bar_None TimeSig_x`
    tempos: np.ndarray  # (bars,) id of the Tempo token in force
    cells: np.ndarray  # ids of all cells
    offsets: np.ndarray  # (bars * T + 1,)
    changing: Mapping[int, np.ndarray] = field(default_factory=dict)  # by track that changes program: (bars,) ids

    @property
    def n_tracks(self) -> int:
        return len(self.programs)

    @property
    def n_bars(self) -> int:
        return len(self.headers)

    def program(self, cell: Cell) -> int:
        """Id of the Program token before a cell, for the program in force in the bar."""
        track, bar = cell
        return int(self.changing[track][bar] if track in self.changing else self.programs[track])

    def cell(self, cell: Cell) -> np.ndarray:
        """The ids of one cell."""
        k = cell.bar * self.n_tracks + cell.track
        return self.cells[self.offsets[k] : self.offsets[k + 1]]

    def without(self, hidden: Iterable[Cell]) -> TokenizedSong:
        """The song with these cells empty."""
        return self.with_cells(dict.fromkeys(hidden, ()))

    def with_cells(self, cells: Mapping[Cell, Sequence[int]]) -> TokenizedSong:
        """The song with other ids in these cells."""
        parts = np.split(self.cells, self.offsets[1:-1])
        for (track, bar), ids in cells.items():
            parts[bar * self.n_tracks + track] = np.array(ids, self.cells.dtype)
        return replace(self, cells=np.concatenate(parts), offsets=np.cumsum([0, *map(len, parts)]))


class Tokenizer:
    """A MidiTok MMM tokenizer file at run time.

    A position is a twelfth of the `grid`: "quarter" (ours: a sixteenth is 3 positions in every metre) or "beat"
    (MidiTok's: the time signature's own beat, so 2/2 has half the resolution of 4/4).
    """

    def __init__(self, params: dict[str, Any]):
        from tokenizers import Tokenizer as BPE

        self.params = params
        config = params["config"]
        self.grid: str = params.get("midi_rwkv", {}).get("grid", "beat")
        self.base_ids: dict[str, int] = {}
        self.base_names: list[str] = []
        self._char_of: dict[str, str] = {}
        base_of_char: dict[str, int] = {}
        for char, name in params["_vocab_base_byte_to_token"].items():
            base_of_char[char] = self.base_ids[name] = len(self.base_names)
            self._char_of[name] = char
            self.base_names.append(name)
        self._bpe = BPE.from_str(params["_model"])
        vocab = self._bpe.get_vocab(with_added_tokens=True)
        self.vocab_size = max(vocab.values()) + 1
        self.expansions: list[tuple[int, ...]] = [()] * self.vocab_size
        self._id_of: dict[str, int] = {}
        self.opens_word = np.zeros(self.vocab_size, bool)  # ids with a word-start mark (the paper's tokenizer)
        for text, i in vocab.items():
            expansion = self.expansions[i] = tuple(base_of_char[c] for c in text if c != "▁")
            self.opens_word[i] = "▁" in text
            if len(expansion) == 1 and "▁" not in text:
                self._id_of[self.base_names[expansion[0]]] = i
        self._learn_tables(config)
        pitches = [sum(self.base_kind[b] == Kind.PITCH for b in e) for e in self.expansions]
        self.notes_per_id = np.array(pitches, np.int32)  # (vocabulary,)

    def _learn_tables(self, config: dict[str, Any]) -> None:
        self.base_kind = np.full(len(self.base_names), Kind.OTHER, np.int8)
        self.base_value = np.zeros(len(self.base_names), np.int32)
        durations: list[tuple[int, str]] = []
        velocities: list[tuple[int, str]] = []
        self._time_signatures: list[tuple[int, int]] = []
        self._tempos: list[tuple[float, str]] = []
        self.drum_has_duration = -1 in config.get("use_note_duration_programs", [-1])
        for i, name in enumerate(self.base_names):
            kind, _, value = name.partition("_")
            if kind == "Position":
                self.base_kind[i], self.base_value[i] = Kind.POSITION, int(value)
            elif kind in ("Pitch", "PitchDrum"):
                self.base_kind[i], self.base_value[i] = Kind.PITCH, int(value)
            elif kind == "Velocity":
                self.base_kind[i], self.base_value[i] = Kind.VELOCITY, int(value)
                velocities.append((int(value), name))
            elif kind == "Duration":
                beats, part, resolution = map(int, value.split("."))
                positions = beats * POSITIONS_PER_BEAT + part * POSITIONS_PER_BEAT // resolution
                self.base_kind[i], self.base_value[i] = Kind.DURATION, positions
                durations.append((positions, name))
            elif kind == "TimeSig":
                numerator, denominator = map(int, value.split("/"))
                self._time_signatures.append((numerator, denominator))
            elif kind == "Tempo":
                self._tempos.append((float(value), name))
        self.max_positions = int(self.base_value[self.base_kind == Kind.POSITION].max()) + 1
        self._durations = np.array(sorted(d for d, _ in durations))
        self._velocities = np.array(sorted(v for v, _ in velocities))
        duration_name = dict(durations)
        self._duration_chars = np.array([ord(self._char_of[duration_name[d]]) for d in self._durations])
        self._velocity_chars = np.array([ord(self._char_of[f"Velocity_{v}"]) for v in self._velocities])
        self._position_chars = np.array([ord(self._char_of[f"Position_{p}"]) for p in range(self.max_positions)])
        self._pitch_chars = [
            np.array([ord(self._char_of.get(f"{kind}_{p}", "\0")) for p in range(128)])
            for kind in ("Pitch", "PitchDrum")
        ]

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """Reads a tokenizer JSON as MidiTok writes it (ours or the paper's)."""
        return cls(json.loads(Path(path).read_text(encoding="utf-8")))

    def save(self, path: str | Path) -> None:
        """Write the tokenizer JSON, whole or not at all."""
        with whole_file(Path(path)) as partial:
            partial.write_text(json.dumps(self.params, ensure_ascii=False), encoding="utf-8")

    def id(self, name: str) -> int:
        """The id for exactly one base token. Raises KeyError if the vocabulary has none."""
        return self._id_of[name]

    def __contains__(self, name: str) -> bool:
        return name in self._id_of

    def program_id(self, program: int, *, is_drum: bool) -> int:
        """Id of the track's Program token. A program that the vocabulary lacks becomes the nearest one."""
        if is_drum:
            return self.id("Program_-1")
        return next(
            self.id(f"Program_{p}") for d in range(128) for p in (program - d, program + d) if f"Program_{p}" in self
        )

    def time_signature(self, bar: Bar, ticks_per_beat: int) -> str:
        """The TimeSig token of a bar. A metre that the vocabulary lacks becomes the one nearest in length."""
        name = f"TimeSig_{bar.numerator}/{bar.denominator}"
        if name in self._id_of:
            return name
        quarters = (bar.end_ticks - bar.start_ticks) / ticks_per_beat
        n, d = min(
            self._time_signatures,
            key=lambda s: (abs(4 * s[0] / s[1] - quarters), abs(s[1] - bar.denominator), -s[0] / s[1]),
        )
        return f"TimeSig_{n}/{d}"

    def tempo_id(self, beats_per_minute: float) -> int:
        return self.id(min(self._tempos, key=lambda t: abs(t[0] - beats_per_minute))[1])

    def ticks_per_position(self, denominator: int, ticks_per_beat: int) -> float:
        if self.grid == "quarter":
            return ticks_per_beat / POSITIONS_PER_BEAT
        return ticks_per_beat * 4 / denominator / POSITIONS_PER_BEAT

    def positions_in(self, bar: Bar, ticks_per_beat: int, lead: int = 0) -> int:
        """The number of positions of the bar that a fill may use; the lead assigns the others to the next bar."""
        step = self.ticks_per_position(bar.denominator, ticks_per_beat)
        length = bar.end_ticks - bar.start_ticks
        count = max(1, min(self.max_positions, round(length / step)))
        while count > 1 and round((count - 1) * step) >= length - lead_at_end(lead, length):
            count -= 1
        return count

    def cell_texts(
        self, notes: np.ndarray, bars: Sequence[Bar], ticks_per_beat: int, *, is_drum: bool, lead: int | None = None
    ) -> list[str]:
        """One string of base characters a bar, for one track.

        notes: (n, 4) integers onset, pitch, duration, velocity, in ticks and MIDI units. lead: the track's, in ticks
        (`score.lead_ticks`; None: half a position); a note so close to the next bar line counts as on it. Of several
        notes at one position and pitch the loudest is read. What the vocabulary cannot say (pitches out of range,
        positions beyond its longest bar) and what is in no bar is left out.
        """
        texts = [""] * len(bars)
        if len(notes) == 0:
            return texts
        lines = bar_lines(bars)
        steps = np.array([self.ticks_per_position(b.denominator, ticks_per_beat) for b in bars])
        onset, pitch, duration, velocity = np.asarray(notes, np.int64).T
        bar = bars_of(onset, lines, lead_ticks(ticks_per_beat) if lead is None else lead)
        inside = (bar >= 0) & (bar < len(bars))
        bar = np.clip(bar, 0, len(bars) - 1)
        last = np.maximum(1, np.rint(np.diff(lines) / steps).astype(np.int64)) - 1
        position = np.clip(np.rint((onset - lines[bar]) / steps[bar]).astype(np.int64), 0, last[bar])
        length = np.maximum(1, duration / steps[bar])
        chars = self._pitch_chars[is_drum][pitch]
        keep = inside & (position < self.max_positions) & (chars > 0)
        order = np.lexsort((-length, -velocity, pitch, position, bar))
        order = order[keep[order]]
        if len(order) == 0:
            return texts
        key = (bar[order] * self.max_positions + position[order]) * 128 + pitch[order]
        order = order[np.concatenate([[True], key[1:] != key[:-1]])]
        place = bar[order] * self.max_positions + position[order]
        columns = np.zeros((len(order), 4), np.uint32)
        columns[:, 0] = np.where(
            np.concatenate([[True], place[1:] != place[:-1]]), self._position_chars[position[order]], 0
        )
        columns[:, 1] = chars[order]
        columns[:, 2] = self._velocity_chars[nearest(self._velocities, velocity[order])]
        if not is_drum or self.drum_has_duration:
            columns[:, 3] = self._duration_chars[nearest(self._durations, length[order])]
        cuts = np.searchsorted(bar[order], np.arange(len(bars) + 1))
        for b in np.unique(bar[order]):
            cell = columns[cuts[b] : cuts[b + 1]].ravel()
            texts[b] = cell[cell > 0].tobytes().decode("utf-32-le")
        return texts

    def places(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The position, pitch and index of the id of each note in some cells.

        `ids` (N,) are whole cells one after another.
        """
        parts = [self.expansions[i] for i in ids.tolist()]
        base = np.fromiter((b for p in parts for b in p), np.int64)
        kinds, values = self.base_kind[base], self.base_value[base]
        last = np.maximum.accumulate(np.where(kinds == Kind.POSITION, np.arange(len(base)), 0))
        is_note = kinds == Kind.PITCH
        index = np.repeat(np.arange(len(parts)), [len(p) for p in parts])
        return values[last][is_note], values[is_note], index[is_note]

    def encode_cells(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each cell's string of base characters."""
        filled = [i for i, text in enumerate(texts) if text]
        ids: list[list[int]] = [[] for _ in texts]
        for i, encoding in zip(filled, self._bpe.encode_batch([texts[i] for i in filled]), strict=True):
            ids[i] = encoding.ids
        return ids

    def header_text(self, bar: Bar, ticks_per_beat: int) -> str:
        return self._char_of["Bar_None"] + self._char_of[self.time_signature(bar, ticks_per_beat)]

    def encode(self, score: Score, bars: Sequence[Bar] | None = None) -> TokenizedSong:
        """Encodes a whole song. `bars` is the grid, if it continues beyond `score.bars`."""
        bars = score.bars if bars is None else bars
        arrays = [np.array(t.notes, np.int64).reshape(-1, 4)[:, [0, 1, 2, 3]] for t in score.tracks]
        programs = [(t.program, t.is_drum) for t in score.tracks]
        tempos = [score.tempo_at(b.start_ticks) for b in bars]
        leads = [score.lead_ticks(t) for t in score.tracks]
        changing = {
            i: np.array([self.program_id(t.program_in(bar), is_drum=False) for bar in bars], np.int32)
            for i, t in enumerate(score.tracks)
            if t.program_changes
        }
        song = self.encode_arrays(arrays, programs, bars, tempos, ticks_per_beat=score.ticks_per_beat, leads=leads)
        return replace(song, changing=changing)

    def encode_arrays(
        self,
        tracks: Sequence[np.ndarray],
        programs: Sequence[tuple[int, bool]],
        bars: Sequence[Bar],
        tempos: Sequence[float],
        *,
        ticks_per_beat: int,
        leads: Sequence[int] | None = None,
    ) -> TokenizedSong:
        """The same from plain arrays: per track (n, 4) onset, pitch, duration, velocity; tempos in BPM a bar; per track
        its lead in ticks (None: see `cell_texts`)."""
        leads = [lead_ticks(ticks_per_beat)] * len(tracks) if leads is None else leads
        columns = [
            self.cell_texts(notes, bars, ticks_per_beat, is_drum=is_drum, lead=lead)
            for notes, (_, is_drum), lead in zip(tracks, programs, leads, strict=True)
        ]
        ids = self.encode_cells([text for row in zip(*columns, strict=True) for text in row])
        header_of = {
            text: tuple(self.encode_cells([text])[0]) for text in {self.header_text(b, ticks_per_beat) for b in bars}
        }
        tempo_of = {t: self.tempo_id(t) for t in set(tempos)}
        offsets = np.zeros(len(ids) + 1, np.int64)
        np.cumsum([len(i) for i in ids], out=offsets[1:])
        return TokenizedSong(
            programs=np.array([self.program_id(p, is_drum=d) for p, d in programs], np.int32),
            headers=tuple(header_of[self.header_text(b, ticks_per_beat)] for b in bars),
            tempos=np.array([tempo_of[t] for t in tempos], np.int32),
            cells=np.array([i for cell in ids for i in cell], np.int32),
            offsets=offsets,
        )

    def decode_cell(self, ids: Iterable[int], bar: Bar, ticks_per_beat: int, *, is_drum: bool) -> list[Note]:
        """The notes of one cell, in ticks. Raises ValueError if the ids do not parse as a cell."""
        step = self.ticks_per_position(bar.denominator, ticks_per_beat)
        default = max(1, ticks_per_beat // 4)
        notes: list[Note] = []
        position = pitch = velocity = None
        with_duration = not is_drum or self.drum_has_duration
        for base in (b for i in ids for b in self.expansions[i]):
            kind, value = self.base_kind[base], int(self.base_value[base])
            if kind == Kind.POSITION and pitch is None:
                position = value
            elif kind == Kind.PITCH and position is not None and pitch is None:
                pitch = value
            elif kind == Kind.VELOCITY and pitch is not None and velocity is None:
                velocity = value
            elif kind != Kind.DURATION or velocity is None or not with_duration:
                raise ValueError(f"{self.base_names[base]} is out of place in a cell")
            if velocity is not None and (kind == Kind.DURATION or not with_duration):
                assert position is not None
                assert pitch is not None
                onset = bar.start_ticks + round(position * step)
                length = round(value * step) if with_duration else default
                notes.append(Note(onset, pitch, max(1, length), max(1, velocity)))
                pitch = velocity = None
        if pitch is not None:
            raise ValueError("the cell ends within a note")
        return notes


def nearest(table: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The index of the entry of a sorted table that is nearest to each value; the lower one in a tie."""
    return np.searchsorted((table[1:] + table[:-1]) / 2, values, side="left")
