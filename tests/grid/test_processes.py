"""Locks between processes on one results folder; whole runs side by side are in `test_nothing_lost.py`."""

import errno
import fcntl
import signal
import subprocess
import sys
import time

import pytest

from kdbench.errors import UserError
from kdbench.locks import attempt, hold, is_held, owner_of
from kdbench.train.teacher import Stopped

HOLDS = """
import sys, time
from pathlib import Path
from kdbench.locks import attempt
with attempt(Path(sys.argv[1])) as mine:
    print(mine, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
    """A process that holds the lock at `tmp_path / "x.lock"`."""
    command = [sys.executable, "-c", HOLDS, str(tmp_path / "x.lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        yield process
        process.kill()


def test_a_lock_is_gone_with_its_owner(other, tmp_path):
    place = tmp_path / "x.lock"
    with attempt(place) as mine:
        assert not mine
    assert is_held(place)
    assert f"process {other.pid}, since" in owner_of(place)
    other.send_signal(signal.SIGKILL)
    other.wait()
    with attempt(place) as mine:
        assert mine
        assert f"process {other.pid}," not in owner_of(place)
    assert owner_of(place) == "another process"  # nobody's note is left


def test_who_waits_may_give_up_or_gets_the_lock(other, tmp_path):
    owners = []

    def give_up(owner):
        owners.append(owner)
        raise Stopped

    with pytest.raises(Stopped), hold(tmp_path / "x.lock", give_up):
        raise AssertionError("it is held")
    assert f"process {other.pid}" in owners[0]
    start = time.monotonic()
    with hold(tmp_path / "x.lock", lambda owner: other.kill()):
        assert time.monotonic() - start < 30


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_refused(kdbench, suite_file, tmp_path, monkeypatch, number):
    """Not with a lock file's mere existence in their place: that would outlive its owner."""

    def flock(*_):
        raise OSError(number, "no locks here")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(UserError, match=r"without locks.*give another --results"), attempt(tmp_path / "x.lock"):
        raise AssertionError("there are no locks")
    if number == errno.ENOLCK:
        code, _, err = kdbench("run", suite_file())
        assert code == 2
        assert "on a file system without locks, so two runs could do the same cells" in err
        assert "Traceback" not in err
