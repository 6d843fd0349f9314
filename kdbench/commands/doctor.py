"""`kdbench doctor`: what this machine has, what is wrong with it, and how to mend that."""

import argparse
import contextlib
import os
import platform
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

import psutil
import torch

from kdbench.commands.given import options_of
from kdbench.data import DATASETS
from kdbench.errors import UserError
from kdbench.layout import Layout
from kdbench.locks import attempt, is_held, owner_of
from kdbench.method.register import METHODS
from kdbench.plain import several
from kdbench.results.checkpoints import SUFFIX
from kdbench.results.provenance import device_name, installed, kind_of, onednn
from kdbench.results.records import Records
from kdbench.suite.plugins import load_methods
from kdbench.train.arithmetic import NONE, RIGHT, in_words, operation_of, slow_precision, verdicts

ROOM = 5.0  # GiB below which a disk is called nearly full

Finding = tuple[str, str]  # "ok", "--" (not there, nothing wrong) or "!!" (to be mended), and a line


def run(given: argparse.Namespace) -> int:
    load_methods()
    options = options_of(given)
    return examine(options.data, options.results, options.uri)


def findings(data: Path, results: Path, uri: str) -> Iterator[Finding]:
    """One line after another, each as soon as it is known."""
    yield from machine()
    yield from folder_of_results(results)
    yield from store(uri)
    yield from data_sets(data)
    yield from suites(results)


def machine() -> Iterator[Finding]:
    yield "ok", f"Python {platform.python_version()}, " + ", ".join(f"{n} {v}" for n, v in installed().items())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = psutil.virtual_memory()
    room = f"{_gib(memory.available)} of {_gib(memory.total)} free"
    yield "ok", f"{several(cores, 'core')}, {several(torch.get_num_threads(), 'thread')}; {room}"
    if torch.get_num_threads() > cores:
        yield "!!", f"more threads than cores make each step wait: set OMP_NUM_THREADS={cores}"
    if torch.cuda.is_available():
        for place in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(place)
            yield "ok", f"GPU {place}: {torch.cuda.get_device_name(place)}, {_gib(free)} of {_gib(total)} free"
    else:
        yield "--", "no GPU that torch can use: everything runs on the CPU"
    yield from arithmetic()
    yield "ok", f"{len(list(METHODS))} methods, {len(list(DATASETS))} data sets"


def arithmetic() -> Iterator[Finding]:
    """Is the operation right that is known to be wrong on some processors, and what else was found out here?"""
    cpu, known = torch.device("cpu"), verdicts()
    layer = torch.nn.Conv2d(4, 8, 1, stride=2, bias=False).to(memory_format=torch.channels_last)
    known.prove([operation_of(layer, torch.ones(1, 4, 8, 8).to(memory_format=torch.channels_last))])
    yield "ok", f"CPU: {device_name(cpu)}, {kind_of(cpu)}; oneDNN {onednn()}; {len(known.known)} operations proven"
    for name, verdict in known.known.items():
        if verdict["way"] != RIGHT:
            yield "!!" if verdict["way"] == NONE else "--", in_words(name, verdict)
    if slow := slow_precision(cpu, ["bf16"]):
        yield "--", slow


def folder_of_results(results: Path) -> Iterator[Finding]:
    """Can be written, has room, has locks."""
    try:
        results.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=results) as probe:
            probe.write(b"x")
    except OSError as error:
        yield "!!", f"{results} can't be written ({error.strerror}): choose another folder with --results"
        return
    free = shutil.disk_usage(results).free
    kind, advice = ("ok", "") if free > ROOM * 2**30 else ("!!", ": make room, or choose another --results folder")
    yield kind, f"{results}: {_gib(free)} free{advice}"
    if trouble := lock_trouble(results):
        yield "!!", f"{results}: {trouble}: run one process at a time there, or choose another folder"


def lock_trouble(folder: Path) -> str | None:
    path = folder / ".doctor.lock"
    try:
        with attempt(path) as mine:
            return "file locks do not work" if not mine or not is_held(path) else None
    except (UserError, OSError) as error:
        return str(error)
    finally:
        path.unlink(missing_ok=True)


def store(uri: str) -> Iterator[Finding]:
    """Is there an MLflow store, and is it whole?"""
    if uri.startswith("sqlite:///"):
        path = Path(uri.removeprefix("sqlite:///"))
        yield database(path, uri) if path.exists() else ("--", f"MLflow: {uri}, made by the first run")
        return
    if urlsplit(uri).scheme not in ("http", "https") or not urlsplit(uri).hostname:
        yield "!!", f"MLflow: {uri} is no store: give sqlite:///FILE or http://HOST:PORT"
        return
    advice = "start it, or leave it: runs go on without it, and `kdbench sync SUITE` completes it later"
    try:
        with urlopen(f"{uri.rstrip('/')}/health", timeout=3):
            yield "ok", f"MLflow: a server answers at {uri}"
    except HTTPError as error:
        yield "ok" if error.code < 500 else "!!", f"MLflow: a server answers at {uri} ({error.code} {error.reason})"
    except (OSError, HTTPException, ValueError) as error:
        yield "!!", f"MLflow: no server answers at {uri} ({str(error) or type(error).__name__}): {advice}"


def database(path: Path, uri: str) -> Finding:
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=3)) as connection:
            connection.execute("select count(*) from runs").fetchone()
        return "ok", f"MLflow: {uri}"
    except sqlite3.Error as error:
        return "!!", f"MLflow: {path} can't be read ({error}): move it away; `kdbench sync SUITE` makes it again"


def data_sets(data: Path) -> Iterator[Finding]:
    """Which of the known data sets are in the data folder."""
    places = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python", "fashion_mnist": "FashionMNIST/raw"}
    for name, place in places.items():
        there = (data / place).is_dir()
        yield ("ok", f"{name}: {data / place}") if there else ("--", f"{name}: not in {data} (needs {place}/)")


def suites(results: Path) -> Iterator[Finding]:
    """Suites with unfinished work or damaged records."""
    for folder in Layout(results).suites():
        records = Records(results, folder.name)
        done = len(records.read_all())
        waiting = len({path.name.split(".")[0] for path in folder.checkpoints.glob(f"*{SUFFIX}")})
        more = f", {several(waiting, 'cell')} to go on with (run the same command)" if waiting else ""
        yield "ok", f"{folder.name}: {several(done, 'record')}{more}"
        for path in sorted(folder.locks.glob("*.owner")):
            if is_held(path.with_suffix(".lock")):
                yield "ok", f"{folder.name}: a cohort is being trained by {owner_of(path)}"
        for line in records.damaged:
            yield "!!", f"{line}; the next run does it again"


def examine(data: Path, results: Path, uri: str, say: Callable[[str], None] = print) -> int:
    """Say all findings; returns 0, or 1 when something is to be mended."""
    bad = 0
    for kind, line in findings(data, results, uri):
        say(f"{kind}  {line}")
        bad += kind == "!!"
    say(f"{bad} to be mended (lines with !!)" if bad else "all is well")
    return int(bad > 0)


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
