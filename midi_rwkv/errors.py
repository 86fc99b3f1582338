"""What is wrong with a file, a model or a request, in one line for the person who gave it.

Each of these is a `MidiRwkvError`: commands and the page show its message and nothing else. Any other exception but an
OSError is a bug and shows as one, with its traceback. A plain ValueError stands for a programming error within.
"""

from collections.abc import Iterator
from contextlib import contextmanager


class MidiRwkvError(ValueError):
    """The base of all; the message is one line: what, the allowed range, what was given, the remedy."""


class RequestError(MidiRwkvError):
    """An option or argument that is out of range, or a request that cannot be met."""


class MidiError(MidiRwkvError):
    """A MIDI file that cannot be read or written."""


class CheckpointError(MidiRwkvError):
    """A checkpoint that cannot be used, converted or trained on."""


class StyleError(MidiRwkvError):
    """A style that cannot be found, learned or used."""


class CorpusError(MidiRwkvError):
    """A collection of MIDI files, or its token shards, that cannot be read or built."""


class MissingPackageError(MidiRwkvError):
    """A package that is not installed, with the command that installs it."""


_INSTALL = {  # by the module's name: the package's own name, and what pip is to install
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
    "datasketch": ("datasketch", "'midi-rwkv[corpus]'"),
    "joblib": ("joblib", "'midi-rwkv[corpus]'"),
    "pyarrow": ("pyarrow", "'midi-rwkv[parquet]'"),
    "dask": ("Dask", "'midi-rwkv[dask]'"),
    "distributed": ("Dask", "'midi-rwkv[dask]'"),
    "ray": ("Ray", "'midi-rwkv[ray]'"),
    "mcp": ("the MCP package", "'midi-rwkv[mcp]'"),
    "matplotlib": ("Matplotlib", "matplotlib"),
    "peft": ("PEFT", "'midi-rwkv[compare]'"),
    "playwright": ("Playwright", "playwright"),
}


@contextmanager
def packages_for(purpose: str) -> Iterator[None]:
    """A package that is found missing within becomes a MissingPackageError. Also a decorator.

    purpose: what needs it, as the message's subject ("personalize"). A module of ours that is missing is a bug, and
    stays a ModuleNotFoundError.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module in ("", "midi_rwkv"):
            raise
        name, install = _INSTALL.get(module, (module, module))
        raise MissingPackageError(f"{purpose} needs {name}, which is not installed: pip install {install}") from error
