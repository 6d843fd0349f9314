"""MLflow shows what the records say, each cell once, whatever happened to the server or to a run."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import mlflow
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from kdbench.grid.recorder import Recorder
from kdbench.results.mlflow_runs import MlflowRuns, dataset_input, make_database
from kdbench.results.mlflow_thread import addresses_of, behind

RECORD = {
    "key": "k", "suite": "s", "dataset": "d", "teacher": "t", "student": "u", "label": "kd", "seed": 0,
    "status": "done", "reason": "", "scores": {"test_top1": 90.0}, "settings": {"a": {"b": 1}},
    "curves": {"test_top1": [70.0, 80.0, 90.0]}, "finished": "2026-01-01T00:00:00Z",
}  # fmt: skip


def curve(client, run):
    """The test accuracy of every epoch, as the store has it."""
    [name] = [name for name in run.data.metrics if name.split("/")[-1] == "test_top1" and not name.startswith("final")]
    points = client.get_metric_history(run.info.run_id, name)
    return [(point.step, point.value) for point in sorted(points, key=lambda point: point.step)]


# --- one run for each cell ---


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory):
    """An empty database, made once: that takes seconds."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    make_database(f"sqlite:///{path}")
    return path


@pytest.fixture
def mirror(empty_store, tmp_path):
    """Makes one mirror after another of the same store, as one process after another would."""
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    return lambda: MlflowRuns("s", tmp_path, f"sqlite:///{tmp_path / 'mlflow.db'}")


def test_a_record_is_shown_once(mirror, tmp_path):
    one = mirror()
    assert one.fresh
    assert one.finish(RECORD, [], live=False)
    other = mirror()
    assert not other.fresh
    assert not other.finish(RECORD, [], live=False)
    [run] = other.find("k")
    assert curve(other.client, run) == [(1, 70.0), (2, 80.0), (3, 90.0)]
    assert behind(tmp_path / "s", [RECORD]) == []
    assert run.info.run_id in addresses_of(tmp_path / "s")["k"]


def test_a_list_of_runs_can_be_read(mirror):
    """Names begin with what tells them apart; the data set is an input; a tag gathers the seeds of a row."""
    one, seeds = mirror(), range(3)
    for seed in seeds:
        one.finish({**RECORD, "key": f"k{seed}", "seed": seed}, [], live=False)
    runs = one.client.search_runs([one.experiment], order_by=["tags.`kdbench.seed`"])
    assert [run.info.run_name for run in runs] == [f"kd · seed {seed} · t -> u" for seed in seeds]
    assert {run.data.tags["row"] for run in runs} == {"kd · d · t -> u"}
    for run in runs:
        [data] = run.inputs.dataset_inputs
        assert data.dataset.name == "d"
        assert 0 < len(data.dataset.digest) <= 36


def test_what_a_dead_process_began_is_replaced(mirror):
    """It had mirrored two epochs; the one that goes on from a checkpoint mirrors the second again."""
    for epochs in ((1, 2), (2, 3)):
        process = mirror()
        for epoch in epochs:
            run = process.open("k", "name", {}, {})
            process.metrics(run, {"test_top1": RECORD["curves"]["test_top1"][epoch - 1]}, epoch)
    process.finish(RECORD, [], live=True)
    [run] = process.find("k")
    assert curve(process.client, run) == [(1, 70.0), (2, 80.0), (3, 90.0)]


def test_a_later_attempt_replaces_the_failed_one(mirror, tmp_path):
    failed = {**RECORD, "status": "failed", "reason": "no memory", "scores": {}, "curves": {}}
    later = {**RECORD, "finished": "2026-01-02T00:00:00Z"}
    mirror().finish(failed, [], live=False)
    assert behind(tmp_path / "s", [later]) == [later]
    process = mirror()
    process.finish(later, [], live=False)
    [run] = process.find("k")
    assert run.data.tags["kdbench.status"] == "done"
    assert run.data.metrics["final/test_top1"] == 90.0


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=100))
@example(content=b'["k", "addr["k", "address", "done 2026"]\n')  # a line that was cut off, and one behind it
@example(content=b'["k", []]\n{}\n[[[["]\n')
def test_any_bytes_as_the_journal(tmp_path, content):
    (tmp_path / "mlflow.jsonl").write_bytes(content + b'\n["k", "address", "done 2026-01-01T00:00:00Z"]\n')
    assert addresses_of(tmp_path)["k"] == "address"
    assert behind(tmp_path, [RECORD]) == []


# --- a run whose server comes and goes ---


class Server:
    """`mlflow server` on a port of this machine, which may be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self.uri, self.log = f"http://127.0.0.1:{self.port}", (folder / "server.log").open("w")
        store = f"sqlite:///{folder / 'mlflow.db'}"
        self.command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store, "--workers", "1"]
        self.command += ["--artifacts-destination", str(folder / "artifacts"), "--port", str(self.port)]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "PYTHONWARNINGS": "ignore"}
        self.process = subprocess.Popen(
            self.command, env=environment, stdout=self.log, stderr=self.log, start_new_session=True
        )

    def stop(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def wait(self) -> None:
        end = time.monotonic() + 90
        while time.monotonic() < end:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=1):
                    return
            except OSError:
                time.sleep(0.1)
        raise TimeoutError(Path(self.log.name).read_text(encoding="utf-8"))


@pytest.fixture
def server(empty_store, tmp_path):
    folder = tmp_path / "server"
    folder.mkdir()
    (folder / "mlflow.db").write_bytes(empty_store.read_bytes())
    made = Server(folder)
    made.start()
    made.wait()
    yield made
    made.stop()
    made.log.close()


@pytest.mark.long
def test_a_server_that_is_stopped_and_started_during_a_run(kdbench, suite_file, tmp_path, server, monkeypatch):
    """It dies before the first of four cells is finished and comes back before the last: nothing is lost or doubled."""
    monkeypatch.setattr("kdbench.results.mlflow_thread.RETRY", 0.5)
    finish, finished = Recorder.finished, []

    def finish_without_server(self, record, student):
        if not finished:
            time.sleep(1)  # the first epochs were mirrored
            server.stop()
        finish(self, record, student)
        finished.append(record["key"])
        if len(finished) == 3:
            server.start()
            server.wait()

    monkeypatch.setattr(Recorder, "finished", finish_without_server)
    suite = suite_file(seeds=[0, 1])
    code, _, err = kdbench("run", suite, "--tracking-uri", server.uri)
    assert code == 0
    assert "can't be written" in err
    assert "lags behind" not in err  # it was told at the end
    records = [json.loads(p.read_bytes()) for p in (tmp_path / "results" / "tiny" / "records").glob("*.json")]
    assert len(records) == 4
    assert_shown(server.uri, records)
    assert "4 cells, 0 written, 4 were there" in kdbench("sync", suite, "--tracking-uri", server.uri)[1]
    assert_shown(server.uri, records)


def assert_shown(uri, records):
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    runs = list(client.search_runs([experiment.experiment_id]))
    keys = [run.data.tags["kdbench.key"] for run in runs]
    assert sorted(keys) == sorted([record["key"] for record in records] + ["summary:tiny"])
    for record in records:
        run = runs[keys.index(record["key"])]
        assert curve(client, run) == list(enumerate(record["curves"]["test_top1"], 1))
        assert run.data.metrics["final/test_top1"] == record["scores"]["test_top1"]
        assert run.data.tags["kdbench.complete"] == "yes"


def test_a_folder_of_ones_own_is_told_by_its_name():
    tags, about = {"kdbench.dataset": "folder"}, {"name": "folder", "path": "/data/my photos", "size": 64}
    assert dataset_input(tags, {"dataset": about}).dataset.name == "folder my photos"
