"""Makes training rows from token shards: random songs, regions and contexts, packed to a fixed length.

Row `i` of a run depends on (seed, i) alone, so a resumed run, or one on more processes, sees the same rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from midi_rwkv.corpus.shards import Shard, sources_in
from midi_rwkv.errors import CorpusError
from midi_rwkv.score.score import Cell
from midi_rwkv.tokens.prompt import Prompt, PromptTokens, Shown, build_prompt, control_ids
from midi_rwkv.tokens.tokenizer import TokenizedSong, Tokenizer

# By musical use rather than size: polish_scores has 45 % of the notes, and the _band sets are machine-made.
DEFAULT_SOURCE_WEIGHTS = {
    "games": 0.14,
    "groove_drums": 0.04,
    "jazz_changes_band": 0.06,
    "jsb_chorales": 0.03,
    "mutopia": 0.11,
    "nottingham": 0.04,
    "nottingham_band": 0.05,
    "openscore_lieder": 0.11,
    "openscore_orchestra": 0.05,
    "openscore_quartets": 0.10,
    "polish_scores": 0.11,
    "pop909": 0.08,
    "pop909_band": 0.08,
}
RUN_LENGTHS = (1, 2, 3, 4, 5, 6, 8)
RUN_WEIGHTS = (0.14, 0.18, 0.1, 0.26, 0.08, 0.08, 0.16)
NOT_MUSIC, CONTEXT, FILL = 0, 1, 2  # the role of a target token


@dataclass(frozen=True)
class Sample:
    """One prompt with its answer: the tokens, and the role of each (NOT_MUSIC, CONTEXT or FILL)."""

    ids: list[int]
    roles: list[int]


class RegionSampler:
    """Draws a region of a song and lays it out as `infill` will."""

    def __init__(self, tokenizer: Tokenizer, *, evaluation: bool = False, order: str = "bars"):
        """evaluation: no control tokens, and nothing is hidden but the region. order: of the prompt, one of
        `prompt.ORDERS`."""
        self.tokenizer, self.evaluation, self.order = tokenizer, evaluation, order
        self.tokens = PromptTokens(tokenizer)

    def draw(
        self, song: TokenizedSong, rng: np.random.Generator, budget: int, within: tuple[int, int] | None = None
    ) -> Sample | None:
        """A sample of at most `budget` tokens, or None if the drawn region does not fit.

        `within` is a half-open range of bars that must contain the region; None is anywhere.
        """
        lengths = np.diff(song.offsets).reshape(song.n_bars, song.n_tracks)
        low, high = within or (0, song.n_bars)
        count = min(int(rng.choice(RUN_LENGTHS, p=RUN_WEIGHTS)), high - low)
        first = int(rng.integers(low, high - count + 1))
        sounding = np.flatnonzero(lengths[first : first + count].sum(0) > 0)
        if len(sounding) == 0:
            return None
        kind = rng.random()
        if kind < 0.5 or len(sounding) == 1:
            pool = np.arange(song.n_tracks) if rng.random() < 0.1 else sounding
            tracks = [int(rng.choice(pool))]
        elif kind < 0.75:
            tracks = sorted(int(t) for t in rng.choice(sounding, rng.integers(2, len(sounding) + 1), replace=False))
        else:
            tracks = [int(t) for t in sounding]
        while count > 1 and lengths[first : first + count].sum() > budget // 2:
            count -= 1
        last = first + count
        targets = dict.fromkeys(range(first, last), tracks)
        masked: set[Cell] = set()
        absent: list[int] = []
        open_end = rng.random() < 0.12
        if not self.evaluation:
            if rng.random() < 0.2:  # other runs of the same region are not filled yet
                start, width = int(rng.integers(0, song.n_bars)), int(rng.integers(1, 9))
                masked = {Cell(t, b) for b in range(start, min(start + width, song.n_bars)) for t in tracks}
            if len(tracks) < song.n_tracks and rng.random() < 0.1:
                absent = tracks
        answer_size = int(lengths[first:last, tracks].sum()) + 6 * count * len(tracks)
        prompt = build_prompt(
            self.tokens,
            song,
            targets,
            Shown(budget=budget - answer_size, masked=masked, absent=absent, open_end=open_end),
            order=self.order,
        )
        density, polyphony = (not self.evaluation and rng.random() < 0.2 for _ in range(2))
        sample = lay_out(self.tokenizer, self.tokens, song, prompt, density=density, polyphony=polyphony)
        return sample if len(sample.ids) <= budget else None


def lay_out(
    tokenizer: Tokenizer,
    tokens: PromptTokens,
    song: TokenizedSong,
    prompt: Prompt,
    *,
    density: bool = False,
    polyphony: bool = False,
) -> Sample:
    """The prompt with the song's own cells as its answer. density, polyphony: what a cell holds is told before it."""
    ids = prompt.asked + prompt.context
    roles = [NOT_MUSIC] * len(prompt.asked) + [CONTEXT] * len(prompt.context)
    for plan in prompt.bars:
        ids += plan.given
        roles += [CONTEXT] * len(plan.given)
        for t in plan.targets:
            cell = song.cell(Cell(t, plan.bar)).tolist()
            controls = control_ids(tokenizer, tokens, cell, density=density, polyphony=polyphony)
            ids += [int(song.programs[t]), tokens.fill_start, *controls, *cell, tokens.fill_end]
            roles += [NOT_MUSIC, NOT_MUSIC] + [CONTEXT] * len(controls) + [FILL] * (len(cell) + 1)
    structure = {tokens.after, tokens.before, tokens.middle, tokens.infill_bar}
    return Sample(ids, [NOT_MUSIC if i in structure else role for i, role in zip(ids, roles, strict=True)])


class TrainingRows:
    """Endless packed rows: `rows[i]` is tokens, roles, and starts (True at a sample's first token), (seq_len + 1,)."""

    def __init__(
        self,
        shards: Path,
        tokenizer: Tokenizer,
        seq_len: int,
        *,
        seed: int,
        weights: Mapping[str, float] | None = None,
        order: str = "bars",
    ):
        """Opens the shards.

        Args:
            weights: by source. None is `DEFAULT_SOURCE_WEIGHTS` if the folder has all of these sources, else the square
                root of each source's bars.

        Raises:
            CorpusError: a source has no shard.
        """
        there = sources_in(shards)
        if weights is None and set(DEFAULT_SOURCE_WEIGHTS) <= set(there):
            weights = DEFAULT_SOURCE_WEIGHTS
        missing = sorted(set(weights or ()) - set(there))
        if missing or not there:
            what = ", ".join(missing) or "any source"
            raise CorpusError(f"no shard for {what} in {shards}; build it with `midi-rwkv corpus`")
        opened = {n: Shard(shards / f"{n}.npz") for n in weights or there}
        if weights is None:
            weights = {n: float(np.sqrt(s.n_bars.sum())) for n, s in opened.items()}
        self.weights = weights = dict(weights)
        self.shards = list(opened.values())
        self.p = np.array(list(weights.values())) / sum(weights.values())
        # A longer song is drawn more often, but less than in proportion to its length.
        self.song_p = [np.sqrt(s.n_bars) / np.sqrt(s.n_bars).sum() for s in self.shards]
        self.sampler = RegionSampler(tokenizer, order=order)
        self.pad = self.sampler.tokens.pad
        self.seq_len, self.seed = seq_len, seed

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng = np.random.default_rng((self.seed, i))
        size = self.seq_len + 1
        ids: list[int] = []
        roles: list[int] = []
        starts = np.zeros(size, bool)
        while size - len(ids) >= 160:
            k = int(rng.choice(len(self.shards), p=self.p))
            song = self.shards[k][int(rng.choice(len(self.shards[k]), p=self.song_p[k]))]
            budget = size - len(ids)
            if rng.random() < 0.15:
                budget = int(rng.integers(min(160, budget), budget + 1))
            sample = self.sampler.draw(song, rng, budget)
            if sample:
                starts[len(ids)] = True
                ids += sample.ids
                roles += [NOT_MUSIC, *sample.roles[1:]]
        padding = size - len(ids)
        return np.array(ids + [self.pad] * padding), np.array(roles + [NOT_MUSIC] * padding, np.int8), starts


def validation_samples(
    shard: Shard, tokenizer: Tokenizer, budget: int, *, per_source: int, seed: int = 0, order: str = "bars"
) -> list[tuple[str, Sample, int]]:
    """A fixed set of fills: (source, sample, notes in the fill), `per_source` of each source named in the shard."""
    sampler = RegionSampler(tokenizer, evaluation=True, order=order)
    by_source: dict[str, list[int]] = {}
    for i, name in enumerate(shard.names):
        by_source.setdefault(name.split("/")[0], []).append(i)
    rng = np.random.default_rng(seed)
    out = []
    for source, songs in sorted(by_source.items()):
        found = 0
        while found < per_source:
            sample = sampler.draw(shard[int(rng.choice(songs))], rng, budget)
            notes = count_notes(tokenizer, sample) if sample else 0
            if sample and notes:
                out.append((source, sample, notes))
                found += 1
    return out


def count_notes(tokenizer: Tokenizer, sample: Sample) -> int:
    """The number of notes in the fill."""
    fill = [i for i, role in zip(sample.ids, sample.roles, strict=True) if role == FILL]
    return int(tokenizer.notes_per_id[fill].sum())


def to_batches(samples: Sequence[Sample], pad: int, rows: int) -> list[tuple[np.ndarray, np.ndarray, list[int]]]:
    """Batches of samples of similar length: (tokens, roles) padded to (rows, longest), and the samples' indices."""
    order = sorted(range(len(samples)), key=lambda i: len(samples[i].ids))
    batches = []
    for at in range(0, len(order), rows):
        chosen = order[at : at + rows]
        width = max(len(samples[i].ids) for i in chosen)
        ids = np.full((len(chosen), width), pad)
        roles = np.zeros((len(chosen), width), np.int8)
        for row, i in enumerate(chosen):
            ids[row, : len(samples[i].ids)] = samples[i].ids
            roles[row, : len(samples[i].ids)] = samples[i].roles
        batches.append((ids, roles, chosen))
    return batches
