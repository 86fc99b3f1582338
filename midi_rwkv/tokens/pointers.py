"""What the next note can be pointed at from: classes of its attributes that lie at a distance from something known.

A head alone would have to learn anew for every pitch what a third above it is, and for every position what an eighth
after it is. So for some bases the hidden vector says how much likelier each distance from the base is (its gates), and
that is added to the logits at the base plus the distance: model/marks.py in PyTorch, engine/marks.py in NumPy.

- Place: the reference's next note, the next place where another track strikes, and the distances from the note before.
- Pitch: the distances from the reference's note and from the note before; in pitch classes, those from the lowest and
  from the highest pitch of the other tracks, and whether the pitch class sounds in them.
- Micro-timing, velocity and duration: what the reference has; of the latter two, also what other tracks strike there.
"""

from __future__ import annotations

import numpy as np

from .attributes import PITCH_CLASSES, Column

END, SAME, FIRST_POSITION = 0, 1, 2  # classes of the place
PITCH_STAGE = 2  # place, micro-timing, pitch, velocity, duration
PLACE_REACH = 96  # positions after the note before
THERE_REACH, BEFORE_REACH = 12, 24  # semitones up and down
EDGES = (Column.LOWEST, Column.HIGHEST)
PITCH_PARTS = (2 * THERE_REACH + 1, 2 * BEFORE_REACH + 1, *[PITCH_CLASSES] * len(EDGES), 1)
STRUCK = {3: Column.STRUCK_VELOCITY, 4: Column.STRUCK_DURATION}  # by stage
GATES = (2 + PLACE_REACH, 1, sum(PITCH_PARTS), 2, 2)  # by stage


def places_known(steps: np.ndarray, nothing: int) -> np.ndarray:
    """What steps tell of the place that comes next, (n, 3): the class of the reference's next note, that of the place
    where another track strikes next, -1 for none; and the position of the step's own note, -1 where it has none.

    nothing: the value of NEXT_STRUCK and NEXT_THERE where nothing comes next; for the reference that is the cell's end.
    """
    there, struck = steps[:, Column.NEXT_THERE].astype(np.int64), steps[:, Column.NEXT_STRUCK].astype(np.int64)
    same = (there == steps[:, Column.POSITION]) & (there > 0)
    of_there = np.select([there == 0, there == nothing, same], [-1, END, SAME], FIRST_POSITION - 1 + there)
    of_struck = np.where((struck == 0) | (struck == nothing), -1, FIRST_POSITION - 1 + struck)
    return np.stack([of_there, of_struck, steps[:, Column.POSITION].astype(np.int64) - 1], 1)
