"""Several processes that train one cohort after another together: `--devices N`, and torchrun."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

import kdbench as package
from kdbench.commands.run import leading
from kdbench.errors import UserError
from kdbench.grid.cohort import Place, Worker
from kdbench.grid.follower import Silent
from kdbench.grid.processes import Share, start
from kdbench.grid.together import Together, follower
from kdbench.train.group import Alone
from kdbench.train.loop import Stopped

KDBENCH = [sys.executable, "-m", "kdbench"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def records(results: Path):
    found = [json.loads(path.read_bytes()) for path in results.glob("*/records/*.json")]
    return {r["label"]: r for r in found}


@pytest.mark.long
def test_devices_train_what_one_does(kdbench, suite_file, tmp_path, one_thread):
    """One run on two, one on one: records of the same cells, with scores that differ by rounding alone."""
    suite = suite_file(train={"epochs": 1, "batch_size": 256, "lr": 0.05, "augment": "crop"})
    code, _, err = kdbench("run", suite, "--devices", 2, results=tmp_path / "two")
    assert code == 0, err
    assert "by 2 processes together" in err
    assert kdbench("run", suite, "--jobs", 1, results=tmp_path / "one")[0] == 0
    two, one = records(tmp_path / "two"), records(tmp_path / "one")
    for label in ("student", "kd"):
        assert two[label]["key"] == one[label]["key"]
        assert (two[label]["cost"]["devices"], one[label]["cost"]["devices"]) == (2, 1)
        assert two[label]["curves"]["test_nll"] == pytest.approx(one[label]["curves"]["test_nll"], rel=1e-4)
    assert not list(tmp_path.glob("two/tiny/checkpoints"))


def test_what_does_not_go_with_devices(kdbench, suite_file):
    code, _, err = kdbench("run", suite_file(), "--devices", 2, "--jobs", 2)
    assert code == 2
    assert "leave --jobs and --keep-answers out" in err
    assert kdbench("run", suite_file(), "--devices", 0)[0] == 2


def test_what_trains_one_cohort_alone_is_refused(kdbench, suite_file, monkeypatch):
    for executor in ("here", "processes"):
        code, _, err = kdbench("run", suite_file(), "--devices", 2, "--executor", executor)
        assert (code, f"--executor {executor} gives each cohort one device" in err) == (2, True)
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="a script under torchrun can't run a suite"):
        package.run(suite_file(), device="cpu")


def test_parts_that_an_epochs_last_batch_lacks_are_told_before_training(kdbench, suite_file):
    """Digits has 1,200 pictures: 48 are left over from batches of 64."""
    train = {"epochs": 1, "batch_size": 64, "lr": 0.05, "augment": "crop"}
    code, _, err = kdbench("plan", suite_file(train={**train, "norm_parts": 32}))
    assert code == 2
    assert "student: norm_parts: a batch of 48 examples has not two for each of 32 parts" in err
    assert "teacher: norm_parts: a batch of 48" in err
    assert kdbench("plan", suite_file(train={**train, "norm_parts": 16}))[0] == 0


NEVER_COMES = """
import sys
from types import SimpleNamespace
import torch
from kdbench.grid import together
together.sys = SimpleNamespace(executable=sys.argv[1], platform=sys.platform, stderr=sys.stderr)
with together.started(together.Together(2, torch.device("cpu"), 1)):
    pass
"""


def test_a_follower_that_never_comes_ends_the_run():
    """It died while it started: it is not waited for."""
    command = [sys.executable, "-c", NEVER_COMES, shutil.which("false")]
    run = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert run.returncode == 1
    assert "process 1 of the 2 that train together ended by itself with code 1; the same command goes on" in run.stderr


def test_ctrl_c_in_a_terminal_is_for_the_first_process_alone():
    alone = Together(2, torch.device("cpu"), 1)
    other = follower(1, "nowhere", alone)
    seat = start(Share(1, "cpu"))
    try:
        assert {os.getpgid(process.pid) for process in (other, seat.process)} == {other.pid, seat.process.pid}
    finally:
        seat.connection.close()
        for process in (other, seat.process):
            process.kill()
            process.communicate()


def test_the_first_leaves_when_it_raises_amidst_a_step(monkeypatch, suite_file):
    """The others wait in the step; between two jobs they are told that there is no other."""
    told = []

    class Group:
        size, busy = 2, False

        def leave(self, why, code):
            told.append((why, code))
            raise SystemExit(code)

        def share(self, make):
            told.append(make())

    def raises(given):
        raise OSError("no space left")

    monkeypatch.setattr("kdbench.commands.run.first", raises)
    group = Group()
    with pytest.raises(OSError, match="no space left"):
        leading(None, group)
    assert told == [None]
    group.busy = True
    with pytest.raises(SystemExit):
        leading(None, group)
    assert told[1:] == [("the first of the 2 processes raised OSError: no space left", 1)]


class Two(Alone):
    """Says that it is of two, and computes all by itself."""

    size = 2


class Noted(Silent):
    def __init__(self):
        self.said, self.records = [], []

    def say(self, line):
        self.said.append(line)

    def finished(self, record, student):
        self.records.append(record)


def test_a_run_that_goes_on_with_another_number_says_so(suite_file, tmp_path, one_thread, quick_profile):
    """So do the teacher's file, which other suites share, and the record."""
    options = {"results": tmp_path / "results", "data": tmp_path, "device": "cpu"}
    train = {"epochs": 2, "batch_size": 256, "lr": 0.05, "augment": "crop"}
    [cell] = package.plan(suite_file(train=train), only="kd", **options).todo
    noted = Noted()
    for group, asked in ((Two(), 3), (Alone(), 20), (Two(), 10**6)):  # amidst the teacher, amidst the student, the end
        left = iter(range(asked))
        worker = Worker(
            Place(options["results"], tmp_path, "cpu"), noted, lambda left=left: next(left, None) is None, group
        )
        with suppress(Stopped):
            worker.run([cell])
    assert [line.partition(": ")[::2] for line in noted.said] == [
        ("digits · teacher cifar_resnet14(widths=[4, 4, 8, 8])", "2 devices began it and 1 go on: other last digits"),
        (cell.title, "1 devices began it and 2 go on: other last digits"),
    ]
    [teacher] = tmp_path.glob("results/teachers/*.json")
    assert json.loads(teacher.read_bytes())["devices"] == [2, 1]
    [record] = noted.records
    assert (record["earlier_devices"], record["cost"]["devices"]) == ([1], 2)


def begin(suite, results, *words):
    command = [*KDBENCH, "run", str(suite), "--results", str(results), "--device", "cpu", *words]
    return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def followers_of(process):
    """The processes that it started."""
    found = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(process.pid)], capture_output=True, text=True)
    return [int(line.split()[0]) for line in found.stdout.splitlines() if "kdbench.grid.follower" in line]


def until(condition, seconds=300):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.2)
    return found


@pytest.mark.slow
def test_whoever_dies_ends_all_and_a_run_goes_on_with_fewer(suite_file, tmp_path):
    suite = suite_file(train={"epochs": 60, "batch_size": 64, "lr": 0.05, "augment": "crop"})
    results = tmp_path / "results"
    run = begin(suite, results, "--devices", "2")
    until(lambda: list(results.glob("teachers/*.safetensors")))
    [follower] = followers_of(run)
    os.kill(follower, signal.SIGKILL)
    said = run.communicate(timeout=120)[0].splitlines()
    assert run.returncode == 1
    assert [line for line in said if "killed (by signal 9" in line and "the same command goes on" in line]
    assert not [line for line in said if "Traceback" in line]

    run = begin(suite, results, "--devices", "2")
    [follower] = until(lambda: followers_of(run))
    until(lambda: any(f"process {run.pid}," in path.read_text() for path in results.glob("tiny/.locks/*.owner")))
    time.sleep(2)
    run.send_signal(signal.SIGINT)
    assert "go on with: kdbench run" in run.communicate(timeout=120)[0]
    assert run.returncode == 130
    until(lambda: not Path(f"/proc/{follower}").exists(), 20)
    assert list(results.glob("*/checkpoints/*.ckpt"))

    run = begin(suite, results, "--jobs", "1")
    assert "2 devices began it and 1 go on: other last digits" in run.communicate(timeout=200)[0]
    assert run.returncode == 0
    assert {r["status"] for r in records(results).values()} == {"done"}


@pytest.mark.slow
def test_torchrun_starts_them_too(suite_file, tmp_path):
    words = ["-m", "kdbench", "run", str(suite_file()), "--results", str(tmp_path / "results"), "--device", "cpu"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *words]
    run = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert {r["cost"]["devices"] for r in records(tmp_path / "results").values()} == {2}
    assert run.stdout.count("# Leaderboard") == 1
    again = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert again.returncode == 0
    assert "nothing to train" in again.stdout + again.stderr
