"""MLflow as a live mirror of the records. It is never read back to decide anything.

A thread of its own talks to MLflow, so that training never waits for it. If the server is away, the run goes on; what
it could not tell is told at the end if the server is back, else by the next run or by `kdbench sync`.
"""

import json
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from kdbench.layout import Layout, SuiteFolder
from kdbench.results.mlflow_runs import Mirror, finished_of, run_name, tags_of
from kdbench.results.records import Record

RETRY = 30.0  # seconds until an absent server is asked again
PATIENCE = 10.0  # seconds without a job done after which the end of a run no longer waits for the mirror

FilesOf = Callable[[Record], list[Path]]


def default_uri(results: Path) -> str:
    """MLFLOW_TRACKING_URI, or a SQLite file beside the results."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Layout(results).mlflow_database.resolve()}"


def addresses_of(folder: Path) -> dict[str, str]:
    """Key -> address of the cell's latest MLflow run, as far as the mirror noted them in the suite's folder."""
    return {key: address for key, address, *_ in _journal(folder)}


def behind(folder: Path, records: Iterable[Record]) -> list[Record]:
    """The records that the mirror did not come to show, by what it noted in the suite's folder."""
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
    """Feeds a Mirror from a thread. Every call returns at once; what goes wrong is said once."""

    def __init__(self, suite: str, results: Path, uri: str, say: Callable[[str], None]) -> None:
        self.make = lambda: Mirror(suite, results, uri)
        self.folder, self.uri, self.say = results / suite, uri, say
        self.jobs: queue.Queue[Callable[[Mirror], None] | None] = queue.Queue()
        self.lost = self.handled = 0
        self._mirror: Mirror | None = None
        self._away_until, self._said = 0.0, False
        self._catch_up: Callable[[Mirror], None] | None = None
        self._live: dict[str, int] = {}  # key -> epochs mirrored while training
        self._thread = threading.Thread(target=self._work, daemon=True, name="mlflow")
        self._thread.start()

    def epoch(self, record: Record, values: dict[str, float], epoch: int) -> None:
        """`record`: what is known of the cell so far (its head and settings)."""

        def job(mirror: Mirror) -> None:
            run_id = mirror.open(record["key"], run_name(record), tags_of(record), record["settings"])
            mirror.metrics(run_id, values, epoch)
            self._live[record["key"]] = self._live.get(record["key"], 0) + 1

        self.jobs.put(job)

    def finish(self, record: Record, files: list[Path]) -> None:
        def job(mirror: Mirror) -> None:
            epochs = max((len(v) for v in record.get("curves", {}).values()), default=0)
            mirror.finish(record, files, live=self._live.get(record["key"], 0) >= epochs > 0)

        self.jobs.put(job)

    def complete(self, records: Iterable[Record], files_of: FilesOf) -> None:
        """Show what is missing: what was lost, or what a run left that was killed before it could tell."""

        def job(mirror: Mirror) -> None:
            for record in records if mirror.fresh else behind(self.folder, records):
                self.handled += 1
                mirror.finish(record, files_of(record), live=False)
            self.lost = 0

        self._catch_up = job  # asks the server once more, also when it was away a moment ago
        self.jobs.put(job)

    def summary(self, suite: str, files: list[Path], note: str) -> None:
        self.jobs.put(lambda mirror: mirror.summary(suite, files, note))

    def describe(self, text: str) -> None:
        self.jobs.put(lambda mirror: mirror.describe(text))

    def close(self, patience: float = PATIENCE) -> bool:
        """Wait for the mirror to catch up, as long as it gets on. True when nothing was lost."""
        self.jobs.put(None)
        handled, since = -1, time.monotonic()
        while self._thread.is_alive() and time.monotonic() - since < patience:
            self._thread.join(0.2)
            if self.handled != handled:
                handled, since = self.handled, time.monotonic()
        lags = self._thread.is_alive() or self.lost > 0
        if lags:
            self.say(f"MLflow ({self.uri}) lags behind the records; `kdbench sync` completes it")
        return not lags

    def _work(self) -> None:
        while (job := self.jobs.get()) is not None:
            self.handled += 1
            if time.monotonic() < self._away_until and job is not self._catch_up:
                self.lost += 1
                continue
            try:
                self._mirror = self._mirror or self.make()
                job(self._mirror)
            except Exception as error:
                self.lost += 1
                self._mirror = None
                self._away_until = time.monotonic() + RETRY
                if not self._said:
                    first = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
                    self.say(f"MLflow ({self.uri}) can't be written: {first}; training goes on")
                self._said = True


def sync(records: Iterable[Record], suite: str, results: Path, uri: str, files_of: FilesOf) -> int:
    """Bring the mirror up to the records; twice gives the same as once. Returns how many cells were written."""
    mirror = Mirror(suite, results, uri)
    return sum(mirror.finish(record, files_of(record), live=False) for record in records)
