"""What the built wheel and sdist hold, against what git keeps: `python .ci/check_dist.py DIST`."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

PLACES = {"midi_rwkv": "midi_rwkv", "kernels": "midi_rwkv/kernels", "app": "midi_rwkv/app"}
MADE = {"PKG-INFO", "setup.cfg"}  # by building an sdist


def of_the_wheel(path: str) -> bool:
    """Whether a file of the repository is to be installed: the code, the page's parts and examples, the model, and
    the script for REAPER."""
    name = PurePosixPath(path)
    return (
        name.suffix == ".py"
        or name.name == "py.typed"
        or name.parent in (PurePosixPath("midi_rwkv/checkpoints/base"), PurePosixPath("midi_rwkv/reaper"))
        or (name.parts[0] == "app" and name.suffix in (".mid", ".css", ".html", ".js"))
    )


def main() -> None:
    [wheel], [sdist] = (list(Path(sys.argv[1]).glob(f"*{ending}")) for ending in (".whl", ".tar.gz"))
    kept = set(subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True).stdout.splitlines())

    expected = {p.replace(top, PLACES[top], 1) for p in kept if (top := p.split("/")[0]) in PLACES and of_the_wheel(p)}
    in_wheel = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}
    with tarfile.open(sdist) as archive:
        in_sdist = {n.name.partition("/")[2] for n in archive.getmembers() if n.isfile()} - MADE
    in_sdist = {n for n in in_sdist if not n.startswith("midi_rwkv.egg-info/")}

    for name, found, wanted in (("wheel", in_wheel, expected), ("sdist", in_sdist, kept)):
        if wrong := sorted(found ^ wanted):
            sys.exit(f"the {name} lacks, or has beside what git keeps: {', '.join(wrong[:9])}")
    print(f"wheel: {len(in_wheel)} files, {wheel.stat().st_size:,} bytes; sdist: {len(in_sdist)} files")


main()
