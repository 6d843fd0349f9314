"""`kdbench doctor`: what this machine has, what is wrong with it, and how to mend that."""

import contextlib
import os
import platform
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import torch
from filelock import FileLock, Timeout

from kdbench.checkpoint import SUFFIX
from kdbench.records import Records
from kdbench.registry import DATASETS, METHODS
from kdbench.versions import installed

ROOM = 5.0  # GiB below which a disk is called nearly full

Finding = tuple[str, str]  # "ok", "--" (not there, nothing wrong) or "!!" (to be mended), and a line


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
    yield "ok", f"{cores} cores, {torch.get_num_threads()} threads; {room}"
    if torch.get_num_threads() > cores:
        yield "!!", f"more threads than cores make each step wait: set OMP_NUM_THREADS={cores}"
    if torch.cuda.is_available():
        for place in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(place)
            yield "ok", f"GPU {place}: {torch.cuda.get_device_name(place)}, {_gib(free)} of {_gib(total)} free"
    else:
        yield "--", "no GPU that torch can use: everything runs on the CPU"
    yield "ok", f"{len(list(METHODS))} methods, {len(list(DATASETS))} data sets"


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
    if not _has_locks(results):
        yield "!!", f"{results} has no working file locks: run one process at a time there, or choose another folder"


def _has_locks(folder: Path) -> bool:
    path = folder / ".doctor.lock"
    try:
        with FileLock(path, is_singleton=False), contextlib.suppress(Timeout):
            FileLock(path, is_singleton=False).acquire(timeout=0)
            return False
        return True
    except (NotImplementedError, OSError):
        return False
    finally:
        path.unlink(missing_ok=True)


def store(uri: str) -> Iterator[Finding]:
    """Is there an MLflow store?"""
    if uri.startswith("sqlite:///"):
        path = Path(uri.removeprefix("sqlite:///"))
        yield ("ok", f"MLflow: {uri}") if path.exists() else ("--", f"MLflow: {uri}, made by the first run")
        return
    place = urlsplit(uri)
    if not place.hostname:
        yield "!!", f"MLflow: {uri} is no store: give sqlite:///FILE or http://HOST:PORT"
        return
    try:
        port = place.port or (443 if place.scheme == "https" else 80)
        socket.create_connection((place.hostname, port), timeout=3).close()
        yield "ok", f"MLflow: a server answers at {uri}"
    except OSError as error:
        advice = "runs go on without it; `kdbench sync SUITE` completes it later"
        yield "!!", f"MLflow: nothing answers at {uri} ({error}): start it, or leave it ({advice})"


def data_sets(data: Path) -> Iterator[Finding]:
    """Which of the known data sets are in the data folder."""
    places = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python", "fashion_mnist": "FashionMNIST/raw"}
    for name, place in places.items():
        there = (data / place).is_dir()
        yield ("ok", f"{name}: {data / place}") if there else ("--", f"{name}: not in {data} (needs {place}/)")


def suites(results: Path) -> Iterator[Finding]:
    """Suites with unfinished work or damaged records."""
    for folder in sorted(path.parent for path in results.glob("*/records")):
        records = Records(results, folder.name)
        done = len(records.read_all())
        waiting = len({path.name.split(".")[0] for path in (folder / "checkpoints").glob(f"*{SUFFIX}")})
        more = f", {waiting} cells to go on with (run the same command)" if waiting else ""
        yield "ok", f"{folder.name}: {done} records{more}"
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
