"""The evaluated systems: models and simple baselines behind one interface.

A `System` writes a case's notes and, if it is a probability, gives the nats of the original's notes. The original
itself is also a system, whose scores are the ceiling of each metric.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from midi_rwkv.engine.engine import Floats, TokenEngine
from midi_rwkv.fill.ask import Ask
from midi_rwkv.fill.infill import Infiller
from midi_rwkv.fill.recall import CellMemory, SongMemory
from midi_rwkv.model.checkpoint import Checkpoint, load_token_checkpoint
from midi_rwkv.model.config import SamplingConfig
from midi_rwkv.score.score import Cell, Note, Score
from midi_rwkv.style.style import find_style, parse_blend, style_path
from midi_rwkv.tokens.prompt import Prompt, PromptTokens, Shown, build_prompt, prompt_budget
from midi_rwkv.tokens.tokenizer import TokenizedSong
from midi_rwkv.training.dataset import FILL, Sample, lay_out, to_batches

from .baselines import COPIES, CellNotes, copied_notes, copy_probability, guesses, source_bar
from .cases import Case
from .ngram import NGramEngine, fill_grams
from .reference import Reference

Notes = dict[int, list[Note]]
ORIGINAL, NGRAM = "original", "n-gram"
ALONE = "without recall"  # the evaluated checkpoint without its recall
BASELINES = (ALONE, *COPIES, NGRAM)


@dataclass(frozen=True)
class Setup:
    """Everything a worker process needs to make a system. `kind` is "model" or one of the names above."""

    name: str
    kind: str
    checkpoint: Path
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
        if self.kind == "model":
            files += [self.checkpoint / "config.json", self.checkpoint / "model.safetensors"]
            recall = self.checkpoint / "recall.json"
            files += [recall] if recall.exists() else []
        if self.reference:
            files.append(self.reference / "made_from.json")
        for name, weight in parse_blend(self.style) if self.style else ():
            parts.append(weight)
            files.append(style_path(name))
        parts += [hashlib.sha256(f.read_bytes()).hexdigest() for f in files]
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


@dataclass
class Meter:
    """The work of an engine so far: tokens read and written, and the seconds this took."""

    read_ids: int = 0
    read_seconds: float = 0.0
    written_ids: int = 0
    written_seconds: float = 0.0


class Metered:
    """Wraps an engine and counts its work in `meter`."""

    def __init__(self, engine: Any) -> None:
        """engine: an `Engine`, or a `TokenEngine` for a model of tokens."""
        self.engine, self.name, self.vocab_size = engine, engine.name, engine.vocab_size
        self.block_tokens = engine.block_tokens
        self.meter = Meter()

    def new_state(self, batch: int = 1, wkv0: Floats | None = None) -> Any:
        return self.engine.new_state(batch, wkv0)

    def prefill(self, tokens: Sequence[int], state: Any) -> Floats:
        return self._read(self.engine.prefill, tokens, state)

    def prefill_vectors(self, vectors: Floats, state: Any) -> Floats:
        return self._read(self.engine.prefill_vectors, vectors, state)

    def step(self, tokens: ArrayLike, state: Any) -> Floats:
        return self._write(self.engine.step, tokens, state)

    def step_vectors(self, vectors: Floats, state: Any) -> Floats:
        return self._write(self.engine.step_vectors, vectors, state)

    def _read(self, read: Callable[[Any, Any], Floats], inputs: Any, state: Any) -> Floats:
        began = time.perf_counter()
        out = read(inputs, state)
        self.meter.read_ids += len(inputs)
        self.meter.read_seconds += time.perf_counter() - began
        return out

    def _write(self, step: Callable[[Any, Any], Floats], inputs: Any, state: Any) -> Floats:
        began = time.perf_counter()
        out = step(inputs, state)
        self.meter.written_ids += state.batch
        self.meter.written_seconds += time.perf_counter() - began
        return out


class System:
    """A system that is ready to work, as described by a `Setup`."""

    def __init__(self, setup: Setup):
        self.setup = setup
        self.checkpoint: Checkpoint = load_token_checkpoint(setup.checkpoint)
        self.tokenizer = self.checkpoint.tokenizer
        self.tokens = PromptTokens(self.tokenizer)
        self.reference = Reference.load(setup.reference) if setup.reference else None
        self.style = find_style(setup.style, self.checkpoint)
        self.infiller: Infiller | None = None
        if setup.kind == "model":
            self.infiller = Infiller(self.checkpoint, engine=self._transformer(), style=self.style, precision="float32")
        elif setup.kind == NGRAM:
            assert self.reference is not None
            self.infiller = Infiller(replace(self.checkpoint, recall=None), engine=NGramEngine(self.reference.ngram))

    def _transformer(self) -> TokenEngine[Any] | None:
        """The engine of a Transformer's checkpoint; None for an RWKV-7's, whose engine the infiller makes."""
        if self.checkpoint.config.arch != "transformer":
            return None
        from .transformer import Transformer, TransformerEngine, module_of

        model = module_of(self.checkpoint)
        assert isinstance(model, Transformer)
        return TransformerEngine(model)

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
        """The notes that this system writes for the case, by track, or None if it has nothing to copy."""
        if self.setup.kind == ORIGINAL:
            return {t: [n for b in range(case.first, case.last) for n in score.notes_in(t, b)] for t in case.tracks}
        if self.infiller:
            seed = (self.setup.seed + case.seed) % 2**32
            shown = case.shown(score)
            [candidate] = self.infiller(shown, Ask(case.region, sampling, seed=seed, context_bars=case.context_bars))
            return candidate.fills
        source = self._source(case, score, self.tokenizer.encode(score))
        if source is None:
            return None
        return {t: copied_notes(score, t, source, first=case.first, n_bars=case.n_bars) for t in case.tracks}

    def nats(self, case: Case, score: Score, *, left_only: bool = False) -> float | None:
        """Nats of the original's tokens in the region, including each cell's end; None if the system is no probability.

        With `left_only` the system does not see the context after the region.
        """
        kind = self.setup.kind
        if kind == ORIGINAL or (kind != "model" and self.reference is None):
            return None
        shown = case.with_answer(score)
        song = self.tokenizer.encode(shown, [score.bar(b) for b in range(max(len(shown.bars), case.last))])
        prompt = self.prompt(case, song, left_only=left_only or case.setting == "continuation")
        sample = lay_out(self.tokenizer, self.tokens, song, prompt)  # the original's notes as the answer
        if kind == "model":
            return self._model_nats(sample, self._memory(case, score, song, prompt.cells(), left_only=left_only))
        assert self.reference is not None
        p = self.reference.ngram.probability(fill_grams([sample])[0])
        if kind != NGRAM:
            source = self._source(case, score, song)
            if source is None:
                return None
            found = list(
                guesses(song, case.tracks, source, first=case.first, n_bars=case.n_bars, end_id=self.tokens.fill_end)
            )
            p = copy_probability(found, p, self.reference.confidence[kind])
        return float(-np.log(p).sum())

    def prompt(self, case: Case, song: TokenizedSong, *, left_only: bool) -> Prompt:
        """The prompt of the case, as the model sees it in training."""
        targets = dict.fromkeys(range(case.first, case.last), case.tracks)
        budget = prompt_budget(song, targets, self.checkpoint.context)
        return build_prompt(
            self.tokens,
            song,
            targets,
            Shown(budget=budget, context_bars=case.context_bars, open_end=left_only),
            order=self.checkpoint.prompt,
        )

    def _memory(
        self, case: Case, score: Score, song: TokenizedSong, cells: list[Cell], *, left_only: bool = False
    ) -> Iterator[tuple[CellMemory, int]] | None:
        """What recall finds in the song for each token of the answer, or None if the system does not use recall.

        `cells` are in the order in which they are written.
        """
        weights = self.checkpoint.recall
        if weights is None or not self.setup.sampling.recall:
            return None
        low, high = case.window(score)
        high = case.first if left_only else high
        outside = [Cell(t, b) for b in range(song.n_bars) if not low <= b < high for t in range(song.n_tracks)]
        memory = SongMemory(self.tokenizer, song, [*outside, *cells], weights, end_id=self.tokens.fill_end)
        return memory.follow(song, cells)

    def _model_nats(self, sample: Sample, memory: Iterator[tuple[CellMemory, int]] | None) -> float:
        import torch

        from midi_rwkv.model.rwkv7 import RWKV7
        from midi_rwkv.style.tuning import styled_logits
        from midi_rwkv.training.losses import wanted_logits

        from .transformer import module_of

        if not hasattr(self, "_model"):
            torch.set_num_threads(1)
            self._model = module_of(self.checkpoint)
        if self.style:
            assert isinstance(self._model, RWKV7)
            logits = styled_logits(self._model, sample, self.tokens.middle, self.style)
        else:
            [(ids, roles, _)] = to_batches([sample], self.tokens.pad, rows=1)
            with torch.no_grad():
                logits, _ = wanted_logits(self._model, ids, roles == FILL)
        if memory is None:
            answer = [i for i, role in zip(sample.ids, sample.roles, strict=True) if role == FILL]
            return float(torch.nn.functional.cross_entropy(logits, torch.tensor(answer), reduction="sum"))
        strength = self.setup.sampling.recall
        rows = logits.double().numpy()
        return -sum(float(m.mix(row, strength)[true]) for row, (m, true) in zip(rows, memory, strict=True))

    def _source(self, case: Case, score: Score, song: TokenizedSong) -> int | None:
        cells = CellNotes(self.tokenizer, song)
        return source_bar(
            self.setup.kind, cells, case.tracks, first=case.first, n_bars=case.n_bars, window=case.window(score)
        )


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
