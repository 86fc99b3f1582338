"""The `midi-rwkv` command. Heavy imports come inside the commands, so that `--help` answers at once."""

from __future__ import annotations

import argparse
import json
import secrets
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from midi_rwkv.app.serve import add_app_options, run_app

from .arguments import parse_as, parse_bars, parse_key, parse_pitch, parse_range, parse_tracks, sounding_tracks
from .cli_evaluate import add_evaluate_command, add_sampling
from .cli_inspect import add_as, add_inspect_command
from .cli_style import add_style_commands, add_style_options
from .errors import MidiRwkvError, RequestError, packages_for
from .prompt import ORDERS

if TYPE_CHECKING:
    from .infill import Progress


def outputs(target: Path, candidates: int) -> list[Path]:
    """`out.mid`, or `out-1.mid`, `out-2.mid` ... for several candidates."""
    if candidates == 1:
        return [target]
    return [target.with_name(f"{target.stem}-{i + 1}{target.suffix}") for i in range(candidates)]


@contextmanager
def stoppable() -> Iterator[Callable[[], None]]:
    """Ctrl-C raises KeyboardInterrupt at once, and again at the next call of what this yields.

    One in a dozen that was raised inside the decoding loop was lost in compiled code; a second chance is needed.
    """
    pressed = threading.Event()

    def stop(*_: object) -> None:
        pressed.set()
        raise KeyboardInterrupt

    def check() -> None:
        if pressed.is_set():
            raise KeyboardInterrupt

    usual = signal.getsignal(signal.SIGINT)
    ours = usual is signal.default_int_handler and threading.current_thread() is threading.main_thread()
    if ours:
        signal.signal(signal.SIGINT, stop)
    try:
        yield check
    finally:
        if ours:
            signal.signal(signal.SIGINT, usual)


def show_progress(check: Callable[[], None]) -> Callable[[Progress], None]:
    """A line on the terminal that is drawn over; nothing when stderr is not one. `check` is called each time."""

    def update(progress: Progress) -> None:
        check()
        if sys.stderr.isatty():
            end = "\n" if progress.done == progress.total else ""
            print(f"\r{progress.done}/{progress.total} cells written", end=end, file=sys.stderr, flush=True)

    return update


def run_infill(options: argparse.Namespace) -> None:
    began = time.monotonic()
    from .config import SamplingConfig
    from .describe import label, remarks
    from .keyswitches import without_keyswitches
    from .midi import check_output, read_midi, write_midi
    from .score import Region, Track

    source = Path(options.song)
    score = parse_as(options.taken_as, read_midi(source, allow_empty=bool(options.new_track)))
    target = Path(options.output) if options.output else source.with_name(f"{source.stem}-infill.mid")
    paths = outputs(target, options.candidates)
    for path in paths:
        check_output(path, options.overwrite)
    bars = parse_bars(options.bars, score)
    if options.tracks is not None:
        tracks = parse_tracks(options.tracks, score)
    else:
        tracks = [] if options.new_track else sounding_tracks(score, bars)
    for text in options.new_track or ():
        from .instruments import find_program, program_name
        from .score import Score

        program, is_drum = find_program(text)
        new = Track(program_name(program, is_drum), program, is_drum, ())
        tracks.append(len(score.tracks))
        score = Score(
            score.ticks_per_beat,
            (*score.tracks, new),
            score.time_signatures,
            score.tempos,
            end_ticks=score.end_ticks,
            name=score.name,
        )
    region = Region.rectangle(tracks, bars)
    sampling = SamplingConfig(
        temperature=options.temperature,
        top_p=options.top_p,
        min_p=options.min_p,
        density=parse_range("--density", options.density),
        polyphony=parse_range("--polyphony", options.polyphony),
        pitch_range=parse_range("--pitch-range", options.pitch_range, parse_pitch),
        key=parse_key(options.key),
        recall=options.recall,
    )
    if options.context_bars is not None and options.context_bars < 0:
        raise RequestError(f"--context-bars must be 0 or more, got {options.context_bars}")
    seed = secrets.randbelow(2**31) if options.seed is None else options.seed
    if options.threads < 1:
        raise RequestError(f"--threads must be 1 or more, got {options.threads}")
    if seed < 0:
        raise RequestError(f"--seed must be 0 or more, got {seed}")

    from .checkpoint import load_checkpoint
    from .infill import infill
    from .style import find_style

    checkpoint = load_checkpoint(options.checkpoint)
    style = find_style(options.style, checkpoint, options.style_strength)
    with stoppable() as check:
        candidates = infill(
            score,
            region,
            checkpoint,
            sampling,
            candidates=options.candidates,
            seed=seed,
            context_bars=options.context_bars,
            backend=options.backend,
            threads=options.threads,
            on_progress=show_progress(check),
            style=style,
            precision=options.precision,
        )
        check()
    for path, candidate in zip(paths, candidates, strict=True):
        write_midi(path, source, score, region, fills=candidate.fills, overwrite=options.overwrite)
    music = without_keyswitches(score)
    before = sum(len(music.notes_in(t, b)) for t, b in region.cells if b < len(score.bars))
    after = [sum(len(notes) for notes in c.fills.values()) for c in candidates]
    names = [label(score.tracks[t], t) for t in region.tracks]
    runs = [(lo + score.first_bar_number, hi - 1 + score.first_bar_number) for lo, hi in region.bar_runs()]
    seconds = time.monotonic() - began
    if options.json:
        report = {
            "outputs": [str(p) for p in paths],
            "bars": [list(r) for r in runs],
            "tracks": [t + 1 for t in region.tracks],
            "track_names": names,
            "notes_before": before,
            "notes_after": after,
            "seed": seed,
            "warnings": remarks(score),
            "style": style.name if style else None,
            "seconds": round(seconds, 2),
        }
        print(json.dumps(report))
        return
    for remark in remarks(score):
        print(f"midi-rwkv: warning: {remark}", file=sys.stderr)
    spans = ", ".join(f"{lo}-{hi}" if lo < hi else str(lo) for lo, hi in runs)
    print(f"bars {spans} of {', '.join(names)}; {before} notes before; seed {seed}; {seconds:.1f} s")
    for path, count in zip(paths, after, strict=True):
        print(f"{path}: {count} new notes")


def run_convert(options: argparse.Namespace) -> None:
    from .convert import convert

    print(
        convert(
            Path(options.source),
            Path(options.target),
            tokenizer=options.tokenizer,
            overwrite=options.overwrite,
            order=options.order,
        )
    )


def run_module(name: str) -> Callable[[argparse.Namespace], None]:
    def run(options: argparse.Namespace) -> None:
        from importlib import import_module

        import_module(f".cli_{name}", __package__).main(options.arguments)

    return run


class Version(argparse.Action):
    """Prints and exits; only then is anything looked up."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import version

        from .checkpoint import load_checkpoint

        shipped = load_checkpoint()
        print(f"midi-rwkv {version('midi-rwkv')}, checkpoint {shipped.path.name} {shipped.version}")
        parser.exit()


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="midi-rwkv",
        description="Write bars of a MIDI song anew; everything else in the file stays as it is.",
        epilog="example: midi-rwkv infill song.mid --bars 8-12 --tracks Bass --candidates 3 -o new.mid",
    )
    parser.add_argument("--version", action=Version, nargs=0, help="of the program and of the checkpoint that ships")
    parser.add_argument("--debug", action="store_true", help="show where an error came from; may stand anywhere")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    p = commands.add_parser(
        "infill", help="write some bars of some tracks anew", description="Write some bars of some tracks anew."
    )
    p.set_defaults(run=run_infill)
    p.add_argument("song", help="a MIDI file")
    p.add_argument(
        "--bars",
        action="append",
        required=True,
        metavar="8-12",
        help="bar numbers, from 1 (a pickup is bar 0); may be repeated; bars after the last continue the song",
    )
    p.add_argument(
        "--tracks",
        metavar='2,4|"Bass"|all',
        help="track numbers, names or instruments, as `midi-rwkv inspect` shows (default: those that play in these "
        "bars, or all where none does)",
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
        help="so many answers, in OUT-1.mid, OUT-2.mid ... (default: 1)",
    )
    add_sampling(p)
    p.add_argument("--seed", type=int, help="same seed, same file (default: a new one each time, which is printed)")
    p.add_argument(
        "--context-bars", type=int, metavar="N", help="read at most N bars on each side (default: as many as fit)"
    )
    p.add_argument("--density", metavar="LOW-HIGH", help="notes a bar in each track")
    p.add_argument("--polyphony", metavar="LOW-HIGH", help="notes struck together")
    p.add_argument(
        "--pitch-range",
        metavar="C3-C6",
        help="lowest and highest pitch, C4 = 60 (default: what the track plays elsewhere, and a fourth beyond)",
    )
    p.add_argument("--key", metavar='"A minor"', help="only pitches of this key")
    add_style_options(p)
    p.add_argument("--checkpoint", metavar="DIR|file", help="another model than the one that ships")
    p.add_argument(
        "--backend",
        choices=("auto", "numba", "torch", "triton"),
        default="auto",
        help="what runs the model (default: auto)",
    )
    p.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads (default: 1)")
    p.add_argument(
        "--precision",
        choices=("auto", "float32", "int8"),
        default="auto",
        help="of the weights; auto (default): int8, which is faster and nearly the same, where it can be had",
    )
    p.add_argument(
        "-o", "--output", metavar="out.mid", help="where to write (default: SONG-infill.mid beside the song)"
    )
    p.add_argument("--overwrite", action="store_true", help="replace the output if it exists")
    p.add_argument("--json", action="store_true", help="print the report as JSON")

    add_inspect_command(commands)
    p = commands.add_parser(
        "convert",
        help="checkpoints and states from and to RWKV-LM's files",
        description="A checkpoint folder <-> an RWKV-LM .pth; RWKV-PEFT's time_state .pth <-> .safetensors.",
    )
    p.set_defaults(run=run_convert)
    p.add_argument("source")
    p.add_argument("target")
    p.add_argument("--tokenizer", metavar="tokenizer.json", help="for a .pth that becomes a checkpoint folder")
    p.add_argument("--order", choices=ORDERS, default=ORDERS[0], help="the prompt's, for such a .pth (default: bars)")
    p.add_argument("--overwrite", action="store_true", help="replace the target if it exists")

    add_evaluate_command(commands)
    add_style_commands(commands)
    p = commands.add_parser("app", help="the page: see, mark, infill, listen", description="Serve the page, locally.")
    p.set_defaults(run=run_app)
    add_app_options(p)
    for name, text in (("corpus", "MIDI files -> token shards"), ("train", "train a checkpoint on token shards")):
        p = commands.add_parser(name, help=text, add_help=False)
        p.set_defaults(run=run_module(name))
        p.add_argument("arguments", nargs=argparse.REMAINDER)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 2 on bad input (one line on stderr), 130 on Ctrl-C,
    1 on a bug (its traceback)."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]  # it may stand anywhere
    if arguments[:1] in (["corpus"], ["train"]):  # argparse would keep options before the first positional for itself
        options = argparse.Namespace(run=run_module(arguments[0]), arguments=arguments[1:])
    else:
        options = build_parser().parse_args(arguments)
    try:
        with packages_for(arguments[0]):
            options.run(options)
    except KeyboardInterrupt as stopped:
        print(f"midi-rwkv: stopped; {stopped.args[0] if stopped.args else 'nothing was written'}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0
    except (MidiRwkvError, OSError) as error:
        if debug:
            traceback.print_exc()
        print(f"midi-rwkv: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except Exception:
        traceback.print_exc()
        print("midi-rwkv: this is a bug in midi-rwkv: please report it with the lines above", file=sys.stderr)
        return 1
    return 0


def entry() -> None:
    sys.exit(main())
