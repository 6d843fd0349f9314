"""What all tests share: a tiny suite that trains in seconds, and a way to run commands in this process."""

import math
import os
import sqlite3
import sys
import tempfile

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # processes that tests start import in half the time with byte code
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # one process a core: more threads would wait for each other
os.environ.pop("MLFLOW_TRACKING_URI", None)
if "PYTEST_XDIST_WORKER" not in os.environ:  # proofs are made anew, and once for all tests: in all of xdist's processes
    os.environ["KDBENCH_CACHE"] = tempfile.mkdtemp(prefix="kdbench-")

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from kdbench.data import DATASETS, Split, Splits, load_splits
from kdbench.layout import Layout
from kdbench.method.contract import Batch
from kdbench.method.register import METHODS
from kdbench.method.transform import TRANSFORMS
from kdbench.nets import NETS
from kdbench.results.mlflow_runs import make_database
from kdbench.suite.plugins import load_methods

TEACHER: dict[str, Any] = {"model": "cifar_resnet14", "widths": [4, 4, 8, 8]}
STUDENT: dict[str, Any] = {"model": "cifar_resnet8", "widths": [2, 2, 4, 4]}
TINY: dict[str, Any] = {
    "name": "tiny",
    "datasets": ["digits"],
    "pairs": [{"teacher": TEACHER, "student": STUDENT}],
    "methods": {"student": {"ce": 1}, "kd": {"ce": 0.1, "kd": {"weight": 0.9, "temperature": 4}}},
    "seeds": [0],
    "train": {"epochs": 2, "batch_size": 256, "lr": 0.05, "augment": "crop"},
}


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """A process a core, but none for a few files: they start for seconds."""
    if len(config.args) < 4 and all(".py" in name for name in config.args):
        config.option.dist = "no"
        return 0
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 4)


def batches_of(
    split: Split, batch_size: int, augment: str = "none", seed: int = 0, number: int = 0, views: Sequence[str] = ()
) -> list[Batch]:
    """The batches of epoch `number`."""
    how = SimpleNamespace(batch_size=batch_size, augment=augment)
    return list(split.epoch(how, seed, number, views=views))


def few_digits(nowhere: Path) -> Splits:
    """500 + 200 pictures of 8 x 8."""
    whole = load_splits("digits", {"size": 8}, nowhere)
    return Splits(whole.train[torch.arange(500)], whole.test[torch.arange(200)], 10)


@pytest.fixture(scope="session", autouse=True)
def _methods() -> None:
    load_methods()


@pytest.fixture(autouse=True)
def _registries(_methods: None) -> Iterator[None]:
    """What a test registers is gone after it: tests over all methods must not see another test's plugin."""
    before = [(registry, dict(registry.entries)) for registry in (METHODS, DATASETS, NETS, TRANSFORMS)]
    yield
    for registry, entries in before:
        registry.entries.clear()
        registry.entries.update(entries)
    for name in [name for name in sys.modules if name.startswith("kdbench_plugin_")]:
        del sys.modules[name]  # else it would count as loaded


THREADS = min(2, torch.get_num_threads())  # one where OMP_NUM_THREADS or the cores say so: as in a child process


@pytest.fixture(autouse=True)
def _two_threads() -> None:
    torch.set_num_threads(THREADS)


@pytest.fixture(autouse=True)
def _one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command trains in this process unless `--jobs` says otherwise: starting others takes seconds."""
    monkeypatch.setattr("kdbench.grid.shares.fitting", lambda plan, cores: 1)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is one, no test downloads GLUE to tell its texts from others."""
    monkeypatch.setattr("kdbench.text.glue.within_reach", lambda: False)


@pytest.fixture
def one_thread(_two_threads: None) -> None:
    """For steps of milliseconds: beside a busy neighbour a second thread costs more than it gives."""
    torch.set_num_threads(1)


@pytest.fixture
def suite_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes the tiny suite with changes at the top level: `suite_file(seeds=[0, 1])`."""

    def write(name: str = "suite.yaml", **changes: Any) -> Path:
        path = tmp_path / name
        path.write_text(yaml.safe_dump({**TINY, **changes}, sort_keys=False))
        return path

    return write


def without_measures(patch: pytest.MonkeyPatch) -> None:
    """What most tests are not about: latency, a file's memory (a process each time), plots, MLflow's migrations."""
    patch.setattr("kdbench.grid.outcome.Measure.profile_seconds", 0.0)
    patch.setattr("kdbench.train.delivery.peak_memory", lambda *a: math.nan)
    patch.setattr("kdbench.report.plots.write_plots", lambda *a: [])
    patch.setattr("kdbench.results.mlflow_runs.make_database", copied_database)


def copied_database(uri: str) -> None:
    """What `make_database` leaves, for which MLflow takes a second: a copy of the first, told its own place."""
    path = Path(uri.removeprefix("sqlite:///"))
    if not uri.startswith("sqlite:///") or path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(empty_database())
    place = Layout(path.parent).mlflow_artifacts.resolve().as_uri()
    with closing(sqlite3.connect(path)) as store, store:
        store.execute("UPDATE experiments SET artifact_location = ?", (f"{place}/0",))


@cache
def empty_database() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        make_database(f"sqlite:///{folder}/mlflow.db")
        return Path(folder, "mlflow.db").read_bytes()


@pytest.fixture
def quick_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    without_measures(monkeypatch)


@pytest.fixture
def kdbench(tmp_path: Path, quick_profile: None, capfd: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Runs a command in this process: `kdbench("run", path)` -> (exit code, stdout, stderr)."""
    from kdbench.cli import main

    def call(*arguments: object, results: Path = tmp_path / "results") -> tuple[int, str, str]:
        words = [str(word) for word in arguments]
        if words[0] != "schema":
            words += ["--results", str(results)]
        if words[0] not in ("schema", "list", "ui", "clean", "doctor", "leaderboard", "sync"):
            words += ["--device", "cpu"]
        capfd.readouterr()
        try:
            code = main(words)
        except SystemExit as stop:  # argparse
            code = int(stop.code or 0)
        out, err = capfd.readouterr()
        return code, out, err

    return call
