"""The plans of a region's cells, where something of their notes is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from midi_rwkv.errors import RequestError
from midi_rwkv.score.score import Cell, Note
from midi_rwkv.tokens.notes import AT, BarGrid

from .blank import Blanked
from .encoder import Encoder
from .plan import CellPlan
from .rules import Rules


@dataclass(frozen=True)
class Plans:
    """What is kept of each cell to write: by cell its plan, and the notes that it replaces, in the plan's order."""

    plans: Mapping[Cell, CellPlan]
    replaced: Mapping[Cell, list[Note]]

    def of(self, cell: Cell) -> CellPlan | None:
        """The plan of a cell, None where it is written freely."""
        return self.plans.get(cell)

    def restored(self, cell: Cell, notes: list[Note]) -> list[Note]:
        """A cell's new notes with what is kept exactly as it was."""
        plan = self.of(cell)
        return notes if plan is None else plan.restored(notes, self.replaced[cell])


def make_plans(blanked: Blanked, rules: Rules, encoder: Encoder, grid: BarGrid) -> Plans:
    """The plans of an ask. Raises RequestError where what is kept doesn't fit its other wishes."""
    ask = blanked.ask
    plans: dict[Cell, CellPlan] = {}
    replaced: dict[Cell, list[Note]] = {}
    if not ask.keep:
        return Plans(plans, replaced)
    _check_together(blanked)
    for cell in sorted(ask.region.cells):
        notes, replaced[cell] = _replaced(blanked, encoder, grid, cell)
        free = _free(rules, cell, notes, replaced[cell], rhythm="rhythm" in ask.keep)
        plan = plans[cell] = CellPlan(notes, ask.keep, free, single=cell.track in rules.single)
        _check_cell(blanked, cell, plan)
    if not any(replaced.values()):
        raise RequestError("nothing is there to keep; write new notes without keeping anything")
    return Plans(plans, replaced)


def _check_together(blanked: Blanked) -> None:
    """Refuses wishes that cannot be met together with what is kept."""
    ask, polyphony = blanked.ask, blanked.ask.sampling.polyphony
    if ask.quotes is not None:
        raise RequestError("what is kept and no quotes cannot be met together; leave one of them out")
    if polyphony and polyphony != (1, 1):
        raise RequestError(f"what is kept takes no polyphony but 1, got {polyphony[0]}-{polyphony[1]}; leave one out")
    if isinstance(ask.sampling.density, str):
        raise RequestError(f"what is kept has its own density; leave the density {ask.sampling.density} out")


def _replaced(blanked: Blanked, encoder: Encoder, grid: BarGrid, cell: Cell) -> tuple[np.ndarray, list[Note]]:
    """The notes that a cell replaces: (n, 5) in order of place and pitch, and each in ticks."""
    score, (t, b) = blanked.score, cell
    if b >= len(score.bars):
        return np.zeros((0, 5), np.int16), []
    there = {*blanked.staying[t], *blanked.ask.locked.get(t, ())}
    old = [n for n in score.notes_in(t, b) if n not in there]
    encoded = encoder.cells(score.with_notes(t, old), [cell], blanked.bars)[cell]
    at = {}
    for note in old:
        position, micro = (int(x[0]) for x in grid.place(np.array([b]), np.array([note.onset_ticks])))
        at[position, micro, note.pitch] = note
    return encoded, [at[position, micro, pitch] for position, micro, pitch in encoded[:, :3].tolist()]


def _free(rules: Rules, cell: Cell, notes: np.ndarray, originals: list[Note], *, rhythm: bool) -> np.ndarray:
    """Where each note may begin, (n, positions, 128)."""
    limits = rules.cell(cell)
    allowed = limits.allowed.copy()
    for place in limits.locked:  # is taken
        allowed[place] = False
    reach = int(notes[:, AT.position].max(initial=-1)) + 1
    if len(notes) and reach > len(allowed):
        allowed = np.concatenate([allowed, np.repeat(allowed[-1:], reach - len(allowed), 0)])
    free = np.repeat(allowed[None], len(notes), 0)
    if rhythm and len(notes):
        onsets = np.array([n.onset_ticks for n in originals])
        pitches = rules.pitches_at(cell, onsets)
        for k, position in enumerate(notes[:, AT.position].tolist()):
            free[k, position] = pitches[k]
    return free


def _check_cell(blanked: Blanked, cell: Cell, plan: CellPlan) -> None:
    score, ask = blanked.score, blanked.ask
    name = f"bar {cell.bar + score.first_bar_number} of track {cell.track + 1} {score.tracks[cell.track].name}".strip()
    count = len(plan.notes) + len(blanked.places.get(cell, ()))
    density = ask.sampling.density
    if isinstance(density, tuple) and not density[0] <= count <= density[1]:
        raise RequestError(
            f"{name}: what is kept has {count} notes and the density asks for {density[0]}-{density[1]}; leave one out"
        )
    if "rhythm" in ask.keep and ask.sampling.polyphony:
        struck = int(np.bincount(plan.notes[:, AT.position]).max(initial=0)) if len(plan.notes) else 0
        if struck > 1:
            raise RequestError(f"{name}: the rhythm kept strikes {struck} notes together and the polyphony allows 1")
    if len(plan.notes) and not plan.can[0].any():
        raise RequestError(
            f"{name}: {' and '.join(sorted(ask.keep))} cannot be kept there beside the other wishes (pitches, key, "
            "chords, notes that stay); leave one of them out"
        )
