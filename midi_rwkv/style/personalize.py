"""personalize() learns a style from a handful of the composer's own pieces.

Fills are drawn from the pieces and from transposed copies of them. The context of each fill is read once, and the state
before its first cell is tuned (tuning.py). Whether this helps is measured on held-out music: with three files or more
each fold leaves files out, with fewer it leaves out some of the bars. A style that does not help there is reported and
not kept.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from midi_rwkv.errors import StyleError
from midi_rwkv.files import check_writable, whole_file
from midi_rwkv.model.config import check_seed, check_threads

from .pieces import Piece, read_pieces
from .preparing import CONTEXT, HELD_OUT_FILLS, PARTS, TUNE_FILLS, PersonalizeProgress, prepare
from .style import FORMAT, SUFFIX, Style, check_name, progress_path, read_info, save_style, styles_folder

if TYPE_CHECKING:
    from midi_rwkv.model.step_checkpoint import StepCheckpoint
    from midi_rwkv.model.steps import StepModel

    from .tuning import Check, Gain, Tuning


@dataclass(frozen=True)
class Personalized:
    """The result. `path` is None if the style was not kept."""

    style: Style
    path: Path | None
    gains: list[Gain]  # on what was held out: in all settings, and in each
    skipped: dict[str, str]  # file -> why it was skipped
    curve: list[dict[str, Any]]  # step, and held-out nats per note by learning rate

    @property
    def before(self) -> float:
        """Held-out nats per note without the style, over all settings."""
        return self.gains[0].before

    @property
    def after(self) -> float:
        """Held-out nats per note with it."""
        return self.gains[0].after

    @property
    def helps(self) -> bool:
        """Whether it is better by more than chance, in all settings together or in one of them."""
        return self.gains[0].certain


@dataclass(frozen=True, kw_only=True)
class PersonalizeOptions:
    """How a style is learned and kept.

    Args:
        output: the file to keep it in, instead of a name.
        overwrite: replace a style that has this name, or a file that is there.
        keep_anyway: keep the style even if it does not help by more than chance on held-out music.
        seed: the same files and seed give the same style.
        threads: CPU threads; None lets PyTorch choose.
    """

    output: str | Path | None = None
    overwrite: bool = False
    keep_anyway: bool = False
    seed: int = 0
    threads: int | None = None

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if self.threads is not None:
            check_threads(self.threads)


DEFAULTS = PersonalizeOptions()


def personalize(
    files: Sequence[str | Path],
    name: str | None = None,
    options: PersonalizeOptions = DEFAULTS,
    *,
    checkpoint: StepCheckpoint | None = None,
    on_progress: Callable[[PersonalizeProgress], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
) -> Personalized:
    """Tunes a style to MIDI files (or folders of them) and keeps it under `name`, or in the file `options.output`.

    Args:
        checkpoint: None for the one that ships.
        on_progress: may raise KeyboardInterrupt. The best state so far is then kept if it helps, and the same call
            resumes from there.

    Raises:
        StyleError: nothing can be learned from the files, or the name is taken.
        OSError: the style cannot be written.
    """
    import torch

    from midi_rwkv.model.checkpoint import checkpoint_hash, load_checkpoint
    from midi_rwkv.tokens.notes import encode

    from .tuning import LEARNING_RATES, RATE_STEPS, STEPS

    began = time.monotonic()
    target, seed = _target(name, options.output), options.seed
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    checkpoint = checkpoint or load_checkpoint()
    model = _model(checkpoint)
    pieces, skipped = _usable(files, say)
    base = checkpoint_hash(checkpoint)
    how = (LEARNING_RATES, RATE_STEPS, STEPS, TUNE_FILLS, HELD_OUT_FILLS, CONTEXT)
    digest = hashlib.sha256(repr((base, seed, how, [p.data for p in pieces])).encode()).hexdigest()
    progress = progress_path(target)
    saved = _read_progress(progress, digest)
    stopped = _stopped_style(target) if saved is not None else None
    if target.exists() and not options.overwrite and stopped is None:
        raise StyleError(f"{target.stem} is taken ({target}); choose another name, or add --overwrite")
    _check_writable(target)

    tuning = prepare(pieces, checkpoint, model, seed=seed, on_progress=on_progress)
    if saved is not None:
        tuning.load_state_dict(saved)
        say(f"going on at step {tuning.step} of {tuning.steps}")

    def style(**more: str) -> Style:
        info = {
            "format": FORMAT,
            "base": base,
            "files": str(len(pieces)),
            "bars": str(sum(len(p.score.bars) for p in pieces)),
            "notes": str(sum(p.n_notes for p in pieces)),
            "held_out": "files" if len(pieces) not in PARTS else "bars",
            "gains": json.dumps([asdict(g) for g in tuning.gains()]),
            "memory": "yes" if tuning.remembers else "no",
            "learning_rate": f"{tuning.best_rate:g}",
            "steps": str(tuning.best_step),
            "scale": f"{tuning.scale:g}",
            "date": datetime.date.today().isoformat(),
            **more,
        }
        run, pairs = tuning.best_adapter.arrays()
        songs = tuple((encode(checkpoint.vocabulary, p.score), float(tuning.remembers)) for p in pieces)
        return Style(target.stem, run=run, pairs=pairs, pieces=songs, info=info)

    def keep(made: Style) -> None:
        over = options.overwrite or stopped is not None
        try:
            save_style(made, target, overwrite=over, unchanged=None if options.overwrite else stopped)
        except FileExistsError:
            raise FileExistsError(
                f"{target} was made by another program meanwhile; add --overwrite and the same command goes on"
            ) from None

    told = [False]

    def on_check(check: Check) -> None:
        problem = _keep_progress(progress, digest, tuning)
        if problem and not told[0]:
            say(f"a stop would lose what is done so far: {problem}")
            told[0] = True
        on_progress(PersonalizeProgress("tuning", check.step, check.steps, check.seconds_left, check))

    try:
        tuning.run(on_check)
    except KeyboardInterrupt:
        if tuning.best < tuning.before:
            keep(style(stopped_at_step=str(tuning.step)))
            raise KeyboardInterrupt(f"the best so far is kept in {target}; the same command goes on") from None
        raise KeyboardInterrupt("no style was kept; the same command goes on") from None
    made = style(seconds=f"{time.monotonic() - began:.0f}")
    found = Personalized(made, target, tuning.gains(), skipped, tuning.curve)
    if found.helps or options.keep_anyway:
        keep(made)
    else:
        found = replace(found, path=None)
    progress.unlink(missing_ok=True)
    return found


def _model(checkpoint: StepCheckpoint) -> StepModel:
    """The model to tune a state of. StyleError where it has none."""
    from midi_rwkv.model.step_checkpoint import step_model_of

    if checkpoint.config.arch != "rwkv7":
        raise StyleError(
            f"{checkpoint.path} is a {checkpoint.config.arch}, which has no state to tune; name an RWKV-7's checkpoint"
        )
    return step_model_of(checkpoint).requires_grad_(requires_grad=False)


def _usable(files: Sequence[str | Path], say: Callable[[str], None]) -> tuple[list[Piece], dict[str, str]]:
    """`read_pieces`; says what was skipped. StyleError where nothing is left."""
    pieces, skipped = read_pieces(files)
    for file, why in skipped.items():
        say(f"skipped {file}: {why}")
    if not pieces:
        raise StyleError(f"nothing to learn from: {'; '.join(f'{f}: {why}' for f, why in list(skipped.items())[:3])}")
    return pieces, skipped


def _target(name: str | None, output: str | Path | None) -> Path:
    if (name is None) == (output is None):
        raise StyleError("the style needs a name: add --name NAME (or --output FILE.safetensors, but not both)")
    if name is not None:
        return styles_folder() / f"{check_name(name)}{SUFFIX}"
    path = Path(str(output))
    if path.suffix != SUFFIX:
        raise StyleError(f"a style file ends in {SUFFIX}, got {path}")
    return path


def _check_writable(target: Path) -> None:
    """Raises an error before the work, rather than after it, if the style could not be kept."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"{target.parent} cannot be made: {error.strerror or error}; name another place") from error
    try:
        check_writable(target)
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"{target} cannot be written: {reason}; name another place with --output") from None


def _stopped_style(path: Path) -> bytes | None:
    """The style that an interrupted run kept, which the same call may replace."""
    try:
        return path.read_bytes() if "stopped_at_step" in read_info(path) else None
    except (ValueError, OSError):
        return None


def _read_progress(path: Path, digest: str) -> dict[str, Any] | None:
    """The progress of an interrupted run of the same call."""
    import pickle

    import torch

    if not path.exists():
        return None
    try:
        saved = torch.load(path, weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError):
        return None
    return saved["tuning"] if saved.get("digest") == digest else None


def _keep_progress(path: Path, digest: str, tuning: Tuning) -> str:
    """Writes the progress, completely or not at all. Returns what went wrong, if anything."""
    import torch

    try:
        with whole_file(path) as partial:
            torch.save({"digest": digest, "tuning": tuning.state_dict()}, partial)
    except (OSError, RuntimeError) as error:
        return " ".join(str(error).split())
    return ""
