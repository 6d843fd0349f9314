"""MLflow shows the records as they come. It is never read back to decide anything.

A thread of its own talks to MLflow, so that training never waits for it. If the server is away, the run goes on; what
it could not write is written at the end if the server is back, else by the next run or by `kdbench sync`.
"""

import json
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from kdbench.errors import first_line
from kdbench.layout import Layout, SuiteFolder
from kdbench.results.mlflow_runs import MlflowRuns, finished_of, run_name, tags_of
from kdbench.results.schema import Record

RETRY = 30.0  # seconds until an absent server is asked again
PATIENCE = 10.0  # seconds without a job done after which the end of a run no longer waits for MLflow

FilesOf = Callable[[Record], list[Path]]


def default_uri(results: Path) -> str:
    """MLFLOW_TRACKING_URI, or a SQLite file beside the results."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Layout(results).mlflow_database.resolve()}"


def addresses_of(folder: Path) -> dict[str, str]:
    """Key -> address of the cell's latest MLflow run, as noted in the suite's folder."""
    return {key: address for key, address, *_ in _journal(folder)}


def behind(folder: Path, records: Iterable[Record]) -> list[Record]:
    """The records that MLflow does not show yet, by what is noted in the suite's folder."""
    shown = {key: finished[0] for key, _, *finished in _journal(folder) if finished}
    return [record for record in records if shown.get(record["key"]) != finished_of(record)]


def _journal(folder: Path) -> Iterator[list[str]]:
    """[key, address] when a run was begun, [key, address, which record it shows] when it was completed."""
    try:
        lines = SuiteFolder(folder).journal.read_bytes().splitlines()
    except OSError:
        return
    for line in lines:
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):  # half a line, from a process that died
            continue
        if isinstance(entry, list) and len(entry) in (2, 3) and all(isinstance(part, str) for part in entry):
            yield entry


class Tracker:
    """Feeds MLflow from a thread. Every call returns at once; what goes wrong is reported once."""

    def __init__(self, suite: str, results: Path, uri: str, report: Callable[[str], None]) -> None:
        self.make = lambda: MlflowRuns(suite, results, uri)
        self.folder, self.uri, self.report = results / suite, uri, report
        self.jobs: queue.Queue[Callable[[MlflowRuns], None] | None] = queue.Queue()
        self.lost = self.handled = 0
        self._runs: MlflowRuns | None = None
        self._away_until, self._reported = 0.0, False
        self._catch_up: Callable[[MlflowRuns], None] | None = None
        self._live: dict[str, int] = {}  # key -> epochs written while training
        self._thread = threading.Thread(target=self._work, daemon=True, name="mlflow")
        self._thread.start()

    def epoch(self, record: Record, values: dict[str, float], epoch: int) -> None:
        """`record`: what is known of the cell so far (its head and settings)."""

        def job(runs: MlflowRuns) -> None:
            run_id = runs.open(record["key"], run_name(record), tags_of(record), record["settings"])
            runs.metrics(run_id, values, epoch)
            self._live[record["key"]] = self._live.get(record["key"], 0) + 1

        self.jobs.put(job)

    def finish(self, record: Record, files: list[Path]) -> None:
        def job(runs: MlflowRuns) -> None:
            epochs = max((len(v) for v in record.get("curves", {}).values()), default=0)
            runs.finish(record, files, live=self._live.get(record["key"], 0) >= epochs > 0)

        self.jobs.put(job)

    def complete(self, records: Iterable[Record], files_of: FilesOf) -> None:
        """Show what is missing: what was lost, or what a run left that was killed before it could write that."""

        def job(runs: MlflowRuns) -> None:
            for record in records if runs.fresh else behind(self.folder, records):
                self.handled += 1
                runs.finish(record, files_of(record), live=False)
            self.lost = 0

        self._catch_up = job  # asks the server once more, also when it was away a moment ago
        self.jobs.put(job)

    def summary(self, suite: str, files: list[Path], note: str) -> None:
        self.jobs.put(lambda runs: runs.summary(suite, files, note))

    def describe(self, text: str) -> None:
        self.jobs.put(lambda runs: runs.describe(text))

    def close(self, patience: float = PATIENCE) -> bool:
        """Wait until MLflow has everything, as long as it gets on. True when nothing was lost."""
        self.jobs.put(None)
        handled, since = -1, time.monotonic()
        while self._thread.is_alive() and time.monotonic() - since < patience:
            self._thread.join(0.2)
            if self.handled != handled:
                handled, since = self.handled, time.monotonic()
        lags = self._thread.is_alive() or self.lost > 0
        if lags:
            self.report(f"MLflow ({self.uri}) lags behind the records; `kdbench sync` completes it")
        return not lags

    def _work(self) -> None:
        while (job := self.jobs.get()) is not None:
            self.handled += 1
            if time.monotonic() < self._away_until and job is not self._catch_up:
                self.lost += 1
                continue
            try:
                self._runs = self._runs or self.make()
                job(self._runs)
            except Exception as error:
                self.lost += 1
                self._runs = None
                self._away_until = time.monotonic() + RETRY
                if not self._reported:
                    self.report(f"MLflow ({self.uri}) can't be written: {first_line(error)[:200]}; training goes on")
                self._reported = True


def sync(records: Iterable[Record], suite: str, results: Path, uri: str, files_of: FilesOf) -> int:
    """Bring MLflow up to the records; twice gives the same as once. Returns how many cells were written."""
    runs = MlflowRuns(suite, results, uri)
    return sum(runs.finish(record, files_of(record), live=False) for record in records)
