"""midi-rwkv rewrites chosen bars of a MIDI song with an RWKV-7 model.

A file takes this path: `read_midi` -> `Score` + `Region` -> `infill` (steps, prompt, model, notes) ->
`write_midi`, which splices the new notes into the original file. Names are loaded when they are first used, so that
importing the package is fast.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if not os.path.isdir(os.path.join(__path__[0], "kernels")):
    # A checkout: kernels/ and app/ stand beside this folder, and are found there before any that is installed.
    __path__.append(os.path.dirname(__path__[0]))

from .errors import CheckpointError as CheckpointError
from .errors import ConflictError as ConflictError
from .errors import CorpusError as CorpusError
from .errors import MidiError as MidiError
from .errors import MidiRwkvError as MidiRwkvError
from .errors import MissingPackageError as MissingPackageError
from .errors import RequestError as RequestError
from .errors import StyleError as StyleError

if TYPE_CHECKING:
    from .evaluation.evaluate import evaluate as evaluate
    from .fill.ask import Ask as Ask
    from .fill.ask import Like as Like
    from .fill.infill import Candidate as Candidate
    from .fill.infill import Infiller as Infiller
    from .fill.infill import infill as infill
    from .model.checkpoint import load_checkpoint as load_checkpoint
    from .model.config import ModelConfig as ModelConfig
    from .model.config import SamplingConfig as SamplingConfig
    from .model.rwkv7 import RWKV7 as RWKV7
    from .score.harmony import ChordSpan as ChordSpan
    from .score.midi import read_midi as read_midi
    from .score.midi import write_midi as write_midi
    from .score.score import Cell as Cell
    from .score.score import Note as Note
    from .score.score import Region as Region
    from .score.score import Score as Score
    from .score.score import Track as Track
    from .style.personalize import personalize as personalize
    from .style.style import Style as Style

_HOME = {
    "evaluate": "evaluation.evaluate",
    "Ask": "fill.ask",
    "Like": "fill.ask",
    "Candidate": "fill.infill",
    "infill": "fill.infill",
    "Infiller": "fill.infill",
    "personalize": "style.personalize",
    "Style": "style.style",
    "ChordSpan": "score.harmony",
    "read_midi": "score.midi",
    "write_midi": "score.midi",
    "Cell": "score.score",
    "Score": "score.score",
    "Track": "score.score",
    "Note": "score.score",
    "Region": "score.score",
    "ModelConfig": "model.config",
    "SamplingConfig": "model.config",
    "RWKV7": "model.rwkv7",
    "load_checkpoint": "model.checkpoint",
}
_ERRORS = (
    "CheckpointError",
    "ConflictError",
    "CorpusError",
    "MidiError",
    "MissingPackageError",
    "RequestError",
    "StyleError",
)
__all__ = sorted([*_HOME, *_ERRORS, "MidiRwkvError"])


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
