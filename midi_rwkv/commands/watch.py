"""`midi-rwkv watch`: answers the MIDI files that say in their name or by markers what is to be filled,
and the MusicXML scores that say so in their name.

The grammar is in instruction.py. The folder is looked at four times a second. A file that looks the same twice is read;
one that cannot be read, because it is only half there, is tried again for two seconds before it is refused. Its answers
are written beside it as SONG-fill.mid, or SONG-fill-1.mid, SONG-fill-2.mid ... for several candidates. Saved again,
with whatever content, a file is answered again, and the new answers replace those before. If it is saved during its
fill, the fill is given up. A file that cannot be answered gets a line on the terminal, and a text file beside it,
SONG.error.txt, which goes away when the file is answered, renamed or removed.

The file itself is never changed. No file is replaced but an answer to the same song, and that only if it is as it was
written (record.py); what was answered by an earlier watcher is not answered again. Answers are no songs to answer, and
neither are hidden files and those in subfolders.

Heavy imports are inside functions.
"""

from __future__ import annotations

import argparse
import os
import re
import stat
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from midi_rwkv.errors import MidiError, MidiRwkvError, RequestError
from midi_rwkv.files import shown, whole_file
from midi_rwkv.score.clip import ENDINGS
from midi_rwkv.score.musicxml import SUFFIXES
from midi_rwkv.score.smf import digest_of

from .infill import show_progress
from .instruction import WORDS, HalfAsked, instruction_in_markers, instruction_in_name
from .record import Record
from .request import Model, add_form, add_model, add_request, check_options, load_model, request_of
from .terminal import plain, say, stoppable
from .wishes import sampling_of
from .written import Written, form_of, outputs, report

if TYPE_CHECKING:
    from midi_rwkv.fill.ask import Ask
    from midi_rwkv.score.midi import Source
    from midi_rwkv.score.score import Score

LOOKS = 0.25  # seconds between two looks at the folder
PATIENCE = 2.0  # seconds after which a file that cannot be read is refused
SONGS = (".mid", ".midi", ".kar", *SUFFIXES)
ANSWER = re.compile(r"-fill(?:-[0-9]+)?$")  # how the name of an answer ends, without its suffix
LOCK = ".midi-rwkv-watch.lock"
HELP = f"""\
Fill what the MIDI files and MusicXML scores that are saved in a folder ask for, in their names or by markers:

  song [8-12 Bass].mid             as --bars 8-12 --tracks Bass
  song [8.3-9,16 Bass, Lead].mid   bars and tracks as the options take them
  song [8-12 x3 seed=1].mid        three candidates; NAME=VALUE is the option --NAME VALUE
  a marker "fill" and one "end fill" in the file: the bars between them; "fill Bass x3 seed=1" says more

The brackets are the last thing in the name and begin with the number of a bar.
{textwrap.fill("NAME is one of " + ", ".join(WORDS) + ".", 100)}
The answers are written beside the file as SONG-fill.mid, or as SONG-fill-1.mid, SONG-fill-2.mid ...
What is not understood is told here and in SONG.error.txt. The options hold where a file says nothing else.
"""


def add_watch_command(commands: Any) -> None:
    """Adds the parser of the command."""
    p = commands.add_parser(
        "watch",
        help="fill what is saved in a folder, from any DAW",
        description=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.set_defaults(run=run_watch, stops_at_once=True)  # until `stoppable` takes over
    p.add_argument("folder", help="where the songs are saved; its subfolders are not watched")
    add_request(p)
    add_model(p)
    add_form(p)


def run_watch(options: argparse.Namespace) -> None:
    from midi_rwkv.fill.ask import Ask
    from midi_rwkv.score.score import Region

    folder = Path(options.folder)
    if not folder.is_dir():
        raise RequestError(f"there is no folder {shown(folder)}; create it, or name another")
    check_options(options)
    Ask(Region.rectangle([0], [(0, 1)]), sampling_of(options), candidates=options.candidates)  # refuses what never fits
    with only_watcher(folder):
        model = load_model(options)
        with stoppable() as check:
            watcher = Watcher(folder, options, model, check)
            say(f"watching {folder}; save a song there like 'song [8-12 Bass].mid'; Ctrl-C ends")
            try:
                while True:
                    check()
                    if not watcher.step():
                        time.sleep(LOOKS)
            except KeyboardInterrupt:
                count = watcher.answered
                raise KeyboardInterrupt(f"{count} answer{'' if count == 1 else 's'} written") from None


@contextmanager
def only_watcher(folder: Path) -> Iterator[None]:
    """Locks the folder within the block. Raises RequestError if another process has locked it."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RequestError(f"another midi-rwkv watches {shown(folder)}; end it, or choose another folder") from None
    try:
        yield
    finally:
        lock.release()


class Stamp(NamedTuple):
    """What changes when a file is saved."""

    nanoseconds: int
    size: int
    inode: int


class NotNow(Exception):
    """The song cannot be answered yet, or is no longer the one that was being answered."""


class Watcher:
    """Looks at a folder once at each `step`, and answers what has been saved there."""

    def __init__(
        self,
        folder: Path,
        options: argparse.Namespace,
        model: Model,
        check: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Reads the folder's record.

        Args:
            options: of the command, without bars.
            check: called at every cell that is written; may raise KeyboardInterrupt.
            clock: seconds, by which PATIENCE is measured.
        """
        self.folder, self.options, self.model = folder, options, model
        self.record = Record(folder)
        self.answered = 0  # songs
        self._check, self._clock = check, clock
        self._looks: dict[str, tuple[Stamp, float]] = {}  # how each song looks, and since when
        self._done: dict[str, Stamp] = {}  # how each looked that need not be read again
        self._earlier = set(self._songs())  # those that were there before this watcher, and were not saved since

    def step(self) -> bool:
        """Looks at the folder, and answers the song that was saved last among those that wait for it.

        Returns:
            Whether one was answered or refused, so that the next look should follow at once.

        Raises:
            RequestError: the folder is gone.
        """
        now, found = self._clock(), self._songs()
        self._earlier &= found.keys()
        self._looks = {name: look for name, look in self._looks.items() if name in found}
        self._done = {name: stamp for name, stamp in self._done.items() if name in found}
        for name in self.record.songs():
            if name not in found:
                self.record.take_back(name, _note(name))
        ready = []
        for name, stamp in found.items():
            before = self._looks.get(name)
            if before is None or before[0] != stamp:
                self._looks[name] = stamp, now
                if before:
                    self._earlier.discard(name)
            elif self._done.get(name) != stamp:
                ready.append(name)
        ready.sort(key=lambda name: found[name], reverse=True)
        return any(self._read(name) for name in ready)

    def _songs(self) -> dict[str, Stamp]:
        """The MIDI files and scores of the folder."""
        try:
            names = [name for name in os.listdir(self.folder) if name.lower().endswith(SONGS) and name[0] != "."]
        except (FileNotFoundError, NotADirectoryError):
            raise RequestError(f"the folder {shown(self.folder)} is gone; create it and start again") from None
        return {name: stamp for name in names if (stamp := self._stamp(name))}

    def _stamp(self, name: str) -> Stamp | None:
        """How a file looks now; None if it is none, or gone."""
        try:
            status = os.stat(self.folder / name)  # what a folder says of its files may be old on Windows
        except OSError:
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        return Stamp(status.st_mtime_ns, status.st_size, status.st_ino)

    def _read(self, name: str) -> bool:
        """Reads a song that looks the same for the second time; whether it was answered or refused."""
        self._done[name] = self._looks[name][0]
        try:
            asked = self._asked(name)
            if asked:
                self._answer(name, *asked)
            return asked is not None
        except NotNow as why:
            del self._done[name]
            if why.args:
                if sys.stderr.isatty():
                    say("", sys.stderr)  # ends the line that shows the progress
                say(f"midi-rwkv: {name} {why}", sys.stderr)
            return False
        except HalfAsked as why:
            say(f"midi-rwkv: {name} is left alone: {why}", sys.stderr)
            return False
        except (MidiRwkvError, OSError) as error:
            self._refuse(name, " ".join(str(error).split()))
            return True

    def _asked(self, name: str) -> tuple[Source, argparse.Namespace, Score, Ask] | None:
        """A song and the request that it makes; None if it makes none, or was answered by an earlier watcher."""
        from midi_rwkv.score.midi import load_midi

        path, (stamp, since) = self.folder / name, self._looks[name]
        instruction = instruction_in_name(path.stem)
        try:
            source = load_midi(path)
            if self._stamp(name) != stamp:
                raise NotNow
            if name in self._earlier and self.record.is_answered(name, digest_of(source.file)):
                return None
            if instruction is None and not self.record.has_written(digest_of(source.file)):
                instruction = instruction_in_markers(source)
                if instruction and ANSWER.search(path.stem):
                    raise HalfAsked("it is named like an answer; rename it to have it filled")
            if instruction is None:
                return None
            options = instruction.applied(self.options)
            return source, options, *request_of(options, source, songs=self.folder)
        except MidiError:
            if self._clock() - since < PATIENCE:
                raise NotNow from None
            if instruction is None:
                return None
            raise

    def _answer(self, name: str, source: Source, options: argparse.Namespace, score: Score, ask: Ask) -> None:
        """Fills a song and writes its answers."""
        from midi_rwkv.score.midi import check_output

        began, stamp = time.monotonic(), self._looks[name][0]

        def check() -> None:
            self._check()
            if self._stamp(name) != stamp:
                raise NotNow("was saved again or removed; its fill was given up")

        target = self.folder / f"{Path(name).stem}-fill.{ENDINGS[options.format]}"
        paths = outputs(name, str(target), ask.candidates, options.format)
        self._check_free(name, paths)
        for path in paths:
            check_output(path, overwrite=True)
        self.model.take_style(options)
        written = self.model.fill(paths, score, ask, on_progress=show_progress(check), began=began)
        check()
        if source.is_changed:
            raise NotNow("was saved again or removed; its fill was given up")
        self._check_free(name, paths)
        self._write(name, source, written, options)
        self.answered += 1
        report(written, None)

    def _check_free(self, name: str, paths: Sequence[Path]) -> None:
        """Raises RequestError if one of the paths has anything but an answer to the song, as it was written."""
        for path in paths:
            if os.path.lexists(path) and not self.record.owns(name, path.name):
                raise RequestError(
                    f"{path.name} exists already and is no answer that was left as it was; rename or remove it, and "
                    f"save {name} again"
                )

    def _write(self, name: str, source: Source, written: Written, options: argparse.Namespace) -> None:
        """Writes the answers to a song, all or none, and records them."""
        from midi_rwkv.score.midi import write_candidates

        paths, form = written.paths, form_of(source, written, options)
        digests: dict[str, str] = {}

        def recorded(song: bytes, number: int) -> bytes:
            data = form(song, number)
            digests[paths[number].name] = digest_of(data)
            if len(digests) == len(paths):
                self.record.claim(name, digests)  # before they are written: this process may end at any moment
            return data

        try:
            write_candidates(
                paths,
                source,
                written.score,
                written.ask.region,
                candidates=[candidate.fills for candidate in written.candidates],
                overwrite=any(self.record.owns(name, path.name) for path in paths),
                form=recorded,
            )
        finally:  # after Ctrl-C too, which may come when they have been written
            if digests and all(_holds(path, digests.get(path.name)) for path in paths):
                self.record.settle(name, digest_of(source.file), digests)

    def _refuse(self, name: str, why: str) -> None:
        """Says that a song cannot be answered, here and in a text file beside it."""
        say(f"midi-rwkv: {name}: {why}", sys.stderr)
        note, text = _note(name), f"{plain(why)}\n".encode()
        if os.path.lexists(self.folder / note) and not self.record.owns(name, note):
            return
        with suppress(OSError):  # the line above has said it
            self.record.claim(name, {note: digest_of(text)})
            with whole_file(self.folder / note) as partial:
                partial.write_bytes(text)


def _note(name: str) -> str:
    """The name of the text file that says why a song cannot be answered."""
    return f"{Path(name).stem}.error.txt"


def _holds(path: Path, digest: str | None) -> bool:
    try:
        return digest_of(path.read_bytes()) == digest
    except OSError:
        return False
