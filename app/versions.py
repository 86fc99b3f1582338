"""What a session consists of: the versions of the work, and what is marked and answered in each."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from midi_rwkv.score.score import Cell, Note

Lock = tuple[int, int, int]  # track, onset in ticks, pitch
Fill = dict[int, list[Note]]


@dataclass(frozen=True)
class Candidate:
    """One answer for the cells that were marked when Infill was pressed."""

    seed: int
    fill: Fill


@dataclass(frozen=True)
class View:
    """What is marked, locked and answered in a version. Candidates stay until the next fill, whatever is marked."""

    cells: tuple[Cell, ...] = ()
    locked: tuple[Lock, ...] = ()
    answered: tuple[Cell, ...] = ()  # the cells that the candidates are for
    candidates: tuple[Candidate, ...] = ()
    chosen: int = -1  # of the candidates; -1: what stands in the song

    def to_json(self) -> bytes:
        """What `view_from_json` reads."""
        return json.dumps(vars(self), default=vars).encode()


@dataclass(frozen=True)
class Version:
    """The work after a step, which undo takes back.

    It consists of the file FILE.mid and of `new_tracks` (program, whether drums): tracks that were added, no part of
    the file until bars of them are kept.
    """

    number: int
    file: int
    what: str  # was done
    name: str  # of the song
    new_tracks: tuple[tuple[int, bool], ...] = ()
    taken: tuple[tuple[int, int, bool], ...] = ()  # tracks taken for another program, or drums, than the file says
    view: View = View()


def view_from_json(data: bytes) -> View:
    """ValueError, KeyError or TypeError for what is no view."""
    record: dict[str, Any] = json.loads(data)
    return View(
        tuple(Cell(t, b) for t, b in record["cells"]),
        tuple((t, onset, pitch) for t, onset, pitch in record["locked"]),
        tuple(Cell(t, b) for t, b in record["answered"]),
        tuple(
            Candidate(c["seed"], {int(t): [Note(*n) for n in notes] for t, notes in c["fill"].items()})
            for c in record["candidates"]
        ),
        record["chosen"],
    )


def over_added_track(here: View, there: View, shared: int) -> View:
    """The view after a step from `here` over an added track to `there`; they have the first `shared` tracks in common.

    What is marked and locked on those stays, what was on the track that comes back is there again. The candidates are
    `there`'s if those of `here` are for the track that goes, or its own for the one that comes.
    """
    cells = (*(c for c in here.cells if c.track < shared), *(c for c in there.cells if c.track >= shared))
    locked = (*(x for x in here.locked if x[0] < shared), *(x for x in there.locked if x[0] >= shared))
    shelf = there if any(t >= shared for t, _ in (*here.answered, *there.answered)) else here
    return View(cells, locked, shelf.answered, shelf.candidates, shelf.chosen)
