"""What is imported from where and when, and what an installation without the heavy packages can do."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SONG = ROOT / "app" / "examples" / "string_quartet.mid"
# What docs/infill.md installs for infilling alone, and what these bring.
INFILLING = {"llvmlite", "mido", "numba", "numpy", "platformdirs", "safetensors"}
BROUGHT = {"packaging"}
WHERE = """
import midi_rwkv, midi_rwkv.app, midi_rwkv.kernels
print(midi_rwkv.__file__, midi_rwkv.kernels.__file__, midi_rwkv.app.__file__)
"""


def python(code: str, *arguments: object, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)


@pytest.fixture
def installed(tmp_path):
    """A folder as pip fills it, with a copy of the packages in it that is not the checkout's."""
    folder = tmp_path / "site"
    shutil.copytree(ROOT / "midi_rwkv", folder / "midi_rwkv", ignore=shutil.ignore_patterns("checkpoints"))
    for part in ("kernels", "app"):
        shutil.copytree(ROOT / part, folder / "midi_rwkv" / part)
    return folder


def test_in_a_checkout_all_of_it_is_the_checkouts(installed, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(installed))
    in_checkout = python(WHERE, cwd=ROOT).stdout.split()
    assert [Path(p).parent for p in in_checkout] == [ROOT / "midi_rwkv", ROOT / "kernels", ROOT / "app"]
    elsewhere = python(WHERE, cwd=installed.parent).stdout.split()
    package = installed / "midi_rwkv"
    assert [Path(p).parent for p in elsewhere] == [package, package / "kernels", package / "app"]


def test_pytest_says_when_it_does_not_test_the_checkout(installed, pytestconfig, monkeypatch):
    conftest = pytestconfig.pluginmanager.get_plugin(str(ROOT / "tests" / "conftest.py"))
    monkeypatch.setattr(conftest, "PACKAGE", installed / "midi_rwkv")
    line = f"midi_rwkv: as installed, {installed / 'midi_rwkv'}"
    assert conftest.pytest_report_header() == [line]
    (installed / "midi_rwkv" / "kernels" / "dispatch.py").write_text("")
    said = "  the checkout's kernels/dispatch.py is another (of 1): `python -m pytest` tests the checkout"
    assert conftest.pytest_report_header() == [line, said]
    monkeypatch.setattr(conftest, "PACKAGE", ROOT / "midi_rwkv")
    assert conftest.pytest_report_header() == ["midi_rwkv: this checkout"]


LOADED = """
import sys
from midi_rwkv.commands.cli import main
code = main(sys.argv[1:])
print("loaded:", *sorted({name.partition(".")[0] for name in sys.modules}))
sys.exit(code)
"""


@pytest.mark.parametrize(
    "command", [["infill", SONG, "--bars", "4-5", "-o", "out.mid", "--checkpoint"], ["inspect", SONG]]
)
def test_infilling_loads_neither_pytorch_nor_gradio(command, checkpoint_folder, tmp_path):
    options = [checkpoint_folder] if command[0] == "infill" else []
    done = python(LOADED, *command, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "mido" in loaded
    assert not loaded & {"torch", "gradio", "miditok", "symusic", "pandas", "matplotlib"}


ONLY = """
import sys
from importlib.metadata import packages_distributions
kept, arguments = set(sys.argv[1].split(",")), sys.argv[2:]
for name, owners in packages_distributions().items():
    if not kept & set(owners):
        sys.modules.setdefault(name, None)
from midi_rwkv.commands.cli import main
sys.exit(main(arguments))
"""


@pytest.mark.parametrize(
    ("command", "needs"),
    [
        (["infill", "SONG", "--bars", "4-5", "-o", "out.mid", "--checkpoint", "CHECKPOINT"], ""),
        (["infill", "SONG", "--bars", "4", "-o", "out.mid", "--backend", "torch"], "infill needs PyTorch"),
        (["inspect", "SONG"], ""),
        (["app"], "app needs Gradio"),
        (["personalize", "SONG", "--name", "mine"], "personalize needs PyTorch"),
        (["convert", "model.pth", "out"], "convert needs PyTorch"),
        (["corpus", "FOLDER", "out"], "corpus needs "),
        (["train", "FOLDER", "out"], "train needs PyTorch"),
        (["evaluate", "FOLDER", "--out", "out"], "evaluate needs "),
    ],
)  # fmt: skip
def test_with_seven_packages_infilling_works_and_the_rest_says_what_to_install(
    command, needs, checkpoint_folder, tmp_path
):
    places = {"SONG": SONG, "FOLDER": SONG.parent, "CHECKPOINT": checkpoint_folder}
    kept = ",".join({"midi-rwkv", *INFILLING, *BROUGHT})
    done = python(ONLY, kept, *(places.get(a, a) for a in command), cwd=tmp_path)
    if needs:
        assert done.returncode == 2, done.stderr
        assert done.stderr.startswith(f"midi-rwkv: error: {needs}")
        assert re.search(r", which is not installed: pip install \S+\n\Z", done.stderr)
        assert done.stderr.count("\n") == 1
        assert list(tmp_path.iterdir()) == []
    else:
        assert (done.returncode, done.stderr) == (0, "")


def test_the_seven_packages_are_those_of_the_documentation():
    text = (ROOT / "docs" / "infill.md").read_text(encoding="utf-8")
    [command] = re.findall(r"^pip install --no-deps \. && pip install (.*)$", text, re.MULTILINE)
    assert set(command.split()) == INFILLING
    assert {re.split("[<>=]", d)[0] for d in PROJECT["project"]["dependencies"]} >= INFILLING


def test_packages_are_all_listed():
    listed = set(PROJECT["tool"]["setuptools"]["packages"])
    folders = {
        p.parent.relative_to(ROOT) for top in ("midi_rwkv", "kernels", "app") for p in (ROOT / top).rglob("*.py")
    }
    names = {".".join(f.parts) for f in folders}
    assert listed == {n if n.startswith("midi_rwkv") else f"midi_rwkv.{n}" for n in names}


def test_the_description_on_an_index_has_links_that_hold_there(monkeypatch):
    given: dict[str, str] = {}
    monkeypatch.setattr("setuptools.setup", lambda **options: given.update(options))
    spec = importlib.util.spec_from_file_location("setup", ROOT / "setup.py")
    assert spec
    assert spec.loader
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#]+)", readme)
    local = [t for t in targets if "://" not in t]
    assert local
    assert all((ROOT / t).exists() for t in local)
    home = PROJECT["project"]["urls"]["Homepage"]
    absolute = re.findall(r"\]\(([^)#]+)", given["long_description"])
    assert absolute == [
        t if "://" in t else f"{home}/{'raw' if t.endswith('.png') else 'blob'}/main/{t}" for t in targets
    ]
