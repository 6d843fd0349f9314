"""Runs suites in forked children and kills them: started once, since importing torch takes seconds.

Reads lines of JSON, each a list of runs to start together: {"suite", "results", "kill": seconds, "holding" (as soon as
it works on a cohort), or null}; answers with the list of their exit codes (negative: the signal that ended it). Every
cell that a child finishes is written into RESULTS/journal.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import mlflow.store.tracking.sqlalchemy_store  # noqa: F401
import torch
from rich.console import Console

from kdbench import api
from kdbench.api import Options, run_suite
from kdbench.grid.cohort import Worker
from kdbench.grid.outcome import Measure
from kdbench.grid.recorder import Recorder
from kdbench.report import plots
from kdbench.results.provenance import git_commit
from kdbench.suite.plugins import load_methods


class Journaling(Recorder):
    def finished(self, record: Any, student: Any) -> None:
        super().finished(record, student)
        with (self.folder.results / "journal").open("a") as journal:
            journal.write(record["key"] + "\n")


def child(run: dict[str, Any]) -> None:
    log = open(Path(run["results"]).with_suffix(".log"), "a", encoding="utf-8")  # noqa: SIM115
    code = 99
    try:
        results = Path(run["results"])
        options = Options(results=results, device="cpu", tracking_uri=f"sqlite:///{results}/mlflow.db")
        code = run_suite(Path(run["suite"]), options, Console(file=log)).exit_code
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=log, flush=True)
    finally:
        os._exit(code)


def start(run: dict[str, Any]) -> int:
    pid = os.fork()
    if pid == 0:
        child(run)
    return pid


def is_due(run: dict[str, Any], pid: int, seconds: float) -> bool:
    """Is it time to kill the run?"""
    if run["kill"] != "holding":
        return run["kill"] is not None and seconds > run["kill"]
    notes = Path(run["results"]).glob("*/.locks/*.owner")
    return any(f"process {pid}," in note.read_text() for note in notes)


def serve() -> None:
    torch.set_num_threads(1)  # before the first operation: threads do not survive a fork
    api.Recorder = Journaling  # type: ignore[misc]
    Measure.profile_seconds = 0.0
    Worker.checkpoint_every = 0.1
    plots.write_plots = lambda *_: []  # type: ignore[assignment]
    load_methods()
    git_commit()
    for line in sys.stdin:
        runs = json.loads(line)
        began = time.monotonic()
        pids = {start(run): run for run in runs}
        codes: dict[int, int] = {}
        while len(codes) < len(pids):
            for pid, run in pids.items():
                if pid in codes:
                    continue
                if is_due(run, pid, time.monotonic() - began):
                    os.kill(pid, signal.SIGKILL)
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    codes[pid] = os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        print(json.dumps([codes[pid] for pid in pids]), flush=True)


if __name__ == "__main__":
    serve()
