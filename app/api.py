"""The endpoints for programs: inspect, infill, personalize, styles. With `--mcp` they are also MCP tools.

`infill` names its parameters as MIDI-GPT's requests do: tracks, bars (both 0-based lists), temperature, top_p, seed,
num_candidates.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import FileData
from gradio.events import api
from gradio.utils import get_upload_folder, is_in_or_equal

from midi_rwkv.errors import RequestError
from midi_rwkv.files import whole_file
from midi_rwkv.fill.arguments import parse_key
from midi_rwkv.fill.wishes import Wishes, Wording, ask_for
from midi_rwkv.model.config import SamplingConfig
from midi_rwkv.score.clip import ENDINGS, Form, in_form
from midi_rwkv.score.describe import remarks, track_rows
from midi_rwkv.score.instruments import find_program
from midi_rwkv.score.midi import Source, load_midi, read_midi
from midi_rwkv.score.score import Score
from midi_rwkv.score.splice import splice
from midi_rwkv.style.style import read_info, style_files

from .asked import (
    check_answers,
    check_numbers,
    check_texts,
    chosen_style,
    density_of,
    drawn,
    region_of,
    span_of,
)
from .faults import one_line
from .learn import alone
from .session import check_size
from .work import FillRequest, Worker

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

    def read(song: Any) -> tuple[Source, Score]:
        path = find(song)
        source = load_midi(path.read_bytes(), path.name)
        score = read_midi(source)
        check_size(score)
        return source, score

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
        density: list[int] | str | None = None,
        polyphony: list[int] | None = None,
        pitch_range: list[int] | None = None,
        key: str = "",
        style: str = "",
        style_strength: float = 1.0,
        follow: float = 1.0,
        instruments: dict[str, str] | None = None,
        style_file: FileData | None = None,
        style_memory: float = -1.0,
        min_p: float = SamplingConfig.min_p,
        context_bars: int = -1,
        beats: str = "",
        only: str = "",
        keep: list[str] | None = None,
        lock: list[str] | None = None,
        vary: float = 0.0,
        chords: str = "",
        chords_bass: str = "root",
        like: str = "",
        like_song: FileData | None = None,
        again: bool = False,  # noqa: FBT001, FBT002
        feel: str = "track",
        no_quotes: int = 0,
        clip: bool = False,  # noqa: FBT001, FBT002
        format: str = "midi",
    ) -> tuple[list[FileData], dict[str, Any]]:
        """Rewrite some bars of some tracks; everything else in the file stays as it is.

        In texts, bars and beats count from 1, as people count them (a pickup is bar 0).

        Args:
            song: a MIDI file
            tracks: 0-based track numbers, as `inspect` lists them
            bars: 0-based bar numbers; bars after the last continue the song
            num_candidates: the number of answers, 1-8
            temperature: higher is bolder, lower is plainer
            top_p: sample from the most probable tokens that together have this probability
            seed: 0 to 2^63 - 1; the same seed gives the same notes; -1 draws a new one
            density: fewest and most notes per bar, or "sparse", "normal" or "busy", relative to the track
            polyphony: fewest and most notes struck together
            pitch_range: lowest and highest MIDI pitch
            key: use only pitches of this key, like "A minor"
            style: a style's name, or a blend like "mine:0.7,bach:0.3"
            style_strength: how strongly what was learned counts, 0-1
            follow: how far the song's own bars are followed: 1 as songs do, 0 not at all
            instruments: how to interpret tracks, as in `inspect`; the file keeps its programs
            style_file: a style's .safetensors file, instead of `style`
            style_memory: how strongly the style's pieces are remembered, 0-1; -1: as `style_strength`
            min_p: drop values whose probability is below this share of the highest
            context_bars: read at most this many bars on each side; -1: as many as fit
            beats: bars and beats, like "8.3-9.2" (both included), instead of `bars`, which is then []
            only: replace and write only notes of these pitches, like "C4-C7"
            keep: what of the present notes stays: "rhythm", "pitches", "contour", "velocities" (with one of the
                others), or the notes of a range of pitches like "C1-B3"
            lock: notes that stay, by bar, beat and pitch, like "9.1:C4"
            vary: the share of the notes to write anew, phrase by phrase, 0-1; 0: all
            chords: the chords under the new notes, bar by bar, like "Am F | C G/B", "file" for those of the file, or
                "auto" for those that the other tracks play
            chords_bass: "root": where a chord begins, the bass plays its root or slash note; "free": any of its tones
            like: the bars to follow: "1-4", "Lead:9-12", "none", or "itself" for a variation of what stood there
            like_song: another MIDI file, of which `like` then names the track and the bars; "" is all of it
            again: whether what stood in these bars may come back
            feel: timing and velocities: "track", "grid", "model", or bars to take them from, like "5-8"
            no_quotes: repeat no run of this many notes from the training music or from the style's pieces; 0: allow any
            clip: return only these bars of these tracks, beginning with the first bar
            format: "midi", "json" for the notes in beats, "dawproject" or "musicxml"
        """
        with _one_line_errors():
            source, score = read(song)
            check_numbers(tracks=tracks, bars=bars, polyphony=polyphony or [], pitch_range=pitch_range or [])
            check_numbers(num_candidates=[num_candidates], seed=[seed], context_bars=[context_bars])
            check_numbers(no_quotes=[no_quotes])
            check_numbers(float, temperature=[temperature], top_p=[top_p], style_strength=[style_strength])
            check_numbers(float, follow=[follow], min_p=[min_p], vary=[vary], style_memory=[style_memory])
            check_texts(beats=[beats], only=[only], keep=keep or [], lock=lock or [], chords=[chords], like=[like])
            check_texts(chords_bass=[chords_bass], feel=[feel], format=[format], key=[key])
            check_answers(num_candidates, format)
            number = drawn(seed)
            score = _take(score, instruments)
            region, within = region_of(score, tracks, bars, beats)
            sampling = SamplingConfig(
                temperature=temperature,
                top_p=top_p,
                min_p=min_p,
                density=density_of(density),
                polyphony=span_of("polyphony", polyphony),
                pitch_range=span_of("pitch_range", pitch_range),
                key=parse_key(key or None, "key"),
                follow=follow,
            )
            wishes = Wishes(
                only=only,
                keep=keep or (),
                lock=lock or (),
                vary=vary or None,
                chords=chords,
                chords_bass=chords_bass,
                like=like,
                again=bool(again),
                feel=feel,
                no_quotes=no_quotes or None,
            )
            ask = ask_for(
                wishes,
                score,
                region,
                sampling,
                wording=Wording(str, source, other=read(like_song)[1] if like_song else None),
                candidates=num_candidates,
                seed=number,
                context_bars=None if context_bars == -1 else context_bars,
                within=within,
            )
            chosen = find(style_file) if style_file else None
            memory = None if style_memory == -1 else style_memory
            found = chosen_style(style, chosen, style_strength, memory, worker.checkpoint)
            fills = []
            for event in worker.infill(FillRequest(score, ask, found)):
                if isinstance(event, list):
                    fills = event
            answers, form = [], Form(format, bool(clip), source.notation)
            for i, fill in enumerate(fills):
                whole = splice(source.data, score, region, fill), score.with_fill(region, fill)
                name = f"{Path(score.name).stem}-{i + 1}.{ENDINGS[format]}"
                answers.append(give(name, in_form(*whole, region, form=form)))
            return answers, {
                "seed": number,
                "notes": [sum(len(n) for n in fill.values()) for fill in fills],
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
                "gains": [asdict(gain) for gain in made.gains],
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
