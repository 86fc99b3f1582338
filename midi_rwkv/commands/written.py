"""What `midi-rwkv infill` writes, and what it says about it. Heavy imports are inside functions."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from midi_rwkv.errors import RequestError
from midi_rwkv.score.clip import ENDINGS
from midi_rwkv.score.musicxml import SUFFIXES

from .terminal import say

if TYPE_CHECKING:
    from midi_rwkv.fill.ask import Ask
    from midi_rwkv.fill.infill import Candidate
    from midi_rwkv.fill.origin import Origin
    from midi_rwkv.model.step_checkpoint import StepCheckpoint
    from midi_rwkv.score.midi import Source
    from midi_rwkv.score.score import Score
    from midi_rwkv.style.style import Style


def outputs(song: str, output: str | None, candidates: int, form: str = "midi") -> list[Path]:
    """The output paths: `out.mid`, or `out-1.mid`, `out-2.mid` ... for several candidates, or none for `-`."""
    if output == "-":
        if candidates != 1:
            raise RequestError(f"-o - has room for one song, not for {candidates} candidates; name a file: -o OUT.mid")
        if form != "json" and (sys.stdout is None or sys.stdout.isatty()):
            raise RequestError("-o - would write a binary file to the terminal; send it to a file or another program")
        return []
    if output is not None:
        _check_ending(output, form)
    piped = song == "-" or Path(song).absolute().parts[1:2] in (("dev",), ("proc",))  # /dev/stdin, /dev/fd/63
    if output is None and piped:
        raise RequestError("a song that comes through a pipe has no name; add -o OUT.mid, or -o - for standard output")
    target = Path(output) if output else Path(song).with_name(f"{Path(song).stem}-infill.{ENDINGS[form]}")
    if candidates == 1:
        return [target]
    return [target.with_name(f"{target.stem}-{i + 1}{target.suffix}") for i in range(candidates)]


def _check_ending(output: str, form: str) -> None:
    """Raises RequestError for an output that is named like a score, and would not be one or not of this kind."""
    ending = Path(output).suffix.lower()
    if ending == ".mxl" or (ending in SUFFIXES and form != "musicxml"):
        remedy = "name it .musicxml" if form == "musicxml" else "add --format musicxml, or name it otherwise"
        raise RequestError(f"-o {output} would not be {'an' if ending == '.mxl' else 'a'} {ending} file; {remedy}")


@dataclass(frozen=True)
class Written:
    """An infill that is done."""

    paths: Sequence[Path]  # none where the song goes to standard output
    score: Score
    ask: Ask
    candidates: Sequence[Candidate]
    origins: Sequence[Origin]  # of the candidates
    style: Style | None
    checkpoint: StepCheckpoint
    seconds: float


def form_of(source: Source, written: Written, options: argparse.Namespace) -> Callable[[bytes, int], bytes]:
    """What makes the output of a song with a fill, and of the fill's index: --clip and --format."""
    from midi_rwkv.score.clip import Form, in_form

    form = Form(options.format, options.clip, source.notation)
    return lambda song, number: in_form(song, written.candidates[number].score, written.ask.region, form=form)


def write(source: Source, written: Written, options: argparse.Namespace) -> None:
    """Writes all candidates or none into the song as it was read, and warns if the song has changed since."""
    from midi_rwkv.score.midi import write_candidates
    from midi_rwkv.score.splice import splice

    paths, score, region, form = written.paths, written.score, written.ask.region, form_of(source, written, options)
    fills = [candidate.fills for candidate in written.candidates]
    if not paths:
        sys.stdout.buffer.write(form(splice(source.data, score, region, fills[0]), 0))
        sys.stdout.buffer.flush()
        return
    write_candidates(paths, source, score, region, candidates=fills, overwrite=options.overwrite, form=form)
    if source.path and not any(path.samefile(source.path) for path in paths) and source.is_changed:
        changed = f"{source.path} was changed meanwhile; what was written belongs to what was read"
        say(f"midi-rwkv: warning: {changed}", sys.stderr)


def report(written: Written, given: dict[str, Any] | None) -> None:
    """Prints what was written: on standard output, or on standard error if the song itself went to standard output.

    given: the options by name, for a report in JSON; None: a report for a person.
    """
    from midi_rwkv.fill.part import part_of, staying
    from midi_rwkv.score.describe import label, remarks
    from midi_rwkv.score.keyswitches import without_keyswitches

    paths, score, region = written.paths, written.score, written.ask.region
    music = without_keyswitches(score)
    before = sum(len(music.notes_in(t, b)) for t, b in region.cells if b < len(score.bars))
    after = [sum(len(notes) for notes in c.fills.values()) for c in written.candidates]
    stay = staying(music, written.ask, part_of(music, written.ask))
    for t, notes in written.ask.locked.items():
        stay[t] = [*stay[t], *notes]
    new = [sum(n not in stay[t] for t, notes in c.fills.items() for n in notes) for c in written.candidates]
    names = [label(score.tracks[t], t) for t in region.tracks]
    runs = [(lo + score.first_bar_number, hi - 1 + score.first_bar_number) for lo, hi in region.bar_runs()]
    files = [str(p) for p in paths] or ["-"]
    out = sys.stdout if paths else sys.stderr  # the song itself goes to standard output
    if given is not None:
        from midi_rwkv.model.checkpoint import checkpoint_hash

        told = {
            "outputs": files,
            "bars": [list(r) for r in runs],
            "tracks": [t + 1 for t in region.tracks],
            "track_names": names,
            "notes_before": before,
            "notes_after": after,
            "seed": written.ask.seed,
            "checkpoint": {"version": written.checkpoint.version, "hash": checkpoint_hash(written.checkpoint)},
            "options": given,
            "fills": [
                {"new_notes": count, **origin.told(score.first_bar_number)}
                for count, origin in zip(new, written.origins, strict=True)
            ],
            "warnings": remarks(score),
            "style": written.style.name if written.style else None,
            "seconds": round(written.seconds, 2),
        }
        say(json.dumps(told), out)
        return
    for remark in remarks(score):
        say(f"midi-rwkv: warning: {remark}", sys.stderr)
    spans = ", ".join(f"{lo}-{hi}" if lo < hi else str(lo) for lo, hi in runs)
    say(
        f"bars {spans} of {', '.join(names)}; {before} notes before; seed {written.ask.seed}; {written.seconds:.1f} s",
        out,
    )
    for path, count, origin in zip([str(p) for p in paths] or ["standard output"], new, written.origins, strict=True):
        say(f"{path}: {count} new notes", out)
        if origin.longest:
            say(
                f"{path}: a run of {origin.longest} new notes may be in the training music too "
                "(--no-quotes avoids that)",
                out,
            )
        if origin.longest_own:
            say(
                f"{path}: a run of {origin.longest_own} new notes is in the style's pieces (--no-quotes avoids that)",
                out,
            )
