"""`midi-rwkv infill`: its options, input and output. Heavy imports are inside functions."""

from __future__ import annotations

import argparse
import json
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from midi_rwkv.errors import MidiError, RequestError
from midi_rwkv.fill.arguments import (
    parse_as,
    parse_bars,
    parse_key,
    parse_pitch,
    parse_range,
    parse_tracks,
    sounding_tracks,
)

from .evaluate import add_sampling
from .inspect import add_as, read_source
from .style import add_style_options
from .terminal import say, stoppable

if TYPE_CHECKING:
    from midi_rwkv.fill.ask import Ask
    from midi_rwkv.fill.infill import Candidate, Progress
    from midi_rwkv.score.midi import Source
    from midi_rwkv.score.score import Score
    from midi_rwkv.style.style import Style


def add_infill_command(commands: Any) -> None:
    p = commands.add_parser(
        "infill", help="rewrite some bars of some tracks", description="Rewrite some bars of some tracks."
    )
    p.set_defaults(run=run_infill, stops_at_once=True)  # until `stoppable` takes over
    p.add_argument("song", help="a MIDI file, or - for standard input")
    p.add_argument(
        "--bars",
        action="append",
        required=True,
        metavar="8-12",
        help="bar numbers from 1 (a pickup is bar 0); bars after the last continue the song; may be repeated",
    )
    p.add_argument(
        "--tracks",
        metavar='2,4|"Bass"|all',
        help="track numbers, names or instruments, as `midi-rwkv inspect` shows them (default: the tracks that play in "
        "these bars, or all if none plays)",
    )
    add_as(p)
    p.add_argument(
        "--new-track",
        action="append",
        metavar="PROGRAM|NAME",
        help="add a track: 0-127, Violin, Drums ...; may be repeated",
    )
    p.add_argument(
        "--candidates",
        type=int,
        default=1,
        metavar="N",
        help="write N answers, as OUT-1.mid, OUT-2.mid ... (default: 1)",
    )
    add_sampling(p)
    p.add_argument("--seed", type=int, help="the same seed gives the same file (default: a new one, which is printed)")
    p.add_argument(
        "--context-bars", type=int, metavar="N", help="read at most N bars on each side (default: as many as fit)"
    )
    p.add_argument(
        "--density",
        metavar="LOW-HIGH",
        help="notes per bar in each track (default: free; in a new track, as many as its kind usually has)",
    )
    p.add_argument(
        "--polyphony",
        metavar="LOW-HIGH",
        help="notes struck together; 1: one note at a time (default: 1 if the track is monophonic, else free)",
    )
    p.add_argument(
        "--pitch-range",
        metavar="C3-C6",
        help="lowest and highest pitch, C4 = 60 (default: the track's range elsewhere, plus a fourth on either side; "
        "for drums those it uses)",
    )
    p.add_argument("--key", metavar='"A minor"', help="use only pitches of this key")
    add_style_options(p)
    p.add_argument("--checkpoint", metavar="DIR|file", help="the model (default: the one that ships)")
    p.add_argument(
        "--backend",
        choices=("auto", "numba", "torch", "triton"),
        default="auto",
        help="the engine that runs the model (default: auto)",
    )
    p.add_argument(
        "--threads",
        type=int,
        default=1,
        metavar="N",
        help="CPU threads, 1-2, or more with --backend torch (default: 1)",
    )
    p.add_argument(
        "--precision",
        choices=("auto", "float32", "int8"),
        default="auto",
        help="format of the weights; auto (default) is int8 where available, which is faster and nearly the same",
    )
    p.add_argument(
        "-o",
        "--output",
        metavar="out.mid",
        help="the output file, or - for standard output (default: SONG-infill.mid beside the song)",
    )
    p.add_argument("--overwrite", action="store_true", help="replace the output if it exists")
    p.add_argument("--json", action="store_true", help="print the report as JSON")


def outputs(song: str, output: str | None, candidates: int) -> list[Path]:
    """The output paths: `out.mid`, or `out-1.mid`, `out-2.mid` ... for several candidates, or none for `-`."""
    if output == "-":
        if candidates != 1:
            raise RequestError(f"-o - has room for one song, not for {candidates} candidates; name a file: -o OUT.mid")
        if sys.stdout is None or sys.stdout.isatty():
            raise RequestError("-o - would write a MIDI file to the terminal; send it to a file or another program")
        return []
    piped = song == "-" or Path(song).absolute().parts[1:2] in (("dev",), ("proc",))  # /dev/stdin, /dev/fd/63
    if output is None and piped:
        raise RequestError("a song that comes through a pipe has no name; add -o OUT.mid, or -o - for standard output")
    target = Path(output) if output else Path(song).with_name(f"{Path(song).stem}-infill.mid")
    if candidates == 1:
        return [target]
    return [target.with_name(f"{target.stem}-{i + 1}{target.suffix}") for i in range(candidates)]


def show_progress(check: Callable[[], None]) -> Callable[[Progress], None]:
    """A progress line that is redrawn on the terminal, or nothing if stderr is no terminal. Calls `check` each time."""

    def update(progress: Progress) -> None:
        check()
        if sys.stderr.isatty():
            end = "\n" if progress.done == progress.total else ""
            print(f"\r{progress.done}/{progress.total} cells written", end=end, file=sys.stderr, flush=True)

    return update


@dataclass(frozen=True)
class Written:
    """An infill that is done."""

    paths: Sequence[Path]  # none where the song goes to standard output
    score: Score
    ask: Ask
    candidates: Sequence[Candidate]
    style: Style | None
    seconds: float


def write(source: Source, written: Written, *, overwrite: bool) -> None:
    """Writes all candidates or none into the song as it was read, and warns if the song has changed since."""
    from midi_rwkv.score.midi import write_candidates
    from midi_rwkv.score.splice import splice

    paths, score, region = written.paths, written.score, written.ask.region
    fills = [candidate.fills for candidate in written.candidates]
    if not paths:
        sys.stdout.buffer.write(splice(source.data, score, region, fills[0]))
        sys.stdout.buffer.flush()
        return
    write_candidates(paths, source, score, region, candidates=fills, overwrite=overwrite)
    if source.path and not any(path.samefile(source.path) for path in paths) and source.is_changed:
        changed = f"{source.path} was changed meanwhile; what was written belongs to what was read"
        say(f"midi-rwkv: warning: {changed}", sys.stderr)


def run_infill(options: argparse.Namespace) -> None:
    began = time.monotonic()
    from midi_rwkv.engine.make import MOST_THREADS
    from midi_rwkv.fill.ask import Ask
    from midi_rwkv.model.config import SamplingConfig, check_seed, check_threads
    from midi_rwkv.score.midi import check_output, read_midi
    from midi_rwkv.score.score import Region, Track
    from midi_rwkv.score.splice import check_new_tracks

    paths = outputs(options.song, options.output, options.candidates)
    source = read_source(options.song)
    score = parse_as(options.taken_as, read_midi(source, allow_empty=bool(options.new_track)))
    for path in paths:
        check_output(path, overwrite=options.overwrite)
    bars = parse_bars(options.bars, score)
    if options.tracks is not None:
        tracks = parse_tracks(options.tracks, score)
    else:
        tracks = [] if options.new_track else sounding_tracks(score, bars)
    for text in options.new_track or ():
        from midi_rwkv.score.instruments import find_program, program_name

        program, is_drum = find_program(text)
        new = Track(program_name(program, is_drum=is_drum), program, (), is_drum=is_drum)
        tracks.append(len(score.tracks))
        score = replace(score, tracks=(*score.tracks, new))
    check_new_tracks(source.data, score)
    region = Region.rectangle(tracks, bars)
    sampling = SamplingConfig(
        temperature=options.temperature,
        top_p=options.top_p,
        min_p=options.min_p,
        density=parse_range("--density", options.density),
        polyphony=parse_range("--polyphony", options.polyphony),
        pitch_range=parse_range("--pitch-range", options.pitch_range, parse_pitch),
        key=parse_key(options.key),
        follow=options.follow,
    )
    if options.context_bars is not None and options.context_bars < 0:
        raise RequestError(f"--context-bars must be 0 or more, got {options.context_bars}")
    seed = secrets.randbelow(2**31) if options.seed is None else options.seed
    most = MOST_THREADS if options.backend in ("auto", "numba") else None
    check_threads(options.threads, "--threads", most)
    check_seed(seed, "--seed")
    ask = Ask(region, sampling, candidates=options.candidates, seed=seed, context_bars=options.context_bars)

    from midi_rwkv.fill.infill import Infiller
    from midi_rwkv.model.checkpoint import load_checkpoint
    from midi_rwkv.style.style import find_style

    checkpoint = load_checkpoint(options.checkpoint)
    style = find_style(options.style, checkpoint, options.style_strength)
    infiller = Infiller(
        checkpoint, backend=options.backend, threads=options.threads, style=style, precision=options.precision
    )
    with stoppable() as check:
        candidates = infiller(score, ask, on_progress=show_progress(check))
        check()
        written = Written(paths, score, ask, candidates, style, time.monotonic() - began)
        try:
            write(source, written, overwrite=options.overwrite)
        except MidiError as error:
            raise MidiError(f"{error} (--seed {seed} gives the same notes again)") from None
    try:
        report(written, as_json=options.json)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the song is written") from None


def report(written: Written, *, as_json: bool) -> None:
    """Prints what was written: on standard output, or on standard error if the song itself went to standard output."""
    from midi_rwkv.score.describe import label, remarks
    from midi_rwkv.score.keyswitches import without_keyswitches

    paths, score, region = written.paths, written.score, written.ask.region
    music = without_keyswitches(score)
    before = sum(len(music.notes_in(t, b)) for t, b in region.cells if b < len(score.bars))
    after = [sum(len(notes) for notes in c.fills.values()) for c in written.candidates]
    names = [label(score.tracks[t], t) for t in region.tracks]
    runs = [(lo + score.first_bar_number, hi - 1 + score.first_bar_number) for lo, hi in region.bar_runs()]
    out = sys.stdout if paths else sys.stderr  # the song itself goes to standard output
    if as_json:
        told = {
            "outputs": [str(p) for p in paths] or ["-"],
            "bars": [list(r) for r in runs],
            "tracks": [t + 1 for t in region.tracks],
            "track_names": names,
            "notes_before": before,
            "notes_after": after,
            "seed": written.ask.seed,
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
    for path, count in zip([str(p) for p in paths] or ["standard output"], after, strict=True):
        say(f"{path}: {count} new notes", out)
