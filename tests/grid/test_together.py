"""Several processes that train one cohort after another together: `--devices N`, and torchrun."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

KDBENCH = [sys.executable, "-m", "kdbench"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def records(results: Path):
    found = [json.loads(path.read_bytes()) for path in results.glob("*/records/*.json")]
    return {r["label"]: r for r in found}


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
