"""The evaluated systems behind one interface: models, copies of other bars, and the original.

A `System` writes a case's notes and, if it is a model, gives the nats of the original's notes. The original itself is
also a system, whose scores are the ceiling of each metric.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from midi_rwkv.engine.engine import Floats, VectorEngine
from midi_rwkv.errors import ConflictError
from midi_rwkv.fill.ask import Ask
from midi_rwkv.fill.infill import Infiller
from midi_rwkv.model.checkpoint import load_checkpoint
from midi_rwkv.model.config import SamplingConfig
from midi_rwkv.model.step_checkpoint import StepCheckpoint
from midi_rwkv.score.score import Note, Score
from midi_rwkv.style.style import find_style, parse_blend, style_path
from midi_rwkv.tokens.attributes import Vocabulary
from midi_rwkv.tokens.notes import encode

from .baselines import COPIES, CellNotes, copied_notes, source_bar
from .cases import Case
from .reading import original_nats
from .reference import Reference

Notes = dict[int, list[Note]]
MODEL, ORIGINAL = "model", "original"
UNFOLLOWED = "nothing followed"  # the evaluated checkpoint, which follows none of the song's own bars
BASELINES = (UNFOLLOWED, *COPIES)


@dataclass(frozen=True)
class Setup:
    """Everything a worker process needs to make a system. `kind` is MODEL, ORIGINAL or one of the copies."""

    name: str
    kind: str
    checkpoint: Path  # of a copy, the one whose vocabulary tells which bars are alike
    style: str | None = None  # as for `find_style`: a name, a path, or a blend of several
    reference: Path | None = None  # a folder that `build_reference` made
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    seed: int = 0
    fills_only: bool = False  # no nats, which take about as long as the fills

    @property
    def fingerprint(self) -> str:
        """A digest that identifies the system and the reference with which results were measured."""
        parts = [self.kind, self.sampling, self.seed, *(["fills only"] if self.fills_only else [])]
        files = [self.checkpoint / "tokenizer.json"]
        if self.kind == MODEL:
            files += [self.checkpoint / "config.json", self.checkpoint / "model.safetensors"]
        if self.reference:
            files.append(self.reference / "made_from.json")
        for name, weight in parse_blend(self.style) if self.style else ():
            parts.append(weight)
            files.append(style_path(name))
        parts += [hashlib.sha256(f.read_bytes()).hexdigest() for f in files]
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


@dataclass
class Meter:
    """The work of an engine so far: steps read and written, and the seconds this took."""

    read_steps: int = 0
    read_seconds: float = 0.0
    written_steps: int = 0
    written_seconds: float = 0.0


class Metered:
    """Wraps an engine and counts its work in `meter`."""

    def __init__(self, engine: VectorEngine[Any]) -> None:
        self.engine, self.name, self.vocab_size = engine, engine.name, engine.vocab_size
        self.block_tokens = engine.block_tokens
        self.meter = Meter()

    def new_state(self, batch: int = 1, wkv0: Floats | None = None) -> Any:
        return self.engine.new_state(batch, wkv0)

    def prefill_vectors(self, vectors: Floats, state: Any) -> Floats:
        out, seconds = _timed(lambda: self.engine.prefill_vectors(vectors, state))
        self.meter.read_steps += len(vectors)
        self.meter.read_seconds += seconds
        return out

    def step_vectors(self, vectors: Floats, state: Any) -> Floats:
        out, seconds = _timed(lambda: self.engine.step_vectors(vectors, state))
        self.meter.written_steps += state.batch
        self.meter.written_seconds += seconds
        return out


def _timed(work: Callable[[], Floats]) -> tuple[Floats, float]:
    began = time.perf_counter()
    return work(), time.perf_counter() - began


class System:
    """A system that is ready to work, as described by a `Setup`."""

    def __init__(self, setup: Setup):
        self.setup = setup
        self.reference = Reference.load(setup.reference) if setup.reference else None
        self.infiller = _infiller(setup) if setup.kind == MODEL else None
        self._vocabulary = Vocabulary.load(setup.checkpoint / "tokenizer.json")

    def can(self, case: Case) -> bool:
        """Whether the system can do the case.

        Copies cannot follow requests or refuse what stands there, and a continuation has nothing after it to copy.
        """
        if case.setting == "controls":
            return self.infiller is not None
        if case.is_rewrite:
            return self.infiller is not None or self.setup.kind == ORIGINAL
        return not (case.setting == "continuation" and self.setup.kind == "copy after")

    def start_metering(self) -> Meter | None:
        """Counts the engine's work from now on. Returns None if there is no engine."""
        if self.infiller is None:
            return None
        self.infiller.engine = metered = Metered(self.infiller.engine)
        return metered.meter

    def fill(self, case: Case, score: Score, sampling: SamplingConfig) -> Notes | None:
        """The notes that this system writes for the case, by track: none where nothing can sound. None if it has
        nothing to copy."""
        if self.setup.kind == ORIGINAL:
            return case.original(score)
        if self.infiller is not None:
            seed = (self.setup.seed + case.seed) % 2**32
            ask = Ask(case.region, sampling, seed=seed, context_bars=case.context_bars)
            try:
                return self.infiller(case.shown(score), ask)[0].fills
            except ConflictError:  # where a note that stays sounds all through the bars, say
                return {t: [] for t in case.tracks}
        cells = CellNotes(encode(self._vocabulary, score))
        window = case.window(score)
        source = source_bar(self.setup.kind, cells, case.tracks, first=case.first, n_bars=case.n_bars, window=window)
        if source is None:
            return None
        return {t: copied_notes(score, t, source, first=case.first, n_bars=case.n_bars) for t in case.tracks}

    def nats(self, case: Case, score: Score) -> float | None:
        """Nats of the original's notes in the region, including each cell's end; None if the system is no model."""
        if self.infiller is None:
            return None
        ask = Ask(case.region, SamplingConfig(follow=self.setup.sampling.follow), context_bars=case.context_bars)
        return float(original_nats(self.infiller.writing, case.given(score), ask, case.with_answer(score)).sum())


def _infiller(setup: Setup) -> Infiller:
    checkpoint = load_checkpoint(setup.checkpoint)
    style = find_style(setup.style, checkpoint)
    return Infiller(checkpoint, engine=_transformer(checkpoint), style=style, precision="float32")


def _transformer(checkpoint: StepCheckpoint) -> VectorEngine[Any] | None:
    """The engine of a Transformer's checkpoint; None for an RWKV-7's, whose engine the infiller makes."""
    if checkpoint.config.arch != "transformer":
        return None
    from .transformer import engine_of

    engine: VectorEngine[Any] = engine_of(checkpoint)
    return engine


def peak_mib() -> float:
    """The peak memory of this process in MiB, or 0 if the system does not report it (Windows)."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux, where getrusage's figure begins with the parent process's
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) / 2**10
    try:
        import resource
    except ImportError:
        return 0.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # macOS counts bytes
