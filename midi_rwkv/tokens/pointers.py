"""What the next note can be pointed at from: classes of its attributes that lie at a distance from something known.

A head alone would have to learn anew for every pitch what a third above it is, and for every position what an eighth
after it is. So for some bases the hidden vector says how much likelier each distance from the base is (its gates), and
that is added to the logits at the base plus the distance: model/marks.py in PyTorch, engine/marks.py in NumPy.

- Place: the next note of the source that is followed and of the best that says something else, the next place where
  another track strikes, what the two best cells of the memory say, and the distances from the note before.
- Pitch: what the second of these sources has; the distances from the first's note and from the note before; in pitch
  classes, those from the lowest and from the highest pitch of the other tracks, and whether the pitch class sounds in
  them; what the two best cells of the memory have.
- Micro-timing, velocity and duration: what the source has; of the latter two, also what other tracks strike there; and
  what the memory has.
"""

from __future__ import annotations

import numpy as np

from .attributes import PITCH_CLASSES, Column

END, SAME, FIRST_POSITION = 0, 1, 2  # classes of the place
PITCH_STAGE = 2  # place, micro-timing, pitch, velocity, duration
PLACE_REACH = 96  # positions after the note before
THERE_REACH, BEFORE_REACH = 12, 24  # semitones up and down
EDGES = (Column.LOWEST, Column.HIGHEST)
PITCH_PARTS = (1, 2 * THERE_REACH + 1, 2 * BEFORE_REACH + 1, *[PITCH_CLASSES] * len(EDGES), 1, 2)
POINTED_PLACES = 5  # of the sources two, where another track strikes, and of the memory two
STRUCK = {3: Column.STRUCK_VELOCITY, 4: Column.STRUCK_DURATION}  # by stage
GATES = (POINTED_PLACES + PLACE_REACH, 2, sum(PITCH_PARTS), 3, 3)  # by stage
# Those that point from the sources, and those that point from the memory.
SOURCE_GATES = (slice(2), slice(1), slice(sum(PITCH_PARTS[:2])), slice(1), slice(1))
MEMORY_GATES = (slice(3, 5), slice(1, 2), slice(sum(PITCH_PARTS[:-1]), None), slice(2, 3), slice(2, 3))


def places_known(steps: np.ndarray, nothing: int) -> np.ndarray:
    """What steps tell of the place that comes next, (n, 6): the class of what the first and the second source say, that
    of the place where another track strikes next, those of what the two best cells of the memory say, -1 for none; and
    the position of the step's own note, -1 where it has none.

    nothing: the value of the columns where nothing comes next; for a source that is the cell's end.
    """
    position = steps[:, Column.POSITION].astype(np.int64)
    struck = steps[:, Column.NEXT_STRUCK].astype(np.int64)
    classes = []
    for column in (Column.NEXT_THERE, Column.NEXT_SECOND, Column.MEMORY_NEXT, Column.MEMORY_NEXT_SECOND):
        there = steps[:, column].astype(np.int64)
        same = (there == position) & (there > 0)
        classes.append(np.select([there == 0, there == nothing, same], [-1, END, SAME], FIRST_POSITION - 1 + there))
    of_struck = np.where((struck == 0) | (struck == nothing), -1, FIRST_POSITION - 1 + struck)
    return np.stack([*classes[:2], of_struck, *classes[2:], position - 1], 1)
