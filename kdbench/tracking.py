"""MLflow as a live mirror of the records. It is never read back to decide anything.

A thread of its own talks to MLflow, so that training never waits for it. If the server is away, the run goes on and
`kdbench sync` mirrors the records later. Every run carries the tag `kdbench.key`; a cell has one run.
"""

import json
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from filelock import FileLock

from kdbench.records import Record

RETRY = 30.0  # seconds until an absent server is asked again
UI = "http://127.0.0.1:5000"  # where `kdbench ui` shows a local store
PATIENCE = 60.0  # seconds that the end of a run waits for the mirror to catch up


def default_uri(results: Path) -> str:
    """MLFLOW_TRACKING_URI, or a SQLite file beside the results."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(results / 'mlflow.db').resolve()}"


class Mirror:
    """One experiment of an MLflow store: the runs of one suite. Raises whatever MLflow raises."""

    def __init__(self, suite: str, results: Path, uri: str) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        from mlflow import MlflowClient

        for name in ("alembic", "mlflow", "mlflow.store.db.utils"):
            logging.getLogger(name).setLevel(logging.WARNING)

        results.mkdir(parents=True, exist_ok=True)
        with FileLock(results / ".mlflow.lock"):  # a fresh database does not survive several creators
            self.client = MlflowClient(tracking_uri=uri)
            found = self.client.get_experiment_by_name(suite)
            if found is None:
                place = None if uri.startswith("http") else (results / "mlartifacts" / suite).resolve().as_uri()
                self.experiment = self.client.create_experiment(suite, artifact_location=place)
            else:
                self.experiment = found.experiment_id
                if found.lifecycle_stage == "deleted":
                    self.client.restore_experiment(self.experiment)
        self.runs: dict[str, str] = {}
        self.addresses = results / suite / "mlflow.jsonl"
        self.address = (uri if uri.startswith("http") else UI).rstrip("/")

    def describe(self, text: str) -> None:
        self.client.set_experiment_tag(self.experiment, "mlflow.note.content", text)

    def find(self, key: str) -> list[Any]:
        return list(self.client.search_runs([self.experiment], f"tags.`kdbench.key` = '{key}'"))

    def open(self, key: str, name: str, tags: dict[str, str], params: dict[str, Any]) -> str:
        """The run of `key`: the one begun before, else a new one."""
        if key not in self.runs:
            begun = [run for run in self.find(key) if run.data.tags.get("kdbench.complete") != "yes"]
            for run in self.find(key):
                if run not in begun[:1] and run.info.run_id not in [b.info.run_id for b in begun[:1]]:
                    self.client.delete_run(run.info.run_id)
            if begun:
                self.runs[key] = begun[0].info.run_id
                self.client.update_run(self.runs[key], status="RUNNING")
            else:
                run = self.client.create_run(self.experiment, tags={"kdbench.key": key, **tags}, run_name=name)
                self.runs[key] = run.info.run_id
                self._params(self.runs[key], params)
            self._remember(key)
        return self.runs[key]

    def _remember(self, key: str) -> None:
        """Where a browser finds the run, for the leaderboard's page."""
        self.addresses.parent.mkdir(parents=True, exist_ok=True)
        address = f"{self.address}/#/experiments/{self.experiment}/runs/{self.runs[key]}"
        with self.addresses.open("a") as file:
            file.write(json.dumps([key, address]) + "\n")

    def _params(self, run_id: str, params: dict[str, Any]) -> None:
        from mlflow.entities import Param

        texts = [Param(name, str(value)[:5000]) for name, value in flatten(params).items()]
        for start in range(0, len(texts), 100):
            self.client.log_batch(run_id, params=texts[start : start + 100])

    def metrics(self, run_id: str, values: dict[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        batch = [Metric(name, float(value), now, step) for name, value in values.items() if value is not None]
        for start in range(0, len(batch), 1000):
            self.client.log_batch(run_id, metrics=batch[start : start + 1000])

    def finish(self, record: Record, files: Iterable[Path], live: bool) -> None:
        """Complete the run of a record; without `live` its curves are written too (nothing was while it trained)."""
        run_id = self.open(record["key"], run_name(record), tags_of(record), record["settings"])
        curves = record.get("curves") or {}
        if not live:
            for step in range(max((len(values) for values in curves.values()), default=0)):
                self.metrics(run_id, {k: v[step] for k, v in curves.items() if step < len(v)}, step + 1)
        numbers = {**record["scores"], **flatten(record.get("profile") or {}), **flatten(record.get("cost") or {})}
        final = {f"final/{k}": v for k, v in numbers.items() if isinstance(v, int | float)}
        self.metrics(run_id, final, max((len(v) for v in curves.values()), default=0))
        self.client.log_text(run_id, json.dumps(record, indent=1), "record.json")
        for path in files:
            if path.is_file():
                self.client.log_artifact(run_id, str(path))
        for name, value in tags_of(record).items():
            self.client.set_tag(run_id, name, value)
        self.client.set_tag(run_id, "kdbench.complete", "yes")
        self.client.set_terminated(run_id, "FINISHED" if record["status"] in ("done", "skipped") else "FAILED")

    def summary(self, suite: str, files: Iterable[Path], note: str) -> None:
        """One run that holds the leaderboard."""
        run_id = self.open(f"summary:{suite}", "leaderboard", {"kdbench.summary": suite}, {})
        self.client.set_tag(run_id, "mlflow.note.content", note)
        for path in files:
            if path.is_file():
                self.client.log_artifact(run_id, str(path))
        self.client.set_terminated(run_id)

    def has_complete(self, key: str) -> bool:
        runs = self.find(key)
        return len(runs) == 1 and runs[0].data.tags.get("kdbench.complete") == "yes"


def addresses_of(folder: Path) -> dict[str, str]:
    """Key -> address of the cell's latest MLflow run, as far as the mirror noted them in the suite's folder."""
    try:
        lines = (folder / "mlflow.jsonl").read_text().splitlines()
    except OSError:
        return {}
    return dict(json.loads(line) for line in lines if line.endswith("]"))


def run_name(record: Record) -> str:
    return f"{record['teacher']} -> {record['student']} · {record['label']} · {record['seed']}"


def tags_of(record: Record) -> dict[str, str]:
    names = ("suite", "dataset", "teacher", "student", "label", "seed", "status", "reason")
    return {f"kdbench.{name}": str(record.get(name, "")) for name in names}


def flatten(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}"""
    flat: dict[str, Any] = {}
    for name, value in data.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


class Tracker:
    """Feeds a Mirror from a thread. Every call returns at once; what goes wrong is said once."""

    def __init__(self, suite: str, results: Path, uri: str, say: Callable[[str], None]) -> None:
        self.make = lambda: Mirror(suite, results, uri)
        self.uri, self.say = uri, say
        self.jobs: queue.Queue[Callable[[Mirror], None] | None] = queue.Queue()
        self.lost = 0
        self._mirror: Mirror | None = None
        self._away_until = 0.0
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

    def summary(self, suite: str, files: list[Path], note: str) -> None:
        self.jobs.put(lambda mirror: mirror.summary(suite, files, note))

    def describe(self, text: str) -> None:
        self.jobs.put(lambda mirror: mirror.describe(text))

    def close(self, patience: float = PATIENCE) -> bool:
        """Wait for the mirror to catch up, but not for ever. True when nothing was lost."""
        self.jobs.put(None)
        self._thread.join(patience)
        behind = self._thread.is_alive() or self.lost > 0
        if behind:
            self.say(f"MLflow ({self.uri}) lags behind the records; `kdbench sync` completes it")
        return not behind

    def _work(self) -> None:
        while (job := self.jobs.get()) is not None:
            if time.monotonic() < self._away_until:
                self.lost += 1
                continue
            try:
                self._mirror = self._mirror or self.make()
                job(self._mirror)
            except Exception as error:
                self.lost += 1
                self._mirror = None
                self._away_until = time.monotonic() + RETRY
                if self.lost == 1:
                    first = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
                    self.say(f"MLflow ({self.uri}) can't be written: {first}; training goes on")


def sync(
    records: Iterable[Record], suite: str, results: Path, uri: str, files_of: Callable[[Record], list[Path]]
) -> int:
    """Bring the mirror up to the records; twice gives the same as once. Returns how many cells were written."""
    mirror, written = Mirror(suite, results, uri), 0
    for record in records:
        if not mirror.has_complete(record["key"]):
            for run in mirror.find(record["key"]):
                mirror.client.delete_run(run.info.run_id)
            mirror.finish(record, files_of(record), live=False)
            written += 1
    return written
