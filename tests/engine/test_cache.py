"""Compiled functions are kept on disk: the second process loads them, and nothing on the disk is an obstacle."""

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
from midi_rwkv.engine import numba_engine
print(len(numba_engine.advance("float32")._cache_hits), "torch" in sys.modules)
"""


def run_program(cache: Path) -> str:
    environment = os.environ | {"NUMBA_CACHE_DIR": str(cache)}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, check=True, capture_output=True, text=True
    ).stdout


def test_the_second_process_does_not_compile_and_a_damaged_cache_is_made_anew(tmp_path: Path):
    assert run_program(tmp_path) == "0 False\n"
    files = list(tmp_path.glob("midi-rwkv-*/**/*.nb*"))
    assert len(files) == 2
    assert run_program(tmp_path) == "1 False\n"
    for file in files:
        file.write_bytes(file.read_bytes()[:100])
    assert run_program(tmp_path) == "0 False\n"


def test_an_unusable_cache_folder_is_no_obstacle(tmp_path: Path):
    (tmp_path / "file").write_text("not a folder")
    assert run_program(tmp_path / "file") == "0 False\n"
