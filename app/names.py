"""The page's names of tracks and regions. roll_model.js names the marked region in the same way."""

from __future__ import annotations

from itertools import groupby

from midi_rwkv.score.instruments import program_name
from midi_rwkv.score.score import Region, Score, Track


def track_name(track: Track) -> str:
    """The track's name, or its instrument's if it has none."""
    return track.name.strip() or program_name(track.program, is_drum=track.is_drum)


def region_text(score: Score, region: Region) -> str:
    """`bar 4 of Bass; bars 10-13 of Strings, Brass`: tracks with the same bars together; a pickup bar is bar 0."""
    names: dict[str, list[str]] = {}
    for t in region.tracks:
        bars = sorted(b + score.first_bar_number for track, b in region.cells if track == t)
        runs = [[b for _, b in run] for _, run in groupby(enumerate(bars), lambda at: at[1] - at[0])]
        spans = ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
        names.setdefault(f"bar{'s' if len(bars) > 1 else ''} {spans}", []).append(track_name(score.tracks[t]))
    return "; ".join(f"{spans} of {', '.join(tracks)}" for spans, tracks in names.items())
