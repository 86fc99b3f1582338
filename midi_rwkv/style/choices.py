"""What a listener chose among candidates, kept in one file of the user's data folder; nothing of it leaves the machine.

The file has one JSON object a line, one for each ask, the latest last: what was kept, starred and thrown away, by
index, and the numbers that describe each candidate (evaluation/candidates.py). It has no notes, and no names of songs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from midi_rwkv.files import whole_file

PLACE = "place"  # a row of `Choice.rows`: where each candidate stands in the plain order, from 0
MOST = 2000  # asks that are remembered
DIGITS = 4
Rows = Mapping[str, Sequence[float]]  # by feature, one number a candidate; nan where there is nothing to tell


@dataclass(frozen=True)
class Choice:
    """What became of the candidates of one ask, in the order in which they were shown."""

    ask: str  # tells asks apart; what is said later of the same ask replaces what was said before
    rows: Rows  # `PLACE` and the features
    kept: int | None = None
    starred: tuple[int, ...] = ()
    thrown: tuple[int, ...] = ()

    @property
    def candidates(self) -> int:
        """How many there were."""
        return len(self.rows[PLACE])

    @property
    def levels(self) -> list[int]:
        """How much each is liked: kept 2, starred 1, thrown away -1, else 0."""
        stars, thrown = set(self.starred), set(self.thrown)
        return [2 if i == self.kept else (i in stars) - (i in thrown) for i in range(self.candidates)]


class Choices:
    """The record of all choices. Every change writes the file whole, and only its user can read it."""

    def __init__(self, folder: Path | None = None):
        """`folder` is None for the user's data folder."""
        self.folder = folder or taste_folder()

    @property
    def path(self) -> Path:
        return self.folder / "choices.jsonl"

    @property
    def is_on(self) -> bool:
        """Whether choices are recorded and the taste is used."""
        return not self._off.exists()

    def switch(self, *, on: bool) -> None:
        """Starts or stops recording and using; what is recorded stays."""
        with self._alone():
            if on:
                self._off.unlink(missing_ok=True)
            else:
                self._off.touch()

    @property
    def state(self) -> tuple[int, int]:
        """What changes whenever the file does: when it was written, and its size."""
        try:
            found = self.path.stat()
        except OSError:
            return 0, 0
        return found.st_mtime_ns, found.st_size

    def read(self) -> list[Choice]:
        """All choices, the latest last."""
        return read_choices(self.path)

    def record(self, choice: Choice) -> None:
        """Adds a choice, or replaces what was said of its ask; one that says nothing is left out. Raises OSError."""
        with self._alone():
            others = [c for c in self.read() if c.ask != choice.ask]
            write_choices(self.path, [*others, choice][-MOST:] if len(set(choice.levels)) > 1 else others)

    def take_back(self, ask: str) -> None:
        """What was kept of an ask no longer is; stars and what was thrown away stay. Raises OSError."""
        for choice in self.read():
            if choice.ask == ask and choice.kept is not None:
                self.record(replace(choice, kept=None))

    def forget(self) -> int:
        """Deletes everything that is recorded, and says how many asks that were."""
        if not self.path.exists():
            return 0
        with self._alone():
            count = len(self.read())
            self.path.unlink(missing_ok=True)
        return count

    @property
    def _off(self) -> Path:
        return self.folder / "off"

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Several servers and commands may share the folder."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with FileLock(self.folder / ".lock", mode=0o600, timeout=10):
            yield


def taste_folder() -> Path:
    """The folder of the record, in the user's data folder."""
    import platformdirs

    return platformdirs.user_data_path("midi-rwkv") / "taste"


def read_choices(path: Path) -> list[Choice]:
    """The choices in a file. Lines that cannot be read are left out, and so is a file that cannot be."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return []
    return [choice for line in text.splitlines() if (choice := _parsed(line))]


def write_choices(path: Path, choices: Sequence[Choice]) -> None:
    """Writes a file of choices, completely or not at all. Only this user can read it. Raises OSError."""
    with whole_file(path) as partial:
        partial.touch(mode=0o600)
        partial.write_text("".join(f"{_line(c)}\n" for c in choices), encoding="utf-8")


def _line(choice: Choice) -> str:
    rows = {
        name: [None if math.isnan(v) else round(float(v), DIGITS) for v in values]
        for name, values in choice.rows.items()
    }
    return json.dumps({**asdict(choice), "rows": rows}, separators=(",", ":"))


def _parsed(line: str) -> Choice | None:
    try:
        told: dict[str, Any] = json.loads(line)
        rows = {
            str(name): [math.nan if v is None else float(v) for v in values] for name, values in told["rows"].items()
        }
        kept = None if told["kept"] is None else int(told["kept"])
        marks = (tuple(map(int, told[name])) for name in ("starred", "thrown"))
        choice = Choice(str(told["ask"]), rows, kept, *marks)
        count = choice.candidates
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    used = [*choice.starred, *choice.thrown, *([] if kept is None else [kept])]
    fits = all(len(values) == count for values in rows.values()) and all(0 <= i < count for i in used)
    return choice if fits else None
