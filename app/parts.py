"""What can be dragged out of the page: the song, one of its tracks, or the bars of a candidate, as MIDI files.

A drag cannot wait for data. The page therefore gives the browser an address, which the browser asks, with the page's
cookie, when the file is dropped.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from midi_rwkv.errors import RequestError
from midi_rwkv.score.clip import clip_midi
from midi_rwkv.score.score import Cell, Region

from .cookie import browser_name
from .faults import INTERNAL, one_line
from .session import TabSession
from .store import Sessions

HEADERS = {"cache-control": "no-store", "content-disposition": "attachment", "x-content-type-options": "nosniff"}


def parts(sessions: Sessions) -> Route:
    """The route `/parts/TAB/NAME.mid`, which answers with the song of a tab as it is shown.

    `?track=N` asks for one track of it, and `?candidate=N` for the bars and tracks that a candidate is for, with its
    notes; N counts from 0, and candidate -1 is what stands in the song. NAME is only for whoever saves the file. A
    request for what is not there is answered with a 404 and one line.
    """

    def answer(request: Request) -> Response:
        tab = request.path_params["tab"]
        try:
            session = sessions.get(browser_name(request.cookies, request.url, tab), tab)
            data = _wanted(session, request.query_params.get("track"), request.query_params.get("candidate"))
        except Exception as error:
            line = one_line(error)
            return PlainTextResponse(line + "\n", 500 if line == INTERNAL else 404)
        return Response(data, media_type="audio/midi", headers=HEADERS)

    return Route("/parts/{tab}/{name}", answer)


def _wanted(session: TabSession, track: str | None, candidate: str | None) -> bytes:
    if track is not None:
        return track_midi(session, _index(track, len(session.score.tracks), "track"))
    if candidate is not None:
        return candidate_midi(session, _index(candidate, len(session.view.candidates), "candidate", least=-1))
    return session.shown


def track_midi(session: TabSession, track: int) -> bytes:
    """One track of the song, by its index, with the chosen candidate's notes in place, as a MIDI file."""
    score = session.score.with_fill(*session.chosen) if session.chosen else session.score
    return clip_midi(session.shown, score, Region(frozenset(Cell(track, b) for b in range(len(score.bars)))))


def candidate_midi(session: TabSession, number: int) -> bytes:
    """The bars and tracks that the candidates are for, as a MIDI file, with one's notes or (-1) as they were."""
    region = Region(frozenset(session.view.answered))
    if number < 0:
        return clip_midi(session.data, session.score, region)
    score = session.score.with_fill(region, session.view.candidates[number].fill)
    return clip_midi(session.with_candidate(number), score, region)


def _index(text: str, count: int, what: str, *, least: int = 0) -> int:
    try:
        index = int(text)
    except ValueError:
        index = count
    if not (least <= index < count and count):
        there = f"{least} to {count - 1}" if count else "none"
        raise RequestError(f"there is no {what} {text[:20]}; the song has {there}")
    return index
