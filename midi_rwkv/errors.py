"""Errors that a user can cause with a file, a model or a request.

Each of them is a `MidiRwkvError`, whose one-line message the commands and the page show without a traceback. They show
an OSError's message in the same way. Any other exception is a bug and shows its traceback; a plain ValueError is a
programming error.
"""

from collections.abc import Iterator
from contextlib import contextmanager


class MidiRwkvError(ValueError):
    """The base class. The message is one line: what is wrong, the allowed range, what was given, and the remedy."""


class RequestError(MidiRwkvError):
    """An option or argument that is out of range, or a request that cannot be met."""


class ConflictError(RequestError):
    """A request for notes where none can sound: what stays in the bars, or what is asked of them, leaves no room."""


class MidiError(MidiRwkvError):
    """A MIDI file that cannot be read or written."""


class CheckpointError(MidiRwkvError):
    """A checkpoint that cannot be used, converted or trained on."""


class StyleError(MidiRwkvError):
    """A style that cannot be found, learned or used."""


class CorpusError(MidiRwkvError):
    """A collection of MIDI files, or its note shards, that cannot be read or built."""


class MissingPackageError(MidiRwkvError):
    """A package that is not installed, with the command that installs it."""


_INSTALL = {  # by module name: the package's display name, and what pip should install
    "torch": ("PyTorch", "torch"),
    "gradio": ("Gradio", "gradio"),
    "pandas": ("pandas", "pandas"),
    "numba": ("numba", "numba"),
    "miditok": ("MidiTok", "miditok"),
    "symusic": ("symusic", "symusic"),
    "pretty_midi": ("pretty_midi", "pretty_midi"),
    "triton": ("Triton", "triton"),
    "mir_eval": ("mir_eval", "'midi-rwkv[evaluate]'"),
    "scipy": ("SciPy", "'midi-rwkv[evaluate]'"),
    "sklearn": ("scikit-learn", "'midi-rwkv[evaluate]'"),
    "datasketch": ("datasketch", "'midi-rwkv[train]'"),
    "joblib": ("joblib", "'midi-rwkv[train]'"),
    "pyarrow": ("pyarrow", "'midi-rwkv[train]'"),
    "dask": ("Dask", "'midi-rwkv[dask]'"),
    "distributed": ("Dask", "'midi-rwkv[dask]'"),
    "ray": ("Ray", "'midi-rwkv[ray]'"),
    "mcp": ("the MCP package", "'midi-rwkv[mcp]'"),
    "matplotlib": ("Matplotlib", "matplotlib"),
    "peft": ("PEFT", "peft"),
    "playwright": ("Playwright", "playwright"),
}


@contextmanager
def packages_for(purpose: str) -> Iterator[None]:
    """Turns a missing package inside the block into a MissingPackageError. Also usable as a decorator.

    A missing module of our own is a bug and stays a ModuleNotFoundError.

    Args:
        purpose: what needs the package, as the subject of the message ("personalize").
    """
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module in ("", "midi_rwkv"):
            raise
        name, install = _INSTALL.get(module, (module, module))
        raise MissingPackageError(f"{purpose} needs {name}, which is not installed: pip install {install}") from error
