"""Cohorts in several processes: the same records, one bar, and whatever dies is replaced."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY

from kdbench.api import Options
from kdbench.grid.executors import Here
from kdbench.grid.plan import make_plan
from kdbench.grid.processes import Processes, Share
from kdbench.grid.shares import executor_of, shares_of
from kdbench.suite.cells import cells_of
from kdbench.suite.load import load_suite

Run = Callable[..., tuple[int, str, str]]
CPU = torch.device("cpu")
DEADLY = '''
import os, signal
from pathlib import Path
import torch
from kdbench import Method, register_method

@register_method("deadly")
class Deadly(Method):
    """Kills its process, as often as there are files that say so."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder = folder

    def forward(self, student, teacher, batch):
        for file in sorted(Path(self.folder).glob("kill*")) if not student.logits.is_meta else ():
            file.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return {"deadly": student.logits.square().mean()}
'''


def records(results: Path) -> dict[tuple[str, int], Any]:
    found = [json.loads(path.read_text()) for path in (results / "tiny" / "records").glob("*.json")]
    assert len({record["key"] for record in found}) == len(found)
    return {(record["label"], record["seed"]): record for record in found}


@pytest.mark.usefixtures("one_thread")
def test_the_same_records_as_in_one_process(suite_file: Callable[..., Path], kdbench: Run, tmp_path: Path) -> None:
    suite = suite_file(seeds=[0, 1])
    assert kdbench("run", suite, results=tmp_path / "here")[0] == 0
    code, _, err = kdbench("run", suite, "--jobs", 2, results=tmp_path / "two")
    assert code == 0, err
    assert "in 2 processes of 1 thread each" in err
    here, two = records(tmp_path / "here"), records(tmp_path / "two")
    assert here.keys() == two.keys()
    assert len(here) == 4
    for place, record in here.items():
        for part in ("scores", "curves", "key", "settings", "test_top1_per_class", "outcomes"):
            assert record.get(part) == two[place].get(part), (place, part)
        assert two[place]["versions"]["threads"] == 1
        assert two[place]["cost"]["processes"] == 2
    assert (tmp_path / "two" / "tiny" / "students").is_dir()
    assert not list((tmp_path / "two" / "tiny" / "checkpoints").glob("*"))


@pytest.mark.slow  # each process takes seconds to start
@pytest.mark.parametrize(("kills", "status"), [(1, "done"), (4, "failed")])
def test_a_process_that_dies_is_replaced(
    suite_file: Callable[..., Path], kdbench: Run, tmp_path: Path, kills: int, status: str
) -> None:
    """Its cohort is taken over; a cell that kills every process it is tried in fails, and it alone."""
    (tmp_path / "deadly.py").write_text(DEADLY)
    for number in range(kills):
        (tmp_path / f"kill{number}").touch()
    rows = {"student": {"ce": 1}, "deadly": {"ce": 1, "deadly": {"weight": 1, "folder": str(tmp_path)}, "seeds": [0]}}
    code, _, err = kdbench("run", suite_file(seeds=[0, 1], methods=rows, plugins=["deadly.py"]), "--jobs", 2)
    found = records(tmp_path / "results")
    assert len(found) == 3
    assert "was killed (by signal 9" in err
    assert {found["student", seed]["status"] for seed in (0, 1)} == {"done"}
    assert found["deadly", 0]["status"] == status
    assert code == (status == "failed")
    if status == "failed":
        assert "was killed" in found["deadly", 0]["reason"]


@pytest.mark.slow  # processes of their own
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_stopped_goes_on(suite_file: Callable[..., Path], tmp_path: Path, number: int) -> None:
    """Ctrl-C saves the state of all; when the run itself is killed its processes end by themselves."""
    suite = suite_file(seeds=[0, 1], train={**TINY["train"], "epochs": 20, "batch_size": 32})
    command = [sys.executable, "-m", "kdbench", "run", suite, "--results", tmp_path / "results", "--jobs", "2"]
    run = subprocess.Popen([str(word) for word in command])
    checkpoints = tmp_path / "results" / "tiny" / "checkpoints"
    end = time.monotonic() + 120
    while not list((tmp_path / "results" / "teachers").glob("*.json")) and time.monotonic() < end:
        time.sleep(0.2)
    time.sleep(3)
    os.kill(run.pid, number)
    assert run.wait(60) == (130 if number == signal.SIGINT else -9)
    while time.monotonic() < end and len(list(checkpoints.glob("*"))) < 4:
        time.sleep(0.2)
    assert len(list(checkpoints.glob("*"))) >= 4
    assert subprocess.run([str(word) for word in command], timeout=240, check=False).returncode == 0
    assert {record["status"] for record in records(tmp_path / "results").values()} == {"done"}


def test_the_shares_do_not_depend_on_what_is_left(
    suite_file: Callable[..., Path], kdbench: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # the tests' own rule
    monkeypatch.setattr("torch.get_num_threads", lambda: 6)
    suite = load_suite(suite_file(seeds=[0, 1, 2]))
    plan = make_plan(cells_of(suite), tmp_path / "results", tmp_path, ())
    assert shares_of(plan, CPU, None) == [Share(2, "cpu", 3)] * 3
    assert shares_of(plan, CPU, 2) == [Share(3, "cpu", 2)] * 2
    plan.records = {cell.key: {"status": "done"} for cell in plan.cells if cell.seed}
    assert shares_of(plan, CPU, None) == [Share(2, "cpu", 3)] * 3
    assert isinstance(executor_of(plan, CPU, None), Processes)
    assert isinstance(executor_of(plan, CPU, 1), Here)
    monkeypatch.setattr("torch.get_num_threads", lambda: 1)
    assert isinstance(executor_of(plan, CPU, None), Here)


@pytest.mark.parametrize("given", ["0", "-1", "two"])
def test_wrong_numbers(suite_file: Callable[..., Path], kdbench: Run, given: str) -> None:
    code, _, err = kdbench("run", suite_file(), "--jobs", given)
    assert code == 2
    assert "--jobs" in err


def test_options() -> None:
    assert Options().jobs == 1  # from Python: methods of a script need not stand in a file
