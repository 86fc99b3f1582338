"""Notes in, notes out: `/api/` for programs without MIDI files, such as a DAW's scripts (notes_models.py).

`POST /api/infill` answers with JSON or, if the caller accepts `text/event-stream`, with server-sent events while the
notes are written: `waiting` (how many requests come first), `bar` (the notes of a finished bar of each candidate as
they are written), and `answer` or `error`. Whoever closes the connection cancels. Nothing of a request stays here.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import tempfile
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from anyio import to_thread
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse

from midi_rwkv.errors import MidiRwkvError, RequestError
from midi_rwkv.fill.arguments import parse_density, parse_key, parse_pitch, parse_range
from midi_rwkv.fill.origin import origins
from midi_rwkv.fill.places import parse_places
from midi_rwkv.fill.wishes import Wishes, Wording, ask_for
from midi_rwkv.model.config import SamplingConfig
from midi_rwkv.score.chord_markers import IN_FILE
from midi_rwkv.score.clip import note_row
from midi_rwkv.score.describe import chord_rows, remarks, track_rows
from midi_rwkv.score.score import Note, Region, Score
from midi_rwkv.style.style import read_info, style_files
from midi_rwkv.tokens.chords import chord_spans

from .asked import chosen_style, drawn
from .faults import INTERNAL, one_line
from .learn import Step, tune
from .notes_models import Answer, CandidateFill, InfillRequest, Learned, OfSong, PersonalizeRequest, TrackFill
from .session import check_size
from .work import CellWritten, FillRequest, Waiting, Worker

HEARTBEAT = 0.25  # seconds without news after which it is looked whether the caller is still there
EVENTS = "text/event-stream"
WISHES = ("only", "keep", "lock", "vary", "chords", "chords_bass", "like", "again", "feel", "no_quotes")
DRUMS_REMEDY = 'send {them} with "drums": true'
STREAMS: dict[int | str, dict[str, Any]] = {200: {"content": {EVENTS: {"schema": {"type": "string"}}}}}
T = TypeVar("T")


def notes_api(worker: Worker) -> FastAPI:
    """The application, to be mounted at `/api`. Its description is at `openapi.json`; pages that show one are left out,
    since they fetch their scripts from elsewhere."""
    app = FastAPI(title="midi-rwkv", description=__doc__, docs_url=None, redoc_url=None)
    app.add_exception_handler(RequestValidationError, _not_as_described)
    for kind in (MidiRwkvError, OSError, Exception):  # the last one for bugs, which are logged too
        app.add_exception_handler(kind, _refused)

    @app.post("/inspect")
    def inspect(asked: OfSong) -> dict[str, Any]:
        """The bars and metres of a song, its tracks, and what may spoil a fill."""
        score = _score(asked.song.score())
        return {
            "first_bar": score.first_bar_number,
            "last_bar": score.last_bar_number,
            "time_signatures": [f"{b.numerator}/{b.denominator}" for b in score.bars],
            "tracks": track_rows(score),
            "warnings": remarks(score, DRUMS_REMEDY),
        }

    @app.post("/chords")
    def chords(asked: OfSong) -> list[dict[str, Any]]:
        """The chords that the notes tell: bar, beat, beats and name of each, and the confidence, 0-1."""
        score = _score(asked.song.score())
        return chord_rows(score, chord_spans(score, worker.checkpoint.vocabulary))

    @app.get("/styles")
    def styles() -> list[dict[str, Any]]:
        """The styles that `infill` accepts."""
        return [{"name": path.stem, **read_info(path)} for path in style_files()]

    _add_infill(app, worker)
    _add_personalize(app, worker)
    return app


def _add_infill(app: FastAPI, worker: Worker) -> None:
    @app.post("/infill", response_model=Answer, responses=STREAMS)
    async def infill(asked: InfillRequest, request: Request) -> Response:
        """Write some bars of some tracks anew. With `Accept: text/event-stream`, the notes come as they are written."""
        todo = await to_thread.run_sync(partial(_request, asked, worker))
        began = time.monotonic()

        def told(event: Waiting | CellWritten | list[dict[int, list[Note]]]) -> tuple[str, Any]:
            if isinstance(event, Waiting):
                return "waiting", {"before": event.before}
            if isinstance(event, CellWritten):
                return "bar", _bar(todo.score, event)
            return "answer", _answer(worker, todo, event, time.monotonic() - began).model_dump()

        return await _respond(request, lambda stop: worker.infill(todo, stop), told)


def _add_personalize(app: FastAPI, worker: Worker) -> None:
    @app.post("/personalize", response_model=Learned, responses=STREAMS)
    async def personalize(asked: PersonalizeRequest, request: Request) -> Response:
        """Learn a style from some pieces. This takes minutes; `progress` events tell how far it is."""
        files = {f"{k} {Path(f.name).name}": _decoded(f.name, f.content) for k, f in enumerate(asked.files, 1)}

        def learn(stop: threading.Event) -> Iterator[Step]:
            with tempfile.TemporaryDirectory() as folder:
                for name, data in files.items():
                    (Path(folder) / name).write_bytes(data)
                yield from tune(
                    [folder], asked.name, overwrite=asked.overwrite, checkpoint=worker.checkpoint, stop=stop
                )

        def told(step: Step) -> tuple[str, Any]:
            made = step.made
            if made is None:
                return "progress", {"text": step.text}
            skipped = {Path(file).name: why for file, why in made.skipped.items()}
            gains = [asdict(gain) for gain in made.gains]
            learned = Learned(style=asked.name if made.path else None, gains=gains, skipped=skipped)
            return "answer", learned.model_dump()

        return await _respond(request, learn, told)


# -- what is asked ----------------------------------------------------------------------------------------------------


def _score(score: Score) -> Score:
    check_size(score)
    return score


def _request(asked: InfillRequest, worker: Worker) -> FillRequest:
    """Raises RequestError if it cannot be met."""
    score = _score(asked.song.score())
    for number in asked.tracks:
        if not 1 <= number <= len(score.tracks):
            raise RequestError(f"tracks must be 1-{len(score.tracks)}, got {number}")
    if asked.chords.strip().lower() == IN_FILE:
        raise RequestError(f'chords "{IN_FILE}" are those of a MIDI file; write them, or ask for "auto"')
    places = parse_places([asked.bars], score, "bars")
    sampling = SamplingConfig(
        temperature=asked.temperature,
        top_p=asked.top_p,
        min_p=asked.min_p,
        follow=asked.follow,
        density=parse_density("density", asked.density.strip() or None),
        polyphony=parse_range("polyphony", asked.polyphony.strip() or None),
        pitch_range=parse_range("pitch_range", asked.pitch_range.strip() or None, parse_pitch),
        key=parse_key(asked.key.strip() or None, "key"),
    )
    ask = ask_for(
        Wishes(**{name: getattr(asked, name) for name in WISHES}),
        score,
        Region.rectangle([number - 1 for number in asked.tracks], places.bars),
        sampling,
        wording=Wording(str, b""),
        candidates=asked.candidates,
        seed=drawn(-1 if asked.seed is None else asked.seed),
        context_bars=asked.context_bars,
        within=places.within,
    )
    style = chosen_style(asked.style, None, asked.style_strength, asked.style_memory, worker.checkpoint)
    return FillRequest(score, ask, style)


def _decoded(name: str, content: str) -> bytes:
    try:
        return base64.b64decode(content, validate=True)
    except binascii.Error as error:
        raise RequestError(f"the base64 of {name[:80]} is damaged ({error})") from None


# -- what is answered -------------------------------------------------------------------------------------------------


def _bar(score: Score, event: CellWritten) -> dict[str, Any]:
    rows = [[note_row(n, score.ticks_per_beat) for n in notes] for notes in event.notes]
    number = event.bar + score.first_bar_number
    return {"track": event.track + 1, "bar": number, "notes": rows, "done": event.done, "total": event.total}


def _answer(worker: Worker, todo: FillRequest, fills: list[dict[int, list[Note]]], seconds: float) -> Answer:
    score = todo.score
    candidates = []
    for fill, origin in zip(fills, origins(worker.checkpoint, score, todo.ask, fills, todo.style), strict=True):
        tracks = [
            TrackFill.model_validate({"number": t + 1, "notes": [note_row(n, score.ticks_per_beat) for n in notes]})
            for t, notes in sorted(fill.items())
        ]
        candidates.append(CandidateFill(tracks=tracks, **origin.told(score.first_bar_number)))
    warnings = remarks(score, DRUMS_REMEDY)
    return Answer(candidates=candidates, seed=todo.ask.seed, seconds=round(seconds, 2), warnings=warnings)


def answer_of(worker: Worker, asked: InfillRequest) -> Answer:
    """The answer to a request, when it is complete. Raises RequestError or StyleError if it cannot be met."""
    todo, began = _request(asked, worker), time.monotonic()
    *_, fills = worker.infill(todo)
    assert isinstance(fills, list)
    return _answer(worker, todo, fills, time.monotonic() - began)


async def _respond(
    request: Request, work: Callable[[threading.Event], Iterator[T]], told: Callable[[T], tuple[str, Any]]
) -> Response:
    """The work's events as they come, or its answer alone. It is stopped when the caller has gone."""
    if EVENTS in request.headers.get("accept", ""):
        return StreamingResponse(_stream(work, told), media_type=EVENTS, headers={"cache-control": "no-store"})
    async with aclosing(_events(work)) as events:
        async for event in events:
            if await request.is_disconnected():
                break
            if event is None:
                continue
            kind, value = await to_thread.run_sync(told, event)
            if kind == "answer":
                return JSONResponse(value)
    return Response(status_code=499)  # nobody reads it


async def _stream(
    work: Callable[[threading.Event], Iterator[T]], told: Callable[[T], tuple[str, Any]]
) -> AsyncIterator[str]:
    try:
        async with aclosing(_events(work)) as events:
            async for event in events:
                if event is None:
                    yield ": still at work\n\n"  # fails where the caller has gone
                    continue
                kind, value = await to_thread.run_sync(told, event)
                yield f"event: {kind}\ndata: {json.dumps(value)}\n\n"
    except Exception as error:
        yield f"event: error\ndata: {json.dumps({'error': one_line(error)})}\n\n"


async def _events(work: Callable[[threading.Event], Iterator[T]]) -> AsyncGenerator[T | None, None]:
    """What an iterator yields in a thread of its own, and None for each `HEARTBEAT` without anything."""
    loop, stop = asyncio.get_running_loop(), threading.Event()
    happened: asyncio.Queue[T | Exception | None] = asyncio.Queue()

    def tell(event: T | Exception | None) -> None:
        with suppress(RuntimeError):  # the server has ended
            loop.call_soon_threadsafe(happened.put_nowait, event)

    def run() -> None:
        try:
            for event in work(stop):
                tell(event)
            tell(None)
        except Exception as error:
            tell(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        while True:
            try:
                event = await asyncio.wait_for(happened.get(), HEARTBEAT)
            except TimeoutError:
                yield None
                continue
            if event is None:
                return
            if isinstance(event, Exception):
                raise event
            yield event
    finally:
        stop.set()


# -- what is refused --------------------------------------------------------------------------------------------------


async def _not_as_described(_: Request, error: Exception) -> Response:
    """One line for the first thing that is not as the description has it."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"] if part != "body") or "the request"
    more = f" ({len(error.errors())} such)" if len(error.errors()) > 1 else ""
    given = f", got {str(first['input'])[:60]}" if isinstance(first.get("input"), str | int | float) else ""
    return JSONResponse({"error": f"{place}: {first['msg']}{given}{more}"}, status_code=422)


async def _refused(_: Request, error: Exception) -> Response:
    line = one_line(error)
    known = isinstance(error, MidiRwkvError | OSError)
    return JSONResponse({"error": line if known else INTERNAL}, status_code=400 if known else 500)
