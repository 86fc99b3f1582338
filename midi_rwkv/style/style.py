"""Styles, which `personalize` learns: their files, names, strengths and blends.

A style is one safetensors file with a tuned state of the model, (layers, heads, K, V) float32, and string metadata. It
holds a state for one or both of two places:

- `run`: added to the recurrent state after the context has been read, right before the first cell is written. This is
  what `personalize` tunes.
- `wkv`: the initial state before anything is read, as in the paper and in RWKV-PEFT's `time_state`.

Blending is linear in each place. Nothing here needs torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from midi_rwkv.errors import StyleError
from midi_rwkv.files import whole_file
from midi_rwkv.model.checkpoint import checkpoint_hash
from midi_rwkv.model.step_checkpoint import StepCheckpoint

SUFFIX = ".safetensors"
PLACES = ("wkv", "run")
NAME = re.compile(r"[^\W_][\w .+-]{0,63}")


@dataclass(frozen=True)
class Style:
    """A tuned state. `info` is the metadata of its file, see `personalize`."""

    name: str
    wkv: np.ndarray | None = None  # (L, H, K, V) float32, instead of zeros before anything is read
    run: np.ndarray | None = None  # (L, H, K, V) float32, added right before the first cell is written
    info: Mapping[str, str] = field(default_factory=dict)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The states by place."""
        return {place: a for place in PLACES if (a := getattr(self, place)) is not None}


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

    data = save({k: np.ascontiguousarray(a, np.float32) for k, a in style.arrays.items()}, dict(style.info))
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
    found = {k: a.astype(np.float32) for k, a in load_file(path).items() if k in PLACES}
    for place, array in found.items():
        if array.shape != shape:
            raise StyleError(f"{path} holds {place!r} of shape {array.shape}; for {checkpoint.path} it is {shape}")
        if not np.isfinite(array).all():
            raise StyleError(f"{path} is damaged: {place!r} holds values that are no numbers; personalize again")
    return Style(path.stem, found.get("wkv"), found.get("run"), info)


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


def blend(styles: Sequence[tuple[Style, float]], strength: float = 1.0) -> Style | None:
    """The weighted sum times `strength` (0-1), or None if nothing is left, which is exactly the base model."""
    if not 0 <= strength <= 1:
        raise StyleError(f"the style's strength must lie in 0-1, got {strength:g}")
    left = [(style, weight * strength) for style, weight in styles if weight * strength > 0]
    if not left:
        return None
    if len(left) == 1 and left[0][1] == 1:
        return left[0][0]
    sums: dict[str, np.ndarray] = {}
    for style, weight in left:
        for place, array in style.arrays.items():
            sums[place] = sums.get(place, 0) + np.float32(weight) * array
    return Style("+".join(f"{s.name}:{w:g}" for s, w in left), sums.get("wkv"), sums.get("run"))


def find_style(
    text: str | None, checkpoint: StepCheckpoint, strength: float = 1.0, *, names_only: bool = False
) -> Style | None:
    """The style of `--style TEXT --style-strength S`. None is the base model.

    With `names_only` a path is refused, for callers that may not read this machine's files.
    """
    if text is None:
        if strength != 1:
            raise StyleError("a style's strength needs a style; add --style NAME")
        return None
    named = [(kept_style(name) if names_only else name, weight) for name, weight in parse_blend(text)]
    return blend([(load_style(name, checkpoint), weight) for name, weight in named], strength)


def describe(info: Mapping[str, str]) -> str:
    """One line for people about what a style was learned from."""
    try:
        before, after = float(info["held_out_before"]), float(info["held_out_after"])
        return (
            f"{info['files']} files, {info['bars']} bars, {info['notes']} notes; held out {before:.3f} -> {after:.3f} "
            f"nats a note ({100 * (after / before - 1):+.1f} %); {info['date']}"
        )
    except (KeyError, ValueError):
        return json.dumps(dict(info)) if info else "a plain state, nothing is said about it"
