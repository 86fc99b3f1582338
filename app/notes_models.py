"""What programs send to and get from `/api/` (notes_api.py), as its OpenAPI description has it.

Times are in quarter notes from the start of the song. Tracks and bars are counted from 1, as people count them, and
wishes are written as the options of `midi-rwkv infill` are.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from midi_rwkv.model.config import SamplingConfig
from midi_rwkv.score.from_notes import Part, score_of
from midi_rwkv.score.score import Score

Beat = Annotated[float, Field(allow_inf_nan=False)]
Row = tuple[Beat, int, Beat, int]
NOTES = "onset, MIDI pitch (C4 = 60), duration and velocity of each note"


class TrackNotes(BaseModel):
    """A track of a song."""

    name: str = ""
    program: int = Field(0, description="General MIDI, 0-127")
    drums: bool = False
    notes: list[Row] = Field([], description=NOTES)


class Song(BaseModel):
    """A song; what `midi-rwkv infill --format json` writes is one, too."""

    name: str = "song"
    tempo: list[tuple[Beat, Beat]] = Field([(0.0, 120.0)], description="beat and quarter notes per minute, ascending")
    metre: list[tuple[Beat, str]] = Field([(0.0, "4/4")], description="beat and metre, ascending")
    tracks: list[TrackNotes]

    def score(self) -> Score:
        """Raises RequestError for a value out of range."""
        parts = [Part(t.name, t.program, t.drums, t.notes) for t in self.tracks]
        return score_of(parts, self.tempo, self.metre, self.name)


class OfSong(BaseModel):
    """A song to look at."""

    model_config = ConfigDict(extra="forbid")
    song: Song


class InfillRequest(BaseModel):
    """Which bars of which tracks to write, and what the notes must be like."""

    model_config = ConfigDict(extra="forbid")
    song: Song
    tracks: list[int] = Field(description="numbers of tracks, from 1")
    bars: str = Field(description='bars or beats, as "8-12" or "8.3-9.2", both included')
    candidates: int = Field(1, description="answers, 1-8")
    seed: int | None = Field(None, description="the same seed, the same notes; null draws one")
    temperature: Beat = SamplingConfig.temperature
    top_p: Beat = SamplingConfig.top_p
    min_p: Beat = SamplingConfig.min_p
    follow: Beat = Field(1.0, description="how far the song's own bars are followed, 0-1")
    density: str = Field("", description='notes a bar, as "4-8", or sparse, normal or busy')
    polyphony: str = Field("", description='notes struck together, as "1-2"')
    pitch_range: str = Field("", description='as "C3-C6"')
    key: str = Field("", description='as "A minor"')
    only: str = Field("", description='replace and write only notes of these pitches, as "C4-C7"')
    keep: list[str] = Field([], description='rhythm, pitches, contour, velocities, or pitches as "C1-B3"')
    lock: list[str] = Field([], description='notes that stay, as "9.1:C4": bar, beat and pitch')
    vary: Beat | None = Field(None, description="the share of the notes to write anew, 0-1")
    chords: str = Field("", description='as "Am F | C G/B"; "auto": those that the other tracks play')
    chords_bass: str = Field("root", description="root, or free")
    like: str = Field("", description='bars to follow, as "1-4" or "Lead:9-12"; none; itself')
    again: bool = Field(default=False, description="whether what stood in these bars may come back")
    feel: str = Field("track", description='track, grid, model, or bars as "5-8"')
    no_quotes: int | None = Field(None, description="repeat no run of so many notes, 12 or more, from other music")
    style: str = Field("", description='a style\'s name, or a blend as "mine:0.7,bach:0.3"')
    style_strength: Beat = 1.0
    style_memory: Beat | None = Field(None, description="null: as style_strength")
    context_bars: int | None = Field(None, description="bars that are read on each side; null: as many as fit")


class TrackFill(BaseModel):
    """All notes of a track in the asked bars: new ones, and those that stay."""

    number: int = Field(description="of the track, from 1")
    notes: list[Row] = Field(description=NOTES)


class CandidateFill(BaseModel):
    """An answer, and where its notes come from (as in the report of `midi-rwkv infill --json`)."""

    tracks: list[TrackFill]
    quoted_bars: list[dict[str, Any]]
    training_run: list[dict[str, int]] | None
    style_run: list[dict[str, int]] | None


class Answer(BaseModel):
    """All candidates, the best first."""

    candidates: list[CandidateFill]
    seed: int
    seconds: float
    warnings: list[str]


class SongFile(BaseModel):
    """A MIDI file."""

    model_config = ConfigDict(extra="forbid")
    name: str = "song.mid"
    content: str = Field(description="base64")


class PersonalizeRequest(BaseModel):
    """Pieces to learn a style from, five or more at best."""

    model_config = ConfigDict(extra="forbid")
    name: str
    files: list[SongFile]
    overwrite: bool = False


class Learned(BaseModel):
    """What came of it, in nats a note on what was held out; `style` is null where it was not kept."""

    style: str | None
    gains: list[dict[str, Any]]
    skipped: dict[str, str]
