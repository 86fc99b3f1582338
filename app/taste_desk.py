"""The listener's taste on the page: what is noted of it, its switch, and the order of candidates (style/taste.py).

It is noted and used only where nobody but the user of this machine can open the page. Programs that call the API
neither add to it nor see it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import gradio as gr

from midi_rwkv.errors import MidiRwkvError
from midi_rwkv.evaluation.candidates import candidate_features, in_words, order_of
from midi_rwkv.fill.ranking import Order
from midi_rwkv.score.score import Region, Score
from midi_rwkv.style.choices import PLACE, Choice, Choices
from midi_rwkv.style.taste import Verdict, judge_taste
from midi_rwkv.tokens.attributes import Vocabulary

from .faults import one_line
from .session import TabSession
from .versions import View

OFF = "It is switched off: nothing is noted, and candidates come in the plain order."


class TasteDesk:
    """The handlers of the switch and of the button, and what the song's page asks of the taste."""

    def __init__(self, choices: Choices | None, vocabulary: Vocabulary) -> None:
        """`choices` is None where others can open the page."""
        self._choices, self._vocabulary = choices, vocabulary
        self._known: tuple[object, Verdict] | None = None  # for a state of the file

    @property
    def is_ours(self) -> bool:
        """Whether a taste is learned here at all."""
        return self._choices is not None

    def note(self, score: Score, view: View, *, kept: bool = False) -> None:
        """Notes what became of the candidates of a view; `kept`: the chosen one became part of the song."""
        choices, count = self._choices, len(view.candidates)
        if choices is None or count < 2 or not view.ask or not choices.is_on:
            return
        with _told():
            fills = [c.fill for c in view.candidates]
            rows = candidate_features(score, Region(frozenset(view.answered)), fills, self._vocabulary)
            starred, thrown = (tuple(i for i in range(count) if view.candidates[i].liked == how) for how in (1, -1))
            places = [c.place for c in view.candidates]
            chosen = view.chosen if kept else None
            choices.record(Choice(view.ask, {PLACE: places, **rows}, chosen, starred, thrown))

    def take_back(self, session: TabSession) -> None:
        """Other bars are being filled: what was kept of the candidates that are still there has been undone."""
        if self._choices is not None and session.view.ask and self._choices.is_on:
            with _told():
                self._choices.take_back(session.view.ask)

    def order(self) -> Order | None:
        """The order of candidates, or None for the plain one."""
        if self._choices is None or not self._choices.is_on:
            return None
        taste = self._verdict(self._choices).taste
        return order_of(taste, self._vocabulary) if taste else None

    def load(self) -> tuple[bool, str]:
        """The state of the switch, and what is known of the taste."""
        return (self._choices is not None and self._choices.is_on), self._text()

    def switch(self, on: bool) -> str:  # noqa: FBT001 - Gradio passes the field's value by position
        """Handles the switch."""
        if self._choices is not None:
            with _told():
                self._choices.switch(on=on)
        return self._text()

    def forget(self) -> str:
        """Handles the button: deletes everything that was noted."""
        if self._choices is not None:
            with _told():
                self._choices.forget()
        return self._text()

    def _text(self) -> str:
        if self._choices is None:
            return ""
        verdict = self._verdict(self._choices)
        if not self._choices.is_on:
            return f"{verdict.counts}. {OFF}"
        likes = f" You like it {', '.join(in_words(verdict.taste))}." if verdict.taste else ""
        return f"{verdict.counts}. {verdict.why.capitalize()}.{likes}"

    def _verdict(self, choices: Choices) -> Verdict:
        """What is known of the taste; worked out again when the file has changed."""
        state, known = choices.state, self._known
        if known is None or known[0] != state:
            known = self._known = state, judge_taste(choices.read())
        return known[1]


@contextmanager
def _told() -> Iterator[None]:
    """What goes wrong with the taste is told on the page, and stops nothing else."""
    try:
        yield
    except (MidiRwkvError, OSError) as error:
        gr.Warning(f"your taste was not noted: {one_line(error)}")
