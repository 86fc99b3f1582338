"""`midi-rwkv taste`, and the option --taste of `infill`. Heavy imports are inside functions."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from .terminal import say

if TYPE_CHECKING:
    from midi_rwkv.fill.ranking import Order
    from midi_rwkv.model.step_checkpoint import StepCheckpoint


def add_taste_option(p: argparse.ArgumentParser) -> None:
    """Adds --taste, for commands that fill."""
    p.add_argument(
        "--taste",
        choices=("on", "off"),
        default="off",
        help="on: the candidates in the order that you would like, as learned on the page (default: off)",
    )


def add_taste_command(commands: Any) -> None:
    """Adds the parser of `taste`."""
    p = commands.add_parser(
        "taste",
        help="say what the page has learned of your taste, or forget it",
        description="Say what the page has learned of your taste from the candidates that you kept, starred and threw "
        "away. It is recorded on this machine only.",
    )
    p.set_defaults(run=run_taste)
    p.add_argument("--forget", action="store_true", help="delete everything that is recorded of it")
    p.add_argument("--json", action="store_true", help="print JSON")


def run_taste(options: argparse.Namespace) -> None:
    from midi_rwkv.evaluation.candidates import in_words
    from midi_rwkv.style.choices import Choices
    from midi_rwkv.style.taste import judge_taste

    record = Choices()
    if options.forget:
        count = record.forget()
        say(json.dumps({"forgotten": count}) if options.json else f"forgotten: what became of {count} fills")
        return
    verdict = judge_taste(record.read())
    likes = in_words(verdict.learned) if verdict.learned else []
    if options.json:
        told = {
            "recording": record.is_on,
            "kept": verdict.kept,
            "starred": verdict.starred,
            "thrown_away": verdict.thrown,
            "used": record.is_on and verdict.helps,
            "why": verdict.why,
            "likes": likes,
            "file": str(record.path),
        }
        say(json.dumps(told))
        return
    say(verdict.counts)
    say(verdict.why if record.is_on else "switched off on the page: nothing is recorded, and the taste is not used")
    if likes and verdict.helps:
        say(f"you like it {', '.join(likes)}")
    say(f"recorded in {record.path}, on this machine only; midi-rwkv taste --forget deletes it")


def found_taste(checkpoint: StepCheckpoint) -> Order | None:
    """The order of the listener's taste; None, with a line that says why, where it is not to be used."""
    from midi_rwkv.evaluation.candidates import own_taste

    order = own_taste(checkpoint)
    if order is None:
        say("midi-rwkv: the taste is not used (midi-rwkv taste says why)", sys.stderr)
    return order
