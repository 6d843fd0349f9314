"""Several processes that train one cohort after another together, each with a part of every batch (`train/devices.py`).

The first is the run itself, with bar, records and MLflow; the others follow: `python -m kdbench.grid.follower`, started
here (`--devices N`), or the same command started by `torchrun`, which sets RANK, WORLD_SIZE and LOCAL_RANK.
"""

import os
import pickle
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
import torch.distributed as dist

from kdbench.errors import UserError
from kdbench.grid.cohort import Place
from kdbench.grid.events import Events, Stop
from kdbench.grid.executors import Here, Job, Queue
from kdbench.grid.processes import ended
from kdbench.suite.cells import Cell
from kdbench.train.devices import LOST, WAIT, Devices

BY_TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Together(Here):
    """This process and those that follow it, `size` in all. Raises UserError where there are not so many devices."""

    group: Devices

    def __init__(self, size: int, device: torch.device, threads: int) -> None:
        if device.type == "cuda" and device.index is not None:
            raise UserError(f"--devices {size} takes the first {size} GPUs; leave --device {device} out")
        if device.type == "cuda" and size > torch.cuda.device_count() and not by_torchrun():
            raise UserError(f"--devices {size}: this machine has {torch.cuda.device_count()} GPUs")
        self.size, self.device, self.threads = size, device, threads
        self.about = f"by {size} processes together, each with a part of every batch"

    def run(self, queue: Queue, events: Events, stop: Stop) -> None:
        for parts in {cell.train.norm_parts for job in queue.jobs for cell in job.cells} - {None}:
            if parts and parts % self.size:
                raise UserError(f"norm_parts: {parts} parts of a batch can't lie on {self.size} devices alike")
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads or before)
        try:
            with joined(self.device) if by_torchrun() else started(self) as self.group:
                self.group.say = events.say
                super().run(queue, events, stop)
        finally:
            torch.set_num_threads(before)

    def place_of(self, job: Job) -> Place:
        return replace(job.place, device=str(self.group.device))

    def cells_of(self, queue: Queue, job: Job) -> Sequence[Cell]:
        cells = queue.open_cells(job)
        if cells:
            self.group.share(lambda: pickle.dumps(replace(job, cells=tuple(cells))))
        return cells


@contextmanager
def started(all_of: Together) -> Iterator[Devices]:
    """This process as the first of several on this machine. Whoever dies takes all with it.

    They find each other by a file, and talk over the loopback interface alone.
    """
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ.setdefault(name, "lo" if sys.platform == "linux" else "lo0")
    size = all_of.size
    with tempfile.TemporaryDirectory(prefix="kdbench-") as folder:
        store = str(Path(folder) / "store")
        followers = [follower(rank, store, all_of) for rank in range(1, size)]
        group = Devices(0, size, dist.FileStore(store, size), place_of(all_of.device, 0))
        try:
            for rank, process in enumerate(followers, 1):
                threading.Thread(target=watch, args=(group, rank, process), daemon=True).start()
            yield group
            group.share(lambda: None)  # there is no other job
        finally:
            group.over = True
            for process in followers:
                assert process.stdin is not None
                with suppress(OSError):
                    process.stdin.close()  # the sign to end, for one that waits
                process.wait()
            group.close()


def follower(rank: int, store: str, all_of: Together) -> "subprocess.Popen[bytes]":
    words = [str(word) for word in (rank, all_of.size, store, place_of(all_of.device, rank), all_of.threads)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(all_of.threads)}
    command = [sys.executable, "-m", "kdbench.grid.follower", *words]
    return subprocess.Popen(command, stdin=subprocess.PIPE, env=environment)


def watch(group: Devices, rank: int, process: "subprocess.Popen[bytes]") -> None:
    """Collectives of GPUs may wait for a dead process for ever: so its end is looked for."""
    process.wait()
    if not group.over and process.returncode not in (0, LOST):
        group.leave(f"process {rank} of the {group.size} that train together {ended(process)}", 1)


def place_of(device: torch.device, rank: int) -> torch.device:
    """Where process `rank` of a machine trains."""
    return torch.device("cuda", rank) if device.type == "cuda" else device


def by_torchrun() -> bool:
    """Was this process started by torchrun, or by another launcher that says so alike?"""
    return all(name in os.environ for name in BY_TORCHRUN) and int(os.environ["WORLD_SIZE"]) > 1


@contextmanager
def joined(device: torch.device) -> Iterator[Devices]:
    """This process as one of those that torchrun started."""
    yield _joined(device)


@cache
def _joined(device: torch.device) -> Devices:
    rank, size, local = (int(os.environ.get(name, 0)) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    store, _, _ = next(dist.rendezvous("env://", rank, size, timeout=WAIT))
    return Devices(rank, size, store, place_of(device, local))
