"""A request for a fill: the page's settings, and the cells of a score to write."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, fields, replace
from typing import Any

from midi_rwkv.errors import RequestError
from midi_rwkv.fill.arguments import parse_density, parse_key, parse_pitch, parse_range
from midi_rwkv.fill.ask import Ask
from midi_rwkv.fill.wishes import Wishes, Wording, ask_for
from midi_rwkv.model.config import SamplingConfig
from midi_rwkv.model.step_checkpoint import StepCheckpoint
from midi_rwkv.score.score import Note, Region, Score
from midi_rwkv.style.style import Style, find_style

from .session import TabSession
from .versions import Fill
from .work import FillRequest, half_of

NO_STYLE = "none"
ANY_KEY = "any"
LABELS = {  # used on the page and in its messages
    "candidates": "Candidates",
    "temperature": "Temperature",
    "follow": "Follow the song",
    "style": "Style",
    "strength": "Strength",
    "memory": "Memory",
    "density": "Notes a bar",
    "polyphony": "Notes at once",
    "pitch_range": "Range",
    "key": "Key",
    "seed": "Seed",
    "chords": "Chords",
    "keep": "Keep",
    "vary": "Vary",
    "like": "Like",
    "feel": "Feel",
}
KEEP_NOTHING = "nothing"


@dataclass(frozen=True)
class Settings:
    """The values of the page's fields."""

    candidates: int
    temperature: float
    follow: float
    style: str
    strength: float
    memory: float
    density: str
    polyphony: str
    pitch_range: str
    key: str
    seed: str
    chords: str
    keep: str
    vary: float
    like: str
    feel: str

    @property
    def sampling(self) -> SamplingConfig:
        """The sampling options. A RequestError names the wrong field by its label."""
        try:
            return SamplingConfig(
                temperature=self.temperature,
                density=parse_density("density", self.density.strip() or None),
                polyphony=parse_range("polyphony", self.polyphony.strip() or None),
                pitch_range=parse_range("pitch_range", self.pitch_range.strip() or None, parse_pitch),
                key=parse_key(None if self.key in ("", ANY_KEY) else self.key, "key"),
                follow=self.follow,
            )
        except RequestError as error:
            name = re.split(r"\W", str(error), maxsplit=1)[0]
            raise RequestError(LABELS.get(name, name) + str(error)[len(name) :]) from None

    def ask(self, session: TabSession, score: Score, region: Region, **others: Any) -> Ask:
        """The request for a fill of a region of a score that the session's song makes. `others`: see `ask_for`.

        A RequestError names the wrong field by its label.
        """
        wishes = Wishes(
            keep=() if self.keep in ("", KEEP_NOTHING) else (self.keep,),
            vary=self.vary or None,
            chords=self.chords,
            like=self.like,
            feel=self.feel,
        )
        wording = Wording(lambda name: LABELS.get(name, name), session.data)
        return ask_for(wishes, score, region, wording=wording, candidates=self.candidates, **others)

    def read_seed(self) -> int:
        """The seed, or a new one if the field is empty. Raises RequestError for anything that is not a seed."""
        text = self.seed.strip()
        if not text:
            return secrets.randbelow(2**31)
        if not re.fullmatch("[0-9]{1,19}", text) or int(text) >= 2**63:
            raise RequestError(f"Seed must be a whole number from 0 to 2^63 - 1, got {text[:40]!r}")
        return int(text)

    def find_style(self, checkpoint: StepCheckpoint) -> Style | None:
        """The style at its strength, or None. Raises StyleError if it cannot be used."""
        if not self.style or self.style == NO_STYLE:
            return None
        return find_style(self.style, checkpoint, self.strength, memory=self.memory, names_only=True)


FIELDS = tuple(field.name for field in fields(Settings))


@dataclass(frozen=True)
class Plan:
    """A fill, and what becomes of it.

    Attributes:
        answered: the cells that the candidates are for. If part of the chosen candidate stays, not all are written.
        kept: the notes of the chosen candidate that stay.
    """

    request: FillRequest
    answered: Region
    kept: Fill


def plan(session: TabSession, settings: Settings, checkpoint: StepCheckpoint, *, alike: bool) -> Plan:
    """A plan for all marked cells, or with `alike` for about half of the chosen candidate's, keeping its other cells.

    With `alike`, a single cell is rewritten at a lower temperature. Raises RequestError if nothing is marked or chosen,
    or if a setting is wrong.
    """
    sampling, seed, style = settings.sampling, settings.read_seed(), settings.find_style(checkpoint)
    score = session.score
    kept: dict[int, list[Note]] = {}
    if not alike:
        answered = region = session.region
    elif session.chosen is None:
        raise RequestError("no candidate is chosen; infill first, then pick one")
    else:
        answered, base = session.chosen
        score = score.with_fill(answered, base)
        half = half_of(answered, seed)
        region = half or answered
        if half is None:
            sampling = replace(sampling, temperature=min(sampling.temperature, 0.7))
        else:
            kept = {t: _outside(score, half, t, notes) for t, notes in base.items()}
    locked = session.locked_notes(region)
    ask = settings.ask(session, score, region, sampling=sampling, seed=seed, locked=locked)
    return Plan(FillRequest(score, ask, style), answered, kept)


def settings_of(values: tuple[Any, ...]) -> Settings:
    """The settings from the page's fields, in order; an empty field is None."""
    given: dict[str, Any] = {name: "" if value is None else value for name, value in zip(FIELDS, values, strict=True)}
    return Settings(**given)


def _outside(score: Score, region: Region, track: int, notes: list[Note]) -> list[Note]:
    return [n for n in notes if (track, score.bar_of(track, n.onset_ticks)) not in region.cells]
