"""The entry point of the `midi-rwkv` command.

This module imports only what it takes to answer Ctrl-C in one line. `parser.py` has the commands and is imported later.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

from .interrupt import stop_at_once


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code.

    The code is 0, 2 for bad input (one line on stderr), 130 after Ctrl-C, or 1 for a bug (with its traceback).
    """
    import argparse
    import traceback

    from midi_rwkv.errors import MidiRwkvError, packages_for

    from .parser import build_parser, run_module
    from .terminal import drop_output, prepare_streams, say

    prepare_streams()
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]  # allowed anywhere on the command line
    if arguments[:1] in (["corpus"], ["train"]):  # argparse would claim options before the first positional
        options = argparse.Namespace(run=run_module(arguments[0]), arguments=arguments[1:])
    else:
        options = build_parser().parse_args(arguments)
    try:
        if signal.getsignal(signal.SIGINT) is stop_at_once and not getattr(options, "stops_at_once", False):
            signal.signal(signal.SIGINT, signal.default_int_handler)
        with packages_for(arguments[0]):
            options.run(options)
        if sys.stdout is not None:
            sys.stdout.flush()
    except KeyboardInterrupt as stopped:
        say(f"midi-rwkv: stopped; {stopped.args[0] if stopped.args else 'nothing was written'}", sys.stderr)
        return 130
    except BrokenPipeError:
        drop_output()
        return 0
    except (MidiRwkvError, OSError) as error:
        if debug:
            traceback.print_exc()
        say(f"midi-rwkv: error: {' '.join(str(error).split())}", sys.stderr)
        return 2
    except Exception:
        traceback.print_exc()
        say("midi-rwkv: this is a bug in midi-rwkv: please report it with the lines above", sys.stderr)
        return 1
    return 0


def entry() -> None:
    """The console script."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, stop_at_once)
    code = main()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the work is done; only the interpreter's shutdown is left
    if code == 130:
        os._exit(code)  # after an interrupt within exec(), the interpreter would end by the signal instead
    sys.exit(code)
