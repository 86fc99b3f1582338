"""midi-rwkv: bars of a MIDI song written anew by an RWKV-7 model.

A file travels: `read_midi` -> `Score` + `Region` -> `infill` (tokens, prompt, model, sampled tokens, notes) ->
`write_midi`, which splices the new notes into the original file. Names load when first used, so importing the package
is quick.
"""

import pkgutil
import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

__path__ = pkgutil.extend_path(__path__, __name__)

from .errors import CheckpointError as CheckpointError
from .errors import CorpusError as CorpusError
from .errors import MidiError as MidiError
from .errors import MidiRwkvError as MidiRwkvError
from .errors import MissingPackageError as MissingPackageError
from .errors import RequestError as RequestError
from .errors import StyleError as StyleError

if TYPE_CHECKING:
    from .checkpoint import load_checkpoint as load_checkpoint
    from .checkpoint import save_checkpoint as save_checkpoint
    from .config import ModelConfig as ModelConfig
    from .config import SamplingConfig as SamplingConfig
    from .evaluate import evaluate as evaluate
    from .infill import Infiller as Infiller
    from .infill import infill as infill
    from .midi import read_midi as read_midi
    from .midi import write_midi as write_midi
    from .model import RWKV7 as RWKV7
    from .personalize import personalize as personalize
    from .score import Note as Note
    from .score import Region as Region
    from .score import Score as Score
    from .score import Track as Track
    from .tokenizer import Tokenizer as Tokenizer

_HOME = {
    "evaluate": "evaluate",
    "infill": "infill",
    "Infiller": "infill",
    "personalize": "personalize",
    "read_midi": "midi",
    "write_midi": "midi",
    "Score": "score",
    "Track": "score",
    "Note": "score",
    "Region": "score",
    "Tokenizer": "tokenizer",
    "ModelConfig": "config",
    "SamplingConfig": "config",
    "RWKV7": "model",
    "load_checkpoint": "checkpoint",
    "save_checkpoint": "checkpoint",
}
_ERRORS = ("CheckpointError", "CorpusError", "MidiError", "MissingPackageError", "RequestError", "StyleError")
__all__ = sorted([*_HOME, *_ERRORS, "MidiRwkvError"])


class _Package(ModuleType):
    """A function that shares its name with its module (`infill`) is what the name stands for, before and after the
    module is imported, which would put itself there."""

    def __setattr__(self, name: str, value: Any) -> None:
        shared = isinstance(value, ModuleType) and _HOME.get(name) == name
        super().__setattr__(name, getattr(value, name) if shared else value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
