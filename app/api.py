"""The endpoints for programs: inspect, infill, personalize, styles. With `--mcp` they are also MCP tools.

`infill` names its parameters as MIDI-GPT's requests do: tracks, bars (both 0-based lists), temperature, top_p, seed,
num_candidates.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import FileData
from gradio.events import api
from gradio.utils import get_upload_folder, is_in_or_equal

from midi_rwkv.errors import RequestError
from midi_rwkv.files import whole_file
from midi_rwkv.fill.arguments import parse_key
from midi_rwkv.model.config import SamplingConfig, check_seed
from midi_rwkv.score.describe import remarks, track_rows
from midi_rwkv.score.instruments import find_program
from midi_rwkv.score.midi import read_midi
from midi_rwkv.score.score import Cell, Region, Score
from midi_rwkv.score.splice import splice
from midi_rwkv.style.style import blend, find_style, load_style, read_info, style_files

from .faults import one_line
from .learn import alone
from .session import check_size
from .work import FillRequest, Worker

MOST_CANDIDATES = 8
API_REMEDY = "name an instrument for {them} in `instruments`"  # the advice for tracks that look like drums


def add_api(worker: Worker) -> None:
    """Adds the endpoints to the page that is being built."""
    for endpoint in endpoints(worker, _path, _hand_out):
        api(endpoint, api_name=endpoint.__name__)


def endpoints(
    worker: Worker, find: Callable[[Any], Path], give: Callable[[str, bytes], Any]
) -> tuple[Callable[..., Any], ...]:
    """The functions inspect, infill, personalize and styles. They raise gr.Error with a one-line message.

    Args:
        find: returns the file of a song that a caller names, or raises RequestError if the caller may not read it
        give: returns what the caller gets for an answer, from its file name and content
    """

    def read(song: Any) -> tuple[bytes, Score]:
        path = find(song)
        data = path.read_bytes()
        score = read_midi(data, path.name)
        check_size(score)
        return data, score

    def inspect(song: FileData, instruments: dict[str, str] | None = None) -> dict[str, Any]:
        """List the content of a MIDI file: its bars, their metres, and its tracks with the notes in each bar.

        A track that changes its instrument has a row for each.

        Args:
            song: a MIDI file
            instruments: how to interpret tracks, by 0-based number, like {"0": "Drums"}; others follow the file
        """
        with _one_line_errors():
            return _inspect(_take(read(song)[1], instruments))

    def infill(  # noqa: PLR0913 - Gradio makes the endpoint's fields of its parameters
        song: FileData,
        tracks: list[int],
        bars: list[int],
        num_candidates: int = 1,
        temperature: float = SamplingConfig.temperature,
        top_p: float = 0.95,
        seed: int = -1,
        density: list[int] | None = None,
        polyphony: list[int] | None = None,
        pitch_range: list[int] | None = None,
        key: str = "",
        style: str = "",
        style_strength: float = 1.0,
        follow: float = 1.0,
        instruments: dict[str, str] | None = None,
        style_file: FileData | None = None,
    ) -> tuple[list[FileData], dict[str, Any]]:
        """Rewrite some bars of some tracks; everything else in the file stays as it is.

        Args:
            song: a MIDI file
            tracks: 0-based track numbers, as `inspect` lists them
            bars: 0-based bar numbers; bars after the last continue the song
            num_candidates: the number of answers, 1-8
            temperature: higher is bolder, lower is plainer
            top_p: sample from the most probable tokens that together have this probability
            seed: 0 to 2^63 - 1; the same seed gives the same notes; -1 draws a new one
            density: fewest and most notes per bar
            polyphony: fewest and most notes struck together
            pitch_range: lowest and highest MIDI pitch
            key: use only pitches of this key, like "A minor"
            style: a style's name, or a blend like "mine:0.7,bach:0.3"
            style_strength: 0 is no style
            follow: how far the song's own bars are followed: 1 as songs do, 0 not at all
            instruments: how to interpret tracks, as in `inspect`; the file keeps its programs
            style_file: a style's .safetensors file, instead of `style`
        """
        with _one_line_errors():
            data, score = read(song)
            _check_numbers(tracks=tracks, bars=bars)
            _check_numbers(density=density or [], polyphony=polyphony or [], pitch_range=pitch_range or [])
            _check_numbers(num_candidates=[num_candidates], seed=[seed])
            _check_numbers(float, temperature=[temperature], top_p=[top_p], style_strength=[style_strength])
            _check_numbers(float, follow=[follow])
            if seed != -1:
                check_seed(seed)
            if not 1 <= num_candidates <= MOST_CANDIDATES:
                raise RequestError(f"num_candidates must be 1-{MOST_CANDIDATES}, got {num_candidates}")
            score = _take(score, instruments)
            region = Region(frozenset(Cell(int(t), int(b)) for t in tracks for b in bars))
            sampling = SamplingConfig(
                temperature=temperature,
                top_p=top_p,
                density=_span("density", density),
                polyphony=_span("polyphony", polyphony),
                pitch_range=_span("pitch_range", pitch_range),
                key=parse_key(key or None, "key"),
                follow=follow,
            )
            if style and style_file:
                raise RequestError("give style or style_file, not both")
            if style_file:
                found = blend([(load_style(find(style_file), worker.checkpoint), 1.0)], style_strength)
            else:
                found = find_style(style or None, worker.checkpoint, style_strength if style else 1.0, names_only=True)
            number = secrets.randbelow(2**31) if seed == -1 else seed
            fills = []
            for event in worker.infill(FillRequest(score, region, sampling, num_candidates, number, found)):
                if isinstance(event, list):
                    fills = event
            stem = Path(score.name).stem
            answers = [give(f"{stem}-{i + 1}.mid", splice(data, score, region, fill)) for i, fill in enumerate(fills)]
            notes = [sum(len(n) for n in fill.values()) for fill in fills]
            return answers, {
                "seed": number,
                "notes": notes,
                "tracks": list(region.tracks),
                "bars": list(region.bars),
                "warnings": remarks(score, API_REMEDY),
            }

    def personalize(
        files: list[FileData],
        name: str,
        overwrite: bool = False,  # noqa: FBT001, FBT002 - see `infill`
    ) -> dict[str, Any]:
        """Learn a style from a few MIDI files, preferably five or more. This takes minutes.

        The style is kept if it helps on music that it was not tuned on.

        Args:
            files: MIDI files
            name: the name of the style
            overwrite: replace a style of that name
        """
        with _one_line_errors():
            made = alone([find(f) for f in files], name, worker.checkpoint, overwrite=overwrite)
            return {
                "style": name if made.path else None,
                "held_out_before": made.before,
                "held_out_after": made.after,
                "skipped": {Path(f).name: why for f, why in made.skipped.items()},
            }

    def styles() -> list[dict[str, Any]]:
        """List the styles that `infill` accepts, and what is known about each."""
        return [{"name": path.stem, **read_info(path)} for path in style_files()]

    return inspect, infill, personalize, styles


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """Turns every error into a one-line error for the caller."""
    try:
        yield
    except Exception as error:
        raise gr.Error(one_line(error), print_exception=False) from None


def _path(file: Any) -> Path:
    """The path of an uploaded file. Raises RequestError for a path that was not uploaded."""
    path = file.get("path") if isinstance(file, dict) else None
    if not isinstance(path, str) or not is_in_or_equal(path, get_upload_folder()) or not Path(path).is_file():
        raise RequestError("this is no uploaded file; upload it first, or use gradio_client.handle_file")
    return Path(path)


def keep_upload(name: str, data: bytes) -> Path:
    """Stores a file under that name in the folder of uploads, whose size `uploads.py` limits."""
    folder = Path(get_upload_folder()) / secrets.token_hex(16)
    folder.mkdir(parents=True)
    with whole_file(folder / name) as partial:
        partial.write_bytes(data)
    return folder / name


def _hand_out(name: str, data: bytes) -> Any:
    return {"path": str(keep_upload(name, data)), "orig_name": name, "meta": {"_type": "gradio.FileData"}}


def _check_numbers(kind: type = int, **given: Any) -> None:
    """Raises RequestError unless each is a list of whole numbers, or of any numbers if `kind` is float."""
    for name, values in given.items():
        numbers = isinstance(values, list) and all(isinstance(v, int | kind) for v in values)
        if not numbers or any(isinstance(v, bool) for v in values):
            what = "whole numbers" if kind is int else "a number"
            raise RequestError(f"{name} must be {what}, got {str(values)[:60]}")


def _span(name: str, values: list[int] | None) -> tuple[int, int] | None:
    if values is None:
        return None
    if len(values) != 2:
        raise RequestError(f"{name} must be two numbers, the least and the most, got {values}")
    return values[0], values[1]


def _take(score: Score, instruments: dict[str, str] | None) -> Score:
    """The score with tracks treated as these instruments. Raises RequestError for an unknown track or instrument."""
    for track, name in (instruments or {}).items():
        if not re.fullmatch("[0-9]{1,9}", track):
            raise RequestError(f'instruments must be by 0-based track number, like {{"0": "Drums"}}, got {track!r}')
        program, is_drum = find_program(str(name))
        score = score.with_instrument(int(track), program, is_drum=is_drum)
    return score


def _inspect(score: Score) -> dict[str, Any]:
    return {
        "name": score.name,
        "first_bar_number": score.first_bar_number,
        "tempo_bpm": round(score.tempo_at(0), 2),
        "time_signatures": [f"{b.numerator}/{b.denominator}" for b in score.bars],
        "tracks": [
            {
                "track": row["number"] - 1,
                "name": row["name"],
                "instrument": row["instrument"],
                "from_bar": row["from_bar"] - score.first_bar_number,
                "notes": row["notes"],
                "notes_per_bar": row["notes_per_bar"],
            }
            for row in track_rows(score)
        ],
        "warnings": remarks(score, API_REMEDY),
    }
