"""Locks between processes on one results folder; whole runs side by side are in `test_nothing_lost.py`."""

import errno
import fcntl
import signal
import subprocess
import sys
import time
from collections import deque
from multiprocessing import Pipe
from types import SimpleNamespace

import pytest
from grids import grid

from kdbench.errors import UserError
from kdbench.grid.cohort import Place
from kdbench.grid.executors import Job, Queue
from kdbench.grid.processes import Processes, Seat, Share
from kdbench.layout import Layout
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


def test_a_process_takes_a_job_whose_teacher_no_other_is_at_work_on(tmp_path):
    """Else it would wait for that teacher while others could be trained."""
    pairs = [{"teacher": teacher, "student": "cifar_resnet8"} for teacher in ("cifar_resnet20", "cifar_resnet14")]
    cells = grid(tmp_path, ["kd"], pairs)[1]
    place = Place(tmp_path, tmp_path, "cpu")
    jobs = [Job((cell,), (), place) for cell in cells]
    queue = Queue(jobs, Layout(tmp_path).suite("grid"), lambda job: list(job.cells))
    processes = Processes([Share(1, "cpu", 2)] * 2)
    processes.pending = deque(jobs)
    ours, theirs = zip(*(Pipe() for _ in range(2)), strict=True)
    seats = [Seat(share, None, connection) for share, connection in zip(processes.shares, ours, strict=True)]
    processes.give_out(queue, seats)
    assert [connection.recv().cells[0] for connection in theirs] == [cells[0], cells[3]], "of the other pair"
    seats[1].rest()
    processes.give_out(queue, seats)
    taken = theirs[1].recv().cells[0]
    assert taken.teacher == cells[3].teacher, "of its own teacher, which is not there yet"
    seats[1].rest()
    processes.pending = deque(jobs[1:2])
    processes.give_out(queue, seats)
    assert theirs[1].recv().cells[0] == cells[1], "where all wait for one, it waits too"


def test_the_bar_does_not_speak_of_a_process_that_rests():
    ours, theirs = zip(*(Pipe() for _ in range(2)), strict=True)
    seats = [Seat(Share(1, "cpu", 2), None, connection) for connection in ours]
    told = []
    processes, events = Processes([Share(1, "cpu", 2)] * 2), SimpleNamespace(now=told.append)
    for seat, words in ((0, ("now", "measuring")), (1, ("now", "training")), (0, ("rests",)), (1, ("rests",))):
        theirs[seat].send(words)
        processes.listen(None, seats, events)
    assert told == ["measuring", "measuring  |  training", "training"]
