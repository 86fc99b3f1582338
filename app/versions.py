"""The contents of a session: the versions of the song, with the marks and candidates of each."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from midi_rwkv.score.score import Cell, Note

Lock = tuple[int, int, int]  # track, onset in ticks, pitch
Fill = dict[int, list[Note]]


@dataclass(frozen=True)
class StoredCandidate:
    """A candidate as it is kept on disk: its new notes, for the cells that were marked when Infill was pressed."""

    seed: int
    fill: Fill
    place: int = 0  # in the plain order, without a taste
    liked: int = 0  # 1: starred; -1: thrown away


@dataclass(frozen=True)
class View:
    """The marks, locks and candidates of a version. Candidates stay until the next fill, whatever is marked."""

    cells: tuple[Cell, ...] = ()
    locked: tuple[Lock, ...] = ()
    answered: tuple[Cell, ...] = ()  # the cells that the candidates are for
    candidates: tuple[StoredCandidate, ...] = ()
    chosen: int = -1  # index of the chosen candidate; -1: the song as it is
    ask: str = ""  # tells the candidates from those of other fills

    def to_json(self) -> bytes:
        """The form that `view_from_json` reads."""
        return json.dumps(vars(self), default=vars).encode()


@dataclass(frozen=True)
class Version:
    """The song after a step that undo can take back.

    It consists of the file FILE.mid and of `new_tracks` (program, whether drums). These are tracks that were added;
    they are not in the file until bars of them are kept.
    """

    number: int
    file: int
    what: str  # what the step did
    name: str  # the song's name
    new_tracks: tuple[tuple[int, bool], ...] = ()
    taken: tuple[tuple[int, int, bool], ...] = ()  # tracks that are treated as another program, or as drums
    view: View = View()


def view_from_json(data: bytes) -> View:
    """Reads a view. Raises ValueError, KeyError or TypeError if it is none."""
    record: dict[str, Any] = json.loads(data)
    return View(
        tuple(Cell(t, b) for t, b in record["cells"]),
        tuple((t, onset, pitch) for t, onset, pitch in record["locked"]),
        tuple(Cell(t, b) for t, b in record["answered"]),
        tuple(
            StoredCandidate(
                c["seed"],
                {int(t): [Note(*n) for n in notes] for t, notes in c["fill"].items()},
                c.get("place", i),
                c.get("liked", 0),
            )
            for i, c in enumerate(record["candidates"])
        ),
        record["chosen"],
        record.get("ask", ""),
    )


def over_added_track(here: View, there: View, shared: int) -> View:
    """The view after an undo or redo of an added track, from the view `here` to the view `there`.

    Both have the first `shared` tracks in common. Marks and locks on those stay, and those of a track that comes back
    return. The candidates are those of `there` if they, or those of `here`, are for the track that comes or goes.
    """
    cells = (*(c for c in here.cells if c.track < shared), *(c for c in there.cells if c.track >= shared))
    locked = (*(x for x in here.locked if x[0] < shared), *(x for x in there.locked if x[0] >= shared))
    shelf = there if any(t >= shared for t, _ in (*here.answered, *there.answered)) else here
    return View(cells, locked, shelf.answered, shelf.candidates, shelf.chosen, shelf.ask)
