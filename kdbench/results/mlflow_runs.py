"""One experiment of an MLflow store, which shows what the records say: a run for each cell, found by its key.

Several processes may write into one store; a lock in the results folder keeps a cell from getting two runs. What was
written is noted in the suite's `mlflow.jsonl`, so that what a killed run left behind is known without asking a server.
"""

import json
import logging
import os
import sqlite3
import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

from filelock import FileLock

from kdbench.layout import Layout
from kdbench.method.metric import metric_of
from kdbench.plain import inert
from kdbench.results.schema import Record
from kdbench.suite.identity import fingerprint

UI = "http://127.0.0.1:5000"  # where `kdbench ui` shows a local store
PATIENCE = 60.0  # seconds to wait for another process that writes
KIND = "mlflow.experimentKind"
TRAINING = "?workflowType=machine_learning"  # else MLflow 3's pages open as those of a chat application
COMPLETE, FINISHED = "kdbench.complete", "kdbench.finished"  # tags: is the run whole, and of which record is it?


class MlflowRuns:
    """The runs of one suite. Raises whatever MLflow raises."""

    def __init__(self, suite: str, results: Path, uri: str) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        from mlflow import MlflowClient

        for name in ("alembic", "mlflow", "mlflow.store.db.utils"):
            logging.getLogger(name).setLevel(logging.WARNING)

        results.mkdir(parents=True, exist_ok=True)
        layout = Layout(results)
        self.lock = FileLock(layout.mlflow_lock, timeout=PATIENCE)
        with self.lock:  # a fresh database does not survive several creators
            make_database(uri)
            follow_move(uri, layout)
            self.client = MlflowClient(tracking_uri=uri)
            found = self.client.get_experiment_by_name(suite)
            self.fresh = found is None  # then the journal speaks of another store, or of one that was deleted
            if found is None:
                place = None if uri.startswith("http") else (layout.mlflow_artifacts / suite).resolve().as_uri()
                self.experiment = self.client.create_experiment(suite, place, {KIND: "custom_model_development"})
            else:
                self.experiment = found.experiment_id
                if found.lifecycle_stage == "deleted":
                    self.client.restore_experiment(self.experiment)
        self.runs: dict[str, str] = {}  # key -> the run that this process began or goes on with
        self.begun: set[str] = set()  # keys whose runs this process began
        self.journal = layout.suite(suite).journal
        self.address = (uri if uri.startswith("http") else UI).rstrip("/")

    def describe(self, text: str) -> None:
        self.client.set_experiment_tag(self.experiment, "mlflow.note.content", text)

    def find(self, key: str) -> list[Any]:
        return list(self.client.search_runs([self.experiment], f"tags.`kdbench.key` = '{key}'"))

    def open(self, key: str, name: str, tags: dict[str, str], params: dict[str, Any]) -> str:
        """The run of `key`: the one begun before, else a new one."""
        if key in self.runs:
            return self.runs[key]
        with self.lock:
            found = self.find(key)
            begun = [run.info.run_id for run in found if run.data.tags.get(COMPLETE) != "yes"][:1]
            self._delete(run.info.run_id for run in found if run.info.run_id not in begun)
            if begun:
                self.client.update_run(begun[0], status="RUNNING")
                self.runs[key] = begun[0]
            else:
                self._begin(key, name, tags, params)
        self._note(key)
        return self.runs[key]

    def _begin(self, key: str, name: str, tags: dict[str, str], params: dict[str, Any]) -> None:
        run = self.client.create_run(self.experiment, tags={"kdbench.key": key, **tags}, run_name=name)
        self.runs[key] = run.info.run_id
        self.begun.add(key)
        self._params(run.info.run_id, params)
        if (data := dataset_input(tags, params)) is not None:
            self.client.log_inputs(run.info.run_id, [data])

    def _delete(self, runs: Iterable[str]) -> None:
        for run in runs:
            self.client.delete_run(run)

    def _note(self, key: str, *finished: str) -> None:
        """Where a browser finds the run, for the leaderboard's page; and which record it shows, once it is whole."""
        self.journal.parent.mkdir(parents=True, exist_ok=True)
        address = f"{self.address}/#/experiments/{self.experiment}/runs/{self.runs[key]}{TRAINING}"
        with self.journal.open("a", encoding="utf-8") as file:
            file.write(json.dumps([key, address, *finished]) + "\n")

    def _params(self, run_id: str, params: dict[str, Any]) -> None:
        from mlflow.entities import Param

        texts = [Param(name, str(value)[:5000]) for name, value in flatten(params).items()]
        for start in range(0, len(texts), 100):
            self.client.log_batch(run_id, params=texts[start : start + 100])

    def metrics(self, run_id: str, values: dict[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        # A run's page has a section for every prefix, in the alphabet's order: curves come before final numbers.
        named = {name if "/" in name else f"curves/{name}": value for name, value in values.items()}
        batch = [Metric(name, float(value), now, step) for name, value in named.items() if value is not None]
        for start in range(0, len(batch), 1000):
            self.client.log_batch(run_id, metrics=batch[start : start + 1000])

    def finish(self, record: Record, files: Iterable[Path], live: bool) -> bool:
        """Have one whole run of the record; False when there was one. `live`: its curves were written as it trained.

        Otherwise whatever there is of it is replaced, so that no point of a curve stands there twice.
        """
        key = record["key"]
        with self.lock:
            found = self.find(key)
            if len(found) == 1 and shows(found[0], record):
                self.runs[key] = found[0].info.run_id
                self._note(key, finished_of(record))
                return False
            live = live and key in self.begun and self.runs[key] in [run.info.run_id for run in found]
            self._delete(run.info.run_id for run in found if not live or run.info.run_id != self.runs[key])
            if not live:
                self._begin(key, run_name(record), tags_of(record), record["settings"])
            self._complete(self.runs[key], record, files, live)
        self._note(key, finished_of(record))
        return True

    def _complete(self, run_id: str, record: Record, files: Iterable[Path], live: bool) -> None:
        curves = record.get("curves") or {}
        length = max((len(values) for values in curves.values()), default=0)
        for step in range(0 if live else length):
            self.metrics(run_id, {k: v[step] for k, v in curves.items() if step < len(v)}, step + 1)
        numbers = {**record["scores"], **flatten(record.get("profile") or {}), **flatten(record.get("cost") or {})}
        self.metrics(run_id, {f"final/{k}": v for k, v in numbers.items() if isinstance(v, int | float)}, length)
        self.client.log_text(run_id, json.dumps(record, indent=1), "record.json")
        for path in files:
            if path.is_file():
                self.client.log_artifact(run_id, str(path))
        tags = {"mlflow.note.content": description(record), FINISHED: finished_of(record), COMPLETE: "yes"}
        for name, value in {**tags_of(record), **tags}.items():
            self.client.set_tag(run_id, name, value)
        self.client.set_terminated(run_id, "FINISHED" if record["status"] in ("done", "skipped") else "FAILED")

    def summary(self, suite: str, files: Iterable[Path], note: str) -> None:
        """One run that holds the leaderboard."""
        run_id = self.open(f"summary:{suite}", "leaderboard", {"kdbench.summary": suite}, {})
        self.client.set_tag(run_id, "mlflow.note.content", note)
        for path in files:
            if path.is_file():
                self.client.log_artifact(run_id, str(path))
        self.client.set_terminated(run_id)


def completed_runs(client: Any, suite: str) -> list[str]:
    """Ids of the whole runs of a suite's experiment."""
    experiment = client.get_experiment_by_name(suite)
    found: list[str] = []
    token: str | None = None
    while experiment is not None:
        page = client.search_runs([experiment.experiment_id], f"tags.`{COMPLETE}` = 'yes'", page_token=token)
        found += [run.info.run_id for run in page]
        token = page.token
        if not token:
            break
    return found


def download_record(client: Any, run_id: str, folder: Path) -> bytes:
    """The file of the record that a run holds; it is put into a folder of the run's own below `folder`."""
    place = folder / run_id
    place.mkdir()
    return Path(client.download_artifacts(run_id, "record.json", str(place))).read_bytes()


def make_database(uri: str) -> None:
    """Make a fresh SQLite store aside and rename it: a half-made one would never be mended by MLflow."""
    path = Path(uri.removeprefix("sqlite:///"))
    if not uri.startswith("sqlite:///") or path.exists():
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.new")
    aside.unlink(missing_ok=True)
    store = SqlAlchemyStore(f"sqlite:///{aside}", Layout(path.parent).mlflow_artifacts.resolve().as_uri())
    store.engine.dispose()
    aside.rename(path)


def follow_move(uri: str, layout: Layout) -> None:
    """MLflow keeps whole paths of its artifacts; where the results folder was moved or copied, they become those here.

    Else it would write into the old place, and no longer find what was moved. Only for the results folder's own store.
    """
    path, here = layout.mlflow_database.resolve(), layout.mlflow_artifacts.resolve().as_uri()
    if uri != f"sqlite:///{path}" or not path.is_file():
        return
    with closing(sqlite3.connect(path)) as store, store:
        places = store.execute("SELECT name, artifact_location FROM experiments").fetchall()
        for name, place in places:
            root = str(place).removesuffix(f"/{quote(name)}")
            if root != here and root != place and root.endswith(f"/{layout.mlflow_artifacts.name}"):
                for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
                    moved = f"? || substr({column}, {len(root) + 1}) WHERE substr({column}, 1, {len(root) + 1}) = ?"
                    store.execute(f"UPDATE {table} SET {column} = {moved}", (here, f"{root}/"))


def shows(run: Any, record: Record) -> bool:
    """Is `run` whole, and of this record rather than of an earlier attempt at the cell?"""
    tags = run.data.tags
    return tags.get(COMPLETE) == "yes" and tags.get(FINISHED, finished_of(record)) == finished_of(record)


def finished_of(record: Record) -> str:
    return f"{record['status']} {record.get('finished', '')}"


def run_name(record: Record) -> str:
    """What tells it apart comes first: a list's column shows the beginning alone."""
    return f"{record['label']} · seed {record['seed']} · {record['teacher']} -> {record['student']}"


def dataset_input(tags: dict[str, str], settings: dict[str, Any]) -> Any:
    """What MLflow's list shows in its column `Dataset`; None for a run that is of no data set."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    name, about = tags.get("kdbench.dataset"), settings.get("dataset") or {}
    if not name:
        return None
    digest = str(settings.get("data") or fingerprint({"dataset": about, "name": name}))[:36]
    where = Path(str(about.get("path", ""))).name  # a folder of one's own: which of them
    made = Dataset(name=f"{name} {where}".strip(), digest=digest, source_type="kdbench", source=json.dumps(about))
    return DatasetInput(dataset=made, tags=[InputTag("mlflow.data.context", "training and test")])


def description(record: Record) -> str:
    """The run's description, Markdown: how it went, and what makes use of it."""
    key, metric = record["key"], metric_of(record)
    if record["status"] != "done" or record["scores"].get(metric.test) is None:
        return f"{record['status']}: {inert(record.get('reason') or '')}"
    return (
        f"{metric.says(record)} on {inert(record['dataset'])} after the last epoch.\n\n"
        f'Its student, ready to use: `kdbench.load_student("{key}")`; as a file: `kdbench export {key} --format onnx`'
    )


def tags_of(record: Record) -> dict[str, str]:
    names = ("suite", "dataset", "teacher", "student", "label", "seed", "status", "reason")
    tags = {f"kdbench.{name}": str(record.get(name, ""))[:5000] for name in names}
    row = f"{record['label']} · {record['dataset']} · {record['teacher']} -> {record['student']}"
    tags["row"] = row[:5000]  # `Group by: row` gathers the seeds of an objective, with their mean
    return {**tags, "mlflow.source.name": f"suite {record['suite']}", "mlflow.source.type": "LOCAL"}


def flatten(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}"""
    flat: dict[str, Any] = {}
    for name, value in data.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
