"""Handles every click on the Personalise tab; `learn.py` does the work."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pandas as pd

from midi_rwkv.errors import RequestError
from midi_rwkv.sound.synth import SAMPLE_RATE

from . import learn
from .desk import failed, style_names
from .work import Worker


@dataclass(repr=False)
class StyleDesk:
    """The handlers of the tab's events, with the worker and the page whose style is being learned."""

    worker: Worker
    soundfont: Path
    _learning: dict[str, threading.Event] = field(default_factory=dict)  # by browser tab

    def read_pieces(self, paths: list[str] | None) -> list[list[Any]]:
        """One row for each file to learn from."""
        return learn.what_was_read(paths or [])[0]

    def learn(
        self,
        tab: str,
        paths: list[str] | None,
        name: str,
        overwrite: bool,  # noqa: FBT001 - Gradio passes the fields' values by position
    ) -> Iterator[tuple[Any, ...]]:
        """Yields a line and the curve, and at the end the choice of styles with the new one."""
        stop = self._learning[tab] = threading.Event()
        try:
            if not paths:
                raise RequestError("no files yet; drop some of your own pieces first")
            if not name.strip():
                raise RequestError("the style needs a name")
            for step in learn.tune(
                paths, name.strip(), overwrite=overwrite, checkpoint=self.worker.checkpoint, stop=stop
            ):
                data = pd.DataFrame(step.curve, columns=["step", "nats a note"])
                plot = gr.LinePlot(data, visible=True) if step.curve else gr.skip()
                kept = step.made is not None and step.made.path is not None
                choice = gr.Dropdown(style_names(), value=name.strip()) if kept else gr.skip()
                yield step.text, plot, choice
        except Exception as error:
            raise failed(error) from None
        yield gr.skip(), gr.skip(), gr.Dropdown(style_names())

    def stop(self, tab: str) -> None:
        """Handles Stop early."""
        stop = self._learning.get(tab)
        if stop:
            stop.set()

    def hear(self, paths: list[str] | None, name: str) -> list[tuple[int, np.ndarray]]:
        """Sound of bars of the first piece, filled with the same seed without and with the style."""
        try:
            pieces = learn.what_was_read(paths or [])[1]
            if not pieces:
                raise RequestError("there is no piece to hear; give the files again")
            sounds = learn.before_and_after(pieces[0], name.strip(), self.worker, soundfont=self.soundfont)
            return [(SAMPLE_RATE, (s * 32767).astype(np.int16)) for s in sounds]
        except Exception as error:
            raise failed(error) from None
