"""What becomes of a run of tests whose processes die or hang: it ends, and names the test."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WELL = "import time\ndef test_well():\n    time.sleep(0.05)\n"
DIES = "import os, signal\ndef test_bad():\n    os.kill(os.getpid(), signal.SIGKILL)\n"
HANGS = "import time\ndef test_bad():\n    time.sleep(1000)\n"


@pytest.mark.slow
@pytest.mark.parametrize("processes", ["1", "2"])
@pytest.mark.parametrize(("bad", "options"), [(DIES, ()), (HANGS, ("-o", "faulthandler_timeout=5"))])
def test_a_process_that_dies_or_hangs_ends_the_run(
    tmp_path: Path, processes: str, bad: str, options: tuple[str, ...]
) -> None:
    """Under xdist's own defaults the first of these waits for ever, with the work of files that are done."""
    for number in range(8):
        (tmp_path / f"test_{number}.py").write_text(WELL)
    (tmp_path / "test_8.py").write_text(bad)
    words = ["-c", ROOT / "pyproject.toml", "--rootdir", tmp_path, "-p", "no:cacheprovider", "-n", processes, *options]
    command = [sys.executable, "-m", "pytest", *map(str, words), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=tmp_path)
    assert done.returncode == 1, done.stdout
    assert "crashed while running 'test_8.py::test_bad'" in done.stdout
    assert "8 passed" in done.stdout
