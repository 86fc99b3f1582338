"""Fits a checkpoint's recall (recall.py) on training songs, and measures it on validation songs.

Regions of 2, 4 or 8 bars and one, some or all tracks of a song are drawn from every source. The model predicts them,
and the weights are fitted so that the mixture of model and song has the lowest loss in nats per note, with equal weight
for each region.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from midi_rwkv.corpus.shards import Shard, sources_in
from midi_rwkv.files import whole_file
from midi_rwkv.model.checkpoint import RECALL_FILE, Checkpoint
from midi_rwkv.model.recall_mix import GATE, OUTLINE, OUTLINE_GATE, RecallWeights
from midi_rwkv.score.score import Cell
from midi_rwkv.tokens.outline import MOST_COUNTED, OutlineVotes
from midi_rwkv.tokens.prompt import PromptTokens, Shown, build_prompt, prompt_budget
from midi_rwkv.tokens.tokenizer import Kind, TokenizedSong
from midi_rwkv.training.dataset import FILL, lay_out

from .recall import CellMemory, SongMemory

START = RecallWeights(
    10.0,
    2.0,
    2.0,
    2.0,
    0.0,
    gate=(-3.0, 2.0, *[0.0] * (len(GATE) - 2)),
    outline=(10.0, 0.5, -0.5, -0.5, 0.5, 0.0),
    outline_gate=(-3.0, 2.0, *[0.0] * (len(OUTLINE_GATE) - 2)),
    longest_match=20,
)
LONGEST_PROMPT = 6144  # tokens; a longer region is drawn again
STEPS = 500
NEVER = -1e9
Tensors = tuple[Tensor, Tensor, Tensor, Tensor]  # the five numbers of RecallWeights, then its other fields


@dataclass
class Place:
    """One id of a fill: the sources' votes and what the model thinks of them."""

    case: int
    like: np.ndarray  # (sources,)
    match: np.ndarray
    twin: np.ndarray
    slot: np.ndarray  # which distinct id each source votes for
    log_p: np.ndarray  # the model's of each distinct id
    right: int  # the slot of the true id, -1 where no source votes for it
    true_log_p: float
    outline: np.ndarray  # (sources, OUTLINE)
    choice: np.ndarray  # which set of ids each source allows
    set_log_p: np.ndarray  # (sets,) the model's
    allows: np.ndarray  # (sets,) whether the true id is in it
    phase: int  # Kind of what was written last, -1 at the start


def draw_regions(
    songs: Sequence[tuple[Shard, int]], count: int, rng: np.random.Generator
) -> Iterator[tuple[TokenizedSong, dict[int, list[int]], bool]]:
    """(song, tracks to write by bar, whether the rest of the song is unknown), `count` times."""
    while count:
        shard, number = songs[int(rng.integers(len(songs)))]
        song, n_bars = shard[number], int(rng.choice([2, 4, 8]))
        if song.n_bars < 3 * n_bars:
            continue
        first = int(rng.integers(n_bars, song.n_bars - 2 * n_bars + 1))
        lengths = np.diff(song.offsets).reshape(song.n_bars, song.n_tracks)
        sounding = np.flatnonzero(lengths[first : first + n_bars].sum(0))
        if not len(sounding):
            continue
        some = int(rng.integers(1, len(sounding) + 1))
        many = int(rng.choice([1, some, len(sounding)], p=[0.6, 0.2, 0.2]))
        tracks = sorted(rng.choice(sounding, many, replace=False).tolist())
        yield song, dict.fromkeys(range(first, first + n_bars), tracks), bool(rng.random() < 0.1)
        count -= 1


@torch.no_grad()
def places(
    checkpoint: Checkpoint, regions: Iterator[tuple[TokenizedSong, dict[int, list[int]], bool]], first_case: int
) -> tuple[list[Place], list[int]]:
    """The votes and probabilities at every id of the regions, and the number of notes of each case."""
    tokenizer, tokens, model = checkpoint.tokenizer, PromptTokens(checkpoint.tokenizer), checkpoint.model()
    found: list[Place] = []
    notes: list[int] = []
    for song, targets, open_end in regions:
        budget = prompt_budget(song, targets, checkpoint.context)
        prompt = build_prompt(tokens, song, targets, Shown(budget=budget, open_end=open_end), order=checkpoint.prompt)
        sample = lay_out(tokenizer, tokens, song, prompt)
        if len(sample.ids) > LONGEST_PROMPT:
            continue
        ids, fill = torch.tensor(sample.ids), torch.tensor(sample.roles) == FILL
        logits = model.head(model.hidden(ids[None, :-1])[0][0, fill[1:]])
        log_p = torch.log_softmax(logits, -1).numpy()
        cells = prompt.cells()
        end = song.n_bars if open_end else max(targets) + 1
        hidden = {*cells, *(Cell(t, b) for b in range(min(targets), end) for t in range(song.n_tracks) if open_end)}
        memory = SongMemory(tokenizer, song, hidden, START, end_id=tokens.fill_end)
        for row, (sources, true) in zip(log_p, memory.follow(song, cells), strict=True):
            votes = sources.votes()
            distinct, slot = np.unique(votes.ids, return_inverse=True)
            right = np.flatnonzero(distinct == true)
            place = int(right[0]) if len(right) else -1
            case = first_case + len(notes)
            outline = outline_columns(sources, sources.outlines.votes(), row, true)
            found.append(
                Place(case, votes.like, votes.match, votes.twin, slot, row[distinct], place, float(row[true]), *outline)
            )
        notes.append(max(1, int(tokenizer.notes_per_id[ids[fill].numpy()].sum())))
    return found, notes


def outline_columns(
    sources: CellMemory, votes: OutlineVotes, log_p: np.ndarray, true: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, int]:
    """What Place has of outlines."""
    choices, slot = np.unique(votes.choice, return_inverse=True)
    allowed = [votes.ids[c] for c in choices.tolist()]
    return (
        votes.columns(sources.like, sources.twin),
        slot,
        np.array([np.logaddexp.reduce(log_p[ids]) for ids in allowed]),
        np.array([true in ids for ids in allowed], bool),
        -1 if votes.phase is None else int(votes.phase),
    )


class Table:
    """Places as padded tensors."""

    def __init__(self, rows: Sequence[Place], notes: Sequence[int]):

        def padded(arrays: Sequence[np.ndarray], fill: float) -> Tensor:
            out = np.full((len(arrays), max(map(len, arrays))), fill, np.float32)
            for line, array in zip(out, arrays, strict=True):
                line[: len(array)] = array
            return torch.from_numpy(out)

        self.like, self.match = padded([p.like for p in rows], 0), padded([p.match for p in rows], 0)
        self.twin = padded([p.twin for p in rows], 0)
        self.slot = padded([p.slot for p in rows], 0).long()
        self.log_p = padded([p.log_p for p in rows], 0)
        self.outline = [padded([p.outline[:, k] for p in rows], 0) for k in range(len(OUTLINE))]
        self.choice = padded([p.choice for p in rows], -1).long()
        self.set_log_p = padded([p.set_log_p for p in rows], -30)
        self.allows = padded([p.allows for p in rows], 0)
        self.phase = torch.tensor([p.phase for p in rows])
        self.right = torch.tensor([p.right for p in rows])
        self.true_log_p = torch.tensor([p.true_log_p for p in rows])
        self.case = np.array([p.case for p in rows])
        self.notes = np.array(notes)
        self.weight = torch.tensor((1 / self.notes)[self.case], dtype=torch.float32)
        self.weight /= self.weight.sum()

    def log_mixture(self, weights: Tensors, longest_match: int) -> Tensor:
        """Log probability of each true id."""
        powers, gate, outline, outline_gate = weights
        said, opened = self.votes(powers, gate, longest_match)
        outline_said, outline_opened = self.outline_votes(outline, outline_gate)
        share = torch.softmax(torch.stack([torch.zeros_like(opened), opened, outline_opened], 1), 1)
        of_true = torch.stack([self.true_log_p.exp(), said, outline_said], 1)
        return torch.log((share * of_true).sum(1) + 1e-20)

    def votes(self, powers: Tensor, gate: Tensor, longest_match: int) -> tuple[Tensor, Tensor]:
        """As `recall_mix.weigh`: the probability of each true id, and the gate."""
        there, whole = self.match != 0, self.match > 0
        match = self.match.abs().clamp(max=longest_match)
        power = powers[0] * self.like + torch.where(whole, powers[1] * match + powers[3], powers[2] * match)
        power = power + powers[4] * self.twin
        voted = there.any(1)
        votes = torch.softmax(power.masked_fill(~there, NEVER), 1) * voted[:, None]
        share = torch.zeros_like(votes).scatter_add(1, self.slot, votes)
        best, chosen = share.max(1)
        own = there & (self.slot == chosen[:, None])
        features = self.features(own, whole, match, best, chosen)
        said = share.gather(1, self.right.clamp(min=0)[:, None])[:, 0] * (self.right >= 0)
        return said, (features @ gate).masked_fill(~voted, NEVER)

    def outline_votes(self, weights: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
        """As `recall_mix.weigh_outlines`: the probability of each true id, and the gate."""
        there = self.choice >= 0
        power = sum(w * column for w, column in zip(weights, self.outline, strict=True))
        voted = there.any(1)
        votes = torch.softmax(power.masked_fill(~there, NEVER), 1) * voted[:, None]
        share = torch.zeros_like(self.set_log_p).scatter_add(1, self.choice.clamp(min=0), votes)
        best, chosen = share.max(1)
        features = self.outline_features(there & (self.choice == chosen[:, None]), best, chosen)
        within = (self.true_log_p[:, None] - self.set_log_p).clamp(max=0).exp() * self.allows
        return (share * within).sum(1), (features @ gate).masked_fill(~voted, NEVER)

    def outline_features(self, own: Tensor, best: Tensor, chosen: Tensor) -> Tensor:
        """`recall_mix.outline_gate_features` of all places, (places, features)."""
        most = [torch.where(own, column, 0.0).max(1).values for column in self.outline]
        least = [torch.where(own, column, MOST_COUNTED).min(1).values for column in self.outline]
        (like, hits, _, _, kept_up, twin), (_, _, missing, passed, _, _) = most, least
        surprise = -self.set_log_p.gather(1, chosen[:, None])[:, 0].clamp(min=-12.0)
        columns = [torch.ones_like(like), like, like**2, like**6, torch.log1p(hits), best, best * like]
        columns += [torch.log1p(own.sum(1)), missing / 4, passed / 4, kept_up, surprise, surprise**2 / 10, twin]
        columns += [(self.phase == k).float() for k in (Kind.POSITION, Kind.PITCH, Kind.VELOCITY)]
        return torch.stack(columns, 1)

    def features(self, own: Tensor, whole: Tensor, match: Tensor, best: Tensor, chosen: Tensor) -> Tensor:
        """`recall_mix.gate_features` of all places, (places, features)."""
        like = torch.where(own, self.like, 0.0).max(1).values
        longest = torch.where(own & whole, match, 0.0).max(1).values
        surprise = -self.log_p.gather(1, chosen[:, None])[:, 0].clamp(min=-12.0)
        agreeing = own.sum(1)
        columns = [torch.ones_like(like), like, like**2, like**6, torch.log1p(longest), best, best * like]
        columns += [torch.log1p(agreeing), (longest == 0).float(), surprise, surprise**2 / 10]
        columns.append((own & (self.twin > 0)).any(1).float())
        return torch.stack(columns, 1)

    def nats_per_note(self, log_mixture: Tensor, sources: np.ndarray) -> dict[str, float]:
        """By source; sources: of each case."""
        nats = np.bincount(self.case, -log_mixture.detach().double().numpy(), len(self.notes))
        return {str(s): float(nats[sources == s].sum() / self.notes[sources == s].sum()) for s in np.unique(sources)}


def tensors_of(weights: RecallWeights) -> Tensors:
    """As `Table.log_mixture` takes them."""
    w = weights
    numbers = torch.tensor([w.likeness, w.prefix, w.suffix, w.start, w.twin])
    return numbers, torch.tensor(w.gate), torch.tensor(w.outline), torch.tensor(w.outline_gate)


def fit(table: Table) -> RecallWeights:
    """The weights under which the mixture costs the fewest nats."""
    fitted = tensors_of(START)
    optimizer = torch.optim.Adam([x.requires_grad_() for x in fitted], lr=0.05)
    for _ in range(STEPS):
        optimizer.zero_grad()
        nats = -(table.weight * table.log_mixture(fitted, START.longest_match)).sum()
        torch.autograd.backward(nats)
        optimizer.step()
    numbers, gate, outline, outline_gate = ([round(v, 4) for v in x.tolist()] for x in fitted)
    names = ("likeness", "prefix", "suffix", "start", "twin")
    return replace(
        START,
        **dict(zip(names, numbers, strict=True)),
        gate=tuple(gate),
        outline=tuple(outline),
        outline_gate=tuple(outline_gate),
    )


def collect(
    checkpoint: Checkpoint,
    pools: Mapping[str, Sequence[tuple[Shard, int]]],
    count: int,
    *,
    seed: int,
    say: Callable[[str], None],
) -> tuple[Table, np.ndarray]:
    """Places in `count` regions a source, and the source of each case."""
    rng = np.random.default_rng(seed)
    rows: list[Place] = []
    notes: list[int] = []
    sources: list[str] = []
    for source, pool in sorted(pools.items()):
        more, counts = places(checkpoint, draw_regions(pool, count, rng), len(notes))
        rows, notes, sources = rows + more, notes + counts, sources + [source] * len(counts)
        say(f"{source}: {len(counts)} regions")
    return Table(rows, notes), np.array(sources)


def fit_recall(
    shards: Path, checkpoint: Checkpoint, regions: int = 24, *, say: Callable[[str], None] = print
) -> RecallWeights:
    """Fit a checkpoint's recall on `regions` regions of each training source, and write its `recall.json`."""
    pools = {}
    for source in sources_in(shards):
        shard = Shard(shards / f"{source}.npz")
        pools[source] = [(shard, i) for i in range(len(shard))]
    table, _ = collect(checkpoint, pools, regions, seed=1, say=say)
    weights = fit(table)
    with whole_file(checkpoint.path / RECALL_FILE) as partial:
        partial.write_text(json.dumps(weights.to_dict(), indent=1) + "\n", encoding="utf-8")
    return weights


def measure_recall(
    shards: Path,
    checkpoint: Checkpoint,
    weights: RecallWeights,
    regions: int = 24,
    *,
    say: Callable[[str], None] = print,
) -> dict[str, tuple[float, float]]:
    """Nats per note of the model alone and with recall, by source, on `regions` regions of each validation source."""
    shard = Shard(shards / "valid.npz")
    held_out: dict[str, list[tuple[Shard, int]]] = {}
    for i, name in enumerate(shard.names):
        held_out.setdefault(name.split("/")[0], []).append((shard, i))
    table, sources = collect(checkpoint, held_out, regions, seed=2, say=say)
    alone = table.nats_per_note(table.true_log_p, sources)
    mixed = table.nats_per_note(table.log_mixture(tensors_of(weights), weights.longest_match), sources)
    return {source: (alone[source], mixed[source]) for source in alone}
