"""The piano roll: a Gradio HTML component whose page side is our own JavaScript.

Its value is text (view.py). It sends the events `mark` (the cells that are marked now), `lock` (a note was clicked) and
`choose` (a candidate), and requests sound and the file from the server. Text from a file never appears in its template:
the script sets names as text.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from typing import Any

import gradio as gr

PARTS = ("model", "draw", "out", "heads", "input", "cards", "sound", "midi", "page", "main")
SCRIPTS = tuple(f"roll_{part}.js" for part in PARTS)


def piano_roll(*calls: Callable[[dict[str, Any], gr.Request], dict[str, str]], **options: Any) -> gr.HTML:
    """The component. `calls` are the functions that the script may call on the server (`Desk.sound`, `Desk.midi`)."""
    here = files(__package__)
    return gr.HTML(
        "",
        html_template=(here / "roll.html").read_text(encoding="utf-8"),
        css_template=(here / "roll.css").read_text(encoding="utf-8"),
        js_on_load="\n".join((here / name).read_text(encoding="utf-8") for name in SCRIPTS),
        apply_default_css=False,
        server_functions=[_plain(call) for call in calls],
        **options,
    )


def _plain(call: Callable[[dict[str, Any], gr.Request], dict[str, str]]) -> Callable[..., dict[str, str]]:
    """A method as a function, because Gradio sets an attribute on it, which a method does not allow."""

    def plain(wanted: dict[str, Any], request: gr.Request) -> dict[str, str]:
        return call(wanted, request)

    plain.__name__ = call.__name__
    return plain
