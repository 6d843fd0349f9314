"""What a grid of ten thousand cells costs beside its training: every cohort is a stub that trains nothing.

    python tests/benchmarks/many_cells.py [--cohorts 1000] [--rows 10] [--mlflow]

Start-up (`plan`), then the run with locks, records, weights-free events and bar, per cohort; then the leaderboard. With
`--mlflow` its thread writes beside it and is waited for; without, nothing is told to it. Besides seconds: how many
folders are read from end to end, which must not grow with the cells.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from common import machine, report
from grids import grid, record
from rich.console import Console

from kdbench.api import Options, plan, run_suite
from kdbench.grid.outcome import record_of
from kdbench.suite.cells import Cell
from kdbench.suite.plugins import load_methods

CPU = torch.device("cpu")


class StubWorker:
    """In the place of `kdbench.grid.cohort.Worker`: every cell is done at once."""

    def __init__(self, place: Any, events: Any, stop: Any, group: Any) -> None:
        self.events = events

    def run(self, cells: Sequence[Cell]) -> None:
        self.events.now("a stub")
        for cell in cells:
            made = record(cell, 70.0 + cell.seed % 7)
            details = {name: made[name] for name in ("scores", "profile", "cost", "curves")}
            self.events.advance(1, 64)
            self.events.finished(record_of(cell, CPU, "done", **details), None)


class Quiet:
    """In the place of the MLflow thread."""

    def __init__(self, *given: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return lambda *given, **named: None


def rows_of(count: int) -> dict[str, Any]:
    return {f"kd {t}": {"ce": 1, "kd": {"weight": 1, "temperature": 1 + t}} for t in range(count)}


def measure(folder: Path, cohorts: int, rows: int, mlflow: bool) -> dict[str, Any]:
    """Seconds of start-up and of the run, milliseconds per cohort, and folders that the run read."""
    path, _ = grid(folder, rows=[], seeds=cohorts, methods={"student": {"ce": 1}, **rows_of(rows - 1)})
    options = Options(results=folder / "results", device="cpu", tracking_uri=None)
    start = time.perf_counter()
    made = plan(path, results=options.results, device="cpu")
    planned, read, of_run = time.perf_counter() - start, Counting(), {}
    assert len(made.cohorts) == cohorts

    def timed(*given: Any) -> None:
        from kdbench.grid.run import run_plan

        before, begun, own = read.folders, time.perf_counter(), time.process_time()
        run_plan(*given)
        of_run.update(seconds=time.perf_counter() - begun, cpu=time.process_time() - own, folders=read.folders - before)

    with ExitStack() as patches:
        patches.enter_context(patch("kdbench.grid.executors.Worker", StubWorker))
        patches.enter_context(patch("kdbench.grid.run.prove", lambda *given: None))
        patches.enter_context(patch("kdbench.api.run_plan", timed))
        patches.enter_context(patch("kdbench.api.make_board", lambda *given, **named: SimpleNamespace(table=None)))
        patches.enter_context(patch("kdbench.api.write_board", lambda *given: ""))
        patches.enter_context(patch("kdbench.api.description", lambda *given: ""))
        patches.enter_context(patch("os.scandir", read.scandir))
        patches.enter_context(patch("os.listdir", read.listdir))
        if not mlflow:
            patches.enter_context(patch("kdbench.api.Tracker", Quiet))
        start = time.perf_counter()
        outcome = run_suite(path, options, Console(stderr=True))
        whole = time.perf_counter() - start
    assert outcome.counts == {"done": cohorts * rows}
    return {
        "cohorts": cohorts, "cells": cohorts * rows, "mlflow": mlflow, "plan_s": round(planned, 1),
        "run_s": round(of_run["seconds"], 1), "ms_per_cohort": round(1000 * of_run["seconds"] / cohorts, 1),
        "cpu_ms_per_cohort": round(1000 * of_run["cpu"] / cohorts, 1), "folders_read": of_run["folders"],
        "all_s": round(whole, 1),
    }  # fmt: skip


class Counting:
    """How many folders were read."""

    def __init__(self) -> None:
        self.folders, self._scandir, self._listdir = 0, os.scandir, os.listdir

    def scandir(self, *given: Any) -> Any:
        self.folders += 1
        return self._scandir(*given)

    def listdir(self, *given: Any) -> Any:
        self.folders += 1
        return self._listdir(*given)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cohorts", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--rows", type=int, default=10)
    parser.add_argument("--mlflow", action="store_true")
    given = parser.parse_args()
    load_methods()
    found = []
    for cohorts in given.cohorts:
        with tempfile.TemporaryDirectory() as folder:
            found.append(measure(Path(folder), cohorts, given.rows, given.mlflow))
    report("many cells", machine(CPU), found)


if __name__ == "__main__":
    main()
