"""How often each source of a corpus is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from midi_rwkv.corpus.shards import sources_in
from midi_rwkv.errors import CorpusError

# By musical use rather than by size: polish_scores is 45 % of the notes, and the _band sets are machine-made.
SOURCE_WEIGHTS = {
    "games": 0.15,
    "games_more": 0.06,
    "electronic": 0.015,
    "modern": 0.02,
    "groove_drums": 0.045,
    "jazz_changes_band": 0.05,
    "ewld_band": 0.02,
    "nottingham_band": 0.045,
    "pop909_band": 0.09,
    "pop909": 0.085,
    "nottingham": 0.03,
    "jsb_chorales": 0.025,
    "open_hymnal": 0.015,
    "mutopia": 0.08,
    "piano_midi_de": 0.035,
    "openscore_lieder": 0.075,
    "openscore_orchestra": 0.045,
    "openscore_quartets": 0.06,
    "ees_sacred": 0.025,
    "polish_scores": 0.08,
}


def chosen_weights(shards: Path, weights: Mapping[str, float]) -> dict[str, float]:
    """How often each source is drawn: the weights that are given, or where none are `SOURCE_WEIGHTS` of the sources
    that are there; empty where none of those is. Raises CorpusError where a source has no shard."""
    there = sources_in(shards)
    chosen = dict(weights) or {n: w for n, w in SOURCE_WEIGHTS.items() if n in there}
    missing = sorted(set(chosen) - set(there))
    if missing or not there:
        what = ", ".join(missing) or "any source"
        raise CorpusError(f"no shard for {what} in {shards}; build it with `midi-rwkv corpus`")
    return chosen
