"""Decides which files are music worth training on, and which are copies of another piece."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from midi_rwkv.errors import CorpusError, MidiRwkvError, RequestError, packages_for
from midi_rwkv.model.config import Config

from .inputs import Chunk, read_chunk
from .shards import CorpusSong, read_song

WINDOW = 12  # intervals in a shingle
PERMUTATIONS = 128
BAND = 3  # values that must agree for two sketches to be compared: 94 % of the pairs at a similarity of 0.4 do
ALL_PAIRS = 32  # up to this many sketches that agree in a band are all compared with each other
BEAT_PARTS = 24  # of a quarter, for `steadiness`
FULL_PARTS = 6  # as many as sixteenths and triplet eighths fill


@dataclass(frozen=True, kw_only=True)
class Filters(Config):
    """The limits beyond which pieces are left out. Similarities are Jaccard indices of windows of melodic intervals."""

    min_bars: int = 8
    min_notes: int = 24
    max_notes: int = 200_000
    max_same: float = 0.8  # share of the most common pitch (in drum pieces, of the most common drum)
    max_metre_changes: float = 0.5  # share of bars in another metre than the bar before
    min_steady: float = 0.45  # `steadiness`: a quarter by chance, 0.5 for a drummer who swings, 0.9-1 for a score
    duplicate: float = 0.6  # from this similarity on, a piece is a copy
    related: float = 0.3  # from this similarity on, two pieces go into the same split

    def __post_init__(self) -> None:
        for name in ("max_same", "max_metre_changes", "min_steady", "duplicate", "related"):
            if not 0 <= getattr(self, name) <= 1:
                raise RequestError(f"{name} must lie in 0-1, got {getattr(self, name)}")


class Piece(NamedTuple):
    """What the first reading finds out about a file."""

    name: str
    split: str  # "" if it is still to be drawn
    licence: str
    reason: str  # why it is left out, or ""
    bars: int
    notes: int
    exact: bytes  # hash of the notes
    sketch: np.ndarray | None  # MinHash of the windows (PERMUTATIONS,) uint32; None if there are too few

    @property
    def source(self) -> str:
        return self.name.split("/")[0]


def scan(chunk: Chunk, filters: Filters) -> list[Piece]:
    """Reads and judges a chunk's files."""
    out = []
    for file in read_chunk(chunk):
        try:
            if file.lost:
                raise CorpusError("reading it ended the process (damaged, or too big for this machine's memory)")
            song = read_song(file.data, file.name)
        except MidiRwkvError as error:
            reason = f"broken: {str(error).removeprefix(file.name).lstrip(': ')}"
            out.append(Piece(file.name, chunk.split, file.licence, reason, 0, 0, b"", None))
            continue
        notes = sum(len(t) for t in song.tracks)
        reason = judge(song, filters)
        exact, sketch = (b"", None) if reason else (note_hash(song), minhash(windows(song)))
        out.append(Piece(file.name, chunk.split, file.licence, reason, len(song.bars), notes, exact, sketch))
    return out


def judge(song: CorpusSong, filters: Filters) -> str:
    """The reason why the song is left out, or ""."""
    count = sum(len(t) for t in song.tracks)
    if len(song.bars) < filters.min_bars or count < filters.min_notes:
        return f"too short: {len(song.bars)} bars, {count} notes"
    if count > filters.max_notes:
        return f"too long: {count} notes"
    pitched = [t for t, (_, is_drum) in zip(song.tracks, song.programs, strict=True) if not is_drum]
    pitches = np.concatenate([t[:, 1] for t in (pitched or song.tracks)])
    same = float(np.bincount(np.clip(pitches, 0, 127)).max() / len(pitches))
    if same > filters.max_same:
        return f"one note repeated: {same:.0%} of the notes"
    metres = [(b.numerator, b.denominator) for b in song.bars]
    changes = sum(a != b for a, b in zip(metres[1:], metres, strict=False)) / len(metres)
    if changes > filters.max_metre_changes:
        return f"wrong bars: the metre changes at {changes:.0%} of them"
    steady = steadiness(song)
    if steady < filters.min_steady:
        return f"wrong bars: the notes keep to no beat ({steady:.2f})"
    return ""


def steadiness(song: CorpusSong) -> float:
    """Share of the onsets in the `FULL_PARTS` fullest of `BEAT_PARTS` parts of the quarter, counted from the bar line.

    Any regular pattern counts, including swing. This leaves out music whose file does not know the beats, such as a
    free performance or a transcription at another tempo, because its notes may be anywhere.
    """
    starts = np.array([b.start_ticks for b in song.bars])
    onsets = np.concatenate([t[:, 0] for t in song.tracks])
    bar = np.clip(np.searchsorted(starts, onsets, side="right") - 1, 0, len(starts) - 1)
    part = np.rint((onsets - starts[bar]) / song.ticks_per_beat * BEAT_PARTS).astype(np.int64) % BEAT_PARTS
    return float(np.sort(np.bincount(part, minlength=BEAT_PARTS))[-FULL_PARTS:].sum() / len(onsets))


def note_hash(song: CorpusSong) -> bytes:
    """A hash of the notes and their instruments, and nothing else of the file."""
    parts = []
    for notes, program in zip(song.tracks, song.programs, strict=True):
        ticks = np.rint(notes[:, [0, 2]] * (480 / song.ticks_per_beat)).astype(np.int64)
        rows = np.column_stack([ticks[:, 0], notes[:, 1], ticks[:, 1]])
        parts.append(repr(program).encode() + rows[np.lexsort(rows.T[::-1])].tobytes())
    return hashlib.sha1(b"".join(sorted(parts))).digest()


def windows(song: CorpusSong) -> np.ndarray:
    """Sorted unique hashes (uint32) of every `WINDOW` successive intervals of each track's top line.

    Transposing the piece does not change them. For a piece of only drums, the sequence of drums struck together is
    used.
    """
    found = []
    drums_only = all(is_drum for _, is_drum in song.programs)
    for notes, (_, is_drum) in zip(song.tracks, song.programs, strict=True):
        if is_drum and not drums_only:
            continue
        order = np.lexsort((notes[:, 1], notes[:, 0]))
        onsets, pitches = notes[order, 0], notes[order, 1]
        last = np.concatenate([onsets[1:] != onsets[:-1], [True]])
        if drums_only:
            moment = np.concatenate([[0], np.cumsum(last)[:-1]])
            # A number for the drums that are struck together.
            line = np.bincount(moment, pitches.astype(float) ** 2).astype(np.int64)
            steps = line * 31 + np.append(np.rint(np.diff(onsets[last]) * 4 / song.ticks_per_beat), 0).astype(np.int64)
        else:
            line = pitches[last]
            steps = np.diff(line) + 128
        if len(steps) < WINDOW:
            continue
        runs = np.lib.stride_tricks.sliding_window_view(steps, WINDOW).astype(np.uint64)
        weights = np.uint64(0x9E3779B97F4A7C15) ** np.arange(1, WINDOW + 1, dtype=np.uint64)
        found.append(((runs * weights).sum(1, dtype=np.uint64) >> np.uint64(32)).astype(np.uint32))
    return np.unique(np.concatenate(found)) if found else np.zeros(0, np.uint32)


def minhash(hashes: np.ndarray) -> np.ndarray | None:
    """(PERMUTATIONS,) MinHash values by datasketch, or None if the piece has too few windows to compare."""
    if len(hashes) < WINDOW:
        return None
    sketch = _datasketch().MinHash(PERMUTATIONS, hashfunc=int)
    sketch.update_batch(hashes)
    return np.asarray(sketch.hashvalues, np.uint32)


def _datasketch() -> Any:
    with packages_for("building a corpus"):
        import datasketch
    return datasketch


def similar_pairs(sketches: Sequence[np.ndarray], least: float) -> list[tuple[int, int, float]]:
    """Pairs (i, j, similarity) with i < j of sketches that are at least this similar.

    This is locality-sensitive hashing, one band at a time, so that it needs little more memory than the sketches.
    """
    if len(sketches) < 2:
        return []
    table = np.stack(sketches)  # (N, PERMUTATIONS)
    count = len(table)
    found = np.zeros(0, np.int64)  # i * count + j
    for at in range(0, PERMUTATIONS - BAND + 1, BAND):
        key = np.zeros(count, np.uint64)
        for column in table[:, at : at + BAND].T:
            key = (key ^ column) * np.uint64(0x9E3779B97F4A7C15)
        by_key = np.argsort(key, kind="stable")
        ordered = key[by_key]
        reach = 1
        codes = []
        while reach < count:  # compares each with the one `reach` places further on, as long as any agree
            agree = ordered[reach:] == ordered[:-reach]
            if reach > ALL_PAIRS or not agree.any():
                break
            codes.append(by_key[:-reach][agree] * count + by_key[reach:][agree])
            reach += 1
        found = np.unique(np.concatenate([found, *codes]))
    pairs = []
    for part in np.array_split(found, len(found) // 4096 + 1):
        i, j = part // count, part % count
        similar = (table[i] == table[j]).mean(1)
        keep = similar >= least
        pairs += list(zip(i[keep].tolist(), j[keep].tolist(), similar[keep].tolist(), strict=True))
    return pairs


@dataclass(frozen=True)
class Sorted:
    """The split of each piece in order, or the reason why it is left out."""

    splits: list[str]  # "" if it is left out
    reasons: list[str]


def sort_pieces(pieces: Sequence[Piece], filters: Filters, shares: Mapping[str, float]) -> Sorted:
    """Leaves out copies, and draws splits so that related pieces stay together.

    Of several copies the first stays, but one whose split was given takes precedence (valid, test, train). `shares` are
    by split, for pieces without one; the rest is train. The draw depends only on a group's first name. If valid has a
    share but would be empty, the group drawn nearest to it goes there.
    """
    reasons, first_related = _leave_out_copies(pieces, filters)
    splits = [p.split if not r else "" for p, r in zip(pieces, reasons, strict=True)]
    drawn: dict[int, float] = {}
    for i, piece in enumerate(pieces):
        if not reasons[i] and not piece.split:
            digest = hashlib.sha1(pieces[first_related[i]].name.encode()).digest()
            drawn[i] = int.from_bytes(digest[:8], "big") / 2**64
            splits[i] = _split_of(drawn[i], shares)
    if drawn and shares.get("valid") and "valid" not in splits and len(set(drawn.values())) > 1:
        lowest = min(drawn.values())
        for i, value in drawn.items():
            if value == lowest:
                splits[i] = "valid"
    return Sorted(splits, reasons)


def _split_of(value: float, shares: Mapping[str, float]) -> str:
    """The split of a number drawn from 0..1."""
    below = 0.0
    for split, share in shares.items():
        if below <= value < below + share:
            return split
        below += share
    return "train"


def _leave_out_copies(pieces: Sequence[Piece], filters: Filters) -> tuple[list[str], list[int]]:
    """Why each piece is left out ("" if it is not), and the first of the pieces to which it is related."""
    reasons = [p.reason for p in pieces]
    first_of: dict[bytes, int] = {}
    rank = {"valid": 0, "test": 1}
    order: list[int] = []  # pieces to compare
    sketches = []
    for i in sorted(range(len(pieces)), key=lambda i: (rank.get(pieces[i].split, 2), i)):
        piece = pieces[i]
        if piece.reason:
            continue
        same = first_of.setdefault(piece.exact, i)
        if same != i:
            reasons[i] = f"duplicate of {pieces[same].name}"
        elif piece.sketch is not None:
            order.append(i)
            sketches.append(piece.sketch)
    near: dict[int, list[tuple[float, int]]] = defaultdict(list)
    for a, b, similar in similar_pairs(sketches, min(filters.related, filters.duplicate)):
        near[b].append((similar, -a))
    related = _Groups(len(pieces))
    for b in sorted(near):
        i = order[b]
        kept = [(similar, order[-a]) for similar, a in sorted(near[b], reverse=True) if not reasons[order[-a]]]
        if kept and kept[0][0] >= filters.duplicate:
            reasons[i] = f"near-duplicate of {pieces[kept[0][1]].name}"
            continue
        for similar, k in kept:
            if similar >= filters.related:
                related.join(i, k)
    return reasons, [related.first(i) for i in range(len(pieces))]


class _Groups:
    """Numbers in groups that grow together."""

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))

    def first(self, i: int) -> int:
        """The lowest number of a number's group."""
        while self._parent[i] != i:
            self._parent[i] = self._parent[self._parent[i]]
            i = self._parent[i]
        return i

    def join(self, i: int, k: int) -> None:
        """Make one group of two."""
        low, high = sorted((self.first(i), self.first(k)))
        self._parent[high] = low
