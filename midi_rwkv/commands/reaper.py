"""`midi-rwkv reaper`: the script for REAPER, where it goes, and the fills that it asks for.

The script, which `midi_rwkv/reaper/` has in two parts, has neither sockets nor threads. It writes the song and a job,
starts `midi-rwkv reaper --run X.job` without waiting for it, and looks for the files that this writes:

    X.mid       the project, written by the script: its tracks with notes, in order, without drum channels
    X.job       what is wished, written by the script (see `arguments_of`)
    X.log       what infill says, with the number of written cells
    X.json      the song with the fill; of several candidates X-1.json, X-2.json ...
    X.done      the exit code; written last
    X.cancel    written by the script: end at once and delete all files of this job
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from midi_rwkv.errors import RequestError
from midi_rwkv.files import shown, whole_file

from .terminal import say

PARTS = [Path(__file__).parents[1] / "reaper" / name for name in ("project.lua", "fill.lua")]
NAME = "midi_rwkv.lua"
UNSET = 'local PYTHON = "python3"'  # the line of the script that says which Python has midi-rwkv
# What a track plays that has no program change, by the first of these patterns that is in its name.
INSTRUMENTS = {
    r"drum|percussion|\bkit\b": "Drums",
    r"bassoon": "Bassoon",
    r"contrabass|double bass": "Contrabass",
    r"bass": "Electric Bass (finger)",
    r"guitar|\bgtr": "Electric Guitar (clean)",
    r"organ": "Drawbar Organ",
    r"rhodes|electric piano|\be\.? ?piano": "Electric Piano 1",
    r"harpsichord": "Harpsichord",
    r"piano|keys": "Acoustic Grand Piano",
    r"violin": "Violin",
    r"viola": "Viola",
    r"cello": "Cello",
    r"\bharp": "Orchestral Harp",
    r"string": "String Ensemble 1",
    r"choir|vocal|voice": "Choir Aahs",
    r"trumpet": "Trumpet",
    r"trombone": "Trombone",
    r"tuba": "Tuba",
    r"horn": "French Horn",
    r"brass": "Brass Section",
    r"\bsax|tenor|alto": "Tenor Sax",
    r"oboe": "Oboe",
    r"clarinet": "Clarinet",
    r"flute": "Flute",
    r"lead": "Lead 1 (square)",
    r"\bpad": "Pad 1 (new age)",
    r"synth": "Lead 2 (sawtooth)",
}
NEW_INSTRUMENT = "Acoustic Grand Piano"  # of a track without notes whose name says nothing
# Options of infill that the script gives itself, or that would change what it reads back.
OURS = ("--bars", "--tracks", "--new-track", "--as", "--candidates", "--clip", "--format", "--output", "--overwrite")
CANCEL_SECONDS = 0.1  # between two looks for X.cancel


def add_reaper_command(commands: Any) -> None:
    p = commands.add_parser(
        "reaper",
        help="print or install the script for REAPER",
        description="Print the script with which REAPER fills selected MIDI items, or install it there.",
    )
    p.set_defaults(run=run_reaper)
    p.add_argument(
        "--install",
        nargs="?",
        const="",
        metavar="FOLDER",
        help="copy the script into this folder (default: REAPER's own folder for scripts)",
    )
    p.add_argument("--overwrite", action="store_true", help="replace a script there that differs")
    p.add_argument("--run", dest="job", metavar="JOB", help=argparse.SUPPRESS)  # for the script alone


def run_reaper(options: argparse.Namespace) -> None:
    if options.job is not None:
        run_job(Path(options.job))
    elif options.install is not None:
        target = install(Path(options.install) if options.install else None, overwrite=options.overwrite)
        say(f"{shown(target)}: in REAPER, load it with Actions > Show action list > New action > Load ReaScript")
    else:
        sys.stdout.write(script())


def script() -> str:
    """The script, which starts this Python's midi-rwkv."""
    if not sys.executable:
        raise RequestError("this Python does not know its own path, which the script needs; run another Python")
    text = "\n".join(part.read_text(encoding="utf-8") for part in PARTS)
    path = sys.executable.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return text.replace(UNSET, f'local PYTHON = "{path}"', 1)


def install(folder: Path | None = None, *, overwrite: bool = False) -> Path:
    """Writes the script into a folder, by default REAPER's own for scripts, and returns its path.

    Raises:
        RequestError: the folder is not there.
        MidiError: a file of this name is there that differs and `overwrite` is False, or none can be written.
    """
    from midi_rwkv.score.midi import check_output

    if folder is None:
        folder = scripts_folder()
        folder.mkdir(exist_ok=True)
    elif not folder.is_dir():
        raise RequestError(f"there is no folder {shown(folder)}; name the Scripts folder of REAPER's resource path")
    target, text = folder / NAME, script()
    same = False
    with suppress(OSError, UnicodeDecodeError):
        same = target.read_text(encoding="utf-8") == text
    if not same:
        check_output(target, overwrite=overwrite)
        with whole_file(target, overwrite=overwrite) as partial:
            partial.write_text(text, encoding="utf-8")
    return target


def scripts_folder() -> Path:
    """REAPER's folder for scripts. Raises RequestError where REAPER has never been started."""
    from platformdirs import user_config_path

    folder = user_config_path("REAPER", appauthor=False, roaming=True)  # what REAPER calls its resource path
    if not folder.is_dir():
        raise RequestError(
            f"there is no REAPER folder {shown(folder)}; start REAPER once, or name its folder for scripts: "
            "midi-rwkv reaper --install FOLDER"
        )
    return folder / "Scripts"


def run_job(job: Path) -> None:
    """Runs the fill that a job asks for; if the script cancels it, ends it and deletes its files. See the module."""
    cancelled = job.with_suffix(".cancel")
    with job.with_suffix(".log").open("w", encoding="utf-8") as log:
        try:
            code = _infill(arguments_of(job), log, cancelled)
        except RequestError as error:
            print(f"midi-rwkv: error: {error}", file=log)
            code = 2
    if not cancelled.exists():
        with whole_file(job.with_suffix(".done")) as partial:
            partial.write_text(str(code), encoding="utf-8")
    if cancelled.exists():
        for path in job.parent.glob(f"{job.stem}*"):
            with suppress(OSError):
                path.unlink()


def _infill(arguments: Sequence[str], log: TextIO, cancelled: Path) -> int:
    """The exit code of `midi-rwkv infill`, whose output goes to `log`. It is killed once `cancelled` exists."""
    process = subprocess.Popen(
        [sys.executable, "-m", "midi_rwkv", "infill", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONUTF8": "1"},
    )
    while True:
        with suppress(subprocess.TimeoutExpired):
            return process.wait(CANCEL_SECONDS)
        if cancelled.exists():
            process.kill()


def arguments_of(job: Path) -> list[str]:
    """The arguments of `midi-rwkv infill` that a job's lines ask for, a key and a value each.

        candidates, temperature, style, keep, chords    the fields of the dialog
        instruments     2=Drums; 3=Bass, by REAPER's track numbers
        other           options of infill
        track           REAPER's number, the program (- for none, `new` if the file lacks the track), the name; in order
        fill            numbers of tracks in the file
        bars            as --bars takes them

    Raises:
        RequestError: a field of the dialog cannot be read.
    """
    lines = [line.partition(" ") for line in job.read_text(encoding="utf-8").split("\n")]
    asked = {key: value.strip() for key, _, value in lines}
    tracks = [value.split(" ", 2) for key, _, value in lines if key == "track"]
    chosen = _instruments(asked["instruments"], [number for number, _, _ in tracks])
    arguments = [str(job.with_suffix(".mid"))]
    arguments += [f"--{key}={asked[key]}" for key in ("temperature", "style", "chords") if asked[key]]
    arguments += [f"--keep={part}" for part in re.split(r"[;,\s]+", asked["keep"]) if part]
    arguments += _other(asked["other"])
    for at, (number, program, name) in enumerate(tracks, 1):
        guess = next((i for pattern, i in INSTRUMENTS.items() if re.search(pattern, name.lower())), None)
        instrument = chosen.get(number) or (guess if program in ("-", "new") else None)
        if program == "new":
            arguments.append(f"--new-track={instrument or NEW_INSTRUMENT}")
        elif instrument:
            arguments.append(f"--as={at}={instrument}")
    if asked["fill"]:
        arguments.append(f"--tracks={asked['fill']}")
    arguments += [f"--bars={asked['bars']}", f"--candidates={asked['candidates']}", "--format=json", "--progress"]
    return [*arguments, f"--output={job.with_suffix('.json')}"]


def _instruments(text: str, numbers: Sequence[str]) -> dict[str, str]:
    """`2=Drums; 3=Bass` to instruments by track number."""
    chosen = {}
    for part in filter(None, (part.strip() for part in re.split("[;,]", text))):
        number, sign, instrument = (piece.strip() for piece in part.partition("="))
        if not (sign and instrument and number in numbers):
            there = ", ".join(numbers)
            raise RequestError(f"Instruments must be like 2=Drums; 3=Bass, of tracks with MIDI ({there}), got {part!r}")
        chosen[number] = instrument
    return chosen


def _other(text: str) -> list[str]:
    """The words of the field for other options."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise RequestError(f"Other options: {str(error).lower()} in {text!r}") from None
    for word in words:
        option = word.partition("=")[0]
        if (len(option) > 2 and any(name.startswith(option) for name in OURS)) or word.startswith("-o"):
            raise RequestError(f"Other options cannot have {word}, which the script sets itself; leave it out")
    return words
