"""Styles, which `personalize` learns: their files, names, strengths and blends.

A style is one safetensors file, with string metadata, of what `personalize` learned:

- `run`: a state, (layers, heads, K, V) float32, added to the recurrent state after the context has been read, right
  before the first cell is written;
- `pairs`: changes of low rank to the weights that write the cells;
- `pieces`: the composer's pieces, which are remembered while a cell is written (tokens/memory.py) unless the metadata's
  `memory` is "no", after which new tracks take (kinds.py), and which may not be quoted where quotes are forbidden
  (fill/quotes.py).

Or it holds `wkv`, the initial state before anything is read, as in the paper and in RWKV-PEFT's `time_state`.

Strength and blending are linear in all of them. Nothing here needs torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from midi_rwkv.errors import StyleError
from midi_rwkv.files import whole_file
from midi_rwkv.model.checkpoint import checkpoint_hash
from midi_rwkv.model.step_checkpoint import StepCheckpoint
from midi_rwkv.score.score import Track
from midi_rwkv.tokens.attributes import DRUMS
from midi_rwkv.tokens.memory import PieceCells
from midi_rwkv.tokens.notes import SongNotes
from midi_rwkv.tokens.packed import PackedSongs, pack

from .kinds import Kind, find_kind

SUFFIX = ".safetensors"
PLACES = ("wkv", "run")
FORMAT = "midi-rwkv style 2"
LOWER, RAISE, PIECES = "lower.", "raise.", "pieces."  # before the names of arrays in a file
_PAIR = (LOWER, RAISE)
NAME = re.compile(r"[^\W_][\w .+-]{0,63}")


@dataclass(frozen=True)
class Style:
    """What was learned, at the strength at which it is to serve. `info` is the metadata of its file, see
    `personalize`."""

    name: str
    wkv: np.ndarray | None = None  # (L, H, K, V) float32, instead of zeros before anything is read
    run: np.ndarray | None = None  # (L, H, K, V) float32, added right before the first cell is written
    info: Mapping[str, str] = field(default_factory=dict)
    _: KW_ONLY
    # By the name of a weight (out, in): a (r, in) and b (out, r), whose product b @ a is added to it.
    pairs: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    pieces: Sequence[tuple[SongNotes, float]] = ()  # what it was learned from, and how strongly it is remembered, 0-1
    _kinds: dict[int, Kind | None] = field(default_factory=dict, init=False, repr=False, compare=False)  # by program

    @property
    def states(self) -> dict[str, np.ndarray]:
        """The states by place."""
        return {place: a for place in PLACES if (a := getattr(self, place)) is not None}

    @cached_property
    def cells(self) -> list[tuple[PieceCells, float]]:
        """The pieces that are remembered, as a memory has them, and how strongly."""
        return [(PieceCells(song), weight) for song, weight in self.pieces if weight > 0]

    def kind(self, track: Track) -> Kind | None:
        """What tracks like this one are in the pieces; None where these have too few bars of them."""
        program = DRUMS if track.is_drum else track.program
        if program not in self._kinds:
            self._kinds[program] = find_kind([song for song, _ in self.pieces], program)
        return self._kinds[program]

    def applied(self, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Weights by name, with the changes."""
        return {n: w + self.pairs[n][1] @ self.pairs[n][0] if n in self.pairs else w for n, w in weights.items()}

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """What its file holds."""
        out = {place: np.ascontiguousarray(a, np.float32) for place, a in self.states.items()}
        for name, pair in self.pairs.items():
            out |= {before + name: np.ascontiguousarray(a, np.float16) for before, a in zip(_PAIR, pair, strict=True)}
        if self.pieces:
            out |= {PIECES + name: a for name, a in pack([song for song, _ in self.pieces]).items()}
        return out

    @classmethod
    def of_arrays(cls, name: str, arrays: Mapping[str, np.ndarray], info: Mapping[str, str]) -> Style:
        """`arrays` undone."""
        states = {place: arrays[place].astype(np.float32) for place in PLACES if place in arrays}
        names = [n.removeprefix(LOWER) for n in arrays if n.startswith(LOWER)]
        pairs = {n: (arrays[LOWER + n].astype(np.float32), arrays[RAISE + n].astype(np.float32)) for n in names}
        packed = {n.removeprefix(PIECES): a for n, a in arrays.items() if n.startswith(PIECES)}
        songs = PackedSongs(packed) if packed else ()
        remembered = float(info.get("memory") != "no")
        pieces = tuple((songs[i], remembered) for i in range(len(songs)))
        return cls(name, states.get("wkv"), states.get("run"), info, pairs=pairs, pieces=pieces)


def styles_folder() -> Path:
    """The folder in which styles are kept by name, in the user's data folder."""
    import platformdirs

    return platformdirs.user_data_path("midi-rwkv") / "styles"


def check_name(name: str) -> str:
    """The name, if it is valid for a style. Raises StyleError otherwise."""
    if not NAME.fullmatch(name) or name.lower().endswith(SUFFIX):
        raise StyleError(
            f"a style's name is letters, digits, spaces and . + - _, at most 64, beginning with a letter or digit; "
            f"got {name!r}"
        )
    return name


def style_path(name_or_path: str | Path) -> Path:
    """The file of a style, given by path or by name in `styles_folder()`. Raises StyleError if there is none."""
    text = str(name_or_path)
    path = Path(text)
    if path.suffix == SUFFIX or len(path.parts) > 1:
        if not path.is_file():
            raise StyleError(
                f"no style file {path}; name a .safetensors file, or a style that `midi-rwkv styles` lists"
            )
        return path
    return kept_style(text)


def kept_style(name: str) -> Path:
    """The file of a style in `styles_folder()`. Raises StyleError if none has that name."""
    path = styles_folder() / f"{name}{SUFFIX}"
    if not NAME.fullmatch(name) or not path.is_file():
        known = ", ".join(p.stem for p in style_files()) or "none yet; `midi-rwkv personalize` makes one"
        raise StyleError(f"no style is called {name!r}; there are: {known}")
    return path


def style_files() -> list[Path]:
    """The files of the kept styles, by name."""
    return sorted(styles_folder().glob(f"*{SUFFIX}"))


def progress_path(path: Path) -> Path:
    """The file for the progress of a tuning that may be interrupted, for the style that will be at `path`."""
    return path.with_name(f".{path.stem}.progress")


def read_info(path: Path) -> dict[str, str]:
    """Only the metadata of a style file. Raises StyleError if it is no style."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as f:
            info, names = dict(f.metadata() or {}), set(f.keys())
    except (SafetensorError, OSError) as error:
        raise StyleError(f"{path} cannot be read as a style ({error}); name a .safetensors file") from error
    if not names & set(PLACES):
        raise StyleError(f"{path} is no style: it holds neither 'run' nor 'wkv'; name a file that personalize made")
    made_as = info.get("format", FORMAT)
    if made_as != FORMAT:
        raise StyleError(f"{path} is of an older version ({made_as}); personalize again from the same pieces")
    return info


def save_style(style: Style, path: Path, *, overwrite: bool = False, unchanged: bytes | None = None) -> None:
    """Writes the file, completely or not at all.

    Args:
        unchanged: the bytes that a replaced file must still hold.

    Raises:
        FileExistsError: the file exists and `overwrite` is False.
        OSError: the file to replace holds other bytes than `unchanged`.
    """
    from safetensors.numpy import save

    data = save(style.arrays, dict(style.info))
    path.parent.mkdir(parents=True, exist_ok=True)
    expected = {} if unchanged is None else {path: unchanged}
    try:
        with whole_file(path, overwrite=overwrite, unchanged=expected) as partial:
            partial.write_bytes(data)
    except FileExistsError:
        raise
    except OSError as error:
        raise OSError(f"{path} could not be written: {error.strerror or error}; nothing was kept of it") from error


def load_style(name_or_path: str | Path, checkpoint: StepCheckpoint) -> Style:
    """One style, checked against the checkpoint. Raises StyleError if it does not belong to it."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    c = checkpoint.config
    if c.arch != "rwkv7":
        raise StyleError(f"{checkpoint.path} is a {c.arch}, which has no state to tune; leave the style out")
    path = style_path(name_or_path)
    info = read_info(path)
    base = info.get("base")
    if base is not None and base != checkpoint_hash(checkpoint):
        raise StyleError(
            f"the style {path.stem} was tuned on another checkpoint ({base}) than {checkpoint.path} "
            f"({checkpoint_hash(checkpoint)}); personalize again on this one, or name the other with --checkpoint"
        )
    shape = (c.n_layer, c.n_head, c.head_size, c.head_size)
    try:
        arrays = load_file(path)
        found = Style.of_arrays(path.stem, arrays, info)
    except (SafetensorError, KeyError, ValueError, IndexError) as error:
        raise StyleError(f"{path} is damaged ({error}); personalize again") from error
    for place, array in found.states.items():
        if array.shape != shape:
            raise StyleError(f"{path} holds {place!r} of shape {array.shape}; for {checkpoint.path} it is {shape}")
    for name, (a, b) in found.pairs.items():
        weight = checkpoint.weights.get(name)
        if weight is None or weight.shape != (len(b), a.shape[1]) or len(a) != b.shape[1]:
            raise StyleError(f"{path} changes {name} in a way that does not suit {checkpoint.path}; personalize again")
    damaged = [n for n, a in arrays.items() if not np.isfinite(a).all()]
    if damaged:
        raise StyleError(f"{path} is damaged: {damaged[0]!r} holds values that are no numbers; personalize again")
    return found


def parse_blend(text: str) -> list[tuple[str, float]]:
    """`mine` or `mine:0.7,bach:0.3` to [(name or path, weight)]. Raises StyleError if a weight is not in 0-1."""
    parts = []
    for part in text.split(","):
        name, colon, weight = part.strip().rpartition(":")
        try:
            value = float(weight) if colon else 1.0
        except ValueError:  # the colon is part of a path
            name, value = part.strip(), 1.0
        name = name if colon and name else part.strip()
        if not name:
            raise StyleError(f"a style must be NAME or NAME:WEIGHT, several with commas, got {text!r}")
        if not 0 <= value <= 1:
            raise StyleError(f"a style's weight must lie in 0-1, got {value:g} for {name}")
        parts.append((name, value))
    return parts


def blend(styles: Sequence[tuple[Style, float]], strength: float = 1.0, memory: float | None = None) -> Style | None:
    """The weighted sum times `strength` (0-1), or None if nothing is left, which is exactly the base model.

    memory: the strength of what is remembered, where that is another (0-1).
    """
    for what, value in (("strength", strength), ("memory", strength if memory is None else memory)):
        if not 0 <= value <= 1:
            raise StyleError(f"the style's {what} must lie in 0-1, got {value:g}")
    remembered = strength if memory is None else memory
    left = [(style, weight) for style, weight in styles if weight > 0]
    if len(left) == 1 and left[0][1] == strength == remembered == 1:
        return left[0][0]
    sums: dict[str, np.ndarray] = {}
    pairs: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    pieces: list[tuple[SongNotes, float]] = []
    for style, weight in left if strength or remembered else ():
        if strength:
            for place, array in style.states.items():
                sums[place] = sums.get(place, 0) + np.float32(weight * strength) * array
            for name, (a, b) in style.pairs.items():
                pairs.setdefault(name, []).append((a, np.float32(weight * strength) * b))
        pieces += [(song, own * weight * remembered) for song, own in style.pieces]
    if not sums and not any(weight for _, weight in pieces):
        return None
    name = "+".join(f"{s.name}:{w * strength:g}" for s, w in left)
    joined = {n: (np.concatenate([a for a, _ in p]), np.concatenate([b for _, b in p], 1)) for n, p in pairs.items()}
    return Style(name, sums.get("wkv"), sums.get("run"), pairs=joined, pieces=tuple(pieces))


def find_style(
    text: str | None,
    checkpoint: StepCheckpoint,
    strength: float = 1.0,
    *,
    memory: float | None = None,
    names_only: bool = False,
) -> Style | None:
    """The style of `--style TEXT --style-strength S --style-memory M`. None is the base model.

    With `names_only` a path is refused, for callers that may not read this machine's files.
    """
    if text is None:
        if strength != 1 or memory is not None:
            raise StyleError("a style's strength needs a style; add --style NAME")
        return None
    named = [(kept_style(name) if names_only else name, weight) for name, weight in parse_blend(text)]
    return blend([(load_style(name, checkpoint), weight) for name, weight in named], strength, memory)


def describe(info: Mapping[str, str]) -> str:
    """One line for people about what a style was learned from."""
    try:
        gain = json.loads(info["gains"])[0]
        return (
            f"{info['files']} files, {info['bars']} bars, {info['notes']} notes; held out {gain['before']:.3f} -> "
            f"{gain['after']:.3f} nats a note (95 % between {gain['low']:+.3f} and {gain['high']:+.3f}); {info['date']}"
        )
    except (KeyError, ValueError, TypeError, IndexError):
        return json.dumps(dict(info)) if info else "a plain state, nothing is said about it"
