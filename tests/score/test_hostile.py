"""Files of 100 KB that were made to cost memory or time are read, or refused in one line, within bounds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hostile import HOSTILE

MEMORY = 300 * 2**20  # bytes
SECONDS = 10  # of CPU; 2 on a machine that does nothing else
PRINTED = 2**22  # bytes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it is measured by fork and wait4")


@pytest.fixture(scope="module")
def spent():
    """Exit code, seconds of CPU, peak memory and bytes printed of `midi-rwkv inspect`, by file."""
    done = subprocess.run([sys.executable, Path(__file__).parents[1] / "hostile.py"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("json_", ["", " --json"])
def test_inspect_stays_within_bounds(spent, name, json_):
    code, seconds, memory, printed = spent[name + json_]
    assert code in (0, 2)
    assert seconds < SECONDS
    assert memory < MEMORY
    assert printed < PRINTED
