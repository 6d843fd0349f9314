"""Whatever kills a run, and however many run at once: the records end up the same, digit for digit."""

import errno
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml
from conftest import TINY

HERE = Path(__file__).parents[1]
NET = {"model": "cifar_resnet8", "widths": [2, 2, 4, 4]}
DROPPING = {"model": "resnet10t", "channels": [2, 4, 4, 4], "stem_width": 4, "drop_rate": 0.3, "drop_path_rate": 0.2}
SUITE = {
    "name": "crash",
    "datasets": ["digits"],
    "pairs": [
        {"teacher": {"model": "cifar_resnet8", "widths": [4, 4, 8, 8]}, "student": NET},
        {"teacher": {"model": "cifar_resnet8", "widths": [4, 4, 8, 8]}, "student": DROPPING},
    ],
    "methods": {
        "student": {"ce": 1},
        "kd": {"ce": 0.1, "kd": 0.9},
        "crd": {"ce": 1, "crd": {"weight": 0.8, "negatives": 64, "dim": 8}},
    },
    "seeds": [0, 1],
    "validation": 0.1,
    "train": {"epochs": 2, "batch_size": 128, "lr": 0.05, "augment": "crop"},
}
CELLS = 12


class Runs:
    """Talks to the crash server."""

    def __init__(self, suite: Path) -> None:
        self.suite, self.seconds = suite, 0.0  # what an undisturbed run takes
        environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONWARNINGS": "ignore"}
        command = [sys.executable, str(HERE / "crash_server.py")]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.server = subprocess.Popen(command, env=environment, **pipes)
        self(suite.parent)  # no run: answered as soon as everything is imported

    def __call__(self, results: Path, *kill: float | str | None) -> list[int]:
        """Starts one run for each moment of death (None: it may live) and gives their exit codes."""
        runs = [{"suite": str(self.suite), "results": str(results), "kill": moment} for moment in kill]
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps(runs) + "\n")
        self.server.stdin.flush()
        return json.loads(self.server.stdout.readline())


def outcome(results: Path) -> dict[str, object]:
    records = [json.loads(path.read_bytes()) for path in (results / "crash" / "records").glob("*.json")]
    return {r["key"]: (r["status"], r["scores"], r["curves"]) for r in records}


def mirrored(results: Path) -> Counter[str]:
    """How many living MLflow runs each key has."""
    with sqlite3.connect(results / "mlflow.db") as database:
        rows = database.execute(
            "select value from tags join runs using (run_uuid) where key = 'kdbench.key' and lifecycle_stage = 'active'"
        )
        return Counter(key for (key,) in rows if not key.startswith("summary"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    suite = tmp_path_factory.mktemp("crash") / "crash.yaml"
    suite.write_text(yaml.safe_dump(SUITE))
    made = Runs(suite)
    with made.server:
        yield made


@pytest.fixture(scope="module")
def undisturbed(runs, tmp_path_factory):
    results = tmp_path_factory.mktemp("undisturbed") / "results"
    start = time.monotonic()
    assert runs(results, None) == [0], results.with_suffix(".log").read_text()
    runs.seconds = time.monotonic() - start
    found = outcome(results)
    assert len(found) == CELLS
    return found


def killed_often(runs, undisturbed, results: Path, times: int, share: float, seed: int) -> None:
    """Kills a run `times` times, each within `share` of the time that it takes, and lets it come to its end."""
    moments = random.Random(seed)
    killed = 0
    while killed < times:
        [code] = runs(results, moments.uniform(0.05, share * runs.seconds))
        assert code in (-9, 0), results.with_suffix(".log").read_text()
        killed += code == -9
        if code == 0:  # it came to its end before: begin again
            assert outcome(results) == undisturbed
            shutil.rmtree(results)
    assert runs(results, None) == [0], results.with_suffix(".log").read_text()
    assert outcome(results) == undisturbed
    assert mirrored(results) == dict.fromkeys(undisturbed, 1)
    assert set(Counter((results / "journal").read_text().split()).values()) == {1}
    assert not list(results.rglob("*.ckpt"))


@pytest.mark.long
def test_killed_at_random_moments(runs, undisturbed, tmp_path):
    killed_often(runs, undisturbed, tmp_path / "results", times=3, share=0.5, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_killed_at_many_random_moments(runs, undisturbed, tmp_path, seed):
    killed_often(runs, undisturbed, tmp_path / "results", times=6, share=[0.2, 0.5, 1.0][seed % 3], seed=seed)


@pytest.mark.parametrize("number", [pytest.param(2, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.long)])
def test_several_at_once(runs, undisturbed, tmp_path, number):
    results = tmp_path / "results"
    assert runs(results, *[None] * number) == [0] * number, results.with_suffix(".log").read_text()
    assert outcome(results) == undisturbed
    assert Counter((results / "journal").read_text().split()) == dict.fromkeys(undisturbed, 1)
    assert mirrored(results) == dict.fromkeys(undisturbed, 1)


def test_one_of_several_dies(runs, undisturbed, tmp_path):
    """What it worked on is taken over by the other."""
    results = tmp_path / "results"
    assert runs(results, "holding", None) == [-9, 0], results.with_suffix(".log").read_text()
    assert outcome(results) == undisturbed
    assert Counter((results / "journal").read_text().split()) == dict.fromkeys(undisturbed, 1)
    assert mirrored(results) == dict.fromkeys(undisturbed, 1)


# --- a disk that is full ---


@pytest.fixture
def one_epoch(suite_file):
    return suite_file(train={**TINY["train"], "epochs": 1})


def numbers(results: Path) -> dict[str, object]:
    records = [json.loads(path.read_bytes()) for path in (results / "tiny" / "records").glob("*.json")]
    return {r["key"]: (r["status"], r["scores"]) for r in records}


def whole_files_only(results: Path) -> None:
    for path in results.rglob("*.json"):
        json.loads(path.read_bytes())
    assert not list(results.rglob(".*.????????"))  # what is written aside before it is renamed


def test_a_disk_that_is_full_at_any_kind_of_write(kdbench, one_epoch, tmp_path, monkeypatch):
    """Exit 1 with one line, nothing half written; the next run goes on, until the next kind of file finds no room."""
    from kdbench import files
    from kdbench.grid.saving import Pace

    assert kdbench("run", one_epoch, results=tmp_path / "whole")[0] == 0
    monkeypatch.setattr(Pace, "due", lambda self: True)  # a checkpoint after every step
    sync, write, refused, full = os.fsync, files._write_aside, [], [False]
    kinds = {"teachers/checkpoints/*.ckpt", "results/teachers/*.safetensors", "results/teachers/*.json"}
    kinds |= {"tiny/checkpoints/*.ckpt", "tiny/students/*.safetensors", "tiny/records/*.json", "results/tiny/*.md"}

    def write_aside(path: Path, content: bytes) -> None:
        kind = f"{path.parent.parent.name}/{path.parent.name}/*{path.suffix}"
        full[0] = kind in kinds and kind not in refused
        refused.extend([kind] * full[0])
        write(path, content)

    def fsync(handle: int) -> None:
        if full[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(handle)

    monkeypatch.setattr(files, "_write_aside", write_aside)
    monkeypatch.setattr(files.os, "fsync", fsync)
    codes = []
    while not codes or codes[-1] != 0:
        code, _, err = kdbench("run", one_epoch)
        codes.append(code)
        whole_files_only(tmp_path / "results")
        assert code == 0 or "No space left on device; make room and run the same command again" in err
        assert "Traceback" not in err
    assert codes == [1] * len(refused) + [0]
    assert set(refused) == kinds
    assert numbers(tmp_path / "results") == numbers(tmp_path / "whole")


@pytest.mark.slow
def test_a_disk_that_is_full_at_any_write(kdbench, one_epoch, tmp_path, monkeypatch):
    """Every write in turn fails: exit 1 with one line, nothing half written; with room again the run goes on."""
    from kdbench import files
    from kdbench.grid.saving import Pace

    monkeypatch.setattr(Pace, "due", lambda self: True)
    sync, calls, failing = os.fsync, 0, 0

    def fsync(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls == failing:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(handle)

    monkeypatch.setattr(files.os, "fsync", fsync)
    assert kdbench("run", one_epoch, results=tmp_path / "whole")[0] == 0
    writes = calls
    assert writes > 20
    for number in range(1, writes + 1):
        results, calls, failing = tmp_path / f"full{number}", 0, number
        code, _, err = kdbench("run", one_epoch, results=results)
        assert code == 1, f"write {failing}"
        assert "No space left on device" in err
        assert "Traceback" not in err
        whole_files_only(results)
        failing = 0
        assert kdbench("run", one_epoch, results=results)[0] == 0
        assert numbers(results) == numbers(tmp_path / "whole")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small file system")
def test_a_small_file_system(kdbench, one_epoch, tmp_path):
    place = tmp_path / "small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40k", "none", place], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    store = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    try:
        code, _, err = kdbench("run", one_epoch, "--tracking-uri", store, results=place)
        assert code == 1
        assert "No space left on device" in err
        assert "Traceback" not in err
        subprocess.run(["mount", "-o", "remount,size=100M", place], check=True)
        assert kdbench("run", one_epoch, "--tracking-uri", store, results=place)[0] == 0
        assert len(numbers(place)) == 2
    finally:
        subprocess.run(["umount", "-l", place], check=True)


# --- signals ---


def test_a_second_signal_leaves_at_once():
    script = """
import os, signal, time
from kdbench.grid.signals import stop_signals
with stop_signals(print) as stop:
    os.kill(os.getpid(), signal.SIGINT)
    assert stop == [signal.SIGINT]
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)
"""
    done = subprocess.run([sys.executable, "-c", script], timeout=60, capture_output=True)
    assert done.returncode == 130
